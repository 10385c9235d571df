//! What a tier says of itself: facts in, conditions and counters out; then the one write of them.

mod conditions;
pub mod events;
mod facts;
mod text;
mod traffic;
mod upstreams;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use dnstier_crds::conditions::merge;
use dnstier_crds::v1alpha1::{DnsTierStatus, NodesStatus, ResolversStatus, RevisionStatus, SummaryStatus, ZoneStatus};
use dnstier_crds::{DnsTier, FIELD_MANAGER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::validate::tier::ValidatedTier;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::Settings;
use facts::Facts;

/// How the earlier steps of a pass ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Nothing was touched.
    Refused {
        /// Why.
        findings: Vec<Finding>,
        /// The revision that stays in force.
        in_force: Option<String>,
    },
    /// Everything was built and written, up to a failure.
    Built {
        /// What was built.
        tier: Box<ValidatedTier>,
        /// The revision that applies; none while addresses are missing.
        revision: Option<String>,
        /// How many objects and pods were not as they should be.
        written: usize,
        /// What failed.
        failure: Option<Finding>,
    },
}

/// The status of a tier. It holds nothing that changes by itself, so that writing it does not wake anybody.
#[must_use]
pub fn assess(observed: &Observed, settings: &Settings, outcome: &Outcome) -> DnsTierStatus {
    let facts = Facts::gather(observed, settings, outcome);
    let verdict = conditions::judge(observed, outcome, &facts);
    let previous = observed.tier.status.clone().unwrap_or_default();
    let target = match outcome {
        Outcome::Refused { in_force, .. } => in_force.clone(),
        Outcome::Built { revision, .. } => revision.clone(),
    };
    let everywhere = facts.nodes.desired > 0 && facts.nodes.updated == facts.nodes.desired;
    let before = previous.revision.and_then(|revision| revision.current);
    let current = if everywhere && target.is_some() { target.clone() } else { before };
    DnsTierStatus {
        observed_generation: observed.tier.meta().generation,
        summary: Some(SummaryStatus {
            ready: format!("{}/{}", facts.nodes.ready, facts.nodes.desired),
            resolvers: format!("{}/{}", facts.resolvers_ready(), facts.resolvers_desired()),
            zones: count(facts.zones.len()),
            updated: format!("{}/{}", facts.nodes.updated, facts.nodes.desired),
            message: verdict.message,
        }),
        conditions: merge(&previous.conditions, &verdict.reports, observed.tier.meta().generation, &Time(observed.now)),
        revision: (current.is_some() || target.is_some()).then_some(RevisionStatus { current, target }),
        nodes: Some(NodesStatus {
            desired: facts.nodes.desired,
            ready: facts.nodes.ready,
            updated: facts.nodes.updated,
        }),
        resolvers: Some(ResolversStatus { desired: facts.resolvers_desired(), ready: facts.resolvers_ready() }),
        zones: facts
            .zones
            .iter()
            .map(|zone| ZoneStatus { name: zone.name.clone(), nodes: zone.nodes, resolvers_ready: zone.ready })
            .collect(),
        traffic: traffic::settled(previous.traffic, &traffic::flows(observed)),
    }
}

/// The status of a tier in a cluster that may not be read: the counters of before, and why they are not renewed.
#[must_use]
pub fn unreadable(tier: &DnsTier, finding: &Finding, now: Timestamp) -> DnsTierStatus {
    let mut status = tier.status.clone().unwrap_or_default();
    let generation = tier.meta().generation;
    status.observed_generation = generation;
    status.conditions = merge(&status.conditions, &conditions::unknown(finding), generation, &Time(now));
    status.summary.get_or_insert_default().message.clone_from(&finding.message);
    status
}

/// Writes the status, unless it stands there already.
///
/// # Errors
///
/// When the API server refuses it.
pub async fn write(
    client: &Client,
    tier: &DnsTier,
    status: &DnsTierStatus,
    metrics: &Arc<Metrics>,
) -> Result<(), Error> {
    if tier.status.as_ref() == Some(status) {
        return Ok(());
    }
    let name = tier.name_any();
    let patch = json!({
        "apiVersion": DnsTier::api_version(&()),
        "kind": DnsTier::kind(&()),
        "metadata": {"name": name, "uid": tier.uid()},
        "status": status,
    });
    metrics.wrote("DnsTier", "status");
    let tiers: Api<DnsTier> = Api::all(client.clone());
    match tiers.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        // The tier is gone, or another one of this name is there by now.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
        Err(source) => Err(Error::refused("write the status of", format!("DnsTier {name}"), source)),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
