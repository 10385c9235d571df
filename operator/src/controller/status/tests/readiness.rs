//! Condition `Ready`, and the status of a tier that serves.

use node_cache_config::status::CaptureState;

use super::*;
use crate::controller::fixtures::{apply_to, change_node_status, deployment_of};

#[test]
fn a_tier_that_serves_says_so_in_every_column() {
    let status = reconciled_status(&settled());
    assert_condition(&status, "Ready", "True", Reason::Serving, &["3 nodes", "6 resolvers in 3 zones"]);
    assert_condition(&status, "Progressing", "False", Reason::Settled, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert!(condition(&status, "Reconciling").is_none() && condition(&status, "Stalled").is_none());
    let summary = status.summary.unwrap();
    assert_eq!((summary.ready.as_str(), summary.resolvers.as_str(), summary.updated.as_str()), ("3/3", "6/6", "3/3"));
    assert_eq!(summary.zones, 3);
    let revision = status.revision.unwrap();
    assert!(revision.current.is_some() && revision.current == revision.target);
}

#[test]
fn a_second_reconciliation_writes_the_very_same_status() {
    let mut observed = settled();
    let first = reconciled_status(&observed);
    observed.now = "2026-01-03T00:00:00Z".parse().unwrap();
    let observed = with_status(observed, first.clone());
    assert_eq!(reconciled_status(&observed), first);
}

#[test]
fn a_tier_that_was_just_created_is_starting() {
    let mut observed = cluster("{}");
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "False", Reason::Starting, &[]);
    assert_condition(&status, "Reconciling", "True", Reason::Starting, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    let first = build_desired(&observed);
    apply_to(&mut observed, first);
    assert_condition(&reconciled_status(&observed), "Ready", "False", Reason::Starting, &[]);
}

#[test]
fn a_node_that_stops_answering_is_named() {
    let mut observed = settled();
    observed.pods[0].ready = false;
    observed.pods[0].waiting_reason = Some("agent: CrashLoopBackOff".to_owned());
    let status = reconciled_status(&observed);
    assert_condition(
        &status,
        "Ready",
        "False",
        Reason::NodesNotReady,
        &["1 of 3 nodes", "node-a (agent: CrashLoopBackOff)"],
    );
    assert_condition(&status, "Degraded", "True", Reason::NodesNotReady, &["node-a"]);
    assert_eq!(status.summary.unwrap().ready, "2/3");
}

#[test]
fn a_node_whose_address_is_withdrawn_does_not_count_as_ready() {
    let mut observed = settled();
    change_node_status(&mut observed, "node-pod-b", |status| {
        status.captured[0].state = CaptureState::Withdrawn;
        status.captured[0].reason = Some("the self-query failed".to_owned());
    });
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "False", Reason::NodesNotReady, &["node-b (10.96.0.10: the self-query failed)"]);
}

#[test]
fn a_zone_without_a_ready_resolver_is_named_and_then_none_at_all() {
    let mut observed = settled();
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = None;
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "False", Reason::ResolversNotReady, &["zone-b", "other zones"]);
    assert_eq!(status.summary.unwrap().resolvers, "4/6");
    for zone in ["zone-a", "zone-c"] {
        deployment_of(&mut observed, zone).status.as_mut().unwrap().ready_replicas = None;
    }
    assert_condition(&reconciled_status(&observed), "Ready", "False", Reason::NoResolvers, &["caches"]);
}

#[test]
fn a_terminating_pod_leaves_a_gap_that_is_reported() {
    let mut observed = settled();
    observed.pods[0].terminating = true;
    assert_condition(
        &reconciled_status(&observed),
        "Ready",
        "False",
        Reason::NodesNotReady,
        &["1 of 3 nodes", "1 without a pod"],
    );
}
