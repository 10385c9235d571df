//! What the operator was started with and what holds for every tier.

use std::time::Duration;

/// What the operator was started with and what holds for every tier.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator and of the zones' resolvers.
    pub namespace: String,
    /// Namespace of the node pods.
    pub node_namespace: String,
    /// Namespaces in which the operator may keep twins of a cluster DNS Service.
    pub cluster_dns_namespaces: Vec<String>,
    /// Image of the data plane, for tiers that name none.
    pub image: String,
    /// `imagePullPolicy` of every container.
    pub image_pull_policy: String,
    /// Names of the Secrets with which images are pulled; they have to be in both namespaces.
    pub image_pull_secrets: Vec<String>,
    /// How long a zone without nodes is kept.
    pub zone_prune_delay: Duration,
    /// Time between two rounds of asking all pods how they are.
    pub poll_interval: Duration,
}
