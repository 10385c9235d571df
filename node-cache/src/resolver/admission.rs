//! Admission of upstream queries: how many of the queries in flight a scope, a registered domain and a client may have.
//!
//! Few queries in flight are admitted without being counted, at no cost. Beyond, a bound is not a number but a share of
//! what is free (a dynamic threshold): the more places are taken, the smaller are the bounds, so that places are left
//! for those that have few.
//!
//! | bounded | share | alone, at most, of 1,024 |
//! | --- | --- | --- |
//! | a scope that is not the only one | four fifths of all that other scopes leave | 716 |
//! | a registered domain in a scope, except below the zone of the cluster | as many as are free in the scope | 358 |
//! | the same, while half of all places are taken | a tenth of the queries in flight | |
//! | a registered domain whose last 16 queries all failed | | 8 |
//! | a client in a scope | twice as many as are free in the scope | 477 |

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::time::Instant;

use foldhash::quality::RandomState;

use super::failing_domains::FailingDomains;
use super::room::Room;
use crate::clients::ClientUnits;
use crate::dns::Name;
use crate::metrics::RefusalReason;
use crate::snapshot::Scope;

/// Queries in flight below which every query is admitted and counts in no share.
const MAX_UNSHARED: usize = 128;
/// Part of what other scopes leave that a scope may have, in fifths: the rest is left for scopes that have nothing.
const SCOPE_FIFTHS: usize = 4;
/// Part of the queries in flight that may be of one registered domain while half of all places are taken: a tenth.
const DOMAIN_DIVISOR: usize = 10;
/// Queries in flight of a client, at most, in multiples of those that are free in the scope. A node is one client of a
/// resolver: alone it gets two thirds.
const CLIENT_MULTIPLE: usize = 2;
/// Queries in flight of a failing domain, at most.
pub(super) const MAX_OF_FAILING_DOMAIN: usize = 8;

/// Registered domain of a late flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LateDomain {
    /// Hash of scope and registered domain; `None` below the zone of the cluster.
    pub(super) domain: Option<u64>,
    /// The last queries of the domain all failed.
    pub(super) is_failing: bool,
}

/// Origin of an upstream query, which decides in which shares it counts.
#[derive(Clone, Debug)]
pub(super) struct FlightOrigin {
    /// ID of the scope.
    pub(super) scope: u64,
    /// Registered domain of the name; `None` below the zone of the cluster.
    pub(super) domain: Option<Name>,
    /// Address of the client; `None` for a query of this process itself.
    pub(super) client: Option<IpAddr>,
    /// When the query asks for admission.
    pub(super) asked_at: Instant,
    /// When a server of the scope last came up again.
    pub(super) recovered_at: Option<Instant>,
}

impl FlightOrigin {
    /// Makes the origin of a query for `name` in `scope`.
    pub(super) fn new(scope: &Scope, name: &Name, client: Option<IpAddr>) -> Self {
        let is_in_zone = scope.zone.as_ref().is_some_and(|zone| name.is_within(zone));
        let domain = (!is_in_zone).then(|| name.registered_domain());
        Self { scope: scope.id, domain, client, asked_at: Instant::now(), recovered_at: scope.pool.recovered_at() }
    }
}

/// How an upstream query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightEnd {
    /// An upstream answered.
    Answered,
    /// No upstream answered, or one said that it cannot.
    Failed,
    /// The query was dropped before its end, or refused by a resolver of the tier: that says nothing about the name.
    Abandoned,
}

/// Place of an admitted query among those in flight.
#[derive(Debug)]
pub(super) enum Place {
    /// One of the first [`MAX_UNSHARED`], in no share.
    Unshared,
    /// Counted in these shares.
    Shared(Shares),
}

/// Shares in which a query is counted.
#[derive(Debug)]
pub(super) struct Shares {
    scope: u64,
    /// Hash of scope and registered domain.
    domain: Option<u64>,
    client: Option<IpAddr>,
}

/// Shares of the queries in flight. Entries of the maps are those of queries in flight.
#[derive(Debug)]
pub(super) struct Admission {
    /// Upstream queries in flight at one time, at most. Bounds sockets and memory.
    max_in_flight: usize,
    /// Scopes that share the places.
    scopes: usize,
    hasher: RandomState,
    shared: usize,
    by_scope: Counts,
    by_domain: Counts,
    /// Units of the clients of each scope that has any.
    by_client: HashMap<u64, ClientUnits, RandomState>,
    failing_domains: FailingDomains,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(Room::NODE_CACHE.in_flight)
    }
}

impl Admission {
    /// Creates the shares of as many queries in flight, for several scopes.
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self {
            max_in_flight,
            scopes: usize::MAX,
            hasher: RandomState::default(),
            shared: 0,
            by_scope: Counts::default(),
            by_domain: Counts::default(),
            by_client: HashMap::default(),
            failing_domains: FailingDomains::default(),
        }
    }

    /// Sets the number of scopes that share the places. Where there is only one, nothing is left for others.
    pub(super) const fn set_scopes(&mut self, scopes: usize) {
        self.scopes = scopes;
    }

    /// Admits a query while `in_flight` others are in flight. `origin` is called only when that depends on it.
    ///
    /// # Errors
    ///
    /// The share that is used up.
    pub(super) fn admit(
        &mut self,
        in_flight: usize,
        origin: impl FnOnce() -> FlightOrigin,
    ) -> Result<Place, RefusalReason> {
        if in_flight < MAX_UNSHARED {
            return Ok(Place::Unshared);
        }
        if in_flight >= self.max_in_flight {
            return Err(RefusalReason::Total);
        }
        let FlightOrigin { scope, domain, client, asked_at, recovered_at } = origin();
        let domain = domain.map(|domain| self.hash((scope, domain.as_bytes())));
        let free = self.free_in(scope);
        if free == 0 {
            return Err(RefusalReason::Scope);
        }
        if let Some(domain) = domain {
            let of_domain = self.by_domain.get(domain);
            let is_crowding = 2 * in_flight >= self.max_in_flight && DOMAIN_DIVISOR * (of_domain + 1) > in_flight + 1;
            if of_domain >= free || is_crowding {
                return Err(RefusalReason::Domain);
            }
            if of_domain >= MAX_OF_FAILING_DOMAIN && self.failing_domains.is_failing(domain, recovered_at) {
                return Err(RefusalReason::FailingDomain);
            }
        }
        if client.is_some_and(|client| self.of_client(scope, client, asked_at) >= CLIENT_MULTIPLE * free) {
            return Err(RefusalReason::Client);
        }
        self.shared += 1;
        self.by_scope.add(scope);
        domain.into_iter().for_each(|domain| self.by_domain.add(domain));
        client.into_iter().for_each(|client| self.by_client.entry(scope).or_default().add(client, 1, || asked_at));
        Ok(Place::Shared(Shares { scope, domain, client }))
    }

    /// Returns the number of shared queries in flight of the client that an address belongs to.
    fn of_client(&mut self, scope: u64, address: IpAddr, now: Instant) -> usize {
        let units = self.by_client.get_mut(&scope);
        units.map_or(0, |units| {
            let client = units.client(address, || now);
            units.held_by(client)
        })
    }

    /// Releases the place of a query that has ended at `now`.
    pub(super) fn release(&mut self, shares: &Shares, end: FlightEnd, now: Instant) {
        let Shares { scope, domain, client } = *shares;
        self.shared -= 1;
        self.by_scope.remove(scope);
        if let (Some(client), Some(units)) = (client, self.by_client.get_mut(&scope)) {
            units.remove(client, 1);
            if units.is_empty() {
                self.by_client.remove(&scope);
            }
        }
        let Some(domain) = domain else { return };
        self.by_domain.remove(domain);
        match end {
            FlightEnd::Answered => self.failing_domains.record_answer(domain),
            FlightEnd::Failed => self.failing_domains.record_failure(domain, now),
            FlightEnd::Abandoned => {}
        }
    }

    /// Returns the registered domain of a query whose deadline has passed, and whether it is a failing one.
    pub(super) fn late_domain(&self, origin: &FlightOrigin) -> LateDomain {
        let domain = origin.domain.as_ref().map(|domain| self.hash((origin.scope, domain.as_bytes())));
        let is_failing = domain.is_some_and(|domain| self.failing_domains.is_failing(domain, origin.recovered_at));
        LateDomain { domain, is_failing }
    }

    /// Records that a query has no answer by its deadline, at `now`. Its place is kept while it goes on.
    pub(super) fn record_late(&mut self, place: &Place, now: Instant) {
        if let Place::Shared(Shares { domain: Some(domain), .. }) = place {
            self.failing_domains.record_failure(*domain, now);
        }
    }

    /// Returns the number of queries that a scope may have in flight beside those that it has.
    fn free_in(&self, scope: u64) -> usize {
        let of_scope = self.by_scope.get(scope);
        let of_others = self.shared - of_scope;
        let left = (self.max_in_flight - MAX_UNSHARED).saturating_sub(of_others);
        let share = if self.scopes > 1 { left * SCOPE_FIFTHS / 5 } else { left };
        share.saturating_sub(of_scope)
    }

    /// Hashes a value under the secret seed of this process.
    fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }
}

/// Number of queries in flight for each key that has any.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<u64, usize, RandomState>);

impl Counts {
    pub(super) fn get(&self, key: u64) -> usize {
        self.0.get(&key).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, key: u64) {
        *self.0.entry(key).or_default() += 1;
    }

    pub(super) fn remove(&mut self, key: u64) {
        match self.0.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.0.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
