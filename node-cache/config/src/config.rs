//! What a data-plane process is told. Durations are whole seconds, sizes bytes, names lower case without a final dot.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One revision of a tier: the same value for the caches of every node and the resolvers of every zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name of the `DnsTier`.
    pub tier: String,
    /// The cluster's own domain, e.g. `cluster.local`. Names at and below it go to the cluster DNS.
    pub cluster_domain: String,
    /// Where the cluster's own names are answered.
    pub cluster_dns: ClusterDns,
    /// What the caches and the agent of a node do.
    pub node_cache: NodeCache,
    /// The zones and where their resolvers are found, ordered by name.
    pub zones: Vec<Zone>,
    /// What the resolvers of a zone do.
    pub resolver: Resolver,
    /// Suffixes that are answered elsewhere; the longest one that matches wins.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// The cluster DNS, reached past the captured Service through twins of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDns {
    /// Addresses of the twin with a ClusterIP: asked until, and whenever, the pods behind it are not known.
    pub bootstrap: Vec<SocketAddr>,
    /// DNS name of the headless twin, whose SRV, A and AAAA records are the pods. Asked from `bootstrap`.
    pub service: String,
}

/// What the caches and the agent of a node do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCache {
    /// Addresses on which this tier answers on every node.
    pub captured: Vec<Captured>,
    /// Bounds of what is kept.
    pub cache: Cache,
    /// Who may ask. Others get no answer at all.
    pub allow_from: Vec<IpNet>,
}

/// One captured address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Captured {
    /// The address.
    pub address: IpAddr,
    /// Whether a Service answers at this address while it is not captured. Such an address is first taken only once
    /// an outside name was resolved; for one that nobody else serves that wait is bounded.
    pub service: bool,
}

/// Bounds of what a cache keeps. Its size is not here: it decides a container's memory limit and is a flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// The longest time in seconds that a positive answer is kept and its TTL shown.
    pub max_ttl: u32,
    /// The same for negative answers (RFC 2308).
    pub negative_max_ttl: u32,
    /// How many seconds after its expiry an answer may still be served while upstreams fail (RFC 8767); 0: never.
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
    /// DNS name of the zone's headless Service, asked from the cluster DNS.
    pub service: String,
}

/// What the resolvers of a zone do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolver {
    /// Where questions go.
    pub upstreams: UpstreamSource,
    /// Bounds of what is kept.
    pub cache: Cache,
    /// Who may ask. Others get no answer at all.
    pub allow_from: Vec<IpNet>,
}

/// Where a zone resolver's questions go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamSource {
    /// The `nameserver` lines of the pod's `/etc/resolv.conf`, which under `dnsPolicy: Default` is its node's.
    ResolvConf,
    /// These, in this order of preference.
    Servers(Vec<Upstream>),
}

/// A server that questions are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// Its address and port.
    pub address: SocketAddr,
    /// How it is asked.
    #[serde(default)]
    pub protocol: Protocol,
}

/// How an upstream is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// Over UDP, again over TCP when the answer is truncated.
    #[default]
    #[serde(rename = "UDP")]
    Udp,
    /// Over TCP alone.
    #[serde(rename = "TCP")]
    Tcp,
}

/// A suffix that is answered elsewhere (a stub domain).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The suffix: it matches itself and every name below it.
    pub suffix: String,
    /// Who answers, in this order of preference; at least one.
    pub upstreams: Vec<Upstream>,
}
