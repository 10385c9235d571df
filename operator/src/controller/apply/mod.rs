//! Writes what should be there, in an order in which nothing relies on what is not there yet.

pub mod annotate;
pub(crate) mod drift;

use std::fmt::Debug;
use std::sync::Arc;

use dnstier_crds::FIELD_MANAGER;
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::controller::apply::annotate::Annotation;
use crate::controller::apply::drift::in_place;
use crate::controller::desired::Desired;
use crate::controller::owned::Children;
use crate::error::Error;
use crate::metrics::Metrics;

/// How many objects of a kind are written at a time.
const AT_ONCE: usize = 8;

/// Writes to the cluster.
pub(super) struct Writer<'a> {
    /// The client.
    pub(super) client: &'a Client,
    /// Counts what is written.
    pub(super) metrics: &'a Arc<Metrics>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// Objects that were not as they should be.
    pub(super) objects: usize,
    /// Pods that were told something.
    pub(super) annotated: usize,
}

impl Writer<'_> {
    /// Makes the cluster what it should be: accounts, policies and Services, then the revisions, then the pods'
    /// annotations that name one of them, then workloads, and what is not wanted any more at the end.
    ///
    /// # Errors
    ///
    /// The first failure of a step. Later steps rely on earlier ones and are left out.
    pub(super) async fn apply(
        &self,
        desired: &Desired,
        existing: &Children,
        annotations: Vec<Annotation>,
    ) -> Result<Applied, Error> {
        let wanted = &desired.children;
        let mut applied = Applied::default();
        applied.objects += self.all(&wanted.service_accounts, &existing.service_accounts).await?;
        applied.objects += self.all(&wanted.network_policies, &existing.network_policies).await?;
        applied.objects += self.all(&wanted.services, &existing.services).await?;
        applied.objects += self.all(&wanted.disruption_budgets, &existing.disruption_budgets).await?;
        if desired.revision.is_none() {
            return Ok(applied);
        }
        applied.objects += self.all(&wanted.config_maps, &existing.config_maps).await?;
        applied.annotated = self.annotate(annotations).await?;
        applied.objects += self.all(&wanted.daemon_sets, &existing.daemon_sets).await?;
        applied.objects += self.all(&wanted.deployments, &existing.deployments).await?;
        applied.objects += self.prune(wanted, existing).await?;
        Ok(applied)
    }

    /// Tells pods what they were not told yet, and says how many these are.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub(super) async fn annotate(&self, annotations: Vec<Annotation>) -> Result<usize, Error> {
        let count = annotations.len();
        for _ in &annotations {
            self.metrics.wrote("Pod", "annotate");
        }
        annotate::annotate(self.client, annotations).await.map(|()| count)
    }

    /// Removes what is not wanted any more, workloads first: a Service outlives the pods behind it.
    async fn prune(&self, wanted: &Children, existing: &Children) -> Result<usize, Error> {
        let mut removed = 0;
        removed += self.remove(&wanted.deployments, &existing.deployments).await?;
        removed += self.remove(&wanted.daemon_sets, &existing.daemon_sets).await?;
        removed += self.remove(&wanted.config_maps, &existing.config_maps).await?;
        removed += self.remove(&wanted.disruption_budgets, &existing.disruption_budgets).await?;
        removed += self.remove(&wanted.services, &existing.services).await?;
        removed += self.remove(&wanted.network_policies, &existing.network_policies).await?;
        removed += self.remove(&wanted.service_accounts, &existing.service_accounts).await?;
        Ok(removed)
    }

    async fn all<K: Child>(&self, wanted: &[K], existing: &[K]) -> Result<usize, Error> {
        let writes: Vec<_> = wanted
            .iter()
            .map(|object| self.one(object, existing.iter().find(|other| is_same(object, *other))))
            .collect();
        let results: Vec<Result<usize, Error>> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().sum()
    }

    /// Applies one object, unless it is there already as it should be.
    async fn one<K: Child>(&self, object: &K, existing: Option<&K>) -> Result<usize, Error> {
        let unwritable = |source| Error::Unwritable { what: describe(object), source };
        let mut wanted = serde_json::to_value(object).map_err(unwritable)?;
        drift::stamp(&mut wanted);
        if let Some(existing) = existing
            && in_place(&wanted, &serde_json::to_value(existing).map_err(unwritable)?)
        {
            return Ok(0);
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.metrics.wrote(K::KIND, "apply");
        tracing::info!(object = describe(object), "applying");
        let patch: Patch<&Value> = Patch::Apply(&wanted);
        api.patch(&object.name_any(), &params, &patch)
            .await
            .map(|_| 1)
            .map_err(|source| Error::refused("apply", describe(object), source))
    }

    async fn remove<K: Child>(&self, wanted: &[K], existing: &[K]) -> Result<usize, Error> {
        let mut removed = 0;
        for orphan in orphans(wanted, existing) {
            let api: Api<K> = Api::namespaced(self.client.clone(), &orphan.namespace().unwrap_or_default());
            // Only this very object: one that was made anew in between is somebody's intention.
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: orphan.uid(), resource_version: None }),
                ..DeleteParams::background()
            };
            self.metrics.wrote(K::KIND, "delete");
            tracing::info!(object = describe(orphan), "deleting what is not wanted any more");
            match api.delete(&orphan.name_any(), &params).await {
                Ok(_) => removed += 1,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(Error::refused("delete", describe(orphan), source)),
            }
        }
        Ok(removed)
    }
}

/// An object that a tier owns.
trait Child: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Stored {}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Stored> Child for K {}

/// An object as the client reads and writes it.
trait Stored: k8s_openapi::Resource + Clone + DeserializeOwned + Serialize + Debug + Send + Sync {}

impl<K: k8s_openapi::Resource + Clone + DeserializeOwned + Serialize + Debug + Send + Sync> Stored for K {}

fn orphans<'a, K: Child>(wanted: &[K], existing: &'a [K]) -> Vec<&'a K> {
    existing
        .iter()
        .filter(|object| object.meta().deletion_timestamp.is_none())
        .filter(|object| !wanted.iter().any(|other| is_same(*object, other)))
        .collect()
}

fn is_same<K: Resource>(one: &K, other: &K) -> bool {
    one.meta().name == other.meta().name && one.meta().namespace == other.meta().namespace
}

fn describe<K: Child>(object: &K) -> String {
    format!("{} {}/{}", K::KIND, object.namespace().unwrap_or_default(), object.name_any())
}
