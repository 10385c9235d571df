//! What should be there: a validated tier in, objects out. Nothing here sees a client or a clock.

mod accounts;
mod config;
mod config_map;
mod disruption;
mod network_policy;
mod node_cache;
mod pod;
pub mod services;
#[cfg(test)]
mod tests;
mod zone_resolver;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use config::{Rendered, private_networks};
pub use config_map::revision_in_force;

use crate::controller::finding::Finding;
use crate::controller::owned::Children;
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// What should be there.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The objects.
    pub children: Children,
    /// The revision that applies to every pod. None until the twins of the cluster DNS Service, and the Services of
    /// one zone at least, have their addresses: without them nothing that works could be written.
    pub revision: Option<Rendered>,
}

/// Builds everything that a tier needs.
///
/// `existing` contributes the ClusterIPs that Services were given and the revisions that are kept for the pods which
/// still name them (`named`).
///
/// # Errors
///
/// A [`Finding`] when no process would put the resulting configuration in force.
pub fn build(
    tier: &ValidatedTier,
    settings: &Settings,
    existing: &Children,
    named: &[String],
) -> Result<Desired, Finding> {
    let mut services: Vec<_> = services::twins(tier).into();
    services.extend(tier.zones.iter().flat_map(|zone| services::of_zone(tier, zone, settings)));
    let mut children = Children {
        service_accounts: accounts::accounts(tier, settings),
        network_policies: vec![network_policy::network_policy(tier, settings)],
        services,
        disruption_budgets: tier.zones.iter().map(|zone| disruption::disruption_budget(tier, zone, settings)).collect(),
        ..Children::default()
    };
    let revision = config::render(tier, settings, existing)?;
    if let Some(revision) = &revision {
        children.config_maps = config_map::config_maps(tier, settings, revision, existing, named);
        children.daemon_sets = vec![node_cache::daemon_set(tier, settings)];
        children.deployments = tier.zones.iter().map(|zone| zone_resolver::deployment(tier, zone, settings)).collect();
    }
    Ok(Desired { children, revision })
}

/// Metadata of a child. The owner reference makes garbage collection do all of a deletion.
fn child_meta(tier: &ValidatedTier, namespace: &str, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![tier.owner.clone()]),
        ..ObjectMeta::default()
    }
}
