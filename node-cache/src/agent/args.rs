//! What the agent is started with.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use node_cache_config::names::{CONFIG_DIR, RUN_DIR};

use super::NAME;
use crate::admin::{Command, ControlError, probe, socket_path};

/// How long the agent has to answer a probe; a kubelet's own patience is a second by default.
const PROBE_PATIENCE: Duration = Duration::from_millis(900);

/// How the agent runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory of the projected volume with the configuration.
    #[arg(long, default_value = CONFIG_DIR)]
    pub config_dir: PathBuf,
    /// Directory that the containers of the pod share.
    #[arg(long, default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// How many caches run in this pod.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub instances: u8,
    /// Port of /status, /metrics and /probe on the addresses of the pod.
    #[arg(long, default_value_t = 9353)]
    pub metrics_port: u16,
    /// The program that changes packet rules; one of this name is searched in PATH if there is none here.
    #[arg(long, default_value = "/usr/sbin/nft")]
    pub nft: PathBuf,
}

/// A question of the kubelet.
#[derive(Clone, Debug, clap::Args)]
pub struct Probe {
    /// What is asked.
    pub what: What,
    /// Directory that the containers of the pod share.
    #[arg(long, default_value = RUN_DIR)]
    pub run_dir: PathBuf,
}

/// What the kubelet asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Whether the leases are looked after.
    Live,
    /// Whether the revision asked is in force and something is captured.
    Ready,
}

impl Probe {
    /// Asks the agent of this pod.
    ///
    /// # Errors
    ///
    /// It does not answer, or says in a sentence what is missing.
    pub async fn ask(&self) -> Result<(), ControlError> {
        let command = match self.what {
            What::Live => Command::Live,
            What::Ready => Command::Ready,
        };
        probe(&socket_path(&self.run_dir, NAME), command, PROBE_PATIENCE).await
    }
}
