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

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::pods::Component;
use crate::controller::observe::poll::{PodSummary, Throttle, ThrottleState as State};
use crate::controller::status::reporting_pods;
use crate::controller::text::{join_at_most, join_some, sanitize, zone_text};

/// Least packets a second that a packet budget can have.
const MIN_BUDGET: u64 = 10;
/// Maximum number of upstreams that the summary names.
const MAX_ADDRESSES: usize = 2;
/// Age from which the begin of a limit is told with its date.
const MAX_AGE_WITHOUT_DATE: SignedDuration = SignedDuration::from_hours(24);

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

/// Report of one pod about one upstream.
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
    /// Number of processes of the pod that report this.
    processes: u64,
    /// Number of processes of the node that send the upstream enough for a limit to be found, these included.
    senders: u64,
}

/// Upstream as one kind of processes sees it: limits on its side, or the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: SocketAddr,
    is_node: bool,
    is_budget: bool,
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
    statuses(observed).any(|(_, status)| status.has_enough_traffic())
}

/// Returns the reports about each upstream, with the most important of their states, the most important group first.
fn groups(observed: &Observed) -> Vec<(State, Key, Vec<Report>)> {
    let mut reports_by_key: BTreeMap<Key, Vec<Report>> = BTreeMap::new();
    let senders = senders(observed);
    for (place, status) in statuses(observed) {
        for throttle in status.throttles() {
            let Some(address) = throttle.address() else { continue };
            let Throttle { state, since, offered, answered, processes, .. } = throttle;
            let key = Key { address, is_node: place.is_node, is_budget: *state == State::BudgetSpent };
            reports_by_key.entry(key).or_default().push(Report {
                place: place.clone(),
                state: *state,
                since: u64::from(*since),
                offered: u64::from(*offered),
                answered: u64::from(*answered),
                reserve: throttle.reserve(),
                processes: u64::from(*processes),
                senders: senders.get(&(address, place.node.clone())).copied().unwrap_or(1),
            });
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
    for (place, status) in statuses(observed) {
        for (address, processes) in status.senders() {
            *senders.entry((address, place.node.clone())).or_default() += processes;
        }
    }
    senders
}

/// Returns the recent statuses of the pods that are polled, each with its place.
fn statuses(observed: &Observed) -> impl Iterator<Item = (Place, &PodSummary)> {
    reporting_pods(observed).filter_map(|pod| {
        let status = observed.recent_status_of(pod)?;
        let node = sanitize(pod.node.as_ref().unwrap_or(&pod.name));
        let is_node = status.component() == Component::NodeCache;
        let name = if is_node { node.clone() } else { zone_text(pod.resolver_zone.as_deref().unwrap_or_default()) };
        Some((Place { is_node, name, node }, status))
    })
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
    let mut nodes: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for report in reports.iter().filter(|report| report.state == State::Limited) {
        let (answered, processes, senders) = nodes.entry(&report.place.node).or_default();
        *answered += report.answered;
        *processes += report.processes;
        *senders = report.senders.max(*senders);
    }
    let shares = nodes.into_values().map(|(answered, processes, senders)| {
        let processes = processes.max(1);
        answered * senders.max(processes) / processes
    });
    let least = shares.min().unwrap_or_default() * 9 / 10;
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
