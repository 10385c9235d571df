//! Objects as YAML.

use serde_json::Value;

use crate::controller::apply::plan::plan_writes;
use crate::controller::owned::OwnedObjects;
use crate::error::Error;

/// Returns the bodies of the requests that apply objects, in their order.
///
/// # Errors
///
/// When an object cannot be written as JSON.
pub(super) fn bodies(objects: &OwnedObjects) -> Result<Vec<Value>, Error> {
    let writes = plan_writes(objects, &OwnedObjects::default())?;
    Ok(writes.into_iter().filter_map(|write| write.body).collect())
}

/// Returns an object as YAML.
///
/// # Errors
///
/// When the object cannot be written as YAML.
pub(super) fn to_yaml(object: &Value) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(object)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
