//! Transition between two placements: a pod template with which nodes that leave keep their pods for now.
//!
//! A term of the required node affinity names each of these nodes, beside the terms of the desired template. They are
//! alternatives, but a `nodeSelector` is not: it becomes a part of the desired terms. Tolerations are of all pods
//! alike, so nodes that only the tolerations of before admit are barred by name once they have left.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PodSpec, Toleration};

use crate::controller::observe::nodes::Nodes;
use crate::controller::placement::affinity::{add_requirements, has_name, has_other_name, is_empty, is_in};
use crate::controller::placement::rules::OS_LABEL;
use crate::controller::placement::taints::intolerable_taint;
use crate::controller::placement::template::TemplatePlacement;

/// Maximum number of names in a template. The DaemonSet controller reads all of them for each node.
pub(crate) const MAX_NAMES: usize = 2_000;

/// Changes a desired template so that pods on these nodes stay, beside those of the desired placement. `current` is the
/// template of before.
pub(crate) fn keep_nodes(desired: &mut PodSpec, current: &PodSpec, staying: &BTreeSet<String>, nodes: &Nodes) {
    let barred = barred_nodes(desired, staying, nodes);
    let tolerations = tolerations(desired, current, staying, nodes);
    let mut selector = desired.node_selector.take().unwrap_or_default();
    let os = selector.remove_entry(OS_LABEL);
    desired.node_selector = os.map(|os| [os].into());
    let requirements: Vec<_> = selector.into_iter().map(|(key, value)| is_in(&key, &[value])).collect();
    let mut affinity = add_requirements(desired.affinity.take().unwrap_or_default(), &requirements);
    let required = affinity
        .node_affinity
        .as_mut()
        .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_mut());
    if let Some(required) = required {
        // A term without requirements selects no node, and with one it would.
        let terms = required.node_selector_terms.iter_mut().filter(|term| !is_empty(term) && !barred.is_empty());
        for term in terms {
            term.match_fields.get_or_insert_default().extend(barred.iter().map(|name| has_other_name(name)));
        }
        required.node_selector_terms.extend(
            staying
                .iter()
                .map(|name| NodeSelectorTerm { match_fields: Some(vec![has_name(name)]), match_expressions: None }),
        );
    }
    desired.affinity = Some(affinity);
    desired.tolerations = (!tolerations.is_empty()).then_some(tolerations);
}

/// Returns the number of names that [`keep_nodes`] writes for these nodes.
#[must_use]
pub(crate) fn number_of_names(desired: &PodSpec, leaving: &BTreeSet<String>, nodes: &Nodes) -> usize {
    let terms = desired.affinity.as_ref().and_then(|affinity| {
        let nodes = affinity.node_affinity.as_ref()?;
        Some(nodes.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms.len())
    });
    // Whoever leaves is in one of the two lists, first in this one, then in that one.
    leaving.len() + barred_nodes(desired, &BTreeSet::new(), nodes).len() * terms.unwrap_or(1).max(1)
}

/// Returns the nodes that the desired template excludes for their taints alone, without those that stay for now.
fn barred_nodes<'a>(desired: &PodSpec, staying: &BTreeSet<String>, nodes: &'a Nodes) -> Vec<&'a str> {
    let placement = TemplatePlacement::of(desired);
    let is_barred =
        |name: &str, node| !staying.contains(name) && placement.selects(name, node) && !placement.admits(name, node);
    nodes.iter().filter(|(name, node)| is_barred(name, node)).map(|(name, _)| name).collect()
}

/// Returns the desired tolerations, and those of before where a node that stays has a taint for which it leaves.
fn tolerations(desired: &PodSpec, current: &PodSpec, staying: &BTreeSet<String>, nodes: &Nodes) -> Vec<Toleration> {
    let mut tolerations = TemplatePlacement::of(desired).tolerations().to_vec();
    let mut stay = nodes.iter().filter(|(name, _)| staying.contains(*name));
    if stay.any(|(_, node)| intolerable_taint(&node.taints, &tolerations).is_some()) {
        for toleration in TemplatePlacement::of(current).tolerations() {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
    }
    tolerations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::linux;
    use crate::controller::observe::nodes::{ClusterNode, NodeTaint};

    fn template(yaml: &str) -> PodSpec {
        serde_saphyr::from_str(&format!("containers: []\n{yaml}")).unwrap()
    }

    fn node(pool: &str, taint: Option<&str>) -> ClusterNode {
        let mut node = ClusterNode::from(linux([("pool", pool)]));
        node.taints.extend(taint.map(|effect| NodeTaint {
            key: "dedicated".to_owned(),
            value: "db".to_owned(),
            effect: effect.to_owned(),
        }));
        node
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Returns the nodes that get a pod, and those on which one stays.
    fn placed(pods: &PodSpec, nodes: &Nodes) -> (BTreeSet<String>, BTreeSet<String>) {
        let placement = TemplatePlacement::of(pods);
        let select = |is_one: &dyn Fn(&str, &ClusterNode) -> bool| {
            nodes.iter().filter(|(name, node)| is_one(name, node)).map(|(name, _)| name.to_owned()).collect()
        };
        (select(&|name, node| placement.admits(name, node)), select(&|name, node| placement.keeps(name, node)))
    }

    const AFFINITY: &str = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
        {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [blue]}]}, \
        {matchExpressions: [{key: pool, operator: In, values: [green]}]}]}}}";

    #[test]
    fn nodes_that_leave_stay_beside_those_of_the_new_selector_or_affinity() {
        let nodes: Nodes = [("red-1", node("red", None)), ("red-2", node("red", None)), ("blue", node("blue", None))]
            .into_iter()
            .collect();
        let current = template("nodeSelector: {kubernetes.io/os: linux, pool: red}");
        for desired in ["nodeSelector: {kubernetes.io/os: linux, pool: blue}", AFFINITY] {
            for (staying, expected) in [
                (names(&["red-1", "red-2"]), names(&["red-1", "red-2", "blue"])),
                (names(&["red-2"]), names(&["red-2", "blue"])),
                (names(&[]), names(&["blue"])),
            ] {
                let mut pods = template(desired);
                keep_nodes(&mut pods, &current, &staying, &nodes);
                assert_eq!(placed(&pods, &nodes), (expected.clone(), expected), "{desired}");
            }
        }
    }

    #[test]
    fn nodes_that_leave_for_a_taint_are_barred_once_they_have_left() {
        for effect in ["NoSchedule", "NoExecute"] {
            let nodes: Nodes = [
                ("db-1", node("blue", Some(effect))),
                ("db-2", node("green", Some(effect))),
                ("blue", node("blue", None)),
            ]
            .into_iter()
            .collect();
            let current = template("tolerations: [{operator: Exists}]");
            for (staying, expected) in [
                (names(&["db-1", "db-2"]), names(&["db-1", "db-2", "blue"])),
                (names(&["db-2"]), names(&["db-2", "blue"])),
                (names(&[]), names(&["blue"])),
            ] {
                let mut pods = template(AFFINITY);
                keep_nodes(&mut pods, &current, &staying, &nodes);
                assert_eq!(placed(&pods, &nodes), (expected.clone(), expected), "{effect}");
                assert_eq!(pods.tolerations.is_some(), !staying.is_empty());
            }
            assert_eq!(number_of_names(&template(AFFINITY), &names(&["db-1", "db-2"]), &nodes), 6);
        }
    }

    #[test]
    fn tolerations_of_before_are_those_of_the_next_step_too() {
        let nodes: Nodes = [("db-1", node("blue", Some("NoExecute")))].into_iter().collect();
        let mut first = template("tolerations: [{key: gpu, operator: Exists}]");
        keep_nodes(&mut first, &template("tolerations: [{operator: Exists}]"), &names(&["db-1"]), &nodes);
        let mut second = template("tolerations: [{key: gpu, operator: Exists}]");
        keep_nodes(&mut second, &first, &names(&["db-1"]), &nodes);
        assert_eq!(first, second);
        assert_eq!(first.tolerations.unwrap_or_default().len(), 2);
    }
}
