//! When a step passes, and when it waits.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::pod_look::InForce;
use crate::controller::judge::trial::{MissingProbes, Step};
use crate::controller::judge::verdict::{HoldReason, Outcome};
use crate::controller::rollout::pods::Role;

const SOAK: Outcome = Outcome::Hold(HoldReason::Soak);

/// Returns the numbers of probes that are missing before a look and after it.
fn missing(before: usize, after: usize) -> BTreeMap<Role, MissingProbes> {
    BTreeMap::from([(Role::Node, MissingProbes { before, after })])
}

#[test]
fn a_step_passes_only_at_the_end_of_the_soak() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    assert_eq!(cluster.outcomes(6), [SOAK; 6]);
    let verdict = cluster.look();
    assert_eq!(verdict.outcome, Outcome::Pass);
    assert_eq!(verdict.sentence, "One pod showed nothing worse than the controls for 30 s");
}

#[test]
fn the_soak_begins_when_the_last_pod_has_the_change_in_force() {
    let mut cluster = Cluster::with(step(&["canary", "second"]), vec![pod("control-0", "a")]);
    cluster.change(&["canary"]);
    let verdict = cluster.look();
    assert_eq!(verdict.outcome, Outcome::Hold(HoldReason::NotInForce));
    let sentence = "1 of 2 pods of the step do not have the revision in force yet, second among them";
    assert_eq!(verdict.sentence, sentence);
    (0..10).for_each(|_| drop(cluster.look()));
    cluster.report("second").in_force = InForce::Target;
    assert_eq!(cluster.outcomes(7), [&[SOAK; 6][..], &[Outcome::Pass]].concat());
}

#[test]
fn a_canary_that_takes_the_place_of_another_is_judged_in_its_stead() {
    let mut cluster = Cluster::new(3);
    cluster.tell(&["canary"]);
    cluster.look();
    cluster.report("control-0").restarts = 5;
    cluster.look();
    cluster.trial.update_step(step(&["control-0"]));
    cluster.tell(&["control-0"]);
    cluster.look();
    cluster.report("control-0").in_force = InForce::Target;
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn a_soak_that_an_earlier_process_has_seen_begin_goes_on() {
    let seen = Step { soak_start: Some(Duration::from_secs(3_015)), ..step(&["canary"]) };
    let mut cluster = Cluster::with(seen, vec![pod("control-0", "a")]);
    cluster.change(&["canary"]);
    assert_eq!(cluster.outcomes(2), [SOAK, Outcome::Pass]);
}

#[test]
fn nothing_passes_before_pods_are_told() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.outcomes(20), [Outcome::Hold(HoldReason::NotInForce); 20]);
}

#[test]
fn a_pod_of_a_wave_that_stays_behind_can_be_excused() {
    let mut cluster = Cluster::with(step(&["one", "two", "three"]), vec![pod("control-0", "a")]);
    cluster.change(&["one", "two"]);
    assert_eq!(cluster.outcomes(20), [Outcome::Hold(HoldReason::NotInForce); 20]);
    cluster.trial.start_soak(Duration::from_secs(cluster.now));
    assert_eq!(cluster.outcomes(6)[4..], [SOAK, Outcome::Pass]);
}

#[test]
fn a_step_does_not_pass_while_probes_are_still_to_be_asked() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.trial.wait_for_probes(missing(7, 2));
    assert_eq!(cluster.outcomes(19), [SOAK; 19]);
    assert_eq!(cluster.look().sentence, "One pod showed nothing worse for 95 s; probes still to be asked: 7");
    cluster.set_probe(&["canary", "control-0"], Some(0), "1");
    assert_eq!(cluster.look().sentence, "One pod showed nothing worse for 100 s; probes still to be asked: 2");
    cluster.trial.wait_for_probes(missing(2, 0));
    cluster.report("control-0").probes.clear();
    assert_eq!(cluster.look().outcome, SOAK, "what was asked beside no control is asked again");
    cluster.set_probe(&["control-0"], Some(0), "1");
    assert_eq!(cluster.look().outcome, Outcome::Pass);
}

/// Returns a cluster with a step of these pods that needs a ready one.
fn cluster_that_needs_a_ready_pod(pods: &[&str]) -> Cluster {
    let mut cluster = Cluster::with(Step { needs_ready: true, ..step(pods) }, vec![pod("control-0", "a")]);
    cluster.change(pods);
    cluster
}

#[test]
fn a_first_pod_that_is_not_ready_shows_nothing_and_the_sentence_says_so() {
    let mut cluster = cluster_that_needs_a_ready_pod(&["canary"]);
    cluster.look();
    cluster.pod("canary").is_ready = false;
    assert_eq!(cluster.outcomes(40), [Outcome::Hold(HoldReason::NotReady); 40]);
    assert_eq!(cluster.look().sentence, "The pod on node canary is not ready");
    cluster.pod("canary").is_ready = true;
    assert_eq!(cluster.look().outcome, Outcome::Pass);
}

#[test]
fn one_ready_pod_shows_the_change_and_pods_that_are_away_or_behind_do_not_count() {
    let mut cluster = cluster_that_needs_a_ready_pod(&["one", "two"]);
    cluster.pod("one").is_ready = false;
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
    cluster.pod("two").is_ready = false;
    assert_eq!(cluster.look().sentence, "2 pods of the step are not ready, one among them");
    cluster.pod("two").is_away = true;
    assert_eq!(cluster.look().sentence, "The pod on node one is not ready");
    let mut cluster = cluster_that_needs_a_ready_pod(&["one", "two"]);
    cluster.pod("one").is_ready = false;
    cluster.report("two").in_force = InForce::Other;
    cluster.trial.start_soak(Duration::from_secs(cluster.now));
    assert_eq!(cluster.look().sentence, "The pod on node one is not ready");
}

#[test]
fn a_later_step_passes_although_none_of_its_pods_is_ready() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.pod("canary").is_ready = false;
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}
