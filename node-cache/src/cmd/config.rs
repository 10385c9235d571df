//! Application of each active revision to the resolver.

use std::sync::Arc;

use node_cache_config::{Config, UpstreamSource};
use tokio::sync::watch;

use crate::resolver::Resolver;
use crate::revision::ActiveRevision;
use crate::snapshot::Snapshot;
use crate::upstream::GroupRegistry;
use crate::upstream::discovery::resolv_conf;

/// Role of a process, which decides what a configuration means to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A cache of a node.
    NodeCache,
    /// A resolver of a zone.
    ZoneResolver,
}

/// Applies each configuration that becomes active, for ever. Sockets, cache and the state of upstreams outlive each
/// change.
pub(super) async fn apply_revisions(
    resolver: Arc<Resolver>,
    mut active: watch::Receiver<Arc<ActiveRevision>>,
    role: Role,
) {
    let mut registry = GroupRegistry::new(resolver.tap().clone());
    let mut applied: Option<(Arc<Config>, Option<String>)> = None;
    loop {
        let current = active.borrow_and_update().clone();
        let desired = current.config.clone().map(|config| (config, current.zone.clone()));
        if desired != applied
            && let Some((config, zone)) = &desired
        {
            resolver.apply(snapshot(role, config, zone.as_deref(), &mut registry));
            applied = desired;
        }
        if active.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn snapshot(role: Role, config: &Config, zone: Option<&str>, registry: &mut GroupRegistry) -> Snapshot {
    let resolv_conf = || std::fs::read_to_string(resolv_conf::PATH).unwrap_or_default();
    let snapshot = match role {
        Role::NodeCache if config.resolver.upstreams == UpstreamSource::ResolvConf => {
            Snapshot::for_node(&with_servers_of(&resolv_conf(), config), zone, registry)
        }
        Role::NodeCache => Snapshot::for_node(config, zone, registry),
        Role::ZoneResolver => Snapshot::for_zone_resolver(config, &resolv_conf(), registry),
    };
    if let Some(problem) = &snapshot.upstream_problem {
        tracing::warn!(problem, "the configuration names an upstream that cannot be used");
    }
    snapshot
}

/// Returns the configuration with the servers of a `resolv.conf` as the resolvers' upstreams: those of the node, which
/// are the last resort of its caches. The resolvers report what is wrong with the file.
fn with_servers_of(resolv_conf: &str, config: &Config) -> Config {
    let captured: Vec<_> = config.node_cache.captured.iter().map(|captured| captured.address).collect();
    let servers = resolv_conf::read(resolv_conf, &captured).upstreams;
    let mut config = config.clone();
    config.resolver.upstreams = UpstreamSource::Servers(servers);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstreams_of_a_node_are_the_servers_of_its_resolv_conf_that_no_tier_captures() {
        let text = "nameserver 192.0.2.53\nnameserver 169.254.20.10\nnameserver 2001:db8::53\n";
        let config = with_servers_of(text, &Config::example());
        let UpstreamSource::Servers(servers) = config.resolver.upstreams else { panic!("servers") };
        let addresses: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.53:53", "[2001:db8::53]:53"]);
    }
}
