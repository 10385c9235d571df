//! One revision made ready for use: routes with their servers, bounds, and who may ask. Never changed, only replaced.

pub mod acl;
pub mod empty_zones;
pub mod routes;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use node_cache_config::status::UpstreamStatus;
use node_cache_config::{Config, Upstream, UpstreamSource};

use crate::cache::Policy;
use crate::dns::Name;
use crate::metrics::ScopeAnswers;
use crate::upstream::discovery::headless::{LOCAL_ZONE, REMOTE_ZONE};
use crate::upstream::discovery::{RegistryUpdate, resolv_conf};
use crate::upstream::{GroupRegistry, Pool, Selection, Server, UpstreamContext};
use acl::Acl;
use empty_zones::{EmptyZones, is_inside};
use routes::{Routes, private_reverse_zones};

/// The longest that a cache waits for other servers. Clients give up after five seconds.
const NODE_DEADLINE: Duration = Duration::from_millis(3800);
/// The longest that a zone resolver waits: it has said that nobody answers before a cache gives it up.
const RESOLVER_DEADLINE: Duration = Duration::from_millis(2800);

/// Names that the same servers know.
#[derive(Debug)]
pub struct Scope {
    /// What it is called in metrics: `cluster`, `route/<suffix>`, `outside`, `forward` or `inside`.
    pub name: String,
    /// Its number in keys of the cache. It is the same in another revision exactly if the same servers answer.
    pub id: u64,
    /// Who is asked.
    pub pool: Pool,
    /// The longest that an answer is waited for.
    pub deadline: Duration,
    /// Whether these servers are ours, so that what they say of authenticity (AD) may be passed on.
    pub trusted: bool,
    /// The zone in which a name that does not exist has nothing below it (RFC 8020).
    pub zone: Option<Name>,
    /// Where its usual answers are counted, once there was one.
    pub answers: OnceLock<ScopeAnswers>,
}

/// One revision, for one process.
#[derive(Debug)]
pub struct Snapshot {
    /// Who is asked for which name.
    pub routes: Routes<Arc<Scope>>,
    /// Which names nobody is asked for.
    pub empty: EmptyZones,
    /// How long answers are kept.
    pub policy: Policy,
    /// Who may ask.
    pub allow: Acl,
    /// What is wrong with the sources of upstreams, in one sentence.
    pub upstream_problem: Option<String>,
    /// What all servers share.
    pub context: Arc<UpstreamContext>,
    scopes: Vec<Arc<Scope>>,
}

impl Snapshot {
    /// What a revision means on a node in this zone: names of the cluster are asked of the cluster DNS, suffixes of
    /// their routes, all others of the resolvers of the zone and, when those do not answer, of the other zones. Where
    /// the zone is not known all zones are the same.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn for_node(config: &Config, zone: Option<&str>, book: &mut GroupRegistry) -> Self {
        let (routes, scopes) = book.apply(|groups| {
            let cluster_dns = &config.cluster_dns;
            let cluster = groups.discovered("cluster", &cluster_dns.bootstrap, &cluster_dns.service, None, LOCAL_ZONE);
            let (mut own, mut others) = (Vec::new(), Vec::new());
            let zone_is_known = config.zones.iter().any(|each| Some(each.name.as_str()) == zone);
            for each in &config.zones {
                let near = !zone_is_known || Some(each.name.as_str()) == zone;
                let scope = format!("zone/{}", each.name);
                let interval = if near { LOCAL_ZONE } else { REMOTE_ZONE };
                let group = groups.discovered(&scope, &each.bootstrap, &each.service, Some(&cluster), interval);
                if near { own.push(group) } else { others.push(group) }
            }
            let outside =
                scope("outside", &(), Pool::new(vec![own, others], Selection::PowerOfTwo), NODE_DEADLINE, Kind::Ours);
            let pool = Pool::new(vec![vec![cluster]], Selection::PowerOfTwo);
            let servers = (&config.cluster_domain, &cluster_dns.service);
            let kind = Kind::Cluster(&config.cluster_domain);
            let cluster = scope("cluster", &servers, pool, NODE_DEADLINE, kind);
            let mut routes = Routes::new(outside.clone());
            let mut scopes = vec![cluster.clone(), outside];
            for suffix in private_reverse_zones() {
                add(&mut routes, &suffix, &cluster);
            }
            for route in &config.routes {
                let name = format!("route/{}", route.suffix);
                let pool = Pool::new(vec![vec![groups.fixed(&name, &route.upstreams)]], Selection::Ordered);
                let scope = scope(&name, &route.upstreams, pool, NODE_DEADLINE, Kind::Foreign);
                add(&mut routes, &route.suffix, &scope);
                scopes.push(scope);
            }
            add(&mut routes, &config.cluster_domain, &cluster);
            (routes, scopes)
        });
        let mut empty = EmptyZones::new();
        let suffixes = config.routes.iter().map(|route| &route.suffix).chain([&config.cluster_domain]);
        // Those that are no names have been told of.
        suffixes.for_each(|suffix| drop(empty.except(suffix)));
        Self {
            routes,
            empty,
            policy: policy(&config.node_cache.cache),
            allow: Acl::new(&config.node_cache.allow_from),
            upstream_problem: None,
            context: book.context().clone(),
            scopes,
        }
    }

    /// What a revision means for a resolver of a zone: every name is asked of its upstreams, in their order, but the names of
    /// private addresses only of those upstreams that are inside themselves. Where there are none those zones are empty.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn for_zone_resolver(config: &Config, resolv_conf: &str, book: &mut GroupRegistry) -> Self {
        let captured: Vec<IpAddr> = config.node_cache.captured.iter().map(|captured| captured.address).collect();
        let (upstreams, upstream_problem) = match &config.resolver.upstreams {
            UpstreamSource::Servers(servers) => (servers.clone(), None),
            UpstreamSource::ResolvConf => {
                let servers = resolv_conf::read(resolv_conf, &captured);
                (servers.upstreams, servers.problem)
            }
        };
        let mut empty = EmptyZones::new();
        let (routes, scopes) = book.apply(|groups| {
            let mut scopes = vec![forwarding("forward", &upstreams, groups)];
            let mut routes = Routes::new(scopes[0].clone());
            let inside: Vec<_> =
                upstreams.iter().filter(|upstream| is_inside(upstream.address.ip())).cloned().collect();
            if inside.is_empty() && !upstreams.is_empty() {
                private_reverse_zones().iter().for_each(|zone| drop(empty.add(zone)));
            } else if !inside.is_empty() && inside.len() < upstreams.len() {
                let scope = forwarding("inside", &inside, groups);
                private_reverse_zones().iter().for_each(|zone| add(&mut routes, zone, &scope));
                scopes.push(scope);
            }
            (routes, scopes)
        });
        Self {
            routes,
            empty,
            policy: policy(&config.resolver.cache),
            allow: Acl::new(&config.resolver.allow_from),
            upstream_problem,
            context: book.context().clone(),
            scopes,
        }
    }

    /// Its scopes, each once.
    #[must_use]
    pub fn scopes(&self) -> &[Arc<Scope>] {
        &self.scopes
    }

    /// The servers, each with the name under which it is told of.
    #[must_use]
    pub fn servers(&self) -> Vec<(String, Arc<Server>)> {
        let groups = self.scopes.iter().flat_map(|scope| scope.pool.groups());
        groups.flat_map(|group| group.servers().into_iter().map(|server| (group.scope().to_owned(), server))).collect()
    }

    /// How the servers do, each once.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        self.scopes.iter().flat_map(|scope| scope.pool.groups()).flat_map(|group| group.status()).collect()
    }
}

/// What kind of servers answer in a scope.
#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    /// Resolvers of this tier.
    Ours,
    /// The DNS of the cluster, whose own names are below this domain.
    Cluster(&'a str),
    /// Somebody else's.
    Foreign,
}

fn scope(name: &str, servers: &impl Hash, pool: Pool, deadline: Duration, kind: Kind<'_>) -> Arc<Scope> {
    let mut hasher = DefaultHasher::new();
    (name, servers).hash(&mut hasher);
    let zone = match kind {
        Kind::Cluster(domain) => Name::from_text(domain).ok().map(|domain| domain.lower()),
        Kind::Ours | Kind::Foreign => None,
    };
    Arc::new(Scope {
        name: name.to_owned(),
        id: hasher.finish(),
        pool,
        deadline,
        trusted: matches!(kind, Kind::Ours),
        zone,
        answers: OnceLock::new(),
    })
}

fn forwarding(name: &str, upstreams: &[Upstream], groups: &mut RegistryUpdate<'_>) -> Arc<Scope> {
    let pool = Pool::new(vec![vec![groups.fixed(name, upstreams)]], Selection::Ordered);
    scope(name, &upstreams, pool, RESOLVER_DEADLINE, Kind::Foreign)
}

fn add(routes: &mut Routes<Arc<Scope>>, suffix: &str, scope: &Arc<Scope>) {
    if let Err(error) = routes.add(suffix, scope.clone()) {
        tracing::warn!("{}: {error}", scope.name);
    }
}

const fn policy(cache: &node_cache_config::Cache) -> Policy {
    Policy { max_ttl: cache.max_ttl, negative_max_ttl: cache.negative_max_ttl, serve_stale: cache.serve_stale }
}
