//! Completion of an object: unknown fields go, null is the same as nothing, and missing fields get their defaults.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use crate::offline::field_path::FieldPath;
use crate::offline::schema::Problem;

/// Returns the schema of the items of a list.
pub(super) fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(items) => Some(items),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

/// Returns the schema of the values of a map.
pub(super) fn values(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.additional_properties.as_ref()? {
        JSONSchemaPropsOrBool::Schema(values) => Some(values),
        JSONSchemaPropsOrBool::Bool(_) => None,
    }
}

/// Completes a value, and returns the fields that do not exist.
pub(super) fn complete(schema: &JSONSchemaProps, value: &mut Value, path: &FieldPath) -> Vec<Problem> {
    let mut problems = Vec::new();
    match value {
        Value::Object(object) => {
            if let Some(values) = values(schema) {
                object.retain(|_, value| !value.is_null());
                for (key, value) in object {
                    problems.extend(complete(values, value, &path.key(key)));
                }
                return problems;
            }
            let Some(properties) = &schema.properties else { return problems };
            object.retain(|name, value| {
                let is_known = properties.contains_key(name);
                if !is_known {
                    let field = path.field(name);
                    let message = format!("unknown field \"{field}\"");
                    problems.push(Problem::new(field, message));
                }
                is_known && !value.is_null()
            });
            for (name, property) in properties {
                if let Some(default) = &property.default {
                    object.entry(name).or_insert_with(|| default.0.clone());
                }
                if let Some(value) = object.get_mut(name) {
                    problems.extend(complete(property, value, &path.field(name)));
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = items(schema) {
                for (index, item) in list.iter_mut().enumerate() {
                    problems.extend(complete(items, item, &path.index(index)));
                }
            }
        }
        _ => {}
    }
    problems
}
