//! The objects that a tier owns, by kind, with their names and labels. Desired and observed state have this shape.

pub(crate) mod labels;
pub(crate) mod names;
pub(crate) mod telling;

use std::net::IpAddr;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use serde::Serialize;

/// The objects that a tier owns.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OwnedObjects {
    /// Accounts of the pods, without token.
    pub(crate) service_accounts: Vec<ServiceAccount>,
    /// Ingress policy of the zones' resolvers.
    pub(crate) network_policies: Vec<NetworkPolicy>,
    /// Services of the zones, shadow Services of the cluster DNS Service, and Services of metrics.
    pub(crate) services: Vec<Service>,
    /// Disruption budgets of the zones' resolvers.
    pub(crate) disruption_budgets: Vec<PodDisruptionBudget>,
    /// Revisions of the configuration.
    pub(crate) config_maps: Vec<ConfigMap>,
    /// Workload of the node pods.
    pub(crate) daemon_sets: Vec<DaemonSet>,
    /// Workloads of the zones' resolvers.
    pub(crate) deployments: Vec<Deployment>,
}

impl OwnedObjects {
    /// Returns whether every object of `others` is one of these, by kind, namespace and name.
    #[must_use]
    pub(crate) fn has_all(&self, others: &Self) -> bool {
        fn has_all<K: ResourceExt>(objects: &[K], others: &[K]) -> bool {
            let is_there = |other: &K| {
                let is_same = |object: &K| object.name_any() == other.name_any();
                objects.iter().any(|object| is_same(object) && object.namespace() == other.namespace())
            };
            others.iter().all(is_there)
        }
        has_all(&self.service_accounts, &others.service_accounts)
            && has_all(&self.network_policies, &others.network_policies)
            && has_all(&self.services, &others.services)
            && has_all(&self.disruption_budgets, &others.disruption_budgets)
            && has_all(&self.config_maps, &others.config_maps)
            && has_all(&self.daemon_sets, &others.daemon_sets)
            && has_all(&self.deployments, &others.deployments)
    }

    /// Returns the Service of this name in this namespace.
    #[must_use]
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        find(&self.services, namespace, name)
    }

    /// Returns the ConfigMap of this name in this namespace.
    #[must_use]
    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Option<&ConfigMap> {
        find(&self.config_maps, namespace, name)
    }

    /// Returns the DaemonSet of this name in this namespace.
    #[must_use]
    pub(crate) fn daemon_set(&self, namespace: &str, name: &str) -> Option<&DaemonSet> {
        find(&self.daemon_sets, namespace, name)
    }
}

fn find<'a, K: ResourceExt>(objects: &'a [K], namespace: &str, name: &str) -> Option<&'a K> {
    objects
        .iter()
        .find(|object| object.meta().name.as_deref() == Some(name) && object.namespace().as_deref() == Some(namespace))
}

/// Returns the revisions of a ConfigMap, the newest first.
pub(crate) fn revision_history(config_map: &ConfigMap) -> impl Iterator<Item = &str> {
    let text = config_map.annotations().get(labels::REVISIONS).map_or("", String::as_str);
    text.split(',').filter(|revision| !revision.is_empty())
}

/// Returns the ClusterIPs of a Service; empty for a headless Service and before one is allocated.
#[must_use]
pub(crate) fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let addresses = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(addresses), _) => addresses.clone(),
        (None, Some(address)) => vec![address.clone()],
        (None, None) => Vec::new(),
    };
    addresses.iter().filter_map(|address| address.parse().ok()).collect()
}
