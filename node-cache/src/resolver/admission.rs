//! Admission of upstream queries: how many of the queries in flight a scope, a registered domain and a client may have.
//!
//! Few queries in flight are admitted without being counted, at no cost. Beyond, a bound is not a number but a share of
//! what is free (a dynamic threshold): the more places are taken, the smaller are the bounds, so that places are left
//! for those that have few.
//!
//! | bounded | share | alone, at most |
//! | --- | --- | --- |
//! | a scope | four fifths of all that other scopes leave | 716 |
//! | a registered domain in a scope, except below the zone of the cluster | as many as are free in the scope | 358 |
//! | a registered domain whose last 16 queries all failed | | 8 |
//! | a client in a scope | twice as many as are free in the scope | 477 |

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::time::Instant;

use foldhash::quality::RandomState;

use super::failing_domains::FailingDomains;
use crate::dns::Name;
use crate::snapshot::Scope;

/// Upstream queries in flight at one time, at most. Bounds sockets and memory.
pub(super) const MAX_IN_FLIGHT: usize = 1024;
/// Queries in flight below which every query is admitted and counts in no share.
const MAX_UNSHARED: usize = 128;
/// Queries in flight that scopes, domains and clients share.
const MAX_SHARED: usize = MAX_IN_FLIGHT - MAX_UNSHARED;
/// Part of what other scopes leave that a scope may have, in fifths: the rest is left for scopes that have nothing.
const SCOPE_FIFTHS: usize = 4;
/// Queries in flight of a client, at most, in multiples of those that are free in the scope. A node is one client of a
/// resolver: alone it gets two thirds.
const CLIENT_MULTIPLE: usize = 2;
/// Queries in flight of a failing domain, at most.
const MAX_OF_FAILING_DOMAIN: usize = 8;

/// Origin of an upstream query, which decides in which shares it counts.
#[derive(Clone, Debug)]
pub(super) struct FlightOrigin {
    /// ID of the scope.
    pub(super) scope: u64,
    /// Registered domain of the name; `None` below the zone of the cluster.
    pub(super) domain: Option<Name>,
    /// Address of the client; `None` for a query of this process itself.
    pub(super) client: Option<IpAddr>,
    /// When a server of the scope last came up again.
    pub(super) recovered_at: Option<Instant>,
}

impl FlightOrigin {
    /// Makes the origin of a query for `name` in `scope`.
    pub(super) fn new(scope: &Scope, name: &Name, client: Option<IpAddr>) -> Self {
        let is_in_zone = scope.zone.as_ref().is_some_and(|zone| name.is_within(zone));
        let domain = (!is_in_zone).then(|| name.registered_domain());
        Self { scope: scope.id, domain, client, recovered_at: scope.pool.recovered_at() }
    }
}

/// How an upstream query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightEnd {
    /// An upstream answered.
    Answered,
    /// No upstream answered, or one said that it cannot.
    Failed,
    /// The query was dropped before its end.
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
    /// Hash of scope and client.
    client: Option<u64>,
}

/// Shares of the queries in flight. Entries of the maps are those of queries in flight, [`MAX_SHARED`] at most.
#[derive(Debug, Default)]
pub(super) struct Admission {
    hasher: RandomState,
    shared: usize,
    by_scope: Counts,
    by_domain: Counts,
    by_client: Counts,
    failing_domains: FailingDomains,
}

impl Admission {
    /// Admits a query while `in_flight` others are in flight; `None` when its share is used up. `origin` is called only
    /// when that depends on it.
    pub(super) fn admit(&mut self, in_flight: usize, origin: impl FnOnce() -> FlightOrigin) -> Option<Place> {
        if in_flight < MAX_UNSHARED {
            return Some(Place::Unshared);
        }
        if in_flight >= MAX_IN_FLIGHT {
            return None;
        }
        let FlightOrigin { scope, domain, client, recovered_at } = origin();
        let domain = domain.map(|domain| self.hash((scope, domain.as_bytes())));
        let client = client.map(|client| self.hash((scope, client)));
        let free = self.free_in(scope);
        let domain_limit = match domain {
            Some(domain) if self.failing_domains.is_failing(domain, recovered_at) => free.min(MAX_OF_FAILING_DOMAIN),
            _ => free,
        };
        let is_admitted = free > 0
            && domain.is_none_or(|domain| self.by_domain.get(domain) < domain_limit)
            && client.is_none_or(|client| self.by_client.get(client) < CLIENT_MULTIPLE * free);
        if !is_admitted {
            return None;
        }
        self.shared += 1;
        self.by_scope.add(scope);
        domain.into_iter().for_each(|domain| self.by_domain.add(domain));
        client.into_iter().for_each(|client| self.by_client.add(client));
        Some(Place::Shared(Shares { scope, domain, client }))
    }

    /// Releases the place of a query that has ended at `now`.
    pub(super) fn release(&mut self, shares: &Shares, end: FlightEnd, now: Instant) {
        let Shares { scope, domain, client } = *shares;
        self.shared -= 1;
        self.by_scope.remove(scope);
        client.into_iter().for_each(|client| self.by_client.remove(client));
        let Some(domain) = domain else { return };
        self.by_domain.remove(domain);
        match end {
            FlightEnd::Answered => self.failing_domains.record_answer(domain),
            FlightEnd::Failed => self.failing_domains.record_failure(domain, now),
            FlightEnd::Abandoned => {}
        }
    }

    /// Returns the number of queries that a scope may have in flight beside those that it has.
    fn free_in(&self, scope: u64) -> usize {
        let of_scope = self.by_scope.get(scope);
        let of_others = self.shared - of_scope;
        (MAX_SHARED.saturating_sub(of_others) * SCOPE_FIFTHS / 5).saturating_sub(of_scope)
    }

    /// Hashes a value under the secret seed of this process.
    fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }
}

/// Number of queries in flight for each key that has any.
#[derive(Debug, Default)]
struct Counts(HashMap<u64, usize, RandomState>);

impl Counts {
    fn get(&self, key: u64) -> usize {
        self.0.get(&key).copied().unwrap_or_default()
    }

    fn add(&mut self, key: u64) {
        *self.0.entry(key).or_default() += 1;
    }

    fn remove(&mut self, key: u64) {
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
