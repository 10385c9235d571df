//! PodDisruptionBudget of a zone's resolvers.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::desired::meta::owned_meta;
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::{ValidatedTier, Zone};
use crate::settings::Settings;

/// Builds the budget of a zone: one resolver may be evicted at a time. A resolver that is not ready answers no queries,
/// so its eviction never blocks a drain.
#[must_use]
pub(super) fn disruption_budget(tier: &ValidatedTier, zone: &Zone, settings: &Settings) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owned_meta(
            tier,
            &settings.namespace,
            names::zone(&tier.name, &zone.name),
            labels::zone_labels(&tier.name, &zone.name),
        ),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            min_available: None,
            selector: Some(labels::label_selector(labels::zone_selector(&tier.name, &zone.name))),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        }),
        status: None,
    }
}
