//! The status of a `DnsTier`. Numbers are rounded and change seldom, so that writing them triggers few watch events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the tier is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsTierStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state of the tier as `kubectl get dnstier` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SummaryStatus>,
    /// The state of the tier, one entry for each aspect: Ready, Progressing, RolledOut, Degraded,
    /// UpstreamThrottled and, while they are true, Reconciling and Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The time at which the tier was Ready for the first time. From then on Ready tolerates 1 % of the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ready_time: Option<Time>,
    /// The revisions of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionStatus>,
    /// The roll-out that goes on, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// The nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesStatus>,
    /// The resolvers of all zones together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolvers: Option<ResolversStatus>,
    /// The zones, ordered by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub zones: Vec<ZoneStatus>,
    /// The queries, all nodes together. Not present until a node has reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficStatus>,
    /// The release of the operator that acts on this tier. Others leave it alone while that one is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorStatus>,
}

/// The release of the operator that has claimed a tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperatorStatus {
    /// Namespace of the release. The claim ends when its Lease dnstier-operator is not renewed for a minute.
    pub namespace: String,
}

/// The state of a tier in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SummaryStatus {
    /// Nodes that answer, of nodes that should: 3/3.
    pub ready: String,
    /// Zone resolvers that answer, of those that should: 6/6.
    pub resolvers: String,
    /// Number of zones that the tier serves.
    pub zones: u32,
    /// Nodes on the newest configuration and pod template, of nodes that should be: 3/3.
    pub updated: String,
    /// The upstreams that the condition UpstreamThrottled is about: the first two, and the number of the others. Not
    /// present while there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// The sentence that matters most: what is wrong, else what is going on, else that all is well.
    pub message: String,
}

/// Revisions of the configuration. A revision is named by a fingerprint of its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RevisionStatus {
    /// The newest revision that was in force on every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The revision that the spec results in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A roll-out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// Kind of the change: Configuration, or Nodes while nodes leave that nodeCache excludes.
    pub kind: String,
    /// The revision that is rolled out, or that the nodes run.
    pub target: String,
    /// Where it is: First (all pods get the first revision), Start, Moved (pods of a superseded revision), Resolver,
    /// ResolverZone, Canary, Wave, Finish, Done, RollingBack or Stopped.
    pub step: String,
    /// The zone that the step is about. Not present where it is about all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Pods that were told to run the revision, of those that read what it changes; or nodes that have left.
    pub moved: u32,
    /// Pods that read what the revision changes; or nodes that leave.
    pub total: u32,
    /// When the step began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// Numbers of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodesStatus {
    /// Nodes that should run the caches.
    pub desired: u32,
    /// Nodes whose caches answer.
    pub ready: u32,
    /// Nodes on the newest configuration and pod template.
    pub updated: u32,
    /// Nodes that should run the caches and that Kubernetes reports as not ready. Nothing waits for them; they are
    /// updated when they return. Not present while there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub away: u32,
    /// Nodes that cannot run the caches and are not counted, by reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["reason"]))]
    pub excluded: Vec<ExcludedNodesStatus>,
}

/// Nodes that cannot run the caches for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExcludedNodesStatus {
    /// Why: OperatingSystem (not Linux), Architecture (one that the image does not have), Fargate, VirtualNode (a node
    /// without a machine), or NodeSelector, Affinity and Taint: what nodeCache says.
    pub reason: String,
    /// Number of these nodes.
    pub nodes: u32,
    /// Names of the first three of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// Numbers of resolvers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResolversStatus {
    /// Resolvers that should run.
    pub desired: u32,
    /// Resolvers that answer.
    pub ready: u32,
}

/// One zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZoneStatus {
    /// Value of the nodes' label topology.kubernetes.io/zone; empty for the nodes without it.
    pub name: String,
    /// Nodes in the zone.
    pub nodes: u32,
    /// Resolvers of the zone that answer.
    pub resolvers_ready: u32,
    /// Share of the queries of the zone's nodes to the tier's resolvers that went to resolvers of the zone itself, in
    /// percent. Not present while there are too few for a percentage to mean something (fewer than 100 in the last
    /// minute), or while no node of the zone has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_percent: Option<u32>,
    /// Why the zone has no resolvers: the nodes on which none can be placed, each with its obstacle. Its nodes query
    /// other zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_resolvers: Option<String>,
}

/// Rates of queries and responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficStatus {
    /// Queries per second.
    pub queries_per_second: u32,
    /// Cache hits, in percent of the queries. Not present while there are too few queries for a percentage to mean
    /// something (fewer than 100 in the last minute), as are the other percentages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit_percent: Option<u32>,
    /// Queries that got a stale answer, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_percent: Option<u32>,
    /// Queries that got SERVFAIL, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servfail_percent: Option<u32>,
}

/// Returns whether a number is zero, and not worth a line.
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
