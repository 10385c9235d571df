//! Six processes behind one limit, which do not talk to each other.

use super::limiter::Kind;
use super::process::Second;
use super::run::{Outcome, Scenario, run};
use super::world::{Fault, Span};

const PROCESSES: u64 = 6;
const LIMIT: f64 = 300.0;
/// Second in which the limit comes.
const START: usize = 60;
/// Seconds of a window in which everybody gets half of a fair share.
const FAIR_WINDOW: usize = 300;

/// Packets, dropped packets, and packets of the process that sent least, each a second, of a window.
fn window(outcomes: &[Outcome], seconds: std::ops::Range<usize>) -> (f64, f64, f64) {
    let length = seconds.len() as f64;
    let sum = |outcome: &Outcome, of: fn(&Second) -> u32| {
        f64::from(outcome.seconds[seconds.clone()].iter().map(of).sum::<u32>()) / length
    };
    let packets: Vec<f64> = outcomes.iter().map(|outcome| sum(outcome, |second| second.packets)).collect();
    let dropped: f64 = outcomes.iter().map(|outcome| sum(outcome, |second| second.dropped)).sum();
    let least = packets.iter().copied().fold(f64::INFINITY, f64::min);
    (packets.iter().sum(), dropped, least)
}

/// Runs six processes for this many seconds from a minute after the limit on.
fn check(seed: u64, has_fallback: bool, length: usize) {
    let end = START + 60 + length;
    let outcomes = run(Scenario {
        seed,
        length: end as u64 * 1_000,
        processes: PROCESSES,
        limiter: Some(Kind::Policer { rate: LIMIT, burst: LIMIT / 10.0 }),
        is_limited_each: false,
        spans: vec![Span { fault: Fault::Limit, from: START as u64 * 1_000, to: u64::MAX, period: u64::MAX }],
        has_fallback,
        ..Scenario::default()
    });
    for from in (START + 60..end).step_by(60) {
        let (packets, dropped, _) = window(&outcomes, from..from + 60);
        assert!(packets <= 1.05 * LIMIT, "seed {seed}, second {from}: {packets:.0} packets/s");
        assert!(dropped <= 0.05 * packets, "seed {seed}, second {from}: {dropped:.1} of {packets:.0} packets/s lost");
    }
    for from in (START + 60..end).step_by(FAIR_WINDOW) {
        let (_, _, least) = window(&outcomes, from..from + FAIR_WINDOW);
        let fair = LIMIT / PROCESSES as f64;
        assert!(least >= fair / 2.0, "seed {seed}, second {from}: {least:.1} of {fair} packets/s");
    }
}

#[test]
fn six_processes_share_a_limit_without_talking_to_each_other() {
    check(1, true, FAIR_WINDOW);
}

#[test]
#[ignore = "minutes; run by make test-long"]
fn six_processes_share_a_limit_for_an_hour() {
    for seed in 1..=5 {
        [false, true].into_iter().for_each(|has_fallback| check(seed, has_fallback, 3_600));
    }
}
