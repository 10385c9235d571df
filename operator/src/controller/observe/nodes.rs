//! The Nodes of the cluster, reduced to their labels, of which one names the zone.

use std::collections::{BTreeMap, HashMap};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use node_cache_config::names::ZONE_LABEL;

/// Metadata of a Node: no spec or status is needed, since the labels name the zone.
pub(crate) type NodeMeta = PartialObjectMeta<Node>;

type Labels = BTreeMap<String, String>;

/// Labels of all Nodes by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes(BTreeMap<String, Labels>);

impl Nodes {
    /// Returns the zone of a node: empty for a node without the label, `None` for an unknown node.
    #[must_use]
    pub(crate) fn zone_of(&self, node: &str) -> Option<&str> {
        self.0.get(node).map(zone_label)
    }

    /// Returns the number of nodes of each zone.
    #[must_use]
    pub(crate) fn nodes_per_zone(&self) -> BTreeMap<String, usize> {
        let mut zones = BTreeMap::new();
        for labels in self.0.values() {
            *zones.entry(zone_label(labels).to_owned()).or_default() += 1;
        }
        zones
    }

    /// Returns the number of nodes of a zone that match a node selector.
    #[must_use]
    pub(crate) fn count_matching(&self, zone: &str, selector: &Labels) -> usize {
        let matches = |labels: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        self.0.values().filter(|labels| zone_label(labels) == zone && matches(labels)).count()
    }
}

impl<S: Into<String>> FromIterator<(S, Labels)> for Nodes {
    fn from_iter<I: IntoIterator<Item = (S, Labels)>>(nodes: I) -> Self {
        Self(nodes.into_iter().map(|(name, labels)| (name.into(), labels)).collect())
    }
}

fn zone_label(labels: &Labels) -> &str {
    labels.get(ZONE_LABEL).map_or("", String::as_str)
}

/// Filters the events of a watch: an item for each Node that is added, removed or relabelled, and none for the
/// heartbeats in between.
pub(crate) fn label_changes(
    events: impl Stream<Item = Result<watcher::Event<NodeMeta>, watcher::Error>>,
) -> impl Stream<Item = ()> {
    let mut known: HashMap<String, Labels> = HashMap::new();
    events.filter_map(move |event| {
        let changed = match event {
            Ok(watcher::Event::Apply(node)) => {
                let labels = node.labels().clone();
                known.insert(node.name_any(), labels.clone()) != Some(labels)
            }
            Ok(watcher::Event::Delete(node)) => known.remove(&node.name_any()).is_some(),
            Ok(watcher::Event::InitDone) => true,
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) | Err(_) => false,
        };
        async move { changed.then_some(()) }
    })
}

/// Drops the metadata of a Node that the operator does not read.
pub(crate) fn trim_node(node: &mut NodeMeta) {
    let meta = node.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
}
