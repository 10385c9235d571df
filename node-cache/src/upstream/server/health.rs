//! Circuit breaker of one server: up, down, or down and due for a probe. Pure: the time is a parameter.

use std::time::{Duration, Instant};

use super::latency::LatencyHistogram;

/// Consecutive failures after which a server is down.
const FAILURE_THRESHOLD: u32 = 3;
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

/// Circuit breaker of a server, with its smoothed latency and the distribution of its latencies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CircuitBreaker {
    consecutive_failures: u32,
    next_probe: Option<Instant>,
    smoothed_latency: Option<Duration>,
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

    /// Returns the smoothed latency (exponentially weighted, 1/8 for the newest). Zero before the first response, so
    /// that a new server is soon tried.
    pub(super) fn latency(&self) -> Duration {
        self.smoothed_latency.unwrap_or_default()
    }

    /// Returns the p95 latency; `None` with fewer than 16 samples.
    pub(super) fn p95(&self) -> Option<Duration> {
        self.latencies.p95()
    }

    /// Records a response with any rcode after this round-trip time. The server is up.
    pub(super) fn record_response(&mut self, round_trip: Duration) {
        self.consecutive_failures = 0;
        self.next_probe = None;
        self.latencies.record(round_trip);
        self.smoothed_latency =
            Some(self.smoothed_latency.map_or(round_trip, |latency| latency - latency / 8 + round_trip / 8));
    }

    /// Records a query without a response in time. Returns whether the server goes down with this failure.
    pub(super) fn record_failure(&mut self, now: Instant) -> bool {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        if self.consecutive_failures < FAILURE_THRESHOLD {
            return false;
        }
        let went_down = self.next_probe.is_none();
        self.next_probe = Some(now + PROBE_INTERVAL);
        went_down
    }

    /// Records that a probe is sent: the next one is due an interval later.
    pub(super) fn record_probe(&mut self, now: Instant) {
        self.next_probe = Some(now + PROBE_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_down_after_failures_in_a_row_and_up_with_one_response() {
        let mut breaker = CircuitBreaker::default();
        let now = Instant::now();
        assert!(!breaker.record_failure(now) && !breaker.record_failure(now));
        breaker.record_response(Duration::from_millis(1));
        assert!(!breaker.record_failure(now) && !breaker.record_failure(now));
        assert_eq!(breaker.health(now), Health::Up);
        assert!(breaker.record_failure(now), "this one opens the circuit");
        assert!(!breaker.record_failure(now), "it is reported once");
        assert_eq!(breaker.health(now), Health::Down);
        breaker.record_response(Duration::from_millis(1));
        assert_eq!(breaker.health(now), Health::Up);
    }

    #[test]
    fn a_server_that_is_down_is_sent_one_probe_at_a_time() {
        let mut breaker = CircuitBreaker::default();
        let now = Instant::now();
        (0..3).for_each(|_| {
            breaker.record_failure(now);
        });
        let later = now + PROBE_INTERVAL;
        assert_eq!(breaker.health(later), Health::ProbeDue);
        breaker.record_probe(later);
        assert_eq!(breaker.health(later), Health::Down);
        assert_eq!(breaker.health(later + PROBE_INTERVAL), Health::ProbeDue);
    }

    #[test]
    fn latency_follows_slowly() {
        let mut breaker = CircuitBreaker::default();
        breaker.record_response(Duration::from_millis(8));
        breaker.record_response(Duration::from_millis(16));
        assert_eq!(breaker.latency(), Duration::from_millis(9));
    }
}
