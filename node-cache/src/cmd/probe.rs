//! `probe live` and `probe ready`: the kubelet's exec probes, sent to the control socket of a running process of this pod.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use node_cache_config::names::RUN_DIR;

use super::ProgramError;
use crate::admin::{self, Command};

/// Probe that the kubelet makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProbeKind {
    /// Whether the process makes progress; if not, it is to be restarted
    Live,
    /// Whether the process can do its work
    Ready,
}

/// Ask a running process of this pod whether it is live or ready; fails with a sentence when it is not
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Probe {
    /// What to ask
    #[arg(value_enum)]
    kind: ProbeKind,
    /// Directory of the control sockets
    #[arg(long, default_value = RUN_DIR)]
    run_dir: PathBuf,
}

impl Probe {
    /// Probes the process of this name, which has `limit` to answer.
    pub(super) async fn run(&self, name: &str, limit: Duration) -> Result<(), ProgramError> {
        let command = match self.kind {
            ProbeKind::Live => Command::Live,
            ProbeKind::Ready => Command::Ready,
        };
        Ok(admin::probe(&admin::socket_path(&self.run_dir, name), command, limit).await?)
    }
}
