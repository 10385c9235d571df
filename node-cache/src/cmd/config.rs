//! Application of each active revision to the resolver.

use std::sync::Arc;

use node_cache_config::Config;
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
    let snapshot = match role {
        Role::NodeCache => Snapshot::for_node(config, zone, registry),
        Role::ZoneResolver => {
            let resolv_conf = std::fs::read_to_string(resolv_conf::PATH).unwrap_or_default();
            Snapshot::for_zone_resolver(config, &resolv_conf, registry)
        }
    };
    if let Some(problem) = &snapshot.upstream_problem {
        tracing::warn!(problem, "the configuration names an upstream that cannot be used");
    }
    snapshot
}
