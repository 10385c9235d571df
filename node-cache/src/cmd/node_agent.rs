//! Program `node-agent`: captures the addresses of a node for the caches of its pod, and withdraws them at shutdown.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::args::Directories;
use super::logging::LogArgs;
use super::probe::Probe;
use super::shutdown::Shutdown;
use super::status_http::{self, HttpClient, ProbeParameters, StatusPages};
use super::{ProgramError, block_on};
use crate::agent::instances::Instances;
use crate::agent::interface::Interface;
use crate::agent::metrics::Metrics;
use crate::agent::nft::{Nft, RuleSync};
use crate::agent::readiness::AgentState;
use crate::agent::reconciler::Reconciler;
use crate::agent::rules::Rules;
use crate::agent::self_query::SelfQuery;
use crate::agent::status::NodeStatusReporter;
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
    let instances = Arc::new(Instances::new(args.directories.run.clone(), args.instances.into()));
    let reporter =
        NodeStatusReporter::new(identity.clone(), current_state, active.clone(), instances, Arc::clone(&metrics));
    let reporter = Arc::new(reporter);
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
    async fn status(&self) -> Bytes {
        self.status_page().await
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
    ConnectInfo(HttpClient(client)): ConnectInfo<HttpClient>,
    parameters: Result<Query<ProbeParameters>, QueryRejection>,
) -> Response {
    let Ok(Query(ProbeParameters { name, rtype })) = parameters else { return ProbeParameters::usage() };
    status_http::probe_response(reporter.probe(&name, rtype.as_deref(), Some(client)).await)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use node_cache_config::Config;
    use node_cache_config::probes::{ProbeName, ProbeResult};
    use node_cache_config::status::NodeStatus;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::sleep;

    use super::*;
    use crate::admin::CommandHandler;
    use crate::admin::bounded_status::tests::{routes as routes_of_tier, status};
    use crate::admin::shared_probes::SharedProbes;

    /// Time that each probe takes.
    const PROBE_TIME: Duration = Duration::from_millis(50);

    /// Cache with the room for probes that a process has. It counts those that it makes.
    struct Cache {
        probes: SharedProbes<ProbeName>,
        made: Arc<AtomicUsize>,
    }

    impl CommandHandler for Cache {
        async fn handle(&self, command: admin::Command) -> String {
            let admin::Command::Probe(probe) = command else {
                return serde_json::to_string(&status(routes_of_tier(256), 2)).unwrap();
            };
            let made = self.made.clone();
            let make = || async move {
                made.fetch_add(1, Ordering::Relaxed);
                sleep(PROBE_TIME).await;
                Ok(ProbeResult::default())
            };
            match self.probes.ask(probe, None, make).await {
                Ok(result) => serde_json::to_string(&result).unwrap(),
                Err(refusal) => refusal.to_string(),
            }
        }
    }

    /// Pages of an agent with two caches.
    struct Agent {
        reporter: Arc<NodeStatusReporter>,
        address: SocketAddr,
        made: Arc<AtomicUsize>,
        _run_dir: TempDir,
        _tasks: JoinSet<()>,
    }

    impl Agent {
        async fn start() -> Self {
            let run_dir = tempfile::tempdir().unwrap();
            let (made, mut tasks) = (Arc::<AtomicUsize>::default(), JoinSet::new());
            for name in ["cache-0", "cache-1"] {
                let path = admin::socket_path(run_dir.path(), name);
                let cache = Arc::new(Cache { probes: SharedProbes::new(1), made: made.clone() });
                tasks.spawn(async move { admin::serve(&path, cache).await.unwrap() });
            }
            let mut config = Config::example();
            config.node_cache.probes =
                (0..16).map(|number| ProbeName::new(&format!("w{number}.example"), "A")).collect();
            let (_, active) = watch::channel(Arc::new(ActiveRevision {
                config: Some(Arc::new(config)),
                ..ActiveRevision::default()
            }));
            let (_, state) = watch::channel(AgentState::initial(std::time::Instant::now()));
            let instances = Arc::new(Instances::new(run_dir.path().to_owned(), 2));
            let reporter = NodeStatusReporter::new(Identity::default(), state, active, instances, Arc::default());
            let reporter = Arc::new(reporter);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tasks.spawn(status_http::serve(listener, routes(&reporter)));
            sleep(Duration::from_millis(50)).await;
            Self { reporter, address, made, _run_dir: run_dir, _tasks: tasks }
        }
    }

    /// Returns the response to a request of the client with this number; `None` where its connection is refused.
    async fn get(client: u8, server: SocketAddr, path: &str) -> Option<String> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::from([127, 0, 10, client]), 0)).unwrap();
        let mut stream = socket.connect(server).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        (!response.is_empty()).then_some(response)
    }

    /// Returns the status code of a probe.
    async fn probe(client: u8, server: SocketAddr, name: usize) -> Option<u16> {
        let response = get(client, server, &format!("/probe?name=w{name}.example&type=A")).await?;
        response.split(' ').nth(1)?.parse().ok()
    }

    #[tokio::test]
    async fn many_callers_of_a_name_cost_one_probe_and_have_one_result() {
        let agent = Agent::start().await;
        let callers = (0..24).map(|number| probe(1 + number % 8, agent.address, 7));
        let codes = futures::future::join_all(callers).await;
        assert_eq!(codes, vec![Some(200); 24]);
        assert_eq!(agent.made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_asks_for_other_names_in_a_loop_takes_no_answer_from_an_operator() {
        let agent = Agent::start().await;
        let server = agent.address;
        let mut others = JoinSet::new();
        let refused = Arc::<AtomicUsize>::default();
        for connection in 0..4 {
            let refused = refused.clone();
            others.spawn(async move {
                for number in 0.. {
                    let code = probe(1, server, (connection * 4 + number) % 15).await;
                    refused.fetch_add(usize::from(code == Some(429)), Ordering::Relaxed);
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        sleep(Duration::from_secs(2)).await;
        let mut codes = Vec::new();
        for second in 0..5 {
            let looks = (0..3).map(|number| probe(2, server, (second * 3 + number) % 16));
            let (of_second, ()) = tokio::join!(futures::future::join_all(looks), sleep(Duration::from_secs(1)));
            codes.extend(of_second);
        }
        assert!(refused.load(Ordering::Relaxed) > 20, "the other one asks for more than there is");
        assert!(codes.iter().all(|code| matches!(code, Some(200 | 429))), "{codes:?}");
        let answered = codes.iter().filter(|code| **code == Some(200)).count();
        assert!(answered >= 12, "{codes:?}");
    }

    #[tokio::test]
    async fn all_who_ask_for_the_status_within_a_moment_share_one_text() {
        let agent = Agent::start().await;
        let (page, other) = tokio::join!(agent.reporter.status_page(), agent.reporter.status_page());
        assert!(std::ptr::eq(&raw const *page, &raw const *other));
        let response = get(1, agent.address, "/status").await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json\r\n"), "{head}");
        let status: NodeStatus = serde_json::from_str(body).unwrap();
        let upstreams: Vec<_> = status.instances.iter().map(|it| (it.alive, it.upstreams.len())).collect();
        assert_eq!((upstreams, body.len() > 256 * 1024), (vec![(true, 512); 2], true));
    }
}
