//! Placement by a pod template: on which nodes the DaemonSet controller makes pods, and on which those that run stay.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PodSpec, Toleration};

use crate::controller::observe::nodes::ClusterNode;
use crate::controller::placement::affinity::{matches, only_name};
use crate::controller::placement::taints::{evicting_taint, intolerable_taint, is_uncounted};

/// Placement of the pods of a template, as the DaemonSet controller decides. Taints of a state that passes by itself do
/// not count.
#[derive(Clone, Debug)]
pub(crate) struct TemplatePlacement<'a> {
    pods: &'a PodSpec,
    /// Names of terms of the required node affinity that ask for a name alone: there may be thousands.
    names: BTreeSet<&'a str>,
    /// Other terms; `None` without a required node affinity.
    terms: Option<Vec<&'a NodeSelectorTerm>>,
}

impl<'a> TemplatePlacement<'a> {
    /// Returns the placement of the pods of a template.
    #[must_use]
    pub(crate) fn of(pods: &'a PodSpec) -> Self {
        let nodes = pods.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = nodes.and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
        let all = required.map(|required| required.node_selector_terms.iter());
        let names = all.clone().into_iter().flatten().filter_map(only_name).collect();
        let terms = all.map(|terms| terms.filter(|term| only_name(term).is_none()).collect());
        Self { pods, names, terms }
    }

    /// Returns whether a node that has no pod gets one.
    #[must_use]
    pub(crate) fn admits(&self, name: &str, node: &ClusterNode) -> bool {
        self.selects(name, node) && intolerable_taint(&node.taints, self.tolerations()).is_none()
    }

    /// Returns whether a pod that runs on a node stays there: a taint `NoSchedule` drives none away.
    #[must_use]
    pub(crate) fn keeps(&self, name: &str, node: &ClusterNode) -> bool {
        self.selects(name, node) && evicting_taint(&node.taints, self.tolerations()).is_none()
    }

    /// Returns whether the DaemonSet controller counts a node among those that should run a pod. A node that is away
    /// has taints which pods with tolerations of their own may not tolerate.
    #[must_use]
    pub(crate) fn counts(&self, name: &str, node: &ClusterNode) -> bool {
        self.selects(name, node) && !is_uncounted(&node.taints, self.tolerations())
    }

    /// Returns whether a node has the labels and the name that the template wants, whatever its taints.
    #[must_use]
    pub(super) fn selects(&self, name: &str, node: &ClusterNode) -> bool {
        let mut selector = self.pods.node_selector.iter().flatten();
        let is_met = |terms: &Vec<&NodeSelectorTerm>| {
            self.names.contains(name) || terms.iter().any(|term| matches(term, name, &node.labels))
        };
        selector.all(|(key, value)| node.labels.get(key) == Some(value)) && self.terms.as_ref().is_none_or(is_met)
    }

    /// Returns the tolerations of the pods.
    #[must_use]
    pub(super) fn tolerations(&self) -> &'a [Toleration] {
        self.pods.tolerations.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::linux;
    use crate::controller::observe::nodes::NodeTaint;

    fn template(yaml: &str) -> PodSpec {
        serde_saphyr::from_str(&format!("containers: []\n{yaml}")).unwrap()
    }

    #[test]
    fn a_node_is_placed_by_its_name_as_by_any_other_term() {
        let pods = template(
            "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
            {matchFields: [{key: metadata.name, operator: In, values: [a]}]},
            {matchFields: [{key: metadata.name, operator: NotIn, values: [b]}],
             matchExpressions: [{key: pool, operator: Exists}]}]}}}",
        );
        let placement = TemplatePlacement::of(&pods);
        let (with, without) = (ClusterNode::from(linux([("pool", "blue")])), ClusterNode::from(linux::<String>([])));
        for (name, expected) in [("a", (true, true)), ("b", (false, false)), ("c", (true, false))] {
            assert_eq!((placement.admits(name, &with), placement.admits(name, &without)), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_stays_where_none_would_be_made_for_a_taint_without_eviction() {
        let pods = template("nodeSelector: {pool: blue}\ntolerations: [{key: gpu, operator: Exists}]");
        let node = |taints: &[(&str, &str)]| {
            let mut node = ClusterNode::from(linux([("pool", "blue")]));
            node.taints.extend(taints.iter().map(|(key, effect)| NodeTaint {
                key: (*key).to_owned(),
                value: String::new(),
                effect: (*effect).to_owned(),
            }));
            node
        };
        for (taints, admits, keeps) in [
            (vec![], true, true),
            (vec![("gpu", "NoExecute")], true, true),
            (vec![("db", "NoSchedule")], false, true),
            (vec![("db", "NoExecute")], false, false),
            (vec![("db", "PreferNoSchedule")], true, true),
            (vec![("node.kubernetes.io/not-ready", "NoExecute")], true, true),
        ] {
            let (placement, node) = (TemplatePlacement::of(&pods), node(&taints));
            assert_eq!((placement.admits("a", &node), placement.keeps("a", &node)), (admits, keeps), "{taints:?}");
        }
        let other = ClusterNode::from(linux([("pool", "red")]));
        assert!(!TemplatePlacement::of(&pods).keeps("a", &other));
    }
}
