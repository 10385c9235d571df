//! Zone planning: the zones that have resolvers, from their nodes and the spec, and when a zone that is not wanted any
//! more is pruned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::controller::placement::ZoneNodes;
use crate::controller::validate::tier::Zone;

/// Zones that have resolvers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ZonePlan {
    /// Zones that have resolvers, those on their way out included, ordered by name.
    pub(super) zones: Vec<Zone>,
    /// Zones of the spec that have no node.
    pub(super) without_nodes: Vec<String>,
    /// Zones of the spec that have no resolvers because no node of theirs may run one, and all such zones when there is
    /// no other: each with the obstacles.
    pub(super) without_hosts: Vec<(String, Vec<String>)>,
    /// Time until the next zone that is not wanted may be pruned; `None` without such a zone.
    pub(super) next_prune: Option<Duration>,
}

/// A zone that has resolvers already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeployedZone {
    /// Time (RFC 3339) since which the zone is not wanted.
    pub(super) empty_since: Option<String>,
    /// Whether a resolver of the zone is ready.
    pub(super) has_ready_resolver: bool,
}

/// Plans the zones that have resolvers: those with a node on which one can be placed.
///
/// `requested` are the zones of the spec; an empty list means every zone of a node. Nodes are removed and added
/// together (a cluster scaled to zero for a night, a relabelling), and cordoned one after the other (an upgrade), so a
/// zone that has lost its last host keeps its resolvers for `prune_delay`, and for as long as one of them runs on a
/// node that was cordoned or tainted meanwhile. The last zones are never pruned for want of hosts: their resolvers wait
/// for a node.
///
/// A zone that the spec does not name any more leaves the configuration at once, and one without hosts after the delay.
/// The resolvers of either stay until the delay is over and no revision in use names the zone (`in_use`): a node that
/// is late still queries them.
#[must_use]
pub(super) fn plan_zones(
    nodes: &BTreeMap<String, ZoneNodes>,
    requested: &[String],
    deployed: &BTreeMap<String, DeployedZone>,
    in_use: &BTreeSet<String>,
    now: Timestamp,
    prune_delay: Duration,
) -> ZonePlan {
    let is_wanted = |name: &String| requested.is_empty() || requested.contains(name);
    let candidates: BTreeSet<&String> = if requested.is_empty() {
        nodes.keys().chain(deployed.keys()).collect()
    } else {
        requested.iter().chain(deployed.keys()).collect()
    };
    let mut plan = ZonePlan::default();
    let mut leaving: Vec<Zone> = Vec::new();
    let mut waiting: Vec<Zone> = Vec::new();
    let mut obstacles: Vec<(String, Vec<String>)> = Vec::new();
    for name in candidates {
        let found = nodes.get(name);
        let deployed = deployed.get(name);
        let hosts = found.map_or(0, |zone| zone.hosts);
        let has_resolver = found.is_some() && deployed.is_some_and(|zone| zone.has_ready_resolver);
        let zone = Zone { name: name.clone(), nodes: hosts, empty_since: None, leaving: false };
        if is_wanted(name) && (hosts > 0 || has_resolver) {
            plan.zones.push(zone);
            continue;
        }
        match found {
            _ if !is_wanted(name) => {}
            Some(zone) => obstacles.push((name.clone(), zone.obstacles.clone())),
            None if requested.contains(name) => plan.without_nodes.push(name.clone()),
            None => {}
        }
        let empty_since = deployed.map(|zone| {
            let since = zone.empty_since.as_ref().and_then(|time| time.parse().ok());
            since.unwrap_or(now)
        });
        let zone = Zone { empty_since: empty_since.map(|time| time.to_string()), ..zone };
        let remaining = empty_since.map_or(Duration::ZERO, |since| {
            let empty_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            prune_delay.saturating_sub(empty_for)
        });
        if !remaining.is_zero() {
            plan.next_prune = Some(plan.next_prune.map_or(remaining, |earliest: Duration| earliest.min(remaining)));
        }
        let is_kept = !remaining.is_zero() || (deployed.is_some() && in_use.contains(name));
        match (is_wanted(name), remaining.is_zero()) {
            (true, false) => plan.zones.push(zone),
            (true, true) if found.is_some() => waiting.push(zone),
            _ if is_kept => leaving.push(Zone { leaving: true, ..zone }),
            _ => {}
        }
    }
    let has_any = !plan.zones.is_empty();
    if has_any {
        waiting.retain(|zone| in_use.contains(&zone.name) && deployed.contains_key(&zone.name));
        leaving.extend(waiting.into_iter().map(|zone| Zone { leaving: true, ..zone }));
    } else {
        plan.zones = waiting;
    }
    plan.zones.extend(leaving);
    plan.zones.sort_by(|one, other| one.name.cmp(&other.name));
    plan.without_hosts = obstacles;
    plan.without_hosts.retain(|(name, _)| {
        let has_resolvers = plan.zones.iter().any(|zone| zone.name == *name && !zone.leaving);
        if has_any { requested.contains(name) && !has_resolvers } else { true }
    });
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(600);
    const MIDNIGHT: &str = "2026-01-01T00:00:00Z";

    /// Returns zones of these names, numbers of nodes and numbers of hosts.
    fn zones(zones: &[(&str, usize, usize)]) -> BTreeMap<String, ZoneNodes> {
        let zone = |(name, nodes, hosts): &(&str, usize, usize)| {
            let obstacles = (*hosts..*nodes).map(|index| format!("node-{index} (cordoned)")).collect();
            ((*name).to_owned(), ZoneNodes { nodes: *nodes, hosts: *hosts, obstacles })
        };
        zones.iter().map(zone).collect()
    }

    fn timestamp(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone_names(plan: &ZonePlan) -> Vec<&str> {
        plan.zones.iter().map(|zone| zone.name.as_str()).collect()
    }

    /// Plans with deployed zones of which no resolver is ready, each with the time since which it is empty.
    fn plan(
        nodes: &[(&str, usize, usize)],
        requested: &[&str],
        deployed: &[(&str, Option<&str>)],
        now: &str,
    ) -> ZonePlan {
        let deployed: Vec<_> = deployed.iter().map(|(zone, since)| (*zone, *since, false)).collect();
        plan_with_ready(nodes, requested, &deployed, now)
    }

    fn plan_with_ready(
        nodes: &[(&str, usize, usize)],
        requested: &[&str],
        deployed: &[(&str, Option<&str>, bool)],
        now: &str,
    ) -> ZonePlan {
        let requested: Vec<String> = requested.iter().map(|zone| (*zone).to_owned()).collect();
        let zone = |(name, since, has_ready_resolver): &(&str, Option<&str>, bool)| {
            let empty_since = since.map(str::to_owned);
            ((*name).to_owned(), DeployedZone { empty_since, has_ready_resolver: *has_ready_resolver })
        };
        let deployed = deployed.iter().map(zone).collect();
        plan_zones(&zones(nodes), &requested, &deployed, &BTreeSet::new(), timestamp(now), DELAY)
    }

    #[test]
    fn a_zone_exists_while_a_node_names_it() {
        let plan = plan(&[("a", 2, 2), ("b", 1, 1), ("", 1, 1)], &[], &[], MIDNIGHT);
        assert_eq!(zone_names(&plan), ["", "a", "b"]);
        assert_eq!(plan.zones[1].nodes, 2);
        assert_eq!(plan.next_prune, None);
    }

    #[test]
    fn a_zone_that_lost_its_last_node_or_host_stays_for_the_delay_and_then_goes() {
        for lost in [vec![("a", 1, 1)], vec![("a", 1, 1), ("b", 2, 0)]] {
            let first = plan(&lost, &[], &[("a", None), ("b", None)], MIDNIGHT);
            assert_eq!(zone_names(&first), ["a", "b"]);
            let since = first.zones[1].empty_since.as_deref();
            assert_eq!(since, Some(MIDNIGHT));
            assert_eq!(first.next_prune, Some(DELAY));
            let later = plan(&lost, &[], &[("a", None), ("b", since)], "2026-01-01T00:09:59Z");
            assert_eq!(zone_names(&later), ["a", "b"]);
            assert_eq!(later.zones[1].empty_since.as_deref(), since);
            assert_eq!(later.next_prune, Some(Duration::from_secs(1)));
            let last = plan(&lost, &[], &[("a", None), ("b", since)], "2026-01-01T00:10:00Z");
            assert_eq!(zone_names(&last), ["a"]);
        }
    }

    #[test]
    fn a_node_that_comes_back_or_is_uncordoned_stops_the_clock() {
        let plan = plan(&[("b", 1, 1)], &[], &[("b", Some(MIDNIGHT))], "2026-01-02T00:00:00Z");
        assert_eq!(plan.zones[0].empty_since, None);
    }

    #[test]
    fn a_zone_whose_nodes_were_all_cordoned_keeps_the_resolvers_that_run() {
        let nodes = [("a", 1, 1), ("b", 1, 0)];
        let long_after = "2026-03-01T00:00:00Z";
        let running = plan_with_ready(&nodes, &[], &[("a", None, true), ("b", Some(MIDNIGHT), true)], long_after);
        assert_eq!(zone_names(&running), ["a", "b"]);
        assert_eq!((running.zones[1].empty_since.as_ref(), running.next_prune), (None, None));
        let drained = plan_with_ready(&nodes, &[], &[("a", None, true), ("b", Some(MIDNIGHT), false)], long_after);
        assert_eq!(zone_names(&drained), ["a"]);
    }

    #[test]
    fn a_zone_that_lost_its_nodes_is_pruned_even_if_pods_of_it_still_run_elsewhere() {
        let plan = plan_with_ready(&[("a", 1, 1)], &[], &[("b", Some(MIDNIGHT), true)], "2026-01-02T00:00:00Z");
        assert_eq!(zone_names(&plan), ["a"]);
    }

    #[test]
    fn a_zone_in_which_no_resolver_can_be_placed_gets_none() {
        let plan = plan(&[("", 3, 0), ("a", 2, 1)], &[], &[], MIDNIGHT);
        assert_eq!(zone_names(&plan), ["a"]);
        assert_eq!((plan.zones[0].nodes, plan.without_hosts, plan.next_prune), (1, Vec::new(), None));
    }

    #[test]
    fn where_no_node_at_all_may_run_a_resolver_they_wait_for_one_and_the_obstacles_are_reported() {
        let fresh = plan(&[("", 1, 0), ("a", 2, 0)], &[], &[], MIDNIGHT);
        assert_eq!(zone_names(&fresh), ["", "a"]);
        assert_eq!(fresh.without_hosts.len(), 2);
        assert_eq!(fresh.without_hosts[0].1, ["node-0 (cordoned)"]);
        let long_after = plan(&[("a", 2, 0)], &[], &[("a", Some(MIDNIGHT))], "2026-01-02T00:00:00Z");
        assert_eq!(zone_names(&long_after), ["a"]);
        assert_eq!(long_after.zones[0].empty_since.as_deref(), Some(MIDNIGHT), "nothing is written once more");
    }

    #[test]
    fn a_zone_that_the_spec_names_without_any_node_is_reported_and_not_built() {
        let plan = plan(&[("a", 1, 1), ("b", 1, 1)], &["a", "x"], &[], MIDNIGHT);
        assert_eq!(zone_names(&plan), ["a"]);
        assert_eq!(plan.without_nodes, ["x"]);
    }

    /// Plans as [`plan`] does, while revisions in use name these zones. Returns the zones, and those on their way out.
    fn plan_in_use(requested: &[&str], since: Option<&str>, in_use: &[&str], now: &str) -> (Vec<String>, Vec<String>) {
        let requested: Vec<String> = requested.iter().map(|zone| (*zone).to_owned()).collect();
        let in_use = in_use.iter().map(|zone| (*zone).to_owned()).collect();
        let zone =
            |since: Option<&str>| DeployedZone { empty_since: since.map(str::to_owned), has_ready_resolver: true };
        let deployed = BTreeMap::from([("a".to_owned(), zone(None)), ("b".to_owned(), zone(since))]);
        let hosts = usize::from(!requested.is_empty());
        let nodes = zones(&[("a", 1, 1), ("b", hosts, hosts)]);
        let nodes = nodes.into_iter().filter(|(_, zone)| zone.nodes > 0).collect();
        let plan = plan_zones(&nodes, &requested, &deployed, &in_use, timestamp(now), DELAY);
        let (leaving, staying): (Vec<Zone>, Vec<Zone>) = plan.zones.into_iter().partition(|zone| zone.leaving);
        let names = |zones: Vec<Zone>| zones.into_iter().map(|zone| zone.name).collect();
        (names(staying), names(leaving))
    }

    #[test]
    fn a_zone_struck_from_the_spec_keeps_its_resolvers_for_the_delay_and_while_a_revision_in_use_names_it() {
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let struck = |since, in_use: &[&str], now| plan_in_use(&["a"], since, in_use, now);
        let kept = (names(&["a"]), names(&["b"]));
        let gone = (names(&["a"]), names(&[]));
        let (just_before, after) = ("2026-01-01T00:09:59Z", "2026-01-01T00:10:00Z");
        assert_eq!(struck(None, &[], MIDNIGHT), kept);
        assert_eq!(struck(Some(MIDNIGHT), &[], just_before), kept);
        assert_eq!(struck(Some(MIDNIGHT), &["a", "b"], after), kept);
        assert_eq!(struck(Some(MIDNIGHT), &["a"], after), gone);
        let renamed = plan_in_use(&["a", "b"], Some(MIDNIGHT), &["b"], after);
        assert_eq!(renamed, (names(&["a", "b"]), names(&[])), "a zone that is named again stays");
    }

    #[test]
    fn a_zone_without_nodes_leaves_the_configuration_after_the_delay_and_goes_when_no_revision_in_use_names_it() {
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let lost = |in_use: &[&str], now| plan_in_use(&[], Some(MIDNIGHT), in_use, now);
        assert_eq!(lost(&["a", "b"], "2026-01-01T00:09:59Z"), (names(&["a", "b"]), names(&[])));
        assert_eq!(lost(&["a", "b"], "2026-01-01T00:10:00Z"), (names(&["a"]), names(&["b"])));
        assert_eq!(lost(&["a"], "2026-01-01T00:10:00Z"), (names(&["a"]), names(&[])));
    }

    #[test]
    fn the_time_at_which_a_struck_zone_may_go_is_known() {
        let plan = plan(&[("a", 1, 1), ("b", 1, 1)], &["a"], &[("b", None)], MIDNIGHT);
        assert_eq!((plan.next_prune, plan.zones[1].nodes), (Some(DELAY), 1), "its Deployment is not changed otherwise");
        assert_eq!(plan.zones[1].empty_since.as_deref(), Some(MIDNIGHT));
    }

    #[test]
    fn a_zone_that_the_spec_names_without_a_host_is_reported_once_it_has_no_resolvers() {
        let nodes = [("a", 1, 1), ("b", 1, 0)];
        let reported = |deployed: &[(&str, Option<&str>)]| plan(&nodes, &["a", "b"], deployed, MIDNIGHT).without_hosts;
        assert_eq!(reported(&[]), [("b".to_owned(), vec!["node-0 (cordoned)".to_owned()])]);
        assert_eq!(reported(&[("b", None)]), [], "its resolvers may come back within the delay");
    }

    #[test]
    fn a_clock_that_went_back_keeps_the_zone() {
        let plan = plan(&[("a", 1, 1)], &[], &[("b", Some("2026-01-01T01:00:00Z"))], MIDNIGHT);
        assert_eq!(zone_names(&plan), ["a", "b"]);
    }
}
