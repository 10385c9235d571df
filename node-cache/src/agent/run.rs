//! The agent as a process: the order in which it starts and stops, and its loop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::NAME;
use super::args::Args;
use super::http;
use super::instances::Instances;
use super::interface::{Interface, InterfaceError};
use super::metrics::Metrics;
use super::nft::{Nft, RuleSync};
use super::readiness::AgentState;
use super::reconciler::Reconciler;
use super::rules::Rules;
use super::self_query::SelfQuery;
use super::status::NodeStatusReporter;
use crate::admin::{self, socket_path};
use crate::dns::NameError;
use crate::handover;
use crate::handover::server::Server;
use crate::identity::{Identity, pod_addresses};
use crate::revision::{self, ActiveRevision};

/// How long a restarted agent waits for the sockets that the caches hold. Addresses live five seconds.
const ADOPTION: Duration = Duration::from_secs(1);
/// How long it may take to withdraw everything. A kubelet waits longer, and the lifetimes end what is left.
const WITHDRAWAL: Duration = Duration::from_secs(2);
/// How long caches that stop as well have for what they are still about to answer.
const LAST_ANSWERS: Duration = Duration::from_millis(1500);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A variable is missing.
    #[error("POD_UID is not set; without it the agent cannot tell this pod's caches from anybody else")]
    NoPodUid,
    /// The Unix socket for the caches cannot be made.
    #[error("the socket that hands over sockets cannot be made: {0}")]
    Handover(#[source] std::io::Error),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signal(#[source] std::io::Error),
    /// The name of the self-query is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The node's addresses cannot be changed.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}

/// Captures the addresses of this node until it is told to stop (SIGTERM, SIGINT), then withdraws them.
///
/// # Errors
///
/// [`AgentError`] when something that it cannot do without is missing at the start. Nothing was changed then.
pub async fn run(args: Args) -> Result<(), AgentError> {
    let identity = Identity::of(NAME);
    if identity.pod_uid.is_empty() {
        return Err(AgentError::NoPodUid);
    }
    let mut stop = Stop::new().map_err(AgentError::Signal)?;
    let server = Server::bind(&handover::socket_path(&args.run_dir)).map_err(AgentError::Handover)?;
    let interface = Interface::open().await?;
    let nft = Nft::at(&args.nft);
    let mut in_force = revision::watch(&args.config_dir);
    let metrics = Arc::new(Metrics::default());
    let (told, telling) = watch::channel(AgentState::nothing(std::time::Instant::now()));
    let report = Arc::new(NodeStatusReporter {
        identity: identity.clone(),
        told: telling,
        in_force: in_force.clone(),
        instances: Instances::new(args.run_dir.clone(), args.instances.into()),
        metrics: Arc::clone(&metrics),
    });
    let _answering = answer(&args, &report);

    let asker = SelfQuery::new(&identity.pod_uid)?;
    let mut node = Reconciler::new(interface, RuleSync::start(nft.clone()), server, asker, metrics, told);
    if let Some(tier) = first_tier(&mut node, &mut in_force, &mut stop).await {
        let left = left_behind(&nft, &tier).await;
        node.take_over(&left).await;
        adopt(&mut node, args.instances.into(), &mut stop).await;
        hold(&mut node, &mut in_force, &mut stop).await;
        withdraw(&mut node, &in_force).await;
    }
    let Reconciler { server, keeper, .. } = node;
    // Caches that were told to stop have waited for this.
    drop(server);
    // The rules for answers go last, when nobody is left who could answer.
    let _ = timeout(LAST_ANSWERS, report.instances.gone()).await;
    if let Err(error) = keeper.finish().await {
        tracing::warn!("the packet rules are left behind, where they match nothing: {error}");
    }
    tracing::info!("everything is withdrawn");
    Ok(())
}

/// Answers on the control socket and on the addresses of the pod until the result is dropped.
fn answer(args: &Args, report: &Arc<NodeStatusReporter>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (path, own) = (socket_path(&args.run_dir, NAME), Arc::clone(report));
    tasks.spawn(async move {
        if let Err(error) = admin::serve(&path, own).await {
            tracing::error!("{}: {error}", path.display());
        }
    });
    for address in pod_addresses() {
        tasks.spawn(http::serve(address, args.metrics_port, Arc::clone(report)));
    }
    tasks
}

/// Waits for the first configuration and gives the name of its tier; none if the agent is to stop before.
async fn first_tier(
    node: &mut Reconciler,
    in_force: &mut watch::Receiver<Arc<ActiveRevision>>,
    stop: &mut Stop,
) -> Option<String> {
    loop {
        let current = in_force.borrow_and_update().clone();
        if let Some(config) = &current.config {
            return Some(config.tier.clone());
        }
        let due = node.turn(&current).await;
        tokio::select! {
            () = stop.wait() => return None,
            changed = in_force.changed() => changed.ok()?,
            () = sleep_until(due.into()) => {}
        }
    }
}

/// What an earlier agent left of its rules.
async fn left_behind(nft: &Nft, tier: &str) -> Rules {
    match nft.list(tier).await {
        Ok(listing) => Rules::from_listing(tier, &listing.unwrap_or_default()),
        Err(error) => {
            tracing::warn!("{error}");
            Rules::default()
        }
    }
}

/// Takes in the sockets that the caches hold, until all of them were heard or the time is over.
async fn adopt(node: &mut Reconciler, instances: usize, stop: &mut Stop) {
    let deadline = Instant::now() + ADOPTION;
    let mut heard = BTreeSet::new();
    while heard.len() < instances {
        let offer = tokio::select! {
            offer = timeout_at(deadline, node.server.next_offer()) => offer,
            () = stop.wait() => return,
        };
        let Ok(Some(offer)) = offer else { return };
        if !offer.sockets.is_empty() {
            tracing::info!("{} offers {} sockets", offer.instance, offer.sockets.len());
        }
        node.sockets.adopt(offer.sockets);
        heard.insert(offer.instance);
    }
}

/// Turn after turn, until the agent is to stop.
async fn hold(node: &mut Reconciler, in_force: &mut watch::Receiver<Arc<ActiveRevision>>, stop: &mut Stop) {
    let mut rules = node.keeper.in_force();
    let mut connected = node.server.connected();
    loop {
        let current = in_force.borrow_and_update().clone();
        rules.borrow_and_update();
        connected.borrow_and_update();
        let due = node.turn(&current).await;
        let gone = tokio::select! {
            () = stop.wait() => return,
            () = sleep_until(due.into()) => false,
            changed = rules.changed() => changed.is_err(),
            changed = connected.changed() => changed.is_err(),
            changed = in_force.changed() => changed.is_err(),
        };
        if gone {
            tracing::error!("a part of the agent ended by itself");
            return;
        }
    }
}

/// Turns the switches off, waits for what is in flight and takes the addresses from the node.
async fn withdraw(node: &mut Reconciler, in_force: &watch::Receiver<Arc<ActiveRevision>>) {
    node.stop();
    let deadline = Instant::now() + WITHDRAWAL;
    let mut rules = node.keeper.in_force();
    let current = in_force.borrow().clone();
    loop {
        rules.borrow_and_update();
        let due = node.turn(&current).await;
        if node.holds_nothing() || Instant::now() >= deadline {
            return;
        }
        tokio::select! {
            () = sleep_until(due.into()) => {}
            _ = rules.changed() => {}
        }
    }
}

/// The signals that end the agent. Once one came, every wait is over.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    came: bool,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())?, came: false })
    }

    async fn wait(&mut self) {
        if !self.came {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            self.came = true;
        }
    }
}
