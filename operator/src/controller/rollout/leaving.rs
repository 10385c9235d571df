//! Nodes that are to leave in one reconciliation, collected from the observed state.
//!
//! A node has to leave while the pod template in the cluster keeps its pod and the desired template does not admit it.
//! A node whose own labels or taints change is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::controller::observe::Observed;
use crate::controller::observe::nodes::ClusterNode;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::owned::labels;
use crate::controller::placement::{MAX_NAMES, TemplatePlacement, number_of_names};
use crate::controller::rollout::announcement::{Announcement, announcement};
use crate::controller::rollout::departure::{Departure, DeparturePlan, Inputs, KIND, LeavingNode, plan};
use crate::controller::rollout::template::pods_of;

/// Time over which the responses of a pod are counted.
const TRAFFIC_SPAN: Duration = Duration::from_secs(60);

/// Decision of a pass about the nodes that are to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// No node is to leave: the desired template is applied.
    Nobody,
    /// Some nodes stay for now.
    Steps(DeparturePlan),
    /// More nodes are to leave than a template can name: this many. None of them does.
    TooMany(usize),
}

/// Plans which nodes leave now for a desired DaemonSet. `is_at_rest` is whether no configuration is on its way.
#[must_use]
pub(crate) fn plan_leaving(observed: &Observed, current: &DaemonSet, desired: &DaemonSet, is_at_rest: bool) -> Leaving {
    let (Some(before), Some(after)) = (pods_of_template(current), pods_of_template(desired)) else {
        return Leaving::Nobody;
    };
    let departure = departure_of(current);
    if departure.is_none() && placement_hash(before) == placement_hash(after) {
        return Leaving::Nobody;
    }
    let leaving = leaving_nodes(observed, before, after, departure.is_some());
    let names: BTreeSet<String> = leaving.iter().map(|node| node.name.clone()).collect();
    if !leaving.is_empty() && number_of_names(after, &names, &observed.nodes) > MAX_NAMES {
        return Leaving::TooMany(leaving.len());
    }
    let before = TemplatePlacement::of(before);
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for (_, node) in observed.nodes.iter().filter(|(name, node)| before.admits(name, node)) {
        *sizes.entry(node.zone().to_owned()).or_default() += 1;
    }
    let inputs = Inputs {
        current: departure.as_ref(),
        placement: &placement_hash(after),
        leaving: &leaving,
        sizes: &sizes,
        settings: &observed.tier.spec.rollout,
        is_at_rest,
        announced: announced(observed, departure.as_ref()),
        has_ended: have_pods_ended(observed, &before),
        now: observed.now,
    };
    plan(&inputs).map_or(Leaving::Nobody, Leaving::Steps)
}

/// Returns the pods of the template of a DaemonSet.
fn pods_of_template(daemon_set: &DaemonSet) -> Option<&PodSpec> {
    daemon_set.spec.as_ref()?.template.spec.as_ref()
}

/// Returns how far the departure of nodes from a DaemonSet is; `None` while none leaves. One that cannot be read begins
/// again with those that are left.
fn departure_of(daemon_set: &DaemonSet) -> Option<Departure> {
    serde_json::from_str(daemon_set.annotations().get(labels::DEPARTURE)?).ok()
}

/// Returns a hash of the placement of pods.
fn placement_hash(pods: &PodSpec) -> String {
    let placement = serde_json::json!([pods.node_selector, pods.affinity, pods.tolerations]);
    Sha256::digest(placement.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the nodes that are to leave, ordered by name.
fn leaving_nodes(observed: &Observed, before: &PodSpec, after: &PodSpec, has_begun: bool) -> Vec<LeavingNode> {
    let (before, after) = (TemplatePlacement::of(before), TemplatePlacement::of(after));
    let pods: BTreeMap<&str, &TierPod> =
        pods_of(observed, Component::NodeCache).filter_map(|pod| Some((pod.node.as_deref()?, pod))).collect();
    // A taint that the node got itself leaves a pod where none would be made: that is no change of the placement, but
    // the pod would go with the last step, and so goes in a step of its own.
    let is_left_over = |name: &str, node: &ClusterNode| {
        pods.contains_key(name) && before.keeps(name, node) && !after.admits(name, node)
    };
    let is_changed = |name: &str, node: &ClusterNode| {
        before.admits(name, node) && !after.admits(name, node) || is_left_over(name, node) && !after.keeps(name, node)
    };
    let has_begun = has_begun || observed.nodes.iter().any(|(name, node)| is_changed(name, node));
    if !has_begun {
        return Vec::new();
    }
    let nodes = observed.nodes.iter().filter(|(name, node)| is_changed(name, node) || is_left_over(name, node));
    nodes
        .map(|(name, node)| {
            let pod = pods.get(name);
            let report = pod.and_then(|pod| observed.reports.get(&pod.uid));
            let rate = report.and_then(|report| report.rates()).map_or(0.0, |rates| rates.queries);
            LeavingNode {
                name: name.to_owned(),
                zone: node.zone().to_owned(),
                ready: node.ready && pod.is_some(),
                responses: (rate * TRAFFIC_SPAN.as_secs_f64()) as u64,
            }
        })
        .collect()
}

/// Returns the begin of the step of a departure that the status announces.
fn announced(observed: &Observed, departure: Option<&Departure>) -> Option<Timestamp> {
    let since = match announcement(&observed.tier)? {
        Announcement::Rollout(rollout) => rollout.since.as_ref().filter(|_| rollout.kind == KIND),
        Announcement::Spec => departure.map(|departure| &departure.since),
    };
    since.map(|since| since.0)
}

/// Returns whether no pod is left on a node that has left. Pods on nodes that are away end when these return.
fn have_pods_ended(observed: &Observed, placement: &TemplatePlacement<'_>) -> bool {
    let pods = observed.pods.iter().filter(|pod| pod.component == Component::NodeCache && !pod.ended);
    let mut nodes = pods.filter_map(|pod| observed.nodes.get(pod.node.as_deref()?));
    !nodes.any(|(name, node)| node.ready && !placement.keeps(name, node))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::controller::fixtures::{build_desired, linux, serving, tier};
    use crate::controller::observe::nodes::{NodeTaint, Nodes};

    const NO_TOLERATION: &str = "{nodeCache: {tolerations: []}}";

    /// Returns a tier in force, and its DaemonSet with another spec.
    fn changed(before: &str, after: &str) -> (Observed, DaemonSet) {
        let mut observed = serving(before);
        observed.tier = Arc::new(tier("default", "2026-01-01T00:00:00Z", after));
        let desired = build_desired(&observed).objects.daemon_sets.remove(0);
        (observed, desired)
    }

    fn plan_of(observed: &Observed, desired: &DaemonSet) -> Leaving {
        plan_leaving(observed, &observed.owned.daemon_sets[0], desired, true)
    }

    fn staying(leaving: &Leaving) -> Vec<&str> {
        let Leaving::Steps(plan) = leaving else { panic!("{leaving:?}") };
        plan.staying.iter().map(String::as_str).collect()
    }

    /// Sets a taint of a node, and its label `pool`.
    fn mark(observed: &mut Observed, marked: &str, pool: &str, taint: Option<&str>) {
        let nodes = observed.nodes.iter().map(|(name, node)| {
            let mut node = node.clone();
            if name == marked {
                node.labels.insert("pool".to_owned(), pool.to_owned());
                node.taints = taint
                    .map(|effect| NodeTaint {
                        key: "dedicated".to_owned(),
                        value: String::new(),
                        effect: effect.to_owned(),
                    })
                    .into_iter()
                    .collect();
            }
            (name.to_owned(), node)
        });
        let nodes: Nodes = nodes.collect();
        observed.nodes = nodes;
    }

    #[test]
    fn nodes_are_to_leave_that_the_template_in_the_cluster_admits_and_the_desired_one_does_not() {
        let (mut observed, desired) = changed("{}", "{nodeCache: {nodeSelector: {pool: blue}}}");
        mark(&mut observed, "node-b", "blue", None);
        assert_eq!(staying(&plan_of(&observed, &desired)), ["node-a", "node-c"]);
    }

    #[test]
    fn a_node_whose_own_label_or_taint_changes_is_not_one_that_is_to_leave() {
        for (pool, taint) in [("red", None), ("blue", Some("NoSchedule")), ("blue", Some("NoExecute"))] {
            let spec = "{nodeCache: {nodeSelector: {kubernetes.io/os: linux}, tolerations: []}}";
            let (mut observed, desired) = changed(spec, spec);
            mark(&mut observed, "node-b", pool, taint);
            assert_eq!(plan_of(&observed, &desired), Leaving::Nobody);
        }
    }

    #[test]
    fn a_pod_that_a_taint_has_left_over_goes_with_those_that_are_to_leave() {
        let (mut observed, desired) =
            changed(NO_TOLERATION, "{nodeCache: {tolerations: [], nodeSelector: {pool: blue}}}");
        mark(&mut observed, "node-a", "blue", None);
        mark(&mut observed, "node-b", "blue", Some("NoSchedule"));
        assert_eq!(staying(&plan_of(&observed, &desired)), ["node-b", "node-c"]);
        observed.pods.retain(|pod| pod.node.as_deref() != Some("node-b"));
        assert_eq!(staying(&plan_of(&observed, &desired)), ["node-c"], "a node without a pod has nothing to leave");
    }

    #[test]
    fn more_nodes_than_a_template_can_name_stay_all_of_them() {
        for (number, expected) in [(MAX_NAMES, false), (MAX_NAMES + 1, true)] {
            let (mut observed, desired) = changed("{}", "{nodeCache: {nodeSelector: {pool: blue}}}");
            observed.nodes = (0..number).map(|number| (format!("node-{number}"), linux([("pool", "red")]))).collect();
            let leaving = plan_of(&observed, &desired);
            assert_eq!(leaving == Leaving::TooMany(number), expected, "{number}");
        }
    }
}
