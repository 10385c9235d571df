//! Look at one pod: what is known of it at one moment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::controller::judge::figures::Figures;
use crate::controller::rollout::pods::Role;

/// Look at one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodLook {
    /// Name of the node for a node pod, of the pod for a resolver: a node pod that is made anew keeps its name.
    pub(crate) name: String,
    /// UID of the pod.
    pub(crate) uid: String,
    /// Zone of the pod.
    pub(crate) zone: String,
    /// Role of the pod. Only pods of the same role are compared.
    pub(crate) role: Role,
    /// Whether the pod is asked to run the revision that is on trial.
    pub(crate) is_asked: bool,
    /// Whether the node of the pod is away. Such a pod is neither judged nor compared with.
    pub(crate) is_away: bool,
    /// Whether the pod is ready. Of one that comes back with its node the kubelet says so together with its restarts.
    pub(crate) is_ready: bool,
    /// Number of restarts of its containers, by the kubelet, which counts them also while the pod does not answer.
    pub(crate) container_restarts: u32,
    /// Report of the pod; `None` while it does not answer.
    pub(crate) report: Option<PodReport>,
}

/// Report of a pod about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodReport {
    /// Revision that all processes of the pod have in force.
    pub(crate) in_force: InForce,
    /// Start of the process that started last, in seconds of the Unix epoch.
    pub(crate) started: u64,
    /// Number of restarts of containers, by whatever clock; only an increase counts.
    pub(crate) restarts: u32,
    /// Reason why the pod rejects the revision that is on trial.
    pub(crate) refusal: Option<String>,
    /// Captured addresses through which the pod does not reach its own caches, with the reasons.
    pub(crate) self_query_failures: BTreeMap<IpAddr, String>,
    /// Counters of the pod.
    pub(crate) figures: Figures,
    /// Results of probes of this look, those without a response included; empty where none were asked.
    pub(crate) probes: Vec<ProbeOutcome>,
}

/// Revision in force, as far as the judge cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InForce {
    /// The revision that is on trial.
    Target,
    /// The revision that has proved itself.
    Proven,
    /// Another one, none, or several.
    Other,
}

/// Result of one probe past the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeOutcome {
    /// Probed name.
    pub(crate) name: String,
    /// Mnemonic of the probed type.
    pub(crate) rtype: String,
    /// Part of the answers that is compared.
    pub(crate) compare: Compare,
    /// Whether the name is that of a route that leads where it led before the change.
    pub(crate) is_unchanged_route: bool,
    /// Response code; `None` without a response.
    pub(crate) rcode: Option<u16>,
    /// Digest of the answer.
    pub(crate) digest: String,
    /// Time from the query to the response.
    pub(crate) microseconds: u64,
}

/// Part of two answers to a probe that has to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    /// The response code.
    Rcode,
    /// The response code and the records.
    Answers,
}
