//! Condition `Progressing` during rollouts.

use k8s_openapi::jiff::SignedDuration;
use node_cache_config::status::NOT_IN_VOLUME;

use super::*;
use crate::controller::fixtures::{change_node_status, change_report};
use crate::controller::observe::poll::PodReport;
use crate::controller::owned::telling::Telling;

#[test]
fn a_refused_revision_is_reported_with_the_message_of_the_process() {
    let mut observed = settled();
    change_node_status(&mut observed, "node-pod-a", |status| {
        status.instances[1].revision.in_force = Some("older".to_owned());
        status.instances[1].revision.refusal = Some("routes[0].suffix: no name.".to_owned());
    });
    let status = reconciled_status(&observed);
    assert_condition(
        &status,
        "Degraded",
        "True",
        Reason::RevisionRefused,
        &["Refused by node-a: routes[0].suffix: no name."],
    );
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &["1 of 3 nodes"]);
    assert_eq!(status.summary.unwrap().updated, "2/3");
}

#[test]
fn a_revision_that_does_not_reach_a_volume_is_named_after_a_minute() {
    let mut observed = settled();
    change_node_status(&mut observed, "node-pod-a", |status| {
        status.revision.in_force = Some("older".to_owned());
        status.revision.refusal = Some(format!("revision newer {NOT_IN_VOLUME}"));
    });
    let told = |seconds| observed.now - SignedDuration::from_secs(seconds);
    for (seconds, truth, reason) in [(10, "False", Reason::Healthy), (70, "True", Reason::RevisionRefused)] {
        let mut observed = observed.clone();
        let pod = observed.pods.iter_mut().find(|pod| pod.name == "node-pod-a").unwrap();
        pod.told = Some(Telling { number: 1, time: told(seconds) });
        let texts: &[&str] =
            if truth == "True" { &["Refused by node-a: revision newer is not in the volume"] } else { &[] };
        assert_condition(&reconciled_status(&observed), "Degraded", truth, reason, texts);
    }
}

#[test]
fn a_template_that_is_being_rolled_out_is_progress_and_no_trouble() {
    let mut observed = settled();
    let daemon_set = observed.owned.daemon_sets[0].status.as_mut().unwrap();
    daemon_set.updated_number_scheduled = Some(1);
    observed.pods[0].ready = false;
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "False", Reason::RollingOut, &["node-a"]);
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &["2 of 3 nodes"]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    let revision = status.revision.unwrap();
    assert!(revision.current.is_some(), "what was everywhere once is not forgotten");
}

#[test]
fn a_template_that_nobody_has_looked_at_yet_is_not_taken_for_done() {
    let mut observed = settled();
    observed.owned.daemon_sets[0].metadata.generation = Some(2);
    assert_condition(&reconciled_status(&observed), "Reconciling", "True", Reason::RollingOut, &[]);
}

/// Makes the report about a pod the one of an operator that has just started.
fn forget(observed: &mut Observed, pod: &str, is_awaited: bool) {
    change_report(observed, pod, |report| *report = PodReport::unpolled(is_awaited));
}

fn names(observed: &Observed) -> Vec<String> {
    observed.pods.iter().map(|pod| pod.name.clone()).collect()
}

#[test]
fn a_start_of_the_operator_changes_no_status_before_the_first_round_of_polls_is_over() {
    let mut observed = settled();
    change_node_status(&mut observed, "node-pod-a", |status| {
        status.instances[1].revision.refusal = Some("routes[0].suffix: no name.".to_owned());
        status.captured[0].state = node_cache_config::status::CaptureState::Withdrawn;
    });
    let before = reconciled_status(&observed);
    assert_condition(&before, "Degraded", "True", Reason::RevisionRefused, &["node-a"]);
    let mut observed = with_status(observed, before.clone());
    for pod in names(&observed) {
        forget(&mut observed, &pod, true);
        assert_eq!(reconciled_status(&observed), before);
    }
    Arc::make_mut(&mut observed.tier).metadata.generation = Some(2);
    assert_eq!(reconciled_status(&observed).observed_generation, Some(2), "a change of the tier is told at once");
}

#[test]
fn pods_that_have_not_answered_since_the_operator_started_count_as_the_status_said() {
    let observed = settled();
    let mut unknown = observed.clone();
    for pod in names(&observed) {
        forget(&mut unknown, &pod, false);
    }
    let status = reconciled_status(&unknown);
    assert_eq!(status.nodes.as_ref().unwrap().updated, 3);
    assert_condition(&status, "Progressing", "False", Reason::Settled, &[]);

    let mut behind = observed.clone();
    change_node_status(&mut behind, "node-pod-a", |status| status.revision.in_force = Some("older".to_owned()));
    let status = reconciled_status(&behind);
    let mut behind = with_status(behind, status);
    for pod in ["node-pod-b", "resolver-c-1"] {
        forget(&mut behind, pod, false);
    }
    assert_eq!(reconciled_status(&behind).nodes.unwrap().updated, 2, "what is known to be behind stays so");

    for pod in &mut unknown.pods {
        pod.annotated_revision = Some("older".to_owned());
    }
    assert_eq!(reconciled_status(&unknown).nodes.unwrap().updated, 0, "what was asked to run another one is behind");
}
