//! How many resolvers of a zone may be evicted at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::desired::child_meta;
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::{ValidatedTier, Zone};
use crate::settings::Settings;

/// One resolver of a zone may be evicted at a time; one that is not ready serves nobody and never holds up a drain.
#[must_use]
pub(super) fn disruption_budget(tier: &ValidatedTier, zone: &Zone, settings: &Settings) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: child_meta(
            tier,
            &settings.namespace,
            names::zone(&tier.name, &zone.name),
            labels::of_zone(&tier.name, &zone.name),
        ),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            min_available: None,
            selector: Some(labels::matching(labels::zone_selector(&tier.name, &zone.name))),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        }),
        status: None,
    }
}
