//! Evidence: one tick as a process sees it, a sequential test over control queries, and the loss of an interval.

use std::time::{Duration, Instant};

use super::cells::{Count, RIPE_AGE, Reading, TICK};

/// Share of control queries that a good upstream leaves unanswered, and the share that is to be found.
const GOOD_LOSS: f64 = 0.01;
const BAD_LOSS: f64 = 0.1;
/// Logarithm of the likelihood ratio at which loss is accepted: one false alarm in a million tests.
const ACCEPT: f64 = 13.8;
/// Logarithm of the likelihood ratio at which loss is dismissed: 53 answers running. A loss that is missed becomes the
/// baseline: one of 10 % in 150.
const DISMISS: f64 = -5.0;
/// Logarithm of the likelihood ratio above which a dismissed loss was one: three lost in a row. Others behind the limit
/// have given way.
const LOSSY: f64 = 6.5;
/// Loss below which an interval is clean, whatever its size.
const MIN_LOSS: f64 = 0.03;
/// Loss that lowers a ceiling at rest, at the end of an interval and before. Who is sent most notices least, and gives
/// way first.
const LOSS_AT_REST: f64 = 0.02;
const EARLY_LOSS_AT_REST: f64 = 0.05;
/// Standard errors above zero of a loss, at the end of an interval and while it is looked at every tick.
const LOSS_ERRORS: f64 = 3.0;
const EARLY_LOSS_ERRORS: f64 = 3.5;
/// Fewest queries that are lost when an interval is lossy before its end: three names that nobody answers are chance.
const EARLY_LOSSES: f64 = 6.0;
/// Fewest queries of a lossy interval.
const MIN_QUERIES: u32 = 20;
/// Fewest queries of an interval whose loss control queries can contradict. Those of its first third of a second are
/// not ripe, while its control queries are answered.
const CONTRADICTED_QUERIES: u32 = 50;
/// Control queries that must have been lost by now for answers to all of them to contradict a loss (1 in 20,000).
const CONTRADICTING_CONTROLS: f64 = 10.0;

/// Control queries that were answered, or became overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered in time, with any rcode.
    pub answered: u32,
    /// Not answered in time.
    pub overdue: u32,
}

impl Tally {
    /// Adds another tally.
    pub const fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.overdue += other.overdue;
    }

    /// Returns the number of queries.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.answered + self.overdue
    }
}

/// One tick of an upstream, as its process sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Ripe queries since the last step.
    pub reading: Reading,
    /// Queries that were meant for the upstream since the last step, those that a ceiling turned away included.
    pub offered: u32,
    /// Responses since the last step to queries that were overdue.
    pub late: u32,
    /// Control queries from fresh ports that were settled since the last step.
    pub fresh: Tally,
    /// Control queries from ports that have been answered before, settled since the last step.
    pub kept: Tally,
    /// Names that may be queried as control queries.
    pub names: usize,
    /// Whether the process itself was late, lost datagrams in its receive buffers, or was throttled.
    pub is_starved: bool,
}

impl Seen {
    /// Returns all control queries that were settled.
    #[must_use]
    pub fn controls(&self) -> Tally {
        let mut all = self.fresh;
        all.add(self.kept);
        all
    }
}

/// Result of a sequential test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TestResult {
    Open,
    Accepted,
    Dismissed,
}

/// Sequential probability ratio test (Wald) of control queries: 10 % loss or more against 1 %.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SequentialTest {
    log_ratio: f64,
    highest: f64,
}

impl SequentialTest {
    pub(super) fn add(&mut self, controls: Tally) {
        let (lost, answered) = ((BAD_LOSS / GOOD_LOSS).ln(), ((1.0 - BAD_LOSS) / (1.0 - GOOD_LOSS)).ln());
        self.log_ratio += lost * f64::from(controls.overdue) + answered * f64::from(controls.answered);
        self.highest = self.highest.max(self.log_ratio);
    }

    /// Returns whether control queries were lost before, too many for chance.
    pub(super) fn was_lossy(&self) -> bool {
        self.highest >= LOSSY
    }

    pub(super) fn result(&self) -> TestResult {
        match self.log_ratio {
            ratio if ratio >= ACCEPT => TestResult::Accepted,
            ratio if ratio <= DISMISS => TestResult::Dismissed,
            _ => TestResult::Open,
        }
    }
}

/// Share of queries that the path or the upstream lost, beyond those that nobody answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    pub(super) share: f64,
    /// Standard error of the share.
    error: f64,
}

/// Ripe queries from a moment on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    start: Instant,
    /// When the interval was last added to.
    last: Instant,
    count: Count,
    ticks: u32,
    controls: Tally,
    late: u32,
}

impl Interval {
    /// Begins an interval; queries sent before `start` are not part of it.
    pub(super) const fn begin(start: Instant) -> Self {
        let count = Count { sent: 0, answered: 0 };
        Self { start, last: start, count, ticks: 0, controls: Tally { answered: 0, overdue: 0 }, late: 0 }
    }

    /// Adds what has become ripe at `now`.
    pub(super) fn add(&mut self, seen: &Seen, now: Instant) {
        if now >= self.start {
            self.controls.add(seen.controls());
            self.late += seen.late;
            self.last = now;
        }
        let Some(sent_at) = now.checked_sub(RIPE_AGE) else { return };
        if sent_at >= self.start && seen.reading.ripe_ticks > 0 {
            self.count.add(seen.reading.ripe);
            self.ticks += seen.reading.ripe_ticks;
        }
    }

    pub(super) const fn sent(&self) -> u32 {
        self.count.sent
    }

    pub(super) const fn late(&self) -> u32 {
        self.late
    }

    pub(super) const fn ticks(&self) -> u32 {
        self.ticks
    }

    pub(super) const fn controls(&self) -> Tally {
        self.controls
    }

    /// Returns the share of answered queries.
    pub(super) fn share(&self) -> f64 {
        f64::from(self.count.answered) / f64::from(self.count.sent.max(1))
    }

    /// Returns the queries that an upstream carried in a second, late ones and those that nobody answers included.
    pub(super) fn carried(&self, baseline: f64) -> f64 {
        let ripe = f64::from(self.ticks.max(1)) * TICK.as_secs_f64();
        let age = self.last.saturating_duration_since(self.start).max(TICK).as_secs_f64();
        (f64::from(self.count.answered) / ripe + f64::from(self.late) / age) / baseline
    }

    /// Returns the loss, where `baseline` is the share of queries that a good upstream answers.
    pub(super) fn loss(&self, baseline: f64) -> Loss {
        let noise = baseline.clamp(0.05, 0.98);
        let error = (noise * (1.0 - noise) / f64::from(self.count.sent.max(1))).sqrt() / noise;
        Loss { share: (1.0 - self.share() / baseline).max(0.0), error }
    }

    /// Returns how far the share of answered queries may be off: three standard errors.
    pub(super) fn uncertainty(&self) -> f64 {
        let share = self.share();
        3.0 * (share * (1.0 - share) / f64::from(self.count.sent.max(1))).sqrt()
    }

    /// Returns whether the interval is lossy, at its end or before.
    pub(super) fn is_lossy(&self, baseline: f64, is_end: bool) -> bool {
        let loss = self.loss(baseline);
        let errors = if is_end { LOSS_ERRORS } else { EARLY_LOSS_ERRORS };
        let lost = loss.share * f64::from(self.count.sent);
        let is_enough = self.count.sent >= MIN_QUERIES && (is_end || lost >= EARLY_LOSSES);
        is_enough && loss.share > MIN_LOSS.max(errors * loss.error)
    }

    /// Returns whether the interval is so lossy, at its end or before, that a ceiling at rest is too high.
    pub(super) fn is_lossy_at_rest(&self, baseline: f64, is_end: bool) -> bool {
        let loss = self.loss(baseline);
        let lost = loss.share * f64::from(self.count.sent);
        let least = if is_end { LOSS_AT_REST } else { EARLY_LOSS_AT_REST };
        lost >= EARLY_LOSSES && loss.share > least.max(EARLY_LOSS_ERRORS * loss.error)
    }

    /// Returns whether all control queries were answered although many would have been lost: names that nobody answers
    /// have become more, and nothing else.
    pub(super) fn is_contradicted(&self, baseline: f64) -> bool {
        let expected = f64::from(self.controls.total()) * self.loss(baseline).share;
        self.count.sent >= CONTRADICTED_QUERIES && self.controls.overdue == 0 && expected >= CONTRADICTING_CONTROLS
    }

    /// Moves the start, and forgets what was counted.
    pub(super) const fn restart(&mut self, start: Instant) {
        *self = Self::begin(start);
    }

    /// Returns how long the interval has lasted.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lost: u32, answered: u32) -> TestResult {
        let mut test = SequentialTest::default();
        test.add(Tally { answered, overdue: lost });
        test.result()
    }

    #[test]
    fn six_lost_control_queries_confirm_and_fifty_three_answers_dismiss() {
        assert_eq!([5, 6].map(|lost| after(lost, 0)), [TestResult::Open, TestResult::Accepted]);
        assert_eq!([52, 53].map(|answered| after(0, answered)), [TestResult::Open, TestResult::Dismissed]);
        assert_eq!(after(7, 7), TestResult::Accepted);
        assert_eq!(after(1, 99), TestResult::Dismissed);
    }

    #[test]
    fn names_that_nobody_answers_are_no_loss() {
        let start = Instant::now();
        let mut interval = Interval::begin(start);
        interval.count = Count { sent: 500, answered: 350 };
        assert!(!interval.is_lossy(0.7, true));
        assert!(interval.is_lossy(0.9, true) && interval.is_lossy(0.9, false));
        interval.controls = Tally { answered: 50, overdue: 0 };
        assert!(interval.is_contradicted(0.9));
        interval.controls.overdue = 1;
        assert!(!interval.is_contradicted(0.9));
    }

    #[test]
    fn queries_that_are_not_ripe_are_no_loss_that_control_queries_contradict() {
        let mut interval = Interval::begin(Instant::now());
        interval.controls = Tally { answered: 50, overdue: 0 };
        assert!(!interval.is_contradicted(0.9));
    }
}
