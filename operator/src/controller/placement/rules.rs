//! Rules of placement: selector, affinity and tolerations of the pods, and the reason why a node cannot run them.

use std::collections::BTreeMap;

use dnstier_crds::v1alpha1::PodSettings;
use k8s_openapi::api::core::v1::{Affinity, NodeSelectorRequirement, Toleration};

use crate::controller::observe::nodes::{ClusterNode, Labels, Nodes};
use crate::controller::placement::affinity::{add_requirements, is_in, is_not_in, may_run};
use crate::controller::placement::taints::{self, intolerable_taint};
use crate::settings::Settings;

/// Label with the operating system of a node, which every kubelet sets.
pub(crate) const OS_LABEL: &str = "kubernetes.io/os";
/// Label with the processor architecture of a node, which every kubelet sets.
pub(crate) const ARCH_LABEL: &str = "kubernetes.io/arch";
/// Operating system of the images.
const OS: &str = "linux";
/// Label of a node of AWS Fargate, and its value: a node for one pod, which runs no DaemonSet.
const FARGATE: (&str, &str) = ("eks.amazonaws.com/compute-type", "fargate");
/// Labels of other nodes without a machine, and their values: Virtual Kubelet and what is built from it, Tencent's
/// super nodes, Liqo. They have neither a network of the host nor capabilities. `kubernetes.io/role=agent` is not among
/// them: ordinary nodes have it, too.
const VIRTUAL_NODES: [(&str, &str); 3] =
    [("type", "virtual-kubelet"), ("node.kubernetes.io/instance-type", "eklet"), ("liqo.io/type", "virtual-node")];

/// Reason why a node cannot run pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exclusion {
    /// AWS Fargate.
    Fargate,
    /// A node without a machine of its own.
    VirtualNode,
    /// Another operating system than Linux, or an unknown one.
    OperatingSystem,
    /// An architecture that the image does not have, or an unknown one.
    Architecture,
    /// The `nodeSelector` of the spec.
    NodeSelector,
    /// The `affinity` of the spec.
    Affinity,
    /// A taint that the pods do not tolerate.
    Taint,
}

impl Exclusion {
    /// Returns the reason as written in a status.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fargate => "Fargate",
            Self::VirtualNode => "VirtualNode",
            Self::OperatingSystem => "OperatingSystem",
            Self::Architecture => "Architecture",
            Self::NodeSelector => "NodeSelector",
            Self::Affinity => "Affinity",
            Self::Taint => "Taint",
        }
    }

    /// Returns whether the node can run no pod of any tier, whatever its spec says.
    #[must_use]
    pub(crate) const fn is_of_platform(self) -> bool {
        matches!(self, Self::Fargate | Self::VirtualNode | Self::OperatingSystem | Self::Architecture)
    }
}

/// Rules for the nodes of one kind of pods.
#[derive(Clone, Debug)]
pub(crate) struct Placement<'a> {
    architectures: &'a [String],
    node_selector: &'a Labels,
    affinity: Option<&'a Affinity>,
    tolerations: Vec<Toleration>,
}

impl<'a> Placement<'a> {
    /// Returns the rules for node pods. They tolerate every taint by default: pods on tainted nodes resolve names, too.
    #[must_use]
    pub(crate) fn of_node_pods(pods: &'a PodSettings, settings: &'a Settings) -> Self {
        let tolerate_all = || vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }];
        Self::new(pods, settings, pods.tolerations.clone().unwrap_or_else(tolerate_all))
    }

    /// Returns the rules for zone resolvers. They tolerate no taint by default.
    #[must_use]
    pub(crate) fn of_resolvers(pods: &'a PodSettings, settings: &'a Settings) -> Self {
        Self::new(pods, settings, pods.tolerations.clone().unwrap_or_default())
    }

    fn new(pods: &'a PodSettings, settings: &'a Settings, tolerations: Vec<Toleration>) -> Self {
        Self {
            architectures: &settings.architectures,
            node_selector: &pods.node_selector,
            affinity: pods.affinity.as_ref(),
            tolerations,
        }
    }

    /// Returns the node selector of the pods: that of the spec, and Linux.
    #[must_use]
    pub(crate) fn node_selector(&self) -> Labels {
        let mut selector = self.node_selector.clone();
        selector.insert(OS_LABEL.to_owned(), OS.to_owned());
        selector
    }

    /// Returns the affinity of the pods: that of the spec, with the architectures of the image, without virtual nodes,
    /// and with these further requirements.
    #[must_use]
    pub(crate) fn affinity(&self, further: Vec<NodeSelectorRequirement>) -> Affinity {
        let mut requirements: Vec<NodeSelectorRequirement> =
            virtual_nodes().map(|(_, key, value)| is_not_in(key, value)).collect();
        if !self.architectures.is_empty() {
            requirements.insert(0, is_in(ARCH_LABEL, self.architectures));
        }
        requirements.extend(further);
        add_requirements(self.affinity.cloned().unwrap_or_default(), &requirements)
    }

    /// Returns the tolerations of the pods; `None` without any.
    #[must_use]
    pub(crate) fn tolerations(&self) -> Option<Vec<Toleration>> {
        (!self.tolerations.is_empty()).then(|| self.tolerations.clone())
    }

    /// Returns the reason why a node cannot run the pods; `None` if it may. A state that passes by itself, such as not
    /// being ready, is no reason, and neither is a cordon.
    #[must_use]
    pub(crate) fn exclusion(&self, name: &str, node: &ClusterNode) -> Option<Exclusion> {
        let platform = self.platform_exclusion(&node.labels);
        platform.or_else(|| {
            if !has_labels(node, self.node_selector) {
                return Some(Exclusion::NodeSelector);
            }
            if !self.affinity.is_none_or(|affinity| may_run(affinity, name, &node.labels)) {
                return Some(Exclusion::Affinity);
            }
            intolerable_taint(&node.taints, &self.tolerations).map(|_| Exclusion::Taint)
        })
    }

    fn platform_exclusion(&self, labels: &Labels) -> Option<Exclusion> {
        let has = |key: &str, value: &str| labels.get(key).is_some_and(|actual| actual == value);
        if let Some((exclusion, ..)) = virtual_nodes().find(|(_, key, value)| has(key, value)) {
            return Some(exclusion);
        }
        if !has(OS_LABEL, OS) {
            return Some(Exclusion::OperatingSystem);
        }
        let is_of_image = self.architectures.is_empty()
            || self.architectures.iter().any(|architecture| has(ARCH_LABEL, architecture));
        (!is_of_image).then_some(Exclusion::Architecture)
    }

    /// Returns the obstacle on a node in the words of a message, such as `taint a=b:NoSchedule`; `None` if a pod can be
    /// be placed there now.
    #[must_use]
    pub(crate) fn obstacle(&self, name: &str, node: &ClusterNode) -> Option<String> {
        let text = match self.exclusion(name, node) {
            None => return node.cordoned.then(|| "cordoned".to_owned()),
            Some(Exclusion::Taint) => match intolerable_taint(&node.taints, &self.tolerations) {
                Some(taint) => format!("taint {}", taints::text(taint)),
                None => "a taint".to_owned(),
            },
            Some(Exclusion::NodeSelector) => "not in nodeSelector".to_owned(),
            Some(Exclusion::Affinity) => "not in affinity".to_owned(),
            Some(exclusion) => exclusion.name().to_owned(),
        };
        Some(text)
    }

    /// Returns the names of the nodes that cannot run the pods, by reason.
    #[must_use]
    pub(crate) fn excluded_nodes(&self, nodes: &Nodes) -> BTreeMap<Exclusion, Vec<String>> {
        let mut excluded: BTreeMap<Exclusion, Vec<String>> = BTreeMap::new();
        for (name, node) in nodes.iter() {
            if let Some(exclusion) = self.exclusion(name, node) {
                excluded.entry(exclusion).or_default().push(name.to_owned());
            }
        }
        excluded
    }
}

/// Returns the labels of virtual nodes, with the reason that each of them is.
fn virtual_nodes() -> impl Iterator<Item = (Exclusion, &'static str, &'static str)> {
    let fargate = (Exclusion::Fargate, FARGATE.0, FARGATE.1);
    std::iter::once(fargate).chain(VIRTUAL_NODES.map(|(key, value)| (Exclusion::VirtualNode, key, value)))
}

fn has_labels(node: &ClusterNode, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{linux, settings};
    use crate::controller::observe::nodes::NodeTaint;

    fn exclusion_of(pods: &PodSettings, node: impl Into<ClusterNode>) -> Option<Exclusion> {
        Placement::of_node_pods(pods, &settings()).exclusion("node-x", &node.into())
    }

    #[test]
    fn nodes_that_can_never_run_the_image_are_told_apart() {
        let none: [(&str, &str); 0] = [];
        for (labels, expected) in [
            (linux(none), None),
            (linux([("kubernetes.io/role", "agent")]), None),
            (linux([("eks.amazonaws.com/compute-type", "hybrid")]), None),
            (linux([(OS_LABEL, "windows")]), Some(Exclusion::OperatingSystem)),
            (linux([(ARCH_LABEL, "arm64")]), Some(Exclusion::Architecture)),
            (linux([(ARCH_LABEL, "s390x")]), Some(Exclusion::Architecture)),
            (linux([FARGATE]), Some(Exclusion::Fargate)),
            (linux([("type", "virtual-kubelet"), ("kubernetes.io/role", "agent")]), Some(Exclusion::VirtualNode)),
            (linux([("type", "virtual-kubelet"), (OS_LABEL, "windows")]), Some(Exclusion::VirtualNode)),
            (linux([("node.kubernetes.io/instance-type", "eklet")]), Some(Exclusion::VirtualNode)),
            (linux([("liqo.io/type", "virtual-node")]), Some(Exclusion::VirtualNode)),
            (Labels::new(), Some(Exclusion::OperatingSystem)),
        ] {
            assert_eq!(exclusion_of(&PodSettings::default(), labels.clone()), expected, "{labels:?}");
        }
    }

    #[test]
    fn every_virtual_node_that_is_counted_apart_is_kept_out_of_the_pod_template() {
        let settings = settings();
        let pods = PodSettings::default();
        let affinity = Placement::of_node_pods(&pods, &settings).affinity(Vec::new());
        for (_, key, value) in virtual_nodes() {
            assert!(!may_run(&affinity, "x", &linux([(key, value)])), "{key}={value}");
        }
        assert!(!may_run(&affinity, "x", &linux([(ARCH_LABEL, "arm64")])));
        let none: [(&str, &str); 0] = [];
        assert!(may_run(&affinity, "x", &linux(none)));
    }

    #[test]
    fn a_users_selector_is_added_to_linux_and_never_takes_its_place() {
        let settings = settings();
        let node_selector = [("pool", "blue"), (OS_LABEL, "windows")];
        let node_selector = node_selector.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let pods = PodSettings { node_selector, ..PodSettings::default() };
        let selector = Placement::of_resolvers(&pods, &settings).node_selector();
        assert_eq!(selector.get(OS_LABEL).map(String::as_str), Some("linux"));
        assert_eq!(selector.get("pool").map(String::as_str), Some("blue"));
    }

    #[test]
    fn without_a_list_of_architectures_every_one_may_run_the_pods() {
        let mut settings = settings();
        settings.architectures = Vec::new();
        let pods = PodSettings::default();
        let placement = Placement::of_node_pods(&pods, &settings);
        let node = ClusterNode::from(linux([(ARCH_LABEL, "riscv64")]));
        assert_eq!(placement.exclusion("x", &node), None);
        assert!(may_run(&placement.affinity(Vec::new()), "x", &node.labels));
    }

    #[test]
    fn what_the_spec_excludes_is_told_apart_from_what_cannot_be() {
        let pool = |value: &str| Labels::from([("pool".to_owned(), value.to_owned())]);
        let blue = PodSettings { node_selector: pool("blue"), ..PodSettings::default() };
        assert_eq!(exclusion_of(&blue, linux([("pool", "green")])), Some(Exclusion::NodeSelector));
        assert_eq!(exclusion_of(&blue, linux([("pool", "blue")])), None);
        assert!(!Exclusion::NodeSelector.is_of_platform() && Exclusion::Architecture.is_of_platform());
    }

    #[test]
    fn a_taint_excludes_where_it_is_not_tolerated_and_a_cordon_never_does() {
        let settings = settings();
        let pods = PodSettings::default();
        let none: [(&str, &str); 0] = [];
        let mut node = ClusterNode::from(linux(none));
        node.taints = vec![NodeTaint {
            key: "node-role.kubernetes.io/control-plane".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        }];
        let resolvers = Placement::of_resolvers(&pods, &settings);
        assert_eq!(resolvers.exclusion("x", &node), Some(Exclusion::Taint));
        let obstacle = resolvers.obstacle("x", &node);
        assert_eq!(obstacle.as_deref(), Some("taint node-role.kubernetes.io/control-plane:NoSchedule"));
        assert_eq!(Placement::of_node_pods(&pods, &settings).exclusion("x", &node), None);
        let none_tolerated = PodSettings { tolerations: Some(Vec::new()), ..PodSettings::default() };
        assert_eq!(exclusion_of(&none_tolerated, node.clone()), Some(Exclusion::Taint));

        node.taints.clear();
        node.cordoned = true;
        assert_eq!(resolvers.exclusion("x", &node), None);
        assert_eq!(resolvers.obstacle("x", &node).as_deref(), Some("cordoned"));
    }
}
