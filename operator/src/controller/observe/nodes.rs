//! The Nodes of the cluster, reduced to what decides which pods they run and which pods count: labels, taints, cordon,
//! readiness and age.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher;

use crate::controller::observe::known_objects::KnownObjects;
use kube::{Resource, ResourceExt};
use node_cache_config::names::ZONE_LABEL;

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// Condition of a Node that tells whether its kubelet reports.
const READY: &str = "Ready";

/// A Node, reduced to what decides which pods it runs and whether they count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClusterNode {
    /// Labels.
    pub(crate) labels: Labels,
    /// Taints as `key=value:effect` in their parts.
    pub(crate) taints: Vec<NodeTaint>,
    /// Whether the node is cordoned: no pod is placed there, but those that run stay.
    pub(crate) cordoned: bool,
    /// Whether the node is there: its condition `Ready` is neither `False` nor `Unknown`.
    pub(crate) ready: bool,
    /// Time at which the Node was made; `None` where that is not known.
    pub(crate) created: Option<Timestamp>,
}

/// A taint of a Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeTaint {
    /// Key.
    pub(crate) key: String,
    /// Value; empty without one.
    pub(crate) value: String,
    /// Effect, such as `NoSchedule`.
    pub(crate) effect: String,
}

impl ClusterNode {
    /// Returns the zone of the node; empty without the label.
    #[must_use]
    pub(crate) fn zone(&self) -> &str {
        self.labels.get(ZONE_LABEL).map_or("", String::as_str)
    }
}

impl From<&Node> for ClusterNode {
    fn from(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        Self {
            labels: node.labels().clone(),
            taints: spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().map(NodeTaint::from).collect(),
            cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            ready: ready_condition(node).is_none_or(|condition| condition.status == "True"),
            created: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }
}

impl From<Labels> for ClusterNode {
    fn from(labels: Labels) -> Self {
        Self { labels, taints: Vec::new(), cordoned: false, ready: true, created: None }
    }
}

impl From<&Taint> for NodeTaint {
    fn from(taint: &Taint) -> Self {
        Self { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default(), effect: taint.effect.clone() }
    }
}

/// All Nodes by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes(BTreeMap<String, ClusterNode>);

impl Nodes {
    /// Returns the zone of a node: empty for a node without the label, `None` for an unknown node.
    #[must_use]
    pub(crate) fn zone_of(&self, node: &str) -> Option<&str> {
        self.0.get(node).map(ClusterNode::zone)
    }

    /// Returns a node with its name.
    #[must_use]
    pub(crate) fn get(&self, node: &str) -> Option<(&str, &ClusterNode)> {
        self.0.get_key_value(node).map(|(name, node)| (name.as_str(), node))
    }

    /// Returns whether a Node of this name exists.
    #[must_use]
    pub(crate) fn has(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }

    /// Returns whether a node exists and is not ready.
    #[must_use]
    pub(crate) fn is_away(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|node| !node.ready)
    }

    /// Returns the nodes, ordered by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &ClusterNode)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }
}

impl<S: Into<String>, N: Into<ClusterNode>> FromIterator<(S, N)> for Nodes {
    fn from_iter<I: IntoIterator<Item = (S, N)>>(nodes: I) -> Self {
        Self(nodes.into_iter().map(|(name, node)| (name.into(), node.into())).collect())
    }
}

/// Returns the condition `Ready` of a Node.
fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == READY)
}

/// Returns whether a Node is not ready.
pub(crate) fn is_away(node: &Node) -> bool {
    ready_condition(node).is_some_and(|condition| condition.status != "True")
}

/// Nodes that a watch has delivered, by name.
#[derive(Debug, Default)]
struct KnownNodes {
    nodes: KnownObjects<()>,
    /// Whether the list under way has a Node that differs from the one that was known.
    is_list_new: bool,
}

impl KnownNodes {
    /// Records an event and returns whether it is a change. A list is one at its end: the first, and each that differs
    /// from what was known.
    fn record(&mut self, event: &watcher::Event<Node>) -> bool {
        match event {
            watcher::Event::Apply(node) => self.record_node(node),
            watcher::Event::Delete(node) => self.nodes.remove(&node.name_any()).is_some(),
            watcher::Event::Init => {
                self.nodes.begin_list();
                false
            }
            watcher::Event::InitApply(node) => {
                let is_new = self.record_node(node);
                self.is_list_new |= is_new;
                false
            }
            watcher::Event::InitDone => {
                let is_any_gone = !self.nodes.end_list().is_empty();
                std::mem::take(&mut self.is_list_new) || is_any_gone || self.nodes.is_first_list()
            }
        }
    }

    fn record_node(&mut self, node: &Node) -> bool {
        self.nodes.record(node.name_any(), (), &ClusterNode::from(node))
    }
}

/// Filters the events of a watch: an item for each Node that is added, removed, relabelled, tainted or cordoned, and
/// for each that goes away or returns, and none for the heartbeats in between.
pub(crate) fn placement_changes(
    events: impl Stream<Item = Result<watcher::Event<Node>, watcher::Error>>,
) -> impl Stream<Item = ()> {
    let mut known = KnownNodes::default();
    events.filter_map(move |event| {
        let is_change = event.is_ok_and(|event| known.record(&event));
        async move { is_change.then_some(()) }
    })
}

/// Drops the fields of a Node that [`ClusterNode`] does not have: its status is large, with a line for each image.
pub(crate) fn trim_node(node: &mut Node) {
    let ready = ready_condition(node).map(|condition| NodeCondition {
        type_: READY.to_owned(),
        status: condition.status.clone(),
        ..NodeCondition::default()
    });
    let meta = node.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
    let spec = node.spec.take().unwrap_or_default();
    node.spec = Some(NodeSpec { taints: spec.taints, unschedulable: spec.unschedulable, ..NodeSpec::default() });
    node.status = ready.map(|ready| NodeStatus { conditions: Some(vec![ready]), ..NodeStatus::default() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn node(change: impl FnOnce(&mut NodeSpec)) -> Node {
        let mut node = Node { spec: Some(NodeSpec::default()), ..Node::default() };
        node.meta_mut().name = Some("node-a".to_owned());
        node.meta_mut().annotations = Some(BTreeMap::from([("heartbeat".to_owned(), "1".to_owned())]));
        change(node.spec.get_or_insert_default());
        node
    }

    fn cordoned() -> Node {
        node(|spec| spec.unschedulable = Some(true))
    }

    fn tainted() -> Node {
        let taint = Taint { key: "dedicated".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        node(|spec| spec.taints = Some(vec![taint]))
    }

    /// Returns a node with this status of the condition `Ready`, and another condition.
    fn with_ready(status: &str) -> Node {
        let condition = |type_: &str, status: &str| NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            message: Some("a message that changes".to_owned()),
            ..NodeCondition::default()
        };
        let conditions = vec![condition("MemoryPressure", "False"), condition("Ready", status)];
        let status = NodeStatus { conditions: Some(conditions), ..NodeStatus::default() };
        Node { status: Some(status), ..node(|_| {}) }
    }

    #[test]
    fn a_node_is_away_while_its_kubelet_does_not_say_that_it_is_ready() {
        for (node, away) in [
            (node(|_| {}), false),
            (with_ready("True"), false),
            (with_ready("False"), true),
            (with_ready("Unknown"), true),
        ] {
            let nodes: Nodes = [("node-a", ClusterNode::from(&node))].into_iter().collect();
            assert_eq!((nodes.is_away("node-a"), nodes.is_away("node-b")), (away, false), "{node:?}");
            assert_eq!((is_away(&node), ClusterNode::from(&node).ready), (away, !away), "{node:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_goes_away_or_returns_is_a_change() {
        let apply = |status: &str| Ok(watcher::Event::Apply(with_ready(status)));
        let events = stream::iter(["True", "True", "Unknown", "False", "True"].map(apply));
        assert_eq!(placement_changes(events).collect::<Vec<()>>().await.len(), 3);
    }

    #[tokio::test]
    async fn a_cordon_and_a_taint_are_changes_and_a_heartbeat_is_none() {
        let apply = |node: Node| Ok(watcher::Event::Apply(node));
        for (second, expected) in [(node(|_| {}), 1), (cordoned(), 2), (tainted(), 2)] {
            let events = stream::iter([apply(node(|_| {})), apply(second)]);
            assert_eq!(placement_changes(events).collect::<Vec<()>>().await.len(), expected);
        }
    }

    /// Returns the events of a list.
    fn list(nodes: &[Node]) -> Vec<watcher::Event<Node>> {
        let nodes = nodes.iter().cloned().map(watcher::Event::InitApply);
        [watcher::Event::Init].into_iter().chain(nodes).chain([watcher::Event::InitDone]).collect()
    }

    async fn changes(events: Vec<watcher::Event<Node>>) -> usize {
        placement_changes(stream::iter(events.into_iter().map(Ok))).count().await
    }

    #[tokio::test]
    async fn a_list_is_one_change_and_the_first_heartbeat_after_it_is_none() {
        let named = |name: &str, mut node: Node| {
            node.meta_mut().name = Some(name.to_owned());
            node
        };
        let nodes = [with_ready("True"), named("node-b", with_ready("True"))];
        assert_eq!(changes(list(&[])).await, 1);
        assert_eq!(changes(list(&nodes)).await, 1);
        let heartbeats = nodes.iter().cloned().map(watcher::Event::Apply).collect();
        assert_eq!(changes([list(&nodes), heartbeats].concat()).await, 1);
    }

    #[tokio::test]
    async fn a_new_list_is_a_change_when_something_happened_in_between_that_no_event_told() {
        let first = [with_ready("True")];
        let changes_after = async |then: Vec<watcher::Event<Node>>| changes([list(&first), then].concat()).await - 1;
        assert_eq!(changes_after(list(&first)).await, 0);
        assert_eq!(changes_after(list(&[with_ready("Unknown")])).await, 1);
        assert_eq!(changes_after(list(&[cordoned()])).await, 1);
        assert_eq!(changes_after(list(&[])).await, 1, "it is gone");
        let returns = [list(&[]), vec![watcher::Event::Apply(with_ready("True"))]].concat();
        assert_eq!(changes_after(returns).await, 2);
        // A list that is broken off and begun again.
        let broken = vec![watcher::Event::Init, watcher::Event::InitApply(with_ready("Unknown"))];
        assert_eq!(changes_after([broken, list(&[with_ready("Unknown")])].concat()).await, 1);
    }

    #[test]
    fn a_trimmed_node_still_has_what_decides_its_pods() {
        let created = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut old = node(|_| {});
        old.meta_mut().creation_timestamp = Some(Time(created));
        assert_eq!(ClusterNode::from(&old).created, Some(created));
        for node in [cordoned(), tainted(), with_ready("Unknown"), old] {
            let mut trimmed = node.clone();
            trim_node(&mut trimmed);
            assert_eq!(ClusterNode::from(&trimmed), ClusterNode::from(&node));
            assert_eq!(trimmed.meta().annotations, None);
            assert!(!format!("{trimmed:?}").contains("a message that changes"));
        }
    }
}
