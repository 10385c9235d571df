//! Writer: applies objects in the order of their dependencies and deletes orphans.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dnstier_crds::FIELD_MANAGER;
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use node_cache_config::names::revision_key;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::controller::apply::annotate::PodAnnotations;
use crate::controller::apply::annotator::{AnnotateResult, Annotator};
use crate::controller::apply::contest::{Contests, Decision};
use crate::controller::apply::drift::{applied_hash, is_up_to_date, stamp_applied_hash};
use crate::controller::apply::field_managers::{Parties, parties};
use crate::controller::desired::Desired;
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::owned::{OwnedObjects, labels};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pace::Pace;

/// Maximum number of objects of a kind that are written at a time.
const MAX_CONCURRENT_WRITES: usize = 8;

/// Longest time that a write waits for its turn; only one write at a time waits.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Writes to the cluster.
pub(super) struct Writer<'a> {
    /// Client of the API server.
    pub(super) client: &'a Client,
    /// Metrics of the writes.
    pub(super) metrics: &'a Metrics,
    /// Annotates pods.
    pub(super) annotator: &'a Annotator,
    /// Receives the writes of objects, which the watches deliver later.
    pub(super) own_writes: &'a OwnWrites,
    /// Objects that another manager sets back.
    pub(super) contests: &'a Contests,
    /// Pace of the writes of objects; `None` when several are written at a time.
    pub(super) pace: Option<&'a Pace>,
    /// Whether pods go back to a revision that the ConfigMaps had before.
    pub(super) is_going_back: bool,
    /// Time of the pass.
    pub(super) now: Timestamp,
}

/// Writes of a reconciliation.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Number of objects that were applied or deleted.
    pub(super) objects: usize,
    /// Annotations of pods.
    pub(super) pods: AnnotateResult,
    /// First failure of a write of an object, after which no further object was written.
    pub(super) failure: Option<Error>,
}

impl Writes {
    /// Returns the number of objects and pods that were not up to date.
    pub(super) fn total(&self) -> usize {
        self.objects + self.pods.annotated + self.pods.left
    }
}

impl Writer<'_> {
    /// Writes the desired state of a tier: accounts, policies and Services, then the record of the roll-out and the
    /// revisions, then the annotations of pods that name a revision, then workloads. Orphans are deleted last, once
    /// every pod that is behind was told.
    ///
    /// The first failure of a step ends the writes, because later steps depend on earlier ones. A pod that cannot be
    /// annotated does not, and a Service or another object of the beginning that is refused keeps no roll-out from
    /// going on or back. Revisions that are refused keep none from going back.
    pub(super) async fn apply(
        &self,
        tier: &str,
        desired: &Desired,
        existing: &OwnedObjects,
        record: Option<&ConfigMap>,
        annotations: Vec<PodAnnotations>,
    ) -> Writes {
        self.metrics.queue().set_annotations(tier, annotations.len());
        let mut writes = Writes::default();
        writes.failure = self.apply_steps(tier, desired, existing, record, annotations, &mut writes).await.err();
        writes
    }

    /// Writes the record of the roll-out of a tier whose spec is not valid, then the key of the ConfigMaps with which
    /// pods start, then the annotations of pods. These name revisions that are there, whatever becomes of that key.
    pub(super) async fn apply_rollout(
        &self,
        tier: &str,
        record: Option<&ConfigMap>,
        stable: &[ConfigMap],
        annotations: Vec<PodAnnotations>,
    ) -> Writes {
        self.metrics.queue().set_annotations(tier, annotations.len());
        let mut writes = Writes::default();
        match self.write_record(record).await {
            Ok(written) => {
                writes.objects = written;
                writes.failure = self.write_stable(stable, &mut writes).await.err();
                writes.pods = self.annotate(tier, annotations).await;
            }
            Err(error) => writes.failure = Some(error),
        }
        writes
    }

    async fn apply_steps(
        &self,
        tier: &str,
        desired: &Desired,
        existing: &OwnedObjects,
        record: Option<&ConfigMap>,
        annotations: Vec<PodAnnotations>,
        writes: &mut Writes,
    ) -> Result<(), Error> {
        let objects = &desired.objects;
        let refused = self.apply_prerequisites(objects, existing, writes).await;
        if desired.revision.is_none() {
            return refused;
        }
        // The revision is rendered from the addresses of Services that are there.
        writes.objects += self.write_record(record).await?;
        let revisions = match self.apply_all(&objects.config_maps, &existing.config_maps).await {
            Err(error) if !self.is_going_back => return Err(error),
            revisions => revisions,
        };
        let annotations = match &revisions {
            Ok(_) => annotations,
            Err(_) => with_known_revisions(annotations, &objects.config_maps, &existing.config_maps),
        };
        writes.pods = self.annotate(tier, annotations).await;
        writes.objects += revisions?;
        refused?;
        writes.objects += self.apply_all(&objects.daemon_sets, &existing.daemon_sets).await?;
        writes.objects += self.apply_all(&objects.deployments, &existing.deployments).await?;
        if writes.pods.left == 0 {
            writes.objects += self.prune(objects, existing).await?;
        }
        Ok(())
    }

    /// Writes what workloads need: accounts, policies, Services and disruption budgets.
    async fn apply_prerequisites(
        &self,
        objects: &OwnedObjects,
        existing: &OwnedObjects,
        writes: &mut Writes,
    ) -> Result<(), Error> {
        writes.objects += self.apply_all(&objects.service_accounts, &existing.service_accounts).await?;
        writes.objects += self.apply_all(&objects.network_policies, &existing.network_policies).await?;
        writes.objects += self.apply_all(&objects.services, &existing.services).await?;
        writes.objects += self.apply_all(&objects.disruption_budgets, &existing.disruption_budgets).await?;
        Ok(())
    }

    /// Writes the record of a roll-out at the version that was read, and returns the number of writes. Whoever has read
    /// an older version fails here, before any pod is told.
    async fn write_record(&self, record: Option<&ConfigMap>) -> Result<usize, Error> {
        let Some(record) = record else { return Ok(0) };
        let name = record.name_any();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &record.namespace().unwrap_or_default());
        let replaced = record.resource_version();
        self.metrics.record_write("ConfigMap", "record");
        let written = if replaced.is_some() {
            // With the version in it, a patch of another version is refused. The operator has no right to replace.
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            api.patch(&name, &params, &Patch::Merge(record)).await
        } else {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            api.create(&params, record).await
        };
        let mut written = match written {
            Ok(written) => written,
            Err(source) => {
                let error = Error::unwritten_record(describe(record), source);
                if error.is_conflict() && replaced.is_none() {
                    self.label_record(&api, record).await?;
                }
                return Err(error);
            }
        };
        written.meta_mut().managed_fields = None;
        self.own_writes.record_apply(&written, replaced, std::time::Instant::now());
        Ok(1)
    }

    /// Gives a record that is there its labels again: the watch has not shown it, perhaps because somebody took them
    /// away. The next pass reads it.
    async fn label_record(&self, api: &Api<ConfigMap>, record: &ConfigMap) -> Result<(), Error> {
        let patch = json!({"metadata": {"labels": record.labels()}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.metrics.record_write("ConfigMap", "record");
        let labelled = api.patch(&record.name_any(), &params, &Patch::Merge(&patch)).await;
        labelled.map(drop).map_err(|source| Error::unwritten_record(describe(record), source))
    }

    /// Makes the revisions of these patches those with which pods start, at the versions that were read. The other keys
    /// of the ConfigMaps stay as they are.
    async fn write_stable(&self, patches: &[ConfigMap], writes: &mut Writes) -> Result<(), Error> {
        for patch in patches {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &patch.namespace().unwrap_or_default());
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            self.metrics.record_write("ConfigMap", "apply");
            let written = api.patch(&patch.name_any(), &params, &Patch::Merge(patch)).await;
            let mut written = written.map_err(|source| Error::request("patch", describe(patch), source))?;
            written.meta_mut().managed_fields = None;
            self.own_writes.record_apply(&written, patch.resource_version(), std::time::Instant::now());
            writes.objects += 1;
        }
        Ok(())
    }

    /// Annotates pods of a tier.
    async fn annotate(&self, tier: &str, annotations: Vec<PodAnnotations>) -> AnnotateResult {
        let planned = annotations.len();
        let result = self.annotator.annotate(self.client, self.metrics, tier, annotations, self.now).await;
        self.metrics.queue().set_annotations(tier, planned - result.annotated);
        result
    }

    /// Deletes orphans and returns their number. Workloads are first: a Service outlives the pods behind it.
    async fn prune(&self, desired: &OwnedObjects, existing: &OwnedObjects) -> Result<usize, Error> {
        let mut deleted = 0;
        deleted += self.delete_orphans(&desired.deployments, &existing.deployments).await?;
        deleted += self.delete_orphans(&desired.daemon_sets, &existing.daemon_sets).await?;
        deleted += self.delete_orphans(&desired.config_maps, &existing.config_maps).await?;
        deleted += self.delete_orphans(&desired.disruption_budgets, &existing.disruption_budgets).await?;
        deleted += self.delete_orphans(&desired.services, &existing.services).await?;
        deleted += self.delete_orphans(&desired.network_policies, &existing.network_policies).await?;
        deleted += self.delete_orphans(&desired.service_accounts, &existing.service_accounts).await?;
        Ok(deleted)
    }

    /// Applies the objects of one kind and returns the number of writes. After a failure no further write starts.
    async fn apply_all<K: OwnedKind>(&self, desired: &[K], existing: &[K]) -> Result<usize, Error> {
        let has_failed = AtomicBool::new(false);
        let apply = async |object: &K| {
            if has_failed.load(Ordering::Relaxed) {
                return Ok(0);
            }
            let existing = existing.iter().find(|other| is_same_object(object, *other));
            self.apply_one(object, existing).await.inspect_err(|_| has_failed.store(true, Ordering::Relaxed))
        };
        let concurrency = if self.pace.is_some() { 1 } else { MAX_CONCURRENT_WRITES };
        let writes: Vec<_> = desired.iter().map(apply).collect();
        let results: Vec<Result<usize, Error>> = stream::iter(writes).buffer_unordered(concurrency).collect().await;
        results.into_iter().sum()
    }

    /// Waits for the turn of a write.
    async fn wait_for_turn(&self) {
        let Some(pace) = self.pace else { return };
        let now = Instant::now();
        if let Some(slot) = pace.reserve(now, now + MAX_WAIT) {
            tokio::time::sleep_until(slot).await;
        }
    }

    /// Applies one object, unless it is up to date, and returns the number of writes.
    async fn apply_one<K: OwnedKind>(&self, object: &K, existing: Option<&K>) -> Result<usize, Error> {
        let desired = body_of(object)?;
        let (tier, described, hash) = (tier_of(object), describe(object), applied_hash(&desired));
        if let Some(existing) = existing {
            let existing = to_json(existing)?;
            if is_up_to_date(&desired, &existing) {
                self.contests.settle(tier, &described);
                return Ok(0);
            }
            match self.contests.decide(tier, &described, hash, applied_hash(&existing) == hash, Instant::now()) {
                Decision::Apply => {}
                Decision::LeaveAlone => return Ok(0),
                Decision::Contest => {
                    let parties = self.find_parties(object, &desired, &existing).await;
                    self.contests.begin(tier, &described, parties.as_ref());
                    return Ok(0);
                }
            }
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.metrics.record_write(K::KIND, "apply");
        tracing::info!(kind = K::KIND, namespace = object.namespace(), name = object.name_any(), "applying an object");
        let patch: Patch<&Value> = Patch::Apply(&desired);
        self.wait_for_turn().await;
        match api.patch(&object.name_any(), &params, &patch).await {
            Ok(mut written) => {
                written.meta_mut().managed_fields = None;
                let replaced = existing.and_then(ResourceExt::resource_version);
                self.own_writes.record_apply(&written, replaced, std::time::Instant::now());
                self.contests.record_apply(tier, &described, hash);
                Ok(1)
            }
            Err(source) => Err(Error::request("apply", described, source)),
        }
    }

    /// Reads the managers of an object that is set back, which the watches do not keep; `None` when it is as desired by
    /// now, and its watch late. The operator may list objects, not get one; a list that fails leaves them unknown.
    async fn find_parties<K: OwnedKind>(&self, object: &K, desired: &Value, existing: &Value) -> Option<Parties> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let params = ListParams::default().fields(&format!("metadata.name={}", object.name_any()));
        let list = api.list(&params).await.map(|list| list.items).unwrap_or_default();
        let Some(current) = list.iter().find(|current| is_same_object(object, *current)) else {
            return Some(parties(desired, existing, &[], FIELD_MANAGER));
        };
        let managed = current.managed_fields();
        let current = to_json(current).ok()?;
        (!is_up_to_date(desired, &current)).then(|| parties(desired, &current, managed, FIELD_MANAGER))
    }

    /// Deletes the objects of one kind that are not desired, and returns their number.
    async fn delete_orphans<K: OwnedKind>(&self, desired: &[K], existing: &[K]) -> Result<usize, Error> {
        let mut deleted = 0;
        for orphan in orphans(desired, existing) {
            let api: Api<K> = Api::namespaced(self.client.clone(), &orphan.namespace().unwrap_or_default());
            // With the UID, an object that was recreated under this name in between is not deleted.
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: orphan.uid(), resource_version: None }),
                ..DeleteParams::background()
            };
            self.metrics.record_write(K::KIND, "delete");
            tracing::info!(
                kind = K::KIND,
                namespace = orphan.namespace(),
                name = orphan.name_any(),
                "deleting an orphan"
            );
            self.wait_for_turn().await;
            match api.delete(&orphan.name_any(), &params).await {
                Ok(_) => {
                    self.own_writes.record_delete(orphan, std::time::Instant::now());
                    self.contests.forget(tier_of(orphan), &describe(orphan));
                    deleted += 1;
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(Error::request("delete", describe(orphan), source)),
            }
        }
        Ok(deleted)
    }
}

/// A kind of object that a tier owns.
pub(super) trait OwnedKind: Resource<DynamicType = (), Scope = NamespaceResourceScope> + ApiObject {}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + ApiObject> OwnedKind for K {}

/// An object that the client reads and writes.
pub(super) trait ApiObject:
    k8s_openapi::Resource + Clone + DeserializeOwned + Serialize + Debug + Send + Sync
{
}

impl<K: k8s_openapi::Resource + Clone + DeserializeOwned + Serialize + Debug + Send + Sync> ApiObject for K {}

/// Returns the body of the request that applies an object.
pub(super) fn body_of<K: OwnedKind>(object: &K) -> Result<Value, Error> {
    let mut desired = to_json(object)?;
    stamp_applied_hash(&mut desired);
    Ok(desired)
}

/// Returns an object as JSON.
pub(super) fn to_json<K: OwnedKind>(object: &K) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|source| Error::Serialize { object: describe(object), source })
}

/// Returns the existing objects that are not desired and are not being deleted.
pub(super) fn orphans<'a, K: OwnedKind>(desired: &[K], existing: &'a [K]) -> Vec<&'a K> {
    existing
        .iter()
        .filter(|object| object.meta().deletion_timestamp.is_none())
        .filter(|object| !desired.iter().any(|other| is_same_object(*object, other)))
        .collect()
}

/// Returns the annotations that name no revision, or one that the ConfigMap beside the pod has by now.
fn with_known_revisions(
    annotations: Vec<PodAnnotations>,
    desired: &[ConfigMap],
    existing: &[ConfigMap],
) -> Vec<PodAnnotations> {
    let is_known = |namespace: &str, revision: &str| {
        let beside = desired.iter().find(|config_map| config_map.namespace().as_deref() == Some(namespace));
        let existing = beside.and_then(|beside| existing.iter().find(|other| is_same_object(beside, *other)));
        let data = existing.and_then(|existing| existing.data.as_ref());
        data.is_some_and(|data| data.contains_key(&revision_key(revision)))
    };
    let is_readable =
        |pod: &PodAnnotations| pod.revision.as_ref().is_none_or(|revision| is_known(&pod.namespace, revision));
    annotations.into_iter().filter(is_readable).collect()
}

pub(super) fn is_same_object<K: Resource>(one: &K, other: &K) -> bool {
    one.meta().name == other.meta().name && one.meta().namespace == other.meta().namespace
}

/// Returns the tier of an object.
fn tier_of<K: OwnedKind>(object: &K) -> &str {
    object.labels().get(labels::INSTANCE).map_or("", String::as_str)
}

/// Returns kind, namespace and name of an object, for an error.
fn describe<K: OwnedKind>(object: &K) -> String {
    format!("{} {}/{}", K::KIND, object.namespace().unwrap_or_default(), object.name_any())
}
