//! Snapshot of one revision for one process: routes to upstreams, empty zones, cache policy and ACL. Immutable: a new
//! revision replaces the snapshot.
//!
//! [`Routes`] chooses the [`Scope`] of a name by its longest suffix, [`EmptyZones`] are the locally served zones (RFC
//! 6303), [`PrivateAnswerFilter`] refuses private addresses of outside names, [`Acl`] permits clients.

pub(crate) mod acl;
pub(crate) mod empty_zones;
mod private_addresses;
pub(crate) mod private_answers;
pub(crate) mod routes;

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use node_cache_config::status::{FALLBACK_SCOPE, LAST_RESORT_SCOPE, UpstreamStatus};
use node_cache_config::{Config, LastResort, PacketBudget, PrivateAnswers, Upstream, UpstreamSource};

use crate::cache::Policy;
use crate::dns::Name;
use crate::dns::codes::ede;
use crate::metrics::{MAX_SHOWN_BY_A_NODE_CACHE, MAX_SHOWN_BY_A_RESOLVER, ScopeCounters};
use crate::upstream::discovery::headless::{LOCAL_ZONE, REMOTE_ZONE};
use crate::upstream::discovery::resolv_conf;
use crate::upstream::{Group, GroupRegistry, PacketRate, Pool, Selection, Server, UpstreamContext};
use acl::Acl;
use empty_zones::{EmptyZones, LOCAL_ZONES, is_inside};
use private_answers::PrivateAnswerFilter;
use routes::{Routes, private_reverse_zones};

/// Deadline of a cache's upstream queries, retries included. Clients time out after five seconds.
const NODE_DEADLINE: Duration = Duration::from_millis(3800);
/// Deadline of a zone resolver's upstream queries, retries included. Shorter than a cache's, so that the cache receives
/// the SERVFAIL before its own deadline.
const RESOLVER_DEADLINE: Duration = Duration::from_millis(2800);

/// Scope of names that are resolved by the same upstreams.
#[derive(Debug)]
pub struct Scope {
    /// Name in metrics: `cluster`, `route/<suffix>`, `outside`, `forward`, `inside` or `private`.
    pub name: String,
    /// ID in cache keys. Two revisions have the same ID for a scope exactly if its upstreams and its filter of private
    /// answers are the same. A fallback changes no ID: one that is added in an outage must not cost the stale answers.
    pub id: u64,
    /// Upstreams of the scope.
    pub pool: Pool,
    /// Deadline of upstream queries, retries included.
    pub deadline: Duration,
    /// Whether the upstreams are resolvers of this tier, whose AD flag is passed on to clients.
    pub trusted: bool,
    /// Zone in which an NXDOMAIN response denies all names below its name too (NXDOMAIN cut, RFC 8020).
    pub zone: Option<Name>,
    /// Filter of responses before they are cached; `None` where all are passed on as they are.
    pub private_answers: Option<PrivateAnswerFilter>,
    /// Counters of usual responses, looked up for the first response.
    pub counters: OnceLock<ScopeCounters>,
}

impl Scope {
    fn new(name: &str, upstreams: &impl Hash, pool: Pool, deadline: Duration, kind: UpstreamKind<'_>) -> Arc<Self> {
        let mut hasher = DefaultHasher::new();
        let private_answers = match kind {
            UpstreamKind::Tier(filter) => filter.cloned(),
            UpstreamKind::Cluster(_) | UpstreamKind::Foreign => None,
        };
        (name, upstreams, &private_answers).hash(&mut hasher);
        let zone = match kind {
            UpstreamKind::Cluster(domain) => Name::from_text(domain).ok().map(|domain| domain.lower()),
            UpstreamKind::Tier(_) | UpstreamKind::Foreign => None,
        };
        Arc::new(Self {
            name: name.to_owned(),
            id: hasher.finish(),
            pool,
            deadline,
            trusted: matches!(kind, UpstreamKind::Tier(_)),
            zone,
            private_answers,
            counters: OnceLock::new(),
        })
    }
}

/// Snapshot of one revision for one process.
#[derive(Debug)]
pub struct Snapshot {
    /// Scope of each name, by longest suffix.
    pub routes: Routes<Arc<Scope>>,
    /// Locally served zones, for which no upstream is queried (RFC 6303).
    pub empty_zones: EmptyZones,
    /// TTL caps and serve-stale of the cache.
    pub policy: Policy,
    /// Networks whose queries are answered.
    pub acl: Acl,
    /// Whether an alias of an outside name may lead to a name of the cluster domain.
    pub follows_aliases_into_cluster: bool,
    /// Problem with the configured source of upstreams, in one sentence.
    pub upstream_problem: Option<String>,
    /// Extended DNS Error of a query that no upstream answered: [`ede::UPSTREAMS_FAILED`] where nodes are the clients.
    pub failed_ede: u16,
    /// Extended DNS Error of a query that finds no room among those in flight or those that wait: [`ede::OVERLOADED`]
    /// where nodes are the clients.
    pub overload_ede: u16,
    /// Extended DNS Error of a query that is not sent because the packet budgets of its upstreams have no room:
    /// [`ede::BUDGET_EXHAUSTED`] where nodes are the clients.
    pub budget_ede: u16,
    /// Extended DNS Error of a failure at the deadline of a query that goes on: [`ede::STILL_IN_FLIGHT`] where nodes
    /// are the clients, else that of the failure itself (`None`).
    pub late_ede: Option<u16>,
    /// Extended DNS Error of a denial that a fallback gave: [`ede::DENIED_BY_FALLBACK`] where nodes are the clients.
    pub fallback_denial_ede: Option<u16>,
    /// State shared by all upstreams.
    pub context: Arc<UpstreamContext>,
    /// Upstreams that have series of their own on the metrics page, at most.
    pub max_shown_upstreams: usize,
    /// Names of the upstream groups that are resolvers of the node's own zone; of all zones where it is unknown.
    pub own_zone_scopes: BTreeSet<String>,
    scopes: Vec<Arc<Scope>>,
}

impl Snapshot {
    /// Makes the snapshot of a cache on a node in `zone`. Names of the cluster domain and private reverse zones are
    /// routed to the cluster DNS, suffixes to their routes, all others (`local.` and `home.arpa.` too) to the resolvers
    /// of the zone and, when those do not respond, of the other zones. When the zone is unknown, all zones have the
    /// same rank. A filter of private answers is for those others alone. While no resolver answers, the resolvers' own
    /// upstreams are asked as a last resort, if the configuration names them: for `local.` and `home.arpa.` only where
    /// all of them have a private address.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn for_node(config: &Config, zone: Option<&str>, registry: &mut GroupRegistry) -> Self {
        let private_answers = PrivateAnswerFilter::new(&config.node_cache, &config.resolver.private_suffixes);
        let mut own_zone_scopes = BTreeSet::new();
        let (routes, scopes) = registry.apply(|update| {
            let cluster_dns = &config.cluster_dns;
            let cluster = update.discovered("cluster", &cluster_dns.bootstrap, &cluster_dns.service, None, LOCAL_ZONE);
            let mut own_zone = Vec::new();
            let mut other_zones = Vec::new();
            let is_zone_known = config.zones.iter().any(|each| Some(each.name.as_str()) == zone);
            for resolvers in &config.zones {
                let is_local = !is_zone_known || Some(resolvers.name.as_str()) == zone;
                let scope = format!("zone/{}", resolvers.name);
                let interval = if is_local { LOCAL_ZONE } else { REMOTE_ZONE };
                let group =
                    update.discovered(&scope, &resolvers.bootstrap, &resolvers.service, Some(&cluster), interval);
                if is_local {
                    own_zone.push(group);
                    own_zone_scopes.insert(scope);
                } else {
                    other_zones.push(group);
                }
            }
            let pool = Pool::new(vec![own_zone, other_zones], Selection::PowerOfTwo);
            let kind = UpstreamKind::Tier(private_answers.as_ref());
            let last_resort = last_resort(config);
            let pool_with_last_resort = match last_resort {
                Some((servers, rate)) => {
                    let budgets = update.budgets(LAST_RESORT_SCOPE, &budgets_of_caches(config, rate.processes));
                    pool.clone().with_reserve(update.last_resort(LAST_RESORT_SCOPE, servers, rate, &budgets))
                }
                None => pool.clone(),
            };
            let outside = Scope::new("outside", &(), pool_with_last_resort, NODE_DEADLINE, kind);
            let local = Scope::new("outside", &(), pool, NODE_DEADLINE, kind);
            let pool = Pool::new(vec![vec![cluster]], Selection::PowerOfTwo);
            let upstreams = (&config.cluster_domain, &cluster_dns.service);
            let kind = UpstreamKind::Cluster(&config.cluster_domain);
            let cluster = Scope::new("cluster", &upstreams, pool, NODE_DEADLINE, kind);
            let mut routes = Routes::new(outside.clone());
            let mut scopes = vec![cluster.clone(), outside];
            for suffix in private_reverse_zones() {
                add_route(&mut routes, &suffix, &cluster);
            }
            let is_public = |server: &Upstream| !is_inside(server.address.ip());
            if last_resort.is_some_and(|(servers, _)| servers.iter().any(is_public)) {
                LOCAL_ZONES.iter().for_each(|zone| add_route(&mut routes, zone, &local));
            }
            for route in &config.routes {
                let name = format!("route/{}", route.suffix);
                let budgets = update.budgets(&name, &route.packet_budgets);
                let group = update.fixed_within(&name, &route.upstreams, &budgets);
                let pool = Pool::new(vec![vec![group]], Selection::Ordered);
                let scope = Scope::new(&name, &route.upstreams, pool, NODE_DEADLINE, UpstreamKind::Foreign);
                add_route(&mut routes, &route.suffix, &scope);
                scopes.push(scope);
            }
            add_route(&mut routes, &config.cluster_domain, &cluster);
            (routes, scopes)
        });
        let mut empty_zones = EmptyZones::new();
        // Resolvers of the zones know whether one of their upstreams may be asked. Nobody can be where there are none.
        let local_zones = if config.zones.is_empty() { &[][..] } else { &LOCAL_ZONES };
        let suffixes = config.routes.iter().map(|route| &*route.suffix).chain([&*config.cluster_domain]);
        // Suffixes that are no domain names have been logged by `add_route`.
        suffixes.chain(local_zones.iter().copied()).for_each(|suffix| drop(empty_zones.exclude(suffix)));
        Self {
            routes,
            empty_zones,
            policy: Policy::from(&config.node_cache.cache),
            acl: Acl::new(&config.node_cache.allow_from),
            follows_aliases_into_cluster: config.node_cache.private_answers == PrivateAnswers::Allow,
            upstream_problem: None,
            failed_ede: ede::NO_REACHABLE_AUTHORITY,
            overload_ede: ede::NETWORK_ERROR,
            budget_ede: ede::NETWORK_ERROR,
            late_ede: None,
            fallback_denial_ede: None,
            context: registry.context().clone(),
            max_shown_upstreams: MAX_SHOWN_BY_A_NODE_CACHE,
            own_zone_scopes,
            scopes,
        }
    }

    /// Makes the snapshot of a zone's resolver. Every name is routed to its upstreams, in their order; private reverse
    /// zones, `local.` and `home.arpa.` only to upstreams with a private address themselves. Without such upstreams
    /// those zones are empty. A fallback is asked for all names but those, unless all servers have such addresses, and
    /// those of private suffixes.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn for_zone_resolver(config: &Config, resolv_conf: &str, registry: &mut GroupRegistry) -> Self {
        let captured: Vec<IpAddr> = config.node_cache.captured.iter().map(|captured| captured.address).collect();
        let (upstreams, upstream_problem) = match &config.resolver.upstreams {
            UpstreamSource::Servers(servers) => (servers.clone(), None),
            UpstreamSource::ResolvConf => {
                let servers = resolv_conf::read(resolv_conf, &captured);
                (servers.upstreams, servers.problem)
            }
        };
        let is_upstream = |server: &Upstream| upstreams.iter().any(|upstream| upstream.address == server.address);
        // The servers of a resolv.conf are not known before.
        let fallback: Vec<_> = config.resolver.fallback.iter().filter(|server| !is_upstream(server)).cloned().collect();
        let mut empty_zones = EmptyZones::new();
        let (routes, scopes) = registry.apply(|update| {
            let budgets = update.budgets("forward", &config.resolver.packet_budgets);
            let forward = update.fixed_within("forward", &upstreams, &budgets);
            let pool = Pool::new(vec![vec![forward.clone()]], Selection::Ordered);
            let pool_with_fallback = match fallback.is_empty() {
                true => pool.clone(),
                false => pool.clone().with_reserve(update.fallback(FALLBACK_SCOPE, &fallback, &budgets)),
            };
            let mut scopes = vec![forwarding_scope("forward", &upstreams, pool_with_fallback)];
            let mut routes = Routes::new(scopes[0].clone());
            let private: Vec<_> =
                upstreams.iter().filter(|upstream| is_inside(upstream.address.ip())).cloned().collect();
            if private.is_empty() && !(upstreams.is_empty() && fallback.is_empty()) {
                private_reverse_zones().iter().for_each(|zone| drop(empty_zones.add(zone)));
            }
            if !private.is_empty() {
                LOCAL_ZONES.iter().for_each(|zone| drop(empty_zones.exclude(zone)));
            }
            let is_all_inside = private.len() == upstreams.len();
            let is_fallback_inside = fallback.iter().all(|server| is_inside(server.address.ip()));
            if !(private.is_empty() || is_all_inside && is_fallback_inside) {
                let inside = if is_all_inside { forward } else { update.fixed_within("inside", &private, &budgets) };
                let pool = Pool::new(vec![vec![inside]], Selection::Ordered);
                let scope = forwarding_scope("inside", &private, pool);
                let zones = private_reverse_zones().into_iter().chain(LOCAL_ZONES.map(str::to_owned));
                zones.for_each(|zone| add_route(&mut routes, &zone, &scope));
                scopes.push(scope);
            }
            if !fallback.is_empty() && !config.resolver.private_suffixes.is_empty() {
                let scope = forwarding_scope("private", &upstreams, pool);
                // Names that servers inside alone are asked for have no fallback anyway.
                let all = &scopes[0].id;
                let is_routed =
                    |suffix: &String| Name::from_text(suffix).is_ok_and(|name| routes.find(&name.lower()).id != *all);
                let suffixes: Vec<_> =
                    config.resolver.private_suffixes.iter().filter(|suffix| !is_routed(suffix)).collect();
                suffixes.into_iter().for_each(|suffix| add_route(&mut routes, suffix, &scope));
                scopes.push(scope);
            }
            (routes, scopes)
        });
        Self {
            routes,
            empty_zones,
            policy: Policy::from(&config.resolver.cache),
            acl: Acl::new(&config.resolver.allow_from),
            follows_aliases_into_cluster: true,
            upstream_problem,
            failed_ede: ede::UPSTREAMS_FAILED,
            overload_ede: ede::OVERLOADED,
            budget_ede: ede::BUDGET_EXHAUSTED,
            late_ede: Some(ede::STILL_IN_FLIGHT),
            fallback_denial_ede: Some(ede::DENIED_BY_FALLBACK),
            context: registry.context().clone(),
            max_shown_upstreams: MAX_SHOWN_BY_A_RESOLVER,
            own_zone_scopes: BTreeSet::new(),
            scopes,
        }
    }

    /// Returns whether nodes of the tier are the clients: this is the snapshot of a zone resolver.
    #[must_use]
    pub const fn serves_nodes(&self) -> bool {
        self.late_ede.is_some()
    }

    /// Returns all scopes, each once.
    #[must_use]
    pub fn scopes(&self) -> &[Arc<Scope>] {
        &self.scopes
    }

    /// Returns all upstreams, each with the name of its scope in metrics and status.
    #[must_use]
    pub fn servers(&self) -> Vec<(String, Arc<Server>)> {
        let servers = |group: &Arc<Group>| {
            let scope = group.scope().to_owned();
            group.servers().into_iter().map(move |server| (scope.clone(), server))
        };
        self.groups().flat_map(servers).collect()
    }

    /// Returns the status of all upstreams, each once. Episodes are told with the first server of an address, and of
    /// the first [`MAX_EPISODES`] of them.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        let mut upstreams: Vec<_> = self.groups().flat_map(|group| group.status()).collect();
        let (mut told, mut left) = (HashSet::new(), MAX_EPISODES);
        for upstream in &mut upstreams {
            if let Some(detection) = &mut upstream.detection {
                let most = if told.insert(upstream.address) { left } else { 0 };
                let old = detection.episodes.len().saturating_sub(most);
                detection.episodes.drain(..old);
                left -= detection.episodes.len();
            }
        }
        upstreams
    }

    /// Returns the groups of all scopes, each once.
    fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        let mut seen = HashSet::new();
        let groups = self.scopes.iter().flat_map(|scope| scope.pool.groups());
        groups.filter(move |group| seen.insert(Arc::as_ptr(group)))
    }
}

/// Episodes of upstreams in a status: two servers have all of theirs. Each takes six kilobytes.
const MAX_EPISODES: usize = 16;

/// Kind of a scope's upstreams.
#[derive(Clone, Copy, Debug)]
enum UpstreamKind<'a> {
    /// Resolvers of this tier, which forward everything outside of the cluster, with a filter of what they respond.
    Tier(Option<&'a PrivateAnswerFilter>),
    /// The cluster DNS, authoritative for this domain.
    Cluster(&'a str),
    /// Any other server.
    Foreign,
}

/// Returns the servers of the last resort of a node, and its rate; `None` without a last resort, without resolvers, and
/// where the configuration does not name the upstreams.
fn last_resort(config: &Config) -> Option<(&[Upstream], PacketRate)> {
    match (config.node_cache.last_resort, &config.resolver.upstreams) {
        (LastResort::Upstreams { packets_per_second, instances }, UpstreamSource::Servers(servers))
            if !servers.is_empty() && !config.zones.is_empty() =>
        {
            Some((servers, PacketRate { packets_per_second, processes: instances }))
        }
        _ => None,
    }
}

/// Returns the packet budgets of the resolvers' upstreams, divided by the caches of a node, which ask them as a last
/// resort: at its own rate, or at the budget where that is less.
fn budgets_of_caches(config: &Config, instances: u32) -> Vec<PacketBudget> {
    let budgets = config.resolver.packet_budgets.iter();
    budgets.map(|budget| PacketBudget { processes: instances, ..budget.clone() }).collect()
}

fn forwarding_scope(name: &str, upstreams: &[Upstream], pool: Pool) -> Arc<Scope> {
    Scope::new(name, &upstreams, pool, RESOLVER_DEADLINE, UpstreamKind::Foreign)
}

fn add_route(routes: &mut Routes<Arc<Scope>>, suffix: &str, scope: &Arc<Scope>) {
    if let Err(error) = routes.add(suffix, scope.clone()) {
        tracing::warn!(scope = scope.name, %error, "route ignored");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// Returns the snapshot of a zone resolver with these upstreams and this fallback, and the private suffixes
    /// `corp.example` and `corp.local`.
    fn zone_resolver(upstreams: &[&str], fallback: &[&str]) -> Snapshot {
        let servers = |servers: &[&str]| -> Vec<Upstream> {
            servers.iter().map(|server| server.parse::<SocketAddr>().unwrap().into()).collect()
        };
        let mut config = Config::example();
        config.resolver.upstreams = UpstreamSource::Servers(servers(upstreams));
        config.resolver.fallback = servers(fallback);
        config.resolver.private_suffixes = ["corp.example", "corp.local"].map(str::to_owned).to_vec();
        assert_eq!(config.validate(), Ok(()));
        Snapshot::for_zone_resolver(&config, "", &mut GroupRegistry::default())
    }

    /// Returns the scope of a name, and the groups that are asked for it.
    fn asked(snapshot: &Snapshot, name: &str) -> String {
        let scope = snapshot.routes.find(&Name::from_text(name).unwrap());
        let groups: Vec<_> = scope.pool.groups().map(|group| group.scope()).collect();
        format!("{}: {}", scope.name, groups.join(", "))
    }

    #[tokio::test]
    async fn a_fallback_is_asked_for_ordinary_names_only() {
        let snapshot = zone_resolver(&["169.254.169.253:53"], &["9.9.9.9:53"]);
        assert_eq!(asked(&snapshot, "www.example"), "forward: forward, fallback");
        assert_eq!(asked(&snapshot, "db.corp.example"), "private: forward");
        for inside in ["1.0.0.10.in-addr.arpa", "printer.local", "ad.corp.local", "nas.home.arpa"] {
            assert_eq!(asked(&snapshot, inside), "inside: forward", "{inside} never goes to a public server");
        }
        let addresses: Vec<_> = snapshot.upstreams().iter().map(|upstream| upstream.address.to_string()).collect();
        assert_eq!(addresses, ["169.254.169.253:53", "9.9.9.9:53"], "each once");
    }

    #[tokio::test]
    async fn a_fallback_inside_is_asked_for_names_inside_where_all_upstreams_are_inside_too() {
        let snapshot = zone_resolver(&["169.254.169.253:53"], &["10.0.0.2:53"]);
        assert_eq!(asked(&snapshot, "1.0.0.10.in-addr.arpa"), "forward: forward, fallback");
        assert_eq!(asked(&snapshot, "ad.corp.local"), "private: forward");
        let snapshot = zone_resolver(&["8.8.8.8:53", "10.0.0.1:53"], &["10.0.0.2:53"]);
        assert_eq!(asked(&snapshot, "ad.corp.local"), "inside: inside");
        assert_eq!(asked(&snapshot, "db.corp.example"), "private: forward");
    }

    #[tokio::test]
    async fn a_fallback_alone_is_never_asked_for_names_inside() {
        let mut config = Config::example();
        config.resolver.upstreams = UpstreamSource::ResolvConf;
        config.resolver.fallback = vec!["9.9.9.9:53".parse::<SocketAddr>().unwrap().into()];
        config.resolver.private_suffixes = vec!["corp.example".to_owned()];
        let snapshot = Snapshot::for_zone_resolver(&config, "no server", &mut GroupRegistry::default());
        let is_denied = |name: &str| snapshot.empty_zones.find(&Name::from_text(name).unwrap()).is_some();
        assert!(is_denied("1.0.0.10.in-addr.arpa") && is_denied("printer.local") && !is_denied("www.example"));
        assert_eq!(asked(&snapshot, "www.example"), "forward: forward, fallback");
        assert_eq!(asked(&snapshot, "db.corp.example"), "private: forward");
    }

    #[tokio::test]
    async fn without_a_fallback_no_suffix_is_private_and_a_fallback_keeps_the_cache() {
        let with = zone_resolver(&["8.8.8.8:53"], &["9.9.9.9:53"]);
        let without = zone_resolver(&["8.8.8.8:53"], &[]);
        for name in ["www.example", "db.corp.example"] {
            assert_eq!(asked(&without, name), "forward: forward");
        }
        assert_eq!(with.routes.default_target().id, without.routes.default_target().id);
    }

    /// Returns the snapshot of a node in a tier with these upstreams.
    fn node(upstreams: &[&str], last_resort: LastResort) -> Snapshot {
        let servers = upstreams.iter().map(|server| server.parse::<SocketAddr>().unwrap().into());
        let mut config = Config::example();
        config.resolver.upstreams = UpstreamSource::Servers(servers.collect());
        config.node_cache.last_resort = last_resort;
        let bootstrap = vec!["192.0.2.9:53".parse().unwrap()];
        config.zones = vec![node_cache_config::Zone { name: "a".into(), bootstrap, service: "a.svc.example".into() }];
        Snapshot::for_node(&config, Some("a"), &mut GroupRegistry::default())
    }

    #[tokio::test]
    async fn a_last_resort_is_there_for_outside_names_only_and_for_local_ones_if_it_is_inside() {
        let public = node(&["169.254.169.253:53", "8.8.8.8:53"], LastResort::default());
        assert_eq!(asked(&public, "www.example"), "outside: zone/a, last-resort");
        for local in ["printer.local", "nas.home.arpa"] {
            assert_eq!(asked(&public, local), "outside: zone/a", "{local}");
        }
        for cluster in ["web.default.svc.cluster.local", "1.0.0.10.in-addr.arpa"] {
            assert_eq!(asked(&public, cluster), "cluster: cluster", "{cluster}");
        }
        let id = |name: &str| public.routes.find(&Name::from_text(name).unwrap()).id;
        assert_eq!(id("printer.local"), id("www.example"), "one part of the cache");
        let inside = node(&["169.254.169.253:53"], LastResort::default());
        assert_eq!(asked(&inside, "printer.local"), "outside: zone/a, last-resort");
        let disabled = node(&["169.254.169.253:53"], LastResort::Disabled);
        assert_eq!(asked(&disabled, "www.example"), "outside: zone/a");
    }
}
