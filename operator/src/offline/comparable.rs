//! Comparable text of an object.

use k8s_openapi::api::core::v1::ConfigMap;
use node_cache_config::names::{STABLE_REVISION, revision_key};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::controller::owned::{labels, revision_history};
use crate::offline::render::to_yaml;

/// Fields of the metadata that the API server sets in each write, or once for all.
const FIELDS_OF_THE_API_SERVER: [&str; 5] =
    ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"];

/// Returns what is compared of an object, as YAML: everything but the status and what the API server sets.
///
/// Of revisions, the newest one is written line by line under a name that stays, so that its difference to the newest
/// one of before can be seen. The others never change, and each is a digest.
///
/// # Errors
///
/// When the object cannot be written as YAML.
pub(super) fn to_comparable(mut object: Value) -> anyhow::Result<String> {
    let revisions = compare_revisions(&object)?;
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        fields.extend(revisions.map(|revisions| ("data".to_owned(), revisions)));
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !FIELDS_OF_THE_API_SERVER.contains(&name.as_str()));
    }
    to_yaml(&object)
}

/// Returns the revisions of a ConfigMap as they are compared; `None` for any other object.
fn compare_revisions(object: &Value) -> anyhow::Result<Option<Value>> {
    if object["kind"] != "ConfigMap" || object["metadata"]["annotations"].get(labels::REVISIONS).is_none() {
        return Ok(None);
    }
    let config_map: ConfigMap = serde_json::from_value(object.clone())?;
    let revisions: Vec<&str> = revision_history(&config_map).collect();
    let data = config_map.data.clone().unwrap_or_default();
    let newest = revisions.first().map(|revision| revision_key(revision)).unwrap_or_default();
    let mut compared = Map::new();
    for (key, text) in &data {
        let same = revisions.iter().find(|revision| data.get(&revision_key(revision)) == Some(text));
        let (key, text) = if *key == newest {
            let config: Value = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
            ("newest", serde_json::to_string_pretty(&config)? + "\n")
        } else if let Some(same) = same.filter(|_| *key == revision_key(STABLE_REVISION)) {
            (STABLE_REVISION, (*same).to_owned())
        } else {
            (key.as_str(), digest(text))
        };
        compared.insert(key.to_owned(), Value::String(text));
    }
    Ok(Some(Value::Object(compared)))
}

fn digest(text: &str) -> String {
    let digest: String = Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_sets_is_not_compared() {
        let object = json!({
            "kind": "Service",
            "metadata": {"name": "a", "uid": "1", "resourceVersion": "2", "managedFields": []},
            "spec": {"type": "ClusterIP"},
            "status": {"x": 1},
        });
        assert_eq!(to_comparable(object).unwrap(), "kind: Service\nmetadata:\n  name: a\nspec:\n  type: ClusterIP\n");
    }

    #[test]
    fn the_newest_revision_is_written_line_by_line_and_the_others_as_digests() {
        let config_map = |data: Value| {
            let annotations = json!({labels::REVISIONS: "b,a"});
            json!({"kind": "ConfigMap", "metadata": {"annotations": annotations}, "data": data})
        };
        let text = to_comparable(config_map(
            json!({"a.json": "{\"x\":1}", "b.json": "{\"x\":2}", "stable.json": "{\"x\":1}"}),
        ));
        let text = text.unwrap();
        for line in ["  newest: |\n    {\n      \"x\": 2\n    }\n", "  stable: a\n", "  a.json: sha256:"] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let changed = config_map(json!({"a.json": "{\"x\":3}", "b.json": "{\"x\":2}", "stable.json": "{\"x\":1}"}));
        assert_ne!(to_comparable(changed).unwrap(), text, "somebody has changed a revision");
    }
}
