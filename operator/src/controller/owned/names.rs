//! Names of a tier's objects: functions of the tier and the zone alone, so that no name has to be stored.

use sha2::{Digest, Sha256};

/// Returns the name of the DaemonSet of the node pods and of their ServiceAccount.
#[must_use]
pub(crate) fn node_cache(tier: &str) -> String {
    format!("dnstier-{tier}-node-cache")
}

/// Returns the name of the ServiceAccount and of the NetworkPolicy that the resolvers of all zones share.
#[must_use]
pub(crate) fn zone_resolver(tier: &str) -> String {
    format!("dnstier-{tier}-zone-resolver")
}

/// Returns the name of the Deployment, the PodDisruptionBudget and the headless Service of one zone.
///
/// The zone is hashed: a label's value may hold upper case, dots and underscores, which a name may not, and it may
/// be empty.
#[must_use]
pub(crate) fn zone(tier: &str, zone: &str) -> String {
    let hash: String = Sha256::digest(zone.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("dnstier-{tier}-zone-{hash}")
}

/// Returns the name of the Service of one zone that has a ClusterIP.
#[must_use]
pub(crate) fn zone_vip(tier: &str, zone_name: &str) -> String {
    format!("{}-vip", zone(tier, zone_name))
}

/// Returns the name of the shadow Service of the cluster DNS that has a ClusterIP.
#[must_use]
pub(crate) fn cluster_dns(tier: &str) -> String {
    format!("dnstier-{tier}-cluster-dns")
}

/// Returns the name of the headless shadow Service of the cluster DNS.
#[must_use]
pub(crate) fn cluster_dns_pods(tier: &str) -> String {
    format!("dnstier-{tier}-cluster-dns-pods")
}

/// Returns the name of the Service through which a scraper finds the node pods.
#[must_use]
pub(crate) fn node_cache_metrics(tier: &str) -> String {
    format!("{}-metrics", node_cache(tier))
}

/// Returns the name of the Service through which a scraper finds the resolvers of all zones.
#[must_use]
pub(crate) fn zone_resolver_metrics(tier: &str) -> String {
    format!("{}-metrics", zone_resolver(tier))
}

/// Returns the name of the ConfigMap of the revisions in both namespaces.
#[must_use]
pub(crate) fn revisions(tier: &str) -> String {
    format!("dnstier-{tier}-revisions")
}

/// Returns the name of the ConfigMap of the record of roll-outs in the operator's namespace.
#[must_use]
pub(crate) fn rollout(tier: &str) -> String {
    format!("dnstier-{tier}-rollout")
}

/// Returns the DNS name of a Service.
#[must_use]
pub(crate) fn service_dns_name(service: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("{service}.{namespace}.svc.{cluster_domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_tier_and_the_oddest_zone_still_give_a_valid_name() {
        let tier = "a".repeat(20);
        assert!(zone_resolver_metrics(&tier).len() <= 63 && node_cache_metrics(&tier).len() <= 63);
        for name in ["", "eu-west-1a", "Zone_A.example", &"z".repeat(63)] {
            let service = zone_vip(&tier, name);
            assert!(service.len() <= 63, "{service}");
            assert!(service.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
        }
    }

    #[test]
    fn zones_that_differ_only_in_case_have_different_names() {
        assert_ne!(zone("default", "Zone-A"), zone("default", "zone-a"));
    }
}
