//! Names of a tier's objects. They are functions of the tier and the zone alone, so that nothing has to be remembered.

use sha2::{Digest, Sha256};

/// The DaemonSet of the node pods and their ServiceAccount.
#[must_use]
pub fn node_cache(tier: &str) -> String {
    format!("dnstier-{tier}-node-cache")
}

/// The ServiceAccount and the NetworkPolicy that the resolvers of all zones share.
#[must_use]
pub fn zone_resolver(tier: &str) -> String {
    format!("dnstier-{tier}-zone-resolver")
}

/// The Deployment, the PodDisruptionBudget and the headless Service of one zone.
///
/// The zone is hashed: a label's value may hold upper case, dots and underscores, which a name may not, and it may
/// be empty.
#[must_use]
pub fn zone(tier: &str, zone: &str) -> String {
    let hash: String = Sha256::digest(zone.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("dnstier-{tier}-zone-{hash}")
}

/// The Service of one zone that has a ClusterIP.
#[must_use]
pub fn zone_vip(tier: &str, zone_name: &str) -> String {
    format!("{}-vip", zone(tier, zone_name))
}

/// The twin of the cluster DNS Service that has a ClusterIP.
#[must_use]
pub fn cluster_dns(tier: &str) -> String {
    format!("dnstier-{tier}-cluster-dns")
}

/// The headless twin of the cluster DNS Service.
#[must_use]
pub fn cluster_dns_pods(tier: &str) -> String {
    format!("dnstier-{tier}-cluster-dns-pods")
}

/// The ConfigMap of the revisions, of the same name in both namespaces.
#[must_use]
pub fn revisions(tier: &str) -> String {
    format!("dnstier-{tier}-revisions")
}

/// The DNS name of a Service.
#[must_use]
pub fn in_cluster(service: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("{service}.{namespace}.svc.{cluster_domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_tier_and_the_oddest_zone_still_give_a_valid_name() {
        let tier = "a".repeat(20);
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
