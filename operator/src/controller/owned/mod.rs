//! The objects that a tier owns, by kind: what should be there and what is there have the same shape.

pub mod labels;
pub mod names;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use serde::Serialize;

/// The objects that a tier owns.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Children {
    /// Accounts of the pods, without token.
    pub service_accounts: Vec<ServiceAccount>,
    /// Who may reach the zones' resolvers.
    pub network_policies: Vec<NetworkPolicy>,
    /// Services of the zones and twins of the cluster DNS Service.
    pub services: Vec<Service>,
    /// How many resolvers of a zone may be evicted at once.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// The revisions.
    pub config_maps: Vec<ConfigMap>,
    /// The node pods.
    pub daemon_sets: Vec<DaemonSet>,
    /// The zones' resolvers.
    pub deployments: Vec<Deployment>,
}

impl Children {
    /// The Service of this name in this namespace.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        find(&self.services, namespace, name)
    }

    /// The ConfigMap of this name in this namespace.
    #[must_use]
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<&ConfigMap> {
        find(&self.config_maps, namespace, name)
    }

    /// The DaemonSet of this name in this namespace.
    #[must_use]
    pub fn daemon_set(&self, namespace: &str, name: &str) -> Option<&DaemonSet> {
        find(&self.daemon_sets, namespace, name)
    }

    /// The Deployment of this name in this namespace.
    #[must_use]
    pub fn deployment(&self, namespace: &str, name: &str) -> Option<&Deployment> {
        find(&self.deployments, namespace, name)
    }
}

fn find<'a, K: ResourceExt>(objects: &'a [K], namespace: &str, name: &str) -> Option<&'a K> {
    objects
        .iter()
        .find(|object| object.meta().name.as_deref() == Some(name) && object.namespace().as_deref() == Some(namespace))
}
