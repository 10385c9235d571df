//! Field managers: the fields in which an object differs from the desired one, and who set them last.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

use crate::controller::apply::drift::{is_up_to_date, is_zero_value};

/// Path of a field in an object.
type FieldPath = Vec<Step>;

/// Step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Parties of a contest: the fields in which an object differs, and their managers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parties {
    /// Fields, as `spec.template.spec.containers[0].image`.
    pub(super) fields: Vec<String>,
    /// Managers that are not the operator; empty when none is known.
    pub(super) managers: Vec<String>,
}

/// Returns the fields in which `existing` differs from `desired`, and their managers other than `own`. A field that was
/// removed has none: then it is the manager that wrote last.
#[must_use]
pub(super) fn parties(desired: &Value, existing: &Value, managed: &[ManagedFieldsEntry], own: &str) -> Parties {
    let mut paths = Vec::new();
    collect_differences(desired, existing, &mut Vec::new(), &mut paths);
    let is_other = |entry: &&ManagedFieldsEntry| entry.manager.as_deref() != Some(own) && entry.subresource.is_none();
    let others: Vec<&ManagedFieldsEntry> = managed.iter().filter(is_other).collect();
    let owns_one = |entry: &&&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map_or(&Value::Null, |fields| &fields.0);
        paths.iter().any(|path| owns(fields, path, existing))
    };
    let mut managers: Vec<String> = others.iter().filter(owns_one).filter_map(|entry| entry.manager.clone()).collect();
    if managers.is_empty() {
        let newest = others.iter().max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
        managers.extend(newest.and_then(|entry| entry.manager.clone()));
    }
    managers.sort_unstable();
    managers.dedup();
    Parties { fields: paths.iter().map(|path| to_text(path)).collect(), managers }
}

/// Collects the paths of the smallest parts in which an object differs from the desired one.
fn collect_differences(desired: &Value, existing: &Value, path: &mut FieldPath, paths: &mut Vec<FieldPath>) {
    if is_up_to_date(desired, existing) {
        return;
    }
    let mut descend = |step: Step, desired: &Value, existing: &Value| {
        path.push(step);
        collect_differences(desired, existing, path, paths);
        path.pop();
    };
    match (desired, existing) {
        (Value::Object(desired), Value::Object(existing)) => {
            let of_object = desired.iter().filter(|(key, _)| *key != "resourceVersion");
            for (key, value) in of_object {
                match existing.get(key) {
                    Some(other) => descend(Step::Key(key.clone()), value, other),
                    // What is missing is missing as a whole.
                    None if is_zero_value(value) => {}
                    None => descend(Step::Key(key.clone()), value, &Value::Null),
                }
            }
        }
        (Value::Array(desired), Value::Array(existing)) if desired.len() == existing.len() => {
            for (index, (item, other)) in desired.iter().zip(existing).enumerate() {
                descend(Step::Index(index), item, other);
            }
        }
        _ => paths.push(path.clone()),
    }
}

/// Returns whether fields (`fieldsV1`) contain a path. `existing` is the object, by whose items list entries are found.
fn owns(fields: &Value, path: &[Step], existing: &Value) -> bool {
    let Some(fields) = fields.as_object() else { return false };
    let Some((step, rest)) = path.split_first() else { return true };
    if fields.is_empty() {
        // The part is owned as a whole.
        return true;
    }
    match step {
        Step::Key(key) => fields
            .get(&format!("f:{key}"))
            .is_some_and(|inner| owns(inner, rest, existing.get(key).unwrap_or(&Value::Null))),
        Step::Index(index) => {
            let item = existing.get(index).unwrap_or(&Value::Null);
            fields.iter().any(|(entry, inner)| is_entry_of(entry, item) && owns(inner, rest, item))
        }
    }
}

/// Returns whether an entry of a list in `fieldsV1` is about an item: `k:{"name":"a"}` by keys, `v:"a"` by value.
fn is_entry_of(entry: &str, item: &Value) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    if let Some(value) = entry.strip_prefix("v:") {
        return parse(value) == *item;
    }
    let Some(Value::Object(keys)) = entry.strip_prefix("k:").map(parse) else { return false };
    keys.iter().all(|(key, value)| item.get(key) == Some(value))
}

/// Returns a path as text.
fn to_text(path: &[Step]) -> String {
    let steps = path.iter().enumerate().map(|(position, step)| match step {
        Step::Index(index) => format!("[{index}]"),
        Step::Key(key) if key.contains(['.', '/']) => format!("[{key}]"),
        Step::Key(key) if position == 0 => key.clone(),
        Step::Key(key) => format!(".{key}"),
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn desired() -> Value {
        json!({
            "metadata": {"annotations": {"dnstier.io/applied": "1a"}},
            "spec": {"replicas": 2, "paused": false, "template": {"containers": [
                {"name": "a", "image": "one"}, {"name": "b", "image": "two"},
            ]}},
        })
    }

    fn entry(manager: &str, time: &str, fields: Value) -> ManagedFieldsEntry {
        serde_json::from_value(json!({"manager": manager, "time": time, "fieldsV1": fields})).unwrap()
    }

    fn find(existing: &Value, managed: &[ManagedFieldsEntry]) -> (Vec<String>, Vec<String>) {
        let Parties { fields, managers } = parties(&desired(), existing, managed, "dnstier-operator");
        (fields, managers)
    }

    #[test]
    fn the_manager_of_a_changed_field_is_named() {
        let mut existing = desired();
        existing["spec"]["replicas"] = json!(5);
        existing["spec"].as_object_mut().unwrap().remove("paused");
        let managed = [
            entry("dnstier-operator", "2026-01-03T00:00:00Z", json!({"f:spec": {"f:replicas": {}}})),
            entry("keda", "2026-01-01T00:00:00Z", json!({"f:spec": {"f:replicas": {}}})),
            entry("kubectl", "2026-01-02T00:00:00Z", json!({"f:spec": {"f:other": {}}})),
        ];
        assert_eq!(find(&existing, &managed), (vec!["spec.replicas".to_owned()], vec!["keda".to_owned()]));
    }

    #[test]
    fn the_manager_of_an_item_of_a_list_is_found_by_its_keys() {
        let mut existing = desired();
        existing["spec"]["template"]["containers"][1]["image"] = json!("mirror/two");
        let of_item = |name: &str| {
            let key = format!("k:{{\"name\":\"{name}\"}}");
            json!({"f:spec": {"f:template": {"f:containers": {key: {".": {}, "f:image": {}}}}}})
        };
        let managed =
            [entry("of-a", "2026-01-02T00:00:00Z", of_item("a")), entry("of-b", "2026-01-01T00:00:00Z", of_item("b"))];
        let fields = vec!["spec.template.containers[1].image".to_owned()];
        assert_eq!(find(&existing, &managed), (fields, vec!["of-b".to_owned()]));
    }

    #[test]
    fn a_field_that_was_removed_is_put_down_to_the_manager_that_wrote_last() {
        let mut existing = desired();
        existing["metadata"]["annotations"] = json!({"other": "x"});
        let mut status = entry("kube-controller-manager", "2026-01-09T00:00:00Z", json!({"f:status": {}}));
        status.subresource = Some("status".to_owned());
        let managed = [
            entry("early", "2026-01-01T00:00:00Z", json!({"f:spec": {"f:x": {}}})),
            entry("late", "2026-01-02T00:00:00Z", json!({"f:spec": {"f:y": {}}})),
            status,
        ];
        let fields = vec!["metadata.annotations[dnstier.io/applied]".to_owned()];
        assert_eq!(find(&existing, &managed), (fields, vec!["late".to_owned()]));
    }

    #[test]
    fn without_managers_the_fields_are_named_all_the_same() {
        let mut existing = desired();
        existing["spec"]["template"]["containers"] = json!([]);
        assert_eq!(find(&existing, &[]), (vec!["spec.template.containers".to_owned()], Vec::new()));
    }
}
