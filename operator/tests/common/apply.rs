//! Server-side apply of objects that a test makes.

use anyhow::{Context, Result};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::Value;

const MANAGER: &str = "test";

/// Applies an object, whoever has owned its fields before, and returns it as it is then.
///
/// # Errors
/// When the API server refuses it.
pub(crate) async fn apply<K>(api: &Api<K>, name: &str, object: Value) -> Result<K>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(&object)).await.with_context(|| format!("cannot apply {name}"))
}
