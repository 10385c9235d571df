//! The servers that `/etc/resolv.conf` names. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use node_cache_config::names::DNS_PORT;
use node_cache_config::{Protocol, Upstream};

/// Path of the file.
pub const PATH: &str = "/etc/resolv.conf";

/// Returns the servers that the `nameserver` lines name, in the order of the file.
#[must_use]
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines().filter_map(nameserver).filter_map(address).collect()
}

/// What a `resolv.conf` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// The servers that can be asked, in the order of the file.
    pub upstreams: Vec<Upstream>,
    /// What is wrong with it, in one sentence.
    pub problem: Option<String>,
}

/// Reads the `nameserver` lines. A captured address is left out: its questions would come back to this tier.
#[must_use]
pub fn read(text: &str, captured: &[IpAddr]) -> Servers {
    let captured: HashSet<IpAddr> = captured.iter().map(IpAddr::to_canonical).collect();
    let named: Vec<&str> = text.lines().filter_map(nameserver).collect();
    let addresses: Vec<SocketAddr> = named.iter().filter_map(|text| address(text)).collect();
    let (refused, usable): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.into_iter().partition(|address| captured.contains(&address.ip().to_canonical()));
    let problem = match refused.first() {
        Some(address) => Some(format!(
            "/etc/resolv.conf names {}, which this tier captures: its questions would come back to it; name the \
             upstreams in spec.resolvers.upstreams",
            address.ip()
        )),
        None if usable.is_empty() => Some(
            "/etc/resolv.conf names no server that can be asked; name the upstreams in spec.resolvers.upstreams".into(),
        ),
        None => None,
    };
    let upstreams = usable.into_iter().map(|address| Upstream { address, protocol: Protocol::Udp }).collect();
    Servers { upstreams, problem }
}

fn nameserver(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

/// An address, for IPv6 possibly with the interface that it is local to.
fn address(text: &str) -> Option<SocketAddr> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, DNS_PORT)),
        Err(_) => format!("[{text}]:{DNS_PORT}").parse().ok(),
    }
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
    fn a_captured_address_is_refused_as_an_upstream_and_told() {
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
}
