//! Status of a pod as served at `/status`. Counters start at zero with their process and never decrease.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::figures::Figures;

/// Clause about addresses in every `upstream_problem` that is a forwarding loop.
pub const CAPTURED_UPSTREAM: &str = "which this tier captures";

/// Group of the servers that are queried while the upstreams of a zone resolver are silent.
pub const FALLBACK_SCOPE: &str = "fallback";

/// Group of the servers that are queried while no resolver of any zone answers a cache of a node.
pub const LAST_RESORT_SCOPE: &str = "last-resort";

/// Status of a node pod, served by its agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the node.
    pub node: String,
    /// Zone of the pod; `None` while it is not known to the pod.
    pub zone: Option<String>,
    /// Desired and active revision.
    pub revision: Revision,
    /// One entry for each address that should be captured, in the order of the configuration.
    pub captured: Vec<CapturedAddress>,
    /// One entry for each caching resolver, in the order of their names.
    pub instances: Vec<Instance>,
    /// Start of the agent, in seconds of the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// Figures of all caching resolvers together.
    pub figures: Figures,
    /// Capabilities of this release, one word each.
    pub capabilities: Vec<String>,
}

/// Status of a zone resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResolverStatus {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the node.
    pub node: String,
    /// Zone of the pod; `None` while it is not known to the pod.
    pub zone: Option<String>,
    /// Whether an upstream has responded, or all were silent for long, and `id.server` is answered.
    pub ready: bool,
    /// Status of the process.
    pub instance: Instance,
    /// Figures of the process.
    pub figures: Figures,
    /// Capabilities of this release, one word each.
    pub capabilities: Vec<String>,
}

/// Desired and active revision of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revision {
    /// Desired revision, from the pod's annotation; `None` without an annotation.
    pub asked: Option<String>,
    /// Active revision; `None` before the first.
    pub in_force: Option<String>,
    /// Reason why the desired revision is not active, in one sentence: it is refused, or [`NOT_IN_VOLUME`].
    pub refusal: Option<String>,
}

/// End of the reason why a revision is not active that has not reached the volume of the pod: the kubelet brings the
/// content later than the annotation, sometimes by a minute.
pub const NOT_IN_VOLUME: &str = "is not in the volume yet";

/// Returns whether a reason why a revision is not active says that it has not reached the volume of the pod.
#[must_use]
pub fn is_not_in_volume(reason: &str) -> bool {
    reason.ends_with(NOT_IN_VOLUME)
}

impl Revision {
    /// Returns the reason for which the desired revision is refused; `None` where it has only not arrived.
    #[must_use]
    pub fn rejection(&self) -> Option<&str> {
        self.refusal.as_deref().filter(|reason| !is_not_in_volume(reason))
    }
}

/// Capture state of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedAddress {
    /// Address to capture.
    pub address: IpAddr,
    /// State of the capture.
    pub state: CaptureState,
    /// Reason why the address is not captured, or why some queries to a captured one fail, in one sentence.
    #[serde(default)]
    pub reason: Option<String>,
}

/// State of the capture of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaptureState {
    /// Queries to the address are answered by this pod.
    Captured,
    /// Queries to the address take the path they would take without this tier.
    Withdrawn,
    /// The address is on the node but was added by another program, and is left alone.
    Foreign,
    /// Any state that only a later release has.
    #[serde(other)]
    Unknown,
}

/// Status of one process that answers queries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// Name of the process: `cache-0`, `cache-1`, … or `zone-resolver`.
    pub name: String,
    /// Whether the process responded to the request for this status, and reads all of its sockets.
    pub alive: bool,
    /// Desired and active revision.
    pub revision: Revision,
    /// Counters since the start of the process.
    pub traffic: Traffic,
    /// Servers to which the process can send queries. In a status that would be too long, those of a group are one
    /// entry with the sums of their counters.
    pub upstreams: Vec<UpstreamStatus>,
    /// Problem with the source of the upstreams, in one sentence: the lines of a `resolv.conf` that cannot be used.
    pub upstream_problem: Option<String>,
    /// Start of the process, in seconds of the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// Restarts of the process that the agent has seen since its own start, by the start of the process; `None` where
    /// no agent looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
    /// Figures of the process, for the agent; those of the pod are beside its instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Box<Figures>>,
}

/// Counters of queries and responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Queries received, without those about the process itself (`id.server`), which are health checks. The queries of
    /// the process itself count nowhere.
    pub queries: u64,
    /// Cache hits.
    pub hits: u64,
    /// Stale responses.
    pub stale: u64,
    /// Responses with SERVFAIL.
    pub servfail: u64,
    /// Queries dropped: client not allowed, malformed, or over a limit.
    pub dropped: u64,
    /// Size of the cache in bytes.
    pub cache_bytes: u64,
    /// Number of answers in the cache.
    pub cache_entries: u64,
}

/// Status of one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// Group of the server: `cluster`, `zone/<name>`, `forward`, `inside`, `route/<suffix>`, [`FALLBACK_SCOPE`],
    /// [`LAST_RESORT_SCOPE`].
    pub scope: String,
    /// Address and port of the server.
    pub address: SocketAddr,
    /// Whether the server is up.
    pub healthy: bool,
    /// State of the server in a word.
    #[serde(default)]
    pub state: UpstreamState,
    /// Whether the server has sent any response, whatever its rcode.
    #[serde(default)]
    pub responded: bool,
    /// Queries sent to the server.
    pub sent: u64,
    /// Queries that the server did not answer in time.
    pub timeouts: u64,
    /// Queries to the server in flight.
    #[serde(default)]
    pub in_flight: u32,
    /// Responses from the server's address to the port of a query in flight that are not responses to it.
    #[serde(default)]
    pub near_misses: u64,
    /// Result of the detection of silent limits; `None` for a server that is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<DetectionStatus>,
}

/// Result of the detection of silent limits for one upstream. Times are seconds of the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectionStatus {
    /// State, one of [`DETECTION_STATES`].
    pub state: String,
    /// Packets a second that the upstream is sent at the most; `None` without a ceiling.
    pub ceiling: Option<u32>,
    /// Whether there were enough queries in the last five minutes to find a limit.
    pub has_enough_traffic: bool,
    /// Queries meant for the upstream that its ceiling or its packet budget had no room for.
    pub refused: u64,
    /// Answers that came after their query was overdue.
    pub late: u64,
    /// Limit, loss or slowness that lasts, or lasted until 30 s ago.
    pub throttle: Option<ThrottleStatus>,
    /// Last eight times at which the upstream was held or silent, the latest last.
    pub episodes: Vec<EpisodeStatus>,
}

/// States of the detection of limits, each at the place that is its number in metrics.
pub const DETECTION_STATES: [&str; 10] = [
    "well",
    "suspected",
    "held",
    "limited",
    "flows limited",
    "lossy",
    "slow",
    "back from silence",
    "silent",
    "returning",
];

/// Limit of an upstream, or a packet budget below the need, with the figures of the moment in which it was known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ThrottleStatus {
    /// `limited`, `flows limited`, `lossy`, `slow` or [`BUDGET_SPENT`].
    pub state: String,
    /// When it began.
    pub since: u64,
    /// Queries a second that were meant for the upstream.
    pub offered: u32,
    /// Queries a second that it answered; of a spent budget, those that the budget of the process allows.
    pub answered: u32,
}

/// State of a [`ThrottleStatus`]: the packet budget has no room for all queries.
pub const BUDGET_SPENT: &str = "budget spent";

/// Time at which an upstream was held or silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EpisodeStatus {
    /// When it began.
    pub started: u64,
    /// When the upstream was well again; `None` while it is not.
    pub ended: Option<u64>,
    /// Seconds before its begin.
    pub before: u32,
    /// The minute around its begin: up to 15 s before it, and 45 s from it on.
    pub seconds: Vec<SecondStatus>,
}

/// One second of an episode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecondStatus {
    /// Queries that were meant for the upstream.
    pub offered: u32,
    /// Queries that were sent to it, without retries.
    pub sent: u32,
    /// Of those, the ones that it answered in time.
    pub answered: u32,
    /// Answers that were late.
    pub late: u32,
    /// Queries that the ceiling or the packet budget had no room for.
    pub refused: u32,
    /// Stale responses of the process, whatever their upstream.
    pub stale: u32,
    /// State at the end of the second.
    pub state: String,
}

/// State of one upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamState {
    /// The server does badly, and others are compared with it.
    Suspected,
    /// The server does worse than the others of its group, and is left for a while.
    Ejected,
    /// The server was left or down, and its share of the queries rises (slow start).
    Returning,
    /// The server does not respond.
    Down,
    /// The server is up, as far as is known. Any state that only a later release has is read as this one.
    #[default]
    #[serde(other)]
    Up,
}
