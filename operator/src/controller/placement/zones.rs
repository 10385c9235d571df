//! The nodes of each zone, and those of them that may run a resolver.

use std::collections::BTreeMap;

use crate::controller::observe::nodes::Nodes;
use crate::controller::placement::rules::{Exclusion, Placement};

/// Nodes of a zone on which a tier can run at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ZoneNodes {
    /// Number of the nodes.
    pub(crate) nodes: usize,
    /// Number of those on which a resolver can be placed now.
    pub(crate) hosts: usize,
    /// The others, each with its obstacle: `node-c (cordoned)`.
    pub(crate) obstacles: Vec<String>,
}

/// Returns the nodes of each zone, by the rules for zone resolvers. Nodes that can run no pod of any tier make no zone.
#[must_use]
pub(crate) fn nodes_by_zone(nodes: &Nodes, resolvers: &Placement<'_>) -> BTreeMap<String, ZoneNodes> {
    let mut zones: BTreeMap<String, ZoneNodes> = BTreeMap::new();
    for (name, node) in nodes.iter() {
        if resolvers.exclusion(name, node).is_some_and(Exclusion::is_of_platform) {
            continue;
        }
        let zone = zones.entry(node.zone().to_owned()).or_default();
        zone.nodes += 1;
        match resolvers.obstacle(name, node) {
            None => zone.hosts += 1,
            Some(obstacle) => zone.obstacles.push(format!("{name} ({obstacle})")),
        }
    }
    zones
}
