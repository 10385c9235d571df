//! DnsTier in the replay: on each node a node cache and two zone resolvers of the node's zone, released programs with
//! configuration files, without a control plane.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use node_cache_config::{Captured, Config, PacketBudget, UpstreamSource, Zone};

use super::authority::RESOLVER_PORT;
use super::network::{
    CLIENTS, CLUSTER_DNS, FALLBACK, FOLDER, Member, NODES, PROVIDER, RESOLVERS_PER_NODE, Servers, node_address,
    resolver_address,
};
use super::schedule::Scale;
use crate::servers::programs;

/// Bytes of each cache.
const CACHE_BYTES: &str = "67108864";

/// Starts the tier; returns the addresses that clients query.
pub(super) fn start(servers: &mut Servers, scale: Scale, is_told: bool) -> Vec<SocketAddr> {
    let config = configuration(is_told.then_some(scale.budget));
    for node in 0..NODES {
        let member = Member::Node(node);
        for resolver in 0..RESOLVERS_PER_NODE {
            let name = format!("zone-resolver-{node}-{resolver}");
            let folder = folder(&name, &zone_name(node), &config);
            let address = resolver_address(node, resolver);
            let mut command = member.command(programs::find("zone-resolver"));
            command.args(["run", "--workers", "1", "--cache-size", CACHE_BYTES]);
            command.args(["--listen", &format!("{address}:{RESOLVER_PORT}"), "--http", &format!("{address}:9153")]);
            servers.start(&name, command.arg("--config-dir").arg(&folder).arg("--run-dir").arg(&folder));
        }
        let name = format!("node-cache-{node}");
        let folder = folder(&name, &zone_name(node), &config);
        let program = std::env::current_exe().unwrap();
        let mut holder = member.command(program);
        servers.start(&format!("sockets-{node}"), holder.args(["hold-sockets", &node_address(node)]).arg(&folder));
        let mut command = member.command(programs::find("node-cache"));
        command.args(["run", "--instance", "cache-0", "--cache-size", CACHE_BYTES]);
        servers.start(&name, command.arg("--config-dir").arg(&folder).arg("--run-dir").arg(&folder));
    }
    (0..NODES).map(|node| format!("{}:53", node_address(node)).parse().unwrap()).collect()
}

fn zone_name(node: usize) -> String {
    format!("zone-{}", char::from(b'a' + node as u8))
}

/// Makes the folder of a process, with its configuration and its zone.
fn folder(name: &str, zone: &str, config: &Config) -> PathBuf {
    let folder = Path::new(FOLDER).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("stable.json"), serde_json::to_vec(config).unwrap()).unwrap();
    fs::write(folder.join("zone"), zone).unwrap();
    folder
}

/// Returns the configuration of all processes; with the packets that a node may send to the provider where they are
/// told.
fn configuration(budget_per_node: Option<u32>) -> Config {
    let mut config = Config::example();
    let at = |address: &str| -> SocketAddr { format!("{address}:53").parse().unwrap() };
    let clients: ipnet::IpNet = CLIENTS.parse().unwrap();
    let captured = |node| Captured { address: node_address(node).parse().unwrap(), service: false };
    let zone = |node: usize| Zone {
        name: zone_name(node),
        bootstrap: (0..RESOLVERS_PER_NODE)
            .map(|resolver| format!("{}:{RESOLVER_PORT}", resolver_address(node, resolver)).parse().unwrap())
            .collect(),
        service: format!("{}.dnstier-system.svc.cluster.local", zone_name(node)),
    };
    config.cluster_dns.bootstrap = vec![CLUSTER_DNS.parse().unwrap()];
    config.zones = (0..NODES).map(zone).collect();
    config.node_cache.captured = (0..NODES).map(captured).collect();
    config.node_cache.allow_from = vec![clients];
    config.resolver.allow_from = vec![clients];
    config.resolver.upstreams = UpstreamSource::Servers(vec![at(PROVIDER).into()]);
    config.resolver.fallback = vec![at(FALLBACK).into()];
    let budget = |packets_per_second| PacketBudget {
        servers: vec![at(PROVIDER)],
        packets_per_second,
        in_flight: None,
        processes: RESOLVERS_PER_NODE as u32,
    };
    config.resolver.packet_budgets = budget_per_node.map(budget).into_iter().collect();
    config.validate().unwrap();
    config
}

#[cfg(test)]
mod tests {
    use super::configuration;

    #[test]
    fn a_budget_is_all_that_the_two_casts_differ_in() {
        let (mut told, not_told) = (configuration(Some(900)), configuration(None));
        assert_eq!(told.resolver.packet_budgets[0].packets_per_second, 900);
        told.resolver.packet_budgets.clear();
        assert_eq!(told, not_told);
        assert_eq!((told.zones.len(), told.resolver.fallback.len()), (3, 1));
    }
}
