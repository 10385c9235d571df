//! Shares of responses.

use std::time::Duration;

use super::cluster::{Cluster, pod, step};
use crate::controller::judge::figures::Responses;
use crate::controller::judge::pod_look::{InForce, PodLook};
use crate::controller::judge::simulation::random::Random;
use crate::controller::judge::trial::Step;
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};
use crate::controller::rollout::pods::Role;

const FAIL: Outcome = Outcome::Fail(FailReason::JudgedWorse);
const NEIGHBOURS: [&str; 2] = ["control-0", "control-1"];
const SUSPICION: Outcome = Outcome::Hold(HoldReason::Suspicion);

#[test]
fn more_servfail_fails_in_the_second_of_two_looks_running() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    cluster.set_load("canary", (400, 80));
    let outcomes = cluster.outcomes(3);
    let first = outcomes.iter().position(|outcome| *outcome == SUSPICION).unwrap();
    assert_eq!(outcomes[first + 1], FAIL, "{outcomes:?}");
    let sentence = cluster.look_after(1).sentence;
    let expected = "in zone a are SERVFAIL, 0.5 % before the change; the median of 3 controls changed by +0.0 points";
    assert!(sentence.ends_with(expected) && sentence.contains(" responses from canary "), "{sentence}");
}

#[test]
fn popular_names_that_fail_before_the_change_is_seen_in_force_are_news() {
    let mut cluster = Cluster::new(3);
    for name in ["canary", "control-0", "control-1", "control-2"] {
        cluster.set_load(name, (400, 0));
    }
    while !cluster.now.is_multiple_of(60) || cluster.now < 3_180 {
        cluster.look();
    }
    cluster.change(&["canary"]);
    cluster.set_load("canary", (400, 100));
    cluster.fail_popular_names("canary", 20);
    let outcomes = cluster.outcomes(4);
    assert!(outcomes.contains(&FAIL), "within one minute of the clock: {outcomes:?}");
}

#[test]
fn a_suspicion_that_the_next_look_does_not_share_fails_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    cluster.set_load("canary", (400, 24));
    while cluster.look().outcome != SUSPICION {}
    cluster.set_load("canary", (40_000, 200));
    assert_eq!(cluster.look().outcome, Outcome::Hold(HoldReason::Soak));
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn the_same_increase_on_the_controls_is_no_fail() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    for name in ["canary", "control-0", "control-1", "control-2"] {
        cluster.set_load(name, (400, 80));
    }
    let outcomes = cluster.outcomes(60);
    assert_eq!(outcomes[59], Outcome::Hold(HoldReason::ControlsFailing));
    assert!(!outcomes.contains(&FAIL), "{outcomes:?}");
}

#[test]
fn a_pod_that_always_had_more_errors_passes() {
    let mut cluster = Cluster::new(3);
    cluster.set_load("canary", (400, 40));
    (0..30).for_each(|_| drop(cluster.look()));
    cluster.change(&["canary"]);
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
}

#[test]
fn one_scope_is_judged_beside_all_of_them() {
    let mut cluster = Cluster::new(3);
    let add = |cluster: &mut Cluster, servfail: u64| {
        for look in &mut cluster.looks {
            let servfail = if look.name == "canary" { servfail } else { 0 };
            let counts = &mut look.report.as_mut().unwrap().figures.counts;
            let scope = counts.scopes.entry("outside".to_owned()).or_default();
            // All of it together is 30,000 responses, of which one scope has a hundredth.
            scope.noerror += 30_000;
            let route = counts.scopes.entry("route/corp.example".to_owned()).or_default();
            route.add(&Responses { noerror: 300 - servfail, servfail, ..Responses::default() });
        }
        cluster.set_load("canary", (400, servfail));
        cluster.look()
    };
    (0..12).for_each(|_| drop(add(&mut cluster, 0)));
    cluster.change(&["canary"]);
    let mut verdict = add(&mut cluster, 0);
    for _ in 0..6 {
        verdict = add(&mut cluster, 60);
        if verdict.outcome == FAIL {
            break;
        }
    }
    assert_eq!(verdict.outcome, FAIL);
    assert!(verdict.sentence.contains("in scope route/corp.example are SERVFAIL"), "{}", verdict.sentence);
}

#[test]
fn stale_answers_timeouts_and_rcodes_only_warn() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    for _ in 0..5 {
        let counts = &mut cluster.report("canary").figures.counts;
        counts.stale += 90;
        counts.timeouts += 80;
        counts.scopes.get_mut("outside").unwrap().other += 70;
        cluster.look();
    }
    let verdict = cluster.look();
    assert_eq!(verdict.outcome, Outcome::Pass, "{}", verdict.sentence);
    assert!(verdict.warnings.iter().any(|warning| warning.contains(" are stale,")), "{:?}", verdict.warnings);
    assert!(verdict.warnings.iter().any(|warning| warning.contains(" waited for an upstream without a response,")));
    assert!(verdict.warnings.iter().any(|warning| warning.contains(" have an rcode such as REFUSED,")));
}

/// Returns the outcomes after slow misses of a number of names on the canary, again and again; `None` for a release
/// that does not count names.
fn outcomes_with_slow_names(count: Option<u64>) -> Vec<Outcome> {
    let mut cluster = Cluster::new(3);
    if count.is_none() {
        cluster.report("canary").figures.names.slow = None;
        cluster.look();
        cluster.look();
    }
    cluster.change(&["canary"]);
    cluster.look();
    let looks = 0..5;
    let outcome = |_| {
        let figures = &mut cluster.report("canary").figures;
        figures.counts.slow_misses += 40;
        if let Some(names) = &mut figures.names.slow {
            (0..count.unwrap_or_default()).for_each(|name| Random::insert_name(&mut names.current, name));
        }
        cluster.look().outcome
    };
    looks.map(outcome).collect()
}

#[test]
fn slow_misses_of_four_names_are_those_of_one_client() {
    let outcomes = outcomes_with_slow_names(Some(30));
    assert!(outcomes.contains(&FAIL), "{outcomes:?}");
    let outcomes = outcomes_with_slow_names(Some(4));
    assert!(!outcomes.contains(&FAIL), "{outcomes:?}");
    let outcomes = outcomes_with_slow_names(None);
    assert!(outcomes.contains(&FAIL), "a release that counts no names: {outcomes:?}");
}

#[test]
fn a_soak_below_15_s_lets_shares_only_warn() {
    let short = Step { soak: Duration::from_secs(14), ..step(&["canary"]) };
    let mut cluster = Cluster::with(short, vec![pod("control-0", "a"), pod("control-1", "a")]);
    cluster.change(&["canary"]);
    cluster.set_load("canary", (4_000, 2_000));
    let verdict = cluster.last_verdict();
    assert_eq!(verdict.outcome, Outcome::Pass);
    assert!(verdict.warnings.iter().any(|warning| warning.contains("are SERVFAIL")), "{verdict:?}");
}

#[test]
fn where_no_control_is_left_shares_only_warn() {
    let mut cluster = Cluster::new(0);
    cluster.change(&["canary"]);
    cluster.set_load("canary", (400, 200));
    let verdict = cluster.last_verdict();
    assert_eq!(verdict.outcome, Outcome::Pass);
    let warning = verdict.warnings.first().unwrap();
    assert!(warning.ends_with("0.5 % before the change; no pod is left to compare with"), "{warning}");
}

#[test]
fn controls_are_those_of_the_zone_and_of_others_where_it_has_none() {
    // The neighbours share the trouble of the canary, the third control does not.
    let is_failed = |controls: Vec<PodLook>, change: fn(&mut PodLook)| {
        let mut cluster = Cluster::with(step(&["canary"]), controls);
        cluster.looks.iter_mut().filter(|look| NEIGHBOURS.contains(&look.name.as_str())).for_each(change);
        cluster.change(&["canary"]);
        cluster.look();
        ["canary"].iter().chain(&NEIGHBOURS).for_each(|name| cluster.set_load(name, (400, 80)));
        cluster.outcomes(20).contains(&FAIL)
    };
    let controls =
        |zones: [&str; 2]| vec![pod(NEIGHBOURS[0], zones[0]), pod(NEIGHBOURS[1], zones[0]), pod("control-2", zones[1])];
    assert!(!is_failed(controls(["a", "b"]), |_| {}), "controls of the zone");
    assert!(!is_failed(controls(["b", "c"]), |_| {}), "of other zones");
    let resolvers = controls(["a", "b"]).into_iter().map(|look| match look.zone.as_str() {
        "a" => PodLook { role: Role::Resolver, ..look },
        _ => look,
    });
    assert!(is_failed(resolvers.collect(), |_| {}), "pods of another role are no controls");
    assert!(is_failed(controls(["a", "b"]), |look| look.is_away = true), "nor those on nodes that are away");
    assert!(is_failed(controls(["a", "b"]), |look| look.report = None), "nor silent ones");
    let move_on = |look: &mut PodLook| look.report.as_mut().unwrap().in_force = InForce::Other;
    assert!(is_failed(controls(["a", "b"]), move_on), "nor those on another revision");
}

#[test]
fn a_control_that_restarts_is_not_compared_with() {
    let mut cluster = Cluster::new(3);
    cluster.change(&["canary"]);
    cluster.look();
    for name in ["control-0", "control-1", "control-2"] {
        let report = cluster.report(name);
        (report.started, report.restarts) = (3_050, 2);
        report.figures = Default::default();
    }
    cluster.set_load("canary", (400, 80));
    let verdict = cluster.last_verdict();
    assert_eq!(verdict.outcome, Outcome::Pass, "nobody is left");
    assert!(verdict.warnings[0].contains("no pod is left to compare with"), "{verdict:?}");
}

#[test]
fn a_wave_is_judged_as_a_whole() {
    let names: Vec<String> = (0..20).map(|number| format!("wave-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let controls = (0..5).map(|number| pod(&format!("control-{number}"), "a"));
    let mut cluster = Cluster::with(step(&names), controls.collect());
    // Each pod of the wave has too few queries to be judged alone.
    for name in &names {
        cluster.set_load(name, (20, 0));
    }
    (0..24).for_each(|_| drop(cluster.look()));
    cluster.change(&names);
    cluster.look();
    for name in &names {
        cluster.set_load(name, (20, 2));
    }
    let verdict = cluster.last_verdict();
    assert_eq!(verdict.outcome, FAIL);
    assert!(verdict.sentence.contains("from 20 pods in zone a"), "{}", verdict.sentence);
}

#[test]
fn trouble_that_begins_late_in_a_long_soak_is_found() {
    let long = Step { soak: Duration::from_secs(86_400), ..step(&["canary"]) };
    let mut cluster = Cluster::with(long, (0..3).map(|number| pod(&format!("control-{number}"), "a")).collect());
    cluster.change(&["canary"]);
    (0..720).for_each(|_| drop(cluster.look()));
    cluster.set_load("canary", (400, 22));
    let looks = (1..).find(|_| cluster.look().outcome == FAIL).unwrap();
    assert!(looks <= 240, "found after {looks} looks of 5 s, an hour after the change");
}

#[test]
fn what_was_counted_in_a_step_is_the_past_of_the_next() {
    let mut cluster = Cluster::new(6);
    cluster.change(&["canary"]);
    assert_eq!(cluster.last_verdict().outcome, Outcome::Pass);
    let next = ["control-0", "control-1"];
    cluster.trial = cluster.trial.clone().advance(step(&next));
    assert!(cluster.trial.has_long_past());
    cluster.look();
    cluster.change(&next);
    cluster.look();
    cluster.set_load("control-1", (400, 80));
    let verdict = cluster.last_verdict();
    assert_eq!(verdict.outcome, FAIL);
    assert!(verdict.sentence.contains("from control-1 in zone a"), "{}", verdict.sentence);
}
