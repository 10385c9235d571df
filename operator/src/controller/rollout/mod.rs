//! Roll-outs: of pod templates, and of revisions of the configuration.
//!
//! ```text
//! ConfigMap ──► record ─┐
//! pods, polls ──► pods ─┼─► plan (pure) ──► record to write, pods to tell, facts for the conditions
//! judge ──► verdict ────┘     │
//!                             ├─ steps: which step is next, and who belongs to it
//!                             └─ asks: which pod should run which revision, and in which order
//! ```
//!
//! The record is written before any pod of a step is told. Everything else follows from the record and from what the
//! pods are asked to run, so that a crash after any write ends where no crash would have ended.

mod asks;
#[cfg_attr(not(test), expect(dead_code, reason = "the apply step does not use it yet"))]
mod leaving;
#[cfg_attr(not(test), expect(dead_code, reason = "the apply step does not use it yet"))]
mod plan;
mod pods;
mod record;
#[cfg(test)]
mod record_tests;
#[cfg_attr(not(test), expect(dead_code, reason = "the apply step does not use it yet"))]
mod revision;
#[cfg(test)]
mod simulation;
#[cfg_attr(not(test), expect(dead_code, reason = "the apply step does not use it yet"))]
mod steps;
#[cfg_attr(not(test), expect(dead_code, reason = "the apply step does not use it yet"))]
mod store;
mod template;
#[cfg(test)]
mod tests;

pub(crate) use template::{
    NodePods, PodStarts, is_away, is_rolling_out, is_zone_away, non_negative, pods_of, to_count,
};
#[expect(unused_imports, reason = "the apply step does not use the planner yet")]
pub(crate) use {
    asks::Ask,
    leaving::nodes_to_keep,
    plan::{Inputs, Plan, RolledOut, RolloutReason, named_revisions, plan},
    pods::{Role, RolloutPod},
    record::{Record, Rejection, Step},
    revision::{KnownRevision, TierRevision, assign, known_revisions, rebuild_proven},
    steps::{FailReason, Surroundings, Verdict},
    store::StoredRecord,
};
