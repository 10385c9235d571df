//! Status: computes the status of a tier from the observed state and the outcome, and writes it.

mod conditions;
mod dropped_fields;
mod events;
mod facts;
mod findings;
mod start;
mod throttling;
mod traffic;
mod unreadable;
mod upstreams;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::merge;
use dnstier_crds::v1alpha1::{
    DnsTierStatus, ExcludedNodesStatus, NodesStatus, ResolversStatus, RevisionStatus, SummaryStatus, ZoneStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

pub(crate) use start::is_starting;
pub(crate) use unreadable::UnreadableReporter;
pub(crate) use writer::StatusWriter;

use crate::controller::apply::ApplyOutcome;
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::pods::TierPod;
use crate::controller::placement::Exclusion;
use crate::controller::rollout::{is_away, to_count};
use crate::controller::status::conditions::{ConditionSet, unknown_conditions};
use crate::controller::status::facts::Facts;
use crate::controller::text::join_some;
use crate::metrics::ZoneResolverCount;
use crate::settings::Settings;

/// Maximum number of excluded nodes that a status names for each reason.
const MAX_EXCLUDED_NAMES: usize = 3;

/// Computes the status of a tier.
///
/// The status has no field that changes without a change of the tier, so that its write triggers no further
/// reconciliation.
#[must_use]
pub(crate) fn compute(observed: &Observed, settings: &Settings, outcome: &ApplyOutcome) -> DnsTierStatus {
    if let Some(status) = status_of_before(observed, outcome) {
        return status;
    }
    let facts = Facts::collect(observed, settings, outcome);
    let conditions = ConditionSet::compute(observed, outcome, &facts);
    let previous = observed.tier.status.clone().unwrap_or_default();
    let generation = observed.tier.meta().generation;
    let rollout = outcome.rollout();
    let target = rollout.map(|rollout| rollout.desired.id.clone());
    let all_updated = facts.nodes.expected() > 0 && facts.nodes.updated == facts.nodes.expected();
    let merged = merge(&previous.conditions, &conditions.reports, generation, &Time(observed.now));
    let first_ready_time = start::first_ready_time(&previous, &merged);
    let previous_revision = previous.revision.and_then(|revision| revision.current);
    let current = if all_updated && target.is_some() { target.clone() } else { previous_revision };
    DnsTierStatus {
        observed_generation: generation,
        summary: Some(SummaryStatus {
            ready: format!("{}/{}", facts.nodes.ready, facts.nodes.desired),
            resolvers: format!("{}/{}", facts.resolvers_ready(), facts.resolvers_desired()),
            zones: to_count(facts.zones.len()),
            updated: format!("{}/{}", facts.nodes.updated, facts.nodes.desired),
            throttled: throttling::addresses(observed),
            message: conditions.summary,
        }),
        first_ready_time,
        rollout: rollout.map(|rollout| rollout.status.clone()),
        conditions: merged,
        revision: (current.is_some() || target.is_some()).then_some(RevisionStatus { current, target }),
        nodes: Some(NodesStatus {
            desired: facts.nodes.desired,
            ready: facts.nodes.ready,
            updated: facts.nodes.updated,
            away: facts.nodes.away,
            excluded: excluded_nodes(&facts.nodes.excluded),
        }),
        resolvers: Some(ResolversStatus { desired: facts.resolvers_desired(), ready: facts.resolvers_ready() }),
        zones: zone_statuses(&facts, &traffic::local_percents(observed)),
        traffic: traffic::with_hysteresis(previous.traffic, &traffic::node_rates(observed)),
        // Claims are written by a field manager of their own.
        operator: None,
    }
}

/// Returns the status that a tier had before the operator started, while the first poll of some of its pods is still to
/// come and nothing had to be written: a start of the operator is no change of the tier.
fn status_of_before(observed: &Observed, outcome: &ApplyOutcome) -> Option<DnsTierStatus> {
    let is_up_to_date = matches!(outcome, ApplyOutcome::Valid { writes: 0, failure: None, .. });
    let status = observed.tier.status.as_ref().filter(|_| is_up_to_date && observed.awaits_first_polls())?;
    let is_of_generation = status.observed_generation == observed.tier.meta().generation;
    (is_of_generation && !status.conditions.is_empty()).then(|| status.clone())
}

/// Returns the pods whose reports count. A terminating pod is about to be gone. A pod on a node that is away is not
/// polled: its last report says how it was before the node went away.
fn reporting_pods(observed: &Observed) -> impl Iterator<Item = &TierPod> {
    observed.pods.iter().filter(|pod| !pod.terminating && !is_away(observed, pod))
}

/// Returns the numbers of resolvers of each zone that has nodes, for the metrics.
#[must_use]
pub(crate) fn resolver_counts(
    observed: &Observed,
    settings: &Settings,
    outcome: &ApplyOutcome,
) -> Vec<ZoneResolverCount> {
    let zones = Facts::collect(observed, settings, outcome).zones.into_iter();
    zones.map(|zone| ZoneResolverCount { zone: zone.name, desired: zone.desired, ready: zone.ready }).collect()
}

/// Returns the nodes that are not counted, with the first few names for each reason.
fn excluded_nodes(excluded: &BTreeMap<Exclusion, Vec<String>>) -> Vec<ExcludedNodesStatus> {
    let reasons = excluded.iter().map(|(exclusion, names)| ExcludedNodesStatus {
        reason: exclusion.name().to_owned(),
        nodes: to_count(names.len()),
        names: names.iter().take(MAX_EXCLUDED_NAMES).cloned().collect(),
    });
    reasons.collect()
}

/// Returns the zones, those without resolvers among them, ordered by name.
fn zone_statuses(facts: &Facts, local_percents: &BTreeMap<String, u32>) -> Vec<ZoneStatus> {
    let with_resolvers = facts.zones.iter().map(|zone| ZoneStatus {
        name: zone.name.clone(),
        nodes: zone.nodes,
        resolvers_ready: zone.ready,
        local_percent: local_percents.get(&zone.name).copied(),
        no_resolvers: None,
    });
    let without = facts.zones_without_resolvers.iter().map(|zone| ZoneStatus {
        name: zone.name.clone(),
        nodes: zone.nodes,
        resolvers_ready: 0,
        local_percent: local_percents.get(&zone.name).copied(),
        no_resolvers: Some(format!("No node may run one: {}.", join_some(&zone.obstacles))),
    });
    let mut zones: Vec<ZoneStatus> = with_resolvers.chain(without).collect();
    zones.sort_by(|one, other| one.name.cmp(&other.name));
    zones
}

/// Computes the status of a tier in a cluster that the operator is denied to read: the previous counters, and the
/// finding in every condition. Nothing is known of upstreams.
#[must_use]
pub(crate) fn compute_unreadable(tier: &DnsTier, finding: &Finding, now: Timestamp) -> DnsTierStatus {
    let mut status = DnsTierStatus { operator: None, ..tier.status.clone().unwrap_or_default() };
    let generation = tier.meta().generation;
    status.observed_generation = generation;
    status.conditions = merge(&status.conditions, &unknown_conditions(finding), generation, &Time(now));
    let summary = status.summary.get_or_insert_default();
    summary.message.clone_from(&finding.message);
    summary.throttled = None;
    status
}
