//! Capacity of a TCP connection: the number of queries that a server answers on one before it closes it (RFC 7766
//! §6.2.4 leaves that to the server). Learned from connections that are closed while queries wait. Pure: the time is a
//! parameter.

use std::time::{Duration, Instant};

/// How long a capacity is remembered. Afterwards a connection shows it again.
const CAPACITY_PERIOD: Duration = Duration::from_secs(300);
/// Longest time from the last response to the end of a connection that the server closes because of that response.
/// After a longer one the server closes an idle connection.
const MAX_CLOSE_DELAY: Duration = Duration::from_millis(500);

/// A connection that has ended, and what it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClosedConnection {
    /// Number of responses.
    pub(super) responses: usize,
    /// Number of queries that still waited.
    pub(super) unanswered: usize,
    /// When the last response came.
    pub(super) last_response_at: Option<Instant>,
}

/// Capacity of the connections to a server, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LearnedCapacity(Option<(usize, Instant)>);

impl LearnedCapacity {
    /// Returns the capacity, at least 1; `None` while no limit is known.
    pub(super) fn get(&self, now: Instant) -> Option<usize> {
        let (capacity, learned_at) = self.0?;
        (now.saturating_duration_since(learned_at) < CAPACITY_PERIOD).then_some(capacity)
    }

    /// Records a connection that the server has closed. Only several queries that waited together show anything: a
    /// single one is soon sent again, and may have met the end of an idle connection. Where they got no response at all
    /// the server may have closed because of their number: the next connections take one query each.
    pub(super) fn record(&mut self, closed: ClosedConnection, now: Instant) {
        let ClosedConnection { responses, unanswered, last_response_at } = closed;
        let was_idle = last_response_at.is_some_and(|at| now.saturating_duration_since(at) > MAX_CLOSE_DELAY);
        if unanswered > 1 && !was_idle {
            self.0 = Some((responses.max(1), now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the capacity after a connection that gave these responses, the last one this many milliseconds before
    /// it was closed.
    fn capacity(responses: usize, unanswered: usize, millis: u64) -> Option<usize> {
        let now = Instant::now() + CAPACITY_PERIOD;
        let last_response_at = (responses > 0).then(|| now - Duration::from_millis(millis));
        let mut learned = LearnedCapacity::default();
        learned.record(ClosedConnection { responses, unanswered, last_response_at }, now);
        learned.get(now)
    }

    #[test]
    fn a_connection_that_is_closed_behind_a_response_shows_the_capacity_and_an_idle_one_does_not() {
        assert_eq!([capacity(1, 59, 1), capacity(5, 2, 400)], [Some(1), Some(5)]);
        assert_eq!([capacity(5, 0, 1), capacity(5, 1, 1), capacity(5, 2, 501)], [None; 3]);
    }

    #[test]
    fn queries_that_got_nothing_together_are_tried_one_a_connection() {
        assert_eq!([capacity(0, 60, 0), capacity(0, 1, 0)], [Some(1), None]);
    }

    #[test]
    fn a_capacity_is_remembered_for_five_minutes() {
        let now = Instant::now();
        let mut learned = LearnedCapacity::default();
        learned.record(ClosedConnection { responses: 3, unanswered: 2, last_response_at: Some(now) }, now);
        assert_eq!(learned.get(now + CAPACITY_PERIOD - Duration::from_secs(1)), Some(3));
        assert_eq!(learned.get(now + CAPACITY_PERIOD), None);
    }
}
