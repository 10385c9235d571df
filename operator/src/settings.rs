//! Settings of the operator, from its command line, that apply to every tier.

use std::time::Duration;

/// Settings of the operator that apply to every tier.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Identity of this process: the holder of its Lease, and the writer of the records of roll-outs.
    pub(crate) identity: String,
    /// Namespace of the operator and of the zones' resolvers.
    pub(crate) namespace: String,
    /// Namespace of the node pods.
    pub(crate) node_namespace: String,
    /// Namespaces in which the operator may create shadow Services of a cluster DNS Service.
    pub(crate) cluster_dns_namespaces: Vec<String>,
    /// Image of the data plane, for tiers that name none.
    pub(crate) image: String,
    /// Architectures of the image, as nodes name them; empty: every one.
    pub(crate) architectures: Vec<String>,
    /// `imagePullPolicy` of every container.
    pub(crate) image_pull_policy: String,
    /// Names of the pull Secrets, which must exist in both namespaces of pods.
    pub(crate) image_pull_secrets: Vec<String>,
    /// How long a zone without nodes keeps its resolvers.
    pub(crate) zone_prune_delay: Duration,
    /// Time between two polls of the status of all pods.
    pub(crate) poll_interval: Duration,
}

impl Settings {
    /// Returns the namespaces that hold pods of tiers, each once, in alphabetical order.
    #[must_use]
    pub(crate) fn pod_namespaces(&self) -> Vec<&str> {
        distinct([&self.namespace, &self.node_namespace])
    }

    /// Returns the namespaces of shadow Services, each once, in alphabetical order.
    #[must_use]
    pub(crate) fn shadow_service_namespaces(&self) -> Vec<&str> {
        distinct(&self.cluster_dns_namespaces)
    }

    /// Returns the namespaces that hold Services of tiers, each once, in alphabetical order.
    #[must_use]
    pub(crate) fn service_namespaces(&self) -> Vec<&str> {
        distinct(self.cluster_dns_namespaces.iter().chain([&self.namespace, &self.node_namespace]))
    }
}

fn distinct<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}
