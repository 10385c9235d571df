//! Pods that are polled, read from the pods of the watch without copies: all are read each second.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use node_cache_config::names::REVISION_ANNOTATION;

use crate::controller::observe::pods::{self, Component};
use crate::controller::observe::poll::report::PodReport;
use crate::controller::observe::poll::schedule::{Class, Standing};
use crate::controller::owned::labels;

/// Pod that has an address and is not being deleted.
pub(super) struct Target<'a> {
    pub(super) uid: &'a str,
    pub(super) tier: &'a str,
    pub(super) component: Component,
    pub(super) node: Option<&'a str>,
    pub(super) address: SocketAddr,
    revision: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads a pod; `None` for one that is of no tier, has no address, or is being deleted or has ended.
    pub(super) fn of(pod: &'a Pod) -> Option<Self> {
        let component = match pod.labels().get(labels::COMPONENT)?.as_str() {
            labels::COMPONENT_NODE_CACHE => Component::NodeCache,
            labels::COMPONENT_ZONE_RESOLVER => Component::ZoneResolver,
            _ => return None,
        };
        let status = pod.status.as_ref()?;
        let has_ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        if has_ended || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let port = pods::metrics_port(pod, component);
        Some(Self {
            uid: pod.metadata.uid.as_deref()?,
            tier: pod.labels().get(labels::INSTANCE)?,
            component,
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()),
            address: SocketAddr::new(status.pod_ip.as_ref()?.parse().ok()?, port),
            revision: pod.annotations().get(REVISION_ANNOTATION).map(String::as_str),
        })
    }

    /// Returns what decides how often the pod is polled. A pod of which nothing is known counts as behind. `role` is
    /// that in a roll-out.
    pub(super) fn standing(&self, report: Option<&PodReport>, role: Option<Class>) -> Standing {
        let status = report.and_then(|report| report.last_status.as_ref());
        let is_behind = match (status, self.revision) {
            (Some(status), Some(revision)) => !status.has_in_force(revision),
            (status, _) => status.is_none(),
        };
        let is_compared = role == Some(Class::Control);
        let role = role.unwrap_or(match self.component {
            Component::NodeCache => Class::Rotation,
            Component::ZoneResolver => Class::Control,
        });
        let mut hasher = DefaultHasher::new();
        self.revision.hash(&mut hasher);
        Standing { role, is_compared, is_behind, asked: hasher.finish() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::observe::pods::TierPod;
    use serde_json::json;

    fn pod(component: &str, phase: &str, address: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "pod-1", "namespace": "dnstier-node", "uid": "1",
                "labels": {labels::INSTANCE: "default", labels::COMPONENT: component},
                "annotations": {labels::METRICS_PORT: "9353", REVISION_ANNOTATION: "new"},
            },
            "spec": {"containers": [], "nodeName": "node-a"},
            "status": {"phase": phase, "podIP": address},
        }))
        .unwrap()
    }

    #[test]
    fn a_target_is_the_pod_that_reconciliations_read() {
        for component in [labels::COMPONENT_NODE_CACHE, labels::COMPONENT_ZONE_RESOLVER] {
            let pod = pod(component, "Running", "192.0.2.1");
            let (target, read) = (Target::of(&pod).unwrap(), TierPod::from_pod(&pod).unwrap());
            assert_eq!((target.uid, target.component, target.node), (&*read.uid, read.component, read.node.as_deref()));
            assert_eq!(target.tier, read.tier);
            assert_eq!(target.address, SocketAddr::new(read.address.unwrap(), read.metrics_port));
            assert_eq!(target.revision, read.annotated_revision.as_deref());
        }
        for (component, phase, address) in [
            ("other", "Running", "192.0.2.1"),
            (labels::COMPONENT_NODE_CACHE, "Failed", "192.0.2.1"),
            (labels::COMPONENT_NODE_CACHE, "Running", ""),
        ] {
            assert!(Target::of(&pod(component, phase, address)).is_none(), "{component} {phase} {address}");
        }
        let mut unannotated = pod(labels::COMPONENT_NODE_CACHE, "Running", "192.0.2.1");
        unannotated.annotations_mut().clear();
        assert_eq!(Target::of(&unannotated).unwrap().address.port(), 9353);
        let mut deleted = pod(labels::COMPONENT_NODE_CACHE, "Running", "192.0.2.1");
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(Target::of(&deleted).is_none());
    }

    #[test]
    fn a_pod_is_behind_until_it_has_answered_with_the_revision_of_its_annotation() {
        let pod = pod(labels::COMPONENT_ZONE_RESOLVER, "Running", "192.0.2.1");
        let target = Target::of(&pod).unwrap();
        let standing = target.standing(None, None);
        assert_eq!((standing.role, standing.is_behind), (Class::Control, true));
        assert!(target.standing(Some(&PodReport::default()), None).is_behind);
        assert_eq!(target.standing(None, Some(Class::Canary)).role, Class::Canary);
    }

    #[test]
    fn a_resolver_is_compared_with_canaries_when_it_has_that_role_and_not_at_rest() {
        let pod = pod(labels::COMPONENT_ZONE_RESOLVER, "Running", "192.0.2.1");
        let target = Target::of(&pod).unwrap();
        for (role, is_compared) in [(None, false), (Some(Class::Control), true), (Some(Class::Canary), false)] {
            assert_eq!(target.standing(None, role).is_compared, is_compared, "{role:?}");
        }
    }
}
