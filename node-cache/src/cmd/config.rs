//! Keeping the resolver at the revision in force.

use std::sync::Arc;

use node_cache_config::Config;
use tokio::sync::watch;

use crate::resolver::Resolver;
use crate::revision::ActiveRevision;
use crate::snapshot::Snapshot;
use crate::upstream::GroupRegistry;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a process is, and so what a configuration means to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A cache of a node.
    NodeCache,
    /// A resolver of a zone.
    ZoneResolver,
}

/// Applies every configuration that comes in force, as long as there can be another one. Sockets, memory and what is
/// known of servers outlive each change.
pub(super) async fn keep(resolver: Arc<Resolver>, mut in_force: watch::Receiver<Arc<ActiveRevision>>, role: Role) {
    let mut book = GroupRegistry::new(resolver.tap().clone());
    let mut applied: Option<(Arc<Config>, Option<String>)> = None;
    loop {
        let current = in_force.borrow_and_update().clone();
        let wanted = current.config.clone().map(|config| (config, current.zone.clone()));
        if wanted != applied
            && let Some((config, zone)) = &wanted
        {
            resolver.apply(snapshot(role, config, zone.as_deref(), &mut book));
            applied = wanted;
        }
        if in_force.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn snapshot(role: Role, config: &Config, zone: Option<&str>, book: &mut GroupRegistry) -> Snapshot {
    let snapshot = match role {
        Role::NodeCache => Snapshot::for_node(config, zone, book),
        Role::ZoneResolver => {
            let resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
            Snapshot::for_zone_resolver(config, &resolv_conf, book)
        }
    };
    if let Some(problem) = &snapshot.upstream_problem {
        tracing::warn!("{problem}");
    }
    snapshot
}
