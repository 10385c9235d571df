//! Whether an object is there already as it should be, so that a tier at rest costs no write.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::controller::owned::labels;

/// Writes into an object a hash of all that is wanted of it. By this alone can be known later that something was
/// wanted before and is not any more.
pub(crate) fn stamp(wanted: &mut Value) {
    let hash = hash(wanted);
    let Some(metadata) = wanted.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(labels::APPLIED.to_owned(), Value::String(hash));
    }
}

/// Whether everything that is wanted is there. What the API server or others added does not matter.
#[must_use]
pub(crate) fn in_place(wanted: &Value, existing: &Value) -> bool {
    match (wanted, existing) {
        (Value::Object(wanted), Value::Object(existing)) => wanted
            .iter()
            .filter(|(key, _)| *key != "resourceVersion")
            .all(|(key, value)| existing.get(key).map_or_else(|| is_zero(value), |there| in_place(value, there))),
        (Value::Array(wanted), Value::Array(existing)) => {
            wanted.len() == existing.len() && wanted.iter().zip(existing).all(|(one, other)| in_place(one, other))
        }
        _ => wanted == existing,
    }
}

/// The version that a write is conditional on is no part of what is wanted.
fn hash(wanted: &Value) -> String {
    let mut wanted = wanted.clone();
    if let Some(metadata) = wanted.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    Sha256::digest(wanted.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The API server leaves out what has no value.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Value {
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"ports": [{"port": 53}], "selector": {"k": "v"}}})
    }

    fn stamped(mut value: Value) -> Value {
        stamp(&mut value);
        value
    }

    fn as_kept(mut value: Value) -> Value {
        value["metadata"]["uid"] = json!("1234");
        value["metadata"]["resourceVersion"] = json!("77");
        value["spec"]["clusterIP"] = json!("10.96.0.1");
        value["spec"]["ports"][0]["protocol"] = json!("TCP");
        value
    }

    #[test]
    fn what_the_api_server_fills_in_is_no_difference() {
        assert!(in_place(&stamped(service()), &as_kept(stamped(service()))));
    }

    #[test]
    fn a_changed_a_missing_and_a_further_entry_are_differences() {
        let kept = as_kept(stamped(service()));
        for path in ["/metadata/labels/x", "/spec/ports/0/port", "/spec/selector/k"] {
            let mut changed = kept.clone();
            *changed.pointer_mut(path).unwrap() = json!("other");
            assert!(!in_place(&stamped(service()), &changed), "{path}");
        }
        let mut further = kept;
        further["spec"]["ports"].as_array_mut().unwrap().push(json!({"port": 54}));
        assert!(!in_place(&stamped(service()), &further));
    }

    #[test]
    fn what_is_not_wanted_any_more_is_a_difference() {
        let mut before = service();
        before["spec"]["selector"]["old"] = json!("value");
        assert!(!in_place(&stamped(service()), &as_kept(stamped(before))));
    }

    #[test]
    fn the_version_that_a_write_is_conditional_on_is_no_difference() {
        let mut conditional = service();
        conditional["metadata"]["resourceVersion"] = json!("12");
        assert!(in_place(&stamped(conditional), &as_kept(stamped(service()))));
    }

    #[test]
    fn what_has_no_value_may_be_left_out() {
        let mut explicit = service();
        explicit["spec"]["publishNotReadyAddresses"] = json!(false);
        explicit["spec"]["externalIPs"] = json!([]);
        let mut kept = as_kept(stamped(explicit.clone()));
        let spec = kept["spec"].as_object_mut().unwrap();
        spec.remove("publishNotReadyAddresses");
        spec.remove("externalIPs");
        assert!(in_place(&stamped(explicit), &kept));
    }
}
