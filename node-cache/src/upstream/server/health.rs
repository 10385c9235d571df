//! Whether one server is worth asking. Pure: the time is a parameter.

use std::time::{Duration, Instant};

use super::latency::LatencyHistogram;

/// After this many questions in a row without an answer a server counts as dead.
const FAILURES: u32 = 3;
/// A dead server is asked one question each this long.
const PAUSE: Duration = Duration::from_secs(1);

/// What is to be thought of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Health {
    /// It answers, as far as is known.
    Up,
    /// It is dead, and it is time to see whether it still is.
    ProbeDue,
    /// It is dead.
    Down,
}

/// What is known of a server: a circuit breaker, a smoothed latency, and how latencies are spread.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::upstream) struct CircuitBreaker {
    failures: u32,
    next_probe: Option<Instant>,
    latency: Option<Duration>,
    response_times: LatencyHistogram,
}

impl CircuitBreaker {
    /// What is to be thought of it now.
    pub(in crate::upstream) fn state(&self, now: Instant) -> Health {
        match self.next_probe {
            None => Health::Up,
            Some(at) if at <= now => Health::ProbeDue,
            Some(_) => Health::Down,
        }
    }

    /// Smoothed time between question and answer; zero before the first, so that a new server is soon tried.
    pub(in crate::upstream) fn latency(&self) -> Duration {
        self.latency.unwrap_or_default()
    }

    /// The time within which 95 of 100 of its answers come; none while there were few.
    pub(in crate::upstream) fn p95(&self) -> Option<Duration> {
        self.response_times.p95()
    }

    /// It answered after this time, well or badly: it is alive.
    pub(in crate::upstream) fn answered(&mut self, took: Duration) {
        self.failures = 0;
        self.next_probe = None;
        self.response_times.count(took);
        self.latency = Some(self.latency.map_or(took, |latency| latency - latency / 8 + took / 8));
    }

    /// A question to it got no answer in time. True when it counts as dead from now on.
    pub(in crate::upstream) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES {
            return false;
        }
        let went_down = self.next_probe.is_none();
        self.next_probe = Some(now + PAUSE);
        went_down
    }

    /// A question goes to it to see whether it lives; the next one has to wait.
    pub(in crate::upstream) fn probing(&mut self, now: Instant) {
        self.next_probe = Some(now + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_dead_after_failures_in_a_row_and_alive_with_one_answer() {
        let mut health = CircuitBreaker::default();
        let now = Instant::now();
        assert!(!health.failed(now) && !health.failed(now));
        health.answered(Duration::from_millis(1));
        assert!(!health.failed(now) && !health.failed(now));
        assert_eq!(health.state(now), Health::Up);
        assert!(health.failed(now), "this one kills it");
        assert!(!health.failed(now), "it dies once");
        assert_eq!(health.state(now), Health::Down);
        health.answered(Duration::from_millis(1));
        assert_eq!(health.state(now), Health::Up);
    }

    #[test]
    fn a_dead_server_is_asked_one_question_at_a_time() {
        let mut health = CircuitBreaker::default();
        let now = Instant::now();
        (0..3).for_each(|_| {
            health.failed(now);
        });
        let later = now + PAUSE;
        assert_eq!(health.state(later), Health::ProbeDue);
        health.probing(later);
        assert_eq!(health.state(later), Health::Down);
        assert_eq!(health.state(later + PAUSE), Health::ProbeDue);
    }

    #[test]
    fn latency_follows_slowly() {
        let mut health = CircuitBreaker::default();
        health.answered(Duration::from_millis(8));
        health.answered(Duration::from_millis(16));
        assert_eq!(health.latency(), Duration::from_millis(9));
    }
}
