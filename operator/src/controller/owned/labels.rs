//! Labels and annotations of a tier's objects, and the selectors over them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Label with the name of the tier.
pub(crate) const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label with the part of the tier: one of the `COMPONENT_*` values.
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
/// Label with the zone, on every object of one zone.
pub(crate) const ZONE: &str = "dnstier.io/zone";
/// Label of the Services through which a scraper finds the metrics of a tier; its value is [`METRICS_VALUE`].
pub(crate) const METRICS: &str = "dnstier.io/metrics";
/// Value of [`METRICS`].
pub(crate) const METRICS_VALUE: &str = "true";
/// Annotation of a zone's Deployment: the time (RFC 3339) since which the zone is not wanted.
pub(crate) const EMPTY_SINCE: &str = "dnstier.io/empty-since";
/// Annotation of a pod: the port of its `/status`.
pub(crate) const METRICS_PORT: &str = "dnstier.io/metrics-port";
/// Annotation of a pod: a [`Telling`](super::telling::Telling) of its revision.
pub(crate) const TOLD: &str = "dnstier.io/told";
/// Annotation of a tier: another value than at the rejection of a revision asks for another try.
pub(crate) const RETRY_ROLLOUT: &str = "dnstier.io/retry-rollout";
/// Annotation of a tier: the revision that may give up addresses which pods ask.
pub(crate) const CONFIRM_ROLLOUT: &str = "dnstier.io/confirm-rollout";
/// Annotation of the DaemonSet while nodes leave the tier: how far that is.
pub(crate) const DEPARTURE: &str = "dnstier.io/departure";
/// Annotation of the ConfigMap: its revisions from the newest to the oldest, separated by commas.
pub(crate) const REVISIONS: &str = "dnstier.io/revisions";
/// Annotation of every object: a hash of the desired object of the last apply.
pub(crate) const APPLIED: &str = "dnstier.io/applied";
/// Prefix of the annotations and labels that only this operator sets.
pub(crate) const PREFIX: &str = "dnstier.io/";

/// Component of the node pods.
pub(crate) const COMPONENT_NODE_CACHE: &str = "node-cache";
/// Component of the zones' resolvers.
pub(crate) const COMPONENT_ZONE_RESOLVER: &str = "zone-resolver";
/// Component of the record of roll-outs.
pub(crate) const COMPONENT_ROLLOUT: &str = "rollout";
/// Component of the shadow Services of the cluster DNS Service.
pub(crate) const COMPONENT_CLUSTER_DNS: &str = "cluster-dns";

const NAME: &str = "app.kubernetes.io/name";
const PART_OF: &str = "app.kubernetes.io/part-of";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const DNSTIER: &str = "dnstier";
const OPERATOR: &str = "dnstier-operator";

/// Returns the labels of an object of a tier.
#[must_use]
pub(crate) fn component_labels(tier: &str, component: &str) -> BTreeMap<String, String> {
    to_map([(NAME, DNSTIER), (INSTANCE, tier), (COMPONENT, component), (PART_OF, DNSTIER), (MANAGED_BY, OPERATOR)])
}

/// Returns the labels of an object of one zone of a tier.
#[must_use]
pub(crate) fn zone_labels(tier: &str, zone: &str) -> BTreeMap<String, String> {
    let mut labels = component_labels(tier, COMPONENT_ZONE_RESOLVER);
    labels.insert(ZONE.to_owned(), zone.to_owned());
    labels
}

/// Returns the labels of a Service through which a scraper finds the metrics of a component.
#[must_use]
pub(crate) fn metrics_labels(tier: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = component_labels(tier, component);
    labels.insert(METRICS.to_owned(), METRICS_VALUE.to_owned());
    labels
}

/// Returns the labels that select the pods of a component. A workload's selector is immutable, so these labels never
/// change between releases.
#[must_use]
pub(crate) fn component_selector(tier: &str, component: &str) -> BTreeMap<String, String> {
    to_map([(NAME, DNSTIER), (INSTANCE, tier), (COMPONENT, component)])
}

/// Returns the labels that select the resolvers of one zone.
#[must_use]
pub(crate) fn zone_selector(tier: &str, zone: &str) -> BTreeMap<String, String> {
    let mut labels = component_selector(tier, COMPONENT_ZONE_RESOLVER);
    labels.insert(ZONE.to_owned(), zone.to_owned());
    labels
}

/// Converts labels to the selector type of workloads, budgets and policies.
#[must_use]
pub(crate) fn label_selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// Returns the tier whose object has these labels; `None` for an object that this operator does not manage.
#[must_use]
pub(crate) fn tier_of(labels: &BTreeMap<String, String>) -> Option<&str> {
    labels.get(MANAGED_BY).filter(|manager| *manager == OPERATOR)?;
    labels.get(INSTANCE).map(String::as_str)
}

/// Returns the list query for the objects of all tiers.
#[must_use]
pub(crate) fn query_managed() -> String {
    format!("{MANAGED_BY}={OPERATOR}")
}

/// Returns the list query for the objects of one tier.
#[must_use]
pub(crate) fn query_tier(tier: &str) -> String {
    format!("{MANAGED_BY}={OPERATOR},{INSTANCE}={tier}")
}

/// Returns the list query for the pods of all tiers.
#[must_use]
pub(crate) fn query_pods() -> String {
    format!("{NAME}={DNSTIER},{PART_OF}={DNSTIER},{MANAGED_BY}={OPERATOR}")
}

fn to_map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
