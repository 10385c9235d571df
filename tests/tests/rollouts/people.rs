//! Roll-outs in the hands of people, who pause them, go on, change their mind, and try again.

use dnstier_tests::require;
use node_cache_config::names::REVISION_ANNOTATION;
use serde_json::Value;

use crate::tier::{
    CLUSTER_DNS, NODE_NAMESPACE, TIER, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, kubectl_json,
    patch_tier, wait_until, wait_until_ready,
};
use crate::watch::flood_from_all_nodes;
use crate::witness::{RATE, STOPPED, Witness, target, wait_for_reason, wait_until_rolled_out};

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_paused_roll_out_stays_where_it_is_and_a_new_spec_takes_its_place() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}}}}"#);
    wait_for_reason(&["Canary"]);
    let first = target();
    pause_once_a_node_is_asked(&first);
    // Longer than a soak and a look: it would have gone on.
    std::thread::sleep(std::time::Duration::from_secs(15));
    assert_first_nodes_are_asked(&first);
    let (status, reason, _) = condition("RolledOut").expect("a condition");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Paused"));
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"21s"}},"rollout":{"paused":false}}}"#);
    wait_until_rolled_out();
    let second = target();
    let asked = witness.stop();
    let nodes = |revision: &str| {
        let of = |one: &&crate::witness::Asked| one.component == "node-cache" && one.revision == revision;
        asked.iter().filter(of).map(|one| one.zone()).collect::<Vec<_>>()
    };
    assert!((1..=3).contains(&nodes(&first).len()), "no node but the first ones sees the old target: {asked:?}");
    assert_eq!(nodes(&second).len(), 6, "{asked:?}");
    // Resumed as it was, it goes on.
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_for_reason(&["Canary"]);
    let third = target();
    pause_once_a_node_is_asked(&third);
    assert_first_nodes_are_asked(&third);
    patch_tier(r#"{"spec":{"rollout":{"paused":false}}}"#);
    wait_until_ready();
    assert_eq!(target(), third);
    flood.assert_none_lost();
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_target_that_was_taken_back_is_tried_again_when_somebody_asks() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    patch_tier(r#"{"spec":{"routes":[{"suffix":"corp.test","upstreams":[{"addresses":["192.0.2.250"]}]}]}}"#);
    wait_for_reason(&STOPPED);
    kubectl(&["annotate", "dnstier", "default", "--overwrite", "dnstier.io/retry-rollout=once-more"]);
    wait_for_reason(&["Canary"]);
    wait_for_reason(&STOPPED);
    patch_tier(r#"{"spec":{"routes":null}}"#);
    wait_until_ready();
    flood.assert_none_lost();
}

/// Pauses the roll-out of a target once a node is asked to run it.
fn pause_once_a_node_is_asked(target: &str) {
    wait_until("a node goes first", WAIT_TIMEOUT, || ensure(nodes_asked(target) > 0, || "none".to_owned()));
    patch_tier(r#"{"spec":{"rollout":{"paused":true}}}"#);
    wait_for_reason(&["Paused"]);
}

/// Asserts that some nodes are asked to run a target, and no more than the first of each zone.
fn assert_first_nodes_are_asked(target: &str) {
    let nodes = nodes_asked(target);
    assert!((1..=3).contains(&nodes), "{nodes} nodes are asked to run {target}");
}

/// Returns the number of nodes whose pod is asked to run a revision.
fn nodes_asked(revision: &str) -> usize {
    let selector = format!("app.kubernetes.io/instance={TIER},app.kubernetes.io/component=node-cache");
    let pods = kubectl_json(&["get", "pods", "-n", NODE_NAMESPACE, "-l", &selector]);
    let is_asked = |pod: &&Value| pod["metadata"]["annotations"][REVISION_ANNOTATION] == revision;
    pods["items"].as_array().expect("a list of pods").iter().filter(is_asked).count()
}
