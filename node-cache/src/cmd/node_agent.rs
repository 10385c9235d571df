//! Program `node-agent`: captures the addresses of a node for the caches of its pod, and withdraws them at shutdown.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::{Parser, Subcommand};
use node_cache_config::status::NodeStatus;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::args::Directories;
use super::logging::LogArgs;
use super::probe::Probe;
use super::shutdown::Shutdown;
use super::status_http::{self, ProbeParameters, StatusPages};
use super::{ProgramError, block_on};
use crate::agent::instances::Instances;
use crate::agent::interface::Interface;
use crate::agent::metrics::Metrics;
use crate::agent::nft::{Nft, RuleSync};
use crate::agent::readiness::AgentState;
use crate::agent::reconciler::Reconciler;
use crate::agent::rules::Rules;
use crate::agent::self_query::SelfQuery;
use crate::agent::status::{NodeStatusReporter, ProbeError};
use crate::handover::server::Server;
use crate::identity::{Identity, pod_addresses};
use crate::revision::ActiveRevision;
use crate::{admin, handover, revision};

/// Name of the agent among the processes of the pod, and of its control socket.
const NAME: &str = "agent";
/// Time that the agent has to answer a probe; the kubelet's own timeout is a second by default.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Time that a restarted agent waits for the sockets that the caches hold. Captured addresses last five seconds.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that the withdrawal of all addresses may take. The kubelet waits longer, and what is left ends with its
/// lifetime.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that caches, which are stopped as well, have for the queries in flight.
const LAST_RESPONSES_TIMEOUT: Duration = Duration::from_millis(1500);

/// The agent of a node: captures addresses for the caches of this node, as a lease that ends by itself.
#[derive(Clone, Debug, Parser)]
#[command(name = "node-agent", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Capture the addresses of the configuration until SIGTERM, then withdraw them
    Run(RunArgs),
    /// Ask the agent of this pod whether it is live or ready
    Probe(Probe),
}

/// Arguments of a running agent.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    directories: Directories,
    /// How many caches run in this pod
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    instances: u8,
    /// Port of /status, /metrics and /probe on the addresses of the pod
    #[arg(long, default_value_t = 9353)]
    metrics_port: u16,
    /// The nft program; searched by its name in PATH where there is none at this path
    #[arg(long, default_value = "/usr/sbin/nft")]
    nft: PathBuf,
    #[command(flatten)]
    log: LogArgs,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] when something that the agent needs is missing at the start (nothing was changed then), or when
    /// a probe fails.
    pub fn run(self) -> Result<(), ProgramError> {
        match self.command {
            Command::Run(args) => {
                args.log.start();
                block_on(run(args))
            }
            Command::Probe(probe) => block_on(probe.run(NAME, PROBE_TIMEOUT)),
        }
    }
}

/// Captures the addresses of this node until SIGTERM or SIGINT, then withdraws them.
async fn run(args: RunArgs) -> Result<(), ProgramError> {
    let identity = Identity::from_env(NAME);
    if identity.pod_uid.is_empty() {
        return Err(ProgramError::NoPodUid);
    }
    let mut shutdown = Shutdown::listen().map_err(ProgramError::Start)?;
    let handover_path = handover::socket_path(&args.directories.run);
    let server = Server::bind(&handover_path, args.instances.into())
        .map_err(|source| ProgramError::UnixSocket { path: handover_path, source })?;
    let interface = Interface::open().await?;
    let nft = Nft::at(&args.nft);
    let mut active = revision::watch(&args.directories.config);
    let metrics = Arc::new(Metrics::default());
    let (state, current_state) = watch::channel(AgentState::initial(std::time::Instant::now()));
    let reporter = Arc::new(NodeStatusReporter {
        identity: identity.clone(),
        state: current_state,
        active: active.clone(),
        instances: Instances::new(args.directories.run.clone(), args.instances.into()),
        metrics: Arc::clone(&metrics),
    });
    let _reporting = report(&args, &reporter);

    let self_query = SelfQuery::new(&identity.pod_uid)?;
    let rule_sync = RuleSync::start(nft.clone());
    let instances = Arc::new(Instances::new(args.directories.run.clone(), args.instances.into()));
    let mut reconciler = Reconciler::new(interface, rule_sync, server, self_query, instances, metrics, state);
    if let Some(tier) = wait_for_tier(&mut reconciler, &mut active, &mut shutdown).await {
        let installed = installed_rules(&nft, &tier).await;
        reconciler.adopt_addresses(&installed).await;
        adopt_sockets(&mut reconciler, args.instances.into(), &mut shutdown).await;
        reconcile_until_shutdown(&mut reconciler, &mut active, &mut shutdown).await;
        withdraw(&mut reconciler, &active).await;
    }
    let Reconciler { server, rule_sync, .. } = reconciler;
    // Caches that got SIGTERM as well wait for this disconnection.
    drop(server);
    // The rules for responses go last, when no cache is left that could send one.
    let _ = timeout(LAST_RESPONSES_TIMEOUT, reporter.instances.wait_until_gone()).await;
    if let Err(error) = rule_sync.finish().await {
        tracing::warn!(%error, "the packet rules stay behind, where they match nothing");
    }
    tracing::info!("all addresses are withdrawn");
    Ok(())
}

/// Serves the control socket and the addresses of the pod until the result is dropped.
fn report(args: &RunArgs, reporter: &Arc<NodeStatusReporter>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let path = admin::socket_path(&args.directories.run, NAME);
    let commands = Arc::clone(reporter);
    tasks.spawn(async move {
        if let Err(error) = admin::serve(&path, commands).await {
            tracing::error!(path = %path.display(), %error, "the control socket cannot be served");
        }
    });
    for address in pod_addresses() {
        let address = SocketAddr::new(address, args.metrics_port);
        tasks.spawn(status_http::serve_when_free(address, routes(reporter)));
    }
    tasks
}

/// Waits for the first configuration and returns the name of its tier; `None` if shutdown is requested before.
async fn wait_for_tier(
    reconciler: &mut Reconciler,
    active: &mut watch::Receiver<Arc<ActiveRevision>>,
    shutdown: &mut Shutdown,
) -> Option<String> {
    loop {
        let current = active.borrow_and_update().clone();
        if let Some(config) = &current.config {
            return Some(config.tier.clone());
        }
        let requeue_at = reconciler.reconcile(&current).await;
        tokio::select! {
            () = shutdown.requested() => return None,
            changed = active.changed() => changed.ok()?,
            () = sleep_until(requeue_at.into()) => {}
        }
    }
}

/// Returns the rules that an earlier agent left in the kernel.
async fn installed_rules(nft: &Nft, tier: &str) -> Rules {
    match nft.list(tier).await {
        Ok(listing) => Rules::from_listing(tier, &listing.unwrap_or_default()),
        Err(error) => {
            tracing::warn!(%error, "the packet rules of an earlier agent cannot be read");
            Rules::default()
        }
    }
}

/// Adopts the sockets that the caches hold, until each cache has offered its own or [`ADOPTION_TIMEOUT`] has passed.
async fn adopt_sockets(reconciler: &mut Reconciler, instances: usize, shutdown: &mut Shutdown) {
    let deadline = Instant::now() + ADOPTION_TIMEOUT;
    let mut offered_by = BTreeSet::new();
    while offered_by.len() < instances {
        let offer = tokio::select! {
            offer = timeout_at(deadline, reconciler.server.next_offer()) => offer,
            () = shutdown.requested() => return,
        };
        let Ok(Some(offer)) = offer else { return };
        if !offer.sockets.is_empty() {
            tracing::info!(instance = offer.instance, sockets = offer.sockets.len(), "a cache offers its sockets");
        }
        reconciler.sockets.adopt(offer.sockets);
        offered_by.insert(offer.instance);
    }
}

/// Reconciles again and again, until shutdown is requested.
async fn reconcile_until_shutdown(
    reconciler: &mut Reconciler,
    active: &mut watch::Receiver<Arc<ActiveRevision>>,
    shutdown: &mut Shutdown,
) {
    let mut installed = reconciler.rule_sync.installed();
    let mut connected = reconciler.server.connected();
    loop {
        let current = active.borrow_and_update().clone();
        installed.borrow_and_update();
        connected.borrow_and_update();
        let requeue_at = reconciler.reconcile(&current).await;
        let is_part_gone = tokio::select! {
            () = shutdown.requested() => return,
            () = sleep_until(requeue_at.into()) => false,
            changed = installed.changed() => changed.is_err(),
            changed = connected.changed() => changed.is_err(),
            changed = active.changed() => changed.is_err(),
        };
        if is_part_gone {
            tracing::error!("a task of the agent ended by itself");
            return;
        }
    }
}

/// Removes the redirect rules, waits for the queries in flight, and removes the addresses from the node.
async fn withdraw(reconciler: &mut Reconciler, active: &watch::Receiver<Arc<ActiveRevision>>) {
    reconciler.stop();
    let deadline = Instant::now() + WITHDRAWAL_TIMEOUT;
    let mut installed = reconciler.rule_sync.installed();
    let current = active.borrow().clone();
    loop {
        installed.borrow_and_update();
        let requeue_at = reconciler.reconcile(&current).await;
        if reconciler.is_withdrawn() || Instant::now() >= deadline {
            return;
        }
        tokio::select! {
            () = sleep_until(requeue_at.into()) => {}
            _ = installed.changed() => {}
        }
    }
}

impl StatusPages for NodeStatusReporter {
    type Status = NodeStatus;

    async fn status(&self) -> NodeStatus {
        self.node_status().await
    }

    async fn metrics(&self) -> String {
        self.metrics_text().await
    }
}

/// Router of an agent: `/status`, `/metrics`, and `/probe?name=`.
fn routes(reporter: &Arc<NodeStatusReporter>) -> Router {
    status_http::routes::<NodeStatusReporter>().route("/probe", get(probe)).with_state(reporter.clone())
}

async fn probe(
    State(reporter): State<Arc<NodeStatusReporter>>,
    parameters: Result<Query<ProbeParameters>, QueryRejection>,
) -> Response {
    let Ok(Query(ProbeParameters { name, rtype })) = parameters else { return ProbeParameters::usage() };
    match reporter.probe(&name, rtype.as_deref()).await {
        Ok(result) => Json(result).into_response(),
        Err(error @ ProbeError::Unknown(_)) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
        Err(error @ ProbeError::Failed(_)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
