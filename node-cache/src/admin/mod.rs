//! Administration of a process: control socket, bounds of a status, limits of the status HTTP server and of probes, and
//! merging of metrics.
//!
//! A client of the control socket sends one line with a command, reads the response and the end of the stream. `status`
//! returns JSON, `metrics` OpenMetrics, `live` and `ready` the word `ok` or a sentence that says what is missing.
//! `stats`, `explain NAME TYPE`, `flush NAME`, `flush-below NAME` and `dump NAME` are for people: they return text, or
//! a sentence that says what is wrong with the command.

pub(crate) mod bounded_status;
mod client;
mod command;
pub(crate) mod http_limits;
pub(crate) mod merge;
pub(crate) mod node_addresses;
pub(crate) mod probe_budget;
mod server;
pub(crate) mod shared_probes;

pub(crate) use client::send_command_bounded;
pub use client::{ControlError, probe, send_command};
pub use command::{Command, CommandError, Inspection, OK};
pub use server::{CommandHandler, serve};

use std::path::{Path, PathBuf};

/// Returns the path of the control socket of the process with this name (`agent`, `cache-0`, `zone-resolver`, …).
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.sock"))
}
