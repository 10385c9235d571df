//! Queries in flight on one TCP connection, by message ID: which of them are late, and in which order responses come.
//! Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

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
    /// Number of queries written.
    written: u64,
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
        Self { by_id: HashMap::new(), written: 0, last_response: None }
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
        self.by_id.remove(&id);
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

    /// Returns the load of the connection for a further query of this registered domain.
    pub(super) fn load(&self, domain: &Name, now: Instant) -> ConnectionLoad {
        ConnectionLoad {
            in_flight: self.by_id.len(),
            late: self.by_id.values().filter(|query| query.is_late(now)).count(),
            has_domain: self.by_id.values().any(|query| query.domain == *domain),
        }
    }

    /// Removes all queries, which drops their receivers.
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
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
            let load = self.queries.load(&domain(name), self.at(millis));
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
}
