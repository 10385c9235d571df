//! Locally served zones (RFC 6303): empty zones whose names have a meaning in one place only. This process itself
//! answers queries for them with NXDOMAIN, so that no server outside sees them. The negative response has the zone's
//! own SOA record, so that clients may cache it.
//!
//! Some of these zones are not empty everywhere: a company may use [`LOCAL_ZONES`]. They are excluded where a server
//! inside can be asked.

use std::net::IpAddr;

use crate::dns::answer::Answer;
use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Response};
use crate::snapshot::private_addresses::is_private;
use crate::snapshot::routes::Routes;

/// Zones with a local meaning that a server inside may know: multicast DNS (RFC 6762 §22.1), below which companies have
/// put their domains, and home networks (RFC 8375 §4).
pub(super) const LOCAL_ZONES: [&str; 2] = ["local", "home.arpa"];

/// Zones that are empty everywhere: the reverse zones of "this network", loopback, broadcast and unspecified addresses
/// (RFC 6303 §4.2 and §4.4). Reverse zones of documentation addresses are forwarded: they do no harm, and test networks
/// use these addresses.
const LOCALLY_SERVED_ZONES: [&str; 5] = [
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
];

/// TTL of all records of an empty zone, in seconds (RFC 6303 §3).
const EMPTY_ZONE_TTL: u32 = 10_800;
/// Serial, refresh, retry, expire and minimum of an empty zone's SOA record (RFC 6303 §3).
const SOA_NUMBERS: [u32; 5] = [1, 3600, 1200, 604_800, EMPTY_ZONE_TTL];
/// Mailbox of an empty zone's SOA record, in wire format.
const SOA_CONTACT: &[u8] = b"\x06nobody\x07invalid\0";

/// The empty zones of one process.
#[derive(Clone, Debug)]
pub struct EmptyZones(Routes<Option<Name>>);

impl EmptyZones {
    /// Makes the set of zones that are empty everywhere, and of [`LOCAL_ZONES`].
    #[must_use]
    pub fn new() -> Self {
        let mut zones = Self(Routes::new(None));
        for zone in LOCALLY_SERVED_ZONES.into_iter().chain(LOCAL_ZONES) {
            // Cannot fail: all of them are domain names.
            let _ = zones.add(zone);
        }
        zones
    }

    /// Adds an empty zone.
    ///
    /// # Errors
    ///
    /// `zone` is not a domain name.
    pub fn add(&mut self, zone: &str) -> Result<(), NameError> {
        self.0.add(zone, Some(Name::from_text(zone)?.lower()))
    }

    /// Excludes a suffix from the empty zones: an upstream knows the names below it.
    ///
    /// # Errors
    ///
    /// `suffix` is not a domain name.
    pub fn exclude(&mut self, suffix: &str) -> Result<(), NameError> {
        self.0.add(suffix, None)
    }

    /// Returns the empty zone of a name, which must be in lower case.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<&Name> {
        self.0.find(name).as_ref()
    }

    /// Answers a question for a name in an empty zone; `None` for all other names. The name must be in lower case.
    #[must_use]
    pub fn answer(&self, question: &Question) -> Option<Answer> {
        let zone = self.find(&question.name)?;
        let numbers = SOA_NUMBERS.map(u32::to_be_bytes).concat();
        let soa = [zone.as_bytes(), SOA_CONTACT, &numbers].concat();
        let response = match question.rtype {
            _ if question.name != *zone => Response::negative(question, rcode::NXDOMAIN, zone, EMPTY_ZONE_TTL, &soa),
            rtype::SOA | rtype::ANY => {
                Response::with_records(question, rcode::NOERROR, &[(rtype::SOA, EMPTY_ZONE_TTL, soa)])
            }
            rtype::NS => {
                let server = (rtype::NS, EMPTY_ZONE_TTL, zone.as_bytes().to_vec());
                Response::with_records(question, rcode::NOERROR, &[server])
            }
            _ => Response::negative(question, rcode::NOERROR, zone, EMPTY_ZONE_TTL, &soa),
        };
        Some(Answer::local(response, None))
    }
}

impl Default for EmptyZones {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns whether a server's address is private (RFC 1918, RFC 6598, RFC 4193), link-local or loopback. Only such a
/// server can know the names of private addresses.
#[must_use]
pub(crate) const fn is_inside(server: IpAddr) -> bool {
    let server = server.to_canonical();
    is_private(server) || server.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_distinguished_from_public_ones() {
        for private in ["10.0.0.2", "172.31.0.2", "192.168.1.1", "100.64.0.10", "169.254.169.253", "127.0.0.53"] {
            assert!(is_inside(private.parse().unwrap()), "{private}");
        }
        for private in ["fd00:ec2::253", "fe80::1", "::1", "::ffff:10.0.0.2"] {
            assert!(is_inside(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:4860:4860::8888", "::ffff:1.1.1.1"] {
            assert!(!is_inside(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn the_longest_suffix_decides_whether_a_name_is_in_an_empty_zone() {
        let mut zones = EmptyZones::new();
        zones.exclude("cluster.local").unwrap();
        zones.exclude("1.0.127.in-addr.arpa").unwrap();
        zones.add("10.in-addr.arpa").unwrap();
        let zone = |name: &str| zones.find(&Name::from_text(name).unwrap()).map(Name::to_string);
        assert_eq!(zone("printer.local").as_deref(), Some("local."));
        assert_eq!(zone("web.shop.svc.cluster.local"), None);
        assert_eq!(zone("9.1.0.127.in-addr.arpa"), None);
        assert_eq!(zone("9.2.0.127.in-addr.arpa").as_deref(), Some("127.in-addr.arpa."));
        assert_eq!(zone("1.2.0.192.in-addr.arpa"), None, "reverse names of documentation addresses are forwarded");
        assert_eq!(zone("1.0.0.10.in-addr.arpa").as_deref(), Some("10.in-addr.arpa."));
        assert_eq!(zone("www.example"), None);
    }
}
