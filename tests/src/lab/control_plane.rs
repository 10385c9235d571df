//! etcd, the API server, the controller manager and the scheduler, in the network namespace of the bridge.

use std::time::Duration;

use anyhow::{Context, Result};

use super::fabric::{CONTROL_PLANE, SERVICE_RANGES};
use super::layout::{FABRIC, Layout};
use super::process::{Daemon, Identity, wait_until};
use super::programs::Programs;

/// Starts the four and waits until the API server is ready.
///
/// `kubectl` runs kubectl with these arguments.
///
/// # Errors
/// When one cannot be started or the API server is not ready within a minute.
pub(super) fn start(layout: &Layout, programs: &Programs, kubectl: impl Fn(&[&str]) -> Result<String>) -> Result<()> {
    let start = |name: &str, flags: Vec<String>| -> Result<Identity> {
        let command = std::iter::once(programs.argument(name)).chain(flags).collect();
        Daemon { name: name.to_owned(), network: FABRIC.to_owned(), mounts: None, path: None, command }.start(layout)
    };
    std::fs::write(layout.file("admission.yaml"), include_str!("manifests/admission.yaml"))?;
    std::fs::write(layout.file("audit.yaml"), include_str!("manifests/audit.yaml"))?;
    start("etcd", etcd(layout))?;
    let server = start("kube-apiserver", api_server(layout))?;
    let ready = || kubectl(&["get", "--raw", "/readyz"]).ok().map(drop).or_else(|| (!server.is_alive()).then_some(()));
    wait_until(Duration::from_secs(60), ready).filter(|()| server.is_alive()).with_context(|| {
        format!("the API server did not become ready; its log is {}", layout.log("kube-apiserver").display())
    })?;
    start("kube-controller-manager", controller_manager(layout))?;
    start("kube-scheduler", scheduler(layout))?;
    Ok(())
}

/// Builds flags from names and values.
pub(super) fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd(layout: &Layout) -> Vec<String> {
    flags(&[
        ("data-dir", &layout.file("etcd").display().to_string()),
        ("listen-client-urls", "http://127.0.0.1:2379"),
        ("advertise-client-urls", "http://127.0.0.1:2379"),
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        // A lab that loses its machine is created again.
        ("unsafe-no-fsync", "true"),
        ("log-level", "warn"),
    ])
}

fn api_server(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| layout.pki(file).display().to_string();
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379"),
        ("bind-address", CONTROL_PLANE[0]),
        ("advertise-address", CONTROL_PLANE[0]),
        ("secure-port", "6443"),
        ("tls-cert-file", &pki("apiserver.crt")),
        ("tls-private-key-file", &pki("apiserver.key")),
        ("client-ca-file", &pki("ca.crt")),
        ("kubelet-client-certificate", &pki("apiserver-kubelet-client.crt")),
        ("kubelet-client-key", &pki("apiserver-kubelet-client.key")),
        // DNS knows no names of nodes.
        ("kubelet-preferred-address-types", "InternalIP"),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        ("service-account-key-file", &pki("service-accounts.pub")),
        ("service-account-signing-key-file", &pki("service-accounts.key")),
        ("service-cluster-ip-range", &SERVICE_RANGES.join(",")),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("admission-control-config-file", &layout.file("admission.yaml").display().to_string()),
        ("allow-privileged", "true"),
        ("audit-policy-file", &layout.file("audit.yaml").display().to_string()),
        ("audit-log-path", &layout.audit_log().display().to_string()),
        // Pods leave a lost node soon enough for a test to observe it.
        ("default-not-ready-toleration-seconds", "30"),
        ("default-unreachable-toleration-seconds", "30"),
    ])
}

fn controller_manager(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| layout.pki(file).display().to_string();
    flags(&[
        ("kubeconfig", &layout.kubeconfig("kube-controller-manager").display().to_string()),
        ("service-account-private-key-file", &pki("service-accounts.key")),
        ("root-ca-file", &pki("ca.crt")),
        ("cluster-signing-cert-file", &pki("ca.crt")),
        ("cluster-signing-key-file", &pki("ca.key")),
        ("use-service-account-credentials", "true"),
        ("leader-elect", "false"),
        ("bind-address", "127.0.0.1"),
        // A lost node is detected after 12 s; nodes report every 3 s.
        ("node-monitor-grace-period", "12s"),
        ("node-monitor-period", "2s"),
        ("kube-api-qps", "100"),
        ("kube-api-burst", "200"),
    ])
}

fn scheduler(layout: &Layout) -> Vec<String> {
    flags(&[
        ("kubeconfig", &layout.kubeconfig("kube-scheduler").display().to_string()),
        ("leader-elect", "false"),
        ("bind-address", "127.0.0.1"),
    ])
}
