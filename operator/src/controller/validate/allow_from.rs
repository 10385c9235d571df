//! Networks of the clients that are permitted to query.

use std::net::IpAddr;

use ipnet::IpNet;

pub(super) fn allow_from_or_default(networks: &[IpNet]) -> Vec<IpNet> {
    if networks.is_empty() { private_networks() } else { networks.to_vec() }
}

/// Adds the private networks to a list of permitted clients.
///
/// The clients of zone resolvers are node caches, whose addresses are those of nodes, not of pods: a list of pod
/// networks alone would deny the tier's own nodes.
pub(super) fn with_private_networks(mut networks: Vec<IpNet>) -> Vec<IpNet> {
    for network in private_networks() {
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks
}

/// Returns the private, shared, unique local, link-local and loopback networks: the clients that are permitted by
/// default.
#[must_use]
fn private_networks() -> Vec<IpNet> {
    [
        (IpAddr::from([10, 0, 0, 0]), 8),
        (IpAddr::from([100, 64, 0, 0]), 10),
        (IpAddr::from([127, 0, 0, 0]), 8),
        (IpAddr::from([169, 254, 0, 0]), 16),
        (IpAddr::from([172, 16, 0, 0]), 12),
        (IpAddr::from([192, 168, 0, 0]), 16),
        (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), 128),
        (IpAddr::from([0xfc00, 0, 0, 0, 0, 0, 0, 0_u16]), 7),
        (IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 0_u16]), 10),
    ]
    .into_iter()
    .filter_map(|(address, prefix_len)| IpNet::new(address, prefix_len).ok())
    .collect()
}
