//! Concurrency limits, in total and per client: open queries, bytes that wait to be written.
//! Requests over a limit are rejected at once: clients retry, memory stays bounded, and one client cannot starve the
//! others.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::clients::ClientUnits;

/// Counting limiter with one bound in total and one per client.
#[derive(Debug)]
pub(crate) struct ClientLimiter {
    max_total: usize,
    max_per_client: usize,
    /// Whether a client gets no more than is left for others.
    is_sharing: bool,
    in_use: Mutex<InUse>,
    idle: Notify,
}

/// Units in use.
#[derive(Debug, Default)]
struct InUse {
    total: usize,
    of_clients: ClientUnits,
}

/// The bound that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitExceeded {
    /// The total of all clients.
    Global,
    /// The bound of one client.
    PerClient,
}

impl ClientLimiter {
    /// Creates a limiter of `max_total` units, of which one client gets at most `max_per_client`.
    pub(crate) fn new(max_total: usize, max_per_client: usize) -> Arc<Self> {
        Arc::new(Self { max_total, max_per_client, is_sharing: false, in_use: Mutex::default(), idle: Notify::new() })
    }

    /// Creates a limiter like [`Self::new`], of which one client also gets no more than is left for others (a dynamic
    /// threshold): `clients` greedy ones leave `max_total / (clients + 1)` units to those that have less.
    pub(crate) fn sharing(max_total: usize, max_per_client: usize) -> Arc<Self> {
        Arc::new(Self { max_total, max_per_client, is_sharing: true, in_use: Mutex::default(), idle: Notify::new() })
    }

    /// Acquires one unit for `client`.
    pub(crate) fn acquire(self: &Arc<Self>, client: SocketAddr) -> Result<Permit, LimitExceeded> {
        self.acquire_many(client, 1)
    }

    /// Acquires `count` units for `client`, all or none.
    pub(crate) fn acquire_many(self: &Arc<Self>, client: SocketAddr, count: usize) -> Result<Permit, LimitExceeded> {
        let address = client.ip();
        let mut in_use = self.in_use();
        if in_use.total + count > self.max_total {
            return Err(LimitExceeded::Global);
        }
        let client = in_use.of_clients.client(address, Instant::now);
        let of_client = in_use.of_clients.held_by(client);
        let left = if self.is_sharing { self.max_total - in_use.total } else { self.max_total };
        if of_client + count > self.max_per_client.min(left) {
            return Err(LimitExceeded::PerClient);
        }
        in_use.of_clients.add(address, count, Instant::now);
        in_use.total += count;
        Ok(Permit { limiter: self.clone(), address, count })
    }

    /// Waits until no unit is in use.
    pub(crate) async fn wait_idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.in_use().total == 0 {
                return;
            }
            notified.await;
        }
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Acquired units of a [`ClientLimiter`]. Dropping it releases them.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<ClientLimiter>,
    address: IpAddr,
    count: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_use = self.limiter.in_use();
        in_use.total -= self.count;
        in_use.of_clients.remove(self.address, self.count);
        if in_use.total == 0 {
            self.limiter.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> SocketAddr {
        (IpAddr::from([10, 0, 0, number]), 53).into()
    }

    /// Acquires units in turns for clients with these numbers until each of them is refused.
    fn fill(limiter: &Arc<ClientLimiter>, clients: std::ops::Range<u8>) -> Vec<Permit> {
        let mut permits = Vec::new();
        loop {
            let before = permits.len();
            permits.extend(clients.clone().filter_map(|number| limiter.acquire(client(number)).ok()));
            if permits.len() == before {
                return permits;
            }
        }
    }

    #[test]
    fn one_client_gets_all_that_one_may_have_and_many_leave_room_for_those_with_none() {
        let limiter = ClientLimiter::sharing(2048, 512);
        for (clients, expected) in [(1, 512), (3, 1536), (8, 1820), (50, 2000)] {
            let permits = fill(&limiter, 0..clients);
            assert!(permits.len().abs_diff(expected) < 10, "{clients}: {}", permits.len());
            assert_eq!(limiter.acquire(client(0)).unwrap_err(), LimitExceeded::PerClient);
            let of_new_client = fill(&limiter, 200..201).len();
            assert!(of_new_client >= 512.min((2048 - permits.len()) / 2), "{clients}: {of_new_client}");
        }
        assert_eq!(limiter.in_use().total, 0);
    }

    #[test]
    fn an_attacker_with_many_addresses_of_one_ipv6_network_gets_what_one_client_may_have() {
        let limiter = ClientLimiter::sharing(2048, 512);
        let address = |network: u16, host: usize| -> SocketAddr {
            (std::net::Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host as u16), 53).into()
        };
        let permits: Vec<_> = (0..2048).filter_map(|host| limiter.acquire(address(1, host)).ok()).collect();
        assert_eq!(permits.len(), 512);
        assert_eq!(limiter.acquire(address(1, 0)).unwrap_err(), LimitExceeded::PerClient);
        let of_others: Vec<_> = (0..200).map(|host| limiter.acquire(address(2, host)).unwrap()).collect();
        drop((permits, of_others));
        assert!(limiter.in_use().of_clients.is_empty());
    }

    #[test]
    fn without_sharing_the_bounds_are_fixed_and_all_units_may_be_taken() {
        let limiter = ClientLimiter::new(16, 8);
        let permits = fill(&limiter, 0..2);
        assert_eq!(permits.len(), 16);
        assert_eq!(limiter.acquire(client(2)).unwrap_err(), LimitExceeded::Global);
    }
}
