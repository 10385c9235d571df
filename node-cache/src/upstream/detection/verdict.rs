//! Verdict on one upstream: one step for each tick, and what is to be done until the next one.
//!
//! Suspicion is passive: the median over registered domains, or silence. Control queries confirm it. Then the ceiling
//! comes first, and the name of the cause by what the ceiling changes (`hold.rs`).

use std::time::{Duration, Instant};

use super::cells::{RIPE_AGE, TICK};
use super::evidence::{Interval, Seen, SequentialTest, Tally, TestResult};
use super::hold::{Context, Hold, LATE_PART, MAX_PUNISHED_WAIT, MIN_WAIT, Next};
use super::state::{Cause, Order, State};

/// Fall of the median below its baseline that makes an upstream suspected, in two ticks running.
const MEDIAN_FALL: f64 = 0.2;
const FALLEN_TICKS: u32 = 2;
/// Queries in a row without an answer that make an upstream suspected, or silent.
const SILENT_QUERIES: u32 = 20;
/// Ticks in a row without an answer before an upstream is silent: a limit of each second lets nothing through for most
/// of one.
const SILENT_TICKS: u32 = 10;
/// Loss over [`SLOW_TIME`] that makes an upstream suspected.
const SLOW_LOSS: f64 = 0.05;
const SLOW_TIME: Duration = Duration::from_secs(10);
/// Queries a second below which nothing is decided.
pub(super) const MIN_DEMAND: f64 = 20.0;
/// Ticks in which a baseline follows by 63 %.
const BASELINE_TICKS: f64 = 300.0;
/// Ticks in which the demand follows by 63 %.
const DEMAND_TICKS: f64 = 30.0;
/// Time for which a process that was starved decides nothing: a window and the queries that are not ripe.
const BLIND_TIME: Duration = Duration::from_millis(1500);
/// Time of starvation after which a ceiling expires.
const MAX_BLIND_TIME: Duration = Duration::from_secs(300);
/// Suspicion without a name for control queries that is a confirmation itself, and the longest one with names.
const UNCONTROLLED_TIME: Duration = Duration::from_secs(2);
const MAX_SUSPICION: Duration = Duration::from_secs(30);
/// Time without suspicion after a dismissed one.
const CALM_TIME: Duration = Duration::from_secs(2);
/// Control queries a second: bounds while a confirmation is due, the least otherwise, and the share of the demand.
const CONFIRMING_CONTROLS: (f64, f64) = (20.0, 100.0);
const LEAST_CONTROLS: f64 = 2.0;
const CONTROL_SHARE: f64 = 0.05;
/// Probes a second of a silent upstream, and the answers in a row that end the silence.
const SILENT_PROBES: f64 = 10.0;
const RETURNING_PROBES: u32 = 3;
/// Lost control queries in a row without which no upstream is silent.
const SILENT_CONTROLS: u32 = 3;
/// First share of the demand that an upstream gets after silence.
const RAMP_SHARE: f64 = 0.1;
/// Clean time above the demand after which an upstream is well.
const RETURN_TIME: Duration = Duration::from_secs(60);
/// Ceiling of an upstream to which all traffic is back, as a multiple of the demand.
const RETURN_CEILING: f64 = 2.0;
const RETURN_INTERVAL: Duration = Duration::from_secs(5);
/// First wait after a return that ended in silence.
const MIN_PUNISHED_WAIT: Duration = Duration::from_secs(10);
/// Answers from kept ports that tell a limit of flows from one of packets, and their likelihood under the latter.
const MIN_KEPT_ANSWERS: u32 = 4;
const CHANCE_OF_KEPT_ANSWERS: f64 = 0.02;
const MAX_PORTS_SUSPICION: Duration = Duration::from_millis(2500);
/// First and longest time for which ports are kept.
const MIN_PORTS_TIME: Duration = Duration::from_secs(600);
const MAX_PORTS_TIME: Duration = Duration::from_secs(4 * 3600);

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Instant,
    /// Whether the median or silence is the reason, and not the sum of ten seconds.
    is_quick: bool,
    test: SequentialTest,
    fresh: Tally,
    kept: Tally,
    /// Queries since the last control query that was lost.
    interval: Interval,
}

#[derive(Clone, Copy, Debug)]
struct Silence {
    answered: u32,
    late: u32,
    /// Ceiling up to which the upstream had returned when it fell silent again.
    relapse: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Return {
    since: Instant,
    ceiling: f64,
    interval: Interval,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Well,
    Suspected(Suspicion),
    Held(Hold),
    Silent(Silence),
    Returning(Return),
}

/// Returns whether kept ports may be what is good, and a few more control queries show it.
fn is_open_of_ports(suspicion: &Suspicion, age: Duration) -> bool {
    let kept = suspicion.kept;
    kept.overdue == 0 && (1..MIN_KEPT_ANSWERS).contains(&kept.answered) && age < MAX_PORTS_SUSPICION
}

/// Verdict on one upstream of one process.
#[derive(Clone, Debug)]
pub struct Verdict {
    phase: Phase,
    /// Median over domains, and share of all queries, that a good upstream answers.
    median: f64,
    baseline: f64,
    demand: f64,
    fallen: u32,
    /// Ripe queries, and control queries, since the last answer.
    unanswered: u32,
    unanswered_controls: u32,
    silent_ticks: u32,
    /// Late responses in the last second, smoothed.
    late: f64,
    /// The last ten seconds.
    slow: Interval,
    blind_since: Option<Instant>,
    blind_until: Instant,
    calm_until: Instant,
    wait: Duration,
    punished_wait: Duration,
    ports_time: Duration,
    /// Control queries that are due, and a fraction of one.
    controls: f64,
    seed: u64,
}

impl Verdict {
    /// Creates the verdict on an upstream without a history. `seed` spreads the steps of many processes.
    #[must_use]
    pub const fn new(seed: u64, now: Instant) -> Self {
        Self {
            phase: Phase::Well,
            median: 1.0,
            baseline: 1.0,
            demand: 0.0,
            fallen: 0,
            unanswered: 0,
            unanswered_controls: 0,
            silent_ticks: 0,
            late: 0.0,
            slow: Interval::begin(now),
            blind_since: None,
            blind_until: now,
            calm_until: now,
            wait: MIN_WAIT,
            punished_wait: MIN_PUNISHED_WAIT,
            ports_time: MIN_PORTS_TIME,
            controls: 0.0,
            seed,
        }
    }

    /// Returns the state.
    #[must_use]
    pub const fn state(&self) -> State {
        match &self.phase {
            Phase::Well => State::Well,
            Phase::Suspected(_) => State::Suspected,
            Phase::Held(hold) => State::Held { ceiling: hold.ceiling, cause: hold.cause },
            Phase::Silent(_) => State::Silent,
            Phase::Returning(returning) => State::Returning { ceiling: returning.ceiling },
        }
    }

    /// Returns the share of queries that is lost at any rate, for the budget of retries.
    #[must_use]
    pub const fn known_loss(&self) -> f64 {
        match &self.phase {
            Phase::Held(Hold { cause: Some(Cause::Loss { share }), .. }) => *share,
            _ => 0.0,
        }
    }

    /// Returns the share of queries that a good upstream answers.
    #[must_use]
    pub const fn baseline(&self) -> f64 {
        self.baseline
    }

    /// Returns the queries a second that are meant for the upstream, smoothed over three seconds.
    #[must_use]
    pub const fn demand(&self) -> f64 {
        self.demand
    }

    /// Takes the step of one tick.
    pub fn step(&mut self, seen: &Seen, now: Instant) -> Order {
        self.observe(seen, now);
        if now < self.blind_until {
            self.forget(now);
        } else {
            self.blind_since = None;
            let next = match self.phase {
                Phase::Well => self.suspect(seen, now),
                Phase::Suspected(suspicion) => self.confirm(suspicion, seen, now),
                Phase::Held(hold) => self.hold(hold, seen, now),
                Phase::Silent(silence) => self.listen(silence, seen, now),
                Phase::Returning(returning) => self.return_to(returning, seen, now),
            };
            if matches!(next, Phase::Well) && !matches!(self.phase, Phase::Well) {
                self.calm(now);
            }
            self.phase = next;
        }
        self.order(seen)
    }

    fn observe(&mut self, seen: &Seen, now: Instant) {
        let reading = &seen.reading;
        self.demand += (f64::from(seen.offered) / TICK.as_secs_f64() - self.demand) / DEMAND_TICKS;
        self.late += (f64::from(seen.late) - self.late) / 10.0;
        self.unanswered = if reading.ripe.answered > 0 { 0 } else { self.unanswered + reading.ripe.sent };
        self.silent_ticks = if reading.ripe.answered > 0 { 0 } else { self.silent_ticks + reading.ripe_ticks };
        let controls = seen.controls();
        self.unanswered_controls = if controls.answered > 0 { 0 } else { self.unanswered_controls + controls.overdue };
        if seen.is_starved {
            self.blind_since = self.blind_since.or(Some(now));
            self.blind_until = now + BLIND_TIME;
        }
    }

    /// Drops the evidence of a process that was late itself. A ceiling expires when that does not end.
    fn forget(&mut self, now: Instant) {
        let until = self.blind_until;
        (self.fallen, self.unanswered, self.unanswered_controls) = (0, 0, 0);
        self.slow.restart(until);
        let is_expired = self.blind_since.is_some_and(|since| now.duration_since(since) >= MAX_BLIND_TIME);
        match &mut self.phase {
            Phase::Well => {}
            _ if is_expired => self.phase = Phase::Well,
            Phase::Suspected(_) => self.phase = Phase::Well,
            Phase::Held(hold) => hold.forget(until),
            Phase::Returning(returning) => returning.interval.restart(until),
            Phase::Silent(_) => {}
        }
    }

    fn calm(&mut self, now: Instant) {
        self.calm_until = now + CALM_TIME;
        self.fallen = 0;
        self.slow.restart(now);
        self.wait = MIN_WAIT;
    }

    const fn is_silent(&self) -> bool {
        self.unanswered >= SILENT_QUERIES
            && self.silent_ticks >= SILENT_TICKS
            && self.unanswered_controls >= SILENT_CONTROLS
    }

    /// Returns whether nothing has been answered lately, for too short a time to be sure.
    const fn may_be_silent(&self) -> bool {
        self.unanswered >= SILENT_QUERIES && self.silent_ticks < SILENT_TICKS
    }

    fn suspect(&mut self, seen: &Seen, now: Instant) -> Phase {
        let reading = &seen.reading;
        let is_fallen = reading.median.is_some_and(|median| median <= self.median - MEDIAN_FALL);
        self.fallen = if is_fallen { self.fallen + 1 } else { 0 };
        self.slow.add(seen, now);
        let is_slow_due = self.slow.age(now) >= SLOW_TIME;
        let loss = self.slow.loss(self.baseline).share;
        let is_lossy = loss > SLOW_LOSS && self.slow.is_lossy(self.baseline, false);
        if is_slow_due {
            self.slow.restart(now);
        }
        let is_quick = self.fallen >= FALLEN_TICKS || self.unanswered >= SILENT_QUERIES;
        if self.demand < MIN_DEMAND || now < self.calm_until || !(is_quick || (is_slow_due && is_lossy)) {
            // Only control queries tell a loss from names that nobody answers: what they will judge is not learned.
            if !is_fallen && !is_lossy && self.demand >= MIN_DEMAND {
                self.learn(seen);
            }
            return Phase::Well;
        }
        self.unanswered_controls = 0;
        Phase::Suspected(Suspicion {
            since: now,
            is_quick,
            test: SequentialTest::default(),
            fresh: Tally::default(),
            kept: Tally::default(),
            interval: Interval::begin(now - RIPE_AGE),
        })
    }

    fn learn(&mut self, seen: &Seen) {
        let reading = &seen.reading;
        if let Some(median) = reading.median {
            self.median += (median - self.median) / BASELINE_TICKS;
        }
        if reading.window.sent > 0 {
            let share = f64::from(reading.window.answered) / f64::from(reading.window.sent);
            self.baseline = (self.baseline + (share - self.baseline) / BASELINE_TICKS).max(0.01);
        }
    }

    fn confirm(&mut self, mut suspicion: Suspicion, seen: &Seen, now: Instant) -> Phase {
        suspicion.test.add(seen.controls());
        suspicion.fresh.add(seen.fresh);
        suspicion.kept.add(seen.kept);
        suspicion.interval.add(seen, now);
        if seen.controls().overdue > 0 {
            suspicion.interval.restart(now);
        }
        let age = now.duration_since(suspicion.since);
        let is_fallen = seen.reading.median.is_none_or(|median| median <= self.median - MEDIAN_FALL);
        let is_uncontrolled = seen.names == 0 && suspicion.fresh.total() + suspicion.kept.total() == 0;
        let result = match suspicion.test.result() {
            TestResult::Open if is_uncontrolled && !(suspicion.is_quick && is_fallen) => TestResult::Dismissed,
            TestResult::Open if is_uncontrolled && age >= UNCONTROLLED_TIME => TestResult::Accepted,
            TestResult::Open if age >= MAX_SUSPICION => TestResult::Dismissed,
            result => result,
        };
        match result {
            TestResult::Open => Phase::Suspected(suspicion),
            TestResult::Dismissed if suspicion.test.was_lossy() => {
                Phase::Held(Hold::act(self.carried(seen), false, now))
            }
            TestResult::Dismissed => {
                self.adopt(&suspicion, seen);
                Phase::Well
            }
            TestResult::Accepted if self.may_be_silent() || is_open_of_ports(&suspicion, age) => {
                Phase::Suspected(suspicion)
            }
            TestResult::Accepted => self.act(&suspicion, seen, now),
        }
    }

    /// Takes the names that nobody answers into the baseline, as they were while no control query was lost.
    fn adopt(&mut self, suspicion: &Suspicion, seen: &Seen) {
        if let Some(median) = seen.reading.median.filter(|median| *median <= self.median - MEDIAN_FALL) {
            self.median = median;
        }
        if suspicion.interval.is_lossy(self.baseline, true) {
            self.baseline = suspicion.interval.share().max(0.01);
        }
        self.unanswered = 0;
    }

    /// Returns the queries that the upstream carried in the last second.
    fn carried(&self, seen: &Seen) -> f64 {
        f64::from(seen.reading.window.answered) / self.baseline
    }

    fn act(&self, suspicion: &Suspicion, seen: &Seen, now: Instant) -> Phase {
        if self.is_silent() && self.late < 0.5 {
            return Phase::Silent(Silence { answered: 0, late: 0, relapse: None });
        }
        let (window, carried) = (seen.reading.window, self.carried(seen));
        let loss = 1.0 - carried / f64::from(window.sent.max(1));
        let chance = f64::from(suspicion.fresh.answered) / f64::from(suspicion.fresh.total().max(1));
        let is_kept_good = suspicion.kept.overdue == 0
            && suspicion.kept.answered >= MIN_KEPT_ANSWERS
            && chance.powi(suspicion.kept.answered as i32) < CHANCE_OF_KEPT_ANSWERS;
        Phase::Held(if is_kept_good {
            Hold::try_ports(loss, self.ports_time, now)
        } else {
            let late = self.late / TICK.as_secs_f64();
            Hold::act(carried + late, late > LATE_PART * loss * f64::from(window.sent), now).after_loss(loss)
        })
    }

    fn hold(&mut self, mut hold: Hold, seen: &Seen, now: Instant) -> Phase {
        if self.is_silent() && self.late < 0.5 && hold.heeds_silence() {
            self.unanswered = 0;
            return Phase::Silent(Silence { answered: 0, late: 0, relapse: hold.after_silence() });
        }
        if self.may_be_silent() && hold.heeds_silence() {
            return Phase::Held(hold);
        }
        let jitter = self.jitter();
        let baseline = &mut self.baseline;
        let next = hold.step(&mut Context { seen, now, demand: self.demand, baseline, jitter });
        match next {
            Next::Held => Phase::Held(hold),
            Next::Well => {
                if hold.keeps_ports() {
                    self.ports_time = (hold.ports_time() * 2).min(MAX_PORTS_TIME);
                }
                Phase::Well
            }
            Next::Returning => {
                self.wait = hold.wait();
                let ceiling = hold.ceiling.unwrap_or_default().max(RETURN_CEILING * self.demand);
                Phase::Returning(Return { since: now, ceiling, interval: Interval::begin(now) })
            }
        }
    }

    fn listen(&mut self, mut silence: Silence, seen: &Seen, now: Instant) -> Phase {
        let controls = seen.controls();
        silence.answered = if controls.overdue > 0 { 0 } else { silence.answered + controls.answered };
        silence.late += seen.late;
        if silence.answered >= RETURNING_PROBES {
            (self.unanswered, self.unanswered_controls) = (0, 0);
            return Phase::Held(match silence.relapse {
                Some(clean) => {
                    let wait = self.punished_wait;
                    self.punished_wait = (wait * 2).min(MAX_PUNISHED_WAIT);
                    Hold::limit(clean, wait, now)
                }
                None => Hold::ramp(RAMP_SHARE * self.demand, now),
            });
        }
        if silence.late >= 2 * RETURNING_PROBES {
            self.unanswered = 0;
            return Phase::Held(Hold::endure(Cause::Slow, 1.0, now));
        }
        Phase::Silent(silence)
    }

    fn return_to(&mut self, mut returning: Return, seen: &Seen, now: Instant) -> Phase {
        if self.is_silent() && self.late < 0.5 {
            return Phase::Silent(Silence { answered: 0, late: 0, relapse: Some(self.demand / 2.0) });
        }
        if self.may_be_silent() {
            return Phase::Returning(returning);
        }
        returning.interval.add(seen, now);
        let is_end = returning.interval.age(now) >= RETURN_INTERVAL;
        if returning.interval.is_contradicted(self.baseline) {
            self.baseline = returning.interval.share().max(0.01);
            returning.interval.restart(now);
        } else if returning.interval.is_lossy_at_rest(self.baseline, false) && returning.interval.controls().overdue > 0
        {
            let carried = returning.interval.carried(self.baseline);
            return Phase::Held(Hold::limit(carried, self.wait, now));
        } else if is_end {
            returning.interval.restart(now);
            returning.ceiling = returning.ceiling.max(RETURN_CEILING * self.demand);
        }
        if now.duration_since(returning.since) >= RETURN_TIME {
            self.punished_wait = MIN_PUNISHED_WAIT;
            return Phase::Well;
        }
        Phase::Returning(returning)
    }

    fn order(&mut self, seen: &Seen) -> Order {
        let share = CONTROL_SHARE * self.demand;
        let confirming = share.clamp(CONFIRMING_CONTROLS.0, CONFIRMING_CONTROLS.1);
        let (rate, mut order) = match &self.phase {
            Phase::Well => (0.0, Order::default()),
            Phase::Suspected(_) => (confirming, Order { hedges_to_fallback: true, ..Order::default() }),
            Phase::Held(hold) => {
                let share = CONTROL_SHARE * hold.ceiling.unwrap_or(self.demand);
                let rate = if self.unanswered >= SILENT_QUERIES { confirming } else { share.max(LEAST_CONTROLS) };
                let (ceiling, keeps_ports) = (hold.ceiling, hold.keeps_ports());
                (rate, Order { ceiling, keeps_ports, hedges_to_fallback: true, ..Order::default() })
            }
            Phase::Silent(_) => {
                (SILENT_PROBES, Order { ceiling: Some(0.0), hedges_to_fallback: true, ..Order::default() })
            }
            Phase::Returning(returning) => {
                let rate = if self.unanswered >= SILENT_QUERIES { confirming } else { share.max(LEAST_CONTROLS) };
                let ceiling = Some(returning.ceiling);
                (rate, Order { ceiling, hedges_to_fallback: true, ..Order::default() })
            }
        };
        self.controls = (self.controls + rate * TICK.as_secs_f64()).min(10.0);
        if rate == 0.0 || (seen.names == 0 && !matches!(self.phase, Phase::Silent(_))) {
            self.controls = 0.0;
        }
        order.controls = self.controls as u32;
        self.controls -= f64::from(order.controls);
        order
    }

    /// Returns the next number between 0.8 and 1.2 (SplitMix64).
    fn jitter(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        0.8 + 0.4 * ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
