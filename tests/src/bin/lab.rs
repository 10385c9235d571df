//! `lab`: a real Kubernetes cluster of three zones on this machine, with a DNS tier in it.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use dnstier_tests::lab::{self, Build, KubeProxyMode, Lab, Options, Programs, Progress, Shape};

/// A real Kubernetes cluster of three zones on this machine, with a DNS tier in it.
#[derive(Parser)]
#[command(disable_help_subcommand = true)]
struct Args {
    /// Name of the lab; labs of different names run side by side
    #[arg(long, global = true, default_value = "demo")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring the lab up; update what has changed in one that runs
    Up {
        /// Two nodes a zone instead of one
        #[arg(long)]
        pairs: bool,
        /// Only the cluster and its small internet, without DnsTier in it
        #[arg(long)]
        bare: bool,
        /// Mode of kube-proxy on all nodes [default: nftables, in zone-c iptables]
        #[arg(long, value_name = "MODE")]
        kube_proxy: Option<KubeProxyMode>,
    },
    /// Remove the lab without a trace
    Down,
    /// Show processes, images, nodes and pods
    Status,
    /// Run kubectl as the cluster's administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Arguments of kubectl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run Helm as the cluster's administrator
    #[command(disable_help_flag = true)]
    Helm {
        /// Arguments of Helm
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Open a shell in the toolbox pod of a node
    Shell {
        /// The node
        #[arg(default_value = "node-a")]
        node: String,
        /// Use the node's own network namespace instead of the pod
        #[arg(long)]
        host: bool,
        /// A command instead of a shell
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Show the log of a process; without a name, list the processes
    Logs {
        /// Such as kubelet-node-a
        process: Option<String>,
        /// Follow the log
        #[arg(long, short)]
        follow: bool,
    },
    /// Compile one of the lab's programs if it is not there yet, and print its path
    Program {
        /// Such as coredns
        program: String,
    },
    /// Build the operator's and the node cache's images as archives; needs neither a lab nor root
    Images {
        /// Optimize the programs and leave no path of this machine in them
        #[arg(long)]
        release: bool,
        /// Folder with the archives of a machine of another architecture, whose images go into the same archives
        #[arg(long, value_name = "FOLDER")]
        with: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let name = &args.name;
    match &args.action {
        Action::Up { pairs, bare, kube_proxy } => up(name, *pairs, *bare, *kube_proxy),
        Action::Down => Progress::to_stdout().step(&format!("lab {name}: remove it"), || lab::down(name)),
        Action::Status => status(name),
        Action::Kubectl { arguments } => become_command(Lab::open(name)?.kubectl_command(&words(arguments))),
        Action::Helm { arguments } => become_command(Lab::open(name)?.helm_command(&words(arguments))),
        Action::Shell { node, host, command } => shell(name, node, *host, command),
        Action::Logs { process, follow } => logs(name, process.as_deref(), *follow),
        Action::Program { program } => {
            let programs = Programs::locate()?;
            programs.build_one(program, &Progress::silent())?;
            print(&programs.argument(program))
        }
        Action::Images { release, with } => images(*release, with.clone()),
    }
}

fn up(name: &str, pairs: bool, bare: bool, kube_proxy: Option<KubeProxyMode>) -> Result<()> {
    let progress = Progress::to_stdout();
    let kube_proxy = kube_proxy.map(|mode| [mode; 3]);
    let shape = if pairs { Shape::TwoNodesPerZone } else { Shape::OneNodePerZone };
    let options = Options { shape, bare, kube_proxy, progress: progress.clone(), ..Options::new(name) };
    let started = std::time::Instant::now();
    Lab::up(&options).with_context(|| format!("lab `{name}` is not up"))?;
    let seconds = started.elapsed().as_secs();
    let program = std::env::args().next().unwrap_or_default();
    let lab = if name == "demo" { program } else { format!("{program} --name {name}") };
    let minutes = seconds / 60;
    let seconds = seconds % 60;
    progress.say(&format!("\nLab `{name}` is up after {minutes} min {seconds} s. What to do with it:"));
    for rest in ["kubectl get pods -A", "shell node-a", "status", "down"] {
        progress.say(&format!("  {lab} {rest}"));
    }
    Ok(())
}

fn status(name: &str) -> Result<()> {
    let lab = Lab::open(name)?;
    print(&format!("{:<28} {:>8} {:>10}   {}", "PROCESS", "PID", "MEMORY", "LOG"))?;
    for record in lab.processes()? {
        let pid = record.identity.pid;
        let memory = match resident(pid).filter(|_| record.identity.is_alive()) {
            Some(bytes) => format!("{} MiB", bytes >> 20),
            None => "has ended".to_owned(),
        };
        let log = lab.layout().log(&record.daemon.name);
        print(&format!("{:<28} {pid:>8} {memory:>10}   {}", record.daemon.name, log.display()))?;
    }
    print("")?;
    for (image, reference) in lab.images() {
        print(&format!("{image:<28} {reference}"))?;
    }
    for node in lab.nodes() {
        let mode = lab.node(node.name)?.kube_proxy_mode()?.flag();
        print(&format!("{:<28} {} in {}, kube-proxy with {mode}", node.name, node.ipv4(), node.zone))?;
    }
    print("")?;
    print(lab.kubectl(&["get", "nodes,pods", "--all-namespaces"])?.trim_end())?;
    if lab.kubectl(&["get", "crd", "dnstiers.dnstier.io"]).is_ok() {
        print("")?;
        print(lab.kubectl(&["get", "dnstier", "-o", "wide"])?.trim_end())?;
    }
    Ok(())
}

/// Returns the resident memory of a process in bytes.
fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? << 10)
}

fn shell(name: &str, node: &str, host: bool, command: &[String]) -> Result<()> {
    let lab = Lab::open(name)?;
    let shell = ["/bin/sh".to_owned()];
    let arguments = words(if command.is_empty() { &shell } else { command });
    become_command(if host { lab.node(node)?.command(&arguments) } else { lab.exec_command(node, &arguments)? })
}

fn logs(name: &str, process: Option<&str>, follow: bool) -> Result<()> {
    // Also for a lab that came up only in part: its logs are wanted most.
    let layout = lab::Layout::new(name)?;
    let Some(process) = process else {
        let folder = fs::read_dir(layout.file("log")).with_context(|| format!("lab `{name}` does not exist"))?;
        let mut names: Vec<String> =
            folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        return names.iter().try_for_each(|file| print(file.trim_end_matches(".log")));
    };
    let log = layout.log(process);
    fs::metadata(&log).with_context(|| format!("lab `{name}` has no process `{process}`; `lab logs` names all"))?;
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1"]).args(follow.then_some("--follow")).arg(log);
    become_command(tail)
}

fn images(release: bool, others: Option<PathBuf>) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let build = Build { others, ..Build::for_others(release, scratch.path().to_owned()) };
    let images = build.run(&Progress::to_stdout())?;
    print("")?;
    print(lab::table(&images).trim_end())
}

/// Replaces this program by another one, which keeps the terminal and gives the exit code.
fn become_command(mut command: Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot run {}", command.get_program().display()))
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

fn print_error(text: &str) {
    // An error of standard error can be reported nowhere.
    drop(writeln!(std::io::stderr(), "{text}"));
}
