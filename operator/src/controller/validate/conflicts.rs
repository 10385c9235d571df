//! Conflicts between tiers whose pods may run on one node.

use std::collections::BTreeSet;

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1::PodSettings;
use kube::ResourceExt;

use crate::controller::finding::Finding;

/// Finds the addresses and ports that an older tier uses on nodes which both tiers may run on.
pub(super) fn conflicts_with_older_tiers(tier: &DnsTier, other_tiers: &[DnsTier]) -> Vec<Finding> {
    let own = &tier.spec.node_cache;
    let mut older_tiers: Vec<&DnsTier> = other_tiers
        .iter()
        .filter(|other| is_older(other, tier) && may_share_a_node(&other.spec.node_cache.pod, &own.pod))
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

/// Returns whether `other` was created before `tier`. Tiers of the same second are ordered by name.
fn is_older(other: &DnsTier, tier: &DnsTier) -> bool {
    let age = |tier: &DnsTier| (tier.creation_timestamp().map(|time| time.0), tier.name_any());
    age(other) < age(tier)
}

/// Returns whether pods of both settings may run on one node. Node selectors are known to be disjoint only when they
/// require different values of one label.
fn may_share_a_node(one: &PodSettings, other: &PodSettings) -> bool {
    !one.node_selector
        .iter()
        .any(|(key, value)| other.node_selector.get(key).is_some_and(|other_value| other_value != value))
}
