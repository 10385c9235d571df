//! Summary of the status page of a pod: the facts that conditions are computed from, in a few bytes. A page of 130
//! upstreams in two processes has 60 KiB.
//!
//! Reports of pods are not trusted: every list is bounded, and texts are bounded and kept once for all pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use node_cache_config::figures::{AddressQueries, ZoneQueries};
use node_cache_config::status::{
    BUDGET_SPENT, CaptureState, CapturedAddress, FALLBACK_SCOPE, Instance, LAST_RESORT_SCOPE, NodeStatus,
    ResolverStatus, Revision, ThrottleStatus, UpstreamStatus,
};

use crate::controller::observe::pods::Component;
use crate::controller::observe::poll::texts::{Text, Texts};
use crate::controller::text::{sanitize, sanitize_list};

/// Maximum number of upstreams that are down, or groups of them, that are kept of a pod.
const MAX_DOWN: usize = 8;
/// Maximum number of problems that are kept of a pod.
const MAX_PROBLEMS: usize = 4;
/// Maximum number of throttled upstreams that are kept of a pod.
const MAX_THROTTLES: usize = 3;
/// Maximum number of upstreams of a pod of which it is kept how many processes send them queries.
const MAX_SENDERS: usize = 8;
/// Maximum length of the list of upstreams that a pod queries, in bytes: room for 256 routes.
const MAX_QUERIED_BYTES: usize = 72 << 10;
/// Most packets a second that are believed of a process, as many as a packet budget can have.
const MAX_RATE: u32 = 1_000_000;
/// Place in a list that stands for none.
const NONE: u16 = u16::MAX;

/// Status page of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodPage {
    /// Page of a node's agent.
    Node(NodeStatus),
    /// Page of a zone resolver.
    Resolver(ResolverStatus),
}

/// Summary of the status page of a pod, without counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodSummary {
    /// Revisions that processes have in force, each once; of more than two the first ones.
    in_force: [Option<Text>; 2],
    /// Names of the groups of upstreams that the caches of a node query, or the upstreams that a resolver forwards to,
    /// ordered, one a line.
    queried: Option<Text>,
    /// Places in `queried` of what is down, [`NONE`] in the rest.
    down: [u16; MAX_DOWN],
    /// Upstreams that get enough queries for a limit to be found, one a line, after the number of processes that send
    /// them.
    senders: Option<Text>,
    /// Problems, one a line, each after the mark of its kind. Most pods that have any have those of others.
    problems: Option<Text>,
    throttles: Box<[Throttle]>,
    is_node: bool,
    /// Whether every process has the same revision in force.
    is_on_one_revision: bool,
    has_captured_all: bool,
    has_enough_traffic: bool,
}

/// Kind of a problem that a pod reports, from which follows what its text tells, the ones that are kept first at the
/// top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProblemKind {
    /// First address that is not captured, with the reason.
    NotCaptured,
    /// Reason why a revision is refused.
    Refusal,
    /// Address that another program has added.
    Foreign,
    /// Name of a process that does not respond.
    Unresponsive,
    /// Problem with the source of the upstreams.
    UnusableUpstreams,
    /// Captured address, and after a space why some of its queries fail.
    PartlyFailing,
}

/// State of an upstream that people are told of, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ThrottleState {
    /// An upstream that answers a limited number of queries.
    Limited,
    /// An upstream without room for new flows.
    FlowsLimited,
    /// An upstream that loses a share of the queries.
    Lossy,
    /// An upstream that is late.
    Slow,
    /// A packet budget without room.
    BudgetSpent,
}

/// Upstream that answers a part of what it is sent, or whose packet budget is spent, summed over the processes of a
/// pod that report the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Throttle {
    /// Address of the upstream, and after a space that of the server to which the excess goes.
    servers: Text,
    /// Begin, in seconds of the Unix epoch.
    pub(crate) since: u32,
    /// Packets a second that are meant for the upstream.
    pub(crate) offered: u32,
    /// Packets a second that it answers, or that the budget lets through.
    pub(crate) answered: u32,
    /// State.
    pub(crate) state: ThrottleState,
    /// Number of processes that report it.
    pub(crate) processes: u8,
}

impl Throttle {
    /// Returns the address of the upstream.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.servers.split(' ').next()?.parse().ok()
    }

    /// Returns the server to which the excess goes.
    pub(crate) fn reserve(&self) -> Option<SocketAddr> {
        self.servers.split(' ').nth(1)?.parse().ok()
    }
}

impl ProblemKind {
    /// Returns the letter before a problem of this kind.
    const fn mark(self) -> char {
        match self {
            Self::NotCaptured => 'n',
            Self::Refusal => 'r',
            Self::Foreign => 'f',
            Self::Unresponsive => 'u',
            Self::UnusableUpstreams => 's',
            Self::PartlyFailing => 'p',
        }
    }
}

impl ThrottleState {
    /// Returns the state of this name; `None` for one that this operator does not know.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "limited" => Some(Self::Limited),
            "flows limited" => Some(Self::FlowsLimited),
            "lossy" => Some(Self::Lossy),
            "slow" => Some(Self::Slow),
            BUDGET_SPENT => Some(Self::BudgetSpent),
            _ => None,
        }
    }
}

impl PodPage {
    /// Returns the processes that answer queries.
    #[must_use]
    pub(crate) fn instances(&self) -> &[Instance] {
        match self {
            Self::Node(status) => &status.instances,
            Self::Resolver(status) => std::slice::from_ref(&status.instance),
        }
    }

    /// Returns the UID of the pod.
    pub(super) fn pod_uid(&self) -> &str {
        match self {
            Self::Node(status) => &status.pod_uid,
            Self::Resolver(status) => &status.pod_uid,
        }
    }

    /// Returns the revisions of all processes, that of the agent among them.
    pub(super) fn revisions(&self) -> impl Iterator<Item = &Revision> {
        let agent = match self {
            Self::Node(status) => Some(&status.revision),
            Self::Resolver(_) => None,
        };
        self.instances().iter().map(|instance| &instance.revision).chain(agent)
    }

    /// Returns the queries by captured address; none for a resolver.
    pub(super) fn address_queries(&self) -> &[AddressQueries] {
        match self {
            Self::Node(status) => &status.figures.queries,
            Self::Resolver(_) => &[],
        }
    }

    /// Returns the queries of a node to the resolvers of zones; `None` where its zone is not known, and for a resolver.
    pub(super) fn zone_queries(&self) -> Option<ZoneQueries> {
        match self {
            Self::Node(status) => status.figures.zone_queries,
            Self::Resolver(_) => None,
        }
    }

    /// Returns the addresses that the pod should capture.
    pub(super) fn captured(&self) -> &[CapturedAddress] {
        match self {
            Self::Node(status) => &status.captured,
            Self::Resolver(_) => &[],
        }
    }
}

impl PodSummary {
    /// Summarizes a page.
    pub(super) fn of(page: &PodPage, texts: &mut Texts) -> Self {
        let in_force: BTreeSet<Option<&str>> = page.revisions().map(|revision| revision.in_force.as_deref()).collect();
        let is_on_one_revision = in_force.len() == 1 && !page.instances().is_empty();
        let mut revisions = in_force.into_iter().flatten().map(|revision| texts.intern(&sanitize(revision)));
        let in_force = [revisions.next().flatten(), revisions.next().flatten()];
        let health = match page {
            PodPage::Node(status) => health_of_scopes(status),
            PodPage::Resolver(status) => health_of_forwarders(status),
        };
        let (queried, down) = queried_and_down(&health, texts);
        let mut detections = page
            .instances()
            .iter()
            .flat_map(|instance| &instance.upstreams)
            .filter_map(|upstream| upstream.detection.as_ref());
        Self {
            in_force,
            queried,
            down,
            senders: senders(page.instances(), texts),
            problems: problems(page, texts),
            throttles: throttles(page.instances(), texts),
            is_node: matches!(page, PodPage::Node(_)),
            is_on_one_revision,
            has_captured_all: page.captured().iter().all(|captured| captured.state == CaptureState::Captured),
            has_enough_traffic: detections.any(|detection| detection.has_enough_traffic),
        }
    }

    /// Returns what kind of pod has reported.
    #[must_use]
    pub(crate) fn component(&self) -> Component {
        if self.is_node { Component::NodeCache } else { Component::ZoneResolver }
    }

    /// Returns whether every process has this revision in force.
    #[must_use]
    pub(crate) fn has_in_force(&self, revision: &str) -> bool {
        self.is_on_one_revision && self.revisions_in_force().any(|in_force| in_force == revision)
    }

    /// Returns the revisions that processes of the pod have in force, two at the most.
    pub(crate) fn revisions_in_force(&self) -> impl Iterator<Item = &str> {
        self.in_force.iter().flatten().map(|revision| &**revision)
    }

    /// Returns whether every address of a node pod is captured.
    #[must_use]
    pub(crate) fn has_captured_all(&self) -> bool {
        self.has_captured_all
    }

    /// Returns whether some upstream gets enough queries for a limit to be found.
    #[must_use]
    pub(crate) fn has_enough_traffic(&self) -> bool {
        self.has_enough_traffic
    }

    /// Returns the groups of upstreams that the caches of a node query, or the upstreams that a resolver forwards to,
    /// each with whether it is down. Of more than eight that are down, the others count as up.
    pub(crate) fn queried(&self) -> impl Iterator<Item = (&str, bool)> {
        let names = self.queried.iter().flat_map(|queried| queried.lines());
        names.enumerate().map(|(place, name)| (name, self.down.iter().any(|down| usize::from(*down) == place)))
    }

    /// Returns the texts of the problems of a kind.
    pub(crate) fn problems(&self, kind: ProblemKind) -> impl Iterator<Item = &str> {
        let problems = self.problems.iter().flat_map(|problems| problems.lines());
        problems.filter_map(move |problem| problem.strip_prefix(kind.mark()))
    }

    /// Returns the throttled upstreams, the most important three.
    pub(crate) fn throttles(&self) -> &[Throttle] {
        &self.throttles
    }

    /// Returns upstreams that get enough queries for a limit to be found, eight at the most, each with the number of
    /// processes that send them.
    pub(crate) fn senders(&self) -> impl Iterator<Item = (SocketAddr, u64)> {
        let lines = self.senders.iter().flat_map(|senders| senders.lines());
        lines.filter_map(|line| {
            let (processes, address) = line.split_once(' ')?;
            Some((address.parse().ok()?, processes.parse().ok()?))
        })
    }

    /// Returns whether another summary tells the same. The begin of a limit, which pods compute from two clocks, may
    /// differ by a second.
    pub(super) fn tells_the_same(&self, other: &Self) -> bool {
        let without_times = |summary: &Self| {
            let mut summary = summary.clone();
            for throttle in &mut summary.throttles {
                throttle.since = 0;
            }
            summary
        };
        without_times(self) == without_times(other)
    }

    /// Returns how many bytes the summary keeps beside its own size and the shared texts.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.throttles)
    }
}

/// Returns whether each group of upstreams of a node's caches is up: it is down only when all of its servers are. The
/// last resort is left out: nobody knows how its servers are while they are not asked.
fn health_of_scopes(status: &NodeStatus) -> BTreeMap<String, bool> {
    let mut is_up: BTreeMap<&str, bool> = BTreeMap::new();
    let alive = status.instances.iter().filter(|instance| instance.alive);
    for upstream in
        alive.flat_map(|instance| &instance.upstreams).filter(|upstream| upstream.scope != LAST_RESORT_SCOPE)
    {
        *is_up.entry(&upstream.scope).or_default() |= upstream.healthy;
    }
    is_up.into_iter().map(|(scope, is_up)| (sanitize(scope), is_up)).collect()
}

/// Returns whether each server that a resolver forwards to is up.
fn health_of_forwarders(status: &ResolverStatus) -> BTreeMap<String, bool> {
    let forwarders = status.instance.upstreams.iter().filter(|upstream| upstream.scope == "forward");
    forwarders.map(|upstream| (upstream.address.to_string(), upstream.healthy)).collect()
}

/// Returns the list of what is queried, and the places of what is down.
fn queried_and_down(health: &BTreeMap<String, bool>, texts: &mut Texts) -> (Option<Text>, [u16; MAX_DOWN]) {
    let mut list = String::new();
    let mut down = [NONE; MAX_DOWN];
    let mut free = down.iter_mut();
    for (place, (name, is_up)) in (0..NONE).zip(health) {
        if list.len() + name.len() >= MAX_QUERIED_BYTES {
            break;
        }
        list.push_str(name);
        list.push('\n');
        if !is_up && let Some(free) = free.next() {
            *free = place;
        }
    }
    match texts.intern(&list) {
        Some(queried) if !queried.is_empty() => (Some(queried), down),
        _ => (None, [NONE; MAX_DOWN]),
    }
}

/// Returns the problems of a page, one a line after the mark of its kind; `None` without any.
fn problems(page: &PodPage, texts: &mut Texts) -> Option<Text> {
    let mut problems: Vec<(ProblemKind, String)> = Vec::new();
    let not_captured = page.captured().iter().find(|captured| captured.state != CaptureState::Captured);
    problems.extend(not_captured.map(|captured| {
        let text = match &captured.reason {
            Some(reason) => format!("{}: {}", captured.address, sanitize(reason)),
            None => format!("{} is not captured", captured.address),
        };
        (ProblemKind::NotCaptured, text)
    }));
    let refusals = page.revisions().filter_map(|revision| revision.refusal.as_ref());
    problems.extend(refusals.map(|refusal| (ProblemKind::Refusal, sanitize(refusal))));
    problems.extend(page.captured().iter().filter_map(|captured| match (captured.state, &captured.reason) {
        (CaptureState::Foreign, _) => Some((ProblemKind::Foreign, captured.address.to_string())),
        (CaptureState::Captured, Some(reason)) => {
            Some((ProblemKind::PartlyFailing, format!("{} {}", captured.address, sanitize(reason))))
        }
        _ => None,
    }));
    if matches!(page, PodPage::Node(_)) {
        let unresponsive = page.instances().iter().filter(|instance| !instance.alive);
        problems.extend(unresponsive.map(|instance| (ProblemKind::Unresponsive, sanitize(&instance.name))));
    }
    let unusable = page.instances().iter().filter_map(|instance| instance.upstream_problem.as_ref());
    problems.extend(unusable.map(|problem| (ProblemKind::UnusableUpstreams, sanitize_list(problem))));
    problems.sort_by_key(|(kind, _)| *kind);
    let mut seen = BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    let kept: Vec<String> =
        problems.into_iter().take(MAX_PROBLEMS).map(|(kind, text)| format!("{}{text}", kind.mark())).collect();
    if kept.is_empty() { None } else { texts.intern(&kept.join("\n")) }
}

fn throttles(instances: &[Instance], texts: &mut Texts) -> Box<[Throttle]> {
    let mut by_upstream: BTreeMap<(ThrottleState, SocketAddr), (ThrottleStatus, Option<SocketAddr>, u8)> =
        BTreeMap::new();
    for instance in instances {
        let (mut seen, reserves) = (BTreeSet::new(), Reserves::of(instance));
        for upstream in &instance.upstreams {
            let Some((state, throttle)) = throttle(upstream) else { continue };
            // Two groups of a process may have the same server.
            if !seen.insert(upstream.address) {
                continue;
            }
            let offered = throttle.offered.min(MAX_RATE);
            let first = || (ThrottleStatus { since: throttle.since, ..ThrottleStatus::default() }, None, 0);
            let (sum, reserve, processes) = by_upstream.entry((state, upstream.address)).or_insert_with(first);
            sum.since = sum.since.min(throttle.since);
            sum.offered = sum.offered.saturating_add(offered);
            sum.answered = sum.answered.saturating_add(throttle.answered.min(offered));
            *reserve = reserve.or(reserves.behind(upstream));
            *processes = processes.saturating_add(1);
        }
    }
    let most_important = by_upstream.into_iter().take(MAX_THROTTLES);
    let kept = most_important.filter_map(|((state, address), (sum, reserve, processes))| {
        let servers = reserve.map_or_else(|| address.to_string(), |reserve| format!("{address} {reserve}"));
        Some(Throttle {
            servers: texts.intern(&servers)?,
            since: u32::try_from(sum.since).unwrap_or(u32::MAX),
            offered: sum.offered,
            answered: sum.answered,
            state,
            processes,
        })
    });
    kept.collect()
}

/// Returns the upstreams that get enough queries for a limit to be found, throttled ones first, each after the number
/// of processes that send them.
fn senders(instances: &[Instance], texts: &mut Texts) -> Option<Text> {
    let mut processes: BTreeMap<SocketAddr, (bool, usize)> = BTreeMap::new();
    for instance in instances {
        let mut seen = BTreeSet::new();
        for upstream in &instance.upstreams {
            let Some(detection) = &upstream.detection else { continue };
            let is_throttled = detection.throttle.is_some();
            if (is_throttled || detection.has_enough_traffic) && seen.insert(upstream.address) {
                let (has_throttled, number) = processes.entry(upstream.address).or_default();
                *has_throttled |= is_throttled;
                *number += 1;
            }
        }
    }
    let mut processes = Vec::from_iter(processes);
    processes.sort_by_key(|(_, (has_throttled, _))| !has_throttled);
    let lines = processes.iter().take(MAX_SENDERS).map(|(address, (_, number))| format!("{number} {address}\n"));
    texts.intern(&lines.collect::<String>()).filter(|senders| !senders.is_empty())
}

fn throttle(upstream: &UpstreamStatus) -> Option<(ThrottleState, &ThrottleStatus)> {
    let throttle = upstream.detection.as_ref()?.throttle.as_ref()?;
    Some((ThrottleState::from_name(&throttle.state)?, throttle))
}

/// Servers to which a process sends what an upstream may not be sent.
struct Reserves<'a> {
    /// First server of each group that is up and not throttled.
    with_room: BTreeMap<&'a str, SocketAddr>,
    /// First fallback; nobody knows how it is while it is not asked.
    fallback: Option<SocketAddr>,
}

impl<'a> Reserves<'a> {
    fn of(instance: &'a Instance) -> Self {
        let mut reserves = Self { with_room: BTreeMap::new(), fallback: None };
        for upstream in &instance.upstreams {
            if upstream.healthy && throttle(upstream).is_none() {
                reserves.with_room.entry(&upstream.scope).or_insert(upstream.address);
            }
            if upstream.scope == FALLBACK_SCOPE {
                reserves.fallback.get_or_insert(upstream.address);
            }
        }
        reserves
    }

    /// Returns the server behind an upstream: another one of its group, else the fallback.
    fn behind(&self, upstream: &UpstreamStatus) -> Option<SocketAddr> {
        self.with_room.get(upstream.scope.as_str()).copied().or(self.fallback)
    }
}
