//! Differences between the objects of a tier and those that the controller would make of them.

use anyhow::Context as _;
use dnstier_crds::FIELD_MANAGER;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::controller::apply::plan::PlannedWrite;
use crate::error::Error;
use crate::offline::comparable::to_comparable;
use crate::offline::unified;

/// Returns the difference that a write makes, as a unified diff; empty when it makes none. An apply is a dry run: the
/// API server fills in what it would fill in, and refuses what it would refuse.
///
/// # Errors
///
/// When the API server refuses the write, or when an object cannot be written as YAML.
pub(super) async fn difference(client: &Client, write: &PlannedWrite) -> anyhow::Result<String> {
    let name = file_name(write);
    let (old, new) = match (&write.existing, &write.body) {
        (None, Some(body)) => {
            // The response has values that the next request has not, such as addresses.
            apply_dry(client, write, body).await?;
            (String::new(), to_comparable(body.clone())?)
        }
        (Some(_), Some(body)) => {
            (to_comparable(read(client, write).await?)?, to_comparable(apply_dry(client, write, body).await?)?)
        }
        (existing, None) => (to_comparable(existing.clone().unwrap_or_default())?, String::new()),
    };
    let hunks = unified::diff(&old, &new);
    if hunks.is_empty() {
        return Ok(hunks);
    }
    let side = |text: &str, side: &str| if text.is_empty() { "/dev/null".to_owned() } else { format!("{side}/{name}") };
    let (old, new) = (side(&old, "LIVE"), side(&new, "MERGED"));
    Ok(format!("diff -u -N LIVE/{name} MERGED/{name}\n--- {old}\n+++ {new}\n{hunks}"))
}

/// Returns the name under which `kubectl diff` shows an object: `apps.v1.Deployment.namespace.name`.
fn file_name(write: &PlannedWrite) -> String {
    let PlannedWrite { resource, namespace, name, .. } = write;
    let group = if resource.group.is_empty() { String::new() } else { format!("{}.", resource.group) };
    format!("{group}{}.{}.{namespace}.{name}", resource.version, resource.kind)
}

fn api(client: &Client, write: &PlannedWrite) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), &write.namespace, &write.resource)
}

fn describe(write: &PlannedWrite) -> String {
    format!("{} {}/{}", write.resource.kind, write.namespace, write.name)
}

/// Reads an object by a list, since the operator has no right to get a single one.
async fn read(client: &Client, write: &PlannedWrite) -> anyhow::Result<Value> {
    let params = ListParams::default().fields(&format!("metadata.name={}", write.name));
    let objects = api(client, write).list(&params).await;
    let objects = objects.map_err(|source| Error::request("read", describe(write), source))?;
    let object = objects.items.into_iter().find(|object| object.name_any() == write.name);
    let mut object = serde_json::to_value(object.with_context(|| format!("{} is gone", describe(write)))?)?;
    // The items of a list have no type of their own.
    object["apiVersion"] = write.resource.api_version.clone().into();
    object["kind"] = write.resource.kind.clone().into();
    Ok(object)
}

/// Lets the API server apply an object without storing it.
async fn apply_dry(client: &Client, write: &PlannedWrite, body: &Value) -> anyhow::Result<Value> {
    let params = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER).force() };
    let patch: Patch<&Value> = Patch::Apply(body);
    let object = api(client, write).patch(&write.name, &params, &patch).await;
    let object = object.map_err(|source| Error::request("apply", describe(write), source))?;
    Ok(serde_json::to_value(object)?)
}
