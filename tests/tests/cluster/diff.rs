//! `diff` in the operator's own pod, as `docs/before-you-apply.md` has it: what a change of the tier would do.

use std::io::Write;
use std::process::{Output, Stdio};

use dnstier_tests::require;

use crate::lab;
use crate::tier::{NAMESPACE, TIER, exclusive_tier, kubectl, kubectl_json};

/// Runs `diff` in a pod of the operator, with a tier as its standard input.
fn diff(tier: &str) -> Output {
    let command =
        ["exec", "-i", "-n", NAMESPACE, "deployment/dnstier-operator", "--", "/dnstier-operator", "diff", "-"];
    let mut child = lab()
        .kubectl_command(&command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    child.stdin.take().expect("a pipe").write_all(tier.as_bytes()).expect("the tier is written");
    child.wait_with_output().expect("kubectl ends")
}

#[test]
fn the_operators_pod_tells_what_a_change_would_do_and_that_the_applied_spec_does_nothing() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let applied = kubectl(&["get", "dnstier", TIER, "-o", "yaml"]);
    let output = diff(&applied);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]), "{output:?}");

    let mut changed = kubectl_json(&["get", "dnstier", TIER]);
    changed["spec"]["nodeCache"]["cache"]["serveStale"] = "12h".into();
    changed["spec"]["resolvers"]["replicasPerZone"] = 3.into();
    let output = diff(&changed.to_string());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    for part in [
        "LIVE/v1.ConfigMap.dnstier-node.dnstier-default-revisions",
        "-          \"serveStale\": 86400",
        "+          \"serveStale\": 43200",
        "LIVE/apps.v1.Deployment.dnstier-system.",
        "-  replicas: 2",
        "+  replicas: 3",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("apps.v1.DaemonSet"), "no pod of a node is replaced:\n{text}");
    let output = diff(&applied);
    assert_eq!(output.status.code(), Some(0), "what was looked at is in the cluster: {output:?}");
}
