//! Zones of names that mean something in one place only, and nothing here: every name of them is denied by this process
//! itself, so that no server of the outside hears of it (RFC 6303). The zone's own SOA record vouches for the denial, which
//! others may so keep.

use std::net::IpAddr;

use crate::dns::answer::Answer;
use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Response};
use crate::snapshot::routes::Routes;

/// Multicast DNS (RFC 6762 §22.1), homes (RFC 8375 §4), and reverse zones in which nobody has a name (RFC 6303 §4.2 and
/// §4.4): this network and host, everybody, and nobody. Those of addresses for examples are passed on: they do no harm, and
/// whoever builds a small internet for tests gives it these addresses.
const NOWHERE: [&str; 7] = [
    "local",
    "home.arpa",
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
];

/// How long anything about an empty zone may be kept, in seconds (RFC 6303 §3).
const TTL: u32 = 10_800;
/// Serial, refresh, retry, expire and minimum of its SOA record (RFC 6303 §3).
const NUMBERS: [u32; 5] = [1, 3600, 1200, 604_800, TTL];
const CONTACT: &[u8] = b"\x06nobody\x07invalid\0";

/// The zones that are empty in one process.
#[derive(Clone, Debug)]
pub struct EmptyZones(Routes<Option<Name>>);

impl EmptyZones {
    /// Those that are empty everywhere.
    #[must_use]
    pub fn new() -> Self {
        let mut zones = Self(Routes::new(None));
        for zone in NOWHERE {
            // They are names.
            let _ = zones.add(zone);
        }
        zones
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// `zone` is not a domain name.
    pub fn add(&mut self, zone: &str) -> Result<(), NameError> {
        self.0.add(zone, Some(Name::from_text(zone)?.lower()))
    }

    /// Somebody knows the names below this suffix.
    ///
    /// # Errors
    ///
    /// `suffix` is not a domain name.
    pub fn except(&mut self, suffix: &str) -> Result<(), NameError> {
        self.0.add(suffix, None)
    }

    /// The empty zone in which a name in lower case lies.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<&Name> {
        self.0.find(name).as_ref()
    }

    /// The answer to a question about a name, in lower case, in one of them.
    #[must_use]
    pub fn answer(&self, question: &Question) -> Option<Answer> {
        let zone = self.find(&question.name)?;
        let server_ids = NUMBERS.map(u32::to_be_bytes).concat();
        let soa = [zone.as_bytes(), CONTACT, &server_ids].concat();
        let response = match question.rtype {
            _ if question.name != *zone => Response::denied(question, rcode::NXDOMAIN, zone, TTL, &soa),
            rtype::SOA | rtype::ANY => Response::with_records(question, rcode::NOERROR, &[(rtype::SOA, TTL, soa)]),
            rtype::NS => {
                let server = (rtype::NS, TTL, zone.as_bytes().to_vec());
                Response::with_records(question, rcode::NOERROR, &[server])
            }
            _ => Response::denied(question, rcode::NOERROR, zone, TTL, &soa),
        };
        Some(Answer::local(response, None))
    }
}

impl Default for EmptyZones {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a server at this address is near enough to know the names of private addresses: it has one itself (RFC 1918,
/// RFC 6598, RFC 4193), or is on this link or host.
#[must_use]
pub const fn is_inside(server: IpAddr) -> bool {
    match server.to_canonical() {
        IpAddr::V4(server) => {
            let [first, second, ..] = server.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            server.is_private() || server.is_link_local() || server.is_loopback() || shared
        }
        IpAddr::V6(server) => server.is_unique_local() || server.is_unicast_link_local() || server.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_the_outside_are_told_from_those_inside() {
        for inside in ["10.0.0.2", "172.31.0.2", "192.168.1.1", "100.64.0.10", "169.254.169.253", "127.0.0.53"] {
            assert!(is_inside(inside.parse().unwrap()), "{inside}");
        }
        for inside in ["fd00:ec2::253", "fe80::1", "::1", "::ffff:10.0.0.2"] {
            assert!(is_inside(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:4860:4860::8888", "::ffff:1.1.1.1"] {
            assert!(!is_inside(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn the_longest_suffix_decides_whether_a_name_lies_in_an_empty_zone() {
        let mut zones = EmptyZones::new();
        zones.except("cluster.local").unwrap();
        zones.except("1.0.127.in-addr.arpa").unwrap();
        zones.add("10.in-addr.arpa").unwrap();
        let zone = |name: &str| zones.find(&Name::from_text(name).unwrap()).map(Name::to_string);
        assert_eq!(zone("printer.local").as_deref(), Some("local."));
        assert_eq!(zone("web.shop.svc.cluster.local"), None);
        assert_eq!(zone("9.1.0.127.in-addr.arpa"), None);
        assert_eq!(zone("9.2.0.127.in-addr.arpa").as_deref(), Some("127.in-addr.arpa."));
        assert_eq!(zone("1.2.0.192.in-addr.arpa"), None, "addresses for examples are passed on");
        assert_eq!(zone("1.0.0.10.in-addr.arpa").as_deref(), Some("10.in-addr.arpa."));
        assert_eq!(zone("www.example"), None);
    }
}
