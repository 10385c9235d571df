//! Scope that is asked for the target of an alias: the servers of its own scope, or those that sent the alias.

use crate::dns::{Name, Response, alias};
use crate::snapshot::{Scope, Snapshot};

/// Returns whether a chain of aliases of `scope` goes on in another one. `has_data` says whether the response of
/// `scope` has data for the target; below a suffix that counts for nothing.
///
/// | target | who is asked |
/// | --- | --- |
/// | below a suffix: cluster domain, route, names of inside servers | the servers of that suffix |
/// | no suffix | `scope`, if it has data; else the servers of the outside |
/// | cluster domain, from the outside | the cluster DNS, unless the snapshot forbids it |
/// | in an empty zone | nobody |
#[must_use]
pub(super) fn leads_elsewhere(snapshot: &Snapshot, scope_id: u64, target: &Name, has_data: bool) -> bool {
    let Snapshot { routes, empty_zones, follows_aliases_into_cluster, .. } = snapshot;
    let outside: &Scope = routes.default_target();
    let next: &Scope = routes.find(target);
    let is_known = has_data && next.id == outside.id;
    let is_forbidden = next.zone.is_some() && scope_id == outside.id && !follows_aliases_into_cluster;
    next.id != scope_id && !is_known && !is_forbidden && empty_zones.find(target).is_none()
}

/// Cuts off a response behind an alias that leads into another scope.
#[cold]
pub(super) fn split_response(snapshot: &Snapshot, scope_id: u64, response: &mut Response) {
    let leaves = |target: &Name, has_data: bool| leads_elsewhere(snapshot, scope_id, target, has_data);
    if let Some(partial) = alias::split(response, leaves) {
        *response = partial;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use node_cache_config::{Config, Upstream, UpstreamSource};

    use super::*;
    use crate::upstream::GroupRegistry;

    fn zone_resolver(servers: &[&str]) -> Snapshot {
        let mut config = Config::example();
        let upstream = |server: &&str| Upstream::from(server.parse::<SocketAddr>().unwrap());
        config.resolver.upstreams = UpstreamSource::Servers(servers.iter().map(upstream).collect());
        Snapshot::for_zone_resolver(&config, "", &mut GroupRegistry::default())
    }

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[tokio::test]
    async fn a_zone_resolver_continues_aliases_at_servers_inside_for_their_names_and_at_all_for_others() {
        let snapshot = zone_resolver(&["8.8.8.8:53", "10.0.0.2:53"]);
        let all = snapshot.routes.find(&name("www.example")).id;
        let inside = snapshot.routes.find(&name("ad.corp.local")).id;
        for has_data in [false, true] {
            assert!(leads_elsewhere(&snapshot, all, &name("ad.corp.local"), has_data));
            assert!(leads_elsewhere(&snapshot, all, &name("1.0.0.10.in-addr.arpa"), has_data));
            assert!(!leads_elsewhere(&snapshot, all, &name("www.example"), has_data), "the same scope");
            assert!(!leads_elsewhere(&snapshot, inside, &name("nas.home.arpa"), has_data), "the same scope");
            assert!(!leads_elsewhere(&snapshot, all, &name("1.0.0.127.in-addr.arpa"), has_data), "an empty zone");
        }
        assert!(leads_elsewhere(&snapshot, inside, &name("www.example"), false));
        assert!(!leads_elsewhere(&snapshot, inside, &name("www.example"), true), "who is inside may know it otherwise");
    }

    #[tokio::test]
    async fn a_zone_resolver_without_servers_inside_continues_nothing() {
        let snapshot = zone_resolver(&["8.8.8.8:53"]);
        let all = snapshot.routes.find(&name("www.example")).id;
        for target in ["ad.corp.local", "nas.home.arpa", "1.0.0.10.in-addr.arpa", "www.example"] {
            assert!(!leads_elsewhere(&snapshot, all, &name(target), false), "{target}");
        }
    }
}
