//! Reads everything that a pass needs. A list that fails fails the pass: nothing is decided on half of the truth.

pub mod pods;
pub mod poll;

use std::fmt::Debug;
use std::sync::Arc;

use dnstier_crds::DnsTier;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::controller::finding::Finding;
use crate::controller::observe::pods::TierPod;
use crate::controller::observe::poll::{Answer, Reports};
use crate::controller::owned::Children;
use crate::controller::owned::{labels, names};
use crate::controller::validate::zones::Nodes;
use crate::controller::{Context, now};
use crate::error::Error;

/// How many objects a list asks for at a time.
const PAGE: u32 = 500;
/// An event older than this does not say why a pod is missing now.
const EVENT_AGE: SignedDuration = SignedDuration::from_mins(20);

/// What a pass knows of the cluster.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The tier.
    pub tier: Arc<DnsTier>,
    /// All other tiers.
    pub others: Vec<DnsTier>,
    /// The Nodes.
    pub nodes: Nodes,
    /// The Service that `clusterDns` names: none when there is no such Service, a finding when it may not be read.
    pub cluster_dns: Result<Option<Service>, Finding>,
    /// What the tier owns now.
    pub children: Children,
    /// The tier's pods.
    pub pods: Vec<TierPod>,
    /// What the pods said last.
    pub reports: Arc<Reports>,
    /// Why node pods cannot be created, as the DaemonSet controller says it; none while all are there.
    pub creation_failure: Option<String>,
    /// The time.
    pub now: Timestamp,
}

impl Observed {
    /// What a pod says now; none while it is silent.
    #[must_use]
    pub fn answer(&self, pod: &TierPod) -> Option<&Answer> {
        self.reports.get(&pod.uid)?.answer()
    }
}

/// Reads the cluster.
///
/// # Errors
///
/// The first read that fails.
pub async fn observe(tier: Arc<DnsTier>, context: &Context) -> Result<Observed, Error> {
    let name = tier.name_any();
    let now = now();
    let cluster_dns = cluster_dns(&context.client, &tier).await?;
    let children = children(&tier, context, cluster_dns.is_ok()).await?;
    let creation_failure = creation_failure(&children, &name, context, now).await?;
    let mut pods: Vec<TierPod> = context
        .pods
        .iter()
        .flat_map(|store| store.state())
        .filter_map(|pod| TierPod::read(&pod))
        .filter(|pod| pod.tier == name)
        .collect();
    pods.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok(Observed {
        others: context.tiers().into_iter().filter(|other| other.name_any() != name).collect(),
        nodes: context.nodes.state().iter().map(|node| (node.name_any(), node.labels().clone())).collect(),
        reports: context.reports.borrow().clone(),
        tier,
        cluster_dns,
        children,
        pods,
        creation_failure,
        now,
    })
}

async fn cluster_dns(client: &Client, tier: &DnsTier) -> Result<Result<Option<Service>, Finding>, Error> {
    let reference = &tier.spec.cluster_dns;
    let services: Api<Service> = Api::namespaced(client.clone(), &reference.namespace);
    match services.get_opt(&reference.name).await {
        Ok(service) => Ok(Ok(service)),
        Err(source) => {
            let error = Error::refused("read", format!("Service {}/{}", reference.namespace, reference.name), source);
            if error.is_forbidden() { Ok(Err(error.finding())) } else { Err(error) }
        }
    }
}

async fn children(tier: &DnsTier, context: &Context, cluster_dns_readable: bool) -> Result<Children, Error> {
    let settings = &context.settings;
    let both = distinct([&settings.namespace, &settings.node_namespace]);
    let own = [settings.namespace.as_str()];
    let mut with_services = distinct(settings.cluster_dns_namespaces.iter().chain([&settings.namespace]));
    let cluster_dns_namespace = tier.spec.cluster_dns.namespace.as_str();
    if cluster_dns_readable && !with_services.contains(&cluster_dns_namespace) {
        with_services.push(cluster_dns_namespace);
    }
    let name = tier.name_any();
    let reader = Reader { client: &context.client, tier: &name };
    Ok(Children {
        service_accounts: reader.list(&both).await?,
        network_policies: reader.list(&own).await?,
        services: reader.list(&with_services).await?,
        disruption_budgets: reader.list(&own).await?,
        config_maps: reader.list(&both).await?,
        daemon_sets: reader.list(&[&settings.node_namespace]).await?,
        deployments: reader.list(&own).await?,
    })
}

fn distinct<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let mut distinct: Vec<&str> = names.into_iter().map(String::as_str).collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

struct Reader<'a> {
    client: &'a Client,
    tier: &'a str,
}

impl Reader<'_> {
    async fn list<K>(&self, namespaces: &[&str]) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let mut objects = Vec::new();
        for namespace in namespaces {
            let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
            let mut params = ListParams::default().labels(&labels::of_tier(self.tier)).limit(PAGE);
            loop {
                let page = api
                    .list(&params)
                    .await
                    .map_err(|source| Error::refused("list", format!("{} in {namespace}", K::plural(&())), source))?;
                let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
                objects.extend(page);
                let Some(token) = next else { break };
                params = params.continue_token(&token);
            }
        }
        Ok(objects)
    }
}

/// Why the DaemonSet misses pods. It has no condition for that; its controller leaves an event.
async fn creation_failure(
    children: &Children,
    tier: &str,
    context: &Context,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    let namespace = &context.settings.node_namespace;
    let name = names::node_cache(tier);
    let status = children.daemon_set(namespace, &name).and_then(|daemon_set| daemon_set.status.as_ref());
    if status.is_none_or(|status| status.current_number_scheduled >= status.desired_number_scheduled) {
        return Ok(None);
    }
    let fields = format!("involvedObject.kind=DaemonSet,involvedObject.name={name},reason=FailedCreate");
    let events: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    let events = events
        .list(&ListParams::default().fields(&fields))
        .await
        .map_err(|source| Error::refused("list", format!("events in {namespace}"), source))?;
    let time = |event: &Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or_else(|| event.event_time.as_ref().map(|time| time.0))
    };
    let recent = events.items.into_iter().filter(|event| time(event).is_some_and(|time| time + EVENT_AGE > now));
    Ok(recent.max_by_key(time).and_then(|event| event.message))
}
