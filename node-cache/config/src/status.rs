//! What a pod says of itself at `/status`. Counters count since the start of their process and never go back.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What the agent of a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the node.
    pub node: String,
    /// The zone that the pod believes to be in; none while it does not know.
    pub zone: Option<String>,
    /// Which revision applies.
    pub revision: Revision,
    /// One entry for each address that should be captured, in the order of the configuration.
    pub captured: Vec<CapturedAddress>,
    /// One entry for each caching resolver, in the order of their names.
    pub instances: Vec<Instance>,
}

/// What a zone resolver says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResolverStatus {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the node.
    pub node: String,
    /// The zone that the pod believes to be in; none while it does not know.
    pub zone: Option<String>,
    /// Whether a first name was resolved and `id.server` is answered.
    pub ready: bool,
    /// What the process says of itself.
    pub instance: Instance,
}

/// Which revision a process was asked to put in force, and which it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revision {
    /// The revision that the pod's annotation names; none while nobody has annotated it.
    pub asked: Option<String>,
    /// The revision in force; none before the first.
    pub in_force: Option<String>,
    /// Why the revision asked is not in force, in one sentence.
    pub refusal: Option<String>,
}

/// How far an address is captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedAddress {
    /// The address.
    pub address: IpAddr,
    /// How far.
    pub state: CaptureState,
    /// Why it is not captured, in one sentence.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How far an address is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaptureState {
    /// Queries to it are answered by this pod.
    Captured,
    /// Queries to it go where they would go without this tier.
    Withdrawn,
    /// The address is on the node but was put there by somebody else, and is left alone.
    Foreign,
}

/// What one process that answers questions says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// Its name: `cache-0`, `cache-1`, … or `zone-resolver`.
    pub name: String,
    /// Whether it answered when it was asked for this, and reads all that it should.
    pub alive: bool,
    /// Which revision applies.
    pub revision: Revision,
    /// What it did since it was started.
    pub traffic: Traffic,
    /// Where it can send questions, and how that goes.
    pub upstreams: Vec<UpstreamStatus>,
    /// What is wrong with the sources of its upstreams, in one sentence (a `resolv.conf` that names a captured address).
    pub upstream_problem: Option<String>,
}

/// Counters of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Questions that were taken in, but for those about the process itself (`id.server`), which are health checks.
    pub queries: u64,
    /// Answers from memory.
    pub hits: u64,
    /// Answers from memory past their time.
    pub stale: u64,
    /// Answers that say SERVFAIL.
    pub servfail: u64,
    /// Questions dropped: not allowed to ask, malformed, or over a bound.
    pub dropped: u64,
    /// Bytes that the cache holds.
    pub cache_bytes: u64,
    /// Answers that the cache holds.
    pub cache_entries: u64,
}

/// One server that questions are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// What it is asked for: `cluster`, `zone/<name>`, `forward`, `route/<suffix>`.
    pub scope: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Whether the last exchanges went well.
    pub healthy: bool,
    /// Questions sent to it.
    pub sent: u64,
    /// Questions it did not answer in time.
    pub timeouts: u64,
}
