//! Conflicts between tiers whose pods may run on one node.

use std::collections::{BTreeMap, BTreeSet};

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::Reason;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use node_cache_config::Captured;

use crate::controller::finding::Finding;
use crate::controller::observe::unreadable::UnreadableTier;
use crate::controller::text::join_some;

/// Finds the addresses and ports that an older tier uses on nodes which both tiers may run on.
pub(super) fn conflicts_with_older_tiers(tier: &DnsTier, other_tiers: &[DnsTier]) -> Vec<Finding> {
    let own = &tier.spec.node_cache;
    let mut older_tiers: Vec<&DnsTier> = other_tiers
        .iter()
        .filter(|other| {
            is_older(other, tier) && may_share_a_node(&other.spec.node_cache.pod.node_selector, &own.pod.node_selector)
        })
        .collect();
    older_tiers.sort_by_key(|other| other.name_any());
    let mut findings = Vec::new();
    for older_tier in older_tiers {
        let older = &older_tier.spec.node_cache;
        let name = older_tier.name_any();
        let advice = "keep the two on disjoint nodes by spec.nodeCache.nodeSelector, or";
        let mut shared: BTreeSet<String> = own
            .capture
            .addresses
            .iter()
            .filter(|address| older.capture.addresses.contains(address))
            .map(ToString::to_string)
            .collect();
        let both_capture_cluster_dns = own.capture.takes_cluster_dns() && older.capture.takes_cluster_dns();
        if both_capture_cluster_dns && tier.spec.cluster_dns == older_tier.spec.cluster_dns {
            shared.insert("the ClusterIPs of the cluster DNS".to_owned());
        }
        if !shared.is_empty() {
            let shared: Vec<String> = shared.into_iter().collect();
            findings.push(Finding::new(
                Reason::AddressTaken,
                format!(
                    "spec.nodeCache.capture: the older tier {name} captures {} on the same nodes; {advice} capture \
                     other addresses.",
                    shared.join(", ")
                ),
            ));
        }
        if own.metrics_port == older.metrics_port {
            findings.push(Finding::new(
                Reason::AddressTaken,
                format!(
                    "spec.nodeCache.metricsPort: the older tier {name} uses port {} on the same nodes; {advice} name \
                     another port.",
                    own.metrics_port
                ),
            ));
        }
    }
    findings
}

/// Finds the addresses and ports that an older tier uses which cannot be deserialized, while its pods run.
pub(super) fn conflicts_with_unreadable_tiers(
    tier: &DnsTier,
    captured: &[Captured],
    unreadable_tiers: &[UnreadableTier],
) -> Vec<Finding> {
    let own = &tier.spec.node_cache;
    let is_older = |other: &&UnreadableTier| (other.created, other.name.clone()) < age(tier);
    let may_meet = |other: &&UnreadableTier| may_share_a_node(&other.node_selector, &own.pod.node_selector);
    let mut findings = Vec::new();
    for older in unreadable_tiers.iter().filter(is_older).filter(may_meet) {
        let of_both = captured.iter().map(|captured| captured.address).filter(|own| older.captured.contains(own));
        let mut shared: Vec<String> = of_both.map(|address| address.to_string()).collect();
        shared.extend((older.metrics_port == Some(own.metrics_port)).then(|| format!("port {}", own.metrics_port)));
        if !shared.is_empty() {
            findings.push(Finding::new(
                Reason::AddressTaken,
                format!(
                    "spec.nodeCache.capture and metricsPort: the pods of the older tier {}, which this operator cannot \
                     read, use {} on the same nodes; mend that tier, or keep the two on disjoint nodes by \
                     spec.nodeCache.nodeSelector.",
                    older.name,
                    join_some(&shared)
                ),
            ));
        }
    }
    findings
}

/// Returns whether `other` was created before `tier`. Tiers of the same second are ordered by name.
fn is_older(other: &DnsTier, tier: &DnsTier) -> bool {
    age(other) < age(tier)
}

fn age(tier: &DnsTier) -> (Option<Timestamp>, String) {
    (tier.creation_timestamp().map(|time| time.0), tier.name_any())
}

/// Returns whether pods with these node selectors may run on one node. They are known to be disjoint only when they
/// require different values of one label.
fn may_share_a_node(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    !one.iter().any(|(key, value)| other.get(key).is_some_and(|other_value| other_value != value))
}
