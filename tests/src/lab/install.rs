//! Installs DnsTier in a lab the way a user does: the chart, one object, and then some queries.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Lab;
use super::images::REGISTRY;
use super::process::wait_until;
use super::programs::CHECKOUT;
use super::progress::Progress;

/// Namespace of the chart's release.
pub(super) const RELEASE_NAMESPACE: &str = "dnstier-system";
/// Namespace of the pods on the nodes.
const NODE_NAMESPACE: &str = "dnstier-node";
/// Name of the chart's release.
pub(super) const RELEASE: &str = "dnstier";

/// Installs or upgrades the chart with the lab's images.
///
/// # Errors
/// When Helm fails or the operator does not become ready within two minutes.
pub(super) fn chart(lab: &Lab) -> Result<()> {
    let mut arguments = vec!["upgrade".to_owned(), "--install".to_owned(), RELEASE.to_owned()];
    arguments.push(format!("{CHECKOUT}/charts/dnstier"));
    arguments.extend(
        ["--namespace", RELEASE_NAMESPACE, "--create-namespace", "--wait", "--timeout=120s"].map(str::to_owned),
    );
    for (key, name) in [("operator", "dnstier-operator"), ("nodeCache", "dnstier-node-cache")] {
        let reference = lab.image(name).with_context(|| format!("the lab has no image {name}"))?;
        let tag = reference.rsplit(':').next().unwrap_or_default();
        for (field, value) in [("registry", REGISTRY), ("repository", name), ("tag", tag)] {
            // As a string whatever it looks like: a tag may be all digits.
            arguments.push(format!("--set-string=image.{key}.{field}={value}"));
        }
    }
    lab.helm(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

/// Uninstalls the chart; the resources that it keeps stay, and so do tiers.
///
/// # Errors
/// When Helm fails or the release is not gone within two minutes.
pub(crate) fn remove_chart(lab: &Lab) -> Result<()> {
    let namespace = format!("--namespace={RELEASE_NAMESPACE}");
    lab.helm(&["uninstall", RELEASE, &namespace, "--wait", "--timeout=120s"]).map(drop)
}

/// Applies the example and waits until its tier is ready, with the images of the lab.
///
/// # Errors
/// When the API server refuses it, or it is not ready within some minutes, with its state.
pub(crate) fn example(lab: &Lab) -> Result<()> {
    let file = format!("{CHECKOUT}/examples/dnstier.yaml");
    lab.kubectl(&["apply", "--server-side", "-f", &file])?;
    let ready = || -> Result<()> {
        wait_until_updated(lab)?;
        lab.kubectl(&["wait", "-f", &file, "--for=condition=Ready", "--timeout=180s"]).map(drop)
    };
    ready().map_err(|error| {
        let state = lab.kubectl(&["get", "dnstier", "-o", "wide"]).unwrap_or_default();
        error.context(format!("the tier did not become ready:\n{state}"))
    })
}

/// Waits until all pods of the tier have the lab's images: a tier that is upgraded was ready before.
fn wait_until_updated(lab: &Lab) -> Result<()> {
    let image = lab.image("dnstier-node-cache").context("the lab has no image dnstier-node-cache")?;
    let selector = "--selector=app.kubernetes.io/name=dnstier,app.kubernetes.io/managed-by=dnstier-operator";
    for (namespace, kind) in [(NODE_NAMESPACE, "daemonset"), (RELEASE_NAMESPACE, "deployment")] {
        let namespace = format!("--namespace={namespace}");
        let images = "--output=jsonpath={.items[*].spec.template.spec.containers[*].image}";
        let has_image = wait_until(Duration::from_secs(60), || {
            let images = lab.kubectl(&["get", kind, &namespace, selector, images]).ok()?;
            let mut images = images.split_whitespace().peekable();
            (images.peek().is_some() && images.all(|other| other == image)).then_some(())
        });
        has_image.with_context(|| format!("the operator asks for no {kind} with the image {image}"))?;
        lab.kubectl(&["rollout", "status", kind, &namespace, selector, "--timeout=180s"])?;
    }
    Ok(())
}

/// Shows the tier and, from a pod in each zone, the addresses of a name of the cluster and one of the outside, with the
/// server that responded.
///
/// # Errors
/// When a name is not resolved within half a minute: pods that have just been replaced may still be discovered.
pub(super) fn show(lab: &Lab, progress: &Progress) -> Result<()> {
    progress.say("");
    progress.say(lab.kubectl(&["get", "dnstier", "-o", "wide"])?.trim_end());
    progress.say("");
    progress.say(&format!("{:<10} {:<38} {:<38} {}", "FROM", "NAME", "ANSWER", "ANSWERED BY"));
    for node in lab.nodes() {
        for name in ["kubernetes.default.svc.cluster.local.", "www.shop.example."] {
            let ask = || lab.exec(node.name, &["ask", name, "A", "--who", "--json"]);
            let answered = wait_until(Duration::from_secs(30), || ask().ok());
            let output = answered.map_or_else(ask, Ok)?;
            let (response, server) =
                response_and_server(&output).with_context(|| format!("{name} from {}: {output}", node.name))?;
            progress.say(&format!("{:<10} {name:<38} {response:<38} {server}", node.zone));
        }
    }
    Ok(())
}

/// Returns the last record and the server's identity in the output of `ask --json --who`.
fn response_and_server(output: &str) -> Option<(String, String)> {
    let output: serde_json::Value = serde_json::from_str(output).ok()?;
    let text = |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_str).map(str::to_owned);
    let last = output.get("answers")?.as_array()?.last();
    let response = text(last.and_then(|record| record.get("data")))?;
    let server = text(output.get("identity")).unwrap_or_else(|| "somebody who does not say who it is".to_owned());
    Some((response, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_is_read_with_the_answer() {
        let output = r#"{"answers":[{"type":"CNAME","data":"b."},{"type":"A","data":"10.0.0.1"}],"identity":"node=a"}"#;
        assert_eq!(response_and_server(output), Some(("10.0.0.1".to_owned(), "node=a".to_owned())));
        assert_eq!(response_and_server(r#"{"answers":[]}"#), None);
    }
}
