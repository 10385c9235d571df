//! Program `node-cache`: a caching resolver of a node. Its sockets come from the agent; its misses go to the resolvers
//! of its zone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use node_cache_config::names::RUN_DIR;
use node_cache_sys::malloc::share_one_arena;

use super::args::{Directories, bytes, workers};
use super::ask::Ask;
use super::config::{Role, apply_revisions};
use super::inspect::Inspect;
use super::logging::LogArgs;
use super::probe::Probe;
use super::prober::Prober;
use super::readiness::{NodeReadiness, query_silent_upstreams};
use super::shutdown::{Shutdown, wait_until_withdrawn};
use super::status_reporter::StatusReporter;
use super::tap::Tap;
use super::{ProgramError, block_on, usable_cache_bytes};
use crate::handover::client::Client;
use crate::identity::Identity;
use crate::resolver::Resolver;
use crate::server::{Server, TcpLimits};
use crate::{admin, dnstap, handover, revision};

/// Time that a cache has to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// A caching resolver of a node.
#[derive(Clone, Debug, Parser)]
#[command(name = "node-cache", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Answer queries until SIGTERM
    Run(RunArgs),
    /// Ask a running cache of this pod whether it is live or ready
    Probe {
        /// Name of the cache
        #[arg(long)]
        instance: String,
        #[command(flatten)]
        probe: Probe,
    },
    /// Resolve a name as any pod does and say which server responded
    Ask(Ask),
    /// Ask the running caches of this pod about their cached responses
    #[command(flatten)]
    Inspect(Inspect),
    /// Write samples of the queries and responses of the running caches of this pod to standard output, as dnstap
    Tap(Tap),
}

/// Arguments of a running cache.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    /// Name of this cache among those of its pod: cache-0, cache-1, …
    #[arg(long)]
    instance: String,
    #[command(flatten)]
    directories: Directories,
    /// Bytes that the cache may hold
    #[arg(long, value_parser = bytes)]
    cache_size: u64,
    /// Threads that each read every socket, 1 to 64. A node has several caches to begin with
    #[arg(long, default_value = "1", value_parser = workers)]
    workers: usize,
    #[command(flatten)]
    log: LogArgs,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] when the cache cannot start, or when a probe fails.
    pub fn run(self) -> Result<(), ProgramError> {
        match self.command {
            Command::Run(args) => {
                share_one_arena();
                args.log.start();
                block_on(run(args))
            }
            Command::Probe { instance, probe } => block_on(probe.run(&instance, PROBE_TIMEOUT)),
            Command::Ask(ask) => block_on(ask.run()),
            Command::Inspect(inspect) => {
                let run_dir = Path::new(RUN_DIR);
                block_on(inspect.run(run_dir, &running_caches(run_dir)))
            }
            Command::Tap(tap) => block_on(tap.run(&running_caches(&tap.run_dir))),
        }
    }
}

/// Returns the names of the caches that have a control socket in this directory, sorted.
fn running_caches(run_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let is_cache = |name: &&str| name.starts_with("cache-") && !name.contains('.');
    let name = |file: &str| file.strip_suffix(".sock").filter(is_cache).map(str::to_owned);
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.file_name().to_str()?)).collect();
    names.sort();
    names
}

/// Runs a cache until SIGTERM, and on until the agent has withdrawn the addresses.
async fn run(args: RunArgs) -> Result<(), ProgramError> {
    let mut shutdown = Shutdown::listen().map_err(ProgramError::Start)?;
    let identity = Identity::from_env(&args.instance);
    let cache_bytes = usable_cache_bytes(args.cache_size, args.workers)?;
    let resolver = Arc::new(Resolver::new(identity, cache_bytes, Arc::default()));
    let active = revision::watch(&args.directories.config);
    let agent = Client::start(&handover::socket_path(&args.directories.run), &args.instance);
    let limits = TcpLimits::default();
    let server = Server::start(args.workers, resolver.clone(), limits, agent.sockets(), agent.secrets())
        .map_err(ProgramError::Start)?;
    let reporter = Arc::new(StatusReporter {
        resolver: resolver.clone(),
        revision: active.clone(),
        readiness: NodeReadiness { revision: active.clone(), sockets: agent.sockets() },
        workers: server.workers().clone(),
        prober: Prober::new(resolver.clone(), active.clone()),
    });
    let control_path = admin::socket_path(&args.directories.run, &args.instance);
    let tap_path = dnstap::socket_path(&args.directories.run, &args.instance);
    tokio::select! {
        () = apply_revisions(resolver.clone(), active, Role::NodeCache) => {}
        // The agent captures no address before upstreams have responded, and until then no pod sends queries.
        () = query_silent_upstreams(&resolver) => {}
        served = admin::serve(&control_path, reporter) => {
            served.map_err(|source| ProgramError::UnixSocket { path: control_path, source })?;
        }
        served = dnstap::serve(&tap_path, resolver.tap().clone()) => {
            served.map_err(|source| ProgramError::UnixSocket { path: tap_path, source })?;
        }
        () = async {
            shutdown.requested().await;
            tracing::info!("shutdown requested; answering until the addresses are withdrawn");
            wait_until_withdrawn(&resolver, &mut agent.connected()).await;
            server.drain().await;
        } => {}
    }
    tracing::info!("stopped");
    Ok(())
}
