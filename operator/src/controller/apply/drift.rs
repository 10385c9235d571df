//! Drift detection: whether an existing object is up to date, so that a steady tier causes no write.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::controller::owned::labels;

/// Annotates a desired object with a hash of itself. A field that is no longer desired changes the hash, and is noticed
/// by nothing else.
pub(super) fn stamp_applied_hash(desired: &mut Value) {
    let hash = hash(desired);
    let Some(metadata) = desired.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(labels::APPLIED.to_owned(), Value::String(hash));
    }
}

/// Returns whether an existing object has every desired field. Fields that the API server or other writers added are
/// ignored.
#[must_use]
pub(super) fn is_up_to_date(desired: &Value, existing: &Value) -> bool {
    match (desired, existing) {
        (Value::Object(desired), Value::Object(existing)) => {
            desired.iter().filter(|(key, _)| *key != "resourceVersion").all(|(key, value)| match existing.get(key) {
                Some(existing_value) => is_up_to_date(value, existing_value),
                None => is_zero_value(value),
            })
        }
        (Value::Array(desired), Value::Array(existing)) => {
            desired.len() == existing.len()
                && desired.iter().zip(existing).all(|(item, existing_item)| is_up_to_date(item, existing_item))
        }
        _ => desired == existing,
    }
}

/// Returns the hash with which an object is annotated; empty without one.
pub(super) fn applied_hash(object: &Value) -> &str {
    object["metadata"]["annotations"][labels::APPLIED].as_str().unwrap_or_default()
}

/// Returns a hash of a desired object without its `resourceVersion`, which is a precondition of the write.
fn hash(desired: &Value) -> String {
    let mut desired = desired.clone();
    if let Some(metadata) = desired.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    Sha256::digest(desired.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether a value is the zero value of its type, which the API server omits.
pub(super) fn is_zero_value(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_zero_value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{build_desired, serving};
    use serde_json::json;

    fn service() -> Value {
        json!({
            "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"ports": [{"port": 53}], "selector": {"k": "v"}},
        })
    }

    fn stamped(mut value: Value) -> Value {
        stamp_applied_hash(&mut value);
        value
    }

    fn as_stored(mut value: Value) -> Value {
        value["metadata"]["uid"] = json!("1234");
        value["metadata"]["resourceVersion"] = json!("77");
        value["spec"]["clusterIP"] = json!("10.96.0.1");
        value["spec"]["ports"][0]["protocol"] = json!("TCP");
        value
    }

    #[test]
    fn a_field_that_the_api_server_fills_in_is_no_difference() {
        assert!(is_up_to_date(&stamped(service()), &as_stored(stamped(service()))));
    }

    #[test]
    fn a_changed_a_missing_and_a_further_entry_are_differences() {
        let stored = as_stored(stamped(service()));
        for path in ["/metadata/labels/x", "/spec/ports/0/port", "/spec/selector/k"] {
            let mut changed = stored.clone();
            *changed.pointer_mut(path).unwrap() = json!("other");
            assert!(!is_up_to_date(&stamped(service()), &changed), "{path}");
        }
        let mut further = stored;
        further["spec"]["ports"].as_array_mut().unwrap().push(json!({"port": 54}));
        assert!(!is_up_to_date(&stamped(service()), &further));
    }

    #[test]
    fn a_field_that_is_no_longer_desired_is_a_difference() {
        let mut before = service();
        before["spec"]["selector"]["old"] = json!("value");
        assert!(!is_up_to_date(&stamped(service()), &as_stored(stamped(before))));
    }

    #[test]
    fn the_version_that_a_write_is_conditional_on_is_no_difference() {
        let mut conditional = service();
        conditional["metadata"]["resourceVersion"] = json!("12");
        assert!(is_up_to_date(&stamped(conditional), &as_stored(stamped(service()))));
    }

    #[test]
    fn a_zero_value_may_be_left_out() {
        let mut explicit = service();
        explicit["spec"]["publishNotReadyAddresses"] = json!(false);
        explicit["spec"]["externalIPs"] = json!([]);
        let mut stored = as_stored(stamped(explicit.clone()));
        let spec = stored["spec"].as_object_mut().unwrap();
        spec.remove("publishNotReadyAddresses");
        spec.remove("externalIPs");
        assert!(is_up_to_date(&stamped(explicit), &stored));
    }

    #[test]
    fn a_tier_at_rest_needs_no_write() {
        let observed = serving("{}");
        let desired = build_desired(&observed).objects;
        for (desired, existing) in desired.deployments.iter().zip(&observed.owned.deployments) {
            let desired = stamped(serde_json::to_value(desired).unwrap());
            let mut existing = serde_json::to_value(existing).unwrap();
            existing["metadata"]["annotations"] = desired["metadata"]["annotations"].clone();
            assert!(is_up_to_date(&desired, &existing));
        }
        for (desired, existing) in desired.config_maps.iter().zip(&observed.owned.config_maps) {
            assert_eq!(desired.data, existing.data);
        }
    }
}
