//! A tier as it may be built: every default filled in, every reference resolved, in the units that processes take.

use std::collections::BTreeMap;

use dnstier_crds::v1alpha1::PodSettings;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use node_cache_config::{Cache, Captured, Route, UpstreamSource};

use crate::controller::finding::Finding;

/// The only input of everything that is built.
#[derive(Clone, Debug)]
pub struct ValidatedTier {
    /// Name of the `DnsTier`.
    pub name: String,
    /// What every child names as its owner.
    pub owner: OwnerReference,
    /// The cluster's own domain.
    pub cluster_domain: String,
    /// The Service that knows the cluster's own names.
    pub cluster_dns: ClusterDns,
    /// Addresses on which nodes answer, the Service's first; each once.
    pub captured: Vec<Captured>,
    /// The caches of a node.
    pub node_cache: NodeCache,
    /// The resolvers of a zone.
    pub resolvers: Resolvers,
    /// Suffixes that are answered elsewhere.
    pub routes: Vec<Route>,
    /// The zones that have resolvers, ordered by name.
    pub zones: Vec<Zone>,
    /// What is wrong without keeping the tier from being built.
    pub warnings: Vec<Finding>,
}

/// The cluster DNS Service, as far as its twins need it.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    /// Its namespace, where the twins live too.
    pub namespace: String,
    /// What selects its pods.
    pub selector: BTreeMap<String, String>,
    /// Its ports for DNS under the names that every Service of a tier gives them.
    pub ports: Vec<ServicePort>,
}

/// The caches of a node.
#[derive(Clone, Debug)]
pub struct NodeCache {
    /// Caching resolvers on every node.
    pub instances: u32,
    /// Bytes that each of them may keep.
    pub cache_size: u64,
    /// Bounds of what each of them keeps.
    pub cache: Cache,
    /// Who may ask them.
    pub allow_from: Vec<IpNet>,
    /// Host port of `/metrics` and `/status`.
    pub metrics_port: u16,
    /// What the user says of their pods; what is left out has its default filled in where the pod is built.
    pub pods: PodSettings,
}

/// The resolvers of a zone.
#[derive(Clone, Debug)]
pub struct Resolvers {
    /// How many every zone has.
    pub replicas_per_zone: i32,
    /// Bytes that each of them may keep.
    pub cache_size: u64,
    /// Bounds of what each of them keeps.
    pub cache: Cache,
    /// Who may ask them.
    pub allow_from: Vec<IpNet>,
    /// Where their questions go.
    pub upstreams: UpstreamSource,
    /// What the user says of their pods; what is left out has its default filled in where the pod is built.
    pub pods: PodSettings,
}

/// One zone that has resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Value of the nodes' zone label; empty for nodes without it.
    pub name: String,
    /// How many nodes may run its resolvers.
    pub nodes: usize,
    /// Since when (RFC 3339) no node has named it; none while one does.
    pub empty_since: Option<String>,
}
