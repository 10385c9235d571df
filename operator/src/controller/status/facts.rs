//! Facts: counts and lists from the observed state, from which conditions are computed.

use std::collections::{BTreeMap, BTreeSet};

use dnstier_crds::conditions::ConditionType;
use dnstier_crds::v1alpha1::DnsTierStatus;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;
use node_cache_config::status::is_not_in_volume;

use crate::controller::apply::ApplyOutcome;
use crate::controller::observe::Observed;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::{PodSummary, ProblemKind};
use crate::controller::owned::labels;
use crate::controller::placement::{Exclusion, Placement, ZoneNodes, nodes_by_zone};
use crate::controller::rollout::pods::Role;
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::{
    NodePods, PodStarts, START_DEADLINE, is_away, is_rolling_out, is_zone_away, non_negative, pods_of, to_count,
};
use crate::controller::status::reporting_pods;
use crate::controller::status::start::was_ready;
use crate::controller::text::{join_some, sanitize, zone_text};
use crate::settings::Settings;

/// Number of failed polls in sequence from which a ready pod counts as unreachable.
const MIN_FAILED_POLLS: u8 = 2;

/// Time after a pod was told a revision in which its volume may still be without it.
const MAX_VOLUME_LAG: SignedDuration = SignedDuration::from_secs(60);

/// Number of nodes of which one may fail: 1 %. Of fewer nodes, none may.
const NODES_PER_TOLERATED: u32 = 100;

/// Facts about a tier.
pub(super) struct Facts {
    /// Facts about the nodes.
    pub(super) nodes: NodeFacts,
    /// Facts about the zones that have nodes and resolvers, ordered by name.
    pub(super) zones: Vec<ZoneFacts>,
    /// Zones that have nodes and no resolvers, because none can be placed there, ordered by name.
    pub(super) zones_without_resolvers: Vec<ZoneWithoutResolvers>,
    /// Messages of pods that refused a revision, each with its pods.
    pub(super) refusals: Vec<String>,
    /// Addresses that are on a node already and were not assigned by the tier.
    pub(super) foreign_addresses: Vec<String>,
    /// Captured addresses of which some queries fail, each with its node and the reason.
    pub(super) partly_failing_addresses: Vec<String>,
    /// Pods that are ready, but whose status polls fail.
    pub(super) unreachable_pods: Vec<String>,
    /// Caching resolvers that do not respond to the agent of their node.
    pub(super) unresponsive_instances: Vec<String>,
    /// Pods of the newest template that should run by now and do not, each with its place and the reason.
    pub(super) overdue_pods: Vec<String>,
    /// Whether a pod of the newest template runs and is not ready for long: a rollout does not explain it.
    pub(super) is_rollout_late: bool,
}

impl NodeFacts {
    /// Returns the number of nodes that should answer and are there.
    pub(super) fn expected(&self) -> u32 {
        self.desired.saturating_sub(self.away)
    }
}

/// Facts about the nodes.
#[derive(Default)]
pub(super) struct NodeFacts {
    /// Number of nodes that should run a pod, those away included.
    pub(super) desired: u32,
    /// Number of nodes that should run a pod and are away; they count neither as ready nor as updated.
    pub(super) away: u32,
    /// Number of nodes that are there and may do without an answer while the tier is ready.
    pub(super) tolerated: u32,
    /// Number of nodes that answer through their caches.
    pub(super) ready: u32,
    /// Number of nodes with the newest pod template and the revision in force.
    pub(super) updated: u32,
    /// Whether the DaemonSet is in a rollout, or has not observed its newest template yet.
    pub(super) rolling_out: bool,
    /// Nodes that are there and do not answer through their caches, with the reason where it is known.
    pub(super) not_ready: Vec<String>,
    /// Whether a node may run the caches.
    pub(super) is_any_eligible: bool,
    /// Names of the nodes that cannot run the caches, by reason.
    pub(super) excluded: BTreeMap<Exclusion, Vec<String>>,
}

/// Facts about a zone.
pub(super) struct ZoneFacts {
    /// Name of the zone.
    pub(super) name: String,
    /// Number of nodes in the zone.
    pub(super) nodes: u32,
    /// Whether all nodes of the zone that may run a resolver are away. Nothing waits for the resolvers of such a zone.
    pub(super) is_away: bool,
    /// Number of resolvers that the zone should have.
    pub(super) desired: u32,
    /// Number of ready resolvers.
    pub(super) ready: u32,
    /// Number of resolvers that are not missed: those on nodes that are away, while another one is ready.
    pub(super) excused: u32,
    /// Whether the Deployment is in a rollout, or has not observed its newest template yet.
    pub(super) rolling_out: bool,
    /// Message of the Deployment about pods that cannot be created.
    pub(super) creation_failure: Option<String>,
    /// Whether pods cannot be created for [`START_DEADLINE`].
    pub(super) is_creation_overdue: bool,
    /// Whether all pods of the zone have the revision in force.
    pub(super) is_on_revision: bool,
    /// Nodes on which no resolver can be placed, each with its obstacle; empty while there is another node.
    pub(super) obstacles: Vec<String>,
}

/// Facts about a zone without resolvers.
pub(super) struct ZoneWithoutResolvers {
    /// Name of the zone.
    pub(super) name: String,
    /// Number of nodes in the zone.
    pub(super) nodes: u32,
    /// Nodes on which no resolver can be placed, each with its obstacle.
    pub(super) obstacles: Vec<String>,
}

impl Facts {
    /// Collects the facts about a tier.
    pub(super) fn collect(observed: &Observed, settings: &Settings, outcome: &ApplyOutcome) -> Self {
        let revision = outcome.rollout().map(|rollout| &rollout.desired);
        let placement = Placement::of_resolvers(&observed.tier.spec.resolvers.pod, settings);
        let nodes_by_zone = nodes_by_zone(&observed.nodes, &placement);
        let zones = zones_facts(observed, settings, &nodes_by_zone, revision);
        let starts = PodStarts::collect(observed, settings);
        let mut facts = Self {
            nodes: node_facts(observed, settings, revision),
            zones_without_resolvers: zones_without_resolvers(observed, nodes_by_zone, &zones),
            zones,
            refusals: Vec::new(),
            foreign_addresses: Vec::new(),
            partly_failing_addresses: Vec::new(),
            unreachable_pods: Vec::new(),
            unresponsive_instances: Vec::new(),
            overdue_pods: starts.overdue.into_iter().map(describe_overdue).collect(),
            is_rollout_late: starts.is_any_late,
        };
        let mut pods_by_refusal: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in reporting_pods(observed) {
            facts.add_report(observed, pod, &mut pods_by_refusal);
        }
        facts.refusals = pods_by_refusal
            .into_iter()
            .map(|(refusal, pods)| format!("Refused by {}: {refusal}", join_some(&Vec::from_iter(pods))))
            .collect();
        facts
    }

    /// Returns the number of resolvers that all zones should have.
    pub(super) fn resolvers_desired(&self) -> u32 {
        self.zones.iter().map(|zone| zone.desired).sum()
    }

    /// Returns the number of ready resolvers of all zones.
    pub(super) fn resolvers_ready(&self) -> u32 {
        self.zones.iter().map(|zone| zone.ready).sum()
    }

    /// Adds the facts from the report of one pod.
    fn add_report(
        &mut self,
        observed: &Observed,
        pod: &TierPod,
        pods_by_refusal: &mut BTreeMap<String, BTreeSet<String>>,
    ) {
        let Some(report) = observed.reports.get(&pod.uid) else { return };
        let Some(status) = report.current_status() else {
            let is_unreachable = pod.ready && report.failures >= MIN_FAILED_POLLS;
            if let Some(error) = report.poll_error.as_ref().filter(|_| is_unreachable) {
                self.unreachable_pods.push(format!("{} ({})", place(pod), sanitize(error)));
            }
            return;
        };
        // The kubelet brings what a pod was told a moment ago.
        let is_new = pod.told.is_some_and(|told| observed.now.duration_since(told.time).abs() < MAX_VOLUME_LAG);
        let is_late = |refusal: &&str| is_new && is_not_in_volume(refusal);
        for refusal in status.problems(ProblemKind::Refusal).filter(|refusal| !is_late(refusal)) {
            pods_by_refusal.entry(refusal.to_owned()).or_default().insert(place(pod));
        }
        let foreign = status.problems(ProblemKind::Foreign);
        self.foreign_addresses.extend(foreign.map(|address| format!("{address} on {}", place(pod))));
        let partly_failing = status.problems(ProblemKind::PartlyFailing).filter_map(|text| text.split_once(' '));
        self.partly_failing_addresses
            .extend(partly_failing.map(|(address, reason)| format!("{address} on {} ({reason})", place(pod))));
        let unresponsive = status.problems(ProblemKind::Unresponsive);
        self.unresponsive_instances.extend(unresponsive.map(|name| format!("{name} on {}", place(pod))));
    }
}

fn node_facts(observed: &Observed, settings: &Settings, revision: Option<&TierRevision>) -> NodeFacts {
    let mut excluded =
        Placement::of_node_pods(&observed.tier.spec.node_cache.pod, settings).excluded_nodes(&observed.nodes);
    let is_any_eligible = observed.nodes.iter().count() > excluded.values().map(Vec::len).sum();
    let Some(pods) = NodePods::collect(observed, settings) else {
        return NodeFacts { is_any_eligible, excluded, ..NodeFacts::default() };
    };
    let has_left = |name: &String| !observed.nodes.get(name).is_some_and(|(name, node)| pods.is_staying(name, node));
    excluded.values_mut().for_each(|names| names.retain(has_left));
    excluded.retain(|_, names| !names.is_empty());
    let expected = pods.expected();
    let (ready, not_ready): (Vec<&TierPod>, Vec<&TierPod>) =
        pods.present.iter().partition(|pod| is_serving(observed, pod));
    let on_revision = count_on_revision(observed, &pods.present, revision);
    let mut not_ready: Vec<String> = not_ready.into_iter().map(|pod| describe_not_ready(observed, pod)).collect();
    let missing = expected.saturating_sub(to_count(pods.present.len()));
    if missing > 0 {
        not_ready.push(format!("{missing} without a pod"));
    }
    NodeFacts {
        desired: pods.desired,
        away: pods.away,
        tolerated: if was_ready(observed.tier.status.as_ref()) { pods.desired / NODES_PER_TOLERATED } else { 0 },
        ready: to_count(ready.len()).min(expected),
        updated: on_revision.min(pods.updated),
        rolling_out: pods.is_behind || pods.updated < expected,
        not_ready,
        is_any_eligible,
        excluded,
    }
}

fn zones_facts(
    observed: &Observed,
    settings: &Settings,
    nodes_by_zone: &BTreeMap<String, ZoneNodes>,
    revision: Option<&TierRevision>,
) -> Vec<ZoneFacts> {
    let mut zones: Vec<ZoneFacts> = observed
        .owned
        .deployments
        .iter()
        .filter(|deployment| deployment.namespace().as_deref() == Some(&settings.namespace))
        .filter_map(|deployment| {
            let name = deployment.labels().get(labels::ZONE).filter(|name| is_wanted(observed, name))?;
            Some(zone_facts(observed, settings, deployment, name, nodes_by_zone.get(name)?, revision))
        })
        .collect();
    zones.sort_by(|one, other| one.name.cmp(&other.name));
    zones
}

/// Returns the zones without resolvers that the spec wants to have some. Before the first revision no zone has any.
fn zones_without_resolvers(
    observed: &Observed,
    nodes_by_zone: BTreeMap<String, ZoneNodes>,
    zones: &[ZoneFacts],
) -> Vec<ZoneWithoutResolvers> {
    nodes_by_zone
        .into_iter()
        .filter(|(name, nodes)| {
            nodes.hosts == 0 && is_wanted(observed, name) && zones.iter().all(|zone| zone.name != *name)
        })
        .map(|(name, ZoneNodes { nodes, obstacles, .. })| ZoneWithoutResolvers {
            name,
            nodes: to_count(nodes),
            obstacles,
        })
        .collect()
}

/// Returns whether the spec wants a zone to have resolvers.
fn is_wanted(observed: &Observed, zone: &String) -> bool {
    let requested = &observed.tier.spec.resolvers.zones;
    requested.is_empty() || requested.contains(zone)
}

fn zone_facts(
    observed: &Observed,
    settings: &Settings,
    deployment: &Deployment,
    name: &str,
    nodes: &ZoneNodes,
    revision: Option<&TierRevision>,
) -> ZoneFacts {
    let status = deployment.status.clone().unwrap_or_default();
    let desired = non_negative(deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default());
    let creation_failure = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    let failing_since = creation_failure.and_then(|condition| condition.last_transition_time.as_ref());
    let (away, present): (Vec<&TierPod>, Vec<&TierPod>) = pods_of(observed, Component::ZoneResolver)
        .filter(|pod| pod.resolver_zone.as_deref() == Some(name))
        .partition(|pod| is_away(observed, pod));
    let is_any_ready = present.iter().any(|pod| pod.ready);
    ZoneFacts {
        name: name.to_owned(),
        nodes: to_count(nodes.nodes),
        is_away: is_zone_away(observed, settings, name),
        desired,
        ready: non_negative(status.ready_replicas.unwrap_or_default()).min(desired),
        excused: if is_any_ready { to_count(away.len()) } else { 0 },
        rolling_out: is_rolling_out(deployment),
        creation_failure: creation_failure.and_then(|condition| condition.message.clone()),
        is_creation_overdue: failing_since.is_some_and(|since| observed.now.duration_since(since.0) >= START_DEADLINE),
        is_on_revision: are_on_revision(observed, present.into_iter(), revision),
        obstacles: if nodes.hosts == 0 { nodes.obstacles.clone() } else { Vec::new() },
    }
}

/// Whether a pod has a revision in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InForce {
    Yes,
    No,
    /// The pod was asked to run the revision before the operator started, and has not answered a poll since.
    Unknown,
}

/// Returns whether a pod had this revision in force at its last successful poll.
fn in_force(observed: &Observed, pod: &TierPod, revision: Option<&str>) -> InForce {
    let Some((revision, report)) = revision.zip(observed.reports.get(&pod.uid)) else { return InForce::No };
    if report.last_status.as_ref().is_some_and(|status| status.has_in_force(revision)) {
        InForce::Yes
    } else if report.is_unknown() && pod.annotated_revision.as_deref() == Some(revision) {
        InForce::Unknown
    } else {
        InForce::No
    }
}

/// Returns how many node pods have a revision in force. For those of which nothing is known the status of before
/// counts.
fn count_on_revision(observed: &Observed, pods: &[&TierPod], revision: Option<&TierRevision>) -> u32 {
    let part = revision.map(|revision| revision.part(Role::Node));
    let count = |state| to_count(pods.iter().filter(|pod| in_force(observed, pod, part) == state).count());
    let (known, unknown) = (count(InForce::Yes), count(InForce::Unknown));
    let before = observed.tier.status.as_ref().filter(|status| is_target(status, revision));
    let before = before.and_then(|status| status.nodes.as_ref()).map_or(0, |nodes| nodes.updated);
    before.clamp(known, known + unknown)
}

/// Returns whether all resolvers of a zone have a revision in force. For those of which nothing is known the status of
/// before counts.
fn are_on_revision<'a>(
    observed: &Observed,
    mut pods: impl Iterator<Item = &'a TierPod>,
    revision: Option<&TierRevision>,
) -> bool {
    let is_settled =
        |condition: &Condition| condition.type_ == ConditionType::Progressing.name() && condition.status == "False";
    let was_settled = observed
        .tier
        .status
        .as_ref()
        .is_some_and(|status| is_target(status, revision) && status.conditions.iter().any(is_settled));
    let part = revision.map(|revision| revision.part(Role::Resolver));
    pods.all(|pod| match in_force(observed, pod, part) {
        InForce::Yes => true,
        InForce::No => false,
        InForce::Unknown => was_settled,
    })
}

fn is_target(status: &DnsTierStatus, revision: Option<&TierRevision>) -> bool {
    let target = status.revision.as_ref().and_then(|status| status.target.as_deref());
    target == revision.map(|revision| revision.id.as_str())
}

/// Returns whether a node answers through its caches: the kubelet finds the pod ready, and the pod has captured every
/// address.
fn is_serving(observed: &Observed, pod: &TierPod) -> bool {
    pod.ready && observed.status_of(pod).is_none_or(PodSummary::has_captured_all)
}

/// Returns the text for a node that does not answer, with the reason that is closest to the cause.
fn describe_not_ready(observed: &Observed, pod: &TierPod) -> String {
    let status = observed.status_of(pod);
    let not_captured = status.and_then(|status| status.problems(ProblemKind::NotCaptured).next()).map(str::to_owned);
    match pod.waiting_reason.clone().or(not_captured) {
        Some(reason) => format!("{} ({reason})", place(pod)),
        None => place(pod),
    }
}

/// Returns the text for a pod that should run and does not.
fn describe_overdue(pod: &TierPod) -> String {
    let zone = pod.resolver_zone.as_ref().map(|zone| format!(" of {}", zone_text(zone))).unwrap_or_default();
    let reason = pod.waiting_reason.as_deref().unwrap_or("its containers do not start");
    format!("{}{zone} ({reason})", place(pod))
}

/// Returns the place of a pod in a message: the node of a node pod, the name of any other.
fn place(pod: &TierPod) -> String {
    match (pod.component, &pod.node) {
        (Component::NodeCache, Some(node)) => node.clone(),
        _ => pod.name.clone(),
    }
}
