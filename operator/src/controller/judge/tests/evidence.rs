//! Looks that show nothing, or come too early.

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::verdict::{HoldReason, Outcome};

#[test]
fn a_silent_canary_never_passes() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    let report = cluster.pod("canary").report.take();
    let outcomes = cluster.outcomes(40);
    assert_eq!(outcomes[39], Outcome::Hold(HoldReason::NoFigures));
    assert!(!outcomes.contains(&Outcome::Pass));
    cluster.pod("canary").report = report;
    assert_eq!(cluster.look().outcome, Outcome::Pass);
}

#[test]
fn one_silent_pod_of_a_wave_holds_up_nothing() {
    let mut cluster = Cluster::with(step(&["one", "two", "three"]), vec![pod("control-0", "a")]);
    cluster.change(&["one", "two", "three"]);
    cluster.look();
    cluster.pod("two").report = None;
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn no_verdict_comes_from_nodes_that_are_away() {
    let mut cluster = Cluster::with(step(&["one", "two"]), vec![pod("control-0", "a"), pod("control-1", "a")]);
    cluster.change(&["one", "two"]);
    cluster.look();
    cluster.pod("one").is_away = true;
    cluster.set_load("one", (400, 400));
    cluster.report("one").restarts = 7;
    let verdict = cluster.last_verdict();
    assert_eq!(verdict.outcome, Outcome::Pass, "the other pod decides");
    cluster.pod("two").is_away = true;
    assert_eq!(cluster.outcomes(10), [Outcome::Hold(HoldReason::Away); 10]);
}

#[test]
fn a_step_without_pods_is_told_from_one_whose_nodes_are_away() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.pod("canary").is_away = true;
    assert_eq!(cluster.look().sentence, "Every pod of the step is on a node that is away");
    cluster.looks.retain(|look| look.name != "canary");
    let verdict = cluster.look();
    assert_eq!(verdict.outcome, Outcome::Hold(HoldReason::Away));
    assert_eq!(verdict.sentence, "No pod of the step is there");
}

#[test]
fn a_look_that_comes_early_repeats_the_last_verdict() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    let verdict = cluster.look();
    cluster.set_load("canary", (4_000, 4_000));
    assert_eq!(cluster.look_after(1), verdict);
    assert_eq!(cluster.look_after(3), verdict);
    assert_ne!(cluster.look_after(1).sentence, verdict.sentence);
}

#[test]
fn a_past_of_half_a_minute_is_enough() {
    let mut cluster = Cluster::with(step(&["canary"]), vec![pod("control-0", "a")]);
    assert!(cluster.trial.has_long_past());
    cluster.pod("canary").uid = "another".to_owned();
    cluster.look();
    assert!(!cluster.trial.has_long_past());
    let has_past = |cluster: &mut Cluster| {
        cluster.look();
        cluster.trial.has_long_past()
    };
    let looks = (1..).find(|_| has_past(&mut cluster)).unwrap();
    assert_eq!(looks, 6);
}

#[test]
fn nobody_has_a_past_while_no_pod_of_the_step_that_is_there_has_reported() {
    let mut silent = pod("one", "a");
    silent.report = None;
    let mut cluster = Cluster::with(step(&["canary"]), vec![pod("control-0", "a"), silent]);
    cluster.trial.update_step(step(&["one"]));
    cluster.look();
    assert!(!cluster.trial.has_long_past());
    cluster.trial.update_step(step(&["one", "canary"]));
    assert!(cluster.trial.has_long_past());
    cluster.pod("canary").is_away = true;
    cluster.look();
    assert!(!cluster.trial.has_long_past(), "the one with a past is away");
}
