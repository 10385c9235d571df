//! Tests of single steps; `simulation/` has those of whole incidents.

use super::super::cells::{Count, Reading};
use super::*;

/// A tick of 10 queries, of which this many were answered.
fn tick(answered: u32) -> Seen {
    let ripe = Count { sent: 10, answered };
    let window = Count { sent: 100, answered: answered * 10 };
    let median = Some(f64::from(answered) / 10.0);
    Seen {
        reading: Reading { ripe, ripe_ticks: 1, median, window },
        offered: 10,
        late: 0,
        fresh: Tally::default(),
        kept: Tally::default(),
        names: 30,
        is_starved: false,
    }
}

/// A process with a verdict, and its last order.
struct Process {
    verdict: Verdict,
    now: Instant,
    order: Order,
}

impl Process {
    /// Returns a process that has seen ten good seconds.
    fn new() -> Self {
        let now = Instant::now();
        let mut process = Self { verdict: Verdict::new(1, now), now, order: Order::default() };
        process.run(100, |_| tick(10));
        assert_eq!(process.verdict.state(), State::Well);
        process
    }

    /// Takes this many steps, each with what is seen after the order before it.
    fn run(&mut self, ticks: u32, seen: impl Fn(&Order) -> Seen) {
        for _ in 0..ticks {
            self.now += TICK;
            self.order = self.verdict.step(&seen(&self.order), self.now);
        }
    }
}

fn with_controls(seen: Seen, order: &Order, are_answered: bool) -> Seen {
    let (answered, overdue) = if are_answered { (order.controls, 0) } else { (0, order.controls) };
    Seen { fresh: Tally { answered, overdue }, ..seen }
}

#[test]
fn a_fall_of_the_median_is_suspected_and_control_queries_confirm_it_within_a_second() {
    let mut process = Process::new();
    process.run(2, |order| with_controls(tick(4), order, false));
    assert_eq!(process.verdict.state(), State::Suspected);
    assert!(process.order.hedges_to_fallback && process.order.controls > 0 && process.order.ceiling.is_none());
    process.run(8, |order| with_controls(tick(4), order, false));
    let State::Held { ceiling: Some(ceiling), cause: None } = process.verdict.state() else {
        panic!("{:?}", process.verdict.state())
    };
    assert!((35.0..40.0).contains(&ceiling), "0.9 of what was answered: {ceiling}");
    assert_eq!(process.order.ceiling, Some(ceiling));
}

#[test]
fn control_queries_that_are_answered_dismiss_a_fall_of_the_median_which_becomes_the_baseline() {
    let mut process = Process::new();
    process.run(30, |order| with_controls(tick(4), order, true));
    assert_eq!(process.verdict.state(), State::Well);
    process.run(300, |order| with_controls(tick(4), order, true));
    assert_eq!(process.verdict.state(), State::Well);
    assert!((process.verdict.baseline() - 0.4).abs() < 0.01, "{}", process.verdict.baseline());
}

#[test]
fn without_a_name_to_ask_for_two_seconds_of_a_fallen_median_are_enough() {
    let mut process = Process::new();
    process.run(15, |_| Seen { names: 0, ..tick(4) });
    assert_eq!(process.verdict.state(), State::Suspected);
    process.run(10, |_| Seen { names: 0, ..tick(4) });
    assert!(matches!(process.verdict.state(), State::Held { .. }));
}

#[test]
fn a_process_that_is_starved_decides_nothing() {
    let mut process = Process::new();
    process.run(200, |order| Seen { is_starved: true, ..with_controls(tick(0), order, false) });
    assert_eq!((process.verdict.state(), process.order), (State::Well, Order::default()));
    process.run(14, |order| with_controls(tick(0), order, false));
    assert_eq!(process.verdict.state(), State::Well);
    process.run(20, |order| with_controls(tick(0), order, false));
    assert_eq!(process.verdict.state(), State::Silent);
}

#[test]
fn a_loss_from_the_first_query_on_is_found_after_minutes_in_which_the_process_was_late_every_eight_seconds() {
    let now = Instant::now();
    let mut process = Process { verdict: Verdict::new(1, now), now, order: Order::default() };
    let lossy = |order: &Order| Seen {
        fresh: Tally { answered: order.controls / 2, overdue: order.controls.div_ceil(2) },
        reading: Reading { median: Some(0.85), ..tick(8).reading },
        ..tick(8)
    };
    for _ in 0..30 {
        process.run(79, lossy);
        process.run(1, |order| Seen { is_starved: true, ..lossy(order) });
    }
    assert_eq!(process.verdict.state(), State::Well, "nothing is decided in less than ten seconds");
    process.run(150, lossy);
    assert!(matches!(process.verdict.state(), State::Held { .. }), "{:?}", process.verdict.state());
}

#[test]
fn a_ceiling_of_a_process_that_stays_starved_expires() {
    let mut process = Process::new();
    process.run(20, |order| with_controls(tick(4), order, false));
    assert!(process.order.ceiling.is_some());
    process.run(2_900, |_| Seen { is_starved: true, ..tick(4) });
    assert!(process.order.ceiling.is_some());
    process.run(200, |_| Seen { is_starved: true, ..tick(4) });
    assert_eq!((process.verdict.state(), process.order), (State::Well, Order::default()));
}

#[test]
fn a_silent_upstream_gets_ten_probes_a_second_and_nothing_else_until_three_are_answered() {
    let mut process = Process::new();
    process.run(20, |order| with_controls(tick(0), order, false));
    assert_eq!(process.verdict.state(), State::Silent);
    assert_eq!((process.order.ceiling, process.order.controls), (Some(0.0), 1));
    let nothing = Reading { ripe: Count::default(), window: Count::default(), median: None, ..tick(0).reading };
    process.run(600, |order| with_controls(Seen { reading: nothing, ..tick(0) }, order, false));
    assert_eq!(process.verdict.state(), State::Silent);
    process.run(3, |order| with_controls(Seen { reading: nothing, ..tick(0) }, order, true));
    assert_eq!(process.order.ceiling.map(f64::round), Some(10.0), "a tenth of the demand");
}

#[test]
fn an_upstream_with_little_traffic_is_not_judged() {
    let now = Instant::now();
    let mut process = Process { verdict: Verdict::new(1, now), now, order: Order::default() };
    process.run(600, |order| Seen { offered: 1, ..with_controls(tick(0), order, false) });
    assert_eq!((process.verdict.state(), process.order), (State::Well, Order::default()));
}

#[test]
fn fresh_ports_that_fail_beside_kept_ones_that_do_not_are_no_reason_for_a_ceiling() {
    let mut process = Process::new();
    let flows = |order: &Order| {
        let kept = Tally { answered: order.controls / 2, overdue: 0 };
        Seen { fresh: Tally { answered: 0, overdue: order.controls - kept.answered }, kept, ..tick(4) }
    };
    process.run(20, flows);
    assert!(process.order.keeps_ports && process.order.ceiling.is_none(), "{:?}", process.verdict.state());
    process.run(60, |order| with_controls(tick(10), order, true));
    assert_eq!(process.verdict.state(), State::Held { ceiling: None, cause: Some(Cause::Flows) });
}

#[test]
fn a_fast_upstream_has_its_baseline_after_a_return_whose_first_queries_are_not_ripe() {
    /// Returns a tick of 100 queries.
    fn fast(answered: u32) -> Seen {
        let ripe = Count { sent: 100, answered };
        let window = Count { sent: 1_000, answered: answered * 10 };
        let seen = tick(answered / 10);
        Seen { reading: Reading { ripe, window, ..seen.reading }, offered: 100, ..seen }
    }
    let mut process = Process::new();
    process.run(200, |_| fast(100));
    let mut ticks = 0;
    while process.order.ceiling.is_none() {
        process.run(1, |order| with_controls(fast(40), order, false));
        ticks += 1;
        assert!(ticks < 50, "{:?}", process.verdict.state());
    }
    while !matches!(process.verdict.state(), State::Returning { .. }) {
        process.run(1, |order| with_controls(fast(100), order, true));
        ticks += 1;
        assert!(ticks < 1_200, "{:?}", process.verdict.state());
    }
    process.run(100, |order| with_controls(fast(100), order, true));
    assert!(process.verdict.baseline() > 0.9, "{}", process.verdict.baseline());
}

#[test]
fn a_loss_that_ends_while_it_is_confirmed_still_leads_to_a_ceiling() {
    let mut process = Process::new();
    process.run(4, |order| with_controls(tick(4), order, false));
    assert_eq!(process.verdict.state(), State::Suspected);
    process.run(80, |order| with_controls(tick(10), order, true));
    assert!(process.order.ceiling.is_some(), "others behind the limit have given way: {:?}", process.verdict.state());
}
