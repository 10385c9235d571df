//! Annotations of pods: the revision that applies to a pod, the zone of its node, and for a zone resolver the number of
//! resolvers on its node, which share the packet budgets of a node.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client, ResourceExt};
use node_cache_config::names::{RESOLVERS_ON_NODE_ANNOTATION, REVISION_ANNOTATION, ZONE_ANNOTATION};
use serde_json::json;

use crate::controller::observe::nodes::Nodes;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::owned::labels;
use crate::controller::owned::telling::Telling;
use crate::controller::rollout::asks::Ask;
use crate::controller::rollout::pods::Role;
use crate::controller::rollout::situation::role_of;
use crate::error::Error;

/// Annotations to write to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodAnnotations {
    /// Namespace of the pod.
    pub(super) namespace: String,
    /// Name of the pod.
    pub(super) pod: String,
    /// UID of the pod: another pod of this name is not annotated.
    pub(super) uid: String,
    /// Version of the pod that the watch has delivered.
    pub(super) version: Option<String>,
    /// Revision for the pod; `None` where it stays as it is.
    pub(super) revision: Option<String>,
    /// Number and time of this telling of the revision.
    pub(super) told: Option<Telling>,
    /// Zone of the pod's node; `None` until the node is known.
    pub(super) zone: Option<String>,
    /// Number of the tier's resolvers on the node of a zone resolver; `None` until the node is known.
    pub(super) resolvers_on_node: Option<String>,
}

/// Returns the annotations of the pods that are to be told a revision, in the order of `asks`, then those of the pods
/// whose zone or number of resolvers on the node differs.
#[must_use]
pub(super) fn plan_annotations(pods: &[TierPod], nodes: &Nodes, asks: &[Ask], now: Timestamp) -> Vec<PodAnnotations> {
    let mut resolvers = HashMap::<&str, usize>::new();
    // One that is terminating still answers.
    let is_resolver = |pod: &&TierPod| pod.component == Component::ZoneResolver && !pod.ended;
    for node in pods.iter().filter(is_resolver).filter_map(|pod| pod.node.as_deref()) {
        *resolvers.entry(node).or_default() += 1;
    }
    let places: HashMap<(Role, &str), usize> =
        asks.iter().enumerate().map(|(place, ask)| ((ask.role, ask.pod.as_str()), place)).collect();
    let mut plan: Vec<(usize, PodAnnotations)> = pods
        .iter()
        .filter(|pod| !pod.terminating)
        .filter_map(|pod| {
            let place = places.get(&(role_of(pod), pod.name.as_str())).copied();
            let ask = place.and_then(|place| asks.get(place));
            let zone = pod.node.as_deref().and_then(|node| nodes.zone_of(node)).map(str::to_owned);
            let zone_differs = zone.is_some() && zone != pod.annotated_zone;
            let node = pod.node.as_deref().filter(|_| pod.component == Component::ZoneResolver);
            let resolvers_on_node = node.and_then(|node| resolvers.get(node)).map(usize::to_string);
            let number_differs = resolvers_on_node.is_some() && resolvers_on_node != pod.annotated_resolvers_on_node;
            (ask.is_some() || zone_differs || number_differs).then(|| {
                let annotations = PodAnnotations {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    uid: pod.uid.clone(),
                    version: pod.version.clone(),
                    revision: ask.map(|ask| ask.revision.clone()),
                    told: ask.map(|ask| Telling { number: ask.telling, time: now }),
                    zone,
                    resolvers_on_node,
                };
                (place.unwrap_or(usize::MAX), annotations)
            })
        })
        .collect();
    plan.sort_by_key(|(place, _)| *place);
    plan.into_iter().map(|(_, annotations)| annotations).collect()
}

impl PodAnnotations {
    /// Returns the annotations that are written: keys and values.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'static str, String)> {
        let Self { revision, told, zone, resolvers_on_node, .. } = self;
        let values = [
            (REVISION_ANNOTATION, revision.clone()),
            (labels::TOLD, told.as_ref().map(ToString::to_string)),
            (ZONE_ANNOTATION, zone.clone()),
            (RESOLVERS_ON_NODE_ANNOTATION, resolvers_on_node.clone()),
        ];
        values.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

/// Annotates a pod, and returns the version that it has then; `None` for one that no longer exists.
///
/// The patch is a patch of `pods/status`: this permission suffices for annotations and cannot change an image.
///
/// # Errors
///
/// When the API server refuses the patch or does not keep it.
pub(super) async fn annotate_pod(client: &Client, annotations: &PodAnnotations) -> Result<Option<String>, Error> {
    let PodAnnotations { namespace, pod: name, uid, revision, zone, .. } = annotations;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let desired: BTreeMap<&str, String> = annotations.values().collect();
    tracing::debug!(pod = name, namespace, revision, zone, "annotating a pod");
    let patch = json!({"metadata": {"uid": uid, "annotations": desired}});
    let object = || format!("Pod {namespace}/{name}");
    let pod = match pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(pod) => pod,
        Err(kube::Error::Api(status)) if is_replaced(&status) => return Ok(None),
        Err(source) => return Err(Error::request("annotate", object(), source)),
    };
    let was_kept = desired.iter().all(|(key, value)| pod.annotations().get(*key) == Some(value));
    if was_kept { Ok(pod.resource_version()) } else { Err(Error::AnnotationsDropped { object: object() }) }
}

/// Returns whether a response says that the pod no longer exists, or that another pod has its name.
fn is_replaced(status: &Status) -> bool {
    matches!(status.code, 404 | 409) || (status.code == 422 && status.message.contains("metadata.uid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::observe::nodes::Labels;
    use crate::controller::observe::pods::Component;

    fn pod(name: &str, node: Option<&str>, revision: Option<&str>, zone: Option<&str>) -> TierPod {
        TierPod {
            namespace: "dnstier-node".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            version: None,
            tier: "default".to_owned(),
            component: Component::NodeCache,
            resolver_zone: None,
            node: node.map(str::to_owned),
            scheduled: node.is_some(),
            address: None,
            metrics_port: 9353,
            ready: false,
            terminating: false,
            ended: false,
            annotated_revision: revision.map(str::to_owned),
            told: None,
            annotated_zone: zone.map(str::to_owned),
            annotated_resolvers_on_node: None,
            waiting_reason: None,
            lifecycle: Default::default(),
        }
    }

    fn nodes() -> Nodes {
        let labels: Labels = [("topology.kubernetes.io/zone".to_owned(), "zone-a".to_owned())].into();
        [("node-a", labels), ("node-b", Labels::new())].into_iter().collect()
    }

    fn ask(pod: &str, revision: &str, telling: u8) -> Ask {
        Ask { role: Role::Node, pod: pod.to_owned(), revision: revision.to_owned(), telling }
    }

    fn plan(pods: &[TierPod], asks: &[Ask]) -> Vec<PodAnnotations> {
        plan_annotations(pods, &nodes(), asks, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_new_pod_is_annotated_with_its_revision_and_its_zone() {
        let plan = plan(&[pod("new", Some("node-a"), None, None)], &[ask("new", "1a2b", 1)]);
        assert_eq!(plan.len(), 1);
        assert_eq!(plan[0].revision.as_deref(), Some("1a2b"));
        assert_eq!(plan[0].told.unwrap().to_string(), "1 2026-01-01T00:00:00Z");
        assert_eq!(plan[0].zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn a_pod_with_the_right_annotations_is_left_alone() {
        let pods = [
            pod("a", Some("node-a"), Some("1a2b"), Some("zone-a")),
            pod("b", Some("node-b"), Some("1a2b"), Some("")),
            pod("pending", None, Some("1a2b"), None),
        ];
        assert_eq!(plan(&pods, &[]), []);
    }

    #[test]
    fn a_pod_whose_node_moved_to_another_zone_is_annotated() {
        let pods = [pod("a", Some("node-a"), Some("1a2b"), Some("zone-old"))];
        let plan = plan(&pods, &[]);
        assert_eq!(plan[0].zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn pods_are_told_in_the_order_of_the_plan_and_before_all_others_are_annotated() {
        let pods = ["a", "b", "c"].map(|name| pod(name, Some("node-a"), Some("old"), None));
        let plan = plan(&pods, &[ask("c", "new", 1), ask("b", "old", 2)]);
        let told: Vec<(&str, Option<u8>)> =
            plan.iter().map(|each| (each.pod.as_str(), each.told.map(|told| told.number))).collect();
        assert_eq!(told, [("c", Some(1)), ("b", Some(2)), ("a", None)]);
    }

    #[test]
    fn a_terminating_pod_keeps_its_annotations() {
        let mut terminating = pod("a", Some("node-a"), Some("old"), Some("zone-a"));
        terminating.terminating = true;
        assert_eq!(plan(&[terminating], &[ask("a", "new", 1)]), []);
    }

    /// Returns a zone resolver on a node, with this annotation.
    fn resolver(name: &str, node: &str, resolvers_on_node: Option<&str>) -> TierPod {
        TierPod {
            component: Component::ZoneResolver,
            annotated_resolvers_on_node: resolvers_on_node.map(str::to_owned),
            ..pod(name, Some(node), Some("1a2b"), Some("zone-a"))
        }
    }

    #[test]
    fn a_resolver_is_told_how_many_are_on_its_node_terminating_ones_included_and_ended_ones_not() {
        let terminating = TierPod { terminating: true, ..resolver("terminating", "node-a", Some("1")) };
        let ended = TierPod { terminating: true, ended: true, ..resolver("ended", "node-a", Some("1")) };
        let pods = [
            resolver("new", "node-a", None),
            resolver("old", "node-a", Some("2")),
            terminating,
            ended,
            pod("node-cache", Some("node-a"), Some("1a2b"), Some("zone-a")),
        ];
        let told = |pods: &[TierPod]| -> Vec<(String, Option<String>)> {
            let plan = plan(pods, &[]);
            plan.into_iter().map(|annotations| (annotations.pod, annotations.resolvers_on_node)).collect()
        };
        let three = Some("3".to_owned());
        assert_eq!(told(&pods), [("new".to_owned(), three.clone()), ("old".to_owned(), three)]);
        assert_eq!(told(&[resolver("alone", "node-a", Some("1"))]), []);
        assert_eq!(told(&[resolver("alone", "node-a", Some("2"))]), [("alone".to_owned(), Some("1".to_owned()))]);
    }

    #[test]
    fn without_a_revision_the_zone_is_annotated_all_the_same() {
        let plan = plan(&[pod("a", Some("node-a"), None, None)], &[]);
        assert_eq!((plan[0].revision.as_deref(), plan[0].zone.as_deref()), (None, Some("zone-a")));
    }
}
