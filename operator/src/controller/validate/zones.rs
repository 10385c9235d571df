//! Zone planning: the zones that have resolvers, from the labels of the Nodes, and when an empty zone is pruned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::controller::observe::nodes::Nodes;
use crate::controller::validate::tier::Zone;

/// Zones that have resolvers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ZonePlan {
    /// Zones that have resolvers, ordered by name.
    pub(super) zones: Vec<Zone>,
    /// Zones of the spec that have no node.
    pub(super) without_nodes: Vec<String>,
    /// Time until the next empty zone is pruned; `None` without an empty zone.
    pub(super) next_prune: Option<Duration>,
}

/// Plans the zones that have resolvers.
///
/// `requested` are the zones of the spec; an empty list means every zone of a node. `deployed` are the zones that have
/// resolvers, with the time (RFC 3339) since which they have no node. Nodes are removed and added together (a cluster
/// scaled to zero for a night, a relabelling), so a zone without nodes keeps its resolvers for `prune_delay`.
#[must_use]
pub(super) fn plan_zones(
    nodes: &Nodes,
    requested: &[String],
    selector: &BTreeMap<String, String>,
    deployed: &BTreeMap<String, Option<String>>,
    now: Timestamp,
    prune_delay: Duration,
) -> ZonePlan {
    let nodes_per_zone = nodes.nodes_per_zone();
    let candidates: BTreeSet<&String> = if requested.is_empty() {
        nodes_per_zone.keys().chain(deployed.keys()).collect()
    } else {
        requested.iter().collect()
    };
    let mut plan = ZonePlan::default();
    for name in candidates {
        if nodes_per_zone.contains_key(name) {
            let nodes = nodes.count_matching(name, selector);
            plan.zones.push(Zone { name: name.clone(), nodes, empty_since: None });
            continue;
        }
        if requested.contains(name) {
            plan.without_nodes.push(name.clone());
        }
        let Some(empty_since) = deployed.get(name) else { continue };
        let empty_since = empty_since.as_ref().and_then(|time| time.parse().ok()).unwrap_or(now);
        let empty_for = Duration::try_from(now.duration_since(empty_since)).unwrap_or_default();
        let remaining = prune_delay.saturating_sub(empty_for);
        if remaining.is_zero() {
            continue;
        }
        plan.next_prune = Some(plan.next_prune.map_or(remaining, |earliest: Duration| earliest.min(remaining)));
        plan.zones.push(Zone { name: name.clone(), nodes: 0, empty_since: Some(empty_since.to_string()) });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_cache_config::names::ZONE_LABEL;

    type Labels = BTreeMap<String, String>;

    const DELAY: Duration = Duration::from_secs(600);

    fn nodes(zone_by_node: &[(&str, Option<&str>)]) -> Nodes {
        let labels = |zone: &str| Labels::from([(ZONE_LABEL.to_owned(), zone.to_owned())]);
        zone_by_node.iter().map(|(name, zone)| (*name, zone.map(labels).unwrap_or_default())).collect()
    }

    fn timestamp(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone_names(plan: &ZonePlan) -> Vec<&str> {
        plan.zones.iter().map(|zone| zone.name.as_str()).collect()
    }

    fn plan(nodes: &Nodes, requested: &[&str], deployed: &[(&str, Option<&str>)], now: &str) -> ZonePlan {
        let requested: Vec<String> = requested.iter().map(|zone| (*zone).to_owned()).collect();
        let deployed = deployed.iter().map(|(zone, since)| ((*zone).to_owned(), since.map(str::to_owned))).collect();
        plan_zones(nodes, &requested, &Labels::new(), &deployed, timestamp(now), DELAY)
    }

    #[test]
    fn a_zone_exists_while_a_node_names_it() {
        let nodes = nodes(&[("node-a", Some("a")), ("node-b", Some("b")), ("node-c", Some("a")), ("node-d", None)]);
        let plan = plan(&nodes, &[], &[], "2026-01-01T00:00:00Z");
        assert_eq!(zone_names(&plan), ["", "a", "b"]);
        assert_eq!(plan.zones[1].nodes, 2);
        assert_eq!(plan.next_prune, None);
    }

    #[test]
    fn a_zone_that_lost_its_last_node_stays_for_the_delay_and_then_goes() {
        let nodes = nodes(&[("node-a", Some("a"))]);
        let first = plan(&nodes, &[], &[("a", None), ("b", None)], "2026-01-01T00:00:00Z");
        assert_eq!(zone_names(&first), ["a", "b"]);
        let since = first.zones[1].empty_since.as_deref();
        assert_eq!(since, Some("2026-01-01T00:00:00Z"));
        assert_eq!(first.next_prune, Some(DELAY));
        let later = plan(&nodes, &[], &[("a", None), ("b", since)], "2026-01-01T00:09:59Z");
        assert_eq!(zone_names(&later), ["a", "b"]);
        assert_eq!(later.zones[1].empty_since.as_deref(), since);
        assert_eq!(later.next_prune, Some(Duration::from_secs(1)));
        let last = plan(&nodes, &[], &[("a", None), ("b", since)], "2026-01-01T00:10:00Z");
        assert_eq!(zone_names(&last), ["a"]);
    }

    #[test]
    fn a_node_that_comes_back_stops_the_clock() {
        let nodes = nodes(&[("node-b", Some("b"))]);
        let plan = plan(&nodes, &[], &[("b", Some("2026-01-01T00:00:00Z"))], "2026-01-02T00:00:00Z");
        assert_eq!(plan.zones[0].empty_since, None);
    }

    #[test]
    fn a_zone_that_the_spec_names_without_any_node_is_reported_and_not_built() {
        let nodes = nodes(&[("node-a", Some("a")), ("node-b", Some("b"))]);
        let plan = plan(&nodes, &["a", "x"], &[("b", None)], "2026-01-01T00:00:00Z");
        assert_eq!(zone_names(&plan), ["a"]);
        assert_eq!(plan.without_nodes, ["x"]);
    }

    #[test]
    fn only_nodes_that_may_run_the_resolvers_are_counted_for_their_spread() {
        let mut labels = Labels::from([(ZONE_LABEL.to_owned(), "a".to_owned())]);
        let plain = labels.clone();
        labels.insert("dns".to_owned(), "yes".to_owned());
        let nodes: Nodes = [("node-a", labels), ("node-b", plain)].into_iter().collect();
        let selector = Labels::from([("dns".to_owned(), "yes".to_owned())]);
        let now = timestamp("2026-01-01T00:00:00Z");
        let plan = plan_zones(&nodes, &[], &selector, &BTreeMap::new(), now, DELAY);
        assert_eq!(plan.zones[0].nodes, 1);
    }

    #[test]
    fn a_clock_that_went_back_keeps_the_zone() {
        let nodes = nodes(&[("node-a", Some("a"))]);
        let plan = plan(&nodes, &[], &[("b", Some("2026-01-01T01:00:00Z"))], "2026-01-01T00:00:00Z");
        assert_eq!(zone_names(&plan), ["a", "b"]);
    }
}
