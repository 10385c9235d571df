//! Live cluster: what the controller observes, read from the API server with one list for each kind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::DnsTier;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, NamespaceResourceScope};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::controller::observe::nodes::{ClusterNode, Nodes};
use crate::controller::observe::pods::TierPod;
use crate::controller::observe::unreadable::UnreadableTier;
use crate::controller::observe::{self, ClusterDnsLookup, Observed, WatchedTier};
use crate::controller::owned::{OwnedObjects, labels};
use crate::error::Error;
use crate::offline::planned_cluster::as_stored;
use crate::settings::Settings;

/// Cluster behind an API server.
pub(super) struct LiveCluster<'a> {
    client: &'a Client,
    settings: &'a Settings,
    tiers: Vec<DnsTier>,
    /// Tiers that cannot be deserialized.
    unreadable: Vec<ObjectMeta>,
    nodes: Nodes,
}

impl<'a> LiveCluster<'a> {
    /// Reads tiers and Nodes.
    ///
    /// # Errors
    ///
    /// The first request that fails.
    pub(super) async fn read(client: &'a Client, settings: &'a Settings) -> Result<Self, Error> {
        let all = ListParams::default();
        let failure = |objects: &'static str| move |source| Error::request("list", objects, source);
        let tiers = Api::<WatchedTier>::all(client.clone()).list(&all).await.map_err(failure("DnsTiers"))?;
        let nodes = Api::<Node>::all(client.clone()).list(&all).await.map_err(failure("nodes"))?;
        let (readable, unreadable): (Vec<_>, Vec<_>) = tiers.items.into_iter().partition(|tier| tier.0.is_ok());
        Ok(Self {
            client,
            settings,
            tiers: readable.into_iter().filter_map(|tier| tier.0.ok()).collect(),
            unreadable: unreadable.into_iter().filter_map(|tier| Some(tier.0.err()?.metadata)).collect(),
            nodes: nodes.items.iter().map(|node| (node.name_any(), ClusterNode::from(node))).collect(),
        })
    }

    /// Returns the namespace of the release that acts on a tier, when it is another one than that of the settings.
    pub(super) fn other_release(&self, tier: &str) -> Option<&str> {
        let live = self.tiers.iter().find(|live| live.name_any() == tier)?;
        let release = live.status.as_ref()?.operator.as_ref()?.namespace.as_str();
        Some(release).filter(|release| *release != self.settings.namespace)
    }

    /// Reads what the controller observes of a tier once it has the spec of a file, beside the other tiers of the file.
    ///
    /// # Errors
    ///
    /// The first request that fails.
    pub(super) async fn observe(&self, tier: &DnsTier, others_in_file: &[DnsTier]) -> Result<Observed, Error> {
        let name = tier.name_any();
        let in_file: BTreeSet<String> =
            others_in_file.iter().map(ResourceExt::name_any).chain([name.clone()]).collect();
        let elsewhere = self.tiers.iter().filter(|other| !in_file.contains(&other.name_any()));
        let mut owned = self.owned(tier).await?;
        let record = observe::take_record(&mut owned, &name);
        Ok(Observed {
            tier: Arc::new(self.replaced_by(tier)),
            other_tiers: others_in_file.iter().map(|other| self.replaced_by(other)).chain(elsewhere.cloned()).collect(),
            unreadable_tiers: self.unreadable_tiers(&in_file).await?,
            nodes: self.nodes.clone(),
            cluster_dns: self.cluster_dns(tier).await?,
            owned,
            record,
            pods: self.pods(&name).await?,
            reports: Arc::default(),
            pod_creation_failure: None,
            now: observe::now(),
            lists_age: Duration::MAX,
        })
    }

    /// Returns a tier of a file as it is once it has replaced the one of its name.
    fn replaced_by(&self, tier: &DnsTier) -> DnsTier {
        let name = tier.name_any();
        match self.tiers.iter().find(|other| other.name_any() == name) {
            Some(live) => DnsTier { spec: tier.spec.clone(), ..live.clone() },
            None => {
                let unreadable = self.unreadable.iter().find(|metadata| metadata.name.as_ref() == Some(&name));
                let stored = as_stored(tier);
                DnsTier { metadata: unreadable.cloned().unwrap_or(stored.metadata), ..stored }
            }
        }
    }

    /// Looks the Service up in a list, since the operator has no right to get a single one.
    async fn cluster_dns(&self, tier: &DnsTier) -> Result<ClusterDnsLookup, Error> {
        let reference = &tier.spec.cluster_dns;
        let services: Vec<Service> = self.list(&ListParams::default(), &[&reference.namespace]).await?;
        let found = services.into_iter().find(|service| service.name_any() == reference.name);
        Ok(found.map_or(ClusterDnsLookup::NotFound, |service| ClusterDnsLookup::Found(Box::new(service))))
    }

    async fn owned(&self, tier: &DnsTier) -> Result<OwnedObjects, Error> {
        let of_tier = ListParams::default().labels(&labels::query_tier(&tier.name_any()));
        let settings = self.settings;
        let (resolvers, nodes) = ([settings.namespace.as_str()], [settings.node_namespace.as_str()]);
        let pods = settings.pod_namespaces();
        let mut services = settings.service_namespaces();
        if !services.contains(&tier.spec.cluster_dns.namespace.as_str()) {
            services.push(&tier.spec.cluster_dns.namespace);
        }
        Ok(OwnedObjects {
            service_accounts: self.list(&of_tier, &pods).await?,
            network_policies: self.list(&of_tier, &resolvers).await?,
            services: self.list(&of_tier, &services).await?,
            disruption_budgets: self.list(&of_tier, &resolvers).await?,
            config_maps: self.list(&of_tier, &pods).await?,
            daemon_sets: self.list(&of_tier, &nodes).await?,
            deployments: self.list(&of_tier, &resolvers).await?,
        })
    }

    /// Returns what the tiers use that cannot be deserialized and that the file does not replace.
    async fn unreadable_tiers(&self, in_file: &BTreeSet<String>) -> Result<Vec<UnreadableTier>, Error> {
        let mut unreadable = Vec::new();
        for metadata in &self.unreadable {
            let name = metadata.name.clone().unwrap_or_default();
            if !in_file.contains(&name) {
                let of_tier = ListParams::default().labels(&labels::query_tier(&name));
                let namespace = [self.settings.node_namespace.as_str()];
                let objects = OwnedObjects {
                    config_maps: self.list(&of_tier, &namespace).await?,
                    daemon_sets: self.list(&of_tier, &namespace).await?,
                    ..OwnedObjects::default()
                };
                unreadable.push(UnreadableTier::read(metadata, &objects, self.settings));
            }
        }
        Ok(unreadable)
    }

    async fn pods(&self, tier: &str) -> Result<Vec<TierPod>, Error> {
        let of_tier = ListParams::default().labels(&labels::query_tier(tier));
        let pods: Vec<Pod> = self.list(&of_tier, &self.settings.pod_namespaces()).await?;
        Ok(pods.iter().filter_map(TierPod::from_pod).collect())
    }

    /// Lists the objects of one kind in some namespaces.
    async fn list<K>(&self, params: &ListParams, namespaces: &[&str]) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + ListableResource
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let mut objects = Vec::new();
        for namespace in namespaces {
            let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
            let failure = |source| Error::request("list", format!("{} in {namespace}", K::plural(&())), source);
            objects.extend(api.list(params).await.map_err(failure)?.items);
        }
        Ok(objects)
    }
}
