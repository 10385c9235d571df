//! Placement: which nodes may run the pods of a tier. Pod templates, zones and the status follow from the same rules.

mod affinity;
mod rules;
mod taints;
mod template;
mod transition;
mod zones;

pub(crate) use rules::{ARCH_LABEL, Exclusion, OS_LABEL, Placement};
pub(crate) use template::TemplatePlacement;
pub(crate) use transition::{MAX_NAMES, keep_nodes, number_of_names};
pub(crate) use zones::{ZoneNodes, nodes_by_zone};
