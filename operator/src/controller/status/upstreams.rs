//! Findings about upstreams that do not answer, aggregated over the pods that query them.

use std::collections::{BTreeMap, BTreeSet};

use dnstier_crds::conditions::Reason;
use node_cache_config::status::CAPTURED_UPSTREAM;

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::{PodSummary, ProblemKind};
use crate::controller::status::{reporting_pods, throttling};
use crate::controller::text::{join_some, zone_text};

/// Health of an upstream in the reports of the pods that query it.
#[derive(Default)]
struct UpstreamReports {
    /// Number of pods that query the upstream.
    total: usize,
    /// Pods that report the upstream as down, or their nodes.
    down: BTreeSet<String>,
}

impl UpstreamReports {
    /// Returns whether at least half of the pods report the upstream as down. Fewer are no outage: a pod may have just
    /// started, or may have lost a packet.
    fn is_outage(&self) -> bool {
        !self.down.is_empty() && 2 * self.down.len() >= self.total
    }
}

/// Returns the findings about the upstreams of a tier.
pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let mut findings = unusable_sources(observed);
    findings.extend(forwarder_outages(observed));
    findings.extend(scope_outages(observed));
    findings.extend(throttling::findings(observed));
    findings
}

/// Finds unusable sources of upstreams: a resolv.conf that names a captured address, or has lines that cannot be used.
fn unusable_sources(observed: &Observed) -> Vec<Finding> {
    let mut places_by_problem: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (pod, status) in statuses(observed) {
        for problem in status.problems(ProblemKind::UnusableUpstreams) {
            places_by_problem.entry(problem.to_owned()).or_default().insert(place(pod));
        }
    }
    places_by_problem
        .into_iter()
        .map(|(problem, places)| {
            let places = join_some(&Vec::from_iter(places));
            let is_loop = problem.contains(CAPTURED_UPSTREAM);
            let reason = if is_loop { Reason::UpstreamLoop } else { Reason::UpstreamUnusable };
            Finding::new(reason, format!("{problem} ({places})."))
        })
        .collect()
}

/// Finds outages of the servers that resolvers forward to. Each server counts by itself, because its share of the
/// queries is late even while the others answer.
fn forwarder_outages(observed: &Observed) -> Vec<Finding> {
    let mut reports: BTreeMap<(String, String), UpstreamReports> = BTreeMap::new();
    for (pod, status) in statuses_of(observed, Component::ZoneResolver) {
        let zone = pod.resolver_zone.clone().unwrap_or_default();
        for (address, is_down) in status.queried() {
            let entry = reports.entry((zone.clone(), address.to_owned())).or_default();
            entry.total += 1;
            if is_down {
                entry.down.insert(pod.name.clone());
            }
        }
    }
    let mut zones_by_address: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((zone, address), _) in reports.iter().filter(|(_, reports)| reports.is_outage()) {
        zones_by_address.entry(address).or_default().push(zone_text(zone));
    }
    zones_by_address
        .into_iter()
        .map(|(address, zones)| {
            let zones = join_some(&zones);
            let message = format!("Upstream {address} does not answer the resolvers of {zones}.");
            Finding::new(Reason::UpstreamUnreachable, message)
        })
        .collect()
}

/// Finds outages of the upstreams of node caches, by scope. A scope is down for a node only when all of its servers
/// are. The last resort is left out: nobody knows how its servers are while they are not asked.
fn scope_outages(observed: &Observed) -> Vec<Finding> {
    let mut reports: BTreeMap<String, UpstreamReports> = BTreeMap::new();
    for (pod, status) in statuses_of(observed, Component::NodeCache) {
        for (scope, is_down) in status.queried() {
            let entry = reports.entry(scope.to_owned()).or_default();
            entry.total += 1;
            if is_down {
                entry.down.insert(place(pod));
            }
        }
    }
    reports
        .into_iter()
        .filter(|(_, reports)| reports.is_outage())
        .map(|(scope, reports)| {
            let nodes = join_some(&Vec::from_iter(reports.down));
            Finding::new(Reason::UpstreamUnreachable, format!("{} answer to nothing from {nodes}.", scope_text(&scope)))
        })
        .collect()
}

/// Returns the pods that are polled and whose last poll succeeded, each with its status.
fn statuses(observed: &Observed) -> impl Iterator<Item = (&TierPod, &PodSummary)> {
    reporting_pods(observed).filter_map(|pod| Some((pod, observed.status_of(pod)?)))
}

fn statuses_of(observed: &Observed, component: Component) -> impl Iterator<Item = (&TierPod, &PodSummary)> {
    statuses(observed).filter(move |(_, status)| status.component() == component)
}

/// Returns the node of a pod, or the name of one without a node.
fn place(pod: &TierPod) -> String {
    pod.node.clone().unwrap_or_else(|| pod.name.clone())
}

fn scope_text(scope: &str) -> String {
    match scope.split_once('/') {
        Some(("zone", zone)) => format!("The resolvers of {}", zone_text(zone)),
        Some(("route", suffix)) => format!("The upstreams of the route {suffix}"),
        _ if scope == "cluster" => "The pods of the cluster DNS".to_owned(),
        _ => format!("The upstreams of {scope}"),
    }
}
