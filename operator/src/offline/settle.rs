//! Settle: desired state of a tier once the controller has come to rest.
//!
//! The controller needs several reconciliations: the first one creates the Services whose ClusterIPs the configuration
//! names, and zones that are not wanted go after a delay. Its own steps run here one after the other, on a copy of what
//! it observes, until they change nothing more.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::controller::desired::{self, Desired};
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::owned::{OwnedObjects, cluster_ips};
use crate::controller::validate::validate;
use crate::settings::Settings;

/// Maximum number of reconciliations. A tier needs two, and two more for each delay that ends at another time.
const MAX_RECONCILIATIONS: usize = 16;
/// Number of addresses in 198.18.0.0/15, which is reserved for tests of networks (RFC 2544).
const PLACEHOLDERS: u32 = 1 << 17;
/// First address of 198.18.0.0/15.
const FIRST_PLACEHOLDER: u32 = u32::from_be_bytes([198, 18, 0, 0]);

/// Desired state at rest.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    /// Objects.
    pub(super) objects: OwnedObjects,
    /// Problems that do not keep the tier from being applied.
    pub(super) warnings: Vec<Finding>,
}

/// Returns the desired state of a tier at rest. ClusterIPs that are not allocated yet are placeholders.
///
/// # Errors
///
/// The findings of the controller that keep the tier from being applied.
pub(super) fn settle(observed: &Observed, settings: &Settings) -> Result<Settled, Vec<Finding>> {
    let mut revisions_in_use: BTreeSet<String> =
        observed.pods.iter().filter_map(|pod| pod.annotated_revision.clone()).collect();
    revisions_in_use.extend(observed.record.record.iter().flat_map(|record| record.named_revisions().cloned()));
    let mut current = observed.clone();
    let mut warnings = None;
    let mut previous = String::new();
    for _ in 0..MAX_RECONCILIATIONS {
        let tier = validate(&current, settings)?;
        // Warnings are about the cluster as it is.
        warnings.get_or_insert_with(|| tier.warnings.clone());
        // No older revision has a part in what follows: every pod runs the newest one at the end.
        let existing = OwnedObjects { config_maps: Vec::new(), ..current.owned.clone() };
        let desired = desired::build(&tier, settings, &existing, &BTreeSet::new()).map_err(|finding| vec![finding])?;
        let text = serde_json::to_string(&desired.objects).unwrap_or_default();
        if tier.next_prune.is_none() && text == previous {
            let existing = OwnedObjects { config_maps: observed.owned.config_maps.clone(), ..current.owned };
            let mut desired =
                desired::build(&tier, settings, &existing, &revisions_in_use).map_err(|finding| vec![finding])?;
            keep_stable(&mut desired, observed, &existing);
            return Ok(Settled { objects: desired.objects, warnings: warnings.unwrap_or_default() });
        }
        previous = text;
        current.owned = store(desired.objects, &current.owned);
        if let Some(delay) = tier.next_prune {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            current.now += SignedDuration::from_secs(i64::try_from(seconds).unwrap_or_default());
        }
    }
    Ok(Settled { objects: current.owned, warnings: warnings.unwrap_or_default() })
}

/// Keeps the revision with which pods start, where the newest one is the target already: whether it is on its way or
/// was rejected, a file that asks for it changes nothing.
fn keep_stable(desired: &mut Desired, observed: &Observed, existing: &OwnedObjects) {
    let Some(record) = &observed.record.record else { return };
    if desired.revision.as_ref().is_some_and(|newest| newest.id == record.target.id) {
        let stable = record.proven.as_ref().unwrap_or(&record.target).id.clone();
        desired::set_stable(desired, existing, &stable);
    }
}

/// Returns desired objects as they are once they are stored, with what the API server and others add that the
/// controller reads: ClusterIPs, and statuses of workloads. New pods become ready.
fn store(desired: OwnedObjects, existing: &OwnedObjects) -> OwnedObjects {
    let mut stored = desired;
    let mut taken = BTreeSet::new();
    for service in &mut stored.services {
        let old = existing.service(&service.namespace().unwrap_or_default(), &service.name_any());
        allocate(service, old, &mut taken);
    }
    for deployment in &mut stored.deployments {
        let is_same = |other: &&Deployment| {
            other.metadata.name == deployment.metadata.name && other.metadata.namespace == deployment.metadata.namespace
        };
        deployment.status = match existing.deployments.iter().find(is_same) {
            Some(old) => old.status.clone(),
            None => Some(DeploymentStatus {
                ready_replicas: deployment.spec.as_ref().and_then(|spec| spec.replicas),
                ..DeploymentStatus::default()
            }),
        };
    }
    for daemon_set in &mut stored.daemon_sets {
        let old = existing.daemon_set(&daemon_set.namespace().unwrap_or_default(), &daemon_set.name_any());
        daemon_set.metadata.generation = old.and_then(|old| old.metadata.generation);
        daemon_set.status = old.and_then(|old| old.status.clone());
    }
    stored
}

/// Gives a Service the ClusterIPs that it has, or a placeholder. That is a function of its name, so that a Service that
/// comes or goes changes no other one.
fn allocate(service: &mut Service, existing: Option<&Service>, taken: &mut BTreeSet<u32>) {
    let name = service.name_any();
    let Some(spec) = &mut service.spec else { return };
    if spec.cluster_ip.is_some() {
        return;
    }
    let addresses: Vec<String> = match existing.map(cluster_ips) {
        Some(addresses) if !addresses.is_empty() => addresses.iter().map(ToString::to_string).collect(),
        _ => {
            let digest = Sha256::digest(name.as_bytes());
            let mut offset =
                digest.iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte)) % PLACEHOLDERS;
            while !taken.insert(offset) {
                offset = (offset + 1) % PLACEHOLDERS;
            }
            vec![Ipv4Addr::from(FIRST_PLACEHOLDER + offset).to_string()]
        }
    };
    spec.cluster_ip = addresses.first().cloned();
    spec.cluster_ips = Some(addresses);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{serving, settings};
    use crate::controller::owned::{labels, revision_history};
    use crate::controller::rollout::record::{Record, Step};
    use crate::controller::rollout::revision::TierRevision;

    fn revision(id: &str) -> TierRevision {
        TierRevision { id: id.to_owned(), nodes: id.to_owned(), resolvers: id.to_owned() }
    }

    /// Returns a tier whose newest revision is the target and an older one the proven revision, and the stable one.
    fn stable_of(target: &str) -> String {
        let mut observed = serving("{}");
        let newest = revision_history(&observed.owned.config_maps[0]).next().unwrap().to_owned();
        for config_map in &mut observed.owned.config_maps {
            config_map.annotations_mut().insert(labels::REVISIONS.to_owned(), format!("{newest},old"));
            config_map.data.get_or_insert_default().insert("old.json".to_owned(), "{}".to_owned());
        }
        let target = if target.is_empty() { &newest } else { target };
        observed.record.record = Some(Record::new(revision(target), Some(revision("old")), Step::Start, observed.now));
        let settled = settle(&observed, &settings()).unwrap();
        settled.objects.config_maps[0].data.as_ref().unwrap()["stable.json"].clone()
    }

    #[test]
    fn a_target_that_is_on_its_way_or_was_rejected_is_no_difference_and_a_new_one_is() {
        assert_eq!(stable_of(""), "{}", "new pods start with the proven revision");
        assert_ne!(stable_of("another"), "{}", "at rest, the new one is proven");
    }
}
