//! Rollout of pod templates: which pods have the newest template, which nodes are not waited for, and which pods should
//! run by now.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::controller::observe::Observed;
use crate::controller::observe::nodes::ClusterNode;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::owned::{labels, names};
use crate::controller::placement::{Placement, TemplatePlacement};
use crate::settings::Settings;

/// Time after which a pod of the newest template that does not run is a problem of the template or of its node.
pub(crate) const START_DEADLINE: SignedDuration = SignedDuration::from_mins(5);
/// Time for which a container runs before it is believed, once it has ended again and again.
const LOOP_PERIOD: SignedDuration = SignedDuration::from_mins(1);

/// The node pods of a tier and their DaemonSet.
pub(crate) struct NodePods<'a> {
    /// Pods that count: not terminating, and on nodes that are there.
    pub(crate) present: Vec<&'a TierPod>,
    /// Number of nodes that should run a pod, those away included.
    pub(crate) desired: u32,
    /// Number of nodes that should run a pod and are away.
    pub(crate) away: u32,
    /// Number of those away that the DaemonSet controller does not count, because of their taints.
    uncounted: u32,
    /// Number of present pods with the newest template.
    pub(crate) updated: u32,
    /// Whether the DaemonSet controller has not seen the newest template yet.
    pub(crate) is_behind: bool,
    /// Placement while nodes leave. Meanwhile pods keep their templates, so that none is older than it should be.
    held: Option<TemplatePlacement<'a>>,
    newest: Option<&'a str>,
}

impl<'a> NodePods<'a> {
    /// Collects the node pods of a tier; `None` before there is a DaemonSet.
    #[must_use]
    pub(crate) fn collect(observed: &'a Observed, settings: &Settings) -> Option<Self> {
        let name = names::node_cache(&observed.tier.name_any());
        let daemon_set = observed.owned.daemon_set(&settings.node_namespace, &name)?;
        let status = daemon_set.status.clone().unwrap_or_default();
        // The DaemonSet controller does not look again when the node goes for which a pod has waited.
        let is_orphan =
            |pod: &&TierPod| !pod.scheduled && pod.node.as_ref().is_some_and(|node| !observed.nodes.has(node));
        let (orphans, pods): (Vec<&TierPod>, Vec<&TierPod>) =
            pods_of(observed, Component::NodeCache).partition(is_orphan);
        let counted = non_negative(status.desired_number_scheduled).saturating_sub(to_count(orphans.len()));
        let held = held_placement(daemon_set);
        let placement = Placement::of_node_pods(&observed.tier.spec.node_cache.pod, settings);
        let is_placed = |name: &str, node: &ClusterNode| match &held {
            Some(held) => held.admits(name, node),
            None => placement.exclusion(name, node).is_none(),
        };
        let away = || observed.nodes.iter().filter(|(name, node)| !node.ready && is_placed(name, node));
        let uncounted: BTreeSet<&str> = match template_placement(daemon_set) {
            Some(template) => {
                away().filter(|(name, node)| !template.counts(name, node)).map(|(name, _)| name).collect()
            }
            None => BTreeSet::new(),
        };
        let placed = observed.nodes.iter().filter(|(name, node)| is_placed(name, node)).count();
        // The controller may not have seen the taints of a node yet.
        let desired = (counted + to_count(uncounted.len())).min(counted.max(to_count(placed)));
        let away = to_count(away().count()).min(desired);
        let expected = desired - away;
        let counted_as_updated = non_negative(status.updated_number_scheduled.unwrap_or_default());
        let is_counted = |pod: &&&TierPod| pod.node.as_deref().is_none_or(|node| !uncounted.contains(node));
        let newest = newest_template(&pods.iter().filter(is_counted).copied().collect::<Vec<_>>(), counted_as_updated);
        let present: Vec<&TierPod> = pods.into_iter().filter(|pod| !is_away(observed, pod)).collect();
        let updated = match newest {
            _ if held.is_some() || counted_as_updated >= counted => expected,
            Some(newest) => to_count(present.iter().filter(|pod| has_template(pod, newest)).count()),
            None => counted_as_updated,
        };
        let is_behind = is_behind(daemon_set) && held.is_none();
        let (updated, uncounted) = (updated.min(expected), to_count(uncounted.len()));
        Some(Self { present, desired, away, uncounted, updated, is_behind, held, newest })
    }

    /// Returns the number of nodes that should run a pod and are there.
    #[must_use]
    pub(crate) fn expected(&self) -> u32 {
        self.desired - self.away
    }

    /// Returns whether a node has a pod although the spec excludes it: it has not left yet.
    #[must_use]
    pub(crate) fn is_staying(&self, name: &str, node: &ClusterNode) -> bool {
        self.held.as_ref().is_some_and(|held| held.keeps(name, node))
    }

    /// Returns the number of nodes that may be without a ready pod in a rollout: one, and those that are away while
    /// the rollout goes on, as far as the DaemonSet controller counts them. Half of the nodes are the most: more that
    /// are away at a time are a failure of the cluster, after which they return together.
    #[must_use]
    pub(crate) fn max_unavailable(&self) -> i32 {
        let counted = self.away.saturating_sub(self.uncounted);
        let away = if self.updated < self.expected() { counted.min(self.desired / 2) } else { 0 };
        i32::try_from(away).unwrap_or(i32::MAX - 1) + 1
    }
}

/// The pods that do not run and should, or will have to soon.
#[derive(Default)]
pub(crate) struct PodStarts<'a> {
    /// Pods of the newest template that do not run, [`START_DEADLINE`] after they were made.
    pub(crate) overdue: Vec<&'a TierPod>,
    /// Whether a pod of the newest template runs in a rollout and is not ready for [`START_DEADLINE`].
    pub(crate) is_any_late: bool,
    /// Time until the next pod is overdue or late; `None` while none is waited for.
    pub(crate) next: Option<Duration>,
}

impl<'a> PodStarts<'a> {
    /// Collects the pods of a tier that do not run. Pods on nodes that are away do not count.
    #[must_use]
    pub(crate) fn collect(observed: &'a Observed, settings: &Settings) -> Self {
        let mut starts = Self::default();
        if let Some(nodes) = NodePods::collect(observed, settings) {
            let is_rolling_out = nodes.updated < nodes.expected();
            let is_newest =
                |pod: &TierPod| nodes.held.is_some() || nodes.newest.is_some_and(|newest| has_template(pod, newest));
            starts.add(&nodes.present, is_newest, is_rolling_out, observed.now);
        }
        for deployment in &observed.owned.deployments {
            let zone = deployment.labels().get(labels::ZONE);
            if zone.is_some_and(|zone| is_zone_away(observed, settings, zone)) {
                continue;
            }
            let pods: Vec<&TierPod> = pods_of(observed, Component::ZoneResolver)
                .filter(|pod| pod.resolver_zone.as_ref() == zone && !is_away(observed, pod))
                .collect();
            let newest = newest_template(&pods, updated_replicas(deployment));
            let is_newest = |pod: &TierPod| newest.is_some_and(|newest| has_template(pod, newest));
            starts.add(&pods, is_newest, is_rolling_out(deployment), observed.now);
        }
        starts
    }

    fn add(
        &mut self,
        pods: &[&'a TierPod],
        is_newest: impl Fn(&TierPod) -> bool,
        is_rolling_out: bool,
        now: Timestamp,
    ) {
        for pod in pods.iter().filter(|pod| is_newest(pod)) {
            let until_overdue = remaining(pod, is_rolling_out, now);
            let until_late = remaining_unready(pod, now).filter(|_| is_rolling_out && until_overdue.is_none());
            if until_overdue == Some(Duration::ZERO) {
                self.overdue.push(pod);
            }
            self.is_any_late |= until_late == Some(Duration::ZERO);
            let next = until_overdue.or(until_late).filter(|remaining| !remaining.is_zero());
            self.next = self.next.into_iter().chain(next).min();
        }
    }
}

/// Returns the time until a pod that does not run is overdue; `None` for a pod that runs, and outside of a rollout for
/// one that once was ready later than its deadline: it is no problem of its template.
fn remaining(pod: &TierPod, is_rolling_out: bool, now: Timestamp) -> Option<Duration> {
    let lifecycle = &pod.lifecycle;
    let is_looping = lifecycle.restarted.is_some_and(|restarted| now.duration_since(restarted) < LOOP_PERIOD);
    if lifecycle.running && !is_looping {
        return None;
    }
    let created = lifecycle.created?;
    let was_ready = lifecycle.unready_since.is_some_and(|since| since.duration_since(created) > START_DEADLINE);
    if was_ready && !is_rolling_out {
        return None;
    }
    Some(Duration::try_from(START_DEADLINE - now.duration_since(created)).unwrap_or_default())
}

/// Returns the time until a pod that is not ready is late; `None` for a pod that is ready.
fn remaining_unready(pod: &TierPod, now: Timestamp) -> Option<Duration> {
    let since = pod.lifecycle.unready_since.max(pod.lifecycle.created).filter(|_| !pod.ready)?;
    Some(Duration::try_from(START_DEADLINE - now.duration_since(since)).unwrap_or_default())
}

/// Returns the newest template of a workload: the one that as many pods have as the workload counts as updated. When
/// there are several, it is that of the youngest pod.
fn newest_template<'a>(pods: &[&'a TierPod], updated: u32) -> Option<&'a str> {
    let mut pods: Vec<&TierPod> = pods.to_vec();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.lifecycle.created));
    let templates = pods.iter().filter_map(|pod| pod.lifecycle.template.as_deref());
    let has_count =
        |template: &&str| to_count(pods.iter().filter(|pod| has_template(pod, template)).count()) == updated;
    let mut distinct: Vec<&str> = Vec::new();
    for template in templates {
        if !distinct.contains(&template) {
            distinct.push(template);
        }
    }
    distinct.into_iter().find(has_count)
}

fn has_template(pod: &TierPod, template: &str) -> bool {
    pod.lifecycle.template.as_deref() == Some(template)
}

/// Returns whether a pod is on a node that is away.
#[must_use]
pub(crate) fn is_away(observed: &Observed, pod: &TierPod) -> bool {
    pod.node.as_deref().is_some_and(|node| observed.nodes.is_away(node))
}

/// Returns whether all nodes of a zone that may run a resolver are away: the zone has neither clients nor room.
#[must_use]
pub(crate) fn is_zone_away(observed: &Observed, settings: &Settings, zone: &str) -> bool {
    let placement = Placement::of_resolvers(&observed.tier.spec.resolvers.pod, settings);
    let is_of_zone = |name: &str, node: &ClusterNode| node.zone() == zone && placement.exclusion(name, node).is_none();
    let mut nodes = observed.nodes.iter().filter(|(name, node)| is_of_zone(name, node)).peekable();
    nodes.peek().is_some() && nodes.all(|(_, node)| !node.ready)
}

/// Returns the pods of a component that are not terminating.
pub(crate) fn pods_of(observed: &Observed, component: Component) -> impl Iterator<Item = &TierPod> {
    observed.pods.iter().filter(move |pod| pod.component == component && !pod.terminating)
}

/// Returns whether a Deployment is in a rollout, or has not seen its newest template yet.
#[must_use]
pub(crate) fn is_rolling_out(deployment: &Deployment) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    status.observed_generation < deployment.metadata.generation
        || updated_replicas(deployment) < non_negative(desired)
        || status.replicas.unwrap_or_default() > desired
}

fn updated_replicas(deployment: &Deployment) -> u32 {
    non_negative(deployment.status.as_ref().and_then(|status| status.updated_replicas).unwrap_or_default())
}

/// Returns the placement of a DaemonSet whose pods keep their templates until they are deleted, because nodes leave.
fn held_placement(daemon_set: &DaemonSet) -> Option<TemplatePlacement<'_>> {
    let spec = daemon_set.spec.as_ref()?;
    let is_held = spec.update_strategy.as_ref()?.type_.as_deref() == Some("OnDelete");
    template_placement(daemon_set).filter(|_| is_held)
}

/// Returns the placement by the template of a DaemonSet.
fn template_placement(daemon_set: &DaemonSet) -> Option<TemplatePlacement<'_>> {
    daemon_set.spec.as_ref()?.template.spec.as_ref().map(TemplatePlacement::of)
}

/// Returns whether the controller has not observed the newest template of a DaemonSet yet.
fn is_behind(daemon_set: &DaemonSet) -> bool {
    let observed_generation = daemon_set.status.as_ref().and_then(|status| status.observed_generation);
    observed_generation < daemon_set.metadata.generation
}

/// Converts a count to the type of the status, saturating.
#[must_use]
pub(crate) fn to_count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Converts a count of the API, which is never negative.
#[must_use]
pub(crate) fn non_negative(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{pod_of, roll_out_template, serving, set_away, settings};
    use crate::controller::observe::nodes::NodeTaint;
    use crate::controller::observe::pods::PodLifecycle;

    fn node_pods(observed: &Observed) -> NodePods<'_> {
        NodePods::collect(observed, &settings()).unwrap()
    }

    #[test]
    fn a_rollout_allows_for_the_nodes_that_are_away_and_for_no_more_than_half_of_all() {
        let mut observed = serving("{}");
        roll_out_template(&mut observed, &["node-pod-b"]);
        assert_eq!(node_pods(&observed).max_unavailable(), 1);
        set_away(&mut observed, &["node-a"]);
        assert_eq!(node_pods(&observed).max_unavailable(), 2);
        set_away(&mut observed, &["node-a", "node-b"]);
        assert_eq!(node_pods(&observed).max_unavailable(), 2);
    }

    #[test]
    fn a_node_that_is_away_and_not_counted_for_its_taints_is_subtracted_once() {
        for (spec, counted) in [("{nodeCache: {tolerations: []}}", 2), ("{}", 3)] {
            let mut observed = serving(spec);
            set_away(&mut observed, &["node-a"]);
            let taint = |effect: &str| NodeTaint {
                key: "node.kubernetes.io/unreachable".to_owned(),
                value: String::new(),
                effect: effect.to_owned(),
            };
            let nodes = observed.nodes.iter().map(|(name, node)| {
                let taints = if node.ready { vec![] } else { vec![taint("NoSchedule"), taint("NoExecute")] };
                (name.to_owned(), ClusterNode { taints, ..node.clone() })
            });
            observed.nodes = nodes.collect();
            assert_eq!(node_pods(&observed).expected(), 2, "{spec}: the controller has not seen the taints yet");
            let status = observed.owned.daemon_sets[0].status.as_mut().unwrap();
            (status.desired_number_scheduled, status.updated_number_scheduled) = (counted, Some(counted));
            let pods = node_pods(&observed);
            assert_eq!((pods.desired, pods.away, pods.expected(), pods.updated), (3, 1, 2, 2), "{spec}");
            roll_out_template(&mut observed, &["node-pod-b"]);
            let pods = node_pods(&observed);
            assert_eq!((pods.updated, pods.max_unavailable()), (1, counted - 1), "{spec}");
        }
    }

    #[test]
    fn a_node_that_is_away_changes_no_daemon_set_that_rolls_nothing_out() {
        let mut observed = serving("{}");
        set_away(&mut observed, &["node-a"]);
        assert_eq!(node_pods(&observed).max_unavailable(), 1);
        roll_out_template(&mut observed, &["node-pod-b", "node-pod-c"]);
        assert_eq!(node_pods(&observed).max_unavailable(), 1, "the pod that is left follows when its node returns");
    }

    #[test]
    fn the_newest_template_has_as_many_pods_as_are_updated_and_of_several_the_youngest_pod() {
        let mut observed = serving("{}");
        roll_out_template(&mut observed, &["node-pod-b"]);
        let pods: Vec<&TierPod> = pods_of(&observed, Component::NodeCache).collect();
        assert_eq!(newest_template(&pods, 1), Some("new"));
        assert_eq!(newest_template(&pods, 2), Some("1a2b"), "the rollout goes back");
        assert_eq!(newest_template(&pods, 0), None);
        assert_eq!(newest_template(&pods[..2], 1), Some("new"));
    }

    #[test]
    fn a_rollout_whose_updated_pods_are_away_is_not_done() {
        let mut observed = serving("{}");
        roll_out_template(&mut observed, &["node-pod-a", "node-pod-b"]);
        set_away(&mut observed, &["node-a"]);
        let pods = node_pods(&observed);
        assert_eq!((pods.desired, pods.expected(), pods.updated), (3, 2, 1));
    }

    /// Returns the time until `node-pod-a` is overdue, in seconds, when it was made at midnight.
    fn remaining_seconds(lifecycle: PodLifecycle, is_rolling_out: bool, now: &str) -> Option<u64> {
        let mut observed = serving("{}");
        let pod = pod_of(&mut observed, "node-pod-a");
        pod.lifecycle = PodLifecycle { created: Some("2026-01-01T00:00:00Z".parse().unwrap()), ..lifecycle };
        remaining(pod, is_rolling_out, now.parse().unwrap()).map(|remaining| remaining.as_secs())
    }

    #[test]
    fn a_pod_that_does_not_run_is_overdue_five_minutes_after_it_was_made() {
        let waiting = |now| remaining_seconds(PodLifecycle::default(), false, now);
        assert_eq!(waiting("2026-01-01T00:01:00Z"), Some(240));
        assert_eq!(waiting("2026-01-01T00:05:00Z"), Some(0));
        assert_eq!(waiting("2026-03-01T00:00:00Z"), Some(0));
        let running = PodLifecycle { running: true, ..PodLifecycle::default() };
        assert_eq!(remaining_seconds(running, true, "2026-01-01T00:05:00Z"), None);
    }

    #[test]
    fn a_container_that_ends_again_and_again_does_not_run_in_between() {
        let looping = PodLifecycle {
            running: true,
            restarted: Some("2026-01-01T00:09:30Z".parse().unwrap()),
            ..PodLifecycle::default()
        };
        assert_eq!(remaining_seconds(looping.clone(), true, "2026-01-01T00:10:00Z"), Some(0));
        assert_eq!(remaining_seconds(looping, true, "2026-01-01T00:10:30Z"), None);
    }

    #[test]
    fn a_pod_that_was_ready_for_long_and_ends_is_no_problem_of_its_template() {
        let ended =
            PodLifecycle { unready_since: Some("2026-01-09T00:00:00Z".parse().unwrap()), ..PodLifecycle::default() };
        assert_eq!(remaining_seconds(ended.clone(), false, "2026-01-09T00:10:00Z"), None);
        assert_eq!(remaining_seconds(ended, true, "2026-01-09T00:10:00Z"), Some(0));
    }

    #[test]
    fn the_next_look_is_when_the_first_pod_is_overdue() {
        let mut observed = serving("{}");
        roll_out_template(&mut observed, &["node-pod-a"]);
        pod_of(&mut observed, "node-pod-a").lifecycle.running = false;
        let starts = PodStarts::collect(&observed, &settings());
        assert_eq!((starts.overdue.len(), starts.next), (0, Some(Duration::from_mins(3))));
    }
}
