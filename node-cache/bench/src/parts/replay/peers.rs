//! Other resolvers of the replay, each with the configuration that serves it best here. The files are in `files/`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::answer::STALE_TTL;
use super::network::{
    AUTHORITY, CLIENTS, FALLBACK, FOLDER, Member, NODES, PROVIDER, Servers, central_address, node_address,
};
use super::schedule::Scale;
use crate::servers::peers::PEERS;

/// Configuration of a central unbound.
const UNBOUND: &str = include_str!("files/unbound.conf");
/// Configuration of the provider's resolver and of the fallback.
pub(super) const WORLD: &str = include_str!("files/world.conf");
const COREFILE: &str = include_str!("files/Corefile");
const DNSDIST: &str = include_str!("files/dnsdist.conf");

/// Returns the name of a peer's program where it is not installed.
pub(super) fn missing(name: &'static str) -> Option<&'static str> {
    (!PEERS.iter().any(|peer| peer.name == name && peer.is_installed())).then_some(name)
}

/// Returns the name and the version of each peer.
pub(super) fn versions() -> Vec<String> {
    let peers = PEERS.iter().filter(|peer| ["unbound", "CoreDNS", "dnsdist"].contains(&peer.name));
    peers.map(|peer| format!("{} {}", peer.name, peer.version())).collect()
}

/// Starts an unbound at an address, from which it sends.
pub(super) fn start_unbound(servers: &mut Servers, member: Member, template: &str, address: &str, source: &str) {
    let name = format!("unbound-{address}");
    let config = write(&name, &fill(template, address, source, None));
    servers.start(&name, command("unbound", member).args(["-d", "-c", &config]));
}

/// Starts central unbounds, spread over the nodes; returns their addresses.
pub(super) fn start_central_unbounds(servers: &mut Servers, count: usize) -> Vec<SocketAddr> {
    let start = |number: usize| {
        let address = central_address(number);
        start_unbound(servers, Member::Node(number % NODES), UNBOUND, &address, &address);
        format!("{address}:53").parse().unwrap()
    };
    (0..count).map(start).collect()
}

/// Starts CoreDNS on each node as NodeLocal DNSCache configures it.
pub(super) fn start_node_locals(servers: &mut Servers) -> Vec<SocketAddr> {
    start_on_nodes(|node, address| {
        let name = format!("coredns-{node}");
        let config = write(&name, &fill(COREFILE, address, address, None));
        servers.start(&name, command("CoreDNS", Member::Node(node)).args(["-conf", &config]));
    })
}

/// Starts dnsdist on each node.
pub(super) fn start_dnsdists(servers: &mut Servers, scale: Scale) -> Vec<SocketAddr> {
    start_on_nodes(|node, address| {
        let name = format!("dnsdist-{node}");
        let config = write(&name, &fill(DNSDIST, address, address, Some(scale)));
        servers.start(
            &name,
            command("dnsdist", Member::Node(node)).args(["--supervised", "--disable-syslog", "-C", &config]),
        );
    })
}

fn start_on_nodes(mut start: impl FnMut(usize, &str)) -> Vec<SocketAddr> {
    let start = |node| {
        let address = node_address(node);
        start(node, &address);
        format!("{address}:53").parse().unwrap()
    };
    (0..NODES).map(start).collect()
}

fn command(peer: &str, member: Member) -> Command {
    member.command(PEERS.iter().find(|known| known.name == peer).unwrap().program())
}

fn write(name: &str, content: &str) -> String {
    let path = Path::new(FOLDER).join(format!("{name}.conf"));
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// Replaces the placeholders of a template.
fn fill(template: &str, address: &str, source: &str, scale: Option<Scale>) -> String {
    let scale = scale.map_or([0, 0], |scale| [scale.budget, scale.fallback]).map(|number| number.to_string());
    let values = [
        ("address", address),
        ("source", source),
        ("clients", CLIENTS),
        ("folder", FOLDER),
        ("provider", PROVIDER),
        ("fallback", FALLBACK),
        ("authority", AUTHORITY),
        ("budget", &scale[0]),
        ("fallback_limit", &scale[1]),
        ("stale_ttl", &STALE_TTL.to_string()),
    ];
    values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::{COREFILE, DNSDIST, UNBOUND, WORLD, fill};
    use crate::parts::replay::schedule::Scale;

    #[test]
    fn no_placeholder_is_left_in_a_configuration() {
        for template in [UNBOUND, WORLD, COREFILE, DNSDIST] {
            let text = fill(template, "10.88.0.2", "10.88.0.2", Some(Scale::FULL));
            let is_placeholder = |word: &str| {
                word.split('}')
                    .next()
                    .is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            };
            assert!(!text.split('{').skip(1).any(is_placeholder), "{text}");
            assert!(text.contains("10.88.0.2"));
        }
        assert!(fill(DNSDIST, "", "", Some(Scale::FULL)).contains("qps=900"));
    }
}
