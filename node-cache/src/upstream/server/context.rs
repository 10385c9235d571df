//! State shared by all servers of a process.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::quality::RandomState;

use super::loop_probe::LoopProbes;
use super::watches::Watches;
use crate::dns::Name;
use crate::dnstap::Tap;
use crate::metrics::{PacketCounts, ResponseTimes, UpstreamPackets, WaitSeconds, ZoneQueryCounts};

/// State shared by all servers of a process, across revisions.
#[derive(Debug, Default)]
pub struct UpstreamContext {
    /// Tap (dnstap) for the messages to and from servers.
    pub tap: Arc<Tap>,
    /// Outstanding probes for forwarding loops.
    pub loop_probes: LoopProbes,
    /// IDs of the servers' addresses.
    pub server_ids: ServerIds,
    /// Response times by scope.
    pub response_times: Arc<ResponseTimes>,
    /// Packets to upstreams by scope.
    pub packets: Arc<UpstreamPackets>,
    /// Queries to the resolvers of each zone.
    pub zone_queries: ZoneQueryCounts,
    /// Detectors of limits.
    pub watches: Watches,
    /// Seed of the hashes of domains.
    domain_hasher: RandomState,
}

/// Counters that the servers of one scope share.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct ScopeCounts {
    /// Response times, late responses included.
    pub(super) round_trips: Arc<WaitSeconds>,
    /// Packets.
    pub(super) packets: Arc<PacketCounts>,
    /// Queries to the resolvers of the zone, where the scope is one.
    pub(super) zone_queries: Option<Arc<AtomicU64>>,
}

impl UpstreamContext {
    /// Creates the context of servers whose messages are offered to this tap.
    pub(in crate::upstream) fn new(tap: Arc<Tap>) -> Self {
        Self { tap, ..Self::default() }
    }

    /// Returns the counters of a scope such as `cluster`, `zone/a` or `route/corp.example`.
    pub(in crate::upstream) fn counts_of(&self, scope: &str) -> ScopeCounts {
        ScopeCounts {
            round_trips: self.response_times.of_scope(scope),
            packets: self.packets.of_scope(scope),
            zone_queries: self.zone_queries.of_scope(scope),
        }
    }

    /// Returns the hash of the registered domain of a name, under a seed that no client knows.
    pub(in crate::upstream) fn domain_hash(&self, name: &Name) -> u64 {
        name.registered_domain_hash(&self.domain_hasher)
    }
}

/// Interns server addresses as 16-bit IDs, so that a cache entry stores its source in two octets. IDs are never
/// reused: an entry may outlive its server.
#[derive(Debug, Default)]
pub struct ServerIds(Mutex<Vec<SocketAddr>>);

impl ServerIds {
    /// Returns the ID of an address, from 1; assigns the next one to a new address. 0 when all IDs are in use.
    pub(in crate::upstream) fn id(&self, address: SocketAddr) -> u16 {
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = addresses.iter().position(|other| *other == address).or_else(|| {
            let has_room = addresses.len() < usize::from(u16::MAX);
            has_room.then(|| {
                addresses.push(address);
                addresses.len() - 1
            })
        });
        index.and_then(|index| u16::try_from(index + 1).ok()).unwrap_or_default()
    }

    /// Returns the address with this ID; `None` for 0 and for IDs that are not assigned.
    #[must_use]
    pub fn address(&self, id: u16) -> Option<SocketAddr> {
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(usize::from(id).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_id_and_there_are_as_many_as_two_octets_hold() {
        let server_ids = ServerIds::default();
        let address = |number: u32| SocketAddr::from((std::net::Ipv4Addr::from(number), 53));
        assert_eq!([7, 8, 7].map(|number| server_ids.id(address(number))), [1, 2, 1]);
        assert_eq!(
            (server_ids.address(0), server_ids.address(2), server_ids.address(3)),
            (None, Some(address(8)), None)
        );
        server_ids.0.lock().unwrap().extend((0..65_533).map(address));
        assert_eq!(server_ids.id(address(70_000)), 0);
    }
}
