//! Addresses from which the kubelet of this node connects to the pod: those of the node, and the gateways of the pod's
//! network, which are addresses of the node where a bridge or a router of the node connects its pods.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Environment variable with the addresses of the node, separated by commas.
const NODE_ADDRESSES_VARIABLE: &str = "HOST_IPS";
const IPV4_ROUTES: &str = "/proc/net/route";
const IPV6_ROUTES: &str = "/proc/net/ipv6_route";

/// Reads the addresses from the environment and from the routing tables. What cannot be read is left out.
pub(crate) fn read() -> Vec<IpAddr> {
    let list = std::env::var(NODE_ADDRESSES_VARIABLE).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = list.split(',').filter_map(|text| text.trim().parse().ok()).collect();
    addresses.extend(ipv4_gateways(&fs::read_to_string(IPV4_ROUTES).unwrap_or_default()));
    addresses.extend(ipv6_gateways(&fs::read_to_string(IPV6_ROUTES).unwrap_or_default()));
    addresses
}

/// Returns the gateways of default routes from the kernel's table of IPv4 routes. Columns are interface, destination,
/// gateway, four others, and mask; addresses are hexadecimal numbers of the octets in memory.
fn ipv4_gateways(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, "00000000", gateway, _, _, _, _, "00000000", ..] = columns[..] else { return None };
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        (!gateway.is_unspecified()).then_some(gateway.into())
    })
}

/// Returns the gateways of default routes from the kernel's table of IPv6 routes. Columns are destination and its
/// prefix length, source and its prefix length, gateway, and five others, in hexadecimal digits.
fn ipv6_gateways(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let ["00000000000000000000000000000000", "00", _, _, gateway, ..] = columns[..] else { return None };
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        (!gateway.is_unspecified()).then_some(gateway.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn gateways_of_default_routes_are_addresses_of_the_node() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t0000F40A\t0201F40A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            eth1\t00000000\t00000000\t0001\t0\t0\t9\t00000000\t0\t0\t0\n";
        let gateways: Vec<IpAddr> = ipv4_gateways(table).collect();
        assert_eq!(gateways, ["10.244.1.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn gateways_of_default_ipv6_routes_are_addresses_of_the_node() {
        let zero = "0".repeat(32);
        let gateway = "fd000010024400000000000000000001";
        let table = format!(
            "{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n\
             fd000010024400000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let gateways: Vec<IpAddr> = ipv6_gateways(&table).collect();
        assert_eq!(gateways, ["fd00:10:244::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn routes_that_no_one_can_read_give_no_address() {
        assert_eq!(ipv4_gateways("eth0 00000000 zz 0 0 0 0 00000000\nshort\n\n").count(), 0);
        assert_eq!(ipv6_gateways("short\n\n").count(), 0);
    }
}
