//! Nodes that a change of the placement excludes leave in steps, and their pods lose no query.

use std::collections::BTreeSet;

use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, Pod, RestoreOnDrop, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl, node_pods, patch_tier, wait_until,
    wait_until_ready,
};
use crate::watch::flood_from_all_nodes;
use crate::witness::{RATE, assert_none_failed, rollout, wait_for_reason, wait_until_rolled_out};

/// Label of the nodes that stay.
const LABEL: &str = "dnstier-tests/caches";
/// Nodes that stay: all of one zone, and one of another.
const STAYING: [&str; 3] = ["node-b", "node-c", "node-f"];

#[test]
fn nodes_leave_one_of_each_zone_first_and_no_query_is_lost() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let _labels = RestoreOnDrop(|| STAYING.iter().for_each(|node| label(node, &format!("{LABEL}-"))));
    STAYING.iter().for_each(|node| label(node, &format!("{LABEL}=yes")));
    let before = node_pods();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    patch_tier(&format!(r#"{{"spec":{{"nodeCache":{{"nodeSelector":{{"{LABEL}":"yes"}}}}}}}}"#));
    wait_for_reason(&["Canary"]);
    assert_eq!(rollout()["kind"], "Nodes", "{}", rollout());
    let after_first = wait_until("one node of each zone leaves", WAIT_TIMEOUT, || {
        let now = node_pods();
        ensure(now.len() + 2 <= before.len(), || format!("{now:?}")).map(|()| now)
    });
    wait_for_reason(&["Wave"]);
    wait_until("the last node has left", WAIT_TIMEOUT, || {
        let now = node_pods();
        ensure(now.len() == STAYING.len(), || format!("{now:?}"))
    });
    let last = node_pods();
    let stayed = |pods: &[Pod]| pods.iter().filter(|pod| STAYING.contains(&pod.node.as_str())).count();
    let has_left = |node: &str| after_first.iter().all(|pod| pod.node != node);
    let left: Vec<&str> = lab().nodes().iter().filter(|node| has_left(node.name)).map(|node| node.zone).collect();
    // Of the three that leave, two are of one zone: the second of them goes with the wave.
    assert_eq!(left, ["zone-a", "zone-b"], "one node of each zone has left: {after_first:?}");
    assert_eq!(stayed(&after_first), 3, "{after_first:?}");
    let uids = |pods: &[Pod]| pods.iter().map(|pod| pod.uid.clone()).collect::<BTreeSet<String>>();
    assert!(uids(&last).is_subset(&uids(&before)), "nobody restarts before the last node has left: {last:?}");
    wait_until_rolled_out();
    wait_until("those that stay have restarted", 2 * WAIT_TIMEOUT, || {
        let now = node_pods();
        ensure(now.len() == 3 && uids(&now).is_disjoint(&uids(&before)), || format!("{now:?}"))
    });
    patch_tier(r#"{"spec":{"nodeCache":{"nodeSelector":null}}}"#);
    wait_until("all nodes are back", WAIT_TIMEOUT, || {
        let now = node_pods();
        ensure(now.len() == before.len(), || format!("{now:?}"))
    });
    wait_until_ready();
    assert_none_failed(flood);
}

fn label(node: &str, label: &str) {
    kubectl(&["label", "node", node, "--overwrite", label]);
}
