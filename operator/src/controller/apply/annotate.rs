//! Tells pods, by annotations, which revision applies to them and which zone they are in.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client, ResourceExt};
use node_cache_config::names::{REVISION_ANNOTATION, ZONE_ANNOTATION};
use serde_json::json;

use crate::controller::observe::pods::TierPod;
use crate::controller::validate::zones::Nodes;
use crate::error::Error;

/// How many pods are annotated at a time.
const AT_ONCE: usize = 16;

/// What a pod is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod: another one of this name is told nothing.
    pub uid: String,
    /// The revision that applies; none while there is none.
    pub revision: Option<String>,
    /// The zone of its node; none while that is not known.
    pub zone: Option<String>,
}

/// Which pods have to be told something that they were not told yet.
#[must_use]
pub fn plan(pods: &[TierPod], nodes: &Nodes, revision: Option<&str>) -> Vec<Annotation> {
    pods.iter()
        .filter(|pod| !pod.leaving)
        .filter_map(|pod| {
            let zone = pod.node.as_deref().and_then(|node| nodes.zone_of(node)).map(str::to_owned);
            let revision = revision.map(str::to_owned);
            let news = (revision.is_some() && revision != pod.revision) || (zone.is_some() && zone != pod.zone);
            news.then(|| Annotation {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                revision,
                zone,
            })
        })
        .collect()
}

/// Tells the pods.
///
/// The patch goes to `pods/status`: that permission suffices for annotations and cannot change an image.
///
/// # Errors
///
/// The first failure, after all pods were tried. A pod that is gone by now is none.
pub async fn annotate(client: &Client, annotations: Vec<Annotation>) -> Result<(), Error> {
    let results: Vec<Result<(), Error>> =
        stream::iter(annotations).map(|annotation| one(client, annotation)).buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().collect()
}

async fn one(client: &Client, annotation: Annotation) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &annotation.namespace);
    let mut annotations = serde_json::Map::new();
    for (key, value) in [(REVISION_ANNOTATION, &annotation.revision), (ZONE_ANNOTATION, &annotation.zone)] {
        if let Some(value) = value {
            annotations.insert(key.to_owned(), json!(value));
        }
    }
    let patch = json!({"metadata": {"uid": annotation.uid, "annotations": annotations}});
    let what = || format!("Pod {}/{}", annotation.namespace, annotation.pod);
    let pod = match pods.patch_status(&annotation.pod, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(pod) => pod,
        Err(kube::Error::Api(status)) if is_another(&status) => return Ok(()),
        Err(source) => return Err(Error::refused("annotate", what(), source)),
    };
    let sticks =
        annotations.iter().all(|(key, value)| pod.annotations().get(key).map(String::as_str) == value.as_str());
    if sticks { Ok(()) } else { Err(Error::NotKept { what: what() }) }
}

/// Whether the pod is gone, or another one has its name by now.
fn is_another(status: &Status) -> bool {
    matches!(status.code, 404 | 409) || (status.code == 422 && status.message.contains("metadata.uid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::observe::pods::Component;

    fn pod(name: &str, node: Option<&str>, revision: Option<&str>, zone: Option<&str>) -> TierPod {
        TierPod {
            namespace: "dnstier-node".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            tier: "default".to_owned(),
            component: Component::NodeCache,
            resolver_of: None,
            node: node.map(str::to_owned),
            address: None,
            metrics_port: 9353,
            ready: false,
            leaving: false,
            revision: revision.map(str::to_owned),
            zone: zone.map(str::to_owned),
            waiting: None,
        }
    }

    fn nodes() -> Nodes {
        let labels = [("topology.kubernetes.io/zone".to_owned(), "zone-a".to_owned())].into();
        [("node-a", labels), ("node-b", Default::default())].into_iter().collect()
    }

    #[test]
    fn a_new_pod_is_told_its_revision_and_its_zone() {
        let told = plan(&[pod("new", Some("node-a"), None, None)], &nodes(), Some("1a2b"));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].revision.as_deref(), Some("1a2b"));
        assert_eq!(told[0].zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn a_pod_that_knows_is_left_alone() {
        let pods = [
            pod("a", Some("node-a"), Some("1a2b"), Some("zone-a")),
            pod("b", Some("node-b"), Some("1a2b"), Some("")),
            pod("pending", None, Some("1a2b"), None),
        ];
        assert_eq!(plan(&pods, &nodes(), Some("1a2b")), []);
    }

    #[test]
    fn a_node_that_moved_to_another_zone_is_told() {
        let told = plan(&[pod("a", Some("node-a"), Some("1a2b"), Some("zone-old"))], &nodes(), Some("1a2b"));
        assert_eq!(told[0].zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn a_pod_that_leaves_keeps_what_it_runs() {
        let mut leaving = pod("a", Some("node-a"), Some("old"), Some("zone-a"));
        leaving.leaving = true;
        assert_eq!(plan(&[leaving], &nodes(), Some("new")), []);
    }

    #[test]
    fn without_a_revision_the_zone_is_told_all_the_same() {
        let told = plan(&[pod("a", Some("node-a"), None, None)], &nodes(), None);
        assert_eq!((told[0].revision.as_deref(), told[0].zone.as_deref()), (None, Some("zone-a")));
    }
}
