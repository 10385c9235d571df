//! The control socket of a process: one line with a command in, its answer out, end.
//!
//! `status` gives JSON, `metrics` Prometheus text, `live` and `ready` the word `ok` or a sentence that says what is
//! missing.

mod client;
mod server;

pub use client::{AskError, ask, probe};
pub use server::{Report, serve};

use std::path::{Path, PathBuf};

/// The answer of `live` and `ready` when nothing is missing.
pub const OK: &str = "ok";

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// How the process is, as JSON.
    Status,
    /// Whether it reacts at all.
    Live,
    /// Whether it can do its work.
    Ready,
    /// Its counters, as Prometheus text.
    Metrics,
}

impl Command {
    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Metrics => "metrics",
        }
    }

    /// The command that a line names.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        [Self::Status, Self::Live, Self::Ready, Self::Metrics].into_iter().find(|command| command.word() == line.trim())
    }
}

/// Where the process of this name (`agent`, `cache-0`, `zone-resolver`, …) listens.
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.sock"))
}
