//! Room of a process: how many queries may be in flight to upstreams, and how many queries of clients may wait for
//! them. A zone resolver has more than a node cache, because each of its clients is a whole node, and takes the memory
//! for that from its cache.

/// Bytes that one more query in flight takes, with the query of the client that leads it: 4,500 for its state and 6,800
/// that the kernel keeps for three sockets, measured without optimization.
const IN_FLIGHT_BYTES: u64 = 12 << 10;
/// Bytes that one more query of a client takes that follows a query in flight; 2,230 were measured.
const FOLLOWER_BYTES: u64 = 2560;
/// Bytes of a cache from which nothing is taken.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// Room of a process for queries that its cache does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Upstream queries in flight at one time, at most.
    pub in_flight: usize,
    /// Queries of clients that wait for upstreams at one time, at most.
    pub waiting: usize,
    /// Part of them that is left for queries which no query in flight could answer: a node repeats a query while it
    /// waits, and other names of the node shall not be refused for that.
    pub waiting_for_new: usize,
    /// Waiting queries of one client beside that part, at most. While many wait, one client gets no more than is left
    /// for others.
    pub waiting_of_client: usize,
}

impl Room {
    /// Room of a node cache. Its memory is part of the 16 MiB that a process may take beside its cache.
    pub const NODE_CACHE: Self = Self { in_flight: 1024, waiting: 2048, waiting_for_new: 0, waiting_of_client: 512 };
    /// Room of a zone resolver whose cache is large enough. A client is a node.
    const ZONE_RESOLVER: Self = Self { in_flight: 4096, waiting: 8192, waiting_for_new: 4096, waiting_of_client: 4096 };

    /// Divides the bytes of a zone resolver's cache: returns its room, and the bytes that are left for the cache. What
    /// the room takes is a quarter of the bytes at most; a smaller cache has a smaller room, never less than a node
    /// cache.
    #[must_use]
    pub fn of_zone_resolver(cache_bytes: u64) -> (Self, u64) {
        let Self { in_flight: base, waiting: base_waiting, .. } = Self::NODE_CACHE;
        let full = Self::ZONE_RESOLVER;
        let most = cache_bytes.saturating_sub(MIN_CACHE_BYTES) / 4 / (IN_FLIGHT_BYTES + FOLLOWER_BYTES);
        let more = usize::try_from(most).unwrap_or(usize::MAX).min(full.in_flight - base);
        let waiting = base_waiting + 2 * more;
        let (in_flight, half) = (base + more, waiting / 2);
        let room = Self { in_flight, waiting, waiting_for_new: half, waiting_of_client: half };
        (room, cache_bytes - more as u64 * (IN_FLIGHT_BYTES + FOLLOWER_BYTES))
    }
}

const _: () = {
    let (node, zone) = (Room::NODE_CACHE, Room::ZONE_RESOLVER);
    // For each further query in flight one leader and one follower more may wait.
    assert!(zone.waiting - node.waiting == 2 * (zone.in_flight - node.in_flight));
    assert!(2 * zone.waiting_for_new == zone.waiting && zone.waiting_of_client == zone.waiting_for_new);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_resolver_has_room_for_4096_queries_in_flight_and_8192_that_wait_and_its_cache_is_smaller_by_that() {
        let (room, left) = Room::of_zone_resolver(256 << 20);
        assert_eq!(room, Room::ZONE_RESOLVER);
        assert_eq!((room.in_flight, room.waiting), (4096, 8192));
        assert_eq!(left, (256 << 20) - 3072 * (IN_FLIGHT_BYTES + FOLLOWER_BYTES));
    }

    #[test]
    fn a_small_cache_keeps_three_quarters_of_its_bytes_and_the_room_of_a_node_cache() {
        for size in [1 << 20, 2 << 20, 4 << 20, 16 << 20, 64 << 20, 1 << 30] {
            let (room, left) = Room::of_zone_resolver(size);
            assert!(left <= size && left >= size / 4 * 3 && left >= MIN_CACHE_BYTES, "{size}: {left}");
            let node = Room::NODE_CACHE;
            assert!(room.in_flight >= node.in_flight && room.waiting >= node.waiting, "{size}: {room:?}");
            let more = (room.in_flight - node.in_flight) as u64;
            assert_eq!(size - left, more * (IN_FLIGHT_BYTES + FOLLOWER_BYTES), "{size}");
        }
        assert_eq!(Room::of_zone_resolver(1 << 20).0.in_flight, 1024);
    }
}
