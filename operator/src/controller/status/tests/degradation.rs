//! Condition `Degraded`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use node_cache_config::status::CaptureState;

use super::*;
use crate::controller::fixtures::{change_node_status, change_report, deployment_of};

#[test]
fn a_foreign_address_is_named_with_its_node() {
    let mut observed = settled();
    change_node_status(&mut observed, "node-pod-c", |status| {
        status.captured[2].state = CaptureState::Foreign;
    });
    assert_condition(
        &reconciled_status(&observed),
        "Degraded",
        "True",
        Reason::AddressForeign,
        &["169.254.20.10 on node-c"],
    );
}

#[test]
fn a_captured_address_of_which_some_queries_fail_is_named_with_its_node_and_the_reason() {
    let mut observed = settled();
    change_node_status(&mut observed, "node-pod-b", |status| {
        status.captured[0].reason = Some("queries of some pods are not routed to this address".to_owned());
    });
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    let parts = ["on node-b (queries of some pods are not routed to this address)"];
    assert_condition(&status, "Degraded", "True", Reason::NodesNotReady, &parts);
}

#[test]
fn a_zone_that_misses_one_of_two_resolvers_is_degraded_and_ready() {
    let mut observed = settled();
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = Some(1);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    assert_condition(&status, "Degraded", "True", Reason::ResolversNotReady, &["zone-b (1 of 2)"]);
}

#[test]
fn a_ready_pod_is_reported_after_two_failed_polls() {
    let mut observed = settled();
    let fail = |observed: &mut Observed, failures| {
        change_report(observed, "node-pod-a", |report| {
            (report.failures, report.poll_error) = (failures, Some("no answer within 2 s".into()));
        });
    };
    fail(&mut observed, 1);
    assert_condition(&reconciled_status(&observed), "Degraded", "False", Reason::Healthy, &[]);
    fail(&mut observed, 2);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Degraded", "True", Reason::StatusUnknown, &["node-a (no answer within 2 s)"]);
    assert_eq!(status.summary.unwrap().updated, "3/3", "what it had in force it has still");
}

#[test]
fn a_named_zone_without_nodes_is_degraded() {
    let observed = serving("resolvers: {zones: [zone-a, zone-b, zone-c, zone-x]}");
    let status = reconciled_status(&observed);
    let observed = with_status(observed, status);
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::ZoneWithoutNodes, &["zone-x"]);
}

#[test]
fn parts_that_do_not_answer_in_the_first_minutes_of_a_tier_are_no_problem_yet() {
    let mut observed = settled();
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = Some(1);
    let created = |text: &str| Some(Time(text.parse().unwrap()));
    Arc::make_mut(&mut observed.tier).metadata.creation_timestamp = created("2026-01-01T23:58:00Z");
    assert_condition(&reconciled_status(&observed), "Degraded", "False", Reason::Healthy, &[]);
    Arc::make_mut(&mut observed.tier).metadata.creation_timestamp = created("2026-01-01T23:56:00Z");
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::ResolversNotReady, &["zone-b"]);
}

#[test]
fn a_tier_that_never_was_ready_has_five_minutes() {
    let mut observed = settled();
    Arc::make_mut(&mut observed.tier).status = None;
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = Some(1);
    observed.pods[0].ready = false;
    let mut at = |created: &str| {
        let created = Some(Time(created.parse().unwrap()));
        Arc::make_mut(&mut observed.tier).metadata.creation_timestamp = created;
        reconciled_status(&observed)
    };
    assert_condition(&at("2026-01-01T23:55:01Z"), "Degraded", "False", Reason::Healthy, &[]);
    assert_condition(&at("2026-01-01T23:55:00Z"), "Degraded", "True", Reason::ResolversNotReady, &["zone-b"]);
}
