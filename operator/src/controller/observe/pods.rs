//! The pods of all tiers, cut down to what is needed of them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kube::{Resource, ResourceExt};
use node_cache_config::names::{REVISION_ANNOTATION, ZONE_ANNOTATION};

use crate::controller::owned::labels;

/// What a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// It answers the pods of a node.
    NodeCache,
    /// It answers the nodes of a zone.
    ZoneResolver,
}

/// One pod of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierPod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The tier.
    pub tier: String,
    /// What it does.
    pub component: Component,
    /// The zone whose resolver it is; none for node pods.
    pub resolver_of: Option<String>,
    /// The node that it runs on; none until it is scheduled.
    pub node: Option<String>,
    /// Where it is asked how it is; none until it has an address.
    pub address: Option<IpAddr>,
    /// Port of its `/status`.
    pub metrics_port: u16,
    /// Whether the kubelet found it ready.
    pub ready: bool,
    /// Whether it is on its way out.
    pub leaving: bool,
    /// The revision that its annotation names.
    pub revision: Option<String>,
    /// The zone that its annotation names.
    pub zone: Option<String>,
    /// Why one of its containers does not run, as the kubelet says it.
    pub waiting: Option<String>,
}

impl TierPod {
    /// Reads a pod; none when it is no pod of a tier.
    #[must_use]
    pub fn read(pod: &Pod) -> Option<Self> {
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
            resolver_of: pod.labels().get(labels::ZONE).cloned(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            metrics_port: annotations.get(labels::METRICS_PORT)?.parse().ok()?,
            ready: status.is_some_and(is_ready),
            leaving: pod.metadata.deletion_timestamp.is_some() || status.is_some_and(has_ended),
            revision: annotations.get(REVISION_ANNOTATION).cloned(),
            zone: annotations.get(ZONE_ANNOTATION).cloned(),
            waiting: status.and_then(waiting),
        })
    }
}

/// Drops everything of a pod that [`TierPod::read`] does not look at; there is one for each node.
pub fn trim(pod: &mut Pod) {
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

fn waiting(status: &PodStatus) -> Option<String> {
    status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| *reason != "ContainerCreating")?;
        Some(format!("{}: {reason}", container.name))
    })
}
