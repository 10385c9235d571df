//! Name of a configuration, and of the parts of it that the caches of the nodes and the resolvers of the zones read. It
//! depends on the content alone and so is equal in every process.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Config, LastResort, NodeCache, PacketBudget, PrivateAnswers, Resolver, UpstreamSource};

/// Fingerprints of the parts of a configuration: of two configurations with the same fingerprint of a part, who reads
/// this part does the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartFingerprints {
    /// Fingerprint of the part that caches and agent of a node read.
    pub nodes: String,
    /// Fingerprint of the part that the resolvers of a zone read.
    pub resolvers: String,
}

/// Returns the revision of a configuration: the first ten hexadecimal digits of the SHA-256 of its JSON.
///
/// Fields are written in the order of their declaration, so equal values give equal bytes.
#[must_use]
pub fn fingerprint(config: &Config) -> String {
    hash(config)
}

/// Returns the fingerprints of the parts of a configuration.
///
/// The nodes read everything but the settings of the resolvers; of these only the upstreams with their packet budgets,
/// which are their last resort, and the private suffixes, which may have private addresses, each where the nodes' own
/// settings make them matter. The resolvers read their own settings; the captured addresses only where they take their
/// upstreams from a `resolv.conf`, of which they leave these addresses out.
#[must_use]
pub fn part_fingerprints(config: &Config) -> PartFingerprints {
    // Without `..`: a new field does not compile until somebody has decided who reads it.
    let Config { tier, cluster_domain, cluster_dns, node_cache, zones, resolver, routes } = config;
    let NodeCache { captured, cache: _, allow_from: _, private_answers, last_resort, probes: _ } = node_cache;
    let Resolver { upstreams, fallback: _, private_suffixes, cache: _, allow_from: _, packet_budgets } = resolver;
    let has_last_resort = matches!(last_resort, LastResort::Upstreams { .. }) && !zones.is_empty();
    // A node divides the budgets by its own caches.
    let budget_of_node = |budget: &PacketBudget| PacketBudget { processes: 1, ..budget.clone() };
    let budgets: Vec<PacketBudget> = packet_budgets.iter().map(budget_of_node).collect();
    let last_resort_servers = has_last_resort.then_some((upstreams, budgets));
    let exempt_suffixes = (*private_answers == PrivateAnswers::Refuse).then_some(private_suffixes);
    let nodes = (tier, cluster_domain, cluster_dns, node_cache, zones, routes, last_resort_servers, exempt_suffixes);
    let not_asked = (*upstreams == UpstreamSource::ResolvConf).then(|| captured.iter().map(|each| each.address));
    let not_asked: Option<Vec<_>> = not_asked.map(Iterator::collect);
    PartFingerprints { nodes: hash(&nodes), resolvers: hash(&(resolver, not_asked)) }
}

fn hash(value: &impl Serialize) -> String {
    hexadecimal(&serde_json::to_vec(value).unwrap_or_default(), 5)
}

/// Returns the first 16 hexadecimal digits of the SHA-256 of some octets.
#[must_use]
pub fn digest(octets: &[u8]) -> String {
    hexadecimal(octets, 8)
}

fn hexadecimal(octets: &[u8], length: usize) -> String {
    Sha256::digest(octets).iter().take(length).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{Route, Zone};

    #[test]
    fn the_fingerprint_depends_on_the_content_alone() {
        let first = fingerprint(&Config::example());
        let second = fingerprint(&Config::example());
        assert_eq!(first, second);
        assert_eq!(first.len(), 10);
        let changed = Config { tier: "other".to_owned(), ..Config::example() };
        assert_ne!(fingerprint(&changed), first);
    }

    fn changed(change: impl Fn(&mut Config)) -> (bool, bool) {
        moved(|_| {}, change)
    }

    /// Returns whether a change moves the nodes and the resolvers of a configuration that was prepared like this.
    fn moved(prepare: impl Fn(&mut Config), change: impl Fn(&mut Config)) -> (bool, bool) {
        let mut config = Config::example();
        prepare(&mut config);
        let before = part_fingerprints(&config);
        let name = fingerprint(&config);
        change(&mut config);
        assert_ne!(fingerprint(&config), name, "it is a change");
        let after = part_fingerprints(&config);
        (before.nodes != after.nodes, before.resolvers != after.resolvers)
    }

    #[test]
    fn only_who_reads_a_field_has_another_fingerprint() {
        const NODES: (bool, bool) = (true, false);
        const RESOLVERS: (bool, bool) = (false, true);
        let server: SocketAddr = "192.0.2.53:53".parse().unwrap();
        assert_eq!(changed(|config| config.tier = "other".to_owned()), NODES);
        assert_eq!(changed(|config| config.cluster_domain = "other.example".to_owned()), NODES);
        assert_eq!(changed(|config| config.cluster_dns.bootstrap.push(server)), NODES);
        assert_eq!(changed(|config| config.node_cache.cache.max_ttl = 1), NODES);
        assert_eq!(changed(|config| config.node_cache.allow_from.clear()), NODES);
        assert_eq!(changed(|config| config.node_cache.last_resort = LastResort::Disabled), NODES);
        assert_eq!(changed(|config| config.node_cache.private_answers = PrivateAnswers::Refuse), NODES);
        assert_eq!(changed(|config| config.node_cache.captured.clear()), NODES);
        let route = Route { suffix: "corp.example".to_owned(), upstreams: vec![server.into()], packet_budgets: vec![] };
        assert_eq!(changed(|config| config.routes.push(route.clone())), NODES);
        assert_eq!(changed(|config| config.zones.push(zone())), NODES);
        assert_eq!(changed(|config| config.resolver.cache.max_ttl = 1), RESOLVERS);
        assert_eq!(changed(|config| config.resolver.allow_from.clear()), RESOLVERS);
        assert_eq!(changed(|config| config.resolver.fallback.push(server.into())), RESOLVERS);
        assert_eq!(changed(|config| config.resolver.private_suffixes.push("corp".to_owned())), RESOLVERS);
        let servers = |config: &mut Config| config.resolver.upstreams = UpstreamSource::Servers(vec![server.into()]);
        assert_eq!(changed(servers), RESOLVERS, "without zones nobody is asked as a last resort");
    }

    #[test]
    fn what_one_reads_of_the_other_counts_where_it_is_used() {
        const BOTH: (bool, bool) = (true, true);
        const RESOLVERS: (bool, bool) = (false, true);
        let server: SocketAddr = "192.0.2.53:53".parse().unwrap();
        let servers = |config: &mut Config| config.resolver.upstreams = UpstreamSource::Servers(vec![server.into()]);
        let with_zone = |config: &mut Config| config.zones.push(zone());
        assert_eq!(moved(with_zone, servers), BOTH, "the upstreams are the last resort of the nodes");
        let without_last_resort = |config: &mut Config| {
            config.zones.push(zone());
            config.node_cache.last_resort = LastResort::Disabled;
        };
        assert_eq!(moved(without_last_resort, servers), RESOLVERS);
        let refuse = |config: &mut Config| config.node_cache.private_answers = PrivateAnswers::Refuse;
        let suffix = |config: &mut Config| config.resolver.private_suffixes.push("corp".to_owned());
        assert_eq!(moved(refuse, suffix), BOTH, "names of private suffixes may have private addresses");
        let resolv_conf = |config: &mut Config| config.resolver.upstreams = UpstreamSource::ResolvConf;
        let capture = |config: &mut Config| config.node_cache.captured.clear();
        assert_eq!(moved(resolv_conf, capture), BOTH, "captured addresses of a resolv.conf are left out");
    }

    fn zone() -> Zone {
        Zone { name: "a".to_owned(), bootstrap: vec![], service: "a.svc.cluster.local".to_owned() }
    }

    /// A changed serialized form would be a new revision for every tier in use, and pods of the version before refuse a
    /// field that they do not know. A new field is left out while it has its default.
    #[test]
    fn the_serialized_form_does_not_change() {
        let json = serde_json::to_string(&Config::example()).unwrap();
        let expected = concat!(
            r#"{"tier":"default","clusterDomain":"cluster.local","#,
            r#""clusterDns":{"bootstrap":["127.0.0.1:9"],"service":"pods.kube-system.svc.cluster.local"},"#,
            r#""nodeCache":{"captured":[{"address":"169.254.20.10","service":false}],"#,
            r#""cache":{"maxTtl":3600,"negativeMaxTtl":30,"serveStale":86400},"allowFrom":["127.0.0.1/32"]},"#,
            r#""zones":[],"#,
            r#""resolver":{"upstreams":{"servers":[{"address":"127.0.0.1:9","protocol":"UDP"}]},"#,
            r#""cache":{"maxTtl":3600,"negativeMaxTtl":30,"serveStale":86400},"allowFrom":["127.0.0.1/32"]},"#,
            r#""routes":[]}"#,
        );
        assert_eq!(json, expected);
    }
}
