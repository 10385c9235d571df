//! Promises of the lab itself, without DnsTier in it: it comes up, it leaves nothing, and labs do not touch each other.
//! Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dnstier_tests::lab::{self, KubeProxyMode, Lab, Layout, Options, STATE_ROOT};
use dnstier_tests::require;

/// Runs one test at a time: each needs the whole machine.
fn exclusive_machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Guard that removes a lab when a test ends, also one that fails in the middle.
struct RemoveOnDrop(&'static str);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Err(error) = lab::down(self.0) {
            eprintln!("lab {} stays: {error:#}", self.0);
        }
    }
}

fn bare(name: &str) -> Options {
    Options { bare: true, ..Options::new(name) }
}

fn lab_program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output().unwrap()
}

#[test]
fn a_start_killed_at_any_moment_leaves_nothing() {
    require!(require::lab());
    let _machine = exclusive_machine();
    let _removal = RemoveOnDrop("killed");
    // Packages that the first start on a machine installs stay there.
    Lab::up(&bare("killed")).unwrap();
    lab::down("killed").unwrap();
    let common = common_places();
    let mut longest = Duration::ZERO;
    for moment in [20, 300, 800, 1_500, 2_500, 4_000, 6_000, 8_000] {
        let mut up =
            Command::new(env!("CARGO_BIN_EXE_lab")).args(["--name", "killed", "up", "--bare"]).spawn().unwrap();
        sleep(Duration::from_millis(moment));
        up.kill().unwrap();
        up.wait().unwrap();
        let started = Instant::now();
        lab::down("killed").unwrap();
        longest = longest.max(started.elapsed());
        assert_eq!(traces("killed"), Vec::<String>::new(), "killed after {moment} ms");
    }
    assert_eq!(common_places(), common);
    assert!(longest < Duration::from_secs(30), "{longest:?}");
}

#[test]
fn labs_live_side_by_side_and_one_goes_without_the_other() {
    require!(require::lab());
    let _machine = exclusive_machine();
    let _one_removal = RemoveOnDrop("one");
    let _other_removal = RemoveOnDrop("other");
    let links = links();
    let common = common_places();

    let one = Lab::up(&bare("one")).unwrap();
    let other = Lab::up(&bare("other")).unwrap();
    assert_eq!(self::links(), links, "a link appeared in the machine's own network");
    for lab in [&one, &other] {
        lab.nodes().iter().for_each(|node| assert_resolves(lab, node.name));
    }

    lab::down("one").unwrap();
    assert_eq!(traces("one"), Vec::<String>::new());
    other.nodes().iter().for_each(|node| assert_resolves(&other, node.name));
    assert_eq!(common_places(), common);
}

#[test]
fn a_lab_that_runs_is_kept_and_serves_its_commands() {
    require!(require::lab());
    let _machine = exclusive_machine();
    let _removal = RemoveOnDrop("kept");
    let lab = Lab::up(&bare("kept")).unwrap();
    let processes = |lab: &Lab| lab.processes().unwrap().iter().map(|record| record.identity).collect::<Vec<_>>();

    let started = Instant::now();
    let reopened = Lab::up(&bare("kept")).unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(processes(&reopened), processes(&lab));
    let other_modes = Options { kube_proxy: Some([KubeProxyMode::Iptables; 3]), ..bare("kept") };
    let refused = Lab::up(&other_modes).unwrap_err().to_string();
    assert!(refused.contains("node-a works with nftables"), "{refused}");

    let kubectl = |arguments: &[&str]| lab_program(&[&["--name", "kept", "kubectl"], arguments].concat());
    let nodes = kubectl(&["get", "nodes", "-o", "name"]);
    assert_eq!(String::from_utf8_lossy(&nodes.stdout), "node/node-a\nnode/node-b\nnode/node-c\n");
    let pod = lab.toolbox("node-a").unwrap();
    let failed = kubectl(&["exec", "-n", "lab", &pod, "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7), "{failed:?}");
    let shell = lab_program(&["--name", "kept", "shell", "node-b", "--", "hostname"]);
    assert_eq!(String::from_utf8_lossy(&shell.stdout).trim(), lab.toolbox("node-b").unwrap());

    a_stopped_kubelet_starts_again(&lab);
    a_container_is_found_by_its_pod(&lab, &pod);
    a_silent_provider_speaks_again(&lab);
    a_dead_process_is_seen(&lab);
}

fn a_stopped_kubelet_starts_again(lab: &Lab) {
    let node = lab.node("node-b").unwrap();
    let kubelet =
        || lab.processes().unwrap().into_iter().find(|record| record.daemon.name == "kubelet-node-b").unwrap();
    let before = kubelet().identity;
    node.stop_kubelet().unwrap();
    assert!(!before.is_alive());
    assert_resolves(lab, "node-b");
    node.start_kubelet().unwrap();
    assert!(kubelet().identity.is_alive());
}

fn a_container_is_found_by_its_pod(lab: &Lab, pod: &str) {
    let node = lab.node("node-a").unwrap();
    let uid = lab.kubectl(&["get", "pod", "-n", "lab", pod, "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let found = node.pid_of_container(&uid, "toolbox").unwrap();
    assert!(found.contains(&node.toolbox_pid().unwrap()), "{found:?}");
    let pod_processes = node.pids_of_pod(&uid);
    assert_eq!(pod_processes.len(), found.len() + 1, "the pod's pause process is missing in {pod_processes:?}");
    assert!(node.pid_of_container(&uid, "nobody").is_err());
    assert!(node.kill(std::process::id(), lab::Signal::KILL).is_err(), "this test is no process of the node");
}

fn a_silent_provider_speaks_again(lab: &Lab) {
    let ask =
        |name: &str| lab.exec("node-c", &["ask", name, "--server", lab::PROVIDER, "--tries", "1", "--timeout", "500"]);
    lab.world().stop_provider().unwrap();
    assert!(ask("silent.wild.example.").is_err());
    lab.world().start_provider().unwrap();
    assert!(ask("speaks.wild.example.").unwrap().contains("203.0.113.31"));
}

fn a_dead_process_is_seen(lab: &Lab) {
    let proxy = lab.processes().unwrap().into_iter().find(|record| record.daemon.name == "kube-proxy-node-a").unwrap();
    lab.node("node-a").unwrap().stop_kube_proxy().unwrap();
    let status = lab_program(&["--name", "kept", "status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("has ended"), "{status:?}");
    assert!(!proxy.identity.is_alive());
}

/// Asserts that a name of the cluster and one of the outside resolve in a pod of the node.
fn assert_resolves(lab: &Lab, node: &str) {
    for (name, address) in
        [("kubernetes.default.svc.cluster.local.", "10.96.0.1"), ("www.shop.example.", "203.0.113.20")]
    {
        let answer = lab.exec(node, &["ask", name]).unwrap();
        assert!(answer.contains(address), "{answer}");
    }
}

/// Returns what is left of a lab, found in another way than the lab itself does.
fn traces(name: &str) -> Vec<String> {
    let state = Path::new(STATE_ROOT).join(name);
    let folder = format!("{}/", state.display());
    let group = Layout::new(name).unwrap().cgroup();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read =
            |file: &str| String::from_utf8_lossy(&fs::read(process.path().join(file)).unwrap_or_default()).into_owned();
        // A zombie, which waits to be reaped by the machine's first process, runs no more.
        if read("stat").rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z')) {
            continue;
        }
        for file in ["cmdline", "cgroup", "mountinfo", "environ"] {
            let text = read(file);
            if !process.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()) || text.is_empty() {
                continue;
            }
            if text.contains(&folder) || text.contains(&format!("/{group}/")) {
                found.push(format!("{} of {} {}", file, process.path().display(), read("comm").trim()));
            }
        }
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let inner = hierarchy.path().join(&group);
        found.extend(inner.exists().then(|| inner.display().to_string()));
    }
    found.extend(Path::new("/sys/fs/cgroup").join(&group).exists().then(|| group.clone()));
    found.extend(state.exists().then(|| state.display().to_string()));
    found
}

/// Returns the names of the links in the machine's own network.
fn links() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Returns the files at the places where container programs leave some.
fn common_places() -> Vec<String> {
    let inner = ["/run/containerd", "/run/runc", "/var/lib/cni", "/etc/cni", "/var/log/containers", "/var/log/pods"];
    let places = inner.into_iter().chain(["/run", "/etc", "/var/lib", "/var/log", "/var/tmp"]);
    let mut found = Vec::new();
    for place in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            found.push(entry.path().display().to_string());
        }
    }
    found.retain(|path| path != STATE_ROOT);
    found.sort();
    found
}
