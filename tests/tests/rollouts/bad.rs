//! A bad change stops at one node of a zone or one resolver, goes back by itself, and says why.

use std::collections::BTreeSet;

use dnstier_tests::require;

use crate::responders::{self, Response};
use crate::tier::{
    CLUSTER_DNS, NODE_NAMESPACE, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, kubectl_json, node_pods,
    node_status, patch_tier, restore_tier, wait_until, wait_until_ready,
};
use crate::watch::flood_from_all_nodes;
use crate::witness::{RATE, STOPPED, Witness, pods_by_zone, target, wait_for_reason};

/// Applies a change that stops, under a load of single tries on all nodes, and returns the reason and the message. Each
/// zone keeps a node, and each resolver but one, that never was asked to run it.
fn apply_bad_change(patch: &str) -> (String, String) {
    apply_and_spoil(patch, || ())
}

/// Applies a change as [`apply_bad_change`] does, and does something to it before the first pod is told.
fn apply_and_spoil(patch: &str, spoil: impl FnOnce()) -> (String, String) {
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    let proven = node_status("node-a").expect("a status").revision.in_force;
    patch_tier(patch);
    spoil();
    let (reason, message) = wait_for_reason(&STOPPED);
    let bad = target();
    assert_ne!(Some(&bad), proven.as_ref());
    let asked = witness.stop();
    let nodes = pods_by_zone(&asked, "node-cache", &bad);
    let resolvers = pods_by_zone(&asked, "zone-resolver", &bad);
    eprintln!("{reason}: {message}\nnodes {nodes:?}, resolvers {resolvers:?}");
    assert!(nodes.values().all(|nodes| *nodes == 1), "one node of a zone at most: {asked:?}");
    assert!(resolvers.values().sum::<usize>() <= 1, "one resolver at most: {asked:?}");
    assert!(!nodes.is_empty() || !resolvers.is_empty(), "somebody has tried it: {asked:?}");
    for kind in ["Degraded", "Stalled"] {
        let found = wait_until("it is told", WAIT_TIMEOUT, || {
            let found = condition(kind)?;
            ensure(found.0 == "True" && found.1 == reason, || format!("{kind}: {found:?}")).map(|()| found)
        });
        assert!(found.2.contains(&bad) || found.2 == message, "{kind}: {found:?}");
    }
    wait_until("every pod runs what it ran", WAIT_TIMEOUT, || {
        for pod in node_pods() {
            let revision = node_status(&pod.node)?.revision;
            ensure(revision.in_force == proven && revision.asked == proven, || format!("{}: {revision:?}", pod.node))?;
        }
        Ok(())
    });
    flood.assert_none_lost();
    (reason, message)
}

#[test]
fn a_route_to_a_dead_server_stops_at_the_first_node_of_each_zone() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let dead = r#"{"spec":{"routes":[{"suffix":"corp.test","upstreams":[{"addresses":["192.0.2.250"]}]}]}}"#;
    let (reason, message) = apply_bad_change(dead);
    assert_eq!(reason, "JudgedWorse", "{message}");
    assert!(message.contains("probes of corp.test SOA on node-"), "the message has the name and a node: {message}");
    // It is not tried again, whatever else is looked at, until it changes.
    let bad = target();
    kubectl(&["annotate", "dnstier", "default", "--overwrite", "example.com/look=again"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let revisions = kubectl(&[
        "get",
        "pods",
        "-n",
        NODE_NAMESPACE,
        "-o",
        r"jsonpath={.items[*].metadata.annotations.dnstier\.io/revision}",
    ]);
    assert!(!revisions.contains(&bad), "{revisions}");
    patch_tier(r#"{"spec":{"routes":null}}"#);
    wait_until_ready();
}

/// The operator writes nothing that the data plane of its version refuses. Another writer spoils a revision on its way,
/// often enough to be left alone, while the operator looks at how the first nodes are.
#[test]
fn a_change_that_nodes_refuse_stops_at_the_first_node_of_each_zone() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let map = ["configmap", "dnstier-default-revisions", "-n", NODE_NAMESPACE];
    let keys = || -> BTreeSet<String> {
        let map = kubectl_json(&[&["get"], map.as_slice()].concat());
        map["data"].as_object().expect("revisions").keys().cloned().collect()
    };
    let before = keys();
    // A lab that stays up has the revision of an earlier run.
    let stale = 40_000 + rand::random::<u16>() % 3_000;
    let cache = format!(r#"{{"cache":{{"serveStale":"{stale}s"}}}}"#);
    let change = format!(r#"{{"spec":{{"rollout":{{"soak":"30s"}},"nodeCache":{cache}}}}}"#);
    let (reason, message) = apply_and_spoil(&change, || {
        let new = wait_until("the new revision is written", WAIT_TIMEOUT, || {
            keys().difference(&before).next().cloned().ok_or_else(|| format!("{before:?}"))
        });
        let spoiled = serde_json::json!({"data": {new: "{\"tier\": \"default\"}"}}).to_string();
        wait_until("the other writer is left alone", WAIT_TIMEOUT, || {
            let patch = [&["patch"], map.as_slice(), &["--type=merge", "--field-manager=somebody", "-p", &spoiled]];
            kubectl(&patch.concat());
            let degraded = condition("Degraded")?;
            ensure(degraded.2.contains("somebody"), || format!("{degraded:?}"))
        });
    });
    assert_eq!(reason, "RevisionRefused", "{message}");
    assert!(message.contains("node-"), "the message names a node: {message}");
    restore_tier().expect("the tier is as before");
    wait_until_ready();
}

#[test]
fn upstreams_that_give_only_servfail_stop_at_one_resolver() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let (address, _server) = responders::start(Response::Servfail);
    let upstreams = format!(r#"{{"spec":{{"resolvers":{{"upstreams":[{{"addresses":["{address}"]}}]}}}}}}"#);
    let (reason, message) = apply_bad_change(&upstreams);
    assert_eq!(reason, "JudgedWorse", "{message}");
    assert!(message.contains("probes of . NS on dnstier-default-zone-"), "the message has a resolver: {message}");
    patch_tier(r#"{"spec":{"resolvers":{"upstreams":null}}}"#);
    wait_until_ready();
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn wrong_answers_to_a_probe_stop_at_the_first_node_of_each_zone() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let (address, _server) = responders::start(Response::WrongAddress);
    patch_tier(r#"{"spec":{"rollout":{"probes":[{"name":"partner.test","type":"A","compare":"Answers"}]}}}"#);
    wait_until_ready();
    let route =
        format!(r#"{{"spec":{{"routes":[{{"suffix":"partner.test","upstreams":[{{"addresses":["{address}"]}}]}}]}}}}"#);
    let (reason, message) = apply_bad_change(&route);
    assert!(reason == "WrongAnswers" && message.contains("partner.test"), "{reason}: {message}");
    patch_tier(r#"{"spec":{"routes":null,"rollout":{"probes":null}}}"#);
    wait_until_ready();
}
