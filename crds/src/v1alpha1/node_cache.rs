//! The part of the spec for nodes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validation::{CACHE_FITS_MEMORY, CAPTURES_SOMETHING, RATE_GOES_WITH_UPSTREAMS, rules};
use super::{ByteSize, Cache, NODE_CACHE_SIZE, PodSettings, schema};

/// The caching resolvers of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[CACHE_FITS_MEMORY])))]
pub struct NodeCache {
    /// How many caching resolvers run on every node, 1 to 8. They share the captured addresses, so that one that dies
    /// or hangs loses no query. Default: 2.
    #[schemars(range(min = 1, max = 8))]
    pub instances: u8,
    /// The addresses on which the tier answers on every node. When this object is given, nothing of it is filled in:
    /// what it does not name is not captured. Default: the ClusterIPs of the cluster DNS, and 169.254.20.10.
    pub capture: Capture,
    /// Cache of each of the caching resolvers.
    pub cache: Cache,
    /// Which clients get a response, as networks in CIDR notation (10.0.0.0/8). Others get none. At most 64. Default,
    /// also for an empty list: private addresses (RFC 1918), 100.64.0.0/10, unique local (fc00::/7), link-local and
    /// loopback addresses.
    #[schemars(schema_with = "schema::networks")]
    pub allow_from: Vec<IpNet>,
    /// Whether a name outside of the cluster may have a private address. Allow: answers are passed on as they are.
    /// Refuse: an answer with a private address is replaced by one without records (NOERROR, Extended DNS Error 15,
    /// Blocked), so that no outside name leads pods to addresses inside (DNS rebinding). Private are RFC 1918,
    /// 100.64.0.0/10, link-local and unique local (fc00::/7) addresses, ::1, IPv6 addresses that embed one of these
    /// IPv4 addresses, and all addresses that this tier captures; not 127.0.0.0/8 and 0.0.0.0, with which block lists
    /// answer. Names of routes, of the cluster domain and of resolvers.privateSuffixes are exempt, and those below
    /// local and home.arpa. Default: Allow.
    pub private_answers: PrivateAnswers,
    /// Last resort of the caching resolvers for names outside of the cluster, while no resolver of any zone answers.
    pub last_resort: LastResort,
    /// TCP port on every node's own address where the node pod serves /metrics and /status over HTTP, 1024 to 65535.
    /// The pods are on the host's network, so nothing else on the nodes may use it. Default: 9353.
    #[schemars(range(min = 1024, max = 65535))]
    pub metrics_port: u16,
    /// Settings of the node pods that the tier does not decide.
    #[serde(flatten)]
    pub pod: PodSettings,
}

impl Default for NodeCache {
    fn default() -> Self {
        Self {
            instances: 2,
            capture: Capture::default(),
            cache: Cache { size: Some(NODE_CACHE_SIZE), ..Cache::default() },
            allow_from: Vec::new(),
            private_answers: PrivateAnswers::default(),
            last_resort: LastResort::default(),
            metrics_port: 9353,
            pod: PodSettings::default(),
        }
    }
}

impl NodeCache {
    /// Returns the size of the cache of one instance.
    #[must_use]
    pub fn cache_size(&self) -> ByteSize {
        self.cache.size.unwrap_or(NODE_CACHE_SIZE)
    }
}

/// The addresses on which a tier answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[CAPTURES_SOMETHING])))]
pub struct Capture {
    /// Whether the tier answers on the ClusterIPs of the cluster DNS Service, so that pods use it without being
    /// changed: Enabled or Disabled. Not given: Disabled. Leave it Disabled where kube-proxy runs in IPVS mode, which
    /// owns these addresses itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::switch")]
    pub cluster_dns: Option<Switch>,
    /// Further addresses to answer on, for pods and node processes that name them as their resolver. IPv4 link-local
    /// (169.254.0.0/16) or private (RFC 1918), or IPv6 unique local (fc00::/7), and not used by anything else in the
    /// cluster's network. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::captured_addresses")]
    pub addresses: Vec<IpAddr>,
}

impl Default for Capture {
    fn default() -> Self {
        Self { cluster_dns: Some(Switch::Enabled), addresses: vec![IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10))] }
    }
}

impl Capture {
    /// Returns whether the ClusterIPs of the cluster DNS Service are captured.
    #[must_use]
    pub fn takes_cluster_dns(&self) -> bool {
        self.cluster_dns == Some(Switch::Enabled)
    }
}

/// Setting that is enabled or disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    /// The setting is enabled.
    Enabled,
    /// The setting is disabled.
    Disabled,
}

/// Treatment of private addresses in answers for names outside of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrivateAnswers {
    /// Answers are passed on as they are.
    #[default]
    Allow,
    /// An answer with a private address is replaced by one without records.
    Refuse,
}

/// Last resort of the caching resolvers of a node, while no resolver of any zone answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[RATE_GOES_WITH_UPSTREAMS])))]
pub struct LastResort {
    /// Upstreams: they query the upstreams of the resolvers themselves, from the address of the node, until the first
    /// resolver answers. With an empty resolvers.upstreams these are the nameservers in the resolv.conf of the node.
    /// Names of the cluster and of routes are not sent there. Disabled: names that are not cached get SERVFAIL.
    /// Default: Upstreams.
    pub mode: LastResortMode,
    /// How many packets a second one node sends to these upstreams at the most, all of its caching resolvers together,
    /// 1 to 10000. What is more gets stale answers or SERVFAIL. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub packets_per_second: Option<u32>,
}

/// Servers that the caching resolvers of a node query while no resolver of any zone answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LastResortMode {
    /// The upstreams of the resolvers.
    #[default]
    Upstreams,
    /// None.
    Disabled,
}
