//! Servers named by `/etc/resolv.conf` (resolv.conf(5)).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;
use node_cache_config::Upstream;
use node_cache_config::names::DNS_PORT;

/// Path of the file.
pub(crate) const PATH: &str = "/etc/resolv.conf";

/// Upstreams from a `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Servers that can be queried, in the order of the file.
    pub(crate) upstreams: Vec<Upstream>,
    /// Problem of the file, in one sentence; `None` if there is none.
    pub(crate) problem: Option<String>,
}

/// Reads the upstreams from the text of a `resolv.conf`. Captured addresses are left out: queries to them would come
/// back to this tier.
#[must_use]
pub(crate) fn read(text: &str, captured: &[IpAddr]) -> ResolvConf {
    let captured: HashSet<IpAddr> = captured.iter().map(IpAddr::to_canonical).collect();
    let (rejected, usable): (Vec<SocketAddr>, Vec<SocketAddr>) =
        nameservers(text).into_iter().partition(|address| captured.contains(&address.ip().to_canonical()));
    let problem = match rejected.first() {
        Some(address) => Some(format!(
            "/etc/resolv.conf names {}, which this tier captures: queries to it would come back to the tier; name \
             the upstreams in spec.resolvers.upstreams",
            address.ip()
        )),
        None if usable.is_empty() => Some(
            "/etc/resolv.conf names no server that can be queried; name the upstreams in spec.resolvers.upstreams"
                .into(),
        ),
        None => None,
    };
    let upstreams = usable.into_iter().map(Upstream::from).collect();
    ResolvConf { upstreams, problem }
}

/// Returns the servers of the `nameserver` lines, in the order of the file, with port 53. Link-local IPv6 addresses
/// may have a scope (`fe80::1%eth0`, `fe80::1%2`). Lines with anything else are ignored.
#[must_use]
pub(crate) fn nameservers(text: &str) -> Vec<SocketAddr> {
    nameservers_with(text, |interface| if_nametoindex(interface).ok())
}

/// Returns [`nameservers`] with this function from the name of an interface to its index.
fn nameservers_with(text: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(nameserver);
    addresses.filter_map(|address| parse_address(address, &interface_index)).collect()
}

/// Returns the address in a `nameserver` line, as it is written.
fn nameserver(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

/// Parses an address; for IPv6 possibly with a scope, which is the index or the name of an interface (RFC 4007 §11).
fn parse_address(text: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, scope)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, DNS_PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope_id = scope.parse().ok().or_else(|| interface_index(scope))?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, scope_id).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_node_are_read_in_order() {
        let servers = read("# made by\nsearch example\nnameserver 169.254.169.253\nnameserver\t2001:db8::1\n", &[]);
        let addresses: Vec<String> = servers.upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
        assert_eq!(addresses, ["169.254.169.253:53", "[2001:db8::1]:53"]);
        assert_eq!(servers.problem, None);
    }

    #[test]
    fn a_captured_address_is_refused_as_an_upstream_and_reported() {
        let captured = ["10.96.0.10".parse().unwrap()];
        let servers = read("nameserver 10.96.0.10\nnameserver 192.0.2.53\n", &captured);
        assert_eq!(servers.upstreams.len(), 1);
        assert!(servers.problem.unwrap().starts_with("/etc/resolv.conf names 10.96.0.10, which this tier captures"));
        assert!(read("nameserver ::ffff:10.96.0.10", &captured).upstreams.is_empty());
    }

    #[test]
    fn a_file_without_a_server_is_a_problem() {
        let servers = read("search example\nnameserver nonsense\n", &[]);
        assert!(servers.upstreams.is_empty() && servers.problem.is_some());
    }

    #[test]
    fn comments_and_indentation_are_understood() {
        let text =
            "nameserver 10.96.0.10 # cluster\n nameserver fd96::a\n# nameserver 192.0.2.1\nnameservers 192.0.2.2\n";
        assert_eq!(
            nameservers(text),
            ["10.96.0.10:53".parse().unwrap(), "[fd96::a]:53".parse::<SocketAddr>().unwrap()]
        );
    }

    #[test]
    fn a_scoped_address_keeps_its_interface_by_index_or_by_name() {
        let index = |name: &str| (name == "eth0").then_some(7);
        let text = "nameserver fe80::1%2\nnameserver fe80::1%eth0\nnameserver fe80::1%gone\nnameserver 10.0.0.1%eth0\n";
        let scoped = |scope_id| SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), DNS_PORT, 0, scope_id));
        assert_eq!(nameservers_with(text, index), [scoped(2), scoped(7)]);
        assert_eq!(nameservers("nameserver fe80::1%lo"), [scoped(1)]);
    }

    #[test]
    fn a_scoped_address_is_an_upstream() {
        let servers = read("nameserver fe80::1%2\n", &[]);
        let addresses: Vec<String> = servers.upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
        assert_eq!((addresses, servers.problem), (vec!["[fe80::1%2]:53".to_owned()], None));
    }
}
