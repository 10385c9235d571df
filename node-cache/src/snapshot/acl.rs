//! Access control list: the networks whose queries are answered. Queries from all other addresses are dropped without a
//! response, so that not even a refusal is sent to a forged address.

use std::net::IpAddr;

use ipnet::IpNet;

/// Access control list by source network. Our own addresses are always permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    ipv4: Vec<Network<u32>>,
    ipv6: Vec<Network<u128>>,
}

/// Network address and mask as integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network<T> {
    address: T,
    mask: T,
}

impl Acl {
    /// Permits no network.
    pub const DENY_ALL: Self = Self { ipv4: Vec::new(), ipv6: Vec::new() };

    /// Permits these networks.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        let mut acl = Self::DENY_ALL;
        for network in networks {
            match network.trunc() {
                IpNet::V4(network) => {
                    acl.ipv4.push(Network { address: network.network().to_bits(), mask: network.netmask().to_bits() });
                }
                IpNet::V6(network) => {
                    acl.ipv6.push(Network { address: network.network().to_bits(), mask: network.netmask().to_bits() });
                }
            }
        }
        acl
    }

    /// Returns whether a query from `source` to `destination`, one of our addresses, is permitted. A source equal to
    /// its destination is this host itself (the agent's self-query among others) and always permitted: such a packet
    /// cannot come from another host.
    #[must_use]
    #[inline]
    pub fn permits(&self, source: IpAddr, destination: IpAddr) -> bool {
        let source = source.to_canonical();
        let permitted = match source {
            IpAddr::V4(source) => self.ipv4.iter().any(|network| source.to_bits() & network.mask == network.address),
            IpAddr::V6(source) => self.ipv6.iter().any(|network| source.to_bits() & network.mask == network.address),
        };
        permitted || source == destination.to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(source: &str, destination: &str) -> bool {
        let acl = Acl::new(&["10.1.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        acl.permits(source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn only_the_configured_networks_are_permitted() {
        assert!(permits("10.1.2.3", "169.254.20.10"));
        assert!(permits("fd12::1", "fd00::10"));
        assert!(!permits("11.1.2.3", "169.254.20.10"));
        assert!(!permits("2001:db8::1", "fd00::10"));
    }

    #[test]
    fn an_ipv4_mapped_source_is_matched_by_its_ipv4_address() {
        assert!(permits("::ffff:10.1.2.3", "fd00::10"));
        assert!(!permits("::ffff:11.1.2.3", "fd00::10"));
    }

    #[test]
    fn the_host_itself_is_always_permitted() {
        assert!(permits("169.254.20.10", "169.254.20.10"));
        assert!(permits("fd00:1::1", "fd00:1::1"));
        assert!(!permits("169.254.20.11", "169.254.20.10"));
    }
}
