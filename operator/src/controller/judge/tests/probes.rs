//! Probes of pods of a step and of controls.

use std::time::Duration;

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::trial::Step;
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};

const SUSPICION: Outcome = Outcome::Hold(HoldReason::Suspicion);
const ALL: [&str; 4] = ["canary", "control-0", "control-1", "control-2"];

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.set_probe(&ALL, Some(0), "1");
    cluster.look();
    cluster.change(&["canary"]);
    cluster
}

#[test]
fn a_dead_route_fails_in_the_second_look() {
    let mut cluster = cluster();
    cluster.set_probe(&["canary"], None, "");
    assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(FailReason::JudgedWorse)]);
    let sentence = cluster.look_after(1).sentence;
    assert_eq!(sentence, "2 of the last 3 probes of www.example A on canary got no answer, unlike 3 controls");
}

#[test]
fn other_answers_than_those_of_the_controls_are_wrong_answers() {
    let mut cluster = cluster();
    cluster.set_probe(&["canary"], Some(0), "2");
    assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(FailReason::WrongAnswers)]);
}

#[test]
fn one_lost_probe_delays_the_pass_and_fails_nothing() {
    let mut cluster = cluster();
    cluster.look();
    cluster.set_probe(&["canary"], None, "");
    assert_eq!(cluster.look().outcome, SUSPICION);
    cluster.set_probe(&["canary"], Some(0), "1");
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
    let mut cluster = self::cluster();
    (0..6).for_each(|_| drop(cluster.look()));
    cluster.set_probe(&["canary"], None, "");
    assert_eq!(cluster.look().outcome, SUSPICION, "the soak is over, the doubt is not");
}

#[test]
fn probes_that_fail_on_controls_too_hold_and_never_fail() {
    let mut cluster = cluster();
    cluster.set_probe(&ALL, None, "");
    let outcomes = cluster.outcomes(40);
    assert_eq!(outcomes[1..], [Outcome::Hold(HoldReason::ControlsFailing); 39]);
    cluster.set_probe(&ALL, Some(0), "1");
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn low_traffic_leaves_the_verdict_to_probes() {
    let mut cluster = cluster();
    for name in ALL {
        cluster.set_load(name, (1, 0));
    }
    cluster.set_load("canary", (1, 1));
    cluster.look();
    cluster.set_probe(&["canary"], Some(2), "");
    assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(FailReason::JudgedWorse)]);
}

#[test]
fn where_no_control_is_left_a_pod_is_compared_with_its_own_answers_just_before() {
    let mut cluster = Cluster::new(0);
    cluster.set_probe(&["canary"], Some(0), "1");
    cluster.look();
    cluster.change(&["canary"]);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    cluster.set_probe(&["canary"], Some(0), "2");
    assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(FailReason::WrongAnswers)]);
    assert!(cluster.look_after(1).sentence.ends_with("than its own answers just before"));
}

#[test]
fn controls_of_other_zones_are_asked_where_the_zone_has_none() {
    let mut cluster = Cluster::with(step(&["canary"]), vec![pod("control-0", "b"), pod("control-1", "c")]);
    let all = ["canary", "control-0", "control-1"];
    cluster.set_probe(&all, Some(0), "1");
    cluster.look();
    cluster.change(&["canary"]);
    cluster.set_probe(&all, None, "");
    assert_eq!(cluster.outcomes(2)[1], Outcome::Hold(HoldReason::ControlsFailing));
}

#[test]
fn a_look_in_which_controls_were_not_asked_decides_nothing() {
    let mut cluster = cluster();
    for name in &ALL[1..] {
        cluster.report(name).probes.clear();
    }
    cluster.set_probe(&["canary"], None, "");
    assert_eq!(cluster.outcomes(3), [Outcome::Hold(HoldReason::Soak); 3]);
}

#[test]
fn among_many_pods_one_pod_needs_three_bad_looks_and_two_pods_need_two() {
    let pods = ["one", "two", "three", "four"];
    let cluster = |bad: &[&str]| {
        let mut cluster = Cluster::with(step(&pods), vec![pod("control-0", "a")]);
        cluster.set_probe(&[&pods[..], &["control-0"]].concat(), Some(0), "1");
        cluster.look();
        cluster.change(&pods);
        cluster.set_probe(bad, None, "");
        cluster
    };
    let fail = Outcome::Fail(FailReason::JudgedWorse);
    assert_eq!(cluster(&["two"]).outcomes(3), [SUSPICION, SUSPICION, fail]);
    assert_eq!(cluster(&["two", "four"]).outcomes(2), [SUSPICION, fail]);
}

/// Returns a cluster in which no control is asked for probes: none answers any more, or none is ready.
fn cluster_without_probed_controls(are_silent: bool) -> Cluster {
    let mut cluster = cluster();
    cluster.look();
    for name in &ALL[1..] {
        if are_silent {
            cluster.pod(name).report = None;
        } else {
            cluster.report(name).probes.clear();
        }
    }
    cluster
}

#[test]
fn controls_that_are_asked_no_more_are_not_gone_and_after_a_minute_a_pod_is_compared_with_its_own_answers() {
    for are_silent in [true, false] {
        let mut cluster = cluster_without_probed_controls(are_silent);
        cluster.set_probe(&["canary"], None, "");
        let outcomes = cluster.outcomes(14);
        assert_eq!(outcomes[..12], [Outcome::Hold(HoldReason::Soak); 12], "nobody can compare");
        assert_eq!(outcomes[12..], [SUSPICION, Outcome::Fail(FailReason::JudgedWorse)]);
        assert!(cluster.look_after(1).sentence.ends_with("got no answer, unlike its own answers just before"));
    }
}

#[test]
fn a_step_does_not_wait_for_ever_for_controls_that_are_asked_no_more() {
    for are_silent in [true, false] {
        let mut cluster = cluster_without_probed_controls(are_silent);
        let outcomes = cluster.outcomes(12);
        assert_eq!(outcomes, [Outcome::Hold(HoldReason::Soak); 12]);
        let sentence = "One pod showed nothing worse for 60 s; no control has answered probes at the same time";
        assert_eq!(cluster.trial.glance(&cluster.looks).unwrap().sentence, sentence);
        assert_eq!(cluster.look().outcome, Outcome::Pass);
        let mut cluster = cluster_without_probed_controls(are_silent);
        cluster.look();
        cluster.report("canary").probes.clear();
        assert_eq!(cluster.last_verdict().outcome, Outcome::Pass, "nor for a pod that is not asked any more");
    }
}

#[test]
fn controls_that_are_asked_again_are_compared_with_at_once() {
    let mut cluster = cluster_without_probed_controls(false);
    cluster.set_probe(&["canary"], None, "");
    cluster.outcomes(10);
    cluster.set_probe(&ALL, None, "");
    assert_eq!(cluster.outcomes(30)[1..], [Outcome::Hold(HoldReason::ControlsFailing); 29]);
    cluster.set_probe(&ALL, Some(0), "1");
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn a_soak_below_15_s_is_judged_by_probes() {
    let short = Step { soak: Duration::from_secs(5), ..step(&["canary"]) };
    let controls = (0..3).map(|number| pod(&format!("control-{number}"), "a"));
    let mut cluster = Cluster::with(short, controls.collect());
    cluster.set_probe(&ALL, Some(0), "1");
    cluster.look();
    cluster.change(&["canary"]);
    cluster.set_probe(&["canary"], None, "");
    assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(FailReason::JudgedWorse)]);
}

/// Puts another pod in the place of the canary, with the change in force.
fn make_canary_anew(cluster: &mut Cluster) {
    cluster.look();
    cluster.pod("canary").uid = "another".to_owned();
}

#[test]
fn a_route_that_was_dead_all_the_time_holds_up_no_pod_that_is_made_anew() {
    let mut cluster = Cluster::new(3);
    cluster.set_probe(&ALL, None, "");
    cluster.look();
    cluster.change(&["canary"]);
    make_canary_anew(&mut cluster);
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn a_pod_that_is_made_anew_and_has_answered_waits_for_controls_that_fail() {
    let mut cluster = cluster();
    make_canary_anew(&mut cluster);
    cluster.look();
    cluster.set_probe(&ALL, None, "");
    assert_eq!(cluster.outcomes(40)[1..], [Outcome::Hold(HoldReason::ControlsFailing); 39]);
}

#[test]
fn with_neither_a_past_nor_a_control_only_names_that_the_change_leads_elsewhere_are_judged() {
    let cluster = |is_unchanged_route: bool| {
        let mut cluster = Cluster::new(0);
        cluster.change(&["canary"]);
        cluster.set_probe(&["canary"], None, "");
        cluster.report("canary").probes[0].is_unchanged_route = is_unchanged_route;
        cluster
    };
    assert_eq!(cluster(true).last_verdict().outcome, Outcome::Pass);
    let verdict = cluster(false).last_verdict();
    assert_eq!(verdict.outcome, Outcome::Fail(FailReason::JudgedWorse));
    assert_eq!(verdict.sentence, "2 of the last 3 probes of www.example A on canary got no answer");
}

#[test]
fn a_look_without_probes_says_no_more_than_the_last_one_with_them() {
    let mut cluster = cluster();
    cluster.set_probe(&["canary"], None, "");
    let verdict = cluster.look();
    assert_eq!(verdict.outcome, SUSPICION);
    ALL.iter().for_each(|name| cluster.report(name).probes.clear());
    assert_eq!((cluster.look(), cluster.look()), (verdict.clone(), verdict.clone()));
    assert!(verdict.sentence.ends_with("was worse than 3 controls"), "{}", verdict.sentence);
    let doubted: Vec<(&str, String)> =
        cluster.trial.doubted_probes().map(|(pod, key)| (pod, key.name.clone())).collect();
    assert_eq!(doubted, [("canary", "www.example".to_owned())]);
}
