//! Interruptions of a roll-out: the leader is killed at every step, pods are made again, nodes go away and come.

use std::collections::BTreeSet;

use dnstier_tests::require;
use serde_json::json;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, NAMESPACE, NODE_NAMESPACE, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, node_pod,
    node_pods, node_status, operator_leader, patch_tier, restore_tier, stop_kubelet_until_drop, wait_until,
    wait_until_one_is_away, wait_until_ready,
};
use crate::watch::flood_from_all_nodes;
use crate::witness::{RATE, Witness, record, target, wait_for_reason, wait_until_rolled_out};

/// Applies a change and kills the leader at each step of its roll-out, up to the step with which it ends. Returns the
/// names of the steps at which one was killed, with their zones.
fn kill_at_every_step(patch: &str, end: &str) -> BTreeSet<String> {
    let before = target();
    patch_tier(patch);
    let mut killed_at = BTreeSet::new();
    wait_until("the roll-out ends", 6 * WAIT_TIMEOUT, || {
        // The status lags behind the record by seconds, and some steps last no longer.
        let record = record();
        let step = format!("{} {}", record["step"], record["zone"]).replace('"', "");
        let is_over = record["target"]["id"] != before.as_str() && record["step"] == end;
        if record["target"]["id"] != before.as_str() && !is_over && killed_at.insert(step) {
            let leader = operator_leader().ok_or("nobody leads")?;
            kubectl(&["delete", "pod", "-n", NAMESPACE, &leader, "--wait=false", "--grace-period=0", "--force"]);
        }
        ensure(is_over, || format!("{record}"))
    });
    eprintln!("killed at {killed_at:?}");
    killed_at
}

#[test]
fn a_leader_that_is_killed_at_every_step_leaves_the_roll_out_to_the_next_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    let before = target();
    let killed_at = kill_at_every_step(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}}}}"#, "Done");
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
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_leader_that_is_killed_at_every_step_of_resolvers_and_of_a_roll_back_leaves_them_to_the_next_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let cache = r#"{"cache":{"serveStale":"12h"}}"#;
    let killed_at = kill_at_every_step(&format!(r#"{{"spec":{{"nodeCache":{cache},"resolvers":{cache}}}}}"#), "Done");
    assert!(killed_at.contains("Resolver zone-a") && killed_at.len() >= 6, "{killed_at:?}");
    wait_until_rolled_out();
    let proven = target();
    let dead = json!({"spec": {"routes": [{"suffix": "corp.test", "upstreams": [{"addresses": ["192.0.2.250"]}]}]}});
    let killed_at = kill_at_every_step(&dead.to_string(), "Stopped");
    assert!(killed_at.iter().any(|step| step.starts_with("RollingBack")), "{killed_at:?}");
    wait_until("every node runs what is proven", WAIT_TIMEOUT, || {
        for node in lab().nodes() {
            let revision = node_status(node.name)?.revision;
            ensure(revision.in_force.as_ref() == Some(&proven), || format!("{}: {revision:?}", node.name))?;
        }
        Ok(())
    });
    kubectl(&["rollout", "status", "-n", NAMESPACE, "deployment/dnstier-operator", "--timeout=120s"]);
    restore_tier().expect("the tier is as before");
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
    wait_until_one_is_away();
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

/// One node is dead all the while. The kubelets of the others are asked for an image that is nowhere, then for another
/// name of the one they have.
#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn an_image_that_cannot_be_pulled_stalls_the_tier_and_a_dead_node_keeps_no_other_from_a_new_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let _kubelet = stop_kubelet_until_drop("node-f");
    wait_until_one_is_away();
    let set_image = |image: &str| patch_tier(&json!({"spec": {"nodeCache": {"image": image}}}).to_string());
    set_image("localhost/dnstier-node-cache:nowhere");
    // Five minutes have to pass.
    for kind in ["Stalled", "Degraded"] {
        let found = wait_until("the tier is stalled", 6 * WAIT_TIMEOUT, || {
            let found = condition(kind)?;
            ensure(found.0 == "True" && found.1 == "PodsNotRunning", || format!("{kind}: {found:?}")).map(|()| found)
        });
        eprintln!("{kind}: {found:?}");
        assert!(found.2.contains("Image"), "the reason of the kubelet is told: {found:?}");
    }
    let ready = node_pods().into_iter().filter(|pod| pod.ready && pod.node != "node-f").count();
    assert!(ready >= 4, "no more than one pod that runs was replaced: {:?}", node_pods());

    let image = lab().image("dnstier-node-cache").expect("the image");
    let before = node_pods();
    set_image(&lab().alias_image(&image, "beside-a-dead-node").expect("a second name for the same image"));
    wait_until("every node pod that is there is a new one", 2 * WAIT_TIMEOUT, || {
        let now = node_pods();
        let is_new = |node: &str| {
            let pod = now.iter().find(|pod| pod.node == node).filter(|pod| pod.ready);
            pod.is_some_and(|pod| before.iter().all(|before| before.uid != pod.uid))
        };
        let live = lab().nodes().iter().map(|node| node.name).filter(|node| *node != "node-f");
        ensure(live.clone().all(is_new), || format!("{now:?}"))
    });
    wait_until("the tier is at rest beside the dead node", WAIT_TIMEOUT, || {
        let (progressing, stalled) = (condition("Progressing")?, condition("Stalled"));
        ensure(progressing.0 == "False" && stalled.is_err(), || format!("{progressing:?} {stalled:?}"))
    });
    patch_tier(r#"{"spec":{"nodeCache":{"image":null}}}"#);
}
