//! Application of each active revision to the resolver.

use std::borrow::Cow;
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
    let mut registry = GroupRegistry::new(resolver.tap().clone(), resolver.metrics().clone());
    let mut applied: Option<(Arc<Config>, Place)> = None;
    loop {
        let current = active.borrow_and_update().clone();
        let place = Place { zone: current.zone.clone(), resolvers_on_node: current.resolvers_on_node };
        let desired = current.config.clone().map(|config| (config, place));
        if desired != applied
            && let Some((config, place)) = &desired
        {
            resolver.apply(snapshot(role, config, place, &mut registry));
            applied = desired;
        }
        if active.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Place of this process in the tier, as far as it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    zone: Option<String>,
    resolvers_on_node: Option<u32>,
}

fn snapshot(role: Role, config: &Config, place: &Place, registry: &mut GroupRegistry) -> Snapshot {
    let resolv_conf = || std::fs::read_to_string(resolv_conf::PATH).unwrap_or_default();
    let zone = place.zone.as_deref();
    let snapshot = match role {
        Role::NodeCache if config.resolver.upstreams == UpstreamSource::ResolvConf => {
            Snapshot::for_node(&with_servers_of(&resolv_conf(), config), zone, registry)
        }
        Role::NodeCache => Snapshot::for_node(config, zone, registry),
        Role::ZoneResolver => {
            let config = with_resolvers_on_node(config, place.resolvers_on_node);
            Snapshot::for_zone_resolver(&config, &resolv_conf(), registry)
        }
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

/// Returns the configuration with the packet budgets of a zone resolver's upstreams divided by the number of resolvers
/// on its node, if that is known.
fn with_resolvers_on_node(config: &Config, resolvers_on_node: Option<u32>) -> Cow<'_, Config> {
    let mut config = Cow::Borrowed(config);
    if let Some(number) = resolvers_on_node
        && !config.resolver.packet_budgets.is_empty()
    {
        config.to_mut().resolver.packet_budgets.iter_mut().for_each(|budget| budget.processes = number.max(1));
    }
    config
}

#[cfg(test)]
mod tests {
    use node_cache_config::PacketBudget;

    use super::*;

    #[test]
    fn the_upstreams_of_a_node_are_the_servers_of_its_resolv_conf_that_no_tier_captures() {
        let text = "nameserver 192.0.2.53\nnameserver 169.254.20.10\nnameserver 2001:db8::53\n";
        let config = with_servers_of(text, &Config::example());
        let UpstreamSource::Servers(servers) = config.resolver.upstreams else { panic!("servers") };
        let addresses: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.53:53", "[2001:db8::53]:53"]);
    }

    #[test]
    fn the_number_of_resolvers_on_the_node_divides_a_budget_where_it_is_known() {
        let mut config = Config::example();
        let servers = vec!["192.0.2.53:53".parse().unwrap()];
        config.resolver.packet_budgets =
            vec![PacketBudget { servers, packets_per_second: 900, in_flight: None, processes: 2 }];
        let processes = |number| with_resolvers_on_node(&config, number).resolver.packet_budgets[0].processes;
        assert_eq!((processes(None), processes(Some(1)), processes(Some(3))), (2, 1, 3));
    }
}
