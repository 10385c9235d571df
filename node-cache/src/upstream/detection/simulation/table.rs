//! Verdict table: what happens to an upstream, and which state, cause and action it leads to.

use std::time::Instant;

use super::super::state::{Cause, State};
use super::limiter::Kind;
use super::process::Second;
use super::run::{Change, Outcome, Scenario, run};
use super::world::{BLOCK_LIST, Fault, POPULAR, Span};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
/// Time in which a state has to be reached.
const NAMING: u64 = 25 * SECOND;

/// Times of a run, in milliseconds.
#[derive(Clone, Copy)]
struct Times {
    from: u64,
    to: u64,
    end: u64,
    /// Period in which faults of names come and go.
    period: u64,
}

/// Times for a debug build: 6 minutes, of which the fault lasts 4.
const SHORT: Times = Times { from: 60 * SECOND, to: 300 * SECOND, end: 360 * SECOND, period: u64::MAX };
/// A day, for an optimised build.
const DAY: Times = Times { from: HOUR, to: 23 * HOUR, end: 24 * HOUR, period: u64::MAX };
/// A day in which faults last for 100 minutes of every 2 hours.
const CHANGING_DAY: Times = Times { from: HOUR / 3, to: 2 * HOUR, end: 24 * HOUR, period: 2 * HOUR };

/// Action in a state.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// Nothing: the upstream is sent everything.
    Nothing,
    /// A ceiling; the upstream is sent this many packets a second at the most.
    Ceiling(f64),
    /// Ten probes a second and nothing else.
    Probes,
    /// Ports are kept, without a ceiling.
    Ports,
    /// No ceiling; queries go to the fallback after the p95 latency, if there is one.
    Hedges,
    /// Silence, and all traffic is back after this many seconds.
    Back(u64),
}

/// Row of the table.
struct Row {
    name: &'static str,
    scenario: Scenario,
    /// States with their causes, and the share of time in them.
    states: &'static [&'static str],
    share: f64,
    action: Action,
}

/// Name of a state with its cause.
fn label(change: &Change) -> &'static str {
    match change.state {
        State::Well => "well",
        State::Suspected => "suspected",
        State::Held { cause: None, .. } => "unnamed",
        State::Held { cause: Some(Cause::Limit { .. }), .. } => "limit",
        State::Held { cause: Some(Cause::Flows), .. } => "flows",
        State::Held { cause: Some(Cause::Loss { .. }), .. } => "loss",
        State::Held { cause: Some(Cause::Slow), .. } => "slow",
        State::Held { cause: Some(Cause::Silent), .. } => "ramp",
        State::Silent => "silent",
        State::Returning { .. } => "returning",
    }
}

/// Returns the share of time for which a condition holds.
fn share(outcome: &Outcome, from: u64, to: u64, holds: impl Fn(&Change) -> bool) -> f64 {
    let ends = outcome.changes.iter().skip(1).map(|next| next.at).chain([to]);
    let times = outcome.changes.iter().zip(ends).filter(|(change, _)| holds(change));
    let time: u64 = times.map(|(change, end)| end.min(to).saturating_sub(change.at.max(from))).sum();
    time as f64 / (to - from) as f64
}

/// Returns the mean of a figure over these seconds.
fn mean(outcome: &Outcome, from: u64, to: u64, of: fn(&Second) -> u32) -> f64 {
    let seconds = &outcome.seconds[(from / SECOND) as usize..(to / SECOND) as usize];
    seconds.iter().map(|second| f64::from(of(second))).sum::<f64>() / seconds.len() as f64
}

const WELL: &[&str] = &["well", "suspected"];

/// Returns the rows of causes that a verdict finds.
fn causes(times: Times) -> Vec<Row> {
    let spans = |fault| vec![Span { fault, from: times.from, to: times.to, period: u64::MAX }];
    let base = Scenario { length: times.end, ..Scenario::default() };
    let limited = |kind| Scenario { limiter: Some(kind), spans: spans(Fault::Limit), ..base.clone() };
    let faulty = |fault| Scenario { spans: spans(fault), ..base.clone() };
    let row = |name, scenario, states, share, action| Row { name, scenario, states, share, action };
    let policer = |rate: f64| Kind::Policer { rate, burst: rate / 10.0 };
    let shared = Scenario { is_limited_each: false, processes: 6, ..limited(policer(300.0)) };
    let pause = |from, length| vec![Span { fault: Fault::Blackout, from, to: from + length, period: u64::MAX }];
    vec![
        row("policer per source, 40 of 100", limited(policer(40.0)), &["limit"], 0.9, Action::Ceiling(42.0)),
        row("policer per source, 90 of 100", limited(policer(90.0)), &["limit"], 0.9, Action::Ceiling(94.0)),
        row("policer shared by six, 300 of 600", shared, &["limit"], 0.9, Action::Ceiling(110.0)),
        row(
            "whole second, 40 of 100",
            limited(Kind::PerSecond { packets: 40 }),
            &["limit"],
            0.9,
            Action::Ceiling(42.0),
        ),
        row(
            "in flight, 8",
            limited(Kind::InFlight { queries: 8 }),
            &["limit", "silent", "ramp", "returning", "unnamed"],
            0.9,
            Action::Ceiling(60.0),
        ),
        row("flow table, 1200", limited(Kind::Flows { flows: 1200 }), &["flows"], 0.9, Action::Ports),
        row(
            "punitive, 60 of 100",
            limited(Kind::Punitive { rate: 60.0 }),
            &["limit", "silent"],
            0.9,
            Action::Ceiling(60.0),
        ),
        row("shaper, 1 s", limited(Kind::Shaper { rate: 60.0, queue: 1000.0 }), &["limit"], 0.9, Action::Ceiling(63.0)),
        row(
            "shaper, 0.1 s",
            limited(Kind::Shaper { rate: 60.0, queue: 100.0 }),
            &["limit"],
            0.9,
            Action::Ceiling(63.0),
        ),
        row("blackout", faulty(Fault::Blackout), &["silent"], 0.98, Action::Probes),
        row(
            "restart of 2 s",
            Scenario { spans: pause(times.from, 2 * SECOND), ..base.clone() },
            &["ramp", "returning", "well"],
            0.98,
            Action::Back(10),
        ),
        row("10 % loss", faulty(Fault::Loss(0.1)), &["loss"], 0.75, Action::Hedges),
        row("40 % loss", faulty(Fault::Loss(0.4)), &["loss"], 0.75, Action::Hedges),
        row("500 ms more", faulty(Fault::Delay(500)), &["slow"], 0.8, Action::Hedges),
    ]
}

/// Returns the rows that are no fault of the upstream, or none that a verdict is for.
fn healthy(times: Times) -> Vec<Row> {
    let spans = |fault| vec![Span { fault, from: times.from, to: times.to, period: times.period }];
    let crowd =
        Span { fault: Fault::Crowd(10.0), from: times.from, to: times.from + 30 * SECOND, period: times.period };
    let base = Scenario { length: times.end, ..Scenario::default() };
    let faulty = |fault| Scenario { spans: spans(fault), ..base.clone() };
    let listed = Scenario { block_list_share: 0.6, ..faulty(Fault::DeadDomain(BLOCK_LIST)) };
    let late = Fault::Pause { every: 4_000, length: 700 };
    let row = |name, scenario| Row { name, scenario, states: WELL, share: 1.0, action: Action::Nothing };
    vec![
        row("nothing", base.clone()),
        row("SERVFAIL only", Scenario { seed: 2, ..faulty(Fault::Nothing) }),
        row("TC always", Scenario { seed: 3, ..faulty(Fault::Nothing) }),
        row("one dead domain", faulty(Fault::DeadDomain(POPULAR))),
        row("30 % dead names everywhere", faulty(Fault::DeadNames(0.3))),
        row("dead TLD with 55 % of the domains", faulty(Fault::DeadTld(11))),
        row("dead block list with 60 % of the traffic", listed),
        row("late ticks", faulty(late)),
        row("flash crowd, tenfold", Scenario { spans: vec![crowd], ..base.clone() }),
        row("10 queries/s, half of them lost", Scenario { rate: 10.0, ..faulty(Fault::Loss(0.5)) }),
        row("2 % loss", faulty(Fault::Loss(0.02))),
        row("100 ms more", faulty(Fault::Delay(100))),
    ]
}

/// Runs a row, with a fallback and without, and compares.
fn check(row: &Row, times: Times) {
    for has_fallback in [false, true] {
        let outcomes = run(Scenario { has_fallback, ..row.scenario.clone() });
        outcomes.iter().for_each(|outcome| check_outcome(row, times, outcome, has_fallback));
    }
}

fn check_outcome(row: &Row, times: Times, outcome: &Outcome, has_fallback: bool) {
    let name = format!("{} (fallback: {has_fallback})", row.name);
    let is_healthy = row.action == Action::Nothing;
    let (from, to) = if is_healthy { (0, times.end) } else { (times.from + NAMING, times.to) };
    let in_states = share(outcome, from, to, |change| row.states.contains(&label(change)));
    let found: Vec<_> = outcome.changes.iter().map(|change| (change.at, label(change))).take(40).collect();
    assert!(in_states >= row.share - 1e-9, "{name}: {in_states:.3} of the time in {:?}: {found:?}", row.states);
    let packets = mean(outcome, from, to, |second| second.packets);
    let elsewhere = mean(outcome, from, to, |second| second.diverted + second.refused);
    match row.action {
        Action::Nothing => {
            assert!(elsewhere == 0.0, "{name}: {elsewhere} queries/s went elsewhere");
            let suspected = share(outcome, from, to, |change| label(change) == "suspected");
            assert!(suspected < 0.05, "{name}: suspected for {suspected:.3} of the time");
        }
        Action::Ceiling(most) => assert!(packets <= most, "{name}: {packets:.1} packets/s"),
        Action::Probes => assert!(packets <= 11.0, "{name}: {packets:.1} packets/s"),
        Action::Hedges => assert!(packets > 80.0, "{name}: {packets:.1} packets/s"),
        Action::Ports => {
            let kept = share(outcome, from, to, |change| change.keeps_ports);
            assert!(kept > 0.95 && elsewhere < 1.0, "{name}: {kept:.3} of the time, {elsewhere} queries/s elsewhere");
        }
        Action::Back(seconds) => {
            let lost = mean(outcome, times.from + seconds * SECOND, to, |second| second.diverted + second.refused);
            assert!(lost == 0.0, "{name}: {lost} queries/s go elsewhere after {seconds} s");
        }
    }
}

fn check_named(rows: &[Row], name: &str, times: Times) {
    let row = rows.iter().find(|row| row.name == name).unwrap();
    check(row, times);
}

#[test]
fn each_cause_leads_to_its_state_and_action() {
    causes(SHORT).iter().for_each(|row| check(row, SHORT));
}

#[test]
fn no_verdict_on_an_upstream_that_is_not_at_fault() {
    healthy(SHORT).iter().for_each(|row| check(row, SHORT));
}

#[test]
fn the_table_has_at_least_twenty_rows() {
    assert!(causes(SHORT).len() + healthy(SHORT).len() >= 20);
    check_named(&healthy(SHORT), "nothing", SHORT);
}

/// Share of answerable queries that were answered within a second.
fn answered(outcome: &Outcome, from: usize, to: usize) -> f64 {
    let sum = |of: fn(&Second) -> u32| f64::from(outcome.seconds[from..to].iter().map(of).sum::<u32>());
    sum(|second| second.right) / sum(|second| second.offered)
}

fn check_escape(times: Times, seeds: std::ops::RangeInclusive<u64>) {
    for row in causes(times).iter().filter(|row| row.scenario.limiter.is_some()) {
        for seed in seeds.clone() {
            let scenario = Scenario { has_fallback: true, seed, ..row.scenario.clone() };
            for outcome in run(scenario) {
                let Some(first_drop) = outcome.first_drop else { continue };
                let from = (first_drop / SECOND) as usize + 2;
                let share = answered(&outcome, from, (times.to / SECOND) as usize);
                assert!(share >= 0.999, "{}, seed {seed}: {share:.4} answered", row.name);
            }
        }
    }
}

fn check_return(times: Times, seeds: std::ops::RangeInclusive<u64>) {
    // A limiter that punishes is tried ever less often, and one of queries in flight looks like one for a while.
    let is_patient =
        |row: &&Row| row.scenario.limiter.is_some() && !["punitive, 60 of 100", "in flight, 8"].contains(&row.name);
    for row in causes(times).iter().filter(is_patient) {
        for (seed, has_fallback) in seeds.clone().flat_map(|seed| [(seed, false), (seed, true)]) {
            for outcome in run(Scenario { has_fallback, seed, ..row.scenario.clone() }) {
                let elsewhere = |second: &Second| f64::from(second.diverted + second.refused);
                let gone = (times.to / SECOND) as usize;
                let late = outcome.seconds[gone + 55..].iter().map(elsewhere).sum::<f64>();
                assert!(late < 20.0, "{}, seed {seed}: {late} queries went elsewhere after 55 s", row.name);
                let lossy = outcome.seconds[gone + 1..].iter().filter(|second| second.dropped * 50 > second.packets);
                assert_eq!(lossy.count(), 0, "{}, seed {seed}", row.name);
            }
        }
    }
}

#[test]
fn with_a_fallback_all_is_answered_from_the_second_second_after_the_first_drop() {
    check_escape(SHORT, 1..=3);
}

#[test]
fn all_traffic_is_back_within_a_minute_after_a_limit_is_gone() {
    check_return(Times { end: SHORT.to + 65 * SECOND, ..SHORT }, 1..=2);
}

#[test]
#[ignore = "minutes; run by make test-long"]
fn the_table_holds_for_a_day_and_for_other_seeds() {
    let rows = causes(DAY).into_iter().filter(|row| row.scenario.processes == 1).map(|row| (row, DAY));
    for (row, times) in rows.chain(healthy(CHANGING_DAY).into_iter().map(|row| (row, CHANGING_DAY))) {
        let started = Instant::now();
        check(&row, times);
        eprintln!("{}: two days in {:?}", row.name, started.elapsed());
    }
    check_escape(SHORT, 4..=20);
    check_return(Times { end: SHORT.to + 65 * SECOND, ..SHORT }, 3..=20);
}
