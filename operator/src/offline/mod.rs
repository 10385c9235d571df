//! Offline: what the controller would do with a file, without doing it.
//!
//! ```text
//! FILE ─► yaml ─► schema (cel) ─► tiers ─► settle: validate and desired, until nothing changes ─► render, validate
//!                                            ▲                                                └─► diff ◄─► cluster
//!                       planned_cluster or live_cluster
//! ```
//!
//! Desired state and validation are those of the controller, schema and rules those of the CustomResourceDefinition.
//! The commands never write.
//!
//! - `command`: the commands, their flags, outputs and exit codes.
//! - `yaml`, `field_path`, `complaint`: documents, and the lines of their fields.
//! - `schema`, `cel`: what the API server checks.
//! - `tiers`: the tiers of a file.
//! - `planned_cluster`, `live_cluster`: what the controller observes, from flags or from the API server.
//! - `settle`: desired state once the controller has come to rest.
//! - `render`, `comparable`, `unified`, `diff`: objects and differences as text.

mod cel;
mod command;
mod comparable;
mod complaint;
mod diff;
mod field_path;
mod live_cluster;
mod planned_cluster;
mod render;
mod schema;
mod settle;
#[cfg(test)]
mod tests;
mod tiers;
mod unified;
mod yaml;

pub(crate) use command::Command;
