//! Workloads of every lab besides DnsTier: the cluster DNS, and a toolbox pod on each node that sends queries.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Lab;
use super::node::fill;
use super::process::wait_until;

/// Addresses of the cluster DNS Service.
const CLUSTER_DNS: [&str; 2] = ["10.96.0.10", "fd96::a"];

/// Namespace of the toolbox pods.
pub(super) const TOOLBOX_NAMESPACE: &str = "lab";

/// Applies both, with the images `coredns` and `toolbox`.
///
/// # Errors
/// When the API server refuses.
pub(super) fn apply(lab: &Lab) -> Result<()> {
    let image = |name: &str| lab.image(name).with_context(|| format!("the lab has no image {name}"));
    let coredns = fill(include_str!("manifests/coredns.yaml"), &[("coredns", &image("coredns")?)]);
    let toolbox = fill(include_str!("manifests/toolbox.yaml"), &[("toolbox", &image("toolbox")?)]);
    lab.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &format!("{coredns}---\n{toolbox}")).map(drop)
}

/// Waits until all nodes are Ready, the workloads are available and names resolve in pods over either address family.
///
/// # Errors
/// When one of these takes longer than two minutes.
pub(super) fn wait(lab: &Lab) -> Result<()> {
    let timeout = "--timeout=120s";
    let nodes: Vec<String> = lab.nodes().iter().map(|node| format!("node/{}", node.name)).collect();
    // `kubectl wait` fails at once for a node that is not registered yet.
    let registered = wait_until(Duration::from_secs(120), || {
        let output = lab.kubectl(&["get", "nodes", "--output=name"]).ok()?;
        nodes.iter().all(|node| output.lines().any(|name| name == node)).then_some(())
    });
    registered.context("not all kubelets have registered their nodes within 120 s")?;
    let ready = ["wait", "--for=condition=Ready", timeout].into_iter().chain(nodes.iter().map(String::as_str));
    lab.kubectl(&ready.collect::<Vec<_>>())?;
    lab.kubectl(&["rollout", "status", "--namespace=kube-system", "deployment/coredns", timeout])?;
    lab.kubectl(&["rollout", "status", "--namespace=lab", "daemonset/toolbox", timeout])?;
    lab.nodes().iter().try_for_each(|node| wait_until_names_resolve(lab, node.name))
}

/// Waits until kube-proxy has set up the cluster DNS: it is the last to be ready.
fn wait_until_names_resolve(lab: &Lab, node: &str) -> Result<()> {
    for address in CLUSTER_DNS {
        for name in ["kubernetes.default.svc.cluster.local.", "mail.example."] {
            let command = ["ask", name, "--server", address, "--tries", "1", "--timeout", "500", "--json"];
            let mut last = String::new();
            let resolved = wait_until(Duration::from_secs(60), || {
                last = lab.exec(node, &command).unwrap_or_else(|error| format!("{error:#}"));
                last.contains("NOERROR").then_some(())
            });
            resolved.with_context(|| format!("{name} is not resolved at {address} from {node}: {last}"))?;
        }
    }
    Ok(())
}
