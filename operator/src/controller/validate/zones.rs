//! The zones, as the labels of the Nodes name them, and when one of them is gone for good.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use node_cache_config::names::ZONE_LABEL;

use crate::controller::validate::tier::Zone;

/// A Node without its spec and status: its labels say everything that is needed here.
pub type NodeMeta = PartialObjectMeta<Node>;

type Labels = BTreeMap<String, String>;

/// The labels of all Nodes by name.
#[derive(Clone, Debug, Default)]
pub struct Nodes(BTreeMap<String, Labels>);

impl Nodes {
    /// The zone of a node: empty when it has no such label, none when there is no such node.
    #[must_use]
    pub fn zone_of(&self, node: &str) -> Option<&str> {
        self.0.get(node).map(zone)
    }

    /// How many nodes each zone has.
    #[must_use]
    pub fn zones(&self) -> BTreeMap<String, usize> {
        let mut zones = BTreeMap::new();
        for labels in self.0.values() {
            *zones.entry(zone(labels).to_owned()).or_default() += 1;
        }
        zones
    }

    fn matching(&self, zone_name: &str, selector: &Labels) -> usize {
        let carries = |labels: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        self.0.values().filter(|labels| zone(labels) == zone_name && carries(labels)).count()
    }
}

impl<S: Into<String>> FromIterator<(S, Labels)> for Nodes {
    fn from_iter<I: IntoIterator<Item = (S, Labels)>>(nodes: I) -> Self {
        Self(nodes.into_iter().map(|(name, labels)| (name.into(), labels)).collect())
    }
}

fn zone(labels: &Labels) -> &str {
    labels.get(ZONE_LABEL).map_or("", String::as_str)
}

/// Which zones have resolvers now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The zones that have resolvers, ordered by name.
    pub zones: Vec<Zone>,
    /// Zones that the spec names and no node is in.
    pub without_nodes: Vec<String>,
    /// When the next zone is given up, if no node comes to it.
    pub next_prune: Option<Duration>,
}

/// Decides which zones have resolvers.
///
/// `wanted` is what the spec names, where nothing means every zone of a node. `standing` are the zones that have
/// resolvers, with the time since when no node names them. Nodes come and go together (a cluster scaled to nothing for
/// a night, a relabelling), so a zone without nodes stays for `delay`.
#[must_use]
pub fn plan(
    nodes: &Nodes,
    wanted: &[String],
    selector: &BTreeMap<String, String>,
    standing: &BTreeMap<String, Option<String>>,
    now: Timestamp,
    delay: Duration,
) -> Plan {
    let inhabited = nodes.zones();
    let candidates: BTreeSet<&String> =
        if wanted.is_empty() { inhabited.keys().chain(standing.keys()).collect() } else { wanted.iter().collect() };
    let mut plan = Plan::default();
    for name in candidates {
        if inhabited.contains_key(name) {
            plan.zones.push(Zone { name: name.clone(), nodes: nodes.matching(name, selector), empty_since: None });
            continue;
        }
        if wanted.contains(name) {
            plan.without_nodes.push(name.clone());
        }
        let Some(since) = standing.get(name) else { continue };
        let since = since.as_ref().and_then(|text| text.parse().ok()).unwrap_or(now);
        let empty_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let Some(left) = delay.checked_sub(empty_for).filter(|left| !left.is_zero()) else { continue };
        plan.next_prune = Some(plan.next_prune.map_or(left, |other: Duration| other.min(left)));
        plan.zones.push(Zone { name: name.clone(), nodes: 0, empty_since: Some(since.to_string()) });
    }
    plan
}

/// Emits whenever a node comes, goes or changes its labels, and not at the heartbeats between.
pub fn label_changes(
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

/// Drops everything of a Node's metadata that nobody here reads.
pub fn trim(node: &mut NodeMeta) {
    let meta = node.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(600);

    fn nodes(of: &[(&str, Option<&str>)]) -> Nodes {
        let labels = |zone: &str| Labels::from([(ZONE_LABEL.to_owned(), zone.to_owned())]);
        of.iter().map(|(name, zone)| (*name, zone.map(labels).unwrap_or_default())).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn names_of(plan: &Plan) -> Vec<&str> {
        plan.zones.iter().map(|zone| zone.name.as_str()).collect()
    }

    fn planned(nodes: &Nodes, wanted: &[&str], standing: &[(&str, Option<&str>)], now: &str) -> Plan {
        let wanted: Vec<String> = wanted.iter().map(|zone| (*zone).to_owned()).collect();
        let standing = standing.iter().map(|(zone, since)| ((*zone).to_owned(), since.map(str::to_owned))).collect();
        plan(nodes, &wanted, &Labels::new(), &standing, at(now), DELAY)
    }

    #[test]
    fn a_zone_exists_while_a_node_names_it() {
        let nodes = nodes(&[("node-a", Some("a")), ("node-b", Some("b")), ("node-c", Some("a")), ("node-d", None)]);
        let plan = planned(&nodes, &[], &[], "2026-01-01T00:00:00Z");
        assert_eq!(names_of(&plan), ["", "a", "b"]);
        assert_eq!(plan.zones[1].nodes, 2);
        assert_eq!(plan.next_prune, None);
    }

    #[test]
    fn a_zone_that_lost_its_last_node_stays_for_the_delay_and_then_goes() {
        let nodes = nodes(&[("node-a", Some("a"))]);
        let first = planned(&nodes, &[], &[("a", None), ("b", None)], "2026-01-01T00:00:00Z");
        assert_eq!(names_of(&first), ["a", "b"]);
        let since = first.zones[1].empty_since.as_deref();
        assert_eq!(since, Some("2026-01-01T00:00:00Z"));
        assert_eq!(first.next_prune, Some(DELAY));
        let later = planned(&nodes, &[], &[("a", None), ("b", since)], "2026-01-01T00:09:59Z");
        assert_eq!(names_of(&later), ["a", "b"]);
        assert_eq!(later.zones[1].empty_since.as_deref(), since);
        assert_eq!(later.next_prune, Some(Duration::from_secs(1)));
        let last = planned(&nodes, &[], &[("a", None), ("b", since)], "2026-01-01T00:10:00Z");
        assert_eq!(names_of(&last), ["a"]);
    }

    #[test]
    fn a_node_that_comes_back_stops_the_clock() {
        let nodes = nodes(&[("node-b", Some("b"))]);
        let plan = planned(&nodes, &[], &[("b", Some("2026-01-01T00:00:00Z"))], "2026-01-02T00:00:00Z");
        assert_eq!(plan.zones[0].empty_since, None);
    }

    #[test]
    fn a_zone_that_the_spec_names_without_any_node_is_said_and_not_built() {
        let nodes = nodes(&[("node-a", Some("a")), ("node-b", Some("b"))]);
        let plan = planned(&nodes, &["a", "x"], &[("b", None)], "2026-01-01T00:00:00Z");
        assert_eq!(names_of(&plan), ["a"]);
        assert_eq!(plan.without_nodes, ["x"]);
    }

    #[test]
    fn only_nodes_that_may_run_the_resolvers_are_counted_for_their_spread() {
        let mut labels = Labels::from([(ZONE_LABEL.to_owned(), "a".to_owned())]);
        let plain = labels.clone();
        labels.insert("dns".to_owned(), "yes".to_owned());
        let nodes: Nodes = [("node-a", labels), ("node-b", plain)].into_iter().collect();
        let selector = Labels::from([("dns".to_owned(), "yes".to_owned())]);
        let plan = plan(&nodes, &[], &selector, &BTreeMap::new(), at("2026-01-01T00:00:00Z"), DELAY);
        assert_eq!(plan.zones[0].nodes, 1);
    }

    #[test]
    fn a_clock_that_went_back_keeps_the_zone() {
        let nodes = nodes(&[("node-a", Some("a"))]);
        let plan = planned(&nodes, &[], &[("b", Some("2026-01-01T01:00:00Z"))], "2026-01-01T00:00:00Z");
        assert_eq!(names_of(&plan), ["a", "b"]);
    }
}
