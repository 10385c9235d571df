//! Placement: which nodes may run the pods of a tier. Pod templates, zones and the status follow from the same rules.

mod affinity;
mod rules;
mod taints;
mod zones;

#[cfg(test)]
pub(crate) use rules::{ARCH_LABEL, OS_LABEL};
pub(crate) use rules::{Exclusion, Placement};
pub(crate) use zones::{ZoneNodes, nodes_by_zone};
