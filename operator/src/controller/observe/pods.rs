//! The pods of all tiers, reduced to the fields that the operator reads.

use std::net::IpAddr;

use dnstier_crds::v1alpha1::NodeCache;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use node_cache_config::names::{
    RESOLVER_METRICS_PORT, RESOLVERS_ON_NODE_ANNOTATION, REVISION_ANNOTATION, ZONE_ANNOTATION,
};

use crate::controller::owned::labels;
use crate::controller::owned::telling::Telling;
use crate::controller::text::sanitize;

/// Labels with the hash of a pod's template: of the DaemonSet controller, and of the Deployment controller.
const TEMPLATE_LABELS: [&str; 2] = ["controller-revision-hash", "pod-template-hash"];
/// Number of restarts from which a container that has just started may be one that ends again and again.
const MIN_RESTARTS_OF_LOOP: i32 = 2;

/// Component of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Component {
    /// Caching resolvers of a node, for the pods of the node.
    NodeCache,
    /// Resolver of a zone, for the nodes of the zone.
    ZoneResolver,
}

/// A pod of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TierPod {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// UID.
    pub(crate) uid: String,
    /// Version of the object.
    pub(crate) version: Option<String>,
    /// Name of the tier.
    pub(crate) tier: String,
    /// Component.
    pub(crate) component: Component,
    /// Zone of a zone resolver; `None` for a node pod.
    pub(crate) resolver_zone: Option<String>,
    /// Node, also the one for which the DaemonSet controller has made a pod that is not scheduled yet; `None` for any
    /// other pod that is not scheduled.
    pub(crate) node: Option<String>,
    /// Whether the scheduler has bound the pod to its node.
    pub(crate) scheduled: bool,
    /// IP address for status polls; `None` until one is assigned.
    pub(crate) address: Option<IpAddr>,
    /// Port of `/status`.
    pub(crate) metrics_port: u16,
    /// Whether the pod has the condition `Ready`.
    pub(crate) ready: bool,
    /// Whether the pod is being deleted or has ended.
    pub(crate) terminating: bool,
    /// Whether the pod has ended.
    pub(crate) ended: bool,
    /// Revision from the pod's annotation.
    pub(crate) annotated_revision: Option<String>,
    /// How often the pod was told this revision, and when last; `None` where that is not known.
    pub(crate) told: Option<Telling>,
    /// Zone from the pod's annotation.
    pub(crate) annotated_zone: Option<String>,
    /// Number of zone resolvers on the node from the pod's annotation.
    pub(crate) annotated_resolvers_on_node: Option<String>,
    /// Container that does not run, with the kubelet's reason, such as `agent: CrashLoopBackOff`, or the reason of the
    /// scheduler.
    pub(crate) waiting_reason: Option<String>,
    /// Template and times of the pod.
    pub(crate) lifecycle: PodLifecycle,
}

/// Template of a pod, and what it did since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodLifecycle {
    /// Hash of the pod template, from the label of the DaemonSet controller or of the Deployment.
    pub(crate) template: Option<String>,
    /// Time at which the pod was made.
    pub(crate) created: Option<Timestamp>,
    /// Time since which the pod is not ready; `None` while it is ready, and before the kubelet has seen it.
    pub(crate) unready_since: Option<Timestamp>,
    /// Whether all containers run.
    pub(crate) running: bool,
    /// Time of the last start of a container that has ended twice and more.
    pub(crate) restarted: Option<Timestamp>,
    /// Number of restarts of all containers.
    pub(crate) restarts: u32,
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
            version: pod.resource_version(),
            tier: pod.labels().get(labels::INSTANCE)?.clone(),
            component,
            resolver_zone: pod.labels().get(labels::ZONE).cloned(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone().or_else(|| intended_node(spec))),
            scheduled: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
            address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            metrics_port: metrics_port(pod, component),
            ready: status.is_some_and(is_ready),
            terminating: pod.metadata.deletion_timestamp.is_some() || status.is_some_and(has_ended),
            ended: status.is_some_and(has_ended),
            annotated_revision: annotations.get(REVISION_ANNOTATION).cloned(),
            told: annotations.get(labels::TOLD).and_then(|text| Telling::parse(text)),
            annotated_zone: annotations.get(ZONE_ANNOTATION).cloned(),
            annotated_resolvers_on_node: annotations.get(RESOLVERS_ON_NODE_ANNOTATION).cloned(),
            waiting_reason: status.and_then(|status| waiting_reason(status).or_else(|| unscheduled_reason(status))),
            lifecycle: PodLifecycle::from_pod(pod),
        })
    }
}

impl PodLifecycle {
    fn from_pod(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let running_since = |container: &ContainerStatus| {
            let running = container.state.as_ref()?.running.as_ref()?;
            running.started_at.as_ref().map(|time| time.0)
        };
        let is_running =
            |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
        let looping = containers.iter().filter(|container| container.restart_count >= MIN_RESTARTS_OF_LOOP);
        let ready = status.and_then(|status| {
            status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == "Ready" && condition.status != "True")
        });
        Self {
            template: TEMPLATE_LABELS.iter().find_map(|label| pod.labels().get(*label)).cloned(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            unready_since: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            running: !containers.is_empty() && containers.iter().all(is_running),
            restarted: looping.filter_map(running_since).max(),
            restarts: containers.iter().filter_map(|container| u32::try_from(container.restart_count).ok()).sum(),
        }
    }
}

/// Drops the fields of a pod that [`TierPod::from_pod`] does not read: there is one pod for each node. The annotation
/// gets the port of the containers, which are dropped.
pub(crate) fn trim_pod(pod: &mut Pod) {
    if let Some(port) = pod.spec.as_ref().and_then(port_in_spec) {
        pod.annotations_mut().insert(labels::METRICS_PORT.to_owned(), port.to_string());
    }
    pod.meta_mut().managed_fields = None;
    pod.meta_mut().owner_references = None;
    let spec = pod.spec.take().unwrap_or_default();
    let affinity = if spec.node_name.is_none() { spec.affinity } else { None };
    pod.spec = Some(PodSpec { node_name: spec.node_name, affinity, ..PodSpec::default() });
    let status = pod.status.take().unwrap_or_default();
    pod.status = Some(PodStatus {
        pod_ip: status.pod_ip,
        phase: status.phase,
        conditions: status.conditions,
        container_statuses: status.container_statuses,
        ..PodStatus::default()
    });
}

/// Returns the port of a pod's `/status`. That of its containers cannot be changed; the annotation counts for a pod
/// without containers, such as a trimmed one.
pub(super) fn metrics_port(pod: &Pod, component: Component) -> u16 {
    let annotated = || pod.annotations().get(labels::METRICS_PORT)?.parse().ok();
    let port = pod.spec.as_ref().and_then(port_in_spec).or_else(annotated);
    port.unwrap_or_else(|| match component {
        Component::NodeCache => NodeCache::default().metrics_port,
        Component::ZoneResolver => RESOLVER_METRICS_PORT,
    })
}

/// Returns the port of `/status` of the containers: an argument of a node's agent, a port of a zone resolver.
fn port_in_spec(spec: &PodSpec) -> Option<u16> {
    spec.containers.iter().find_map(|container| match container.name.as_str() {
        "agent" => {
            let mut args = container.args.iter().flatten();
            args.find(|arg| *arg == "--metrics-port")?;
            args.next()?.parse().ok()
        }
        "zone-resolver" => {
            let mut ports = container.ports.iter().flatten();
            let port = ports.find(|port| port.name.as_deref() == Some("metrics"))?;
            port.container_port.try_into().ok()
        }
        _ => None,
    })
}

/// Returns the node for which the DaemonSet controller has made a pod: the affinity requires the name of the node.
fn intended_node(spec: &PodSpec) -> Option<String> {
    let nodes = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &nodes.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let field = term.match_fields.iter().flatten().find(|field| field.key == "metadata.name")?;
    match field.values.as_deref() {
        Some([name]) => Some(name.clone()),
        _ => None,
    }
}

/// Returns why the scheduler cannot place a pod.
fn unscheduled_reason(status: &PodStatus) -> Option<String> {
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = unscheduled.message.as_deref().unwrap_or("no node has room");
    // What follows tells about preemption.
    Some(format!("not scheduled: {}", sanitize(message.split(". ").next().unwrap_or(message))))
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

fn waiting_reason(status: &PodStatus) -> Option<String> {
    status.container_statuses.iter().flatten().find_map(|container| {
        let state = container.state.as_ref()?;
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
        let ended = state.terminated.as_ref().and_then(|terminated| terminated.reason.as_deref());
        let reason = waiting.filter(|reason| *reason != "ContainerCreating").or(ended)?;
        Some(format!("{}: {}", container.name, sanitize(reason)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::serving;
    use k8s_openapi::api::core::v1::PodTemplateSpec;
    use serde_json::json;

    /// Returns a pod that the DaemonSet controller has made for `node-x`, and that the scheduler cannot place.
    fn unscheduled() -> Pod {
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["node-x"]});
        serde_json::from_value(json!({
            "metadata": {
                "name": "pod-1", "namespace": "dnstier-node", "uid": "1",
                "labels": {labels::INSTANCE: "default", labels::COMPONENT: labels::COMPONENT_NODE_CACHE},
                "annotations": {labels::METRICS_PORT: "9353"},
            },
            "spec": {"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]},
            }}},
            "status": {"phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/4 nodes are available: 1 Insufficient memory. preemption: 0/4 nodes are available: x.",
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_pod_that_waits_for_its_node_is_known_by_the_node_and_the_reason() {
        let mut pod = unscheduled();
        for _ in 0..2 {
            let waiting = TierPod::from_pod(&pod).unwrap();
            assert_eq!((waiting.node.as_deref(), waiting.scheduled), (Some("node-x"), false));
            let reason = waiting.waiting_reason.unwrap();
            assert_eq!(reason, "not scheduled: 0/4 nodes are available: 1 Insufficient memory");
            trim_pod(&mut pod);
        }
    }

    #[test]
    fn the_template_and_the_times_of_a_pod_are_read_before_and_after_it_is_trimmed() {
        let started = json!({"running": {"startedAt": "2026-01-01T00:03:00Z"}});
        let container = |name: &str, restarts: u32, state: &serde_json::Value| {
            let fixed = json!({"ready": false, "image": "", "imageID": ""});
            let mut container = json!({"name": name, "restartCount": restarts, "state": state});
            container.as_object_mut().unwrap().extend(fixed.as_object().unwrap().clone());
            container
        };
        let mut pod = unscheduled();
        pod.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        pod.labels_mut().insert("controller-revision-hash".to_owned(), "1a2b".to_owned());
        pod.status = Some(
            serde_json::from_value(json!({
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:01:00Z"}],
                "containerStatuses": [container("agent", 1, &started), container("cache-0", 3, &started)],
            }))
            .unwrap(),
        );
        let time = |text: &str| Some(text.parse().unwrap());
        let expected = PodLifecycle {
            template: Some("1a2b".to_owned()),
            created: time("2026-01-01T00:00:00Z"),
            unready_since: time("2026-01-01T00:01:00Z"),
            running: true,
            restarted: time("2026-01-01T00:03:00Z"),
            restarts: 4,
        };
        for _ in 0..2 {
            assert_eq!(TierPod::from_pod(&pod).unwrap().lifecycle, expected);
            trim_pod(&mut pod);
        }
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        pod.status.as_mut().unwrap().container_statuses =
            Some(vec![serde_json::from_value(container("cache-0", 3, &ended)).unwrap()]);
        let ended = TierPod::from_pod(&pod).unwrap();
        assert_eq!((ended.waiting_reason.as_deref(), ended.lifecycle.running), (Some("cache-0: Error"), false));
    }

    /// Returns a pod of a template whose annotation of the port was replaced, or removed with `None`.
    fn pod_of(template: &PodTemplateSpec, annotated: Option<&str>) -> Pod {
        let mut metadata = template.metadata.clone().unwrap();
        (metadata.namespace, metadata.uid) = (Some("dnstier-node".to_owned()), Some("1".to_owned()));
        let annotations = metadata.annotations.get_or_insert_default();
        match annotated {
            Some(text) => annotations.insert(labels::METRICS_PORT.to_owned(), text.to_owned()),
            None => annotations.remove(labels::METRICS_PORT),
        };
        Pod { metadata, spec: template.spec.clone(), status: None }
    }

    #[test]
    fn a_pod_keeps_its_port_whatever_becomes_of_its_annotation() {
        let owned = serving("{nodeCache: {metricsPort: 9400}}").owned;
        let node_pod = &owned.daemon_sets[0].spec.as_ref().unwrap().template;
        let resolver = &owned.deployments[0].spec.as_ref().unwrap().template;
        for (template, port) in [(node_pod, 9400), (resolver, 9153)] {
            for annotated in [None, Some(""), Some("none"), Some("-1"), Some("99999"), Some("9401")] {
                let mut pod = pod_of(template, annotated);
                for _ in 0..2 {
                    assert_eq!(TierPod::from_pod(&pod).unwrap().metrics_port, port, "{annotated:?}");
                    trim_pod(&mut pod);
                }
            }
        }
    }

    #[test]
    fn a_pod_of_which_nothing_tells_the_port_has_that_of_its_component() {
        for (component, port) in [(labels::COMPONENT_NODE_CACHE, 9353), (labels::COMPONENT_ZONE_RESOLVER, 9153)] {
            let mut pod = unscheduled();
            pod.annotations_mut().clear();
            pod.labels_mut().insert(labels::COMPONENT.to_owned(), component.to_owned());
            assert_eq!(TierPod::from_pod(&pod).unwrap().metrics_port, port);
        }
    }

    #[test]
    fn a_pod_with_an_affinity_to_more_than_one_node_has_none_yet() {
        let mut pod = unscheduled();
        let affinity = pod.spec.as_mut().unwrap().affinity.as_mut().unwrap().node_affinity.as_mut().unwrap();
        let required = affinity.required_during_scheduling_ignored_during_execution.as_mut().unwrap();
        let term = required.node_selector_terms[0].clone();
        required.node_selector_terms.push(term);
        assert_eq!(TierPod::from_pod(&pod).unwrap().node, None);
    }
}
