//! Observe: reads the state of the cluster that a reconciliation needs.
//!
//! Everything is read from the stores of watches, so that a reconciliation at rest makes no request. A watch that is
//! refused fails the reconciliation: no decision is based on partial state.

pub(crate) mod creation_failure;
mod known_objects;
mod leftovers;
pub(crate) mod nodes;
pub(crate) mod object_store;
pub(crate) mod own_writes;
pub(crate) mod owned_stores;
pub(crate) mod pod_changes;
pub(crate) mod pods;
pub(crate) mod poll;
pub(crate) mod unreadable;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dnstier_crds::DnsTier;
use k8s_openapi::api::apps::v1::DaemonSetStatus;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::time::timeout;

use crate::controller::finding::Finding;
use crate::controller::observe::creation_failure::{CreationFailure, CreationFailures};
use crate::controller::observe::leftovers::{remove_outdated_revisions, take_own_record};
use crate::controller::observe::nodes::{ClusterNode, Nodes};
use crate::controller::observe::object_store::{ObjectStore, incomplete};
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::observe::owned_stores::OwnedStores;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::{PodReports, PodSummary, ReportStore};
use crate::controller::observe::unreadable::UnreadableTier;
use crate::controller::owned::{OwnedObjects, labels, names, revision_history};
use crate::controller::rollout::store::StoredRecord;
use crate::error::Error;
use crate::settings::Settings;

/// Longest time that a pass waits for a list of events: it only explains something, and the pass has pods to tell.
const MAX_EVENTS_TIME: Duration = Duration::from_secs(2);

/// A tier as the watch delivers it: a tier that cannot be deserialized does not hide the others.
pub(crate) type WatchedTier = DeserializeGuard<DnsTier>;

/// Clock of the reconciliations, in whole seconds.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// State of the cluster in one reconciliation.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// The tier.
    pub(crate) tier: Arc<DnsTier>,
    /// All other tiers.
    pub(crate) other_tiers: Vec<DnsTier>,
    /// Tiers that cannot be deserialized, by what they use.
    pub(crate) unreadable_tiers: Vec<UnreadableTier>,
    /// The Nodes.
    pub(crate) nodes: Nodes,
    /// The Service that `clusterDns` names.
    pub(crate) cluster_dns: ClusterDnsLookup,
    /// Objects that the tier owns.
    pub(crate) owned: OwnedObjects,
    /// Record of the roll-outs of the tier.
    pub(crate) record: StoredRecord,
    /// Pods of the tier, ordered by namespace and name.
    pub(crate) pods: Vec<TierPod>,
    /// Reports of the status polls.
    pub(crate) reports: Arc<PodReports>,
    /// Failure of the DaemonSet controller to create node pods; `None` while no pod is missing.
    pub(crate) pod_creation_failure: Option<CreationFailure>,
    /// Time of the reconciliation, in whole seconds.
    pub(crate) now: Timestamp,
    /// Time since the lists of this process were complete.
    pub(crate) lists_age: Duration,
}

/// Result of reading the Service that `clusterDns` names.
#[derive(Clone, Debug)]
pub(crate) enum ClusterDnsLookup {
    /// The Service.
    Found(Box<Service>),
    /// No such Service exists.
    NotFound,
    /// The operator is denied to read the Service.
    Forbidden(Finding),
}

impl Observed {
    /// Returns the status of a pod from the last poll; `None` when that poll failed.
    #[must_use]
    pub(crate) fn status_of(&self, pod: &TierPod) -> Option<&PodSummary> {
        self.reports.get(&pod.uid)?.current_status()
    }

    /// Returns the status of a pod from its last successful poll; `None` when half a minute of polls has failed since.
    #[must_use]
    pub(crate) fn recent_status_of(&self, pod: &TierPod) -> Option<&PodSummary> {
        self.reports.get(&pod.uid)?.recent_status()
    }

    /// Returns whether the first poll of a pod that was there before the operator is still to come.
    #[must_use]
    pub(crate) fn awaits_first_polls(&self) -> bool {
        self.reports.values().any(|report| report.is_awaited())
    }

    /// Returns the revisions in use: those that the tier's pods are asked to run, those that they run, which differ
    /// after a refusal, and those of the record of roll-outs. While nobody knows what a pod runs, those are all
    /// revisions that there are.
    #[must_use]
    pub(crate) fn revisions_in_use(&self) -> BTreeSet<String> {
        let mut revisions = self.revisions_of(|_| true);
        revisions.extend(self.record.record.iter().flat_map(|record| record.named_revisions().cloned()));
        revisions
    }

    /// Returns the revisions in use whose part for nodes is read. Resolvers stay on an older one while only the part
    /// for nodes changes.
    #[must_use]
    pub(crate) fn node_revisions_in_use(&self) -> BTreeSet<String> {
        let mut revisions = self.revisions_of(|pod| pod.component == Component::NodeCache);
        revisions.extend(self.record.record.iter().flat_map(|record| record.node_revisions().cloned()));
        revisions
    }

    /// Returns the revisions that some pods are asked to run or run.
    fn revisions_of(&self, is_wanted: impl Fn(&TierPod) -> bool) -> BTreeSet<String> {
        let pods = || self.pods.iter().filter(|pod| is_wanted(pod));
        let mut revisions: BTreeSet<String> = pods().filter_map(|pod| pod.annotated_revision.clone()).collect();
        let mut is_complete = true;
        for pod in pods() {
            match self.reports.get(&pod.uid).and_then(|report| report.last_status.as_ref()) {
                Some(status) => revisions.extend(status.revisions_in_force().map(str::to_owned)),
                None => is_complete &= !self.may_run_unknown(pod),
            }
        }
        if !is_complete {
            revisions.extend(self.owned.config_maps.iter().flat_map(revision_history).map(str::to_owned));
        }
        revisions
    }

    /// Returns whether a pod without a report may run any revision: it is ready, or its node is away. Another one has
    /// not started yet.
    fn may_run_unknown(&self, pod: &TierPod) -> bool {
        !pod.ended && (pod.ready || pod.node.as_deref().is_some_and(|node| self.nodes.is_away(node)))
    }
}

/// Reads the state of the cluster, from the stores of the watches and from the API server.
pub(crate) struct Observer {
    /// Client of the API server.
    pub(crate) client: Client,
    /// Settings of the operator.
    pub(crate) settings: Arc<Settings>,
    /// All tiers.
    pub(crate) tiers: Store<WatchedTier>,
    /// All Nodes.
    pub(crate) nodes: ObjectStore<Node>,
    /// Pods of all tiers, one store for each namespace.
    pub(crate) pods: Vec<ObjectStore<Pod>>,
    /// Objects that tiers own.
    pub(crate) owned: OwnedStores,
    /// Writes that the stores may lack.
    pub(crate) own_writes: Arc<OwnWrites>,
    /// Reports of the status polls.
    pub(crate) reports: ReportStore,
    /// Last known failures to create node pods.
    pub(crate) creation_failures: CreationFailures,
    /// Returns the time.
    pub(crate) clock: Clock,
    /// Time at which the lists were complete, and the poller had looked at which pods were there before it. No
    /// reconciliation reads anything before.
    pub(crate) lists_complete: Arc<OnceLock<Instant>>,
}

impl Observer {
    /// Reads the state of the cluster for a reconciliation of `tier`.
    ///
    /// # Errors
    ///
    /// The first read that fails.
    pub(crate) async fn observe(&self, tier: Arc<DnsTier>) -> Result<Observed, Error> {
        let name = tier.name_any();
        let now = (self.clock)();
        let cluster_dns = self.look_up_cluster_dns(&tier).await?;
        let cluster_dns_is_readable = !matches!(cluster_dns, ClusterDnsLookup::Forbidden(_));
        let mut owned = self.read_owned(&tier, cluster_dns_is_readable).await?;
        let record = take_own_record(&mut owned, &tier, &self.settings);
        remove_outdated_revisions(&mut owned, &name, &self.settings);
        let pods = self.pods_of(&name)?;
        let pod_creation_failure = self.pod_creation_failure(&owned, &name, &pods, now).await;
        let nodes = self.nodes.read()?;
        let lists_age = self.lists_age()?;
        Ok(Observed {
            other_tiers: self.other_tiers(&name),
            unreadable_tiers: self.unreadable_tiers()?,
            nodes: nodes.iter().map(|node| (node.name_any(), ClusterNode::from(&**node))).collect(),
            reports: Arc::new(self.reports.of(pods.iter().map(|pod| pod.uid.as_str()))),
            pods,
            tier,
            cluster_dns,
            owned,
            record,
            pod_creation_failure,
            now,
            lists_age,
        })
    }

    /// Returns whether a tier is gone, is being deleted or was created again, as the API server has it. The watches of
    /// its objects may be ahead of its own.
    ///
    /// # Errors
    ///
    /// When the tier cannot be read.
    pub(crate) async fn is_gone(&self, tier: &DnsTier) -> Result<bool, Error> {
        let tiers: Api<PartialObjectMeta<DnsTier>> = Api::all(self.client.clone());
        let name = tier.name_any();
        let current = tiers.get_metadata_opt(&name).await;
        let current = current.map_err(|source| Error::request("read", format!("DnsTier {name}"), source))?;
        Ok(current.is_none_or(|current| current.uid() != tier.uid() || current.meta().deletion_timestamp.is_some()))
    }

    /// Remembers that the record of the roll-outs of a tier was deleted, which its store may still have.
    pub(crate) fn forget_record(&self, tier: &str) {
        let now = Instant::now();
        let Ok(owned) = self.owned.objects_of(tier, &self.own_writes, now) else { return };
        if let Some(record) = owned.config_map(&self.settings.namespace, &names::rollout(tier)) {
            self.own_writes.record_delete(record, now);
        }
    }

    /// Returns the tiers of other names that can be deserialized.
    fn other_tiers(&self, name: &str) -> Vec<DnsTier> {
        let tiers = self.tiers.state();
        let readable = tiers.iter().filter_map(|tier| tier.0.as_ref().ok());
        readable.filter(|tier| tier.name_any() != name).cloned().collect()
    }

    /// Returns the tiers that cannot be deserialized.
    fn unreadable_tiers(&self) -> Result<Vec<UnreadableTier>, Error> {
        let tiers = self.tiers.state();
        let unreadable = tiers.iter().filter_map(|tier| tier.0.as_ref().err());
        let read = unreadable.map(|invalid| {
            let name = invalid.metadata.name.clone().unwrap_or_default();
            let objects = self.owned.objects_of(&name, &self.own_writes, Instant::now())?;
            Ok(UnreadableTier::read(&invalid.metadata, &objects, &self.settings))
        });
        read.collect()
    }

    /// Returns the pods of a tier, ordered by namespace and name.
    fn pods_of(&self, tier: &str) -> Result<Vec<TierPod>, Error> {
        let mut pods = Vec::new();
        for store in &self.pods {
            let stored = store.read()?;
            let of_tier = stored.iter().filter(|pod| pod.labels().get(labels::INSTANCE).is_some_and(|of| of == tier));
            pods.extend(of_tier.filter_map(|pod| TierPod::from_pod(pod)));
        }
        pods.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        Ok(pods)
    }

    /// Returns the time since the lists of this process were complete.
    fn lists_age(&self) -> Result<Duration, Error> {
        self.lists_complete.get().map(Instant::elapsed).ok_or_else(|| incomplete("pods and nodes"))
    }

    async fn look_up_cluster_dns(&self, tier: &DnsTier) -> Result<ClusterDnsLookup, Error> {
        let reference = &tier.spec.cluster_dns;
        let found = match self.owned.all_services_in(&reference.namespace) {
            Some(store) => store.select(|service| service.name_any() == reference.name).map(|mut found| found.pop()),
            // The operator has a role in a namespace of the settings alone, unless somebody grants it more.
            None => {
                let services: Api<Service> = Api::namespaced(self.client.clone(), &reference.namespace);
                let object = format!("Service {}/{}", reference.namespace, reference.name);
                services.get_opt(&reference.name).await.map_err(|source| Error::request("read", object, source))
            }
        };
        match found {
            Ok(Some(service)) => Ok(ClusterDnsLookup::Found(Box::new(service))),
            Ok(None) => Ok(ClusterDnsLookup::NotFound),
            Err(error) if error.is_forbidden() => Ok(ClusterDnsLookup::Forbidden(Finding::from(&error))),
            Err(error) => Err(error),
        }
    }

    async fn read_owned(&self, tier: &DnsTier, cluster_dns_is_readable: bool) -> Result<OwnedObjects, Error> {
        let name = tier.name_any();
        let mut owned = self.owned.objects_of(&name, &self.own_writes, Instant::now())?;
        let namespace = &tier.spec.cluster_dns.namespace;
        if cluster_dns_is_readable && !self.owned.has_services_in(namespace) {
            owned.services.extend(self.list_services(&name, namespace).await?);
        }
        Ok(owned)
    }

    /// Lists the Services of a tier in a namespace that is not watched.
    async fn list_services(&self, tier: &str, namespace: &str) -> Result<Vec<Service>, Error> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let services = api.list(&ListParams::default().labels(&labels::query_tier(tier))).await;
        let services = services.map_err(|source| Error::request("list", format!("services in {namespace}"), source))?;
        Ok(services.items)
    }

    /// Returns why pods of the DaemonSet are missing, as its controller tells by events. While these cannot be listed,
    /// a pass goes on with what was known last.
    async fn pod_creation_failure(
        &self,
        owned: &OwnedObjects,
        tier: &str,
        pods: &[TierPod],
        now: Timestamp,
    ) -> Option<CreationFailure> {
        let daemon_set = owned.daemon_set(&self.settings.node_namespace, &names::node_cache(tier));
        let status = daemon_set.and_then(|daemon_set| daemon_set.status.as_ref());
        let is_complete = |status: &DaemonSetStatus| status.current_number_scheduled >= status.desired_number_scheduled;
        let failure = if status.is_none_or(is_complete) {
            None
        } else {
            let node_pods = pods.iter().filter(|pod| pod.component == Component::NodeCache);
            let youngest = node_pods.filter_map(|pod| pod.lifecycle.created).max();
            match self.list_creation_failures(tier).await {
                Ok(events) => CreationFailure::of(events, youngest, now),
                Err(error) => {
                    tracing::warn!(tier, error, "events cannot be listed, which may tell why node pods are missing");
                    return self.creation_failures.last(tier);
                }
            }
        };
        self.creation_failures.record(tier, failure.as_ref());
        failure
    }

    /// Lists the events about node pods of a tier that could not be created.
    async fn list_creation_failures(&self, tier: &str) -> Result<Vec<Event>, String> {
        let name = names::node_cache(tier);
        let fields = format!("involvedObject.kind=DaemonSet,involvedObject.name={name},reason=FailedCreate");
        let params = ListParams::default().fields(&fields);
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.settings.node_namespace);
        match timeout(MAX_EVENTS_TIME, events.list(&params)).await {
            Ok(Ok(events)) => Ok(events.items),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it took longer than {} s", MAX_EVENTS_TIME.as_secs())),
        }
    }
}

/// Takes the record of roll-outs out of the ConfigMaps of a tier: it is no object that the spec results in.
pub(crate) fn take_record(owned: &mut OwnedObjects, tier: &str) -> StoredRecord {
    let name = names::rollout(tier);
    let records = owned.config_maps.extract_if(.., |config_map| config_map.name_any() == name);
    StoredRecord::read(records.last().as_ref())
}

/// Returns the time in whole seconds, the precision of the API.
#[must_use]
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
