//! Who may ask. Everybody else gets no answer at all: not even a refusal can be sent to a forged address.

use std::net::IpAddr;

use ipnet::IpNet;

/// The networks that may ask, and the process's own addresses, which always may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    ipv4: Vec<Masked<u32>>,
    ipv6: Vec<Masked<u128>>,
}

/// The bits of a network, and which bits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Masked<T> {
    network: T,
    mask: T,
}

impl Acl {
    /// Lets no network ask.
    pub const DENY_ALL: Self = Self { ipv4: Vec::new(), ipv6: Vec::new() };

    /// Lets these networks ask.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        let mut allow = Self::DENY_ALL;
        for network in networks {
            match network.trunc() {
                IpNet::V4(net) => {
                    allow.ipv4.push(Masked { network: net.network().to_bits(), mask: net.netmask().to_bits() });
                }
                IpNet::V6(net) => {
                    allow.ipv6.push(Masked { network: net.network().to_bits(), mask: net.netmask().to_bits() });
                }
            }
        }
        allow
    }

    /// Whether a source may ask at one of our addresses. A source that *is* the address asked is this host itself (the
    /// agent's self-query among others) and may, whatever the networks are; from elsewhere such a packet cannot come.
    #[must_use]
    #[inline]
    pub fn permits(&self, source: IpAddr, asked: IpAddr) -> bool {
        let source = source.to_canonical();
        let permitted = match source {
            IpAddr::V4(source) => self.ipv4.iter().any(|allowed| source.to_bits() & allowed.mask == allowed.network),
            IpAddr::V6(source) => self.ipv6.iter().any(|allowed| source.to_bits() & allowed.mask == allowed.network),
        };
        permitted || source == asked.to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(source: &str, asked: &str) -> bool {
        let allow = Acl::new(&["10.1.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        allow.permits(source.parse().unwrap(), asked.parse().unwrap())
    }

    #[test]
    fn only_the_networks_of_the_configuration_may_ask() {
        assert!(permits("10.1.2.3", "169.254.20.10"));
        assert!(permits("fd12::1", "fd00::10"));
        assert!(!permits("11.1.2.3", "169.254.20.10"));
        assert!(!permits("2001:db8::1", "fd00::10"));
    }

    #[test]
    fn an_ipv4_mapped_source_is_judged_by_its_ipv4_address() {
        assert!(permits("::ffff:10.1.2.3", "fd00::10"));
        assert!(!permits("::ffff:11.1.2.3", "fd00::10"));
    }

    #[test]
    fn the_host_itself_may_always_ask() {
        assert!(permits("169.254.20.10", "169.254.20.10"));
        assert!(permits("fd00:1::1", "fd00:1::1"));
        assert!(!permits("169.254.20.11", "169.254.20.10"));
    }
}
