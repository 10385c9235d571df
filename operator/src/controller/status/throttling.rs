//! Findings about upstreams that answer only a part of what they are sent, or whose packet budget is spent, summed over
//! the pods that query them.
//!
//! The figures are those of the moment in which each pod knew the cause, and stay until 30 s after its end, so that a
//! sentence changes with the limit only. What a pod reports is not trusted: states come from a fixed list, numbers are
//! bounded, and each upstream has one sentence, however many zones and nodes it limits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dnstier_crds::conditions::Reason;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use node_cache_config::status::{BUDGET_SPENT, FALLBACK_SCOPE, Instance, ThrottleStatus, UpstreamStatus};

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::poll::PodStatus;
use crate::controller::text::{join_at_most, join_some, sanitize, zone_text};

/// Least packets a second that a packet budget can have.
const MIN_BUDGET: u64 = 10;
/// Most packets a second that are believed of a process, as many as a packet budget can have.
const MAX_RATE: u32 = 1_000_000;
/// Maximum number of upstreams that the summary names.
const MAX_ADDRESSES: usize = 2;
/// Age from which the begin of a limit is told with its date.
const MAX_AGE_WITHOUT_DATE: SignedDuration = SignedDuration::from_hours(24);

/// State of an upstream that people are told of, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Limited,
    FlowsLimited,
    Lossy,
    Slow,
    BudgetSpent,
}

impl State {
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

/// Zone resolver or node that queries upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Whether the processes are caches of a node, which query the upstreams of routes.
    is_node: bool,
    /// Zone of the resolver, or the node, in words.
    name: String,
    /// Node of the pod.
    node: String,
}

/// Report of one process about one upstream.
#[derive(Clone, Debug)]
struct Report {
    place: Place,
    state: State,
    /// Begin, in seconds of the Unix epoch.
    since: u64,
    /// Packets a second that are meant for the upstream.
    offered: u64,
    /// Packets a second that it answers, or that the budget lets through.
    answered: u64,
    /// Server to which the excess goes.
    reserve: Option<SocketAddr>,
    /// Number of processes of the node that send the upstream enough for a limit to be found, this one included.
    senders: u64,
}

/// Upstream as one kind of processes sees it: limits on its side, or the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: SocketAddr,
    is_node: bool,
    is_budget: bool,
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

/// Returns the findings, limits first, then flows, loss, slowness and budgets.
pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    groups(observed).iter().map(|(state, key, reports)| finding(*state, *key, reports, observed.now)).collect()
}

/// Returns the upstreams that have findings, in words: `192.0.2.53, 192.0.2.54 and 3 more`.
pub(super) fn addresses(observed: &Observed) -> Option<String> {
    let mut addresses: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (_, key, _) in groups(observed) {
        if seen.insert(key.address) {
            addresses.push(address_text(key.address));
        }
    }
    (!addresses.is_empty()).then(|| join_at_most(MAX_ADDRESSES, &addresses))
}

/// Returns whether some upstream gets enough queries for a limit to be found.
pub(super) fn has_enough_traffic(observed: &Observed) -> bool {
    let upstreams = processes(observed).flat_map(|(_, instance)| &instance.upstreams);
    upstreams.filter_map(|upstream| upstream.detection.as_ref()).any(|detection| detection.has_enough_traffic)
}

/// Returns the reports about each upstream, with the most important of their states, the most important group first.
fn groups(observed: &Observed) -> Vec<(State, Key, Vec<Report>)> {
    let mut reports_by_key: BTreeMap<Key, Vec<Report>> = BTreeMap::new();
    let senders = senders(observed);
    for (place, instance) in processes(observed) {
        let (mut seen, reserves) = (BTreeSet::new(), Reserves::of(instance));
        for upstream in &instance.upstreams {
            let Some((state, throttle)) = throttle(upstream) else { continue };
            // Two groups of a process may have the same server.
            if seen.insert(upstream.address) {
                let (is_node, is_budget) = (place.is_node, state == State::BudgetSpent);
                let key = Key { address: upstream.address, is_node, is_budget };
                let offered = throttle.offered.min(MAX_RATE);
                reports_by_key.entry(key).or_default().push(Report {
                    place: place.clone(),
                    state,
                    since: throttle.since,
                    offered: offered.into(),
                    answered: throttle.answered.min(offered).into(),
                    reserve: reserves.behind(upstream),
                    senders: senders.get(&(upstream.address, place.node.clone())).copied().unwrap_or(1),
                });
            }
        }
    }
    let with_state = |(key, reports): (Key, Vec<Report>)| {
        let state = reports.iter().map(|report| report.state).min()?;
        Some((state, key, reports))
    };
    let mut groups: Vec<_> = reports_by_key.into_iter().filter_map(with_state).collect();
    groups.sort_by_key(|(state, key, _)| (*state, *key));
    groups
}

/// Returns the number of processes of each node that send an upstream enough for a limit to be found.
fn senders(observed: &Observed) -> BTreeMap<(SocketAddr, String), u64> {
    let mut senders = BTreeMap::new();
    for (place, instance) in processes(observed) {
        let sends = |upstream: &&UpstreamStatus| {
            let detection = upstream.detection.as_ref();
            detection.is_some_and(|detection| detection.has_enough_traffic || detection.throttle.is_some())
        };
        let addresses: BTreeSet<SocketAddr> =
            instance.upstreams.iter().filter(sends).map(|upstream| upstream.address).collect();
        for address in addresses {
            *senders.entry((address, place.node.clone())).or_default() += 1;
        }
    }
    senders
}

/// Returns the processes that query upstreams, each with its place.
fn processes(observed: &Observed) -> impl Iterator<Item = (Place, &Instance)> {
    observed.pods.iter().filter(|pod| !pod.terminating).flat_map(|pod| {
        let status = observed.recent_status_of(pod);
        let node = sanitize(pod.node.as_ref().unwrap_or(&pod.name));
        let is_node = matches!(status, Some(PodStatus::Node(_)));
        let name = if is_node { node.clone() } else { zone_text(pod.resolver_zone.as_deref().unwrap_or_default()) };
        let place = Place { is_node, name, node };
        status.into_iter().flat_map(PodStatus::instances).map(move |instance| (place.clone(), instance))
    })
}

fn throttle(upstream: &UpstreamStatus) -> Option<(State, &ThrottleStatus)> {
    let throttle = upstream.detection.as_ref()?.throttle.as_ref()?;
    Some((State::from_name(&throttle.state)?, throttle))
}

fn finding(state: State, key: Key, reports: &[Report], now: Timestamp) -> Finding {
    let address = address_text(key.address);
    let places: BTreeSet<String> = reports.iter().map(|report| report.place.name.clone()).collect();
    let places = join_some(&Vec::from_iter(places));
    let since = time_text(reports.iter().map(|report| report.since).min().unwrap_or_default(), now);
    let offered: u64 = reports.iter().map(|report| report.offered).sum();
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    let (all, some, missing) = (grouped(offered), grouped(answered), grouped(offered.saturating_sub(answered)));
    let reserve = reports.iter().find_map(|report| report.reserve).map(address_text);
    match state {
        State::Limited => {
            let excess = match &reserve {
                Some(reserve) => format!("{missing}/s go to {reserve}"),
                None => format!("{missing}/s get no answer from it"),
            };
            let budget = advised_budget(reports);
            let message = format!(
                "Upstream {address} answers {some} of {all} packets/s of {places} since {since}; {excess}; set \
                 packetBudget to {budget}."
            );
            Finding::new(Reason::LimitFound, message)
        }
        State::FlowsLimited => Finding::new(
            Reason::FlowsLimited,
            format!("Upstream {address} has no room for new flows of {places} since {since}; ports are kept."),
        ),
        State::Lossy => Finding::new(
            Reason::Lossy,
            format!(
                "Upstream {address} answers {some} of {all} packets/s of {places} since {since}, whatever the rate."
            ),
        ),
        State::Slow => Finding::new(
            Reason::Lossy,
            format!("Upstream {address} answers {places} late since {since}, whatever the rate."),
        ),
        State::BudgetSpent => {
            let budgets = budgets_text(&by_node(reports.iter()));
            let remedy = match &reserve {
                Some(reserve) => format!("; the other {missing}/s go to {reserve}."),
                None if key.is_node => ": a larger packetBudget, or another upstream for the route.".to_owned(),
                None => {
                    let nodes = missing_nodes(reports);
                    let nodes = if nodes == 1 { "1 more node".to_owned() } else { format!("{nodes} more nodes") };
                    format!(": {nodes} with resolvers, or a fallback.")
                }
            };
            let message =
                format!("Upstream {address} needs {all} packets/s of {places}, which may send {budgets}{remedy}");
            Finding::new(Reason::BudgetSpent, message)
        }
    }
}

/// Returns what each node gets through.
fn by_node<'a>(reports: impl Iterator<Item = &'a Report>) -> BTreeMap<&'a str, u64> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for report in reports {
        *sums.entry(&report.place.node).or_default() += report.answered;
    }
    sums
}

/// Returns the packet budget that keeps every node below the limit: nine tenths of what the node with the smallest
/// share gets through, in round figures. Processes that have not found the limit yet count like those of their node
/// that have.
fn advised_budget(reports: &[Report]) -> u64 {
    let limited = || reports.iter().filter(|report| report.state == State::Limited);
    let of_node = |(node, answered): (&str, u64)| {
        let of_node = || limited().filter(|report| report.place.node == node);
        let senders = of_node().map(|report| report.senders).max().unwrap_or(1);
        answered * senders.max(of_node().count() as u64) / of_node().count().max(1) as u64
    };
    let least = by_node(limited()).into_iter().map(of_node).min().unwrap_or_default() * 9 / 10;
    let step = match least {
        ..100 => 1,
        100..500 => 10,
        _ => 50,
    };
    (least / step * step).max(MIN_BUDGET)
}

/// Returns the budgets of nodes in words: `3 × 900`, or the sum of those that differ.
fn budgets_text(budgets: &BTreeMap<&str, u64>) -> String {
    let (least, most) = (budgets.values().min().copied(), budgets.values().max().copied());
    match least {
        Some(budget) if least == most => format!("{} × {}", budgets.len(), grouped(budget)),
        _ => format!("{} from {} nodes", grouped(budgets.values().sum()), budgets.len()),
    }
}

/// Returns the number of nodes with resolvers that are missing, summed over the zones: a zone has its own resolvers.
fn missing_nodes(reports: &[Report]) -> u64 {
    let mut by_zone: BTreeMap<&str, Vec<&Report>> = BTreeMap::new();
    for report in reports {
        by_zone.entry(&report.place.name).or_default().push(report);
    }
    let missing = by_zone.into_values().map(|reports| {
        let offered: u64 = reports.iter().map(|report| report.offered).sum();
        let budgets = by_node(reports.into_iter());
        let (nodes, sum) = (budgets.len() as u64, budgets.values().sum::<u64>().max(1));
        (offered * nodes).div_ceil(sum).saturating_sub(nodes).max(1)
    });
    missing.sum()
}

fn address_text(address: SocketAddr) -> String {
    if address.port() == 53 { address.ip().to_string() } else { address.to_string() }
}

/// Returns a time of the Unix epoch as `11:02:07` (UTC), with its date once it is a day ago.
fn time_text(second: u64, now: Timestamp) -> String {
    let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
    let time = time.unwrap_or(now).min(now);
    let is_old = now.duration_since(time) >= MAX_AGE_WITHOUT_DATE;
    time.strftime(if is_old { "%Y-%m-%d %H:%M:%S" } else { "%H:%M:%S" }).to_string()
}

/// Returns a number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
