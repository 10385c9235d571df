//! The real agent on the node of a test, and its configuration.

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use node_cache::admin;
use node_cache_config::status::{CaptureState, CapturedAddress, NodeStatus};
use node_cache_config::{Captured, Config, LastResort, Zone};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::dns::FROM_CLUSTER_DNS;
use crate::flood::query_rcode;
use crate::network::Network;
use crate::servers::{Cache, ClusterDns};

pub(crate) const POD_UID: &str = "2b1d5a3e-0c5f-4a55-9a43-3c4f0e3c7a11";
pub(crate) const METRICS_PORT: u16 = 9353;

/// Network, directories of the pod, agent and two caches.
pub(crate) struct Node {
    pub(crate) network: Network,
    pub(crate) caches: Vec<Cache>,
    pub(crate) agent: Process,
    pub(crate) config_dir: TempDir,
    pub(crate) run_dir: TempDir,
    pub(crate) cluster_dns: ClusterDns,
}

impl Node {
    /// Starts everything but the caches.
    pub(crate) fn without_caches(captured: &[(&str, bool)]) -> Self {
        let network = Network::new();
        let cluster_dns = ClusterDns::start(&network);
        for address in ["10.96.0.10", "fd96::a"] {
            let is_answered = || query_rcode(&network.pod, address) == Some(FROM_CLUSTER_DNS);
            wait_until(&format!("the Service answers at {address}"), Duration::from_secs(10), is_answered);
        }
        let config_dir = TempDir::new().unwrap();
        let run_dir = TempDir::new().unwrap();
        set_volume_permissions(&config_dir, &run_dir);
        write_nft(run_dir.path());
        write_revision(config_dir.path(), "r1", &config(captured));
        let agent = start_agent(&network, config_dir.path(), run_dir.path());
        Self { network, caches: Vec::new(), agent, config_dir, run_dir, cluster_dns }
    }

    pub(crate) fn start(captured: &[(&str, bool)]) -> Self {
        let mut node = Self::without_caches(captured);
        node.start_caches();
        node
    }

    pub(crate) fn start_caches(&mut self) {
        for name in ["cache-0", "cache-1"] {
            self.caches.push(Cache::start(self.run_dir.path(), name, POD_UID));
        }
    }

    /// Starts two real caches in place of the scripted ones.
    pub(crate) fn start_cache_processes(&self) -> [Process; 2] {
        // Another user may have no access to the folder of built programs.
        let program = self.config_dir.path().join("node-cache");
        std::fs::copy(env!("CARGO_BIN_EXE_node-cache"), &program).unwrap();
        ["cache-0", "cache-1"].map(|name| {
            let mut command = command_on_node(&self.network);
            command
                .args(["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all"])
                .arg(&program)
                .args(["run", "--instance", name, "--cache-size", "16777216"]);
            Process::start(command, self.config_dir.path(), self.run_dir.path())
        })
    }

    pub(crate) fn restart_agent(&mut self) {
        self.agent = start_agent(&self.network, self.config_dir.path(), self.run_dir.path());
    }

    pub(crate) fn control(&self, command: admin::Command) -> Option<String> {
        let path = admin::socket_path(self.run_dir.path(), "agent");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(admin::send_command(&path, command, Duration::from_secs(2))).ok()
    }

    pub(crate) fn status(&self) -> Option<NodeStatus> {
        self.control(admin::Command::Status).map(|text| serde_json::from_str(&text).unwrap())
    }

    pub(crate) fn captured(&self, address: &str) -> Option<CapturedAddress> {
        let address: IpAddr = address.parse().unwrap();
        self.status()?.captured.into_iter().find(|captured| captured.address == address)
    }

    pub(crate) fn is_captured(&self, address: &str) -> bool {
        self.captured(address).is_some_and(|captured| captured.state == CaptureState::Captured)
    }

    /// Replaces `nft` by a program that does not return, from now on.
    pub(crate) fn let_nft_hang(&self) {
        std::fs::write(self.run_dir.path().join("hang"), "").unwrap();
    }

    /// Runs a probe as the kubelet does; returns whether it succeeded, and its standard error.
    pub(crate) fn probe(&self, check: &str) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_node-agent"))
            .args(["probe", check, "--run-dir"])
            .arg(self.run_dir.path())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn command_on_node(network: &Network) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", network.node.path().display()));
    command
}

fn start_agent(network: &Network, config_dir: &Path, run_dir: &Path) -> Process {
    let mut command = command_on_node(network);
    command
        // Rights of the agent's container: root without the capabilities to override permissions or owners.
        .args(["setpriv", "--bounding-set=-all,+net_admin,+net_bind_service", "--groups=65532"])
        .args([env!("CARGO_BIN_EXE_node-agent"), "run", "--instances", "2", "--nft"])
        .arg(nft_in(run_dir))
        .args(["--metrics-port", &METRICS_PORT.to_string()]);
    Process::start(command, config_dir, run_dir)
}

/// Process of the pod, killed on drop.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    fn start(mut command: Command, config_dir: &Path, run_dir: &Path) -> Self {
        let child = command
            .args([Path::new("--config-dir"), config_dir, Path::new("--run-dir"), run_dir])
            .envs([("POD_UID", POD_UID), ("NODE_NAME", "node-a"), ("POD_IPS", "10.9.1.1,fd09:1::1")])
            .env("DNSTIER_LOG", std::env::var("DNSTIER_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .stdin(Stdio::null())
            .spawn()
            .expect("the process can be started");
        Self { child }
    }

    /// Returns the largest resident memory that the process ever had, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM; returns the exit status and how long the shutdown took.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(Signal::TERM);
        (self.wait(), start.elapsed())
    }

    /// Waits for the exit.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives the directories the owners and permissions that the kubelet gives to a pod's volumes.
fn set_volume_permissions(config_dir: &TempDir, run_dir: &TempDir) {
    std::fs::set_permissions(config_dir.path(), Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(run_dir.path(), None, Some(65532)).unwrap();
    std::fs::set_permissions(run_dir.path(), Permissions::from_mode(0o2775)).unwrap();
}

fn nft_in(run_dir: &Path) -> PathBuf {
    run_dir.join("nft")
}

/// Writes a program that runs `nft`, or hangs after [`Node::let_nft_hang`].
fn write_nft(run_dir: &Path) {
    let hang = run_dir.join("hang");
    let script = format!("#!/bin/sh\nif [ -e {} ]; then exec sleep 60; fi\nexec nft \"$@\"\n", hang.display());
    std::fs::write(nft_in(run_dir), script).unwrap();
    std::fs::set_permissions(nft_in(run_dir), Permissions::from_mode(0o755)).unwrap();
}

/// Builds a configuration that captures these addresses; `true`: a Service answers at the address.
pub(crate) fn config(captured: &[(&str, bool)]) -> String {
    let everywhere: Vec<_> = ["0.0.0.0/0", "::/0"].iter().map(|network| network.parse().unwrap()).collect();
    let server: SocketAddr = "10.9.2.2:53".parse().unwrap();
    let mut config = Config { tier: "test".to_owned(), ..Config::example() };
    config.cluster_dns.bootstrap = vec![server];
    let captured = captured.iter();
    config.node_cache.captured =
        captured.map(|(address, service)| Captured { address: address.parse().unwrap(), service: *service }).collect();
    config.node_cache.allow_from = everywhere.clone();
    config.node_cache.last_resort = LastResort::Disabled;
    config.resolver.allow_from = everywhere;
    let service = "zone.dnstier-system.svc.cluster.local".to_owned();
    config.zones = vec![Zone { name: String::new(), bootstrap: vec![server], service }];
    serde_json::to_string(&config).unwrap()
}

/// Installs a revision and names it as the one to use.
pub(crate) fn write_revision(config_dir: &Path, revision: &str, content: &str) {
    for (name, text) in [(format!("{revision}.json"), content), ("revision".to_owned(), revision)] {
        std::fs::write(config_dir.join(".new"), text).unwrap();
        std::fs::rename(config_dir.join(".new"), config_dir.join(name)).unwrap();
    }
}

/// Polls a condition until it holds and returns how long that took. Panics when it does not hold in time.
pub(crate) fn wait_until(condition: &str, timeout: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < timeout, "not within {timeout:?}: {condition}");
        std::thread::sleep(Duration::from_millis(50));
    }
    start.elapsed()
}
