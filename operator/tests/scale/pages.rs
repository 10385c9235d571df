//! Pages of pods whose data plane is played by a test: `/status` and `/probe`.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::jiff::Timestamp;
use node_cache_config::figures::{CAPABILITIES, Figures, ScopeResponses};
use node_cache_config::probes::ProbeResult;
use node_cache_config::status::{CaptureState, CapturedAddress, Instance, NodeStatus, ResolverStatus, Revision};
use serde_json::Value;

/// Responses of a pod in a second.
const RESPONSES: u64 = 50;

/// Contents of the status page of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// UID of the pod.
    pub(crate) pod_uid: String,
    /// Name of its node.
    pub(crate) node: String,
    /// Zone that it was told.
    pub(crate) zone: Option<String>,
    /// Whether it is a zone resolver.
    pub(crate) is_resolver: bool,
    /// Revision that it is asked to run.
    pub(crate) asked: Option<String>,
    /// Revision that it runs.
    pub(crate) in_force: Option<String>,
    /// Start of its processes, in seconds of the Unix epoch.
    pub(crate) started: u64,
}

impl Page {
    /// Returns the page in JSON.
    pub(crate) fn to_json(&self) -> Value {
        let Self { started, .. } = *self;
        let revision = Revision { in_force: self.in_force.clone(), asked: self.asked.clone(), refusal: None };
        let (pod_uid, node, zone) = (self.pod_uid.clone(), self.node.clone(), self.zone.clone());
        let instance = |name: &str| Instance {
            name: name.to_owned(),
            alive: true,
            revision: revision.clone(),
            started: Some(started),
            ..Instance::default()
        };
        let noerror = RESPONSES * now().saturating_sub(started);
        let responses = vec![ScopeResponses { noerror, ..ScopeResponses::new("outside") }];
        let figures = Figures { responses, ..Figures::default() };
        let capabilities = CAPABILITIES.map(str::to_owned).to_vec();
        let page = if self.is_resolver {
            let instance = instance("zone-resolver");
            let status = ResolverStatus { pod_uid, node, zone, ready: true, instance, figures, capabilities };
            serde_json::to_value(status)
        } else {
            let captured = CapturedAddress {
                address: IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)),
                state: CaptureState::Captured,
                reason: None,
            };
            let instances = vec![instance("cache-0")];
            let captured = vec![captured];
            let status = NodeStatus {
                pod_uid,
                node,
                zone,
                revision,
                captured,
                instances,
                figures,
                capabilities,
                ..NodeStatus::default()
            };
            serde_json::to_value(status)
        };
        page.unwrap_or_default()
    }
}

/// Returns the present time in seconds of the Unix epoch.
pub(crate) fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}

/// Returns the answer to a probe, the same from every pod.
pub(crate) fn probe_result(query: &str) -> Value {
    let parameter = |name: &str| {
        let value = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    };
    let result = ProbeResult {
        name: parameter("name"),
        rtype: parameter("type"),
        instance: "cache-0".to_owned(),
        rcode: 0,
        microseconds: 900,
        digest: "right".to_owned(),
    };
    serde_json::to_value(result).unwrap_or_default()
}
