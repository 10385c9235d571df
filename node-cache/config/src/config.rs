//! Configuration of a data-plane process. Durations are whole seconds, sizes bytes, names lower case without a final
//! dot.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::probes::ProbeName;

/// Port of the discard service (RFC 863), on which nothing responds.
const DISCARD_PORT: u16 = 9;

/// One revision of a tier: the same value for the caches of every node and the resolvers of every zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name of the `DnsTier`.
    pub tier: String,
    /// Domain of the cluster, e.g. `cluster.local`. Names at and below it are forwarded to the cluster DNS.
    pub cluster_domain: String,
    /// Servers of the cluster DNS.
    pub cluster_dns: ClusterDns,
    /// Settings of the caches and the agent of a node.
    pub node_cache: NodeCache,
    /// Zones and the Services of their resolvers, ordered by name.
    pub zones: Vec<Zone>,
    /// Settings of the resolvers of a zone.
    pub resolver: Resolver,
    /// Routes (stub domains); of those that match a name the longest suffix wins.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// Servers of the cluster DNS, reached through shadow Services because its own Service is captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDns {
    /// Addresses of the shadow Service with a ClusterIP: queried until, and whenever, the pods behind it are not known.
    pub bootstrap: Vec<SocketAddr>,
    /// DNS name of the headless shadow Service, whose SRV, A and AAAA records are the pods. Resolved by `bootstrap`.
    pub service: String,
}

/// Settings of the caches and the agent of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCache {
    /// Addresses on which this tier answers on every node.
    pub captured: Vec<Captured>,
    /// TTL limits of cached answers.
    pub cache: Cache,
    /// Networks whose clients may query. Other clients get no response at all.
    pub allow_from: Vec<IpNet>,
    /// Whether answers for names outside of the cluster and of all routes may hold private addresses.
    #[serde(default, skip_serializing_if = "PrivateAnswers::is_default")]
    pub private_answers: PrivateAnswers,
    /// Servers of the caches for outside names while no resolver of any zone answers.
    #[serde(default, skip_serializing_if = "LastResort::is_default")]
    pub last_resort: LastResort,
    /// Names that pods may be probed for beside those that always are; 16 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeName>,
}

/// Servers that the caches of a node query for outside names while no resolver of any zone answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum LastResort {
    /// The upstreams of the resolvers.
    Upstreams {
        /// Packets a second that all caches of a node together may send to them.
        packets_per_second: u32,
        /// Number of caches of a node, each of which has the same share.
        instances: u32,
    },
    /// No server: what is not cached fails.
    Disabled,
}

impl Default for LastResort {
    /// Returns the last resort of a `DnsTier` that names none.
    fn default() -> Self {
        Self::Upstreams { packets_per_second: 100, instances: 2 }
    }
}

impl LastResort {
    /// Returns whether this is the default, which a configuration leaves out.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Treatment of private addresses in answers for names outside of the cluster and of all routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrivateAnswers {
    /// Answers are passed on as they are.
    #[default]
    Allow,
    /// A response with a private address is replaced by one without records (protection from DNS rebinding).
    Refuse,
}

impl PrivateAnswers {
    /// Returns whether this is the default, which a configuration leaves out.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One captured address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Captured {
    /// Captured address.
    pub address: IpAddr,
    /// Whether a Service answers at this address while it is not captured. The first capture of such an address waits
    /// until an outside name was resolved; for an address without a Service that wait is bounded.
    pub service: bool,
}

/// TTL limits of cached answers. The size of the cache is a flag of the process instead, because the container's memory
/// limit follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Maximum TTL in seconds of a positive answer, both in the cache and in responses.
    pub max_ttl: u32,
    /// Maximum TTL in seconds of a negative answer (RFC 2308).
    pub negative_max_ttl: u32,
    /// Seconds after its TTL for which a stale answer may be served while upstreams fail (RFC 8767); 0: never.
    pub serve_stale: u32,
}

/// The resolvers of one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    /// Value of the nodes' zone label; empty for nodes without it.
    pub name: String,
    /// Addresses of the zone's ClusterIP Service.
    pub bootstrap: Vec<SocketAddr>,
    /// DNS name of the zone's headless Service, resolved by the cluster DNS.
    pub service: String,
}

/// Settings of the resolvers of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolver {
    /// Upstreams to which queries are forwarded.
    pub upstreams: UpstreamSource,
    /// Servers in order of preference that are queried while the upstreams are silent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<Upstream>,
    /// Suffixes whose names are never sent to the fallback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_suffixes: Vec<String>,
    /// TTL limits of cached answers.
    pub cache: Cache,
    /// Networks whose clients may query. Other clients get no response at all.
    pub allow_from: Vec<IpNet>,
    /// Packet budgets of the upstreams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packet_budgets: Vec<PacketBudget>,
}

/// Packets and queries that one node may send to some upstreams together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketBudget {
    /// Address and port of each upstream; at least one.
    pub servers: Vec<SocketAddr>,
    /// Packets a second; at least one.
    pub packets_per_second: u32,
    /// Queries in flight; at least one. `None`: unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Processes of a node that share the budget, each of which takes its part; at least one. A zone resolver that
    /// knows how many resolvers are on its node goes by that number instead.
    pub processes: u32,
}

/// Source of a zone resolver's upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamSource {
    /// `nameserver` lines of the pod's `/etc/resolv.conf`, which is its node's under `dnsPolicy: Default`.
    #[default]
    ResolvConf,
    /// Servers in order of preference.
    Servers(Vec<Upstream>),
}

/// A server to which queries are forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// Address and port of the server.
    pub address: SocketAddr,
    /// Transport of queries to the server.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether names are sent to the server in random case.
    #[serde(default, skip_serializing_if = "CaseRandomization::is_default")]
    pub case_randomization: CaseRandomization,
}

impl From<SocketAddr> for Upstream {
    /// Makes an upstream at this address with the default of every other field: over UDP, in random case.
    fn from(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::default(), case_randomization: CaseRandomization::default() }
    }
}

/// Use of random case in the names of queries (0x20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CaseRandomization {
    /// Names are sent in random case, unless the server turns out to change it or to compare names by octet.
    #[default]
    Enabled,
    /// Names are sent in lower case.
    Disabled,
}

impl CaseRandomization {
    /// Returns whether this is the default, which is left out of the serialized form.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Transport protocol of a socket, or of queries to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// UDP; a query to an upstream is repeated over TCP after a truncated response.
    #[default]
    #[serde(rename = "UDP")]
    Udp,
    /// TCP alone.
    #[serde(rename = "TCP")]
    Tcp,
}

/// A suffix with upstreams of its own (a stub domain).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Suffix that matches itself and every name below it.
    pub suffix: String,
    /// Upstreams in order of preference; at least one.
    pub upstreams: Vec<Upstream>,
    /// Packet budgets of the upstreams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packet_budgets: Vec<PacketBudget>,
}

impl Config {
    /// Returns a small valid configuration to start from: every field has a value, there are no zones and no routes.
    ///
    /// Cluster DNS and upstream are port 9 of the loopback address, where nothing responds, so that no query leaves the
    /// host. Only 127.0.0.1 may query. Callers replace what matters to them with struct update syntax:
    ///
    /// ```
    /// use node_cache_config::{Cache, Config, NodeCache};
    ///
    /// let cache = Cache { max_ttl: 60, ..Cache::default() };
    /// let config = Config { node_cache: NodeCache { cache, ..NodeCache::default() }, ..Config::example() };
    /// assert!(config.validate().is_ok());
    /// ```
    #[must_use]
    pub fn example() -> Self {
        let silent = SocketAddr::from((Ipv4Addr::LOCALHOST, DISCARD_PORT));
        Self {
            tier: "default".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: ClusterDns {
                bootstrap: vec![silent],
                service: "pods.kube-system.svc.cluster.local".to_owned(),
            },
            node_cache: NodeCache::default(),
            zones: Vec::new(),
            resolver: Resolver { upstreams: UpstreamSource::Servers(vec![silent.into()]), ..Resolver::default() },
            routes: Vec::new(),
        }
    }
}

impl Default for NodeCache {
    /// Returns settings that capture 169.254.20.10 alone, as a `DnsTier` does by default, and admit only 127.0.0.1.
    fn default() -> Self {
        let link_local = Captured { address: IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)), service: false };
        Self {
            captured: vec![link_local],
            cache: Cache::default(),
            allow_from: loopback(),
            private_answers: PrivateAnswers::default(),
            last_resort: LastResort::default(),
            probes: Vec::new(),
        }
    }
}

impl Default for Resolver {
    /// Returns settings that take the upstreams from `/etc/resolv.conf` and admit only 127.0.0.1.
    fn default() -> Self {
        Self {
            upstreams: UpstreamSource::default(),
            fallback: Vec::new(),
            private_suffixes: Vec::new(),
            cache: Cache::default(),
            allow_from: loopback(),
            packet_budgets: Vec::new(),
        }
    }
}

impl Default for Cache {
    /// Returns the limits of a `DnsTier` that names none: 1 h, 30 s for negative answers, stale for 24 h.
    fn default() -> Self {
        Self { max_ttl: 3600, negative_max_ttl: 30, serve_stale: 24 * 3600 }
    }
}

fn loopback() -> Vec<IpNet> {
    vec![IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST))]
}
