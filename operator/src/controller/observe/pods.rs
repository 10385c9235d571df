//! The pods of all tiers, reduced to the fields that the operator reads.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kube::{Resource, ResourceExt};
use node_cache_config::names::{REVISION_ANNOTATION, ZONE_ANNOTATION};

use crate::controller::owned::labels;

/// Component of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    /// Caching resolvers of a node, for the pods of the node.
    NodeCache,
    /// Resolver of a zone, for the nodes of the zone.
    ZoneResolver,
}

/// A pod of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TierPod {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// UID.
    pub(crate) uid: String,
    /// Name of the tier.
    pub(crate) tier: String,
    /// Component.
    pub(crate) component: Component,
    /// Zone of a zone resolver; `None` for a node pod.
    pub(crate) resolver_zone: Option<String>,
    /// Node; `None` until the pod is scheduled.
    pub(crate) node: Option<String>,
    /// IP address for status polls; `None` until one is assigned.
    pub(crate) address: Option<IpAddr>,
    /// Port of `/status`.
    pub(crate) metrics_port: u16,
    /// Whether the pod has the condition `Ready`.
    pub(crate) ready: bool,
    /// Whether the pod is being deleted or has ended.
    pub(crate) terminating: bool,
    /// Revision from the pod's annotation.
    pub(crate) annotated_revision: Option<String>,
    /// Zone from the pod's annotation.
    pub(crate) annotated_zone: Option<String>,
    /// Container that does not run, with the kubelet's reason, such as `agent: CrashLoopBackOff`.
    pub(crate) waiting_reason: Option<String>,
}

impl TierPod {
    /// Reads a pod; `None` for a pod that is of no tier.
    #[must_use]
    pub(crate) fn from_pod(pod: &Pod) -> Option<Self> {
        let component = match pod.labels().get(labels::COMPONENT)?.as_str() {
            labels::COMPONENT_NODE_CACHE => Component::NodeCache,
            labels::COMPONENT_ZONE_RESOLVER => Component::ZoneResolver,
            _ => return None,
        };
        let status = pod.status.as_ref();
        let annotations = pod.annotations();
        Some(Self {
            namespace: pod.namespace()?,
            name: pod.name_any(),
            uid: pod.uid()?,
            tier: pod.labels().get(labels::INSTANCE)?.clone(),
            component,
            resolver_zone: pod.labels().get(labels::ZONE).cloned(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            metrics_port: annotations.get(labels::METRICS_PORT)?.parse().ok()?,
            ready: status.is_some_and(is_ready),
            terminating: pod.metadata.deletion_timestamp.is_some() || status.is_some_and(has_ended),
            annotated_revision: annotations.get(REVISION_ANNOTATION).cloned(),
            annotated_zone: annotations.get(ZONE_ANNOTATION).cloned(),
            waiting_reason: status.and_then(waiting_reason),
        })
    }
}

/// Drops the fields of a pod that [`TierPod::from_pod`] does not read: there is one pod for each node.
pub(crate) fn trim_pod(pod: &mut Pod) {
    pod.meta_mut().managed_fields = None;
    pod.meta_mut().owner_references = None;
    let node_name = pod.spec.take().and_then(|spec| spec.node_name);
    pod.spec = Some(PodSpec { node_name, ..PodSpec::default() });
    let status = pod.status.take().unwrap_or_default();
    pod.status = Some(PodStatus {
        pod_ip: status.pod_ip,
        phase: status.phase,
        conditions: status.conditions,
        container_statuses: status.container_statuses,
        ..PodStatus::default()
    });
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

fn waiting_reason(status: &PodStatus) -> Option<String> {
    status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| *reason != "ContainerCreating")?;
        Some(format!("{}: {reason}", container.name))
    })
}
