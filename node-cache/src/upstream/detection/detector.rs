//! Detector of one upstream: what queries report, what a watcher reads every tick, and the order in force.
//!
//! Queries use atomics only; the mutex belongs to the watcher and, at most every 400 ms, to the answer that becomes a
//! control query.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cells::{Cells, OVERDUE, Stamp};
use super::control::ControlNames;
use super::episodes::{Episodes, Second};
use super::evidence::{Seen, Tally};
use super::state::{Order, State};
use super::verdict::{MIN_DEMAND, Verdict};

/// Flags of [`Detector::in_force`], below the ceiling.
const HEDGES_TO_FALLBACK: u64 = 1;
const KEEPS_PORTS: u64 = 2;
const HAS_CEILING: u64 = 4;
/// Bits below the ceiling, which is in thousandths of a packet a second.
const CEILING_SHIFT: u32 = 8;

/// Port of a control query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlPort {
    /// A port that was not used before.
    Fresh,
    /// A port from which a query was answered before.
    Kept,
}

/// Counters of control queries that were settled since the last tick.
#[derive(Debug, Default)]
struct TallyCounter {
    answered: AtomicU32,
    overdue: AtomicU32,
}

impl TallyCounter {
    fn take(&self) -> Tally {
        let take = |counter: &AtomicU32| counter.swap(0, Ordering::Relaxed);
        Tally { answered: take(&self.answered), overdue: take(&self.overdue) }
    }
}

/// Parts that only the watcher uses.
#[derive(Debug)]
struct Watch<Q> {
    names: ControlNames<Q>,
    verdict: Verdict,
    episodes: Episodes,
}

/// Detector of one upstream in one process. `Q` is the question of a control query.
#[derive(Debug)]
pub struct Detector<Q> {
    cells: Cells,
    offered: AtomicU32,
    refused: AtomicU32,
    late: AtomicU32,
    fresh: TallyCounter,
    kept: TallyCounter,
    /// Microseconds from `start` until the next answer may become a control query.
    next_name: AtomicU64,
    /// The last order without its control queries.
    in_force: AtomicU64,
    start: Instant,
    watch: Mutex<Watch<Q>>,
}

impl<Q: Clone> Detector<Q> {
    /// Creates the detector of an upstream without a history. `seed` spreads the steps of many processes.
    #[must_use]
    pub fn new(seed: u64, now: Instant) -> Self {
        let watch =
            Watch { names: ControlNames::default(), verdict: Verdict::new(seed, now), episodes: Episodes::default() };
        Self {
            cells: Cells::default(),
            offered: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            late: AtomicU32::new(0),
            fresh: TallyCounter::default(),
            kept: TallyCounter::default(),
            next_name: AtomicU64::new(0),
            in_force: AtomicU64::new(0),
            start: now,
            watch: Mutex::new(watch),
        }
    }

    /// Counts a query that is meant for the upstream, whether a ceiling turns it away or not.
    pub fn record_offer(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a query that is meant for the upstream, and that its ceiling or its packet budget has no room for.
    pub fn record_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the first send of a query for a name of a registered domain with this hash.
    pub fn record_send(&self, domain: u64) -> Stamp {
        self.cells.record_send(domain)
    }

    /// Counts the answer to a first send, of any rcode, after this time. Answers that are overdue count as late.
    pub fn record_answer(&self, stamp: Stamp, latency: Duration) {
        if latency <= OVERDUE {
            self.cells.record_answer(stamp);
        } else {
            self.record_late();
        }
    }

    /// Counts an answer to a control query that was overdue.
    pub fn record_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether the next answer within the p95 latency may become a control query.
    pub fn is_name_due(&self, now: Instant) -> bool {
        now >= self.start + Duration::from_micros(self.next_name.load(Ordering::Relaxed))
    }

    /// Keeps the question of an answer within the p95 latency as a control query. Its port is to be kept, too.
    pub fn record_name(&self, question: Q, domain: u64, ttl: Duration, now: Instant) {
        let mut watch = self.watch();
        watch.names.record(question, domain, ttl, now);
        if let Some(at) = watch.names.next_record() {
            self.next_name.store(micros(at.saturating_duration_since(self.start)), Ordering::Relaxed);
        }
    }

    /// Counts a control query that was answered in time, or is overdue.
    pub fn record_control(&self, port: ControlPort, is_answered: bool) {
        let tally = match port {
            ControlPort::Fresh => &self.fresh,
            ControlPort::Kept => &self.kept,
        };
        let counter = if is_answered { &tally.answered } else { &tally.overdue };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the step of a tick: to be called every [`super::cells::TICK`], with the stale responses of the process
    /// since the last one. Returns the order and the questions of its control queries; fewer than are ordered where no
    /// name is known, and the root is asked for instead.
    pub fn step(&self, is_starved: bool, stale: u32, now: Instant) -> (Order, Vec<Q>) {
        let mut watch = self.watch();
        let watch = &mut *watch;
        let seen = Seen {
            reading: self.cells.advance(),
            offered: self.offered.swap(0, Ordering::Relaxed),
            late: self.late.swap(0, Ordering::Relaxed),
            fresh: self.fresh.take(),
            kept: self.kept.take(),
            // Where no name is known the root is asked for.
            names: watch.names.eligible(now).max(1),
            is_starved,
        };
        let order = watch.verdict.step(&seen, now);
        let reading = &seen.reading;
        let tick = Second {
            offered: seen.offered,
            sent: reading.ripe.sent,
            answered: reading.ripe.answered,
            late: seen.late,
            refused: self.refused.swap(0, Ordering::Relaxed),
            stale,
            state: "",
        };
        let rates = (watch.verdict.demand(), f64::from(reading.window.answered));
        watch.episodes.record(tick, watch.verdict.state(), rates, now);
        self.in_force.store(pack(&order), Ordering::Relaxed);
        let questions = (0..order.controls).map_while(|_| watch.names.pick(now)).collect();
        (order, questions)
    }

    /// Returns the packets a second that the upstream may be sent; `None` without a ceiling.
    pub fn ceiling(&self) -> Option<f64> {
        unpack_ceiling(self.in_force.load(Ordering::Relaxed))
    }

    /// Returns whether a query without an answer goes to the fallback after the p95 latency already.
    pub fn hedges_to_fallback(&self) -> bool {
        self.in_force.load(Ordering::Relaxed) & HEDGES_TO_FALLBACK != 0
    }

    /// Returns whether queries go from ports that were answered before.
    pub fn keeps_ports(&self) -> bool {
        self.in_force.load(Ordering::Relaxed) & KEEPS_PORTS != 0
    }

    /// Returns the state, for status and metrics.
    pub fn state(&self) -> State {
        self.watch().verdict.state()
    }

    /// Reads what people are told.
    pub fn read_episodes<T>(&self, read: impl FnOnce(&Episodes) -> T) -> T {
        read(&self.watch().episodes)
    }

    /// Returns the share of queries that is lost at any rate, for the budget of retries.
    pub fn known_loss(&self) -> f64 {
        self.watch().verdict.known_loss()
    }

    /// Returns whether there are enough queries for a limit to be found.
    pub fn has_demand(&self) -> bool {
        self.demand() >= MIN_DEMAND
    }

    /// Returns the question of a control query; `None` where no name is known.
    pub fn pick_name(&self, now: Instant) -> Option<Q> {
        self.watch().names.pick(now)
    }

    /// Returns the queries a second that are meant for the upstream.
    pub fn demand(&self) -> f64 {
        self.watch().verdict.demand()
    }

    fn watch(&self) -> MutexGuard<'_, Watch<Q>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

fn pack(order: &Order) -> u64 {
    let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
    let ceiling = order.ceiling.map_or(0, |ceiling| HAS_CEILING | (((ceiling * 1e3) as u64) << CEILING_SHIFT));
    ceiling | flag(order.hedges_to_fallback, HEDGES_TO_FALLBACK) | flag(order.keeps_ports, KEEPS_PORTS)
}

fn unpack_ceiling(in_force: u64) -> Option<f64> {
    (in_force & HAS_CEILING != 0).then(|| (in_force >> CEILING_SHIFT) as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_in_force_until_the_next_one() {
        for ceiling in [None, Some(0.0), Some(10.0), Some(36.125), Some(1e6)] {
            let order = Order { ceiling, ..Order::default() };
            assert_eq!(unpack_ceiling(pack(&order)), ceiling);
        }
        let detector: Detector<()> = Detector::new(1, Instant::now());
        assert_eq!((detector.ceiling(), detector.hedges_to_fallback(), detector.keeps_ports()), (None, false, false));
    }

    #[test]
    fn one_answer_in_400_ms_becomes_a_control_query() {
        let start = Instant::now();
        let detector = Detector::new(1, start);
        assert!(detector.is_name_due(start));
        detector.record_name("www.example", 1, Duration::from_secs(60), start);
        let due = [399, 400].map(|millis| detector.is_name_due(start + Duration::from_millis(millis)));
        assert_eq!(due, [false, true]);
    }
}
