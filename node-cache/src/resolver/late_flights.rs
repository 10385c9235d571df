//! Late flights: upstream queries whose deadline has passed without an answer. Their clients have one by then, SERVFAIL
//! or a stale answer; the query goes on listening, and its late answer is cached (RFC 8767 §5: the resolution timer is
//! another one than that of the client). Nothing more is sent for it.
//!
//! For a second after its deadline a late flight stands for its key: a client that asks again follows it. After that,
//! or when a server of the scope has come up again, a further client starts a new query, as it would after a cached
//! failure; the late one listens on beside it.
//!
//! | bounded | at most |
//! | --- | --- |
//! | late flights | 128 |
//! | those of a registered domain in a scope | as many as are free, so 64 alone |
//! | those of a domain whose last 16 queries all failed | 8 |
//!
//! A query without room among them ends at its deadline. Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::admission::{Counts, FlightOrigin, LateDomain, MAX_OF_FAILING_DOMAIN};
use crate::cache::Key;

/// Late flights, at most. Each may hold three sockets.
const MAX_LATE: usize = 128;
/// Time after the deadline for which a late flight stands for its key: as long as a first failure is cached (RFC 9520).
const JOIN_PERIOD: Duration = Duration::from_secs(1);

/// Late flights of a process. They count among the queries in flight, too.
#[derive(Debug, Default)]
pub(super) struct LateFlights {
    last_id: u64,
    count: usize,
    by_domain: Counts,
    /// Late flights that stand for their key; a new query supersedes them.
    current: HashMap<Key, CurrentFlight, RandomState>,
}

/// A late flight that stands for its key.
#[derive(Clone, Copy, Debug)]
struct CurrentFlight {
    id: u64,
    started_at: Instant,
    joinable_until: Instant,
}

/// State of a query when its deadline passes.
#[derive(Clone, Debug)]
pub(super) struct LateOrigin {
    /// Origin of the query; `asked_at` is the time of the deadline.
    pub(super) flight: FlightOrigin,
    /// When the query started.
    pub(super) started_at: Instant,
    /// All upstreams are down: their silence says nothing about the name.
    pub(super) is_down: bool,
}

/// Place of a late flight.
#[derive(Debug)]
pub(super) struct LatePlace {
    id: u64,
    domain: Option<u64>,
}

impl LateFlights {
    /// Admits a flight whose deadline passes, and makes it the one that stands for its key; `None` without room.
    pub(super) fn admit(&mut self, key: &Key, origin: &LateOrigin, domain: LateDomain) -> Option<LatePlace> {
        let LateDomain { domain, is_failing } = domain;
        let of_domain = domain.map_or(0, |domain| self.by_domain.get(domain));
        let free = MAX_LATE.saturating_sub(self.count);
        let is_full = of_domain >= free || (is_failing && of_domain >= MAX_OF_FAILING_DOMAIN);
        if free == 0 || (domain.is_some() && is_full) {
            return None;
        }
        self.last_id += 1;
        self.count += 1;
        domain.into_iter().for_each(|domain| self.by_domain.add(domain));
        // While all upstreams are down the failure is cached, and who asks after that starts a new query.
        let join_period = if origin.is_down { Duration::ZERO } else { JOIN_PERIOD };
        let current = CurrentFlight {
            id: self.last_id,
            started_at: origin.started_at,
            joinable_until: origin.flight.asked_at + join_period,
        };
        self.current.insert(key.clone(), current);
        Some(LatePlace { id: self.last_id, domain })
    }

    /// Returns whether the flight of a key is a late one in whose place a new query may start.
    pub(super) fn is_replaceable(&self, key: &Key, origin: impl FnOnce() -> FlightOrigin) -> bool {
        if self.count == 0 {
            return false;
        }
        self.current.get(key).is_some_and(|current| {
            let FlightOrigin { asked_at, recovered_at, .. } = origin();
            asked_at >= current.joinable_until || recovered_at.is_some_and(|at| at > current.started_at)
        })
    }

    /// Records that a new query stands for a key.
    pub(super) fn supersede(&mut self, key: &Key) {
        self.current.remove(key);
    }

    /// Returns whether a new query stands for the key of a late flight.
    pub(super) fn is_superseded(&self, key: &Key, place: &LatePlace) -> bool {
        self.current.get(key).is_none_or(|current| current.id != place.id)
    }

    /// Releases the place of a late flight. Returns whether it stood for its key.
    pub(super) fn release(&mut self, key: &Key, place: &LatePlace) -> bool {
        self.count -= 1;
        place.domain.into_iter().for_each(|domain| self.by_domain.remove(domain));
        let is_current = !self.is_superseded(key, place);
        if is_current {
            self.current.remove(key);
        }
        is_current
    }

    /// Returns the number of late flights that stand for no key: those that are not counted by their keys.
    pub(super) fn superseded(&self) -> usize {
        self.count - self.current.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::rtype;
    use crate::dns::question::Question;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: usize) -> Key {
        Key::new(1, &Question::plain(&Name::from_text(&format!("n{number}.example")).unwrap(), rtype::A))
    }

    fn asked(asked_at: Instant) -> FlightOrigin {
        FlightOrigin { scope: 1, domain: None, client: None, asked_at, recovered_at: None }
    }

    fn late(started_at: Instant) -> LateOrigin {
        LateOrigin { flight: asked(started_at + 3 * SECOND), started_at, is_down: false }
    }

    fn of(domain: u64) -> LateDomain {
        LateDomain { domain: Some(domain), is_failing: false }
    }

    fn fill(flights: &mut LateFlights, domain: LateDomain, now: Instant) -> Vec<LatePlace> {
        let first = flights.count;
        (first..first + 2 * MAX_LATE).map_while(|number| flights.admit(&key(number), &late(now), domain)).collect()
    }

    #[test]
    fn one_domain_leaves_half_of_the_late_flights_and_a_failing_one_nearly_all() {
        let now = Instant::now();
        let mut flights = LateFlights::default();
        assert_eq!(fill(&mut flights, LateDomain { is_failing: true, ..of(1) }, now).len(), MAX_OF_FAILING_DOMAIN);
        assert_eq!(fill(&mut flights, of(2), now).len(), (MAX_LATE - MAX_OF_FAILING_DOMAIN) / 2);
        assert!(flights.admit(&key(1000), &late(now), of(3)).is_some());
    }

    #[test]
    fn no_more_than_128_flights_are_late_and_none_is_counted_when_all_have_ended() {
        let now = Instant::now();
        let mut flights = LateFlights::default();
        let outside = |number| flights_domain(number);
        let places: Vec<_> = (0..300)
            .filter_map(|number| Some((number, flights.admit(&key(number), &late(now), outside(number))?)))
            .collect();
        assert_eq!(places.len(), MAX_LATE);
        let cluster = LateDomain { domain: None, is_failing: false };
        assert!(flights.admit(&key(999), &late(now), cluster).is_none());
        assert!(places.iter().all(|(number, place)| flights.release(&key(*number), place)));
        assert_eq!((flights.count, flights.current.len(), flights.superseded()), (0, 0, 0));
        assert_eq!(flights.by_domain.get(1), 0);
    }

    fn flights_domain(number: usize) -> LateDomain {
        of(number as u64)
    }

    #[test]
    fn a_late_flight_is_joined_for_a_second_and_then_listens_on_beside_a_new_query() {
        let now = Instant::now();
        let mut flights = LateFlights::default();
        let place = flights.admit(&key(1), &late(now), of(1)).unwrap();
        let at = |seconds| move || asked(now + seconds * SECOND);
        assert!(!flights.is_replaceable(&key(1), at(3)) && flights.is_replaceable(&key(1), at(4)));
        assert!(!flights.is_replaceable(&key(2), at(4)), "no late flight has this key");
        flights.supersede(&key(1));
        assert!(!flights.is_replaceable(&key(1), at(9)), "the new one is not late");
        assert_eq!((flights.superseded(), flights.is_superseded(&key(1), &place)), (1, true));
        let second = flights.admit(&key(1), &late(now + 4 * SECOND), of(1)).unwrap();
        assert!(!flights.release(&key(1), &place), "another one stands for the key");
        assert!(flights.release(&key(1), &second));
        assert_eq!(flights.superseded(), 0);
    }

    #[test]
    fn a_recovered_server_is_queried_anew_and_a_pool_that_is_down_is_not_waited_for() {
        let now = Instant::now();
        let mut flights = LateFlights::default();
        assert!(flights.admit(&key(1), &late(now), of(1)).is_some());
        let recovered = |at| move || FlightOrigin { recovered_at: Some(at), ..asked(now + 3 * SECOND) };
        assert!(!flights.is_replaceable(&key(1), recovered(now - SECOND)), "it was up before the query");
        assert!(flights.is_replaceable(&key(1), recovered(now + SECOND)));
        let down = LateOrigin { is_down: true, ..late(now) };
        assert!(flights.admit(&key(2), &down, of(1)).is_some());
        assert!(flights.is_replaceable(&key(2), || asked(now + 3 * SECOND)));
    }
}
