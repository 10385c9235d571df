//! Live cluster: what the controller observes, read from the API server with one list for each kind.
//!
//! Lists come in pages, and of each page only what the controller observes is kept: `diff` may run in the operator's
//! container, beside the leader, whose memory limit they share.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::DnsTier;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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

/// Number of objects in a page of a list, as in the lists of watches.
const PAGE_SIZE: u32 = 500;

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
        let (mut tiers, mut unreadable) = (Vec::new(), Vec::new());
        let sort = |tier: WatchedTier| match tier.0 {
            Ok(tier) => tiers.push(tier),
            Err(invalid) => unreadable.push(invalid.metadata),
        };
        for_each(&Api::all(client.clone()), &all, "DnsTiers", sort).await?;
        let mut nodes: Vec<(String, ClusterNode)> = Vec::new();
        let reduce = |node: Node| nodes.push((node.name_any(), ClusterNode::from(&node)));
        for_each(&Api::all(client.clone()), &all, "nodes", reduce).await?;
        Ok(Self { client, settings, tiers, unreadable, nodes: nodes.into_iter().collect() })
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
        let select = |service: Service| (service.name_any() == reference.name).then_some(service);
        let found = self.list_reduced(&ListParams::default(), &[&reference.namespace], select).await?.pop();
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
        self.list_reduced(&of_tier, &self.settings.pod_namespaces(), |pod: Pod| TierPod::from_pod(&pod)).await
    }

    /// Lists the objects of one kind in some namespaces.
    async fn list<K>(&self, params: &ListParams, namespaces: &[&str]) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.list_reduced(params, namespaces, Some).await
    }

    /// Lists the objects of one kind in some namespaces, and returns what `reduce` keeps of each.
    async fn list_reduced<K, T>(
        &self,
        params: &ListParams,
        namespaces: &[&str],
        reduce: impl Fn(K) -> Option<T>,
    ) -> Result<Vec<T>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let mut kept = Vec::new();
        for namespace in namespaces {
            let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
            let objects = format!("{} in {namespace}", K::plural(&()));
            for_each(&api, params, &objects, |object| kept.extend(reduce(object))).await?;
        }
        Ok(kept)
    }
}

/// Takes each object of a list, page by page. `objects` names them in an error.
///
/// # Errors
///
/// The first request that fails.
async fn for_each<K>(api: &Api<K>, params: &ListParams, objects: &str, mut take: impl FnMut(K)) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = params.clone().limit(PAGE_SIZE);
    loop {
        let page = api.list(&params).await.map_err(|source| Error::request("list", objects, source))?;
        page.items.into_iter().for_each(&mut take);
        // The last page has no token, or an empty one.
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::client::Limits;
    use crate::controller::fixtures::{settings, tier};
    use crate::fake_api::{FakeApi, FakeRequest, Reply};

    /// Returns a parameter of a request.
    fn parameter<'a>(request: &'a FakeRequest, name: &str) -> Option<&'a str> {
        let (_, query) = request.uri.split_once('?')?;
        query.split('&').find_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the page that a request asks for of so many objects. Its token is the number of the first object.
    fn page(request: &FakeRequest, count: usize, object: impl Fn(usize) -> Value) -> Reply {
        let first: usize = parameter(request, "continue").map_or(0, |token| token.parse().unwrap());
        let limit = parameter(request, "limit").map_or(count, |limit| limit.parse().unwrap());
        let end = count.min(first + limit);
        let token = if end < count { end.to_string() } else { String::new() };
        let items: Vec<Value> = (first..end).map(object).collect();
        Reply::Json(200, json!({"metadata": {"continue": token}, "items": items}))
    }

    #[tokio::test]
    async fn nodes_and_pods_of_a_large_cluster_are_read_in_pages() {
        let server = FakeApi::start(|request| match request.path() {
            "/api/v1/nodes" => page(request, 1_201, |number| json!({"metadata": {"name": format!("node-{number}")}})),
            path if path.ends_with("/dnstier-node/pods") => page(request, 1_000, |number| {
                let metadata = json!({
                    "name": format!("pod-{number}"),
                    "namespace": "dnstier-node",
                    "uid": format!("uid-{number}"),
                    "labels": {labels::COMPONENT: labels::COMPONENT_NODE_CACHE, labels::INSTANCE: "default"},
                    "annotations": {labels::METRICS_PORT: "9353"},
                });
                json!({"metadata": metadata})
            }),
            _ => page(request, 0, |_| Value::Null),
        })
        .await;
        let (client, settings) = (server.client(Limits::OPERATOR), settings());
        let cluster = LiveCluster::read(&client, &settings).await.unwrap();
        assert_eq!(cluster.nodes.iter().count(), 1_201);
        let observed = cluster.observe(&tier("default", "2026-01-01T00:00:00Z", "{}"), &[]).await.unwrap();
        assert_eq!(observed.pods.len(), 1_000);
        assert_eq!(observed.pods[999].name, "pod-999");
        let requests = server.requests();
        let lists_of = |end: &str| requests.iter().filter(|request| request.path().ends_with(end)).count();
        assert_eq!((lists_of("/nodes"), lists_of("/dnstier-node/pods")), (3, 2));
        for request in requests {
            assert_eq!(parameter(&request, "limit"), Some("500"), "{}", request.uri);
        }
    }
}
