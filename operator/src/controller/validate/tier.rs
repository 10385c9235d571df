//! A validated tier: defaults filled in, references resolved, values in the units of the data plane.

use std::collections::BTreeMap;
use std::time::Duration;

use dnstier_crds::v1alpha1::PodSettings;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use node_cache_config::probes::ProbeName;
use node_cache_config::{Cache, Captured, LastResort, PacketBudget, PrivateAnswers, Route, Upstream, UpstreamSource};

use crate::controller::finding::Finding;

/// A validated tier: the only input from which desired objects are built.
#[derive(Clone, Debug)]
pub(crate) struct ValidatedTier {
    /// Name of the `DnsTier`.
    pub(crate) name: String,
    /// Owner reference of every owned object.
    pub(crate) owner: OwnerReference,
    /// Domain of the cluster.
    pub(crate) cluster_domain: String,
    /// Service that resolves the names of the cluster.
    pub(crate) cluster_dns: ClusterDns,
    /// Addresses on which nodes answer, each once, those of the cluster DNS Service first.
    pub(crate) captured: Vec<Captured>,
    /// Caches of a node.
    pub(crate) node_cache: NodeCache,
    /// Resolvers of a zone.
    pub(crate) resolvers: Resolvers,
    /// Suffixes with upstreams of their own.
    pub(crate) routes: Vec<Route>,
    /// Zones that have resolvers, those on their way out included, ordered by name.
    pub(crate) zones: Vec<Zone>,
    /// Time until the next zone that is not wanted may be pruned; `None` without such a zone.
    pub(crate) next_prune: Option<Duration>,
    /// Problems that do not keep the tier from being applied.
    pub(crate) warnings: Vec<Finding>,
}

/// Fields of the cluster DNS Service that its shadow Services copy.
#[derive(Clone, Debug)]
pub(crate) struct ClusterDns {
    /// Namespace of the Service and of its shadow Services.
    pub(crate) namespace: String,
    /// Selector of its pods.
    pub(crate) selector: BTreeMap<String, String>,
    /// DNS ports, under the port names of every Service of a tier.
    pub(crate) ports: Vec<ServicePort>,
}

/// Caches of a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeCache {
    /// Number of caching resolvers on every node.
    pub(crate) instances: u32,
    /// Size of the cache of each of them, in bytes.
    pub(crate) cache_size: u64,
    /// TTL bounds of their caches.
    pub(crate) cache: Cache,
    /// Networks of permitted clients.
    pub(crate) allow_from: Vec<IpNet>,
    /// Treatment of private addresses in answers for outside names.
    pub(crate) private_answers: PrivateAnswers,
    /// Servers of the caches for outside names while no resolver of any zone answers.
    pub(crate) last_resort: LastResort,
    /// Names that are probed beside those that every tier has.
    pub(crate) probes: Vec<ProbeName>,
    /// Host port of `/metrics` and `/status`.
    pub(crate) metrics_port: u16,
    /// Number of nodes that may be without a ready pod while a new pod template is rolled out.
    pub(crate) max_unavailable: i32,
    /// User's settings of the pods. Defaults are filled in where the pod is built.
    pub(crate) pods: PodSettings,
}

/// Resolvers of a zone.
#[derive(Clone, Debug)]
pub(crate) struct Resolvers {
    /// Number of resolvers in every zone.
    pub(crate) replicas_per_zone: i32,
    /// Size of the cache of each of them, in bytes.
    pub(crate) cache_size: u64,
    /// TTL bounds of their caches.
    pub(crate) cache: Cache,
    /// Networks of permitted clients.
    pub(crate) allow_from: Vec<IpNet>,
    /// Upstreams of the resolvers.
    pub(crate) upstreams: UpstreamSource,
    /// Servers that are queried while the upstreams are silent.
    pub(crate) fallback: Vec<Upstream>,
    /// Suffixes whose names are never sent to the fallback.
    pub(crate) private_suffixes: Vec<String>,
    /// Packet budgets of the upstreams and of the fallback.
    pub(crate) packet_budgets: Vec<PacketBudget>,
    /// User's settings of the pods. Defaults are filled in where the pod is built.
    pub(crate) pods: PodSettings,
}

/// A zone that has resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    /// Value of the nodes' zone label; empty for nodes without it.
    pub(crate) name: String,
    /// Number of nodes on which a resolver can be placed.
    pub(crate) nodes: usize,
    /// Time (RFC 3339) since which the zone is not wanted: no node of it may run a resolver and none runs, or the spec
    /// does not name it any more; `None` otherwise.
    pub(crate) empty_since: Option<String>,
    /// Whether the zone is on its way out: it keeps its resolvers for the nodes that still query them, and the
    /// configuration does not name it any more.
    pub(crate) leaving: bool,
}
