//! Condition `Progressing` during rollouts.

use super::*;
use crate::controller::fixtures::change_node_status;

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
