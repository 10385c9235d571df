//! A group of equivalent servers: the resolvers of a zone, the pods of the cluster DNS, the upstreams of a route.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use node_cache_config::Upstream;
use node_cache_config::status::UpstreamStatus;
use tokio::sync::Notify;

use super::health::Health;
use super::judgement::judge_servers;
use super::timestamp::Timestamp;
use super::{GroupRetries, PacketPace, Role, Server, UpstreamContext};
use crate::dns::question::Question;
use crate::upstream::budget::Budget;
use crate::upstream::transport::query_format::EdnsUse;
use crate::upstream::transport::sockets::PortPolicy;

/// Time for which a reserve is probed after it was needed.
const NEED_PERIOD: Duration = Duration::from_secs(5);

/// A group of equivalent servers. Discovered servers are pods of this project or of the cluster DNS and are queried
/// from reused ports. Bootstrap servers may be foreign, or stand for several pods, and are queried from fresh ports,
/// but for link-local ones, which are those of a cloud. They are used while no server was discovered or all of those
/// are down.
#[derive(Debug)]
pub struct Group {
    scope: String,
    edns: EdnsUse,
    role: Role,
    /// When a pool whose tiers are down last needed the group as its reserve.
    needed_at: Mutex<Option<Instant>>,
    discovered: ArcSwap<Vec<Arc<Server>>>,
    bootstrap: Vec<Arc<Server>>,
    went_down: Arc<Notify>,
    retries: Arc<GroupRetries>,
    context: Arc<UpstreamContext>,
}

impl Group {
    /// Creates a group of these bootstrap servers and initially discovered ones. `scope` is its name in status and
    /// metrics.
    pub(in crate::upstream) fn new(
        scope: &str,
        bootstrap: &[Upstream],
        discovered: &[SocketAddr],
        edns: EdnsUse,
        role: Role,
        context: &Arc<UpstreamContext>,
    ) -> Self {
        let went_down = Arc::new(Notify::new());
        let retries = Arc::new(GroupRetries::default());
        let counts = context.counts_of(scope);
        let new_server = |upstream, port_policy| {
            let (role, counts, went_down) = (role.clone(), counts.clone(), went_down.clone());
            let (retries, context) = (retries.clone(), context.clone());
            Arc::new(Server::new(upstream, edns, role, port_policy, counts, went_down, retries, context))
        };
        let bootstrap = bootstrap
            .iter()
            .map(|upstream| new_server(upstream.clone(), PortPolicy::of_upstream(upstream.address.ip())))
            .collect();
        let discovered = discovered.iter().map(|address| new_server((*address).into(), PortPolicy::Reuse)).collect();
        Self {
            scope: scope.to_owned(),
            edns,
            role,
            needed_at: Mutex::default(),
            discovered: ArcSwap::from_pointee(discovered),
            bootstrap,
            went_down,
            retries,
            context: context.clone(),
        }
    }

    /// Returns the name in status and metrics.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Calls `visit` with each server that may be selected now, and its health: the discovered ones, and the bootstrap
    /// servers if none of those is up.
    pub(in crate::upstream) fn for_each_candidate(&self, now: Timestamp, mut visit: impl FnMut(&Arc<Server>, Health)) {
        self.visit(|servers| {
            servers.iter().fold(false, |any_up, server| {
                let health = server.health(now);
                visit(server, health);
                any_up || health == Health::Up
            })
        });
    }

    /// Calls `visit` with the discovered servers, and with the bootstrap servers if it returns that none of them is up.
    pub(in crate::upstream) fn visit(&self, mut visit: impl FnMut(&[Arc<Server>]) -> bool) {
        if !visit(&self.discovered.load()) {
            visit(&self.bootstrap);
        }
    }

    /// Returns the shortest latency of a server that may be selected now; `None` while it is not known of any.
    pub(in crate::upstream) fn best_latency(&self, now: Timestamp) -> Option<Duration> {
        let mut best: Option<Duration> = None;
        self.for_each_candidate(now, |server, health| {
            if health == Health::Up
                && let Some(latency) = server.best_latency(now)
            {
                best = Some(best.map_or(latency, |best| best.min(latency)));
            }
        });
        best
    }

    /// Judges the servers by their outcomes since the last time: outliers are left for a while.
    pub(in crate::upstream) fn judge(&self, now: Instant) {
        judge_servers(&self.discovered.load(), now);
        judge_servers(&self.bootstrap, now);
    }

    /// Returns whether the server with this ID, which is not 0, is one of those that the configuration names.
    pub(in crate::upstream) fn has_server(&self, id: u16) -> bool {
        id != 0 && self.bootstrap.iter().any(|server| server.id() == id)
    }

    /// Returns when a server last came up again after it was down.
    pub(in crate::upstream) fn recovered_at(&self) -> Option<Instant> {
        self.discovered.load().iter().chain(&self.bootstrap).filter_map(|server| server.recovered_at()).max()
    }

    /// Returns whether a server of the group has sent any response.
    pub(in crate::upstream) fn has_responded(&self) -> bool {
        self.discovered.load().iter().chain(&self.bootstrap).any(|server| server.has_responded())
    }

    /// Closes idle sockets that have reached the maximum age, also those of servers without queries.
    pub(in crate::upstream) fn close_expired_sockets(&self, now: Instant) {
        self.discovered.load().iter().chain(&self.bootstrap).for_each(|server| server.sockets().close_expired(now));
    }

    /// Returns the pace of the packets to all servers together, where the group is a last resort.
    pub(in crate::upstream) fn pace(&self) -> Option<&PacketPace> {
        match &self.role {
            Role::Reserve(Some(pace)) => Some(pace),
            Role::Regular | Role::Upstream | Role::Reserve(None) => None,
        }
    }

    /// Records that a pool whose tiers are down needs the group as its reserve.
    pub(in crate::upstream) fn record_need(&self, now: Instant) {
        *self.needed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Returns whether the group is in use: always for one of a tier, and for a reserve while it is needed.
    fn is_in_use(&self, now: Instant) -> bool {
        let needed_at = || *self.needed_at.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(self.role, Role::Reserve(_))
            || needed_at().is_some_and(|at| now.saturating_duration_since(at) < NEED_PERIOD)
    }

    /// Adds the retries that queries up to `now` have earned. Called once a second.
    pub(in crate::upstream) fn refill_retry_budget(&self, now: Instant) {
        let known_loss = self.bootstrap.iter().map(|server| server.known_loss()).fold(0.0, f64::max);
        self.retries.budget.refill(known_loss, now);
    }

    /// Returns the servers that are down and due for a probe, each with the question of its probe, and records the
    /// probes. None of a reserve that is not needed: it gets no packet.
    pub(in crate::upstream) fn take_probes(&self, now: Instant) -> Vec<(Arc<Server>, Arc<Question>)> {
        if !self.is_in_use(now) {
            return Vec::new();
        }
        let discovered = self.discovered.load();
        let servers = discovered.iter().chain(&self.bootstrap);
        servers.filter_map(|server| Some((server.clone(), server.take_probe(None, now)?))).collect()
    }

    /// Returns the addresses of the discovered servers.
    #[must_use]
    pub fn discovered(&self) -> Vec<SocketAddr> {
        self.discovered.load().iter().map(|server| server.address()).collect()
    }

    /// Replaces the discovered servers. Servers that remain keep their health, latency and counters. An empty set
    /// changes nothing: the last known servers are a better choice than none.
    pub(in crate::upstream) fn set_discovered(&self, addresses: &[SocketAddr]) {
        if addresses.is_empty() {
            return;
        }
        let previous = self.discovered.load();
        let new_server = |address: SocketAddr| {
            let (went_down, retries, context) = (self.went_down.clone(), self.retries.clone(), self.context.clone());
            let counts = context.counts_of(&self.scope);
            let (upstream, role, policy) = (Upstream::from(address), self.role.clone(), PortPolicy::Reuse);
            Arc::new(Server::new(upstream, self.edns, role, policy, counts, went_down, retries, context))
        };
        let servers: Vec<Arc<Server>> = addresses
            .iter()
            .map(|address| {
                let known = previous.iter().find(|server| server.address() == *address);
                known.map_or_else(|| new_server(*address), Arc::clone)
            })
            .collect();
        let is_known = |server: &Arc<Server>| previous.iter().any(|known| Arc::ptr_eq(known, server));
        let is_changed = servers.len() != previous.len() || !servers.iter().all(is_known);
        if is_changed {
            tracing::info!(scope = self.scope, servers = servers.len(), "discovered servers have changed");
            self.discovered.store(Arc::new(servers));
        }
    }

    /// Replaces the packet budgets of the bootstrap servers by those that `budget_of` returns.
    pub(in crate::upstream) fn set_budgets(&self, mut budget_of: impl FnMut(SocketAddr) -> Option<Arc<Budget>>) {
        self.bootstrap.iter().for_each(|server| server.gate().set_budget(budget_of(server.address())));
    }

    /// Returns the servers whose limits are detected.
    pub(in crate::upstream) fn watched(&self) -> &[Arc<Server>] {
        if matches!(self.role, Role::Upstream) { &self.bootstrap } else { &[] }
    }

    /// Waits until a server of the group goes down.
    pub(in crate::upstream) async fn wait_until_server_down(&self) {
        self.went_down.notified().await;
    }

    /// Returns health and counters of [`Self::servers`].
    #[must_use]
    pub fn status(&self) -> Vec<UpstreamStatus> {
        let status = |server: Arc<Server>| UpstreamStatus {
            scope: self.scope.clone(),
            address: server.address(),
            healthy: server.is_up(),
            state: server.upstream_state(),
            responded: server.has_responded(),
            sent: server.sent(),
            timeouts: server.timeouts(),
            in_flight: server.attempts_in_flight(),
            near_misses: server.near_misses(),
            detection: server.detection_status(unix_second),
        };
        self.servers().into_iter().map(status).collect()
    }

    /// Returns the servers, each address once. Bootstrap servers are included while no server was discovered or after
    /// they were queried.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let discovered = self.discovered.load();
        let is_discovered = |server: &Server| discovered.iter().any(|other| other.address() == server.address());
        let bootstrap = self.bootstrap.iter().filter(|server| discovered.is_empty() || server.sent() > 0);
        discovered.iter().chain(bootstrap.filter(|server| !is_discovered(server))).cloned().collect()
    }
}

/// Returns the second of the Unix epoch of a time. The clock of the system is read once, so that no time is told one
/// second sooner or later from one status to the next.
#[expect(clippy::disallowed_methods, reason = "it is shown to people and decides nothing")]
fn unix_second(at: Instant) -> u64 {
    static START: LazyLock<(Instant, Duration)> =
        LazyLock::new(|| (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    let (start, unix_start) = *START;
    let before = start.saturating_duration_since(at);
    (unix_start + at.saturating_duration_since(start)).saturating_sub(before).as_secs()
}
