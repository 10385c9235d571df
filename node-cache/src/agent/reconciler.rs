//! Reconciler of a node: compares the desired addresses with the observed ones and acts on the difference, pass by
//! pass. The decisions are in [`lease`](super::lease); this file carries them out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use node_cache_config::Config;
use node_cache_config::status::{CaptureState, CapturedAddress};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::foreign_sockets::{BoundSocket, ForeignSockets, read_bound_sockets};
use super::instances::Instances;
use super::interface::{Interface, Presence};
use super::lease::{Effect, Lease, LeaseInputs};
use super::metrics::{HiddenProblem, Metrics};
use super::nft::RuleSync;
use super::pod_reachability::PodReachability;
use super::pod_routes::PodRoutes;
use super::readiness::AgentState;
use super::rules::Rules;
use super::self_query::SelfQuery;
use super::sockets::{BindError, Sockets};
use super::ways_out::WaysOut;
use crate::handover::server::Server;
use crate::identity::pod_addresses;
use crate::revision::ActiveRevision;

/// Interval at which a captured address is checked by a self-query and renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of passes while an address is about to be captured or withdrawn.
const TRANSIT_INTERVAL: Duration = Duration::from_millis(100);
/// Time for which the rules for responses stay after an address was removed. A cache may still send a late response,
/// over IPv6 even from an address that is no longer on the node; conntrack would create a connection for it, assign
/// further queries of that client to this connection, and they would be lost.
const LATE_RESPONSE_TIME: Duration = Duration::from_secs(10);
/// Interval of self-queries over TCP.
const TCP_SELF_QUERY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of the route lookups for packets of pods.
const ROUTE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Interval at which the node's sockets are looked through for those of other processes.
const SOCKET_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Time for which the caches create cookies with one secret.
const SECRET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Failed self-queries in a row after which the sockets of an address are bound anew, for the first time.
const REBIND_AFTER_FAILURES: u32 = 5;

/// Returns whether the sockets of an address are to be bound anew after this many failed self-queries in a row: after
/// 5, 10, 20, 40, … of them. A process can do more to a socket than can be read from it, and caches that merely hang
/// are not to be sent sockets again and again.
fn is_rebind_due(failures: u32) -> bool {
    failures.is_multiple_of(REBIND_AFTER_FAILURES) && (failures / REBIND_AFTER_FAILURES).is_power_of_two()
}

/// One address, desired or still on the node.
#[derive(Debug)]
struct Address {
    lease: Lease,
    /// Whether the configuration names it.
    desired: bool,
    /// Time until which late responses may leave it: it was on the node not long ago.
    late_responses_until: Option<Instant>,
    next_self_query: Instant,
    next_tcp_self_query: Instant,
    /// Reason why the last self-query failed; `None` if it succeeded.
    self_query_error: Option<String>,
    /// Self-queries that failed one after the other.
    failed_self_queries: u32,
    /// Whether queries of pods are routed to the address.
    pod_reachability: PodReachability,
    /// Reason why the address could not be added or removed.
    interface_error: Option<String>,
}

impl Address {
    fn new(now: Instant, lease: Lease) -> Self {
        Self {
            lease,
            desired: true,
            late_responses_until: None,
            next_self_query: now,
            next_tcp_self_query: now,
            self_query_error: None,
            failed_self_queries: 0,
            pod_reachability: PodReachability::default(),
            interface_error: None,
        }
    }

    /// Returns whether a late response may still leave the address.
    fn has_late_responses(&self, now: Instant) -> bool {
        self.late_responses_until.is_some_and(|until| now < until)
    }
}

/// Reconciler of one node.
#[derive(Debug)]
pub(crate) struct Reconciler {
    pub(crate) interface: Interface,
    pub(crate) rule_sync: RuleSync,
    pub(crate) server: Server,
    pub(crate) sockets: Sockets,
    self_query: SelfQuery,
    pod_routes: PodRoutes,
    next_route_check: Instant,
    foreign_sockets: ForeignSockets,
    socket_look: Option<JoinHandle<Vec<BoundSocket>>>,
    next_socket_look: Instant,
    /// Problems of captured addresses that self-queries do not show, as they were logged last.
    logged_problems: BTreeMap<IpAddr, String>,
    metrics: Arc<Metrics>,
    state: watch::Sender<AgentState>,
    addresses: BTreeMap<IpAddr, Address>,
    present: BTreeMap<IpAddr, Presence>,
    bind_errors: BTreeMap<IpAddr, BindError>,
    /// Addresses whose sockets are bound anew in the next pass, because nothing answers at them.
    rebinds_due: BTreeSet<IpAddr>,
    instances: Arc<Instances>,
    ways_out: WaysOut,
    search_task: Option<JoinHandle<WaysOut>>,
    next_search: Option<Instant>,
    /// Time since which an address waits for ways out.
    searching_since: Option<Instant>,
    sockets_published: bool,
    secret_since: Instant,
    stopping: bool,
}

impl Reconciler {
    /// Returns a reconciler that knows of no captured address.
    pub(crate) fn new(
        interface: Interface,
        rule_sync: RuleSync,
        server: Server,
        self_query: SelfQuery,
        instances: Arc<Instances>,
        metrics: Arc<Metrics>,
        state: watch::Sender<AgentState>,
    ) -> Self {
        Self {
            pod_routes: PodRoutes::new(interface.handle(), pod_addresses()),
            next_route_check: Instant::now(),
            foreign_sockets: ForeignSockets::default(),
            socket_look: None,
            next_socket_look: Instant::now(),
            logged_problems: BTreeMap::new(),
            interface,
            rule_sync,
            server,
            sockets: Sockets::default(),
            self_query,
            metrics,
            state,
            addresses: BTreeMap::new(),
            present: BTreeMap::new(),
            bind_errors: BTreeMap::new(),
            rebinds_due: BTreeSet::new(),
            instances,
            ways_out: WaysOut::default(),
            search_task: None,
            next_search: None,
            searching_since: None,
            sockets_published: false,
            secret_since: Instant::now(),
            stopping: false,
        }
    }

    /// Adopts the addresses that an earlier agent left on the node, as far as its table names them. The redirect rule
    /// of an address stays as it is, so that no query is lost between the two agents.
    pub(crate) async fn adopt_addresses(&mut self, installed: &Rules) {
        match self.interface.presence_of(&installed.served).await {
            Ok(present) => self.present = present,
            Err(error) => tracing::warn!(%error, "the addresses of the node cannot be read"),
        }
        let now = Instant::now();
        for (&address, presence) in &self.present {
            let Some(remaining) = presence.remaining else { continue };
            let redirected = installed.redirected.contains(&address);
            tracing::info!(%address, redirected, "adopted an address of an earlier agent");
            let lease = Lease::adopted(now, true, remaining, redirected);
            self.addresses.insert(address, Address::new(now, lease));
        }
    }

    /// Withdraws all addresses in the passes that follow.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Returns whether no address is on the node any more.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.addresses.values().all(|address| !address.lease.holds())
    }

    /// Makes one pass. Returns when the next one is due.
    pub(crate) async fn reconcile(&mut self, active: &ActiveRevision) -> Instant {
        if let Some(config) = &active.config {
            self.apply_config(config);
            self.observe_addresses().await;
            self.apply_sockets();
            self.check_pod_routes().await;
            self.look_for_foreign_sockets().await;
            self.log_hidden_problems();
            let mut answered = self.run_self_queries().await;
            self.fail_unreachable(&mut answered);
            self.search_ways_out(config).await;
            self.advance_leases(&answered).await;
            self.apply_rules(config);
        }
        self.renew_secret();
        self.publish(active);
        self.requeue_at()
    }

    /// Marks the addresses that the configuration names as desired; the others are withdrawn.
    fn apply_config(&mut self, config: &Config) {
        let now = Instant::now();
        for address in self.addresses.values_mut() {
            address.desired = false;
        }
        for captured in &config.node_cache.captured {
            let address = self
                .addresses
                .entry(captured.address)
                .or_insert_with(|| Address::new(now, Lease::new(now, captured.service)));
            address.lease.set_service(captured.service);
            address.desired = !self.stopping;
        }
        let metrics = &self.metrics;
        let stopping = self.stopping;
        self.addresses.retain(|&ip, address| {
            let keep = address.desired || address.lease.holds() || address.has_late_responses(now) || stopping;
            if !keep {
                metrics.forget(ip);
            }
            keep
        });
    }

    /// Observes which addresses are on the node. When the kernel does not answer, the last observation stays.
    async fn observe_addresses(&mut self) {
        match self.interface.presence_of(&self.addresses.keys().copied().collect()).await {
            Ok(present) => self.present = present,
            Err(error) => tracing::warn!(%error, "the addresses of the node cannot be read"),
        }
    }

    fn is_foreign(&self, ip: IpAddr) -> bool {
        self.present.get(&ip).is_some_and(|presence| presence.foreign_link.is_some())
    }

    /// Binds the sockets that are needed and publishes them to the caches. No socket is bound for an address of another
    /// program, which may want to bind it; the sockets of an address that is being withdrawn stay until it is removed.
    fn apply_sockets(&mut self) {
        let needed: BTreeSet<IpAddr> = self
            .addresses
            .iter()
            .filter(|(ip, address)| address.lease.holds() || (address.desired && !self.is_foreign(**ip)))
            .map(|(ip, _)| *ip)
            .collect();
        self.sockets.discard(&std::mem::take(&mut self.rebinds_due));
        let changes = self.sockets.apply(&needed);
        self.metrics.count_discarded_sockets(changes.discarded);
        for (ip, error) in &changes.errors {
            if self.bind_errors.get(ip) != Some(error) {
                tracing::warn!(address = %ip, %error, "an address has no sockets");
            }
        }
        self.bind_errors = changes.errors;
        if changes.changed || !self.sockets_published {
            self.server.publish(self.sockets.held().to_vec());
            self.sockets_published = true;
        }
    }

    /// Hands the caches a new secret for DNS cookies when the current one is a day old (RFC 7873 §7.1).
    fn renew_secret(&mut self) {
        if self.secret_since.elapsed() >= SECRET_LIFETIME {
            self.server.renew_secret();
            self.secret_since = Instant::now();
        }
    }

    /// Makes the self-queries that are due, all at the same time. Returns which addresses were queried, and whether
    /// with success.
    async fn run_self_queries(&mut self) -> BTreeMap<IpAddr, bool> {
        let now = Instant::now();
        let due: Vec<(IpAddr, bool)> = self
            .addresses
            .iter()
            .filter(|(_, address)| address.lease.wants_self_query() && address.next_self_query <= now)
            .map(|(ip, address)| (*ip, address.next_tcp_self_query <= now))
            .collect();
        let self_query = &self.self_query;
        let queries = due.into_iter().map(async |(ip, tcp)| (ip, tcp, self_query.check(ip, tcp).await));
        let mut answered = BTreeMap::new();
        for (ip, tcp, result) in join_all(queries).await {
            let Some(address) = self.addresses.get_mut(&ip) else { continue };
            answered.insert(ip, result.is_ok());
            let interval = if address.lease.in_transit() { 2 * TRANSIT_INTERVAL } else { RENEWAL_INTERVAL };
            address.next_self_query = now + interval;
            match result {
                Ok(()) => {
                    address.failed_self_queries = 0;
                    if tcp {
                        address.next_tcp_self_query = now + TCP_SELF_QUERY_INTERVAL;
                    }
                }
                Err(_) => {
                    self.metrics.count_failure(ip);
                    address.failed_self_queries = address.failed_self_queries.saturating_add(1);
                    if is_rebind_due(address.failed_self_queries) {
                        self.rebinds_due.insert(ip);
                    }
                    if address.self_query_error.is_none() {
                        self.rule_sync.check_now();
                    }
                }
            }
            address.self_query_error = result.err().map(|error| error.to_string());
        }
        answered
    }

    /// Looks up whether the kernel routes queries of pods to the addresses that are on the node.
    async fn check_pod_routes(&mut self) {
        let now = Instant::now();
        let is_present = |ip| self.present.get(ip).is_some_and(|presence: &Presence| presence.remaining.is_some());
        let due = self.addresses.iter().filter(|(ip, address)| address.lease.wants_self_query() && is_present(ip));
        let due: Vec<IpAddr> = due.map(|(ip, _)| *ip).collect();
        if due.is_empty() || now < self.next_route_check {
            return;
        }
        self.next_route_check = now + ROUTE_CHECK_INTERVAL;
        for (ip, lookups) in self.pod_routes.look_up(&due).await {
            let Some(address) = self.addresses.get_mut(&ip) else { continue };
            address.pod_reachability.record(&lookups);
        }
    }

    /// Looks for sockets of other processes at the captured addresses, in a task of its own: the tables of a busy node
    /// are long.
    async fn look_for_foreign_sockets(&mut self) {
        if self.socket_look.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(look) = self.socket_look.take()
            && let Ok(bound) = look.await
        {
            self.foreign_sockets.record(&bound, self.sockets.held());
        }
        let now = Instant::now();
        if self.socket_look.is_none() && now >= self.next_socket_look {
            self.next_socket_look = now + SOCKET_LOOK_INTERVAL;
            self.socket_look = Some(tokio::task::spawn_blocking(read_bound_sockets));
        }
    }

    /// Returns in one sentence why some queries to an address may fail that self-queries do not show.
    fn hidden_problem(&self, ip: IpAddr) -> Option<String> {
        HiddenProblem::ALL.into_iter().find_map(|problem| self.hidden_problem_of(problem, ip))
    }

    /// Returns a problem of this kind in one sentence.
    fn hidden_problem_of(&self, problem: HiddenProblem, ip: IpAddr) -> Option<String> {
        match problem {
            HiddenProblem::ForeignSocket => self.foreign_sockets.problem(ip),
            HiddenProblem::PodRoute => self.addresses.get(&ip)?.pod_reachability.problem(),
            HiddenProblem::PodPackets => {
                let [blocked4, blocked6] = self.rule_sync.installed().borrow().blocked;
                let is_blocked = if ip.is_ipv4() { blocked4 } else { blocked6 };
                is_blocked.then(|| "packets of pods arrive, and none passes the packet filters of this node".to_owned())
            }
        }
    }

    /// Logs the hidden problems that came or went.
    fn log_hidden_problems(&mut self) {
        let problems = |ip: &IpAddr| self.hidden_problem(*ip).map(|problem| (*ip, problem));
        let problems: BTreeMap<IpAddr, String> = self.addresses.keys().filter_map(problems).collect();
        for (ip, problem) in problems.iter().filter(|(ip, _)| !self.logged_problems.contains_key(ip)) {
            tracing::warn!(address = %ip, problem, "queries to an address may fail");
        }
        for ip in self.logged_problems.keys().filter(|ip| !problems.contains_key(ip)) {
            tracing::info!(address = %ip, "queries to an address reach this pod again");
        }
        self.logged_problems = problems;
    }

    /// Lets the self-queries of addresses fail that pods do not reach, whoever answers at them on the node.
    fn fail_unreachable(&mut self, answered: &mut BTreeMap<IpAddr, bool>) {
        for (ip, is_answered) in answered {
            let Some(address) = self.addresses.get_mut(ip) else { continue };
            if address.pod_reachability.is_lost() && std::mem::replace(is_answered, false) {
                self.metrics.count_failure(*ip);
                address.self_query_error = address.pod_reachability.problem();
            }
        }
    }

    /// Searches for ways out while the address of a Service waits for them, in a task of its own: a server may be slow,
    /// and renewals must not wait for it.
    async fn search_ways_out(&mut self, config: &Config) {
        if self.search_task.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(task) = self.search_task.take()
        {
            self.ways_out = task.await.unwrap_or(self.ways_out);
        }
        let now = Instant::now();
        let is_complete = self.ways_out.is_complete();
        let is_waiting = |lease: &Lease| lease.has_service() && lease.waits_for_ways_out(is_complete);
        let waiting = self.addresses.iter().find(|(_, address)| is_waiting(&address.lease));
        let Some((&ip, _)) = waiting else { return };
        let since = *self.searching_since.get_or_insert(now);
        if self.search_task.is_none() && self.next_search.is_none_or(|at| at <= now) {
            self.next_search = Some(now + RENEWAL_INTERVAL);
            let domain = config.cluster_domain.clone();
            let search = self.ways_out.search(Arc::clone(&self.instances), ip, domain, now - since);
            self.search_task = Some(tokio::spawn(search));
        }
    }

    /// Advances each lease and carries out its effect on the address.
    async fn advance_leases(&mut self, answered: &BTreeMap<IpAddr, bool>) {
        let cache_connected = !self.server.connected().borrow().is_empty();
        let installed = self.rule_sync.installed().borrow().rules.clone().unwrap_or_default();
        let has_ways_out = self.ways_out.is_complete();
        for (&ip, address) in &mut self.addresses {
            let presence = self.present.get(&ip);
            let inputs = LeaseInputs {
                desired: address.desired,
                foreign: presence.is_some_and(|presence| presence.foreign_link.is_some()),
                remaining: presence.and_then(|presence| presence.remaining),
                listening: !self.bind_errors.contains_key(&ip),
                cache_connected,
                served: installed.served.contains(&ip),
                redirected: installed.redirected.contains(&ip),
                answered: answered.get(&ip).copied(),
                has_ways_out,
            };
            let wanted_redirect = address.lease.wants_redirect();
            let result = match address.lease.step(Instant::now(), &inputs) {
                Some(Effect::Put) => {
                    self.metrics.count_renewal(ip);
                    self.interface.put(ip, address.lease.lifetime()).await
                }
                Some(Effect::Remove) => self.interface.remove(ip).await,
                None => Ok(()),
            };
            if address.lease.holds() {
                address.late_responses_until = Some(Instant::now() + LATE_RESPONSE_TIME);
            }
            let redirect = address.lease.wants_redirect();
            if wanted_redirect != redirect {
                tracing::info!(address = %ip, redirect, "the redirect rule of an address changes");
            }
            if let Err(error) = &result {
                tracing::warn!(address = %ip, %error, "an address cannot be added or removed");
            }
            address.interface_error = result.err().map(|error| error.to_string());
        }
    }

    /// Sets the desired packet rules.
    fn apply_rules(&self, config: &Config) {
        let now = Instant::now();
        let served = |(ip, address): (&IpAddr, &Address)| {
            let may_be_captured = address.desired && !self.is_foreign(*ip) && !self.bind_errors.contains_key(ip);
            (address.lease.holds() || may_be_captured || address.has_late_responses(now)).then_some(*ip)
        };
        self.rule_sync.set_desired(&Rules {
            tier: config.tier.clone(),
            served: self.addresses.iter().filter_map(served).collect(),
            redirected: self
                .addresses
                .iter()
                .filter(|(_, address)| address.lease.wants_redirect())
                .map(|(ip, _)| *ip)
                .collect(),
        });
    }

    /// Publishes the state and the metrics of the pass.
    fn publish(&self, active: &ActiveRevision) {
        let now = Instant::now();
        let captured: Vec<CapturedAddress> = active
            .config
            .iter()
            .flat_map(|config| &config.node_cache.captured)
            .map(|captured| self.captured_address(captured.address))
            .collect();
        for problem in HiddenProblem::ALL {
            let has_problem = |address: &&CapturedAddress| self.hidden_problem_of(problem, address.address).is_some();
            self.metrics.set_hidden_problem(problem, captured.iter().filter(has_problem).count());
        }
        for address in &captured {
            self.metrics.set_captured(address.address, address.state == CaptureState::Captured);
        }
        let revision = &active.revision;
        self.metrics.set_revision(revision.asked.as_deref(), revision.in_force.as_deref());
        self.metrics.set_connected(self.server.connected().borrow().len());
        self.metrics.set_reasserts(self.rule_sync.installed().borrow().restored);
        self.state.send_modify(|state| {
            let is_behind = revision.asked.is_some() && revision.asked != revision.in_force;
            let since = state.behind_since.filter(|_| state.revision.asked == revision.asked);
            *state = AgentState {
                at: now,
                zone: active.zone.clone(),
                revision: revision.clone(),
                behind_since: is_behind.then(|| since.unwrap_or(now)),
                captured,
                stopping: self.stopping,
            };
        });
    }

    /// Returns the capture state of an address.
    fn captured_address(&self, ip: IpAddr) -> CapturedAddress {
        if let Some(link) = self.present.get(&ip).and_then(|presence| presence.foreign_link.as_ref()) {
            let reason = format!("somebody else has put this address on the link {link}; it is left alone");
            return CapturedAddress { address: ip, state: CaptureState::Foreign, reason: Some(reason) };
        }
        match self.withdrawal_reason(ip) {
            None => {
                let reason = self.hidden_problem(ip);
                CapturedAddress { address: ip, state: CaptureState::Captured, reason }
            }
            Some(reason) => CapturedAddress { address: ip, state: CaptureState::Withdrawn, reason: Some(reason) },
        }
    }

    /// Returns why an address is not captured: the first cause that applies; `None` if it is captured.
    fn withdrawal_reason(&self, ip: IpAddr) -> Option<String> {
        let address = self.addresses.get(&ip)?;
        let installed = self.rule_sync.installed();
        let installed = installed.borrow();
        let redirected = installed.rules.as_ref().is_some_and(|rules| rules.redirected.contains(&ip));
        // The rules in the kernel count, not the desired ones.
        if address.lease.holds() && redirected {
            return None;
        }
        if self.stopping {
            return Some("the agent is stopping".to_owned());
        }
        if let Some(error) = self.bind_errors.get(&ip) {
            return Some(error.to_string());
        }
        let is_waiting = address.lease.waits_for_ways_out(self.ways_out.is_complete());
        let missing_ways_out = || self.ways_out.missing().filter(|_| is_waiting).map(str::to_owned);
        if self.server.connected().borrow().is_empty() {
            return Some("no cache is running on this node".to_owned());
        }
        let problem = installed
            .problem
            .clone()
            .or_else(|| address.interface_error.clone())
            .or_else(|| self.foreign_sockets.problem(ip))
            .or_else(|| address.self_query_error.clone());
        Some(problem.or_else(missing_ways_out).unwrap_or_else(|| "it is about to be captured".to_owned()))
    }

    /// Returns when the next pass is due.
    fn requeue_at(&self) -> Instant {
        let now = Instant::now();
        if self.addresses.values().any(|address| address.lease.in_transit()) {
            return now + TRANSIT_INTERVAL;
        }
        let latest = now + RENEWAL_INTERVAL;
        let queried = self.addresses.values().filter(|address| address.lease.wants_self_query());
        queried.map(|address| address.next_self_query).min().unwrap_or(latest).min(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_sockets_anew_soon_and_then_ever_more_rarely() {
        let due: Vec<u32> = (0..=100).filter(|failures| is_rebind_due(*failures)).collect();
        assert_eq!(due, [5, 10, 20, 40, 80]);
        assert!(!is_rebind_due(u32::MAX));
    }
}
