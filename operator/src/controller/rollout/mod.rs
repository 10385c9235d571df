//! Roll-outs: of pod templates, of revisions of the configuration, and of a placement that excludes nodes.
//!
//! ```text
//! ConfigMap ──► record ─┐
//! pods, polls ──► pods ─┼─► plan (pure) ──► record to write, pods to tell, facts for the conditions
//! judge ──► verdict ────┘     │
//!                             ├─ steps: which step is next, and who belongs to it
//!                             └─ asks: which pod should run which revision, and in which order
//! ```
//!
//! A `situation` is what the planner reads, collected from the observed state. A `departure` is planned beside it:
//! which of the nodes in `leaving` leave next.
//!
//! The record is written before any pod of a step is told. Everything else follows from the record and from what the
//! pods are asked to run, so that a crash after any write ends where no crash would have ended.

#[cfg(test)]
mod absence_tests;
#[cfg(test)]
mod address_tests;
pub(crate) mod address_use;
mod announcement;
pub(crate) mod asks;
pub(crate) mod departure;
pub(crate) mod leaving;
#[cfg(test)]
mod model;
#[cfg(test)]
mod pause_tests;
pub(crate) mod plan;
pub(crate) mod pods;
pub(crate) mod record;
#[cfg(test)]
mod record_tests;
pub(crate) mod revision;
#[cfg(test)]
mod simulation;
pub(crate) mod situation;
#[cfg(test)]
mod situation_tests;
pub(crate) mod steps;
pub(crate) mod store;
mod template;
#[cfg(test)]
mod tests;

pub(crate) use template::{
    NodePods, PodStarts, START_DEADLINE, is_away, is_rolling_out, is_zone_away, non_negative, pods_of, to_count,
};
