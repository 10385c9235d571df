//! DaemonSet controller of a fake cluster, for tests. It decides as the real one does, before which
//! `tests/faults` shows the operator.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::controller::observe::nodes::ClusterNode;
use crate::controller::placement::TemplatePlacement;
use crate::rollout_world::{DAEMON_SETS, NODES, World};

/// DaemonSet controller, and what it has done.
pub(crate) struct FakeDaemonSets {
    /// Templates of pods by their names.
    templates: BTreeMap<String, String>,
    /// Deletions and creations in their order: `-a1`, `+a1`.
    pub(crate) log: Vec<String>,
}

impl FakeDaemonSets {
    /// Takes over the pods that are there as those of the present template.
    pub(crate) fn adopt(world: &World) -> Self {
        let template = template_of(&daemon_set(world));
        let pods = world.pods.node_pods().into_iter();
        Self { templates: pods.map(|(name, _)| (name, template.clone())).collect(), log: Vec::new() }
    }

    /// Returns the nodes that have a pod, ordered by name.
    pub(crate) fn nodes(world: &World) -> Vec<String> {
        let mut nodes: Vec<String> = world.pods.node_pods().into_iter().map(|(_, node)| node).collect();
        nodes.sort();
        nodes
    }

    /// Lets the controller look at the DaemonSet once.
    pub(crate) async fn sync(&mut self, world: &World) {
        let object = daemon_set(world);
        let template = template_of(&object);
        let daemon_set: DaemonSet = serde_json::from_value(object.clone()).unwrap();
        let spec = daemon_set.spec.unwrap();
        let pods = spec.template.spec.unwrap();
        let placement = TemplatePlacement::of(&pods);
        let nodes = nodes(world);
        let mut is_changing = false;
        for (name, node) in world.pods.node_pods() {
            if nodes.get(&node).is_none_or(|of| !placement.keeps(&node, of)) {
                self.delete(world, &name, &node);
                is_changing = true;
            }
        }
        for (name, node) in nodes.iter().filter(|(name, node)| placement.admits(name, node)) {
            if !world.pods.node_pods().iter().any(|(_, other)| other == name) {
                let pod = world.pods.add_node_pod(node.zone(), name).await;
                self.templates.insert(pod, template.clone());
                self.log.push(format!("+{name}"));
                is_changing = true;
            }
        }
        let strategy = spec.update_strategy.unwrap();
        if strategy.type_.as_deref() == Some("RollingUpdate") && !is_changing {
            let old = world.pods.node_pods().into_iter().find(|(name, _)| self.templates[name] != template);
            if let Some((name, node)) = old {
                self.delete(world, &name, &node);
            }
        }
        self.report(world, &object, &nodes, &placement);
    }

    fn delete(&mut self, world: &World, name: &str, node: &str) {
        world.pods.delete(name);
        self.log.push(format!("-{node}"));
    }

    /// Writes the status, if it changes.
    fn report(
        &self,
        world: &World,
        object: &Value,
        nodes: &BTreeMap<String, ClusterNode>,
        placement: &TemplatePlacement<'_>,
    ) {
        let template = template_of(object);
        let desired: Vec<&String> =
            nodes.iter().filter(|(name, node)| placement.admits(name, node)).map(|(name, _)| name).collect();
        let pods = world.pods.node_pods();
        let present = pods.iter().filter(|(_, node)| desired.contains(&node));
        let updated = present.clone().filter(|(name, _)| self.templates[name] == template).count();
        let status = json!({"desiredNumberScheduled": desired.len(), "currentNumberScheduled": present.clone().count(),
            "numberReady": present.count(), "updatedNumberScheduled": updated, "numberMisscheduled": 0,
            "observedGeneration": 1_000});
        if object["status"] != status {
            world.cluster.merge(DAEMON_SETS, object["metadata"]["name"].as_str().unwrap(), json!({"status": status}));
        }
    }
}

fn daemon_set(world: &World) -> Value {
    world.cluster.list(DAEMON_SETS)[0].clone()
}

fn template_of(daemon_set: &Value) -> String {
    let digest = Sha256::digest(daemon_set["spec"]["template"].to_string());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn nodes(world: &World) -> BTreeMap<String, ClusterNode> {
    let nodes = world.cluster.list(NODES).into_iter().map(|node| serde_json::from_value::<Node>(node).unwrap());
    nodes.map(|node| (node.metadata.name.clone().unwrap(), ClusterNode::from(&node))).collect()
}
