//! A zone gets its objects with its first node, and loses them some time after its last one.

use dnstier_tests::require;
use serde_json::Value;

use crate::lab;
use crate::tier::{
    CHART, NAMESPACE, RestoreOnDrop, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl, kubectl_json, resolver_statuses,
    wait_until, wait_until_ready,
};

#[test]
fn a_new_zone_gets_its_resolvers_and_an_empty_one_is_pruned_after_the_delay() {
    require!(require::lab());
    let _tier = exclusive_tier();
    // The default of ten minutes is too long for a test.
    lab()
        .helm(&[
            "upgrade",
            "dnstier",
            CHART,
            "-n",
            NAMESPACE,
            "--reuse-values",
            "--wait",
            "--set",
            "operator.zonePruneDelay=20s",
        ])
        .expect("the delay is shortened");
    let _restore = RestoreOnDrop(|| {
        kubectl(&["label", "node", "node-c", "topology.kubernetes.io/zone=zone-c", "--overwrite"]);
        lab().install().expect("the chart is as it was");
    });
    kubectl(&["label", "node", "node-c", "topology.kubernetes.io/zone=zone-d", "--overwrite"]);
    wait_until("zone-d has a Deployment and its Services", WAIT_TIMEOUT, || {
        let kinds = owned_kinds("zone-d");
        ensure(kinds == ["Deployment", "PodDisruptionBudget", "Service", "Service"], || format!("{kinds:?}"))
    });
    wait_until("zone-d has a resolver that is ready", WAIT_TIMEOUT, || {
        let statuses = resolver_statuses("zone-d");
        ensure(statuses.iter().any(|status| status.ready), || format!("{statuses:?}"))
    });
    assert!(!owned_kinds("zone-c").is_empty(), "zone-c is kept for the delay");

    wait_until("zone-c is pruned", WAIT_TIMEOUT, || {
        let kinds = owned_kinds("zone-c");
        ensure(kinds.is_empty(), || format!("{kinds:?}"))
    });
    kubectl(&["label", "node", "node-c", "topology.kubernetes.io/zone=zone-c", "--overwrite"]);
    wait_until("zone-d is pruned", WAIT_TIMEOUT, || {
        let kinds = owned_kinds("zone-d");
        ensure(kinds.is_empty(), || format!("{kinds:?}"))
    });
    wait_until_ready();
}

/// Returns the kinds of the objects of a zone, sorted.
fn owned_kinds(zone: &str) -> Vec<String> {
    let selector = format!("dnstier.io/zone={zone}");
    let list = kubectl_json(&["get", "deployments,services,poddisruptionbudgets", "-n", NAMESPACE, "-l", &selector]);
    let kind = |item: &Value| item["kind"].as_str().unwrap_or_default().to_owned();
    let mut kinds: Vec<_> = list["items"].as_array().expect("a list").iter().map(kind).collect();
    kinds.sort();
    kinds
}
