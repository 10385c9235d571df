//! Captured addresses at which pods do not answer themselves.

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};

const SUSPICION: Outcome = Outcome::Hold(HoldReason::Suspicion);
const CRASHED: Outcome = Outcome::Fail(FailReason::PodCrashed);

/// Lets a pod not answer itself at its address.
fn withdraw(cluster: &mut Cluster, name: &str) {
    cluster.report(name).self_query_failures.insert("10.96.0.10".parse().unwrap(), "withdrawn".to_owned());
}

/// Lets pods answer themselves again.
fn mend(cluster: &mut Cluster, name: &str) {
    cluster.report(name).self_query_failures.clear();
}

/// Returns a cluster in which a pod answers itself no more with a change, and another change takes its place.
fn superseded() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    withdraw(&mut cluster, "canary");
    assert_eq!(cluster.look().outcome, CRASHED);
    cluster.supersede(&["canary"]);
    cluster
}

#[test]
fn an_address_that_was_lost_with_a_superseded_change_has_to_come_back_within_moments() {
    let mut cluster = superseded();
    cluster.tell(&["canary"]);
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::NotInForce), "not the fault of this change");
    cluster.change(&["canary"]);
    assert_eq!(cluster.outcomes(3), [SUSPICION, SUSPICION, CRASHED]);
    let sentence = "The pod on node canary does not reach its own caches: 10.96.0.10: withdrawn";
    assert_eq!(cluster.look_after(1).sentence, sentence);
}

#[test]
fn a_good_change_that_takes_the_place_of_one_that_lost_an_address_passes() {
    let mut cluster = superseded();
    cluster.change(&["canary"]);
    assert_eq!(cluster.look().outcome, SUSPICION, "it takes a moment");
    mend(&mut cluster, "canary");
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn an_address_that_fails_again_after_it_came_back_fails_at_once() {
    let mut cluster = superseded();
    cluster.change(&["canary"]);
    mend(&mut cluster, "canary");
    cluster.outcomes(4);
    withdraw(&mut cluster, "canary");
    assert_eq!(cluster.look_after(1).outcome, CRASHED);
}

#[test]
fn an_address_that_was_lost_before_both_changes_is_excused() {
    let mut cluster = Cluster::new(3);
    withdraw(&mut cluster, "canary");
    cluster.look();
    cluster.change(&["canary"]);
    cluster.look();
    cluster.supersede(&["canary"]);
    cluster.change(&["canary"]);
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

/// Returns a cluster whose pods of the step have some other change in force when another process begins to lead; these
/// pods do not answer themselves.
fn new_leader(pods: &[&str], withdrawn: &[&str]) -> Cluster {
    let controls = (0..3).map(|number| pod(&format!("control-{number}"), "a"));
    let mut cluster = Cluster::with(step(pods), controls.collect());
    withdrawn.iter().for_each(|name| withdraw(&mut cluster, name));
    cluster.replace_leader(pods);
    cluster.change(pods);
    cluster
}

#[test]
fn a_new_leader_decides_by_the_controls_on_an_address_of_which_it_does_not_know_how_it_was() {
    let unready = || {
        let mut cluster = new_leader(&["canary"], &["canary"]);
        cluster.pod("canary").is_ready = false;
        cluster
    };
    assert_eq!(unready().outcomes(3), [SUSPICION, SUSPICION, CRASHED], "it has lost all of its addresses");
    let verdict = new_leader(&["canary"], &["canary"]).last_verdict();
    assert_eq!((verdict.outcome, verdict.warnings.len()), (Outcome::Pass, 1), "it may have lost one long ago");
    let mut cluster = unready();
    cluster.look();
    cluster.pod("canary").is_ready = true;
    mend(&mut cluster, "canary");
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass, "it came back");
    let fails_everywhere = new_leader(&["canary"], &["canary", "control-0", "control-1"]).last_verdict();
    assert_eq!(fails_everywhere.outcome, Outcome::Pass);
    let warning = "The pod on node canary does not reach its own caches: 10.96.0.10: withdrawn";
    assert_eq!(fails_everywhere.warnings, [warning]);
}

#[test]
fn one_node_of_many_may_have_lost_an_address_long_ago() {
    let pods = ["one", "two", "three"];
    let verdict = new_leader(&pods, &["two"]).last_verdict();
    assert_eq!((verdict.outcome, verdict.warnings.len()), (Outcome::Pass, 1));
    assert_eq!(new_leader(&pods, &["two", "three"]).last_verdict().outcome, CRASHED);
}

#[test]
fn a_pod_that_is_made_anew_has_the_addresses_of_its_node() {
    for was_lost in [true, false] {
        let mut cluster = Cluster::new(3);
        if was_lost {
            withdraw(&mut cluster, "canary");
        }
        cluster.look();
        cluster.change(&["canary"]);
        cluster.look();
        cluster.pod("canary").uid = "another".to_owned();
        withdraw(&mut cluster, "canary");
        let expected = if was_lost { Outcome::Pass } else { CRASHED };
        assert_eq!(cluster.last_verdict().outcome, expected);
    }
}

#[test]
fn a_pod_that_comes_back_with_its_node_has_moments_to_answer_itself() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    cluster.pod("canary").is_away = true;
    cluster.look();
    cluster.pod("canary").is_away = false;
    withdraw(&mut cluster, "canary");
    assert_eq!(cluster.outcomes(2), [SUSPICION; 2]);
    mend(&mut cluster, "canary");
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}
