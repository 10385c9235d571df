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

/// Returns a cluster of 250 nodes that was ready before or not, with as many that do not answer.
fn large(silent: usize, was_ready: bool) -> Observed {
    let mut observed = settled();
    if !was_ready {
        Arc::make_mut(&mut observed.tier).status = None;
    }
    let template = observed.pods.iter().find(|pod| pod.name == "node-pod-a").unwrap().clone();
    let report = observed.reports[&template.uid].clone();
    observed.pods.retain(|pod| pod.resolver_zone.is_some());
    for index in 0..250 {
        let mut pod = template.clone();
        (pod.name, pod.uid) = (format!("pod-{index}"), format!("uid-{index}"));
        (pod.node, pod.ready) = (Some(format!("node-{index:03}")), index >= silent);
        Arc::make_mut(&mut observed.reports).insert(pod.uid.clone(), report.clone());
        observed.pods.push(pod);
    }
    let status = observed.owned.daemon_sets[0].status.as_mut().unwrap();
    (status.desired_number_scheduled, status.updated_number_scheduled) = (250, Some(250));
    observed
}

#[test]
fn one_node_in_a_hundred_may_be_silent_once_the_tier_was_ready_and_the_message_names_none() {
    let status = reconciled_status(&large(2, true));
    let sentence = "248 nodes answer through their caches and 2 do not, 6 resolvers in 3 zones behind them.";
    assert_condition(&status, "Ready", "True", Reason::Serving, &[sentence]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert_eq!(status.nodes.unwrap().ready, 248);
    assert_condition(&reconciled_status(&large(3, true)), "Ready", "False", Reason::NodesNotReady, &["3 of 250 nodes"]);
    assert_condition(&reconciled_status(&large(1, false)), "Ready", "False", Reason::Starting, &[]);
}

#[test]
fn a_tier_that_was_ready_once_needs_no_more_than_that_to_become_ready_again() {
    let failed = large(3, true);
    let status = reconciled_status(&failed);
    assert_condition(&status, "Ready", "False", Reason::NodesNotReady, &[]);
    assert!(status.first_ready_time.is_some());
    let recovered = with_status(large(2, true), status);
    assert_condition(&reconciled_status(&recovered), "Ready", "True", Reason::Serving, &[]);
}

#[test]
fn the_time_of_the_first_readiness_is_kept() {
    let first = reconciled_status(&settled());
    let time = first.first_ready_time.clone().unwrap();
    let mut observed = with_status(settled(), first);
    observed.now = "2026-01-05T00:00:00Z".parse().unwrap();
    for ready in [false, true] {
        observed.pods[0].ready = ready;
        let status = reconciled_status(&observed);
        assert_eq!(status.first_ready_time, Some(time.clone()));
        observed = with_status(observed, status);
    }
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
