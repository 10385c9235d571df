//! Circuit breaker of one server: up, down, or down and due for a probe. Pure: the time is a parameter.
//!
//! Queries without a response only make a server suspected: the names themselves may be what is silent. A server that
//! has answered before is down when a confirmation is silent too, which asks for other domains. Any response ends both.

use std::time::{Duration, Instant};

use super::latency::LatencyHistogram;

/// Consecutive failures after which a server that never answered is down.
const FAILURE_THRESHOLD: u32 = 3;
/// Consecutive failures after which a server that has answered is suspected, and a confirmation is due.
const SUSPICION_THRESHOLD: u32 = 2;
/// Shortest interval between two confirmations. Longer than one of them lasts.
const CONFIRMATION_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between probes of a server that is down.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Health of a server, the state of its circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Health {
    /// The server responds, as far as is known (closed circuit).
    Up,
    /// The server is down and the next probe is due (half-open circuit).
    ProbeDue,
    /// The server is down and was probed less than an interval ago (open circuit).
    Down,
}

/// Circuit breaker of a server, with the distribution of its latencies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CircuitBreaker {
    consecutive_failures: u32,
    /// Probes of the confirmation in progress that may still have a response; 0 without one.
    unconfirmed_probes: usize,
    last_confirmation: Option<Instant>,
    next_probe: Option<Instant>,
    has_answered: bool,
    latencies: LatencyHistogram,
}

impl CircuitBreaker {
    /// Returns the health at `now`.
    pub(super) fn health(&self, now: Instant) -> Health {
        match self.next_probe {
            None => Health::Up,
            Some(at) if at <= now => Health::ProbeDue,
            Some(_) => Health::Down,
        }
    }

    /// Returns when the next probe is due; `None` while the server is up.
    pub(super) const fn next_probe(&self) -> Option<Instant> {
        self.next_probe
    }

    /// Returns the median latency; `None` with fewer than 16 samples.
    pub(super) fn median(&self) -> Option<Duration> {
        self.latencies.median()
    }

    /// Returns the p95 latency; `None` with fewer than 16 samples.
    pub(super) fn p95(&self) -> Option<Duration> {
        self.latencies.p95()
    }

    /// Records a response with any rcode after this round-trip time. The server is up.
    pub(super) fn record_response(&mut self, round_trip: Duration) {
        self.consecutive_failures = 0;
        self.unconfirmed_probes = 0;
        self.next_probe = None;
        self.has_answered = true;
        self.latencies.record(round_trip);
    }

    /// Records a query without a response in time. Returns whether the server goes down with this failure: only one
    /// that never answered does. Failures of a server that is down do not put its next probe off.
    pub(super) fn record_failure(&mut self, now: Instant) -> bool {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let is_failing = !self.has_answered && self.consecutive_failures >= FAILURE_THRESHOLD;
        is_failing && self.open(now)
    }

    /// Records a loop probe without a response in time. Returns whether the server goes down with this failure. Only of
    /// one that never answered does it say anything: others may drop queries for top-level domains that do not exist.
    pub(super) fn record_loop_probe_failure(&mut self, now: Instant) -> bool {
        !self.has_answered && self.record_failure(now)
    }

    /// Returns whether the server is suspected: its last queries had no response in time.
    pub(super) const fn is_suspected(&self) -> bool {
        self.consecutive_failures >= SUSPICION_THRESHOLD
    }

    /// Returns whether a confirmation is due: the server is suspected, and the last one began a second ago or earlier.
    pub(super) fn is_confirmation_due(&self, now: Instant) -> bool {
        let has_passed = |at| now.saturating_duration_since(at) >= CONFIRMATION_INTERVAL;
        self.next_probe.is_none()
            && self.has_answered
            && self.is_suspected()
            && self.last_confirmation.is_none_or(has_passed)
    }

    /// Records that a confirmation of this many probes begins.
    pub(super) fn start_confirmation(&mut self, probes: usize, now: Instant) {
        self.unconfirmed_probes = probes;
        self.last_confirmation = Some(now);
    }

    /// Records a probe without a response in time. Returns whether the server goes down with it: it does when all
    /// probes of a confirmation are silent.
    pub(super) fn record_probe_failure(&mut self, now: Instant) -> bool {
        if self.unconfirmed_probes == 0 {
            return false;
        }
        self.unconfirmed_probes -= 1;
        self.unconfirmed_probes == 0 && self.open(now)
    }

    /// Opens the circuit. Returns whether it was closed.
    fn open(&mut self, now: Instant) -> bool {
        let was_closed = self.next_probe.is_none();
        if was_closed {
            self.next_probe = Some(now + PROBE_INTERVAL);
        }
        was_closed
    }

    /// Returns whether the server has sent any response.
    pub(super) const fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Records that a probe is sent: the next one is due an interval later.
    pub(super) fn record_probe(&mut self, now: Instant) {
        self.next_probe = Some(now + PROBE_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(1);

    /// Returns the circuit breaker of a server that has answered once.
    fn answered_once() -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        breaker.record_response(ROUND_TRIP);
        breaker
    }

    #[test]
    fn a_server_that_never_answered_is_down_after_failures_in_a_row_and_up_with_one_response() {
        let mut breaker = CircuitBreaker::default();
        let now = Instant::now();
        assert!(!breaker.record_failure(now) && !breaker.record_failure(now));
        assert!(!breaker.is_confirmation_due(now));
        assert_eq!(breaker.health(now), Health::Up);
        assert!(breaker.record_failure(now), "this one opens the circuit");
        assert!(!breaker.record_failure(now), "it is reported once");
        assert_eq!(breaker.health(now), Health::Down);
        breaker.record_response(ROUND_TRIP);
        assert_eq!(breaker.health(now), Health::Up);
    }

    #[test]
    fn no_number_of_silent_names_makes_a_server_down_that_answers_a_confirmation() {
        let mut breaker = answered_once();
        let start = Instant::now();
        let mut confirmations = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            assert!(!breaker.record_failure(now));
            if breaker.is_confirmation_due(now) {
                confirmations += 1;
                breaker.start_confirmation(2, now);
                assert!(!breaker.record_probe_failure(now), "one of two");
                breaker.record_response(ROUND_TRIP);
                assert!(!breaker.record_probe_failure(now), "it is over");
            }
            assert_eq!(breaker.health(now), Health::Up);
        }
        assert_eq!(confirmations, 10, "one a second");
    }

    #[test]
    fn a_server_that_has_answered_is_down_when_its_confirmation_is_silent() {
        let mut breaker = answered_once();
        let now = Instant::now();
        assert!(!breaker.record_failure(now) && !breaker.is_confirmation_due(now), "one lost packet is no suspicion");
        assert!(!breaker.record_failure(now) && breaker.is_confirmation_due(now));
        breaker.start_confirmation(2, now);
        assert!(!breaker.record_failure(now) && !breaker.is_confirmation_due(now), "one confirmation at a time");
        assert!(!breaker.record_probe_failure(now));
        assert_eq!(breaker.health(now), Health::Up, "a suspected server is up");
        assert!(breaker.record_probe_failure(now));
        assert_eq!(breaker.health(now), Health::Down);
        assert!(!breaker.record_probe_failure(now), "it is reported once");
        breaker.record_response(ROUND_TRIP);
        assert_eq!(breaker.health(now), Health::Up);
    }

    #[test]
    fn a_server_that_is_down_is_sent_one_probe_at_a_time_whatever_else_fails() {
        let mut breaker = CircuitBreaker::default();
        let now = Instant::now();
        (0..3).for_each(|_| {
            breaker.record_failure(now);
        });
        let later = now + PROBE_INTERVAL;
        breaker.record_failure(later);
        assert_eq!(breaker.health(later), Health::ProbeDue, "a failure does not put it off");
        breaker.record_probe(later);
        assert_eq!(breaker.health(later), Health::Down);
        assert_eq!(breaker.health(later + PROBE_INTERVAL), Health::ProbeDue);
    }
}
