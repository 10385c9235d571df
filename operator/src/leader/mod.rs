//! Leader election by a Lease: of all processes of the operator, one writes, and it stops in time.
//!
//! ```text
//! Lease ◄─► elector ─► leadership ─► fence of the client, passes, polls, metrics
//!              │
//!           election (no clock, no client)
//! ```

mod election;
mod elector;
#[cfg(test)]
pub(crate) mod fake_lease;
mod fence;
mod leadership;
mod lease;

#[cfg(test)]
mod simulation_tests;

pub(crate) use election::Timing;
pub(crate) use elector::{Elector, LEASE_NAME, new_identity};
pub(crate) use fence::Fence;
pub(crate) use leadership::{Leadership, Term};
