//! A good change goes to one node of each zone, then to the others, and loses no query.

use std::collections::BTreeSet;

use dnstier_tests::require;
use serde_json::{Value, json};

use crate::tier::{
    CLUSTER_DNS, TIER, condition, ensure, exclusive_tier, kubectl, node_pods, node_status, patch_tier, wait_until,
    wait_until_ready,
};
use crate::watch::flood_from_all_nodes;
use crate::witness::{
    Asked, RATE, Records, Witness, assert_none_failed, pods_by_zone, rollout, target, wait_for_reason,
    wait_until_rolled_out,
};

#[test]
fn a_change_of_nodes_goes_to_one_node_of_each_zone_then_to_the_others_and_loses_no_query() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    let before = target();
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}}}}"#);
    wait_for_reason(&["Canary"]);
    let revision = target();
    assert_ne!(revision, before);
    wait_for_reason(&["Wave"]);
    assert_eq!(rollout()["step"], "Wave", "{}", rollout());
    wait_until_rolled_out();
    let asked = witness.stop();
    let nodes = asked.iter().filter(|one| one.component == "node-cache" && one.revision == revision);
    let zones: Vec<&str> = nodes.map(Asked::zone).collect();
    assert_eq!(zones.len(), 6, "{asked:?}");
    assert_eq!(zones[..3].iter().collect::<BTreeSet<_>>().len(), 3, "the first three are one of each zone: {zones:?}");
    assert!(pods_by_zone(&asked, "zone-resolver", &revision).is_empty(), "resolvers read nothing of it: {asked:?}");
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    // The condition is true of the revision before, which does not count.
    kubectl(&["wait", "dnstier", TIER, "--for=condition=RolledOut", "--timeout=300s"]);
    for pod in node_pods() {
        let in_force = node_status(&pod.node).expect("a status").revision.in_force;
        assert!(in_force.is_some_and(|in_force| in_force != revision), "{} runs the old one", pod.node);
    }
    wait_until_ready();
    assert_none_failed(flood);
}

#[test]
fn a_change_of_resolvers_goes_to_one_resolver_then_to_its_zone_then_to_the_next_and_to_no_node() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let (witness, records) = (Witness::start(), Records::start());
    patch_tier(r#"{"spec":{"resolvers":{"cache":{"maxTtl":"20s"}}}}"#);
    wait_for_reason(&["Resolvers"]);
    let revision = target();
    wait_until_rolled_out();
    let (asked, records) = (witness.stop(), records.stop());
    let resolvers = asked.iter().filter(|one| one.component == "zone-resolver" && one.revision == revision);
    let resolvers: Vec<&Asked> = resolvers.collect();
    assert_eq!(resolvers.len(), 6, "{asked:?}");
    for pair in resolvers.chunks(2) {
        let (first, second, zone) = (pair[0], pair[1], pair[0].zone());
        assert_eq!(second.zone(), zone, "zone by zone: {asked:?}");
        let is_of_one = |record: &&Value| {
            record["target"]["id"] == revision.as_str() && record["step"] == "Resolver" && record["zone"] == zone
        };
        let step = records.iter().rfind(is_of_one).unwrap_or_else(|| panic!("no step of one in {zone}: {records:?}"));
        assert_eq!(step["moved"], json!([first.pod]), "one resolver of {zone} alone: {step}, {asked:?}");
        // Both are written in the same form, so that their order is that of the times.
        let in_force = step["watchedSince"].as_str().unwrap_or_else(|| panic!("never in force in {zone}: {step}"));
        assert!(first.told.as_str() <= in_force, "{first:?} is told before it has it in force: {step}");
        assert!(in_force < second.told.as_str(), "{second:?} is told once {first:?} has it in force: {step}");
    }
    assert!(pods_by_zone(&asked, "node-cache", &revision).is_empty(), "nodes read nothing of it: {asked:?}");
    wait_until("the tier says so", crate::tier::WAIT_TIMEOUT, || {
        let stalled = condition("Degraded")?;
        ensure(stalled.0 == "False", || format!("{stalled:?}"))
    });
    flood.assert_none_lost();
}
