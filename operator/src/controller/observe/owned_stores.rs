//! Stores of the objects that tiers own, and of the Services beside which shadow Services are.

use std::time::Instant;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::controller::observe::object_store::ObjectStore;
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::owned::{OwnedObjects, labels};
use crate::error::Error;

/// Stores by kind, one for each namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedStores {
    /// Accounts of the pods.
    pub(crate) service_accounts: Vec<ObjectStore<ServiceAccount>>,
    /// Ingress policies of the zones' resolvers.
    pub(crate) network_policies: Vec<ObjectStore<NetworkPolicy>>,
    /// Services of tiers, and others beside them.
    pub(crate) services: Vec<ObjectStore<Service>>,
    /// Every Service of the namespaces of shadow Services.
    pub(crate) cluster_dns_services: Vec<ObjectStore<Service>>,
    /// Disruption budgets of the zones' resolvers.
    pub(crate) disruption_budgets: Vec<ObjectStore<PodDisruptionBudget>>,
    /// Revisions of the configuration.
    pub(crate) config_maps: Vec<ObjectStore<ConfigMap>>,
    /// Workloads of the node pods.
    pub(crate) daemon_sets: Vec<ObjectStore<DaemonSet>>,
    /// Workloads of the zones' resolvers.
    pub(crate) deployments: Vec<ObjectStore<Deployment>>,
}

impl OwnedStores {
    /// Waits until every list is complete or has failed.
    pub(crate) async fn wait_for_lists(&self) {
        wait_for_lists(&self.service_accounts).await;
        wait_for_lists(&self.network_policies).await;
        wait_for_lists(&self.services).await;
        wait_for_lists(&self.disruption_budgets).await;
        wait_for_lists(&self.config_maps).await;
        wait_for_lists(&self.daemon_sets).await;
        wait_for_lists(&self.deployments).await;
    }

    /// Returns the objects that a tier owns, own writes included that the watches have not delivered yet.
    ///
    /// # Errors
    ///
    /// When a watch is refused, or when a first list is not complete.
    pub(crate) fn objects_of(&self, tier: &str, own_writes: &OwnWrites, now: Instant) -> Result<OwnedObjects, Error> {
        Ok(OwnedObjects {
            service_accounts: select(&self.service_accounts, tier, own_writes, now)?,
            network_policies: select(&self.network_policies, tier, own_writes, now)?,
            services: select(&self.services, tier, own_writes, now)?,
            disruption_budgets: select(&self.disruption_budgets, tier, own_writes, now)?,
            config_maps: select(&self.config_maps, tier, own_writes, now)?,
            daemon_sets: select(&self.daemon_sets, tier, own_writes, now)?,
            deployments: select(&self.deployments, tier, own_writes, now)?,
        })
    }

    /// Returns whether the Services of tiers in a namespace are watched.
    pub(crate) fn has_services_in(&self, namespace: &str) -> bool {
        self.services.iter().any(|store| store.namespace() == namespace)
    }

    /// Returns the store with every Service of a namespace; `None` where not all are watched.
    pub(crate) fn all_services_in(&self, namespace: &str) -> Option<&ObjectStore<Service>> {
        self.cluster_dns_services.iter().find(|store| store.namespace() == namespace)
    }
}

async fn wait_for_lists<K>(stores: &[ObjectStore<K>])
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    for store in stores {
        store.wait_for_list().await;
    }
}

/// Returns the objects of a tier from the stores of one kind.
fn select<K>(stores: &[ObjectStore<K>], tier: &str, own_writes: &OwnWrites, now: Instant) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let is_of_tier = |object: &K| labels::tier_of(object.labels()) == Some(tier);
    let mut objects = Vec::new();
    for store in stores {
        let stored = store.select(is_of_tier)?;
        objects.extend(own_writes.overlay(store.namespace(), stored, is_of_tier, now));
    }
    Ok(objects)
}
