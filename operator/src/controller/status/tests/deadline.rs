//! Pods that do not run some minutes after they were made.

use super::*;
use crate::controller::fixtures::{deployment_of, pod_of, roll_out_template, set_away};

/// Returns a cluster that rolls out a template, whose first pod was made at 23:58 and does not run.
fn with_a_pod_that_does_not_run(now: &str) -> Observed {
    let mut observed = settled();
    roll_out_template(&mut observed, &["node-pod-a"]);
    let pod = pod_of(&mut observed, "node-pod-a");
    (pod.ready, pod.lifecycle.running) = (false, false);
    pod.waiting_reason = Some("cache-0: ImagePullBackOff".to_owned());
    observed.now = now.parse().unwrap();
    observed
}

#[test]
fn a_new_template_that_does_not_run_is_progress_for_five_minutes_and_then_stalls_with_the_reason() {
    let status = reconciled_status(&with_a_pod_that_does_not_run("2026-01-02T00:02:59Z"));
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert!(condition(&status, "Stalled").is_none());

    let status = reconciled_status(&with_a_pod_that_does_not_run("2026-01-02T00:03:00Z"));
    let parts = ["Pods of the newest template do not run: node-a (cache-0: ImagePullBackOff)."];
    for type_ in ["Degraded", "Stalled"] {
        assert_condition(&status, type_, "True", Reason::PodsNotRunning, &parts);
    }
    assert_condition(&status, "Progressing", "False", Reason::PodsNotRunning, &[]);
    assert_condition(&status, "Ready", "False", Reason::NodesNotReady, &["node-a"]);
    assert!(condition(&status, "Reconciling").is_none());
}

#[test]
fn a_resolver_that_does_not_run_is_named_with_its_zone() {
    let mut observed = settled();
    let status = deployment_of(&mut observed, "zone-b").status.as_mut().unwrap();
    (status.updated_replicas, status.ready_replicas) = (Some(1), Some(1));
    let pod = pod_of(&mut observed, "resolver-b-1");
    pod.lifecycle.template = Some("new".to_owned());
    pod.lifecycle.created = Some("2026-01-01T23:50:00Z".parse().unwrap());
    pod.lifecycle.running = false;
    pod.waiting_reason = Some("zone-resolver: CreateContainerError".to_owned());
    let parts = ["resolver-b-1 of zone-b (zone-resolver: CreateContainerError)"];
    assert_condition(&reconciled_status(&observed), "Stalled", "True", Reason::PodsNotRunning, &parts);
}

#[test]
fn a_pod_without_room_counts_and_one_on_a_node_that_is_away_does_not() {
    let mut observed = with_a_pod_that_does_not_run("2026-01-02T00:10:00Z");
    let pod = pod_of(&mut observed, "node-pod-a");
    pod.scheduled = false;
    pod.waiting_reason = Some("not scheduled: 0/3 nodes are available: 1 Insufficient memory".to_owned());
    let parts = ["node-a (not scheduled: 0/3 nodes are available: 1 Insufficient memory)"];
    assert_condition(&reconciled_status(&observed), "Stalled", "True", Reason::PodsNotRunning, &parts);
    set_away(&mut observed, &["node-a"]);
    let status = reconciled_status(&observed);
    assert!(condition(&status, "Stalled").is_none());
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &[]);
}

#[test]
fn a_first_template_that_does_not_run_stalls_too() {
    let mut observed = settled();
    Arc::make_mut(&mut observed.tier).status = None;
    for pod in &mut observed.pods {
        (pod.ready, pod.lifecycle.running) = (false, false);
        pod.waiting_reason = Some("agent: ImagePullBackOff".to_owned());
    }
    let status = reconciled_status(&observed);
    assert_condition(&status, "Stalled", "True", Reason::PodsNotRunning, &["node-a (agent: ImagePullBackOff)"]);
    assert_condition(&status, "Ready", "False", Reason::NodesNotReady, &[]);
}

#[test]
fn a_new_template_that_runs_and_does_not_become_ready_is_degraded_after_five_minutes() {
    let at = |now| {
        let mut observed = with_a_pod_that_does_not_run(now);
        let pod = pod_of(&mut observed, "node-pod-a");
        (pod.lifecycle.running, pod.waiting_reason) = (true, None);
        reconciled_status(&observed)
    };
    let status = at("2026-01-02T00:02:59Z");
    assert_condition(&status, "Ready", "False", Reason::RollingOut, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    let status = at("2026-01-02T00:03:00Z");
    for (type_, truth) in [("Ready", "False"), ("Degraded", "True")] {
        assert_condition(&status, type_, truth, Reason::NodesNotReady, &["1 of 3 nodes", "node-a"]);
    }
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &[]);
    assert!(condition(&status, "Stalled").is_none());
}
