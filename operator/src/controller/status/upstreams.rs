//! Upstreams that do not answer, told once for all who ask them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dnstier_crds::conditions::Reason;
use node_cache_config::status::{Instance, UpstreamStatus};

use super::text;
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::poll::Answer;

/// Who asks and who of them gets no answer.
#[derive(Default)]
struct Askers {
    all: usize,
    unanswered: BTreeSet<String>,
}

impl Askers {
    /// Half of those who ask have to say so: one that has just started, or a lost packet, is no dead upstream.
    fn mostly_unanswered(&self) -> bool {
        !self.unanswered.is_empty() && 2 * self.unanswered.len() >= self.all
    }
}

/// What is wrong with what the tier asks.
pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let mut findings = problems(observed);
    findings.extend(forwarders(observed));
    findings.extend(scopes(observed));
    findings
}

/// Sources of upstreams that are of no use, such as a resolv.conf that names a captured address.
fn problems(observed: &Observed) -> Vec<Finding> {
    let mut problems: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (place, instance) in instances(observed) {
        if let Some(problem) = &instance.upstream_problem {
            problems.entry(text::bounded(problem)).or_default().insert(place);
        }
    }
    problems
        .into_iter()
        .map(|(problem, places)| {
            let places = text::some_of(&Vec::from_iter(places));
            Finding::new(Reason::UpstreamLoop, format!("{problem} ({places})."))
        })
        .collect()
}

/// Servers that the resolvers of a zone forward to: each by itself, since its share of the questions is late.
fn forwarders(observed: &Observed) -> Vec<Finding> {
    let mut askers: BTreeMap<(String, SocketAddr), Askers> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| !pod.leaving) {
        let Some(Answer::Resolver(status)) = observed.answer(pod) else { continue };
        let zone = pod.resolver_of.clone().unwrap_or_default();
        for upstream in status.instance.upstreams.iter().filter(|upstream| upstream.scope == "forward") {
            let entry = askers.entry((zone.clone(), upstream.address)).or_default();
            entry.all += 1;
            if !upstream.healthy {
                entry.unanswered.insert(pod.name.clone());
            }
        }
    }
    let mut zones: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    for ((zone, address), _) in askers.iter().filter(|(_, askers)| askers.mostly_unanswered()) {
        zones.entry(*address).or_default().push(zone_text(zone));
    }
    zones
        .into_iter()
        .map(|(address, zones)| {
            let zones = text::some_of(&zones);
            let message = format!("Upstream {address} does not answer the resolvers of {zones}.");
            Finding::new(Reason::UpstreamUnreachable, message)
        })
        .collect()
}

/// What nodes ask: a group of servers is dead for a node only when none of them answers.
fn scopes(observed: &Observed) -> Vec<Finding> {
    let mut askers: BTreeMap<String, Askers> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| !pod.leaving) {
        let Some(Answer::Node(status)) = observed.answer(pod) else { continue };
        let upstreams: Vec<&UpstreamStatus> =
            status.instances.iter().filter(|instance| instance.alive).flat_map(|one| &one.upstreams).collect();
        let names: BTreeSet<&str> = upstreams.iter().map(|upstream| upstream.scope.as_str()).collect();
        for scope in names {
            let entry = askers.entry(text::bounded(scope)).or_default();
            entry.all += 1;
            if upstreams.iter().filter(|upstream| upstream.scope == scope).all(|upstream| !upstream.healthy) {
                entry.unanswered.insert(pod.node.clone().unwrap_or_else(|| pod.name.clone()));
            }
        }
    }
    askers
        .into_iter()
        .filter(|(_, askers)| askers.mostly_unanswered())
        .map(|(scope, askers)| {
            let nodes = text::some_of(&Vec::from_iter(askers.unanswered));
            Finding::new(Reason::UpstreamUnreachable, format!("{} answer to nothing from {nodes}.", scope_text(&scope)))
        })
        .collect()
}

fn instances(observed: &Observed) -> impl Iterator<Item = (String, &Instance)> {
    observed.pods.iter().filter(|pod| !pod.leaving).flat_map(|pod| {
        let answer = observed.answer(pod);
        let place = pod.node.clone().unwrap_or_else(|| pod.name.clone());
        answer.into_iter().flat_map(Answer::instances).map(move |instance| (place.clone(), instance))
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

fn zone_text(zone: &str) -> String {
    if zone.is_empty() { "the nodes without a zone".to_owned() } else { zone.to_owned() }
}
