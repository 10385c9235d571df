//! Findings about upstreams that do not answer, aggregated over the pods that query them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dnstier_crds::conditions::Reason;
use node_cache_config::status::{CAPTURED_UPSTREAM, Instance, LAST_RESORT_SCOPE, UpstreamStatus};

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::poll::PodStatus;
use crate::controller::status::throttling;
use crate::controller::text::{join_some, sanitize, sanitize_list, zone_text};

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
    for (place, instance) in instances(observed) {
        if let Some(problem) = &instance.upstream_problem {
            places_by_problem.entry(sanitize_list(problem)).or_default().insert(place);
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
    let mut reports: BTreeMap<(String, SocketAddr), UpstreamReports> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| !pod.terminating) {
        let Some(PodStatus::Resolver(status)) = observed.status_of(pod) else { continue };
        let zone = pod.resolver_zone.clone().unwrap_or_default();
        for upstream in status.instance.upstreams.iter().filter(|upstream| upstream.scope == "forward") {
            let entry = reports.entry((zone.clone(), upstream.address)).or_default();
            entry.total += 1;
            if !upstream.healthy {
                entry.down.insert(pod.name.clone());
            }
        }
    }
    let mut zones_by_address: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    for ((zone, address), _) in reports.iter().filter(|(_, reports)| reports.is_outage()) {
        zones_by_address.entry(*address).or_default().push(zone_text(zone));
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
    for pod in observed.pods.iter().filter(|pod| !pod.terminating) {
        let Some(PodStatus::Node(status)) = observed.status_of(pod) else { continue };
        let alive = status.instances.iter().filter(|instance| instance.alive);
        let upstreams: Vec<&UpstreamStatus> = alive.flat_map(|instance| &instance.upstreams).collect();
        let scopes: BTreeSet<&str> = upstreams
            .iter()
            .map(|upstream| upstream.scope.as_str())
            .filter(|scope| *scope != LAST_RESORT_SCOPE)
            .collect();
        for scope in scopes {
            let entry = reports.entry(sanitize(scope)).or_default();
            entry.total += 1;
            if upstreams.iter().filter(|upstream| upstream.scope == scope).all(|upstream| !upstream.healthy) {
                entry.down.insert(pod.node.clone().unwrap_or_else(|| pod.name.clone()));
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

/// Returns the processes that answer queries, each with its node or its pod.
pub(super) fn instances(observed: &Observed) -> impl Iterator<Item = (String, &Instance)> {
    observed.pods.iter().filter(|pod| !pod.terminating).flat_map(|pod| {
        let status = observed.status_of(pod);
        let place = pod.node.clone().unwrap_or_else(|| pod.name.clone());
        status.into_iter().flat_map(PodStatus::instances).map(move |instance| (place.clone(), instance))
    })
}

fn scope_text(scope: &str) -> String {
    match scope.split_once('/') {
        Some(("zone", zone)) => format!("The resolvers of {}", zone_text(zone)),
        Some(("route", suffix)) => format!("The upstreams of the route {suffix}"),
        _ if scope == "cluster" => "The pods of the cluster DNS".to_owned(),
        _ => format!("The upstreams of {scope}"),
    }
}
