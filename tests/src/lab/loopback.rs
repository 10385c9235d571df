//! Control plane on loopback: etcd, the API server and a few controllers as plain processes, without nodes, namespaces
//! and root. Nodes and kubelets are up to the test. Controllers that end are started again, as a kubelet would do.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::KeyPair;
use serde_json::json;

use super::control_plane::flags;
use super::process::{run, run_with_input, wait_until};
use super::programs::Programs;

/// Token of the administrator, on an API server that only this machine reaches.
const TOKEN: &str = "administrator";
/// Name, and token, of another administrator, whose requests the API server logs.
pub const AUDITED_USER: &str = "audited";
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: [audited]}
- {level: None}
"#;
/// Controllers that make pods from workloads and remove what nobody owns.
const CONTROLLERS: &str =
    "daemonset-controller,deployment-controller,replicaset-controller,garbage-collector-controller";
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Shell command that runs its arguments again whenever they end. They end with the shell.
const RESTART: &str = r#"while :; do setpriv --pdeathsig KILL "$0" "$@"; sleep 1; done"#;
/// Objects that controllers observe and make nothing of: no node and no replica.
const TRIAL: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: trial, namespace: default}
spec:
  selector: {matchLabels: {app: trial}}
  template:
    metadata: {labels: {app: trial}}
    spec: {containers: [{name: trial, image: registry.example/trial}], nodeSelector: {kubernetes.io/hostname: nowhere}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: trial, namespace: default}
spec:
  replicas: 0
  selector: {matchLabels: {app: trial}}
  template:
    metadata: {labels: {app: trial}}
    spec: {containers: [{name: trial, image: registry.example/trial}]}
"#;

/// Control plane whose processes end with it, and with the thread that started it.
#[derive(Debug)]
pub struct LoopbackControlPlane {
    processes: Vec<Child>,
    kubeconfig: PathBuf,
    address: SocketAddr,
    // Removed last.
    folder: tempfile::TempDir,
}

impl LoopbackControlPlane {
    /// Starts the control plane and waits until the API server is ready and has these manifests.
    ///
    /// The controllers start after the manifests are applied, so that they know all kinds from the beginning. They are
    /// waited for until they have observed workloads and collected garbage.
    ///
    /// # Errors
    /// When a process cannot be started, or is not ready within two minutes.
    pub fn start(programs: &Programs, manifests: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let [etcd, etcd_peers, api_server] = free_ports()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let server = format!("https://127.0.0.1:{api_server}");
        fs::write(&kubeconfig, serde_json::to_vec_pretty(&administrator(&server, TOKEN))?)?;
        let tokens = [("admin", TOKEN), (AUDITED_USER, AUDITED_USER)];
        let tokens = tokens.map(|(user, token)| format!("{token},{user},{user},system:masters\n"));
        fs::write(folder.path().join("tokens.csv"), tokens.concat())?;
        fs::write(folder.path().join("audit-policy.yaml"), AUDIT_POLICY)?;
        let keys = KeyPair::generate()?;
        fs::write(folder.path().join("service-accounts.key"), keys.serialize_pem())?;
        fs::write(folder.path().join("service-accounts.pub"), keys.public_key_pem())?;

        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, api_server));
        let mut this = Self { processes: Vec::new(), kubeconfig, address, folder };
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        this.start_process(programs, "etcd", this.etcd_flags(&etcd_url, &format!("http://127.0.0.1:{etcd_peers}")))?;
        this.start_process(programs, "kube-apiserver", this.api_server_flags(&etcd_url, api_server))?;
        let is_ready = || this.kubectl(programs, &["get", "--raw", "/readyz"]).ok();
        wait_until(START_TIMEOUT, is_ready)
            .with_context(|| format!("the API server is not ready: {}", this.log("kube-apiserver")))?;
        for manifest in manifests {
            let mut command = this.kubectl_command(programs, &["apply", "--server-side", "-f", "-"]);
            run_with_input(&mut command, manifest)?;
        }
        this.start_controllers(programs)?;
        Ok(this)
    }

    fn start_controllers(&mut self, programs: &Programs) -> Result<()> {
        let name = "kube-controller-manager";
        let arguments = ["-c".to_owned(), RESTART.to_owned(), programs.argument(name)];
        self.spawn("sh", name, arguments.into_iter().chain(self.controller_flags()).collect())?;
        run_with_input(&mut self.kubectl_command(programs, &["apply", "-f", "-"]), TRIAL)?;
        let observed = "jsonpath={.items[*].status.observedGeneration}";
        let are_observed = || {
            let generations = self.kubectl(programs, &["get", "daemonset,deployment", "-o", observed]).ok()?;
            (generations.split_whitespace().count() == 2).then_some(())
        };
        wait_until(START_TIMEOUT, are_observed).with_context(|| format!("no controller works: {}", self.log(name)))?;
        let timeout = format!("--timeout={}s", START_TIMEOUT.as_secs());
        self.kubectl(programs, &["delete", "daemonset,deployment", "trial", "--cascade=foreground", &timeout])
            .with_context(|| format!("no garbage is collected: {}", self.log(name)))?;
        Ok(())
    }

    /// Returns the path of the administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns the address of the API server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a kubeconfig of [`AUDITED_USER`] that reaches the API server through this address.
    #[must_use]
    pub fn audited_kubeconfig(&self, address: SocketAddr) -> serde_json::Value {
        administrator(&format!("https://{address}"), AUDITED_USER)
    }

    /// Returns the path of the log of the requests of [`AUDITED_USER`]: one event in JSON a line, when its response is
    /// complete, and when that of a watch begins.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.path("audit.log")
    }

    /// Starts a program beside the control plane, which ends with it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(&mut self, programs: &Programs, name: &str, arguments: &[(&str, &str)]) -> Result<()> {
        self.start_process(programs, name, flags(arguments))
    }

    /// Returns the last lines of the log of a process.
    #[must_use]
    pub fn log(&self, process: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{process}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn kubectl(&self, programs: &Programs, arguments: &[&str]) -> Result<String> {
        run(&mut self.kubectl_command(programs, arguments))
    }

    fn kubectl_command(&self, programs: &Programs, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs.path("kubectl"));
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", self.path("kubectl-cache")).args(arguments);
        command
    }

    fn start_process(&mut self, programs: &Programs, name: &str, flags: Vec<String>) -> Result<()> {
        self.spawn(&programs.argument(name), name, flags)
    }

    fn spawn(&mut self, program: &str, name: &str, arguments: Vec<String>) -> Result<()> {
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(command.spawn().with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    fn etcd_flags(&self, clients: &str, peers: &str) -> Vec<String> {
        flags(&[
            ("data-dir", &self.path("etcd").display().to_string()),
            ("listen-client-urls", clients),
            ("advertise-client-urls", clients),
            ("listen-peer-urls", peers),
            ("initial-advertise-peer-urls", peers),
            ("initial-cluster", &format!("default={peers}")),
            ("unsafe-no-fsync", "true"),
            ("log-level", "warn"),
        ])
    }

    fn api_server_flags(&self, etcd: &str, port: u16) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        flags(&[
            ("etcd-servers", etcd),
            ("bind-address", "127.0.0.1"),
            ("secure-port", &port.to_string()),
            // Nothing in the cluster connects to the Service `kubernetes`, whose address may not be a loopback one.
            ("endpoint-reconciler-type", "none"),
            // The API server makes a certificate of its own there.
            ("cert-dir", &file("certificates")),
            ("token-auth-file", &file("tokens.csv")),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            ("service-account-key-file", &file("service-accounts.pub")),
            ("service-account-signing-key-file", &file("service-accounts.key")),
            ("service-cluster-ip-range", "10.96.0.0/16"),
            ("authorization-mode", "RBAC"),
            // Pods mount no token, and no controller takes the taint of a new node away.
            ("disable-admission-plugins", "ServiceAccount,TaintNodesByCondition"),
            ("enable-priority-and-fairness", "false"),
            ("allow-privileged", "true"),
            ("audit-policy-file", &file("audit-policy.yaml")),
            ("audit-log-path", &file("audit.log")),
            // Megabytes of one file: it is never rotated.
            ("audit-log-maxsize", "10000"),
        ])
    }

    fn controller_flags(&self) -> Vec<String> {
        flags(&[
            ("kubeconfig", &self.kubeconfig.display().to_string()),
            ("controllers", CONTROLLERS),
            ("cert-dir", &self.path("certificates").display().to_string()),
            // Nobody reads its metrics, and a port that is free now may be that of a connection later.
            ("secure-port", "0"),
            ("leader-elect", "false"),
            ("kube-api-qps", "500"),
            ("kube-api-burst", "1000"),
        ])
    }
}

impl Drop for LoopbackControlPlane {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Builds the kubeconfig of an administrator.
fn administrator(server: &str, token: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "loopback", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "loopback", "context": {"cluster": "loopback", "user": "admin"}}],
        "current-context": "loopback",
    })
}

/// Returns different ports of 127.0.0.1 that are free just now, below those that connections get (32,768 and more).
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // Programs that run side by side begin at different places, further apart than their numbers: a port is free again
    // until its process listens.
    let first = 10_000 + u16::try_from(std::process::id() % 1_250 * 16)?;
    let candidates = first..32_768;
    let listeners: Vec<TcpListener> =
        candidates.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()).take(N).collect();
    ensure!(listeners.len() == N, "no {N} ports from {first} on are free");
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
