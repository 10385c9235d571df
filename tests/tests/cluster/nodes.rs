//! Nodes that cannot run the tier are left out and counted apart, in a cluster that has some of every kind, and
//! critical pods are admitted by quota alone.

use dnstier_tests::require;
use serde_json::{Value, json};

use crate::lab;
use crate::tier::{
    NAMESPACE, NODE_NAMESPACE, RestoreOnDrop, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, kubectl_json,
    node_pod, pods, wait_until, wait_until_degraded, wait_until_ready,
};

/// Label of the made-up nodes.
pub(crate) const MADE_UP: &str = "example.com/made-up=true";

/// Returns a Node that no kubelet stands behind.
fn node(name: &str, labels: &[(&str, &str)], taints: &Value) -> Value {
    let mut all = json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "example.com/made-up": "true"});
    for (key, value) in labels {
        all[*key] = json!(value);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": all},
        "spec": {"taints": taints},
    })
}

/// Makes nodes until the guard is dropped.
fn make_until_drop(nodes: &[Value]) -> RestoreOnDrop<impl FnMut() + use<>> {
    let guard = RestoreOnDrop(|| {
        drop(kubectl(&["delete", "node", "--selector", MADE_UP]));
        // The DaemonSet controller looks again when a pod changes, not when the node goes that a pod waits for.
        let pending = "--field-selector=status.phase=Pending";
        drop(kubectl(&["delete", "pods", "-n", NODE_NAMESPACE, pending, "--wait=false"]));
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": nodes});
    lab().kubectl_with_input(&["apply", "-f", "-"], &list.to_string()).expect("the nodes are made");
    guard
}

/// Returns the reasons for which nodes are excluded, with the number and the names of each.
fn excluded() -> Vec<(String, u64, Vec<String>)> {
    let tier = kubectl_json(&["get", "dnstier", "default"]);
    let excluded = tier["status"]["nodes"]["excluded"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    excluded
        .iter()
        .map(|each| (text(&each["reason"]), each["nodes"].as_u64().unwrap_or(0), names(&each["names"])))
        .collect()
}

#[test]
fn nodes_that_can_never_run_the_tier_are_counted_apart_and_it_stays_ready() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let fargate = json!([{"key": "eks.amazonaws.com/compute-type", "value": "fargate", "effect": "NoSchedule"}]);
    let virtual_node = json!([{"key": "virtual-kubelet.io/provider", "value": "azure", "effect": "NoSchedule"}]);
    let none = json!([]);
    let nodes = [
        node("win-1", &[("kubernetes.io/os", "windows"), ("topology.kubernetes.io/zone", "zone-a")], &none),
        node("win-2", &[("kubernetes.io/os", "windows"), ("topology.kubernetes.io/zone", "zone-w")], &none),
        node("arm-1", &[("kubernetes.io/arch", "arm64")], &none),
        node("fargate-1", &[("eks.amazonaws.com/compute-type", "fargate")], &fargate),
        node("virtual-1", &[("type", "virtual-kubelet"), ("kubernetes.io/role", "agent")], &virtual_node),
    ];
    let made_up = make_until_drop(&nodes);
    let counted = |reason: &str, names: &[&str]| {
        (reason.to_owned(), names.len() as u64, names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>())
    };
    let expected = [
        counted("Fargate", &["fargate-1"]),
        counted("VirtualNode", &["virtual-1"]),
        counted("OperatingSystem", &["win-1", "win-2"]),
        counted("Architecture", &["arm-1"]),
    ];
    wait_until("the nodes are counted apart", WAIT_TIMEOUT, || {
        let actual = excluded();
        ensure(expected.iter().all(|reason| actual.contains(reason)), || format!("{actual:?}"))
    });
    // All three conditions, and the nodes that should run a pod.
    wait_until_ready();
    let tier = kubectl_json(&["get", "dnstier", "default"]);
    let status = &tier["status"];
    assert_eq!(status["summary"]["ready"], "3/3", "{status}");
    assert_eq!(status["zones"].as_array().map(Vec::len), Some(3), "they make no zone: {status}");
    assert!(condition("Reconciling").is_err() && condition("Stalled").is_err(), "{status}");
    let desired = kubectl(&[
        "get",
        "daemonset",
        "-n",
        NODE_NAMESPACE,
        "-o",
        "jsonpath={.items[*].status.desiredNumberScheduled}",
    ]);
    assert_eq!(desired, "3", "the DaemonSet controller leaves the same nodes out");
    assert_eq!(pods(NODE_NAMESPACE, "node-cache").len(), 3);

    drop(made_up);
    wait_until("nothing is left of them", WAIT_TIMEOUT, || {
        let actual = excluded();
        ensure(actual.is_empty(), || format!("{actual:?}"))
    });
}

#[test]
fn a_zone_of_a_tainted_control_plane_gets_no_resolvers_and_the_tier_has_all_it_needs() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    // No kubelet runs the caches there, which this test is not about.
    let labels = [("node-role.kubernetes.io/control-plane", ""), ("eks.amazonaws.com/compute-type", "ec2")];
    let cordoned = |mut node: Value| {
        node["spec"]["unschedulable"] = json!(true);
        node
    };
    let _made_up = make_until_drop(&[
        node("control-plane-1", &labels, &taint),
        cordoned(node("cordoned-1", &[("topology.kubernetes.io/zone", "zone-q")], &json!([]))),
    ]);
    let zone = |name: &str| {
        let tier = kubectl_json(&["get", "dnstier", "default"]);
        let zones = tier["status"]["zones"].as_array().cloned().unwrap_or_default();
        let zone = zones.into_iter().find(|zone| zone["name"] == name);
        zone.ok_or_else(|| format!("no zone {name:?} in {}", tier["status"]["zones"]))
    };
    for (name, obstacle) in [
        ("", "control-plane-1 (taint node-role.kubernetes.io/control-plane:NoSchedule)"),
        ("zone-q", "cordoned-1 (cordoned)"),
    ] {
        let zone = wait_until("the zone is reported", WAIT_TIMEOUT, || zone(name));
        assert!(zone["noResolvers"].as_str().is_some_and(|text| text.contains(obstacle)), "{zone}");
    }
    let deployments = kubectl_json(&["get", "deployments", "-n", NAMESPACE, "-l", "dnstier.io/zone"]);
    assert_eq!(deployments["items"].as_array().map(Vec::len), Some(3), "{deployments}");
    let degraded = condition("Degraded").expect("a condition");
    assert!(!degraded.2.contains("resolver"), "{degraded:?}");
}

#[test]
fn a_cordon_keeps_the_resolvers_of_a_zone() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let of_zone = || {
        let mut uids: Vec<String> = pods(NAMESPACE, "zone-resolver")
            .into_iter()
            .filter(|pod| pod.node == "node-b")
            .map(|pod| pod.uid)
            .collect();
        uids.sort();
        uids
    };
    let before = of_zone();
    assert!(!before.is_empty());
    kubectl(&["cordon", "node-b"]);
    let cordon = RestoreOnDrop(|| drop(kubectl(&["uncordon", "node-b"])));
    // A reconciliation after the cordon: this annotation asks for one.
    kubectl(&["annotate", "dnstier", "default", "example.com/cordoned=yes", "--overwrite"]);
    wait_until_ready();
    assert_eq!(of_zone(), before);
    drop(cordon);
    kubectl(&["annotate", "dnstier", "default", "example.com/cordoned-"]);
    wait_until_ready();
    assert_eq!(of_zone(), before);
}

#[test]
fn without_the_quota_for_critical_pods_the_condition_names_it_and_the_command_that_it_names_helps() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let quota = RestoreOnDrop(|| lab().install().expect("the quota is back"));
    kubectl(&["delete", "resourcequota", "-n", NODE_NAMESPACE, "--all"]);
    kubectl(&["delete", "pod", "-n", NODE_NAMESPACE, &node_pod("node-c").expect("a node pod").name]);
    wait_until_degraded("the quota is named", &["ResourceQuota", NODE_NAMESPACE, "resourceQuota.enabled"]);
    let (_, reason, message) = condition("Degraded").expect("a condition");
    assert_eq!(reason, "QuotaMissing", "{message}");
    let command = message.split('`').find(|text| text.starts_with("kubectl ")).expect("a command");
    kubectl(&command.split_whitespace().skip(1).collect::<Vec<_>>());
    let own = RestoreOnDrop(|| {
        drop(kubectl(&["delete", "resourcequota", "-n", NODE_NAMESPACE, "critical-pods", "--ignore-not-found"]));
    });
    wait_until_ready();
    drop(own);
    drop(quota);
    wait_until_ready();
}
