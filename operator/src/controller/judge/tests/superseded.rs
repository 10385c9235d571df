//! Changes that take the place of others, which pods have in force.

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::pod_look::InForce;
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};

const SUSPICION: Outcome = Outcome::Hold(HoldReason::Suspicion);
const ALL: [&str; 4] = ["canary", "control-0", "control-1", "control-2"];

/// Answer of a canary to a probe: the rcode and the digest.
type Answer = (Option<u16>, &'static str);

const RIGHT: Answer = (Some(0), "1");
const WRONG: Answer = (Some(0), "2");
const NONE: Answer = (None, "");

fn set_answer(cluster: &mut Cluster, (rcode, digest): Answer) {
    cluster.set_probe(&["canary"], rcode, digest);
}

/// Returns a cluster in which a change with this answer was looked at so often, and another one takes its place.
fn superseded(answer: Answer, looks: usize) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.set_probe(&ALL, Some(0), "1");
    cluster.look();
    cluster.change(&["canary"]);
    set_answer(&mut cluster, answer);
    cluster.outcomes(looks);
    cluster.supersede(&["canary"]);
    cluster
}

#[test]
fn a_dead_route_or_a_wrong_answer_of_a_change_is_no_past_of_the_one_that_takes_its_place() {
    for (answer, reason) in [(NONE, FailReason::JudgedWorse), (WRONG, FailReason::WrongAnswers)] {
        for looks in [0, 1, 10] {
            let mut cluster = superseded(answer, looks);
            cluster.change(&["canary"]);
            assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(reason)], "{answer:?} after {looks} looks");
        }
    }
}

#[test]
fn a_good_change_that_takes_the_place_of_a_bad_one_passes() {
    for answer in [NONE, WRONG] {
        let mut cluster = superseded(answer, 10);
        cluster.change(&["canary"]);
        set_answer(&mut cluster, RIGHT);
        assert_eq!(cluster.outcomes(7), [&[Outcome::Hold(HoldReason::Soak); 6][..], &[Outcome::Pass]].concat());
    }
}

#[test]
fn a_route_that_was_dead_before_both_changes_stops_neither() {
    let mut cluster = Cluster::new(3);
    cluster.set_probe(&ALL, None, "");
    cluster.look();
    cluster.change(&["canary"]);
    cluster.supersede(&["canary"]);
    cluster.change(&["canary"]);
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn restarts_with_a_change_are_not_those_of_the_one_that_takes_its_place() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.report("canary").restarts += 3;
    assert_eq!(cluster.look().outcome, Outcome::Fail(FailReason::PodCrashed));
    cluster.supersede(&["canary"]);
    cluster.change(&["canary"]);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    cluster.report("canary").restarts += 1;
    assert_eq!(cluster.look().outcome, Outcome::Fail(FailReason::PodCrashed));
}

#[test]
fn a_new_leader_takes_no_answers_with_a_superseded_change_for_a_past() {
    for (answer, reason) in [(NONE, FailReason::JudgedWorse), (WRONG, FailReason::WrongAnswers)] {
        let leader = || {
            let mut cluster = Cluster::new(3);
            cluster.set_probe(&ALL, Some(0), "1");
            set_answer(&mut cluster, answer);
            cluster.replace_leader(&["canary"]);
            cluster.change(&["canary"]);
            cluster
        };
        assert_eq!(leader().outcomes(2), [SUSPICION, Outcome::Fail(reason)], "{answer:?}");
        let mut cluster = leader();
        set_answer(&mut cluster, RIGHT);
        assert_eq!(cluster.last_verdict().outcome, Outcome::Pass, "{answer:?}");
    }
}

#[test]
fn pods_that_are_told_late_have_no_past_of_the_superseded_change_either() {
    let pods = ["canary", "second"];
    let mut cluster = Cluster::with(step(&pods), vec![pod("control-0", "a")]);
    cluster.set_probe(&["canary", "second", "control-0"], Some(0), "1");
    cluster.look();
    cluster.change(&pods);
    cluster.set_probe(&["second"], None, "");
    cluster.supersede(&pods);
    cluster.change(&["canary"]);
    cluster.look();
    assert_eq!(cluster.report("second").in_force, InForce::Other);
    cluster.change(&["second"]);
    assert_eq!(cluster.outcomes(2), [SUSPICION, Outcome::Fail(FailReason::JudgedWorse)]);
}
