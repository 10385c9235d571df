//! One server that is queried: address, protocol, sockets, health and counters.

mod answered_questions;
mod case_support;
mod context;
mod edns_support;
pub(super) mod group;
mod habits;
pub(super) mod health;
pub(super) mod in_flight;
mod judgement;
mod lame_domains;
mod lameness;
mod latency;
mod load;
mod loop_probe;
mod near_misses;
pub(super) mod outcomes;
pub(super) mod outliers;
mod packet_pace;
mod retry_budget;
mod selection;
mod silent_domains;
pub(super) mod standing;
mod state;
pub(super) mod timestamp;
mod watched;
mod watches;

use context::ScopeCounts;
pub use context::{ServerIds, UpstreamContext};
pub use loop_probe::LoopProbes;
pub use packet_pace::PacketRate;
pub use state::LowerCaseReason;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use node_cache_config::{CaseRandomization, Protocol, Upstream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::dns::codes::rtype;
use crate::dns::question::Question;
use crate::dns::{EdnsReply, Name, Response};
use crate::dnstap::Tap;
use crate::metrics::{PacketClass, WaitSeconds};
use crate::upstream::transport::gate::{PacketGate, Passage};
use crate::upstream::transport::query_format::{EdnsUse, QueryFormat};
use crate::upstream::transport::sockets::{PortPolicy, Sockets};
use crate::upstream::transport::tcp::Connections;
use crate::upstream::transport::udp;
use health::Health;
pub(super) use loop_probe::is_probe_name;
use loop_probe::{LoopState, PROBE_TIMEOUT};
use outcomes::ResponseKind;
pub(in crate::upstream) use packet_pace::PacketPace;
use retry_budget::RetryBudget;
use selection::SelectionState;
use silent_domains::SilentDomains;
pub(super) use state::QueryPath;
use state::ServerState;
use timestamp::Timestamp;
use watches::Watch;

/// Role of a server in its pool.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Role {
    /// A server of a tier.
    Regular,
    /// A server of a tier whose limits are detected: an upstream that the configuration names.
    Upstream,
    /// A server of the reserve, with the pace of a last resort.
    Reserve(Option<Arc<PacketPace>>),
}

/// A server that is queried.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// ID of the address.
    id: u16,
    protocol: Protocol,
    case_randomization: CaseRandomization,
    edns: EdnsUse,
    role: Role,
    sockets: Sockets,
    connections: Connections,
    gate: PacketGate,
    sent: AtomicU64,
    timeouts: AtomicU64,
    near_misses: AtomicU64,
    /// Response times of the scope.
    round_trips: Arc<WaitSeconds>,
    /// Queries to the resolvers of the zone, where the scope is one.
    zone_queries: Option<Arc<AtomicU64>>,
    /// Detector of limits, for a [`Role::Upstream`].
    watch: Option<Arc<Watch>>,
    state: Mutex<ServerState>,
    selection: SelectionState,
    loop_state: Arc<LoopState>,
    went_down: Arc<Notify>,
    retries: Arc<GroupRetries>,
    context: Arc<UpstreamContext>,
}

/// Retries of a group of servers: how many there may be, and for which domains.
#[derive(Debug, Default)]
pub(in crate::upstream) struct GroupRetries {
    /// Budget of retries.
    pub(in crate::upstream) budget: RetryBudget,
    /// Domains for which a retry is pointless.
    pub(in crate::upstream) silent_domains: SilentDomains,
}

impl Server {
    /// Creates a server that is up and has no history. `counts` are those of its scope; `went_down` is notified each
    /// time it goes down; `retries` are those of its group.
    #[allow(clippy::too_many_arguments, reason = "each is a property that servers of one group share")]
    pub(in crate::upstream) fn new(
        upstream: Upstream,
        edns: EdnsUse,
        role: Role,
        port_policy: PortPolicy,
        counts: ScopeCounts,
        went_down: Arc<Notify>,
        retries: Arc<GroupRetries>,
        context: Arc<UpstreamContext>,
    ) -> Self {
        let Upstream { address, protocol, case_randomization } = upstream;
        let watch = matches!(role, Role::Upstream).then(|| context.watches.of(address));
        Self {
            address,
            id: context.server_ids.id(address),
            protocol,
            case_randomization,
            edns,
            role,
            sockets: Sockets::new(address, port_policy)
                .keep_answered_while(watch.as_ref().map(|watch| watch.keeps_ports.clone())),
            connections: Connections::new(address),
            gate: PacketGate::new(counts.packets, watch.as_ref().map(|watch| watch.ceiling.clone())),
            sent: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            near_misses: AtomicU64::new(0),
            round_trips: counts.round_trips,
            zone_queries: counts.zone_queries,
            watch,
            state: Mutex::default(),
            selection: SelectionState::default(),
            loop_state: Arc::new(LoopState::new(address)),
            went_down,
            retries,
            context,
        }
    }

    /// Returns whether the server is a resolver of this tier, whose private error codes are believed.
    pub(in crate::upstream) fn is_of_tier(&self) -> bool {
        self.edns == EdnsUse::Required
    }

    /// Returns whether the server is the cluster DNS. CoreDNS compares the name of a query for NS with its zone by
    /// octet, and answers one in random case as if there were no record, from its own cache also to others.
    const fn is_cluster_dns(&self) -> bool {
        matches!(self.role, Role::Regular) && matches!(self.edns, EdnsUse::Preferred)
    }

    /// Returns the retries of the server's group.
    pub(in crate::upstream) fn retries(&self) -> &GroupRetries {
        &self.retries
    }

    /// Returns whether both are of one group, such as a zone.
    pub(in crate::upstream) fn is_of_group_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.retries, &other.retries)
    }

    /// Returns the address and port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the ID of the address; 0 when all IDs are in use.
    pub(in crate::upstream) const fn id(&self) -> u16 {
        self.id
    }

    /// Returns the protocol of queries. Over UDP, truncated responses are queried again over TCP.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the use of EDNS in queries, to a server that is known to have none or not.
    pub(in crate::upstream) const fn edns(&self, without_edns: bool) -> EdnsUse {
        match self.edns {
            EdnsUse::Preferred if without_edns => EdnsUse::Absent,
            edns => edns,
        }
    }

    /// Returns whether EDNS may be the reason of a failure to a query with this use of it.
    pub(in crate::upstream) fn may_fail_on_edns(&self, edns: EdnsUse, failure: &Response) -> bool {
        edns == EdnsUse::Preferred && self.state().edns().may_be_reason(failure.edns_reply(), Instant::now())
    }

    /// Records that the server gave an error to the query for `name` with EDNS, and an answer to the one without: after
    /// three names in a row it is queried without EDNS for ten minutes.
    pub(in crate::upstream) fn record_edns_rejection(&self, name: &Name) {
        let is_absent = self.state().record_edns_rejection(name, Instant::now());
        if is_absent {
            tracing::info!(upstream = %self.address, "upstream fails with EDNS and is queried without it");
        }
    }

    /// Returns how long the server is still queried without EDNS; `None` when it is queried with it.
    #[must_use]
    pub fn edns_absent_for(&self) -> Option<Duration> {
        self.state().edns().absent_for(Instant::now())
    }

    /// Returns whether both have the same address and protocol.
    pub(in crate::upstream) fn has_same_endpoint(&self, other: &Self) -> bool {
        (self.address, self.protocol) == (other.address, other.protocol)
    }

    /// Returns whether the server is one of the reserve of its pool.
    pub(in crate::upstream) fn is_reserve(&self) -> bool {
        matches!(self.role, Role::Reserve(_))
    }

    /// Takes a packet from the pace of a last resort; returns false when there is none.
    pub(in crate::upstream) fn take_packet(&self, now: Instant) -> bool {
        self.pace().is_none_or(|pace| pace.take(now))
    }

    /// Charges packets to the pace of a last resort that are sent without [`Self::take_packet`].
    pub(in crate::upstream) fn charge_packets(&self, packets: u64) {
        if let Some(pace) = self.pace() {
            pace.charge(packets, Instant::now());
        }
    }

    /// Returns the pace of a last resort.
    fn pace(&self) -> Option<&PacketPace> {
        match &self.role {
            Role::Reserve(Some(pace)) => Some(pace),
            Role::Regular | Role::Upstream | Role::Reserve(None) => None,
        }
    }

    /// Returns whether the server is suspected: its last queries had no response in time.
    pub(in crate::upstream) fn is_suspected(&self) -> bool {
        self.state().is_suspected()
    }

    /// Returns whether the server is up now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.health(Timestamp::of(Instant::now())) == Health::Up
    }

    /// Returns whether the server has sent any response, whatever its rcode.
    #[must_use]
    pub fn has_responded(&self) -> bool {
        self.state().has_responded()
    }

    /// Returns the number of queries sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the number of queries without a response in time.
    #[must_use]
    pub fn timeouts(&self) -> u64 {
        self.timeouts.load(Ordering::Relaxed)
    }

    /// Returns the number of near misses: datagrams from the server's address to the port of a query in flight, with
    /// another ID, question or 0x20 case than the query.
    #[must_use]
    pub fn near_misses(&self) -> u64 {
        self.near_misses.load(Ordering::Relaxed)
    }

    /// Returns the tap (dnstap) for messages to and from the server.
    pub(in crate::upstream) fn tap(&self) -> &Tap {
        &self.context.tap
    }

    /// Counts a query that is sent.
    pub(in crate::upstream) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a query for an answer, not for the health of the server, among those to the zone of the server.
    pub(in crate::upstream) fn count_zone_query(&self) {
        if let Some(queries) = &self.zone_queries {
            queries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records a response with any rcode after this round-trip time; `kind` is what it says about the server,
    /// `answered` its question when the rcode is NOERROR or NXDOMAIN, `edns` what it says about EDNS when the query had
    /// an OPT record.
    pub(in crate::upstream) fn record_response(
        &self,
        kind: ResponseKind,
        answered: Option<&Arc<Question>>,
        edns: Option<EdnsReply>,
        round_trip: Duration,
        now: Instant,
    ) {
        self.round_trips.observe(round_trip);
        let timestamp = Timestamp::of(now);
        self.selection.load.record(round_trip, answered.is_none(), timestamp);
        let recovers = {
            let mut state = self.state();
            state.outcomes().record_response(kind, round_trip);
            let recovers = state.record_response(answered, edns, round_trip, now);
            self.selection.publish_response(state.breaker(), timestamp);
            if let Some(question) = answered
                && !state.lame_domains().is_empty()
                && state.lame_domains().record_answer(self.context.domain_hash(&question.name), timestamp)
            {
                self.selection.lame.publish(state.lame_domains(), timestamp);
            }
            recovers
        };
        if recovers {
            self.start_return(timestamp);
            tracing::info!(upstream = %self.address, "upstream is up again");
        }
    }

    /// Returns whether no ping was sent since this time, the start of a query, and records one at `now` if so. A ping
    /// follows the start by 10 ms or more, so there are a hundred a second at the most.
    pub(in crate::upstream) fn take_ping(&self, since: Instant, now: Instant) -> bool {
        self.state().take_ping(since, now)
    }

    /// Returns when the server last came up again after it was down.
    pub(in crate::upstream) fn recovered_at(&self) -> Option<Instant> {
        self.state().recovered_at()
    }

    /// Records a query without a response in time, and closes the idle sockets.
    pub(in crate::upstream) fn record_failure(&self, question: &Arc<Question>) {
        self.count_timeout();
        let went_down = self.update(|state| state.record_failure(question, Instant::now()));
        self.report_health(went_down);
    }

    /// Records a probe without a response in time, and closes the idle sockets.
    pub(in crate::upstream) fn record_probe_failure(&self) {
        self.count_timeout();
        let went_down = self.update(|state| state.record_probe_failure(Instant::now()));
        self.report_health(went_down);
    }

    /// Records a loop probe without a response in time.
    fn record_loop_probe_failure(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
        let went_down = self.update(|state| state.record_loop_probe_failure(Instant::now()));
        self.report_health(went_down);
    }

    fn count_timeout(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
        self.sockets.close_after_silence();
    }

    fn report_health(&self, went_down: bool) {
        if went_down {
            tracing::warn!(upstream = %self.address, "upstream is down");
            self.went_down.notify_one();
        }
    }

    /// Returns the questions that show whether the server is down, when it is suspected, at most once a second:
    /// [`Self::record_probe_failure`] for all of them makes it down, any response ends the suspicion. None otherwise.
    /// There are two, or as many as `max` allows.
    pub(in crate::upstream) fn take_confirmation(&self, max: usize) -> Vec<Arc<Question>> {
        self.state().take_confirmation(max, Instant::now())
    }

    /// Returns the question of the probe that is due at `now`, and records the probe: in turns one that the server has
    /// answered before and the root; `fallback` for a server that has answered no question. `None` while the server is
    /// up or before the next probe is due.
    pub(in crate::upstream) fn take_probe(
        &self,
        fallback: Option<&Arc<Question>>,
        now: Instant,
    ) -> Option<Arc<Question>> {
        self.update(|state| state.take_probe(fallback, now))
    }

    /// Sends a probe for a forwarding loop after a timeout, unless one was sent less than 5 s ago. Returns whether one
    /// was due; over TCP none is, nor to a resolver of this tier, which probes its own upstreams. Nothing waits for the
    /// probe's response, but a missing one counts as a timeout, and as a failure of a server that never answered.
    ///
    /// Must be called inside a Tokio runtime.
    pub(in crate::upstream) fn probe_for_loop(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let is_due = self.protocol == Protocol::Udp && !self.is_of_tier() && self.loop_state.start_probe(now);
        if is_due {
            self.send_loop_probe(now);
        }
        is_due
    }

    fn send_loop_probe(self: &Arc<Self>, now: Instant) {
        // A probe does not wait for the budget.
        if !self.gate.has_room(PacketClass::Control, now) {
            return;
        }
        let Some(probe) = self.context.loop_probes.register(&self.loop_state, now) else { return };
        let Passage::Now(slot) = self.gate.enter(PacketClass::Control) else { return };
        let server = self.clone();
        tokio::spawn(async move {
            let format = QueryFormat { edns: server.edns, case_0x20: false };
            server.count_sent();
            server.charge_packets(1);
            let response = udp::query(&server.sockets, &probe, format, server.tap());
            match timeout(PROBE_TIMEOUT, response).await {
                Ok(_) => server.gate.release(slot),
                Err(_) => server.record_loop_probe_failure(),
            }
        });
    }

    /// Returns whether a forwarding loop through the server was detected less than 10 s ago. Such a server is queried
    /// only while no other one is up: its responses come from this process.
    #[inline]
    pub(in crate::upstream) fn is_in_forwarding_loop(&self) -> bool {
        self.loop_state.is_looping(Instant::now)
    }

    /// Returns the TCP connections.
    pub(in crate::upstream) const fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Returns the gate that packets pass.
    pub(in crate::upstream) const fn gate(&self) -> &PacketGate {
        &self.gate
    }

    /// Returns the UDP sockets.
    pub(in crate::upstream) const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Returns the way of a query with this question at `now`.
    pub(in crate::upstream) fn query_path(&self, question: &Question, now: Instant) -> QueryPath {
        let name = &question.name;
        let path = self.state().query_path(name, now);
        let compares_by_octet = question.rtype == rtype::NS && self.is_cluster_dns();
        let may_mix = self.case_randomization == CaseRandomization::Enabled && !compares_by_octet;
        let case_0x20 = path.case_0x20 && may_mix;
        // Resolvers of the tier are known not to compare by octet. Loop probes of others must go on as single queries.
        let checks_denials = path.checks_denials && case_0x20 && self.edns != EdnsUse::Required && !is_probe_name(name);
        QueryPath { case_0x20, checks_denials, ..path }
    }

    /// Returns why the server is queried in lower case; `None` while it is queried in random case (0x20).
    #[must_use]
    pub fn lower_case_reason(&self) -> Option<LowerCaseReason> {
        match self.case_randomization {
            CaseRandomization::Enabled => self.state().lower_case_reason(Instant::now()),
            CaseRandomization::Disabled => Some(LowerCaseReason::Configured),
        }
    }

    /// Returns the number of responses after which the server closes a TCP connection; `None` while no limit is known.
    #[must_use]
    pub fn responses_per_connection(&self) -> Option<usize> {
        self.connections.capacity(Instant::now())
    }

    /// Returns whether queries for `name` go over TCP because of near misses for its registered domain.
    #[must_use]
    pub fn avoids_udp(&self, name: &Name) -> bool {
        self.protocol == Protocol::Udp && self.state().query_path(name, Instant::now()).tcp_first
    }

    /// Changes the state, and the health that follows from it.
    fn update<T>(&self, change: impl FnOnce(&mut ServerState) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        self.selection.publish(state.breaker());
        result
    }

    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
