//! Labels and annotations of a tier's objects, and what of them selects pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Label with the name of the tier.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label with the part of the tier: one of the `COMPONENT_*` values.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label with the zone, on everything that belongs to one.
pub const ZONE: &str = "dnstier.io/zone";
/// Annotation of a zone's Deployment: since when (RFC 3339) no node names the zone.
pub const EMPTY_SINCE: &str = "dnstier.io/empty-since";
/// Annotation of a pod: the port of its `/status`.
pub const METRICS_PORT: &str = "dnstier.io/metrics-port";
/// Annotation of the ConfigMap: its revisions from the newest to the oldest, separated by commas.
pub const REVISIONS: &str = "dnstier.io/revisions";
/// Annotation of every object: a hash of all that was wanted of it when it was written last.
pub const APPLIED: &str = "dnstier.io/applied";
/// Prefix of the annotations and labels that only this operator sets.
pub const PREFIX: &str = "dnstier.io/";

/// Component of the node pods.
pub const COMPONENT_NODE_CACHE: &str = "node-cache";
/// Component of the zones' resolvers.
pub const COMPONENT_ZONE_RESOLVER: &str = "zone-resolver";
/// Component of the twins of the cluster DNS Service.
pub const COMPONENT_CLUSTER_DNS: &str = "cluster-dns";

const NAME: &str = "app.kubernetes.io/name";
const PART_OF: &str = "app.kubernetes.io/part-of";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const DNSTIER: &str = "dnstier";
const OPERATOR: &str = "dnstier-operator";

/// Labels of an object of a tier.
#[must_use]
pub fn of(tier: &str, component: &str) -> BTreeMap<String, String> {
    texts([(NAME, DNSTIER), (INSTANCE, tier), (COMPONENT, component), (PART_OF, DNSTIER), (MANAGED_BY, OPERATOR)])
}

/// Labels of an object of one zone of a tier.
#[must_use]
pub fn of_zone(tier: &str, zone: &str) -> BTreeMap<String, String> {
    let mut labels = of(tier, COMPONENT_ZONE_RESOLVER);
    labels.insert(ZONE.to_owned(), zone.to_owned());
    labels
}

/// What selects the pods of a component. A workload's selector is immutable, so this never changes between releases.
#[must_use]
pub fn selector(tier: &str, component: &str) -> BTreeMap<String, String> {
    texts([(NAME, DNSTIER), (INSTANCE, tier), (COMPONENT, component)])
}

/// What selects the resolvers of one zone.
#[must_use]
pub fn zone_selector(tier: &str, zone: &str) -> BTreeMap<String, String> {
    let mut labels = selector(tier, COMPONENT_ZONE_RESOLVER);
    labels.insert(ZONE.to_owned(), zone.to_owned());
    labels
}

/// The same as the API writes it in workloads, budgets and policies.
#[must_use]
pub fn matching(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// Selects every object that an operator of this kind made, of whichever tier.
#[must_use]
pub fn managed() -> String {
    format!("{MANAGED_BY}={OPERATOR}")
}

/// Selects every object of one tier.
#[must_use]
pub fn of_tier(tier: &str) -> String {
    format!("{MANAGED_BY}={OPERATOR},{INSTANCE}={tier}")
}

/// Selects the pods of all tiers.
#[must_use]
pub fn pods() -> String {
    format!("{NAME}={DNSTIER},{PART_OF}={DNSTIER},{MANAGED_BY}={OPERATOR}")
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
