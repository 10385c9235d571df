//! Private addresses: those that mean different hosts in different networks, in every form in which they are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns whether an address is private (RFC 1918, RFC 6598, RFC 4193), link-local, or ::1. Loopback addresses of IPv4
/// are not.
#[must_use]
pub(super) const fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback(),
    }
}

/// Returns the IPv4 address that an IPv6 address embeds: IPv4-mapped and IPv4-compatible (RFC 4291 §2.5.5),
/// IPv4-translated (RFC 2765 §2.1), NAT64 (RFC 6052 §2.1, and RFC 8215 with a prefix of 96 bits), 6to4 (RFC 3056 §2).
#[must_use]
pub(super) fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_every_private_range_are_exact() {
        for private in ["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"]
        {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for private in ["100.64.0.0", "100.127.255.255", "169.254.0.0", "169.254.255.255", "::1", "fc00::"] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for private in ["fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::", "febf:ffff::1"] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
        for public in ["100.63.255.255", "100.128.0.0", "169.253.255.255", "169.255.0.0", "127.0.0.1", "0.0.0.0"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
        for public in ["::", "::2", "fbff::1", "fe00::1", "fe7f::1", "fec0::1", "2001:db8::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn an_embedded_ipv4_address_is_found_in_every_form() {
        for form in ["::ffff:10.1.2.3", "::10.1.2.3", "::ffff:0:10.1.2.3", "64:ff9b::10.1.2.3", "64:ff9b:1::10.1.2.3"] {
            assert_eq!(embedded_ipv4(form.parse().unwrap()), Some(Ipv4Addr::new(10, 1, 2, 3)), "{form}");
        }
        for form in ["64:ff9b:1:fffe:ffff:1:a01:203", "2002:a01:203::1", "2002:a01:203:1:2:3:4:5"] {
            assert_eq!(embedded_ipv4(form.parse().unwrap()), Some(Ipv4Addr::new(10, 1, 2, 3)), "{form}");
        }
        for other in ["2001:db8::10.1.2.3", "64:ff9c::10.1.2.3", "64:ff9b:2::10.1.2.3", "::1:ffff:10.1.2.3"] {
            assert_eq!(embedded_ipv4(other.parse().unwrap()), None, "{other}");
        }
    }
}
