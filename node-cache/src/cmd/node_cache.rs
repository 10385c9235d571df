//! A caching resolver of a node: its sockets come from the agent, its questions go to the resolvers of its zone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use node_cache_config::names::{CONFIG_DIR, RUN_DIR};
use node_cache_sys::malloc::share_one_arena;
use tokio::sync::watch;

use super::config::{self, Role};
use super::logging;
use super::shutdown::{Shutdown, until_withdrawn};
use super::status_reporter::{Readiness, StatusReporter};
use super::tap::Tap;
use super::{Ask, Inspect, Probe, ProcessError, answer_bytes, block_on, bytes, workers};
use crate::handover::client::Client;
use crate::handover::{self, HeldSocket};
use crate::identity::Identity;
use crate::resolver::Resolver;
use crate::revision::{self, ActiveRevision};
use crate::server::{Server, TcpLimits};
use crate::{admin, dnstap};

/// A caching resolver of a node.
#[derive(Clone, Debug, Parser)]
#[command(name = "node-cache", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Answer questions until told to stop
    Run(Run),
    /// Ask a running cache of this pod how it is
    Probe {
        /// Name of the cache
        #[arg(long)]
        instance: String,
        #[command(flatten)]
        probe: Probe,
    },
    /// Resolve a name as any pod does and say who answered
    Ask(Ask),
    /// Ask the running caches of this pod about their answers
    #[command(flatten)]
    Inspect(Inspect),
    /// Write samples of the questions and answers of the running caches of this pod to standard output, as dnstap
    Tap(Tap),
}

/// How a cache runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// Name of this cache among those of its pod: cache-0, cache-1, …
    #[arg(long)]
    pub instance: String,
    /// Where the projected volume with the revisions is mounted
    #[arg(long, default_value = CONFIG_DIR)]
    pub config_dir: PathBuf,
    /// The directory that the containers of the pod share
    #[arg(long, default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// Bytes that the cache may hold
    #[arg(long, value_parser = bytes)]
    pub cache_size: u64,
    /// Threads that each read every socket, 1 to 64. A node has several caches to begin with
    #[arg(long, default_value = "1", value_parser = workers)]
    pub workers: usize,
}

impl Args {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] when it cannot start, or when a probe fails.
    pub fn run(self) -> Result<(), ProcessError> {
        match self.command {
            Command::Run(run) => {
                share_one_arena();
                logging::start();
                block_on(run.until_told_to_stop())
            }
            Command::Probe { instance, probe } => block_on(async move { probe.ask(&instance).await }),
            Command::Ask(ask) => ask.run(),
            Command::Inspect(inspect) => {
                let run_dir = Path::new(RUN_DIR);
                block_on(async move { inspect.ask(run_dir, &caches(run_dir)).await })
            }
            Command::Tap(tap) => {
                let names = caches(&tap.run_dir);
                block_on(async move { tap.write(&names).await })
            }
        }
    }
}

/// The names of the caches that have a control socket in this directory.
fn caches(run_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let is_cache = |name: &&str| name.starts_with("cache-") && !name.contains('.');
    let name = |file: &str| file.strip_suffix(".sock").filter(is_cache).map(str::to_owned);
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.file_name().to_str()?)).collect();
    names.sort();
    names
}

impl Run {
    async fn until_told_to_stop(self) -> Result<(), ProcessError> {
        let mut termination = Shutdown::listen().map_err(ProcessError::Start)?;
        let identity = Identity::of(&self.instance);
        let cache_bytes = answer_bytes(self.cache_size, self.workers)?;
        let resolver = Arc::new(Resolver::new(identity, cache_bytes, Arc::default()));
        let in_force = revision::watch(&self.config_dir);
        let agent = Client::start(&handover::socket_path(&self.run_dir), &self.instance);
        let limits = TcpLimits::default();
        let serving = Server::start(self.workers, resolver.clone(), limits, agent.sockets(), agent.secrets())
            .map_err(ProcessError::Start)?;
        let readiness = NodeReadiness { in_force: in_force.clone(), sockets: agent.sockets() };
        let (in_force_now, workers) = (in_force.clone(), serving.workers().clone());
        let account =
            Arc::new(StatusReporter { resolver: resolver.clone(), in_force: in_force_now, readiness, workers });
        let path = admin::socket_path(&self.run_dir, &self.instance);
        let tap_path = dnstap::socket_path(&self.run_dir, &self.instance);
        tokio::select! {
            () = config::keep(resolver.clone(), in_force, Role::NodeCache) => {}
            served = admin::serve(&path, account) => {
                served.map_err(|source| ProcessError::Control { path, source })?;
            }
            served = dnstap::serve(&tap_path, resolver.tap().clone()) => {
                served.map_err(|source| ProcessError::Control { path: tap_path, source })?;
            }
            () = async {
                termination.asked().await;
                tracing::info!("told to stop: answering on until the addresses are withdrawn");
                until_withdrawn(&resolver, &mut agent.connected()).await;
                serving.drain().await;
            } => {}
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// A cache is ready once it has a configuration and something to answer on.
#[derive(Debug)]
struct NodeReadiness {
    in_force: watch::Receiver<Arc<ActiveRevision>>,
    sockets: watch::Receiver<Vec<HeldSocket>>,
}

impl Readiness for NodeReadiness {
    async fn missing(&self) -> Option<String> {
        if self.in_force.borrow().config.is_none() {
            return Some("there is no configuration yet".to_owned());
        }
        self.sockets.borrow().is_empty().then(|| "the agent has handed over no socket yet".to_owned())
    }
}
