//! Clients, and the units of something limited that each of them holds: queries, connections, bytes.
//!
//! A client is an address. An IPv6 network of 64 bits in which more than [`MAX_SEPARATE_ADDRESSES`] addresses hold
//! units at one time counts as one client: that is more than the pods of a node, and a pod that may choose its address
//! could be as many clients as it likes. The network counts as one until it has had no more than that many for
//! [`SPLIT_DELAY`]. IPv4-mapped addresses count as IPv4.
//!
//! All state belongs to addresses that hold units, so what limits the units limits the memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

/// Addresses of one IPv6 network that hold units and are clients of their own, at most.
const MAX_SEPARATE_ADDRESSES: usize = 256;
/// Time without more addresses than that after which those of a network are clients of their own again.
const SPLIT_DELAY: Duration = Duration::from_secs(10);

/// A client: who gets one share of what is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// An address, in canonical form.
    Address(IpAddr),
    /// All addresses of an IPv6 network, by its first 64 bits.
    Network(u64),
}

/// Units that each client holds. Pure: the time is a parameter, and is asked for only where networks count as one.
#[derive(Debug, Default)]
pub(crate) struct ClientUnits {
    /// Units of each address that holds any.
    by_address: HashMap<IpAddr, usize, RandomState>,
    /// IPv6 networks of these addresses.
    networks: HashMap<u64, Network, RandomState>,
}

/// IPv6 network of 64 bits.
#[derive(Debug, Default)]
struct Network {
    /// Addresses that hold units.
    addresses: usize,
    /// Units of all of them.
    units: usize,
    /// When the network last had more addresses than may be clients of their own; `None` while each is one.
    crowded_at: Option<Instant>,
}

impl ClientUnits {
    /// Returns the client that an address belongs to, after splitting its network if that is due at `now`.
    pub(crate) fn client(&mut self, address: IpAddr, now: impl FnOnce() -> Instant) -> Client {
        if let Some(network) = prefix(address).and_then(|prefix| self.networks.get_mut(&prefix)) {
            network.split_if_due(now);
        }
        self.holder(address)
    }

    /// Returns the client that an address belongs to.
    pub(crate) fn holder(&self, address: IpAddr) -> Client {
        match prefix(address) {
            Some(prefix) if self.networks.get(&prefix).is_some_and(|network| network.crowded_at.is_some()) => {
                Client::Network(prefix)
            }
            _ => Client::Address(address.to_canonical()),
        }
    }

    /// Returns the units that a client holds.
    pub(crate) fn held_by(&self, client: Client) -> usize {
        let held = match client {
            Client::Address(address) => self.by_address.get(&address).copied(),
            Client::Network(prefix) => self.networks.get(&prefix).map(|network| network.units),
        };
        held.unwrap_or_default()
    }

    /// Adds `count` units, at least one, to those of an address.
    pub(crate) fn add(&mut self, address: IpAddr, count: usize, now: impl FnOnce() -> Instant) {
        let held = self.by_address.entry(address.to_canonical()).or_default();
        let is_new = *held == 0;
        *held += count;
        let Some(prefix) = prefix(address) else { return };
        let network = self.networks.entry(prefix).or_default();
        network.units += count;
        network.addresses += usize::from(is_new);
        if network.addresses > MAX_SEPARATE_ADDRESSES {
            network.crowded_at = Some(now());
        }
    }

    /// Removes `count` units of an address that has at least as many.
    pub(crate) fn remove(&mut self, address: IpAddr, count: usize) {
        let canonical = address.to_canonical();
        let is_last = match self.by_address.get_mut(&canonical) {
            Some(held) if *held > count => {
                *held -= count;
                false
            }
            _ => self.by_address.remove(&canonical).is_some(),
        };
        let Some(prefix) = prefix(address) else { return };
        let Some(network) = self.networks.get_mut(&prefix) else { return };
        network.units = network.units.saturating_sub(count);
        network.addresses = network.addresses.saturating_sub(usize::from(is_last));
        if network.addresses == 0 {
            self.networks.remove(&prefix);
        }
    }

    /// Returns the number of clients that hold units.
    pub(crate) fn client_count(&self) -> usize {
        let in_networks: usize = self.crowded_networks().map(|network| network.addresses - 1).sum();
        self.by_address.len() - in_networks
    }

    /// Returns the units of the client that holds the most; 0 without any.
    pub(crate) fn most(&self) -> usize {
        let of_networks = self.crowded_networks().map(|network| network.units).max();
        self.by_address.values().copied().max().max(of_networks).unwrap_or_default()
    }

    /// Returns whether nothing is held, and so nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    fn crowded_networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values().filter(|network| network.crowded_at.is_some())
    }
}

impl Network {
    fn split_if_due(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(crowded_at) = self.crowded_at
            && self.addresses <= MAX_SEPARATE_ADDRESSES
            && now().saturating_duration_since(crowded_at) >= SPLIT_DELAY
        {
            self.crowded_at = None;
        }
    }
}

/// Returns the first 64 bits of an IPv6 address; `None` for IPv4, mapped or not.
fn prefix(address: IpAddr) -> Option<u64> {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => Some((address.to_bits() >> 64) as u64),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// Address number `host` of a network of 64 bits.
    fn address(network: u16, host: usize) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host as u16).into()
    }

    fn no_clock() -> Instant {
        panic!("no network counts as one")
    }

    /// Gives each of these addresses of a network a unit.
    fn fill(units: &mut ClientUnits, network: u16, hosts: std::ops::Range<usize>, now: Instant) {
        hosts.for_each(|host| units.add(address(network, host), 1, || now));
    }

    #[test]
    fn as_many_addresses_of_a_network_as_a_node_has_pods_are_clients_of_their_own() {
        let mut units = ClientUnits::default();
        for host in 0..256 {
            units.add(address(1, host), 1, no_clock);
            units.add(address(1, host), 2, no_clock);
        }
        assert_eq!(units.client(address(1, 7), no_clock), Client::Address(address(1, 7)));
        assert_eq!((units.held_by(units.holder(address(1, 7))), units.client_count(), units.most()), (3, 256, 3));
    }

    #[test]
    fn one_address_more_makes_a_network_one_client_and_no_other() {
        let now = Instant::now();
        let mut units = ClientUnits::default();
        fill(&mut units, 2, 0..200, now);
        fill(&mut units, 1, 0..257, now);
        let client = units.client(address(1, 7), || now);
        assert_eq!(client, units.client(address(1, 9_999), || now), "addresses that hold nothing belong to it too");
        assert_eq!((units.held_by(client), units.client_count(), units.most()), (257, 201, 257));
        assert_eq!(units.client(address(2, 7), no_clock), Client::Address(address(2, 7)));
    }

    #[test]
    fn a_network_is_one_client_until_ten_seconds_without_a_crowd_have_passed() {
        let start = Instant::now();
        let mut units = ClientUnits::default();
        let later = |seconds| start + Duration::from_secs(seconds);
        let is_one =
            |units: &mut ClientUnits, at| matches!(units.client(address(1, 0), || later(at)), Client::Network(_));
        fill(&mut units, 1, 0..257, start);
        (100..257).for_each(|host| units.remove(address(1, host), 1));
        assert!(is_one(&mut units, 0) && is_one(&mut units, 9));
        fill(&mut units, 1, 100..257, later(9));
        assert!(is_one(&mut units, 18) && is_one(&mut units, 60), "it is still crowded");
        (100..257).for_each(|host| units.remove(address(1, host), 1));
        assert!(!is_one(&mut units, 60));
        fill(&mut units, 1, 100..257, later(60));
        assert!(is_one(&mut units, 69));
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_never_a_network() {
        let mut units = ClientUnits::default();
        for number in 0..1_000_u32 {
            let address = Ipv4Addr::from(number);
            units.add(address.to_ipv6_mapped().into(), 1, no_clock);
            units.add(address.into(), 1, no_clock);
        }
        assert_eq!((units.client_count(), units.most()), (1_000, 2));
        units.remove(Ipv4Addr::from(7).into(), 2);
        assert_eq!(units.held_by(units.holder(Ipv4Addr::from(7).to_ipv6_mapped().into())), 0);
    }

    #[test]
    fn nothing_is_kept_of_addresses_that_hold_nothing() {
        let now = Instant::now();
        let mut units = ClientUnits::default();
        for network in 0..20 {
            fill(&mut units, network, 0..300, now);
            (0..300).for_each(|host| units.remove(address(network, host), 1));
        }
        assert!(units.is_empty() && units.networks.is_empty());
        assert_eq!((units.client_count(), units.most()), (0, 0));
        assert_eq!(units.client(address(1, 0), no_clock), Client::Address(address(1, 0)));
    }
}
