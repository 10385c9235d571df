//! A good change goes to one node of each zone, then to the others, and loses no query.

use std::collections::BTreeSet;

use dnstier_tests::require;

use crate::tier::{CLUSTER_DNS, condition, ensure, exclusive_tier, patch_tier, wait_until, wait_until_ready};
use crate::watch::flood_from_all_nodes;
use crate::witness::{
    RATE, Witness, assert_none_failed, pods_by_zone, rollout, target, wait_for_reason, wait_until_rolled_out,
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
    let zones: Vec<&str> = nodes.map(super::witness::Asked::zone).collect();
    assert_eq!(zones.len(), 6, "{asked:?}");
    assert_eq!(zones[..3].iter().collect::<BTreeSet<_>>().len(), 3, "the first three are one of each zone: {zones:?}");
    assert!(pods_by_zone(&asked, "zone-resolver", &revision).is_empty(), "resolvers read nothing of it: {asked:?}");
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
    assert_none_failed(flood);
}

#[test]
fn a_change_of_resolvers_goes_to_one_resolver_then_to_its_zone_then_to_the_next_and_to_no_node() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let witness = Witness::start();
    patch_tier(r#"{"spec":{"resolvers":{"cache":{"maxTtl":"20s"}}}}"#);
    wait_for_reason(&["Resolvers"]);
    let revision = target();
    wait_until_rolled_out();
    let asked = witness.stop();
    let resolvers = asked.iter().filter(|one| one.component == "zone-resolver" && one.revision == revision);
    let zones: Vec<&str> = resolvers.map(super::witness::Asked::zone).collect();
    assert_eq!(zones.len(), 6, "{asked:?}");
    let is_pair = |pair: &[&str]| pair[0] == pair[1];
    assert!(zones.chunks(2).all(is_pair), "zone by zone: {zones:?}");
    assert!(pods_by_zone(&asked, "node-cache", &revision).is_empty(), "nodes read nothing of it: {asked:?}");
    wait_until("the tier says so", crate::tier::WAIT_TIMEOUT, || {
        let stalled = condition("Degraded")?;
        ensure(stalled.0 == "False", || format!("{stalled:?}"))
    });
}
