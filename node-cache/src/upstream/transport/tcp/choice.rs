//! Choice of a TCP connection for a query: one on which no late response holds it up. Pure: the time is a parameter.
//!
//! Many servers answer the queries of a connection one after the other, CoreDNS among them: there a slow name holds up
//! those behind it. Others answer in any order, and one connection is enough. Which of the two a server does is learned
//! from its responses.

use std::time::{Duration, Instant};

/// Most connections to a server.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// Most connections that queries of one registered domain take while responses are late, so that slow names of one
/// domain leave some to all others.
const MAX_CONNECTIONS_OF_DOMAIN: usize = 4;
/// Late queries that a connection to a server that answers in any order may have: it may answer a limited number of
/// queries at once (23 in BIND).
const MAX_LATE_QUERIES: usize = 16;
/// How long the order of a server's responses is remembered.
const ORDER_PERIOD: Duration = Duration::from_secs(300);
/// Shortest and longest time after which a response is late. The longest one is below the timeout of a first attempt,
/// so that the next attempt goes to another connection.
const LATE_AFTER_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(300));

/// Order in which a server answers the queries of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseOrder {
    /// In the order of the queries: a slow one holds up those behind it.
    InOrder,
    /// In any order.
    AnyOrder,
}

/// Order of a server's responses as far as is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LearnedOrder(Option<(ResponseOrder, Instant)>);

impl LearnedOrder {
    /// Returns the order that was observed in the last five minutes; `None` if it is not known.
    pub(super) fn get(&self, now: Instant) -> Option<ResponseOrder> {
        let (order, observed_at) = self.0?;
        (now.saturating_duration_since(observed_at) < ORDER_PERIOD).then_some(order)
    }

    /// Records an observation. [`ResponseOrder::AnyOrder`] is a proof, [`ResponseOrder::InOrder`] may be coincidence:
    /// it does not replace the other one.
    pub(super) fn record(&mut self, order: ResponseOrder, now: Instant) {
        if order == ResponseOrder::AnyOrder || self.get(now) != Some(ResponseOrder::AnyOrder) {
            self.0 = Some((order, now));
        }
    }
}

/// Queries in flight on one connection, from the view of a further query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionLoad {
    pub(super) in_flight: usize,
    /// Number of queries that it may still take.
    pub(super) remaining: usize,
    /// Number of them whose response is late.
    pub(super) late: usize,
    /// Whether one of them is for a name of the query's registered domain.
    pub(super) has_domain: bool,
}

/// Connection for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionChoice {
    /// The connection with this index.
    Existing(usize),
    New,
    /// None now: the query waits until a connection is used up or closed.
    Wait,
}

/// Chooses a connection for a query. To a server that answers in any order it is the first one, as long as few
/// responses are late. To one that answers in order, and to one whose order is not known while a response is late, it
/// is one without a query in flight, or a new one. With [`MAX_CONNECTIONS`] it is the one with the fewest late queries.
/// A connection that may take no further query is not chosen.
pub(super) fn choose(loads: &[ConnectionLoad], order: Option<ResponseOrder>) -> ConnectionChoice {
    let first =
        |is_usable: fn(&ConnectionLoad) -> bool| loads.iter().position(|load| load.remaining > 0 && is_usable(load));
    let is_limited = loads.iter().any(|load| load.remaining < usize::MAX);
    let has_share = loads.iter().filter(|load| load.has_domain).count() < MAX_CONNECTIONS_OF_DOMAIN;
    let usable = match order {
        Some(ResponseOrder::AnyOrder) => first(|load| load.late < MAX_LATE_QUERIES),
        None if loads.iter().all(|load| load.late == 0) => first(|_| true),
        None | Some(ResponseOrder::InOrder) if has_share => first(|load| load.in_flight == 0),
        None | Some(ResponseOrder::InOrder) => least_loaded(loads, |load| load.has_domain),
    };
    let usable = if loads.len() < MAX_CONNECTIONS { usable } else { usable.or_else(|| least_loaded(loads, |_| true)) };
    match usable {
        Some(index) => ConnectionChoice::Existing(index),
        None if loads.len() >= MAX_CONNECTIONS || (is_limited && !has_share) => ConnectionChoice::Wait,
        None => ConnectionChoice::New,
    }
}

fn least_loaded(loads: &[ConnectionLoad], is_candidate: impl Fn(&ConnectionLoad) -> bool) -> Option<usize> {
    let candidates = loads.iter().enumerate().filter(|(_, load)| load.remaining > 0 && is_candidate(load));
    candidates.min_by_key(|(_, load)| (load.late, load.in_flight)).map(|(index, _)| index)
}

/// Returns the time after which a response is late: twice the p95 latency of the server, between 100 and 300 ms.
pub(in crate::upstream) fn late_after(p95: Option<Duration>) -> Duration {
    let (shortest, longest) = LATE_AFTER_RANGE;
    p95.map_or(shortest, |p95| (2 * p95).clamp(shortest, longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionChoice::{Existing, New, Wait};
    use ResponseOrder::{AnyOrder, InOrder};

    fn load(in_flight: usize, late: usize) -> ConnectionLoad {
        ConnectionLoad { in_flight, late, remaining: usize::MAX, has_domain: false }
    }

    #[test]
    fn one_connection_is_enough_while_nothing_is_late() {
        assert_eq!(choose(&[], None), New);
        assert_eq!(choose(&[load(0, 0)], None), Existing(0));
        assert_eq!(choose(&[load(500, 0), load(0, 0)], None), Existing(0));
    }

    #[test]
    fn a_query_goes_around_a_late_response_unless_the_server_answers_in_any_order() {
        assert_eq!(choose(&[load(2, 1)], None), New);
        assert_eq!(choose(&[load(2, 1), load(1, 0), load(0, 0)], None), Existing(2));
        assert_eq!(choose(&[load(2, 1)], Some(AnyOrder)), Existing(0));
        assert_eq!(choose(&[load(90, MAX_LATE_QUERIES)], Some(AnyOrder)), New);
    }

    #[test]
    fn a_query_to_a_server_that_answers_in_order_waits_behind_no_other() {
        assert_eq!(choose(&[load(0, 0)], Some(InOrder)), Existing(0));
        assert_eq!(choose(&[load(1, 0)], Some(InOrder)), New);
    }

    #[test]
    fn connections_are_bounded_and_the_one_with_the_fewest_late_responses_takes_the_next_query() {
        let mut loads = vec![load(2, 2); MAX_CONNECTIONS];
        loads[5] = load(7, 1);
        for order in [None, Some(InOrder)] {
            assert_eq!(choose(&loads, order), Existing(5));
        }
        let loads = vec![load(MAX_LATE_QUERIES, MAX_LATE_QUERIES); MAX_CONNECTIONS];
        assert_eq!(choose(&loads, Some(AnyOrder)), Existing(0));
    }

    #[test]
    fn connections_that_take_no_further_query_are_not_chosen_and_a_query_waits_where_there_are_eight_of_them() {
        let used_up = ConnectionLoad { remaining: 0, ..load(1, 0) };
        let usable = ConnectionLoad { remaining: 2, ..load(3, 0) };
        for order in [None, Some(AnyOrder), Some(InOrder)] {
            assert_eq!(choose(&[used_up], order), New);
            assert_eq!(choose(&[used_up; MAX_CONNECTIONS], order), Wait);
            let mut loads = [used_up; MAX_CONNECTIONS];
            loads[6] = usable;
            assert_eq!(choose(&loads, order), Existing(6));
        }
        assert_eq!(choose(&[used_up, usable], None), Existing(1));
    }

    #[test]
    fn queries_of_one_domain_wait_for_their_share_of_connections_that_are_used_up() {
        let own = ConnectionLoad { remaining: 0, has_domain: true, ..load(1, 0) };
        for order in [None, Some(InOrder)] {
            assert_eq!(choose(&[own; MAX_CONNECTIONS_OF_DOMAIN], order), Wait);
            assert_eq!(choose(&[own; MAX_CONNECTIONS_OF_DOMAIN - 1], order), New);
        }
    }

    #[test]
    fn slow_names_of_one_domain_leave_connections_to_others() {
        let mut loads = vec![ConnectionLoad { has_domain: true, ..load(3, 1) }; MAX_CONNECTIONS_OF_DOMAIN];
        loads[2].in_flight = 2;
        assert_eq!(choose(&loads, Some(InOrder)), Existing(2), "behind its own names");
        loads.iter_mut().for_each(|load| load.has_domain = false);
        assert_eq!(choose(&loads, Some(InOrder)), New, "of another domain");
    }

    #[test]
    fn the_order_of_a_server_is_remembered_for_five_minutes_and_a_proof_stands() {
        let now = Instant::now();
        let mut order = LearnedOrder::default();
        assert_eq!(order.get(now), None);
        order.record(InOrder, now);
        assert_eq!(order.get(now), Some(InOrder));
        order.record(AnyOrder, now);
        order.record(InOrder, now);
        assert_eq!(order.get(now + ORDER_PERIOD - Duration::from_secs(1)), Some(AnyOrder));
        assert_eq!(order.get(now + ORDER_PERIOD), None);
    }

    #[test]
    fn a_response_is_late_after_twice_the_usual_latency_within_limits() {
        let millis = [None, Some(1), Some(80), Some(900)];
        let late = millis.map(|p95| late_after(p95.map(Duration::from_millis)).as_millis());
        assert_eq!(late, [100, 100, 160, 300]);
    }
}
