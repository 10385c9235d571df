//! State of one server for its selection, as atomics: a choice locks nothing. Pure: the time is a parameter.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Server;
use super::health::{CircuitBreaker, Health};
use super::lame_domains::LameSet;
use super::load::Load;
use super::outliers::OutlierRecord;
use super::standing::AtomicStanding;
use super::timestamp::Timestamp;

/// How long a server counts as one that answers after its last response.
const ANSWERED_PERIOD: Duration = Duration::from_secs(60);

/// State of a server for its selection.
#[derive(Debug, Default)]
pub(super) struct SelectionState {
    /// When the next probe of a server that is down is due; 0 while it is up.
    next_probe: AtomicU64,
    /// When the last response came.
    answered_at: AtomicU64,
    /// p95 latency in microseconds; 0 while it is not known.
    p95: AtomicU32,
    pub(super) load: Load,
    pub(super) standing: AtomicStanding,
    pub(super) lame: LameSet,
    /// Record from which the standing follows. Locked by the judgement of the group, and when the server is up again.
    outlier: Mutex<OutlierRecord>,
}

impl SelectionState {
    /// Returns the health at `now`.
    pub(super) fn health(&self, now: Timestamp) -> Health {
        match self.next_probe.load(Ordering::Relaxed) {
            0 => Health::Up,
            at if at <= now.micros() => Health::ProbeDue,
            _ => Health::Down,
        }
    }

    /// Returns the p95 latency; `None` with fewer than 16 samples.
    pub(super) fn p95(&self) -> Option<Duration> {
        let micros = self.p95.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// Returns whether the server has responded, with any rcode, in the last minute.
    pub(super) fn has_answered_lately(&self, now: Timestamp) -> bool {
        let at = Timestamp::from_micros(self.answered_at.load(Ordering::Relaxed));
        at != Timestamp::NEVER && now.since(at) < ANSWERED_PERIOD
    }

    /// Returns whether the server has responded, with any rcode, at this time or later.
    pub(super) fn has_answered_since(&self, at: Timestamp) -> bool {
        self.answered_at.load(Ordering::Relaxed) >= at.micros()
    }

    /// Takes over the state of the circuit breaker.
    pub(super) fn publish(&self, breaker: &CircuitBreaker) {
        let next_probe = breaker.next_probe().map_or(Timestamp::NEVER, Timestamp::of);
        self.next_probe.store(next_probe.micros(), Ordering::Relaxed);
    }

    /// Takes over the state of the circuit breaker after a response at `now`.
    pub(super) fn publish_response(&self, breaker: &CircuitBreaker, now: Timestamp) {
        self.answered_at.store(now.micros(), Ordering::Relaxed);
        self.next_probe.store(0, Ordering::Relaxed);
        let p95 = breaker.p95().map_or(0, |p95| u32::try_from(p95.as_micros()).unwrap_or(u32::MAX));
        self.p95.store(p95, Ordering::Relaxed);
    }

    /// Returns what is known for the judgement of the group.
    pub(super) fn outlier(&self) -> MutexGuard<'_, OutlierRecord> {
        self.outlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Returns the health at `now`.
    pub(in crate::upstream) fn health(&self, now: Timestamp) -> Health {
        self.selection.health(now)
    }

    /// Returns the score at `now`, the lower the better: peak latency × (attempts in flight + 1).
    pub(in crate::upstream) fn score(&self, now: Timestamp) -> u64 {
        self.selection.load.score(now)
    }

    /// Returns the share of the queries that the server is sent, out of 256; 0 while it is left.
    pub(in crate::upstream) fn share(&self, now: Timestamp) -> u32 {
        self.selection.standing.share(now)
    }

    /// Returns the number of attempts in flight.
    #[must_use]
    pub fn attempts_in_flight(&self) -> u32 {
        self.selection.load.in_flight()
    }

    /// Returns the lowest latency of late; `None` before the first response.
    pub(in crate::upstream) fn best_latency(&self, now: Timestamp) -> Option<Duration> {
        self.selection.load.best_latency(now)
    }

    /// Returns the p95 latency; `None` with fewer than 16 samples.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        self.selection.p95()
    }

    /// Returns whether the server has responded, with any rcode, in the last minute.
    pub(in crate::upstream) fn has_answered_lately(&self, now: Instant) -> bool {
        self.selection.has_answered_lately(Timestamp::of(now))
    }

    /// Returns whether the server has responded, with any rcode and to any query, since this time.
    pub(in crate::upstream) fn has_answered_since(&self, at: Instant) -> bool {
        self.selection.has_answered_since(Timestamp::of(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_health_is_that_of_the_circuit_breaker() {
        let now = Instant::now();
        let selection = SelectionState::default();
        let mut breaker = CircuitBreaker::default();
        let health = |breaker: &CircuitBreaker, seconds: u32| {
            let time = now + seconds * SECOND + Duration::from_millis(1);
            selection.publish(breaker);
            assert_eq!(selection.health(Timestamp::of(time)), breaker.health(time));
            breaker.health(time)
        };
        assert_eq!(health(&breaker, 0), Health::Up);
        assert_eq!([(); 3].map(|()| breaker.record_failure(now)), [false, false, true]);
        assert_eq!(
            [0, 1, 2].map(|seconds| health(&breaker, seconds)),
            [Health::Down, Health::ProbeDue, Health::ProbeDue]
        );
        breaker.record_response(SECOND);
        assert_eq!(health(&breaker, 2), Health::Up);
    }

    #[test]
    fn a_server_counts_as_one_that_answers_for_a_minute_after_any_response() {
        let now = Instant::now();
        let selection = SelectionState::default();
        assert!(!selection.has_answered_lately(Timestamp::of(now)));
        selection.publish_response(&CircuitBreaker::default(), Timestamp::of(now));
        let has_answered = |seconds: u32| selection.has_answered_lately(Timestamp::of(now + seconds * SECOND));
        assert!(has_answered(59) && !has_answered(61));
        let has_answered_since = |at: Instant| selection.has_answered_since(Timestamp::of(at));
        assert!(has_answered_since(now) && !has_answered_since(now + SECOND));
    }
}
