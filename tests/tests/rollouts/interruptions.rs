//! Interruptions of a roll-out: the leader is killed at every step, pods are made again, nodes go away and come.

use std::collections::BTreeSet;

use dnstier_tests::require;
use serde_json::{Value, json};

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, NAMESPACE, NODE_NAMESPACE, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, node_pod,
    node_pods, node_status, operator_leader, patch_tier, restore_tier, stop_kubelet_until_drop, wait_until,
    wait_until_one_is_away, wait_until_ready,
};
use crate::watch::{flood_from_all_nodes, flood_from_all_nodes_but};
use crate::witness::{Asked, RATE, Records, Witness, record, target, wait_for_reason, wait_until_rolled_out};

/// Steps of a change of resolvers, two in each of three zones.
const RESOLVER_STEPS: [&str; 6] = [
    "Resolver zone-a",
    "ResolverZone zone-a",
    "Resolver zone-b",
    "ResolverZone zone-b",
    "Resolver zone-c",
    "ResolverZone zone-c",
];
/// Steps of a change of nodes, two in each of three zones.
const NODE_STEPS: [&str; 4] = ["Canary", "Wave zone-a", "Wave zone-b", "Wave zone-c"];

/// Applies a change and kills the leader as soon as it has written that a step begins, up to the step with which the
/// roll-out ends. Asserts that these steps are among them. They are written in any case, so that the watch has them;
/// `Finish` is not where every pod has the target already.
fn kill_at_every_step(patch: &str, end: &str, steps: &[&str]) {
    let before = target();
    let records = Records::start();
    patch_tier(patch);
    let (mut killed_at, mut killed) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let record = records.next();
        if record["target"]["id"] == before.as_str() {
            continue;
        }
        if record["step"] == end {
            break;
        }
        if killed_at.insert(step_and_zone(&record)) {
            // Nobody begins a step before another one leads: the lease names the one that was killed for a while.
            let leader = wait_until("another one leads", WAIT_TIMEOUT, || {
                let leader = operator_leader().ok_or("nobody leads")?;
                ensure(!killed.contains(&leader), || format!("{leader} still leads")).map(|()| leader)
            });
            kubectl(&["delete", "pod", "-n", NAMESPACE, &leader, "--wait=false", "--grace-period=0", "--force"]);
            killed.insert(leader);
        }
    }
    eprintln!("killed at {killed_at:?}");
    for step in steps {
        assert!(killed_at.contains(*step), "killed at {step}: {killed_at:?}");
    }
}

/// Returns the step of a record, with its zone if it has one.
fn step_and_zone(record: &Value) -> String {
    let texts = [&record["step"], &record["zone"]];
    texts.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_leader_that_is_killed_at_every_step_leaves_the_roll_out_to_the_next_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    let before = target();
    let steps = [["Start"].as_slice(), &NODE_STEPS].concat();
    kill_at_every_step(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}}}}"#, "Done", &steps);
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
    let steps = [["Start"].as_slice(), &RESOLVER_STEPS, &NODE_STEPS].concat();
    kill_at_every_step(&format!(r#"{{"spec":{{"nodeCache":{cache},"resolvers":{cache}}}}}"#), "Done", &steps);
    wait_until_rolled_out();
    let proven = target();
    let dead = json!({"spec": {"routes": [{"suffix": "corp.test", "upstreams": [{"addresses": ["192.0.2.250"]}]}]}});
    kill_at_every_step(&dead.to_string(), "Stopped", &["Start", "Canary", "RollingBack"]);
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
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_node_that_goes_first_stays_so_when_its_pod_is_made_again() {
    require!(require::lab());
    let _tier = exclusive_tier();
    // A pod that is deleted withdraws as one that is replaced does, so that its node loses no query either.
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    // A machine that starts a pod may be slow elsewhere: shares of slow responses decide nothing here.
    let rollout = json!({"soak": "30s", "maxErrorIncreasePercent": 100});
    patch_tier(&json!({"spec": {"nodeCache": {"cache": {"maxTtl": "20s"}}, "rollout": rollout}}).to_string());
    wait_for_reason(&["Canary"]);
    let target = target();
    let nodes = || lab().nodes().iter().map(|node| node.name);
    let is_asked = |node: &str| node_status(node).is_ok_and(|status| status.revision.asked.as_ref() == Some(&target));
    let first = wait_until("a node goes first", WAIT_TIMEOUT, || {
        nodes().find(|node| is_asked(node)).ok_or_else(|| "none".to_owned())
    });
    let pod = node_pod(first).expect("a pod");
    kubectl(&["delete", "pod", "-n", NODE_NAMESPACE, &pod.name, "--wait=false"]);
    wait_until("the new pod of the node has the target, in the first step", WAIT_TIMEOUT, || {
        let (now, is_asked, record) = (node_pod(first)?, is_asked(first), record());
        let is_of_step = record["moved"].as_array().is_some_and(|moved| moved.contains(&json!(first)));
        // The step is watched for the whole soak once the new pod has the target in force.
        let is_first = record["target"]["id"] == target.as_str() && record["step"] == "Canary" && is_of_step;
        ensure(now.uid != pod.uid && is_asked && is_first, || format!("{now:?}, asked: {is_asked}, {record}"))
    });
    patch_tier(r#"{"spec":{"rollout":{"soak":"5s"}}}"#);
    wait_until_rolled_out();
    let asked: Vec<Asked> = witness.stop().into_iter().filter(|one| one.revision == target).collect();
    let zone = asked.iter().find(|one| one.node == first).map(Asked::zone);
    let of_zone = asked.iter().filter(|one| Some(one.zone()) == zone).map(|one| one.node.as_str());
    let nodes: Vec<&str> = of_zone.collect();
    let (last, before) = nodes.split_last().expect("nodes of the zone");
    assert!(before.len() >= 2 && before.iter().all(|node| *node == first), "both pods of the node first: {asked:?}");
    assert_ne!(*last, first, "then the other node of its zone: {asked:?}");
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
    flood.assert_none_lost();
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_node_that_is_away_for_three_revisions_gets_the_newest_and_a_new_one_is_taken_along() {
    require!(require::lab());
    let _tier = exclusive_tier();
    // A kubelet that comes back may end pods at once, without the time in which they withdraw.
    let flood = flood_from_all_nodes_but(&["node-e", "node-f"], CLUSTER_DNS, RATE);
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
    flood.assert_none_lost();
}

/// One node is dead all the while. The kubelets of the others are asked for an image that is nowhere, then for another
/// name of the one they have.
#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn an_image_that_cannot_be_pulled_stalls_the_tier_and_a_dead_node_keeps_no_other_from_a_new_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes_but(&["node-f"], CLUSTER_DNS, RATE);
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
    flood.assert_none_lost();
    patch_tier(r#"{"spec":{"nodeCache":{"image":null}}}"#);
}
