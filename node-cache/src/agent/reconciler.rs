//! The addresses of one node and everything that is done about them, turn by turn: what is wanted, what is there, what
//! answers, and what follows from it. The decisions are in [`lease`](super::lease); this carries them out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use node_cache_config::Config;
use node_cache_config::status::{CaptureState, CapturedAddress};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::interface::{Interface, Presence};
use super::lease::{Effect, Lease, LeaseInputs};
use super::metrics::Metrics;
use super::nft::RuleSync;
use super::readiness::AgentState;
use super::rules::Rules;
use super::self_query::SelfQuery;
use super::sockets::{BindError, Sockets};
use super::startup_names::StartupNames;
use crate::handover::server::Server;
use crate::revision::ActiveRevision;

/// How often an address that is captured is asked and renewed.
const PERIOD: Duration = Duration::from_secs(1);
/// How often one that is about to be captured or to go is looked after.
const IN_TRANSIT: Duration = Duration::from_millis(100);
/// How long the rules for answers stay after the address has gone. A cache may still send an answer that came late,
/// IPv6 even from an address that is no longer on the node; tracked, it would make a connection of its own, and every
/// further question of that client would be taken for a part of it and be lost.
const LATE_ANSWERS: Duration = Duration::from_secs(10);
/// How often the caches are asked over TCP as well.
const TCP_PERIOD: Duration = Duration::from_secs(5);
/// How long the caches make cookies with one secret.
const SECRET_LASTS: Duration = Duration::from_secs(24 * 3600);

/// One captured address and what was last seen of it.
#[derive(Debug)]
struct Address {
    lease: Lease,
    /// The configuration names it.
    wanted: bool,
    /// It was on the node not long ago.
    answers_until: Option<Instant>,
    ask_at: Instant,
    ask_tcp_at: Instant,
    /// Why the last self-query failed; none if it succeeded.
    failure: Option<String>,
    /// Why the address could not be put on the node or taken from it.
    trouble: Option<String>,
}

impl Address {
    fn new(now: Instant, lease: Lease) -> Self {
        Self { lease, wanted: true, answers_until: None, ask_at: now, ask_tcp_at: now, failure: None, trouble: None }
    }
}

/// What a turn works with.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) interface: Interface,
    pub(super) keeper: RuleSync,
    pub(super) server: Server,
    pub(super) sockets: Sockets,
    pub(super) asker: SelfQuery,
    pub(super) metrics: Arc<Metrics>,
    pub(super) told: watch::Sender<AgentState>,
    addresses: BTreeMap<IpAddr, Address>,
    present: BTreeMap<IpAddr, Presence>,
    unbound: BTreeMap<IpAddr, BindError>,
    names: StartupNames,
    names_asked: Option<JoinHandle<StartupNames>>,
    names_ask_at: Option<Instant>,
    published: bool,
    secret_since: Instant,
    stopping: bool,
}

impl Reconciler {
    /// A node on which nothing is known to be captured.
    pub(super) fn new(
        interface: Interface,
        keeper: RuleSync,
        server: Server,
        asker: SelfQuery,
        metrics: Arc<Metrics>,
        told: watch::Sender<AgentState>,
    ) -> Self {
        Self {
            interface,
            keeper,
            server,
            sockets: Sockets::default(),
            asker,
            metrics,
            told,
            addresses: BTreeMap::new(),
            present: BTreeMap::new(),
            unbound: BTreeMap::new(),
            names: StartupNames::default(),
            names_asked: None,
            names_ask_at: None,
            published: false,
            secret_since: Instant::now(),
            stopping: false,
        }
    }

    /// Goes on with the addresses that an earlier agent left on the node, as far as its table tells of them. The
    /// switch of an address stays as it is, so that nothing is lost between the two.
    pub(super) async fn take_over(&mut self, left: &Rules) {
        match self.interface.look_for(&left.served).await {
            Ok(present) => self.present = present,
            Err(error) => tracing::warn!("{error}"),
        }
        let now = Instant::now();
        for (&address, presence) in &self.present {
            let Some(lifetime) = presence.left else { continue };
            let switched = left.switched.contains(&address);
            tracing::info!("{address} is taken over from an earlier agent, the switch is {}", on_or_off(switched));
            let lease = Lease::taken_over(now, true, lifetime, switched);
            self.addresses.insert(address, Address::new(now, lease));
        }
    }

    /// Withdraws everything from now on.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing is on the node any more.
    pub(super) fn holds_nothing(&self) -> bool {
        self.addresses.values().all(|address| !address.lease.holds())
    }

    /// One turn. Says when the next one is due.
    pub(super) async fn turn(&mut self, in_force: &ActiveRevision) -> Instant {
        if let Some(config) = &in_force.config {
            self.follow(config);
            self.look().await;
            self.arrange_sockets();
            let answered = self.ask().await;
            self.gather_names(config).await;
            self.step(&answered).await;
            self.want_rules(config);
        }
        self.renew_secret();
        self.tell(in_force);
        self.next_turn()
    }

    /// Notes which addresses the configuration names; others go.
    fn follow(&mut self, config: &Config) {
        let now = Instant::now();
        for address in self.addresses.values_mut() {
            address.wanted = false;
        }
        for captured in &config.node_cache.captured {
            let address = self
                .addresses
                .entry(captured.address)
                .or_insert_with(|| Address::new(now, Lease::new(now, captured.service)));
            address.lease.set_service(captured.service);
            address.wanted = !self.stopping;
        }
        let (addresses, metrics, stopping) = (&mut self.addresses, &self.metrics, self.stopping);
        addresses.retain(|&ip, address| {
            let late = address.answers_until.is_some_and(|until| now < until);
            let keep = address.wanted || address.lease.holds() || late || stopping;
            if !keep {
                metrics.forget(ip);
            }
            keep
        });
    }

    /// Looks which of them are on the node. When the kernel does not tell, what was seen last has to do.
    async fn look(&mut self) {
        match self.interface.look_for(&self.addresses.keys().copied().collect()).await {
            Ok(present) => self.present = present,
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn is_foreign(&self, ip: IpAddr) -> bool {
        self.present.get(&ip).is_some_and(|presence| presence.foreign.is_some())
    }

    /// Binds what is needed and tells the caches. An address of somebody else is not listened at, lest its owner
    /// cannot; one that is leaving is, until it has left.
    fn arrange_sockets(&mut self) {
        let needed: BTreeSet<IpAddr> = self
            .addresses
            .iter()
            .filter(|(ip, address)| address.lease.holds() || (address.wanted && !self.is_foreign(**ip)))
            .map(|(ip, _)| *ip)
            .collect();
        let (changed, unbound) = self.sockets.arrange(&needed);
        for (ip, problem) in &unbound {
            if self.unbound.get(ip) != Some(problem) {
                tracing::warn!("{problem}");
            }
        }
        self.unbound = unbound;
        if changed || !self.published {
            self.server.publish(self.sockets.held().to_vec());
            self.published = true;
        }
    }

    /// Gives the caches another secret for their cookies when the one they have is a day old (RFC 7873 §7.1).
    fn renew_secret(&mut self) {
        if self.secret_since.elapsed() >= SECRET_LASTS {
            self.server.renew_secret();
            self.secret_since = Instant::now();
        }
    }

    /// Makes the self-queries that are due, all at one time.
    async fn ask(&mut self) -> BTreeMap<IpAddr, bool> {
        let now = Instant::now();
        let due: Vec<(IpAddr, bool)> = self
            .addresses
            .iter()
            .filter(|(_, address)| address.lease.wants_answer() && address.ask_at <= now)
            .map(|(ip, address)| (*ip, address.ask_tcp_at <= now))
            .collect();
        let asker = &self.asker;
        let asked = due.into_iter().map(async |(ip, tcp)| (ip, tcp, asker.is_served(ip, tcp).await));
        let mut answered = BTreeMap::new();
        for (ip, tcp, outcome) in join_all(asked).await {
            let Some(address) = self.addresses.get_mut(&ip) else { continue };
            answered.insert(ip, outcome.is_ok());
            address.ask_at = now + if address.lease.in_transit() { 2 * IN_TRANSIT } else { PERIOD };
            match outcome {
                Ok(()) if tcp => address.ask_tcp_at = now + TCP_PERIOD,
                Ok(()) => {}
                Err(_) => {
                    self.metrics.count_failure(ip);
                    if address.failure.is_none() {
                        self.keeper.look_now();
                    }
                }
            }
            address.failure = outcome.err().map(|error| error.to_string());
        }
        answered
    }

    /// Asks for the first names while some address waits for them, beside the turns: an upstream may be slow, and
    /// renewals are not to wait for it.
    async fn gather_names(&mut self, config: &Config) {
        if self.names_asked.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(asked) = self.names_asked.take()
        {
            self.names = asked.await.unwrap_or(self.names);
        }
        let now = Instant::now();
        let resolved = self.names.resolved();
        let waiting = self.addresses.iter().find(|(_, address)| address.lease.waits_for_names(resolved));
        let Some((&ip, _)) = waiting else { return };
        if self.names_asked.is_none() && self.names_ask_at.is_none_or(|at| at <= now) {
            self.names_ask_at = Some(now + PERIOD);
            self.names_asked = Some(tokio::spawn(self.names.ask(ip, config.cluster_domain.clone())));
        }
    }

    /// Lets every lease go on and does with the address what follows.
    async fn step(&mut self, answered: &BTreeMap<IpAddr, bool>) {
        let caches = !self.server.connected().borrow().is_empty();
        let rules = self.keeper.in_force().borrow().rules.clone().unwrap_or_default();
        let names = self.names.resolved();
        for (&ip, address) in &mut self.addresses {
            let presence = self.present.get(&ip);
            let seen = LeaseInputs {
                wanted: address.wanted,
                foreign: presence.is_some_and(|presence| presence.foreign.is_some()),
                left: presence.and_then(|presence| presence.left),
                listening: !self.unbound.contains_key(&ip),
                caches,
                served: rules.served.contains(&ip),
                switched: rules.switched.contains(&ip),
                answered: answered.get(&ip).copied(),
                names,
            };
            let before = address.lease.wants_switch();
            let done = match address.lease.step(Instant::now(), &seen) {
                Some(Effect::Put) => {
                    self.metrics.count_renewal(ip);
                    self.interface.put(ip, address.lease.lifetime()).await
                }
                Some(Effect::Remove) => self.interface.remove(ip).await,
                None => Ok(()),
            };
            if address.lease.holds() {
                address.answers_until = Some(Instant::now() + LATE_ANSWERS);
            }
            if before != address.lease.wants_switch() {
                tracing::info!("the switch of {ip} is turned {}", on_or_off(address.lease.wants_switch()));
            }
            if let Err(error) = &done {
                tracing::warn!("{error}");
            }
            address.trouble = done.err().map(|error| error.to_string());
        }
    }

    fn want_rules(&self, config: &Config) {
        let now = Instant::now();
        let served = |(ip, address): (&IpAddr, &Address)| {
            let soon = address.wanted && !self.is_foreign(*ip) && !self.unbound.contains_key(ip);
            let late = address.answers_until.is_some_and(|until| now < until);
            (address.lease.holds() || soon || late).then_some(*ip)
        };
        self.keeper.want(&Rules {
            tier: config.tier.clone(),
            served: self.addresses.iter().filter_map(served).collect(),
            switched: self
                .addresses
                .iter()
                .filter(|(_, address)| address.lease.wants_switch())
                .map(|(ip, _)| *ip)
                .collect(),
        });
    }

    fn tell(&self, in_force: &ActiveRevision) {
        let now = Instant::now();
        let captured: Vec<CapturedAddress> = in_force
            .config
            .iter()
            .flat_map(|config| &config.node_cache.captured)
            .map(|captured| self.how_far(captured.address, in_force))
            .collect();
        for address in &captured {
            self.metrics.set_captured(address.address, address.state == CaptureState::Captured);
        }
        let revision = &in_force.revision;
        self.metrics.set_revision(revision.asked.as_deref(), revision.in_force.as_deref());
        self.metrics.set_connected(self.server.connected().borrow().len());
        self.metrics.set_reasserts(self.keeper.in_force().borrow().reasserted);
        self.told.send_modify(|told| {
            let behind = revision.asked.is_some() && revision.asked != revision.in_force;
            let since = told.behind_since.filter(|_| told.revision.asked == revision.asked);
            *told = AgentState {
                at: now,
                zone: in_force.zone.clone(),
                revision: revision.clone(),
                behind_since: behind.then(|| since.unwrap_or(now)),
                captured,
                stopping: self.stopping,
            };
        });
    }

    fn how_far(&self, ip: IpAddr, in_force: &ActiveRevision) -> CapturedAddress {
        if let Some(link) = self.present.get(&ip).and_then(|presence| presence.foreign.as_ref()) {
            let reason = format!("somebody else has put this address on the link {link}; it is left alone");
            return CapturedAddress { address: ip, state: CaptureState::Foreign, reason: Some(reason) };
        }
        match self.missing(ip, in_force) {
            None => CapturedAddress { address: ip, state: CaptureState::Captured, reason: None },
            Some(reason) => CapturedAddress { address: ip, state: CaptureState::Withdrawn, reason: Some(reason) },
        }
    }

    /// Why an address is not captured, the first cause first; none if it is.
    fn missing(&self, ip: IpAddr, in_force: &ActiveRevision) -> Option<String> {
        let address = self.addresses.get(&ip)?;
        let kept = self.keeper.in_force();
        let kept = kept.borrow();
        let switched = kept.rules.as_ref().is_some_and(|rules| rules.switched.contains(&ip));
        // What the kernel does counts, and not what it was told to do from now on.
        if address.lease.holds() && switched {
            return None;
        }
        if self.stopping {
            return Some("the agent is stopping".to_owned());
        }
        if let Some(problem) = self.unbound.get(&ip) {
            return Some(problem.to_string());
        }
        let domain = in_force.config.as_ref().map(|config| config.cluster_domain.as_str()).unwrap_or_default();
        let names = || self.names.missing(domain).filter(|_| address.lease.waits_for_names(self.names.resolved()));
        if self.server.connected().borrow().is_empty() {
            return Some("no cache is running on this node".to_owned());
        }
        let problem = kept.problem.clone().or_else(|| address.trouble.clone()).or_else(|| address.failure.clone());
        Some(problem.or_else(names).unwrap_or_else(|| "it is about to be captured".to_owned()))
    }

    fn next_turn(&self) -> Instant {
        let now = Instant::now();
        if self.addresses.values().any(|address| address.lease.in_transit()) {
            return now + IN_TRANSIT;
        }
        let asking = self.addresses.values().filter(|address| address.lease.wants_answer());
        asking.map(|address| address.ask_at).min().unwrap_or(now + PERIOD).min(now + PERIOD)
    }
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
