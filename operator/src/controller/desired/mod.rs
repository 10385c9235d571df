//! Desired: builds the objects of a validated tier, without a client or a clock. One file for each kind of object.

mod accounts;
mod config;
mod config_map;
mod disruption;
mod meta;
mod network_policy;
mod node_cache;
mod pod;
mod services;
#[cfg(test)]
mod tests;
mod zone_resolver;

use std::collections::BTreeSet;

pub(crate) use config::RenderedRevision;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use crate::controller::finding::Finding;
use crate::controller::observe::nodes::Nodes;
use crate::controller::owned::{OwnedObjects, labels};
use crate::controller::rollout::departure::DeparturePlan;
use crate::controller::rollout::leaving::Leaving;
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// Desired state of a tier.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// Desired objects.
    pub(crate) objects: OwnedObjects,
    /// Revision for every pod.
    ///
    /// `None` until the shadow Services of the cluster DNS and the Services of at least one zone have ClusterIPs: a
    /// configuration without these addresses would not work. ConfigMaps and workloads are not in `objects` until then.
    pub(crate) revision: Option<RenderedRevision>,
}

/// Builds the desired state of a tier.
///
/// `existing` provides the ClusterIPs of Services and the older revisions. Those in use stay in the ConfigMap. New pods
/// start with the newest revision, unless [`set_stable`] says another one.
///
/// # Errors
///
/// A [`Finding`] when the data plane would refuse the configuration, or when it is too large.
pub(crate) fn build(
    tier: &ValidatedTier,
    settings: &Settings,
    existing: &OwnedObjects,
    revisions_in_use: &BTreeSet<String>,
) -> Result<Desired, Finding> {
    let mut services: Vec<_> = services::shadow_services(tier).into();
    services.extend(tier.zones.iter().flat_map(|zone| services::zone_services(tier, zone, settings)));
    services.extend(services::metrics_services(tier, settings));
    let mut objects = OwnedObjects {
        service_accounts: accounts::service_accounts(tier, settings),
        network_policies: vec![network_policy::network_policy(tier, settings)],
        services,
        disruption_budgets: tier.zones.iter().map(|zone| disruption::disruption_budget(tier, zone, settings)).collect(),
        ..OwnedObjects::default()
    };
    let revision = config::render(tier, settings, existing)?;
    if let Some(revision) = &revision {
        objects.config_maps = config_map::config_maps(tier, settings, revision, existing, revisions_in_use);
        objects.daemon_sets = vec![node_cache::daemon_set(tier, settings)];
        objects.deployments = tier.zones.iter().map(|zone| zone_resolver::deployment(tier, zone, settings)).collect();
    }
    Ok(Desired { objects, revision })
}

/// Makes another revision than the newest the one with which pods start that were not told any: the one that is proven.
pub(crate) fn set_stable(desired: &mut Desired, existing: &OwnedObjects, stable: &str) {
    for config_map in &mut desired.objects.config_maps {
        config_map::set_stable(config_map, existing, stable);
    }
}

/// Returns the patches of ConfigMaps after which pods start with another revision that were not told any, while the
/// spec is not valid and results in no ConfigMap: that revision is proven, and its key is there.
#[must_use]
pub(crate) fn stable_patches(existing: &OwnedObjects, stable: &str) -> Vec<ConfigMap> {
    config_map::stable_patches(existing, stable)
}

/// Lets pods of the DaemonSet go in steps where the placement excludes nodes. `current` is the DaemonSet as it is.
///
/// As long as nodes leave, a write is refused when the DaemonSet was read before its last change: who leaves next
/// follows from its template.
pub(crate) fn set_leaving(daemon_set: &mut DaemonSet, current: &DaemonSet, leaving: &Leaving, nodes: &Nodes) {
    match leaving {
        Leaving::Nobody => {}
        Leaving::Steps(DeparturePlan { departure, staying, .. }) => {
            node_cache::keep_for_now(daemon_set, current, departure, staying, nodes);
        }
        Leaving::TooMany(_) => node_cache::keep_placement(daemon_set, current),
    }
    if [&*daemon_set, current].iter().any(|daemon_set| daemon_set.annotations().contains_key(labels::DEPARTURE)) {
        daemon_set.metadata.resource_version = current.resource_version();
    }
}
