//! Rejections, restarts and failed self-queries.

use std::collections::BTreeMap;

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::pod_look::InForce;
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};

#[test]
fn a_rejection_of_the_revision_fails_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.tell(&["canary"]);
    cluster.report("canary").refusal = Some("routes[0].suffix: no name".to_owned());
    let verdict = cluster.look_after(1);
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::RevisionRefused));
    assert_eq!(verdict.sentence, "The pod on node canary refuses the revision: routes[0].suffix: no name");
    assert_eq!(FailReason::RevisionRefused.to_string(), "RevisionRefused");
}

#[test]
fn a_restart_since_the_change_fails_at_once_and_one_before_it_does_not() {
    let mut cluster = Cluster::new(3);
    cluster.report("canary").restarts = 4;
    cluster.look();
    cluster.change(&["canary"]);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    cluster.report("canary").restarts = 6;
    let verdict = cluster.look_after(1);
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::PodCrashed));
    assert!(verdict.sentence.contains("has restarted 2 times since"), "{}", verdict.sentence);
}

#[test]
fn a_restart_is_told_by_the_start_of_a_process_and_before_the_change_is_in_force_too() {
    let mut cluster = Cluster::new(3);
    cluster.tell(&["canary"]);
    cluster.look();
    cluster.report("canary").started = 3_000;
    assert_eq!(cluster.look().outcome, Outcome::Fail(FailReason::PodCrashed));
}

#[test]
fn a_pod_that_restarts_and_never_answers_has_crashed() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.pod("canary").report = None;
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::NotInForce));
    cluster.pod("control-0").container_restarts = 9;
    cluster.pod("canary").container_restarts = 4;
    let verdict = cluster.look_after(1);
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::PodCrashed));
    assert!(verdict.sentence.contains("has restarted 2 times since"), "{}", verdict.sentence);
}

#[test]
fn a_pod_that_is_made_anew_has_not_crashed_and_has_no_past() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    cluster.pod("canary").uid = "another".to_owned();
    let report = cluster.report("canary");
    (report.started, report.restarts, report.in_force) = (3_040, 0, InForce::Other);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::NotInForce));
    cluster.report("canary").in_force = InForce::Target;
    cluster.set_load("canary", (400, 40));
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass, "nobody knows what it was like before");
}

#[test]
fn a_failed_self_query_fails_at_once_unless_it_failed_before() {
    let failure = BTreeMap::from([("169.254.20.10".parse().unwrap(), "no response within 1 s".to_owned())]);
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.report("canary").self_query_failures.clone_from(&failure);
    let verdict = cluster.look();
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::PodCrashed));
    assert!(verdict.sentence.ends_with("does not reach its own caches: 169.254.20.10: no response within 1 s"));
    let mut cluster = Cluster::new(3);
    cluster.report("canary").self_query_failures = failure;
    cluster.look();
    cluster.change(&["canary"]);
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn an_address_that_failed_before_excuses_no_other() {
    let [one, other] = ["fd00:96::a", "10.96.0.10"].map(|address| (address.parse().unwrap(), "withdrawn".to_owned()));
    let mut cluster = Cluster::new(3);
    cluster.report("canary").self_query_failures.extend([one]);
    cluster.look();
    cluster.change(&["canary"]);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    cluster.report("canary").self_query_failures.extend([other]);
    let verdict = cluster.look_after(1);
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::PodCrashed));
    assert_eq!(verdict.sentence, "The pod on node canary does not reach its own caches: 10.96.0.10: withdrawn");
}

#[test]
fn hard_signs_of_controls_and_of_pods_that_are_away_are_no_verdict() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.report("control-0").restarts = 9;
    cluster.report("control-1").refusal = Some("no".to_owned());
    cluster.report("canary").refusal = Some("no".to_owned());
    cluster.pod("canary").is_away = true;
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Away));
}

#[test]
fn a_node_that_restarts_while_it_is_away_has_not_crashed_and_what_restarts_after_it_has() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    cluster.pod("canary").is_away = true;
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Away));
    let canary = cluster.pod("canary");
    (canary.is_away, canary.is_ready) = (false, false);
    let report = cluster.report("canary");
    (report.started, report.restarts) = (3_045, 2);
    report.figures = Default::default();
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    // The kubelet counts after the pod has answered.
    cluster.pod("canary").container_restarts += 2;
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    cluster.pod("canary").is_ready = true;
    cluster.set_load("canary", (400, 40));
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass, "nor does what it counted before say anything");
    cluster.pod("canary").container_restarts += 1;
    let verdict = cluster.look_after(1);
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::PodCrashed));
    assert!(verdict.sentence.contains("has restarted once since"), "{}", verdict.sentence);
}

#[test]
fn a_pod_of_a_wave_that_is_not_told_yet_may_restart() {
    let mut cluster = Cluster::with(step(&["one", "two"]), vec![pod("control-0", "a")]);
    cluster.change(&["one"]);
    cluster.look();
    let two = cluster.report("two");
    (two.started, two.restarts) = (3_040, 2);
    cluster.pod("two").container_restarts += 1;
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::NotInForce));
    cluster.change(&["two"]);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak), "what it was like when it was told counts");
    cluster.report("two").restarts += 1;
    assert_eq!(cluster.look_after(1).outcome, Outcome::Fail(FailReason::PodCrashed));
}
