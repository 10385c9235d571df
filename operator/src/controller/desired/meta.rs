//! Metadata of owned objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller::validate::tier::ValidatedTier;

/// Returns the metadata of an owned object. With the owner reference, garbage collection does all of a deletion.
#[must_use]
pub(super) fn owned_meta(
    tier: &ValidatedTier,
    namespace: &str,
    name: String,
    labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![tier.owner.clone()]),
        ..ObjectMeta::default()
    }
}
