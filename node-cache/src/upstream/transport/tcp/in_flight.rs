//! Queries in flight on one TCP connection, by message ID: which of them are late, and in which order responses come.
//! Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::capacity::ClosedConnection;
use super::choice::{ConnectionLoad, ResponseOrder};
use crate::dns::Name;

/// Most queries in flight on one connection. Further ones fail.
pub(super) const MAX_IN_FLIGHT: usize = 1024;
/// How long the ID of a query that was given up stays in use: the server may still be at work on it.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest interval between two queries after which the first response has held up the second one,
const MIN_SEND_GAP: Duration = Duration::from_millis(50);
/// and longest interval between their responses.
const MAX_RESPONSE_GAP: Duration = Duration::from_millis(20);

/// Queries in flight on a connection, by message ID; `R` receives a response.
#[derive(Debug)]
pub(super) struct InFlightQueries<R> {
    by_id: HashMap<u16, InFlightQuery<R>>,
    /// Number of queries that were registered, without those that were not sent.
    registered: usize,
    /// Number of queries written.
    written: u64,
    /// Number of responses to queries, and when the last one came.
    responses: usize,
    last_response_at: Option<Instant>,
    last_response: Option<LastResponse>,
}

#[derive(Debug)]
struct InFlightQuery<R> {
    /// Registered domain of the name.
    domain: Name,
    started_at: Instant,
    late_after: Duration,
    /// Position among the queries written on the connection; `None` until the query is written.
    position: Option<u64>,
    /// `None` when the query was given up.
    receiver: Option<R>,
}

impl<R> InFlightQuery<R> {
    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started_at) >= self.late_after
    }
}

/// The response to the last query, in the order of writing, that has one.
#[derive(Clone, Copy, Debug)]
struct LastResponse {
    position: u64,
    started_at: Instant,
    received_at: Instant,
    was_late: bool,
}

/// A response that was received: its receiver, and the order of responses that it reveals.
#[derive(Debug)]
pub(super) struct ReceivedResponse<R> {
    pub(super) receiver: Option<R>,
    pub(super) order: Option<ResponseOrder>,
}

impl<R> Default for InFlightQueries<R> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            registered: 0,
            written: 0,
            responses: 0,
            last_response_at: None,
            last_response: None,
        }
    }
}

impl<R> InFlightQueries<R> {
    /// Registers a query under a random ID that no other query in flight has. Its response is late after `late_after`.
    /// `None` when too many are in flight.
    pub(super) fn register(&mut self, domain: Name, late_after: Duration, receiver: R, now: Instant) -> Option<u16> {
        self.by_id.retain(|_, query| {
            query.receiver.is_some() || now.saturating_duration_since(query.started_at) < ABANDONED_TIMEOUT
        });
        if self.by_id.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let id = std::iter::repeat_with(rand::random).find(|id| !self.by_id.contains_key(id)).unwrap_or(0);
        let query = InFlightQuery { domain, started_at: now, late_after, position: None, receiver: Some(receiver) };
        self.by_id.insert(id, query);
        self.registered += 1;
        Some(id)
    }

    /// Records that a query is written, after all that were written before.
    pub(super) fn record_written(&mut self, id: u16) {
        if let Some(query) = self.by_id.get_mut(&id) {
            query.position = Some(self.written);
            self.written += 1;
        }
    }

    /// Removes a query that will not be written.
    pub(super) fn remove(&mut self, id: u16) {
        if self.by_id.remove(&id).is_some() {
            self.registered = self.registered.saturating_sub(1);
        }
    }

    /// Records that a query was given up. It counts until its response comes, or for ten seconds.
    pub(super) fn abandon(&mut self, id: u16) {
        if let Some(query) = self.by_id.get_mut(&id) {
            query.receiver = None;
        }
    }

    /// Removes the query that a response is for; `None` for a response to none.
    ///
    /// A server that answers an earlier query after a later one answers in any order. One that sends a response at once
    /// after a late one, though its query came much later, has held it up and answers in order.
    pub(super) fn receive(&mut self, id: u16, now: Instant) -> Option<ReceivedResponse<R>> {
        let query = self.by_id.remove(&id)?;
        self.responses += 1;
        self.last_response_at = Some(now);
        let Some(position) = query.position else {
            return Some(ReceivedResponse { receiver: query.receiver, order: None });
        };
        let last = self.last_response;
        if last.is_some_and(|last| position < last.position) {
            return Some(ReceivedResponse { receiver: query.receiver, order: Some(ResponseOrder::AnyOrder) });
        }
        let was_late = query.is_late(now);
        let was_held_up = last.is_some_and(|last| {
            last.was_late
                && query.started_at < last.received_at
                && query.started_at.saturating_duration_since(last.started_at) >= MIN_SEND_GAP
                && now.saturating_duration_since(last.received_at) <= MAX_RESPONSE_GAP
        });
        self.last_response = Some(LastResponse { position, started_at: query.started_at, received_at: now, was_late });
        Some(ReceivedResponse { receiver: query.receiver, order: was_held_up.then_some(ResponseOrder::InOrder) })
    }

    /// Returns the number of queries that the connection may still take; `capacity` is that of the server's
    /// connections, if one is known.
    fn remaining(&self, capacity: Option<usize>) -> usize {
        capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.registered))
    }

    /// Returns whether the connection takes no further query and waits for no response.
    pub(super) fn is_used_up(&self, capacity: Option<usize>) -> bool {
        self.by_id.is_empty() && self.remaining(capacity) == 0
    }

    /// Returns the load of the connection for a further query of this registered domain.
    pub(super) fn load(&self, domain: &Name, capacity: Option<usize>, now: Instant) -> ConnectionLoad {
        ConnectionLoad {
            remaining: self.remaining(capacity),
            in_flight: self.by_id.len(),
            late: self.by_id.values().filter(|query| query.is_late(now)).count(),
            has_domain: self.by_id.values().any(|query| query.domain == *domain),
        }
    }

    /// Returns whether a response came.
    pub(super) const fn has_response(&self) -> bool {
        self.responses > 0
    }

    /// Removes all queries, which drops their receivers.
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }

    /// Returns what the connection gave when it ends now.
    pub(super) fn closed(&self) -> ClosedConnection {
        let unanswered = self.by_id.values().filter(|query| query.receiver.is_some()).count();
        ClosedConnection { responses: self.responses, unanswered, last_response_at: self.last_response_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE_AFTER: Duration = Duration::from_millis(100);

    fn domain(name: &str) -> Name {
        Name::from_text(name).unwrap()
    }

    /// Queries in flight, with the time in milliseconds from a start.
    struct Timeline {
        queries: InFlightQueries<()>,
        start: Instant,
    }

    impl Timeline {
        fn new() -> Self {
            Self { queries: InFlightQueries::default(), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn write(&mut self, millis: u64) -> u16 {
            let id = self.queries.register(domain("example"), LATE_AFTER, (), self.at(millis)).unwrap();
            self.queries.record_written(id);
            id
        }

        fn receive(&mut self, id: u16, millis: u64) -> Option<ResponseOrder> {
            self.queries.receive(id, self.at(millis)).unwrap().order
        }

        fn load(&self, name: &str, millis: u64) -> (usize, usize, bool) {
            let load = self.queries.load(&domain(name), None, self.at(millis));
            (load.in_flight, load.late, load.has_domain)
        }
    }

    #[test]
    fn a_response_that_came_right_after_a_late_one_was_held_up() {
        let mut timeline = Timeline::new();
        let [slow, quick] = [0, 60].map(|millis| timeline.write(millis));
        assert_eq!(timeline.receive(slow, 1000), None);
        assert_eq!(timeline.receive(quick, 1001), Some(ResponseOrder::InOrder));
    }

    #[test]
    fn responses_as_far_apart_as_their_queries_tell_no_order() {
        let mut timeline = Timeline::new();
        let ids = [0, 60, 120].map(|millis| timeline.write(millis));
        let orders = [200, 260, 320].map(|millis| timeline.receive(ids[millis as usize / 60 - 3], millis));
        assert_eq!(orders, [None; 3]);
        let quick = timeline.write(400);
        assert_eq!(timeline.receive(quick, 401), None);
    }

    #[test]
    fn a_response_to_an_earlier_query_after_one_to_a_later_one_proves_any_order() {
        let mut timeline = Timeline::new();
        let [slow, quick] = [0, 60].map(|millis| timeline.write(millis));
        assert_eq!(timeline.receive(quick, 61), None, "the first one may never come");
        assert_eq!(timeline.receive(slow, 1000), Some(ResponseOrder::AnyOrder));
    }

    #[test]
    fn a_query_that_was_given_up_counts_until_its_response_comes_or_for_ten_seconds() {
        let mut timeline = Timeline::new();
        let id = timeline.write(0);
        timeline.queries.abandon(id);
        assert_eq!(timeline.load("example", 50), (1, 0, true));
        assert_eq!(timeline.load("other", 150), (1, 1, false));
        assert!(timeline.queries.receive(id, timeline.at(1000)).unwrap().receiver.is_none());
        assert_eq!(timeline.load("example", 1000), (0, 0, false));
        let id = timeline.write(2000);
        timeline.queries.abandon(id);
        timeline.write(12_000);
        assert_eq!(timeline.load("example", 12_000), (1, 0, true));
    }

    #[test]
    fn queries_in_flight_are_bounded_and_ids_are_unique() {
        let mut timeline = Timeline::new();
        let mut ids: Vec<u16> = (0..MAX_IN_FLIGHT).map(|_| timeline.write(0)).collect();
        assert_eq!(timeline.queries.register(domain("example"), LATE_AFTER, (), timeline.at(0)), None);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), MAX_IN_FLIGHT);
        timeline.queries.remove(ids[0]);
        timeline.write(0);
    }

    #[test]
    fn a_connection_takes_as_many_queries_as_its_capacity_and_one_that_was_not_sent_counts_for_nothing() {
        let mut timeline = Timeline::new();
        let [first, second] = [0, 0].map(|millis| timeline.write(millis));
        let remaining = |timeline: &Timeline, capacity| {
            timeline.queries.load(&domain("example"), capacity, timeline.at(1)).remaining
        };
        assert_eq!([None, Some(5), Some(1)].map(|capacity| remaining(&timeline, capacity)), [usize::MAX, 3, 0]);
        timeline.queries.remove(second);
        assert_eq!(remaining(&timeline, Some(2)), 1);
        assert!(!timeline.queries.is_used_up(Some(1)), "its response is still to come");
        timeline.receive(first, 1);
        assert!(timeline.queries.is_used_up(Some(1)) && !timeline.queries.is_used_up(None));
    }
}
