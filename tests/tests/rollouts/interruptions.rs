//! Interruptions of a roll-out: the leader is killed at every step, pods are made again, nodes go away and come.

use std::collections::BTreeSet;

use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, NAMESPACE, NODE_NAMESPACE, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl, kubectl_json, node_pod,
    node_status, operator_leader, patch_tier, stop_kubelet_until_drop, wait_until, wait_until_ready,
};
use crate::watch::flood_from_all_nodes;
use crate::witness::{RATE, Witness, rollout, target, wait_for_reason, wait_until_rolled_out};

#[test]
fn a_leader_that_is_killed_at_every_step_leaves_the_roll_out_to_the_next_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    let before = target();
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}}}}"#);
    let mut killed_at = BTreeSet::new();
    wait_until("the roll-out ends", 3 * WAIT_TIMEOUT, || {
        let rollout = rollout();
        let step = format!("{} {}", rollout["step"], rollout["zone"]);
        let is_moving = rollout["target"] != before.as_str() && rollout["step"] != "Done";
        if is_moving && killed_at.insert(step) {
            let leader = operator_leader().ok_or("nobody leads")?;
            kubectl(&["delete", "pod", "-n", NAMESPACE, &leader, "--wait=false", "--grace-period=0", "--force"]);
        }
        ensure(rollout["target"] != before.as_str() && rollout["step"] == "Done", || format!("{rollout}"))
    });
    eprintln!("killed at {killed_at:?}");
    assert!(killed_at.len() >= 3, "{killed_at:?}");
    wait_until_rolled_out();
    let target = target();
    let asked = witness.stop();
    let is_expected = |revision: &str| revision == before || revision == target;
    assert!(asked.iter().all(|one| is_expected(&one.revision)), "{asked:?}");
    kubectl(&["rollout", "status", "-n", NAMESPACE, "deployment/dnstier-operator", "--timeout=120s"]);
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
    flood.assert_none_lost();
}

#[test]
fn a_node_that_goes_first_stays_so_when_its_pod_is_made_again() {
    require!(require::lab());
    let _tier = exclusive_tier();
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}},"rollout":{"soak":"30s"}}}"#);
    wait_for_reason(&["Canary"]);
    let target = target();
    let nodes = || lab().nodes().iter().map(|node| node.name);
    let is_asked = |node: &str| node_status(node).is_ok_and(|status| status.revision.asked.as_ref() == Some(&target));
    let first = wait_until("a node goes first", WAIT_TIMEOUT, || {
        nodes().find(|node| is_asked(node)).ok_or_else(|| "none".to_owned())
    });
    let pod = node_pod(first).expect("a pod");
    kubectl(&["delete", "pod", "-n", NODE_NAMESPACE, &pod.name, "--wait=false"]);
    wait_until("the new pod of the node has the target", WAIT_TIMEOUT, || {
        let now = node_pod(first)?;
        ensure(now.uid != pod.uid && is_asked(first), || format!("{now:?}"))
    });
    patch_tier(r#"{"spec":{"rollout":{"soak":"5s"}}}"#);
    wait_until_rolled_out();
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_node_that_is_away_for_three_revisions_gets_the_newest_and_a_new_one_is_taken_along() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let witness = Witness::start();
    let kubelet = stop_kubelet_until_drop("node-f");
    wait_until("the node is away", WAIT_TIMEOUT, || {
        let status = kubectl_json(&["get", "dnstier", "default"])["status"].clone();
        ensure(status["nodes"]["away"] == 1, || format!("{}", status["nodes"]))
    });
    let mut targets = Vec::new();
    for seconds in [20, 21, 22] {
        patch_tier(&format!(r#"{{"spec":{{"nodeCache":{{"cache":{{"maxTtl":"{seconds}s"}}}}}}}}"#));
        wait_until_rolled_out();
        targets.push(target());
    }
    drop(kubelet);
    wait_until_ready();
    let asked = witness.stop();
    for target in &targets {
        let nodes: Vec<&str> =
            asked.iter().filter(|one| one.revision == *target).map(|one| one.node.as_str()).collect();
        assert_eq!((nodes.len(), nodes.last()), (6, Some(&"node-f")), "the one that is away is told last: {asked:?}");
    }
    let revision = node_status("node-f").expect("a status").revision.in_force;
    assert_eq!(revision.as_ref(), targets.last(), "it takes up the newest");

    // A node whose Node object is made again, in the middle of a change, is a new one.
    let kubelet = stop_kubelet_until_drop("node-e");
    kubectl(&["delete", "node", "node-e"]);
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_for_reason(&["Canary", "Wave"]);
    drop(kubelet);
    wait_until_ready();
    let revision = node_status("node-e").expect("a status").revision.in_force;
    assert_eq!(revision, node_status("node-a").expect("a status").revision.in_force);
}
