//! Page of a played pod: `/status` as an agent or a zone resolver writes it, and the answer to a probe.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use node_cache_config::figures::{CAPABILITIES, Figures, ScopeResponses};
use node_cache_config::probes::ProbeResult;
use node_cache_config::status::{
    CaptureState, CapturedAddress, Instance, NodeStatus, ResolverStatus, Revision, UpstreamStatus,
};
use serde_json::Value;

/// Responses of a pod in a second.
const RESPONSES: u64 = 50;

/// Contents of a status page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// UID of the pod.
    pub(crate) pod_uid: String,
    /// Name of its node.
    pub(crate) node: String,
    /// Zone that it was told.
    pub(crate) zone: Option<String>,
    /// Whether it is a zone resolver.
    pub(crate) is_resolver: bool,
    /// Revision that it is asked to run, and the one that it runs.
    pub(crate) revision: Revision,
    /// Addresses that it captures.
    pub(crate) captured: Vec<IpAddr>,
    /// Names of its caches, where it is no zone resolver.
    pub(crate) caches: Vec<String>,
    /// Start of its processes, in seconds of the Unix epoch.
    pub(crate) started: u64,
    /// Restarts of each of its processes.
    pub(crate) restarts: u32,
    /// Figures of its processes.
    pub(crate) figures: Figures,
    /// Upstreams of each of its processes.
    pub(crate) upstreams: Vec<UpstreamStatus>,
}

impl Page {
    /// Returns the page in JSON.
    pub(crate) fn into_json(self) -> Value {
        let instance = |name: &str| Instance {
            name: name.to_owned(),
            alive: true,
            revision: self.revision.clone(),
            started: Some(self.started),
            restarts: Some(self.restarts),
            upstreams: self.upstreams.clone(),
            ..Instance::default()
        };
        let capabilities = CAPABILITIES.map(str::to_owned).to_vec();
        let page = if self.is_resolver {
            let instance = instance("zone-resolver");
            let (pod_uid, node, zone, figures) = (self.pod_uid, self.node, self.zone, self.figures);
            serde_json::to_value(ResolverStatus { pod_uid, node, zone, ready: true, instance, figures, capabilities })
        } else {
            let capture = |address| CapturedAddress { address, state: CaptureState::Captured, reason: None };
            serde_json::to_value(NodeStatus {
                instances: self.caches.iter().map(|name| instance(name)).collect(),
                pod_uid: self.pod_uid,
                node: self.node,
                zone: self.zone,
                revision: self.revision,
                captured: self.captured.into_iter().map(capture).collect(),
                figures: self.figures,
                capabilities,
                ..NodeStatus::default()
            })
        };
        page.unwrap_or_default()
    }
}

/// Returns the responses of a pod with this start that were answered, and those with SERVFAIL.
pub(crate) fn responses(started: u64, servfail: u64) -> ScopeResponses {
    let noerror = RESPONSES * now().saturating_sub(started);
    ScopeResponses { noerror, servfail, ..ScopeResponses::new("outside") }
}

/// Returns the answer to a probe with this query string.
pub(crate) fn probe_result(query: &str, rcode: u16, digest: &str) -> Value {
    let parameter = |name: &str| {
        let value = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    };
    let result = ProbeResult {
        name: parameter("name"),
        rtype: parameter("type"),
        instance: "cache-0".to_owned(),
        rcode,
        microseconds: 900,
        digest: digest.to_owned(),
    };
    serde_json::to_value(result).unwrap_or_default()
}

/// Returns the present time in seconds of the Unix epoch.
pub(crate) fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}
