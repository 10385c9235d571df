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

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use node_cache_config::status::UpstreamStatus;
use node_cache_config::{Config, PrivateAnswers, Upstream, UpstreamSource};

use crate::cache::Policy;
use crate::dns::Name;
use crate::dns::codes::ede;
use crate::metrics::{MAX_SHOWN_BY_A_NODE_CACHE, MAX_SHOWN_BY_A_RESOLVER, ScopeCounters};
use crate::upstream::discovery::RegistryUpdate;
use crate::upstream::discovery::headless::{LOCAL_ZONE, REMOTE_ZONE};
use crate::upstream::discovery::resolv_conf;
use crate::upstream::{GroupRegistry, Pool, Selection, Server, UpstreamContext};
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
    /// Name in metrics: `cluster`, `route/<suffix>`, `outside`, `forward` or `inside`.
    pub name: String,
    /// ID in cache keys. Two revisions have the same ID for a scope exactly if its upstreams and its filter of private
    /// answers are the same.
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
    /// Extended DNS Error of a failure at the deadline of a query that goes on: [`ede::STILL_IN_FLIGHT`] where nodes
    /// are the clients, else that of the failure itself (`None`).
    pub late_ede: Option<u16>,
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
    /// same rank. A filter of private answers is for those others alone.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn for_node(config: &Config, zone: Option<&str>, registry: &mut GroupRegistry) -> Self {
        let private_answers = PrivateAnswerFilter::new(&config.node_cache);
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
            let outside = Scope::new("outside", &(), pool, NODE_DEADLINE, kind);
            let pool = Pool::new(vec![vec![cluster]], Selection::PowerOfTwo);
            let upstreams = (&config.cluster_domain, &cluster_dns.service);
            let kind = UpstreamKind::Cluster(&config.cluster_domain);
            let cluster = Scope::new("cluster", &upstreams, pool, NODE_DEADLINE, kind);
            let mut routes = Routes::new(outside.clone());
            let mut scopes = vec![cluster.clone(), outside];
            for suffix in private_reverse_zones() {
                add_route(&mut routes, &suffix, &cluster);
            }
            for route in &config.routes {
                let name = format!("route/{}", route.suffix);
                let pool = Pool::new(vec![vec![update.fixed(&name, &route.upstreams)]], Selection::Ordered);
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
            late_ede: None,
            context: registry.context().clone(),
            max_shown_upstreams: MAX_SHOWN_BY_A_NODE_CACHE,
            own_zone_scopes,
            scopes,
        }
    }

    /// Makes the snapshot of a zone's resolver. Every name is routed to its upstreams, in their order; private reverse
    /// zones, `local.` and `home.arpa.` only to upstreams with a private address themselves. Without such upstreams
    /// those zones are empty.
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
        let mut empty_zones = EmptyZones::new();
        let (routes, scopes) = registry.apply(|update| {
            let mut scopes = vec![forwarding_scope("forward", &upstreams, update)];
            let mut routes = Routes::new(scopes[0].clone());
            let private: Vec<_> =
                upstreams.iter().filter(|upstream| is_inside(upstream.address.ip())).cloned().collect();
            if private.is_empty() && !upstreams.is_empty() {
                private_reverse_zones().iter().for_each(|zone| drop(empty_zones.add(zone)));
            }
            if !private.is_empty() {
                LOCAL_ZONES.iter().for_each(|zone| drop(empty_zones.exclude(zone)));
            }
            if !private.is_empty() && private.len() < upstreams.len() {
                let scope = forwarding_scope("inside", &private, update);
                let zones = private_reverse_zones().into_iter().chain(LOCAL_ZONES.map(str::to_owned));
                zones.for_each(|zone| add_route(&mut routes, &zone, &scope));
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
            late_ede: Some(ede::STILL_IN_FLIGHT),
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
        let groups = self.scopes.iter().flat_map(|scope| scope.pool.groups());
        groups.flat_map(|group| group.servers().into_iter().map(|server| (group.scope().to_owned(), server))).collect()
    }

    /// Returns the status of all upstreams, each once.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        self.scopes.iter().flat_map(|scope| scope.pool.groups()).flat_map(|group| group.status()).collect()
    }
}

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

fn forwarding_scope(name: &str, upstreams: &[Upstream], update: &mut RegistryUpdate<'_>) -> Arc<Scope> {
    let pool = Pool::new(vec![vec![update.fixed(name, upstreams)]], Selection::Ordered);
    Scope::new(name, &upstreams, pool, RESOLVER_DEADLINE, UpstreamKind::Foreign)
}

fn add_route(routes: &mut Routes<Arc<Scope>>, suffix: &str, scope: &Arc<Scope>) {
    if let Err(error) = routes.add(suffix, scope.clone()) {
        tracing::warn!(scope = scope.name, %error, "route ignored");
    }
}
