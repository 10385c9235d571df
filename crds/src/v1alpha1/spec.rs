//! The spec of a `DnsTier`. No field is required. The docstrings of the fields are the manual that `kubectl explain`
//! prints.

#![allow(clippy::duplicated_attributes, reason = "each column of kubectl get names its type and path")]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validation::{
    CLUSTER_DOMAIN, FALLBACK_IS_NOT_CAPTURED, NAMESPACE, PRIVATE_SUFFIXES_LEAVE_THE_CLUSTER, ROUTE_HAS_UPSTREAMS,
    ROUTES_ARE_NOT_CAPTURED, ROUTES_LEAVE_THE_CLUSTER, SERVERS_ARE_DISTINCT, SERVICE, SUFFIX,
    UPSTREAMS_ARE_NOT_CAPTURED, rules,
};
use super::{DnsTierStatus, NodeCache, Resolvers, Rollout, Upstream};

/// Desired state of the tier. Every field has a default: `spec: {}` is a working tier.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "dnstier.io",
    version = "v1alpha1",
    kind = "DnsTier",
    plural = "dnstiers",
    shortname = "dt",
    derive = "PartialEq",
    status = "DnsTierStatus",
    doc = "A DnsTier answers the DNS queries of every pod from caches on the pod's own node, which query the resolvers \
           of the node's own zone for what they have not cached.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.summary.ready",
        description = "Nodes that answer, of nodes that should."
    ),
    printcolumn(
        name = "Resolvers",
        type_ = "string",
        json_path = ".status.summary.resolvers",
        description = "Zone resolvers that answer, of those that should."
    ),
    printcolumn(
        name = "Zones",
        type_ = "integer",
        json_path = ".status.summary.zones",
        description = "Zones that the tier serves."
    ),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".status.revision.current",
        description = "The configuration in force on every node."
    ),
    printcolumn(
        name = "Updated",
        type_ = "string",
        json_path = ".status.summary.updated",
        description = "Nodes on the newest configuration and pod template, of nodes that should be."
    ),
    printcolumn(
        name = "Step",
        type_ = "string",
        json_path = ".status.rollout.step",
        description = "Where the roll-out of the configuration is."
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "The reason of the condition Ready."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "QPS",
        type_ = "integer",
        json_path = ".status.traffic.queriesPerSecond",
        description = "Queries per second, all nodes together.",
        priority = 1
    ),
    printcolumn(
        name = "Hit%",
        type_ = "integer",
        json_path = ".status.traffic.hitPercent",
        description = "Cache hits, in percent of the queries.",
        priority = 1
    ),
    printcolumn(
        name = "SERVFAIL%",
        type_ = "integer",
        json_path = ".status.traffic.servfailPercent",
        description = "Queries that got SERVFAIL, in percent.",
        priority = 1
    ),
    printcolumn(
        name = "Throttled",
        type_ = "string",
        json_path = ".status.summary.throttled",
        description = "Upstreams that answer only a part of what they are sent, or whose packetBudget is spent.",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.summary.message",
        description = "The sentence that matters most.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ROUTES_LEAVE_THE_CLUSTER,
    UPSTREAMS_ARE_NOT_CAPTURED,
    FALLBACK_IS_NOT_CAPTURED,
    PRIVATE_SUFFIXES_LEAVE_THE_CLUSTER,
    ROUTES_ARE_NOT_CAPTURED,
])))]
pub struct DnsTierSpec {
    /// The cluster's own domain, as the kubelets are told it (`clusterDomain`). Names at and below it are answered by
    /// the cluster DNS and never leave the cluster. Lower case, no final dot. Default: cluster.local.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules(&[CLUSTER_DOMAIN])))]
    pub cluster_domain: String,
    /// The Service of the cluster DNS (CoreDNS, kube-dns), which knows the cluster's own names. Its addresses are
    /// what pods have in their resolv.conf; the tier answers on them while it is well, and hands them back to that
    /// Service when it is not.
    pub cluster_dns: ClusterDns,
    /// The caching resolvers that run on every node.
    pub node_cache: NodeCache,
    /// The resolvers that run in every zone. The nodes query them for names outside of the cluster: those of their own
    /// zone first, those of other zones while these do not respond.
    pub resolvers: Resolvers,
    /// Domains that are answered elsewhere (stub domains), such as those of a company's own name servers. The
    /// longest suffix that matches a name wins. Nodes query these upstreams directly. At most 256 routes.
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["suffix"]))]
    pub routes: Vec<Route>,
    /// How a change of the configuration spreads, and what takes it back.
    pub rollout: Rollout,
}

impl Default for DnsTierSpec {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: ClusterDns::default(),
            node_cache: NodeCache::default(),
            resolvers: Resolvers::default(),
            routes: Vec::new(),
            rollout: Rollout::default(),
        }
    }
}

/// The Service of the cluster DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterDns {
    /// Namespace of the Service. Default: kube-system.
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules(&[NAMESPACE])))]
    pub namespace: String,
    /// Name of the Service. It needs a ClusterIP and a selector. Default: kube-dns, which is its name in nearly every
    /// cluster, also where the pods behind it are CoreDNS.
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules(&[SERVICE])))]
    pub name: String,
}

impl Default for ClusterDns {
    fn default() -> Self {
        Self { namespace: "kube-system".to_owned(), name: "kube-dns".to_owned() }
    }
}

/// A suffix that is answered elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The suffix. It matches itself and every name below it: corp.example matches corp.example and db.corp.example,
    /// not mycorp.example. Lower case, no final dot. A reverse zone such as 10.in-addr.arpa is a suffix too. The
    /// cluster's own domain and names below it cannot be routed.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules(&[SUFFIX])))]
    pub suffix: String,
    /// Servers that answer. At least one entry, at most 8. They are tried in this order of preference.
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "atomic",
        "x-kubernetes-validations" = rules(&[ROUTE_HAS_UPSTREAMS, SERVERS_ARE_DISTINCT])
    ))]
    pub upstreams: Vec<Upstream>,
}
