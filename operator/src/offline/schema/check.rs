//! Check of an object against its schema, in the words of the API server.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, ValidationRule};
use serde_json::{Map, Value, json};

use crate::offline::cel;
use crate::offline::field_path::FieldPath;
use crate::offline::schema::Problem;
use crate::offline::schema::completion::{complete, items, values};

/// Fields of every object, which are in no schema. `status` is the operator's and is not read from a file.
const FIELDS_OF_EVERY_OBJECT: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// Checks an object, and returns it with everything filled in that the API server fills in, and all that is wrong with
/// it. Rules are evaluated where everything that they can read has its type.
pub(in crate::offline) fn check(schema: &JSONSchemaProps, object: &Value) -> (Value, Vec<Problem>) {
    let Value::Object(fields) = object else {
        return (object.clone(), vec![Problem::new(FieldPath::default(), "must be of type object")]);
    };
    let is_general = |(name, _): &(&String, &Value)| FIELDS_OF_EVERY_OBJECT.contains(&name.as_str());
    let (general, own): (Vec<_>, Vec<_>) = fields.iter().partition(is_general);
    let to_object = |fields: Vec<(&String, &Value)>| -> Map<String, Value> {
        fields.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let mut schema = schema.clone();
    if let Some(properties) = &mut schema.properties {
        properties.remove("status");
    }
    let rules = schema.x_kubernetes_validations.take();
    let mut own = Value::Object(to_object(own));
    let mut check = Check { problems: complete(&schema, &mut own, &FieldPath::default()), mistyped: 0 };
    check.value(&schema, &own, &FieldPath::default());
    let mut completed = to_object(general);
    completed.remove("status");
    completed.extend(own.as_object().cloned().unwrap_or_default());
    let completed = Value::Object(completed);
    if !object["metadata"]["name"].is_string() {
        let name = FieldPath::parse("metadata.name");
        check.problems.push(Problem::new(name, "Required value: a DnsTier must have a name"));
    } else if check.mistyped == 0 {
        check.rules(rules.as_deref(), &completed, &FieldPath::default());
    }
    (completed, check.problems)
}

/// Check of one object.
struct Check {
    problems: Vec<Problem>,
    /// Number of problems that the schema found, without those that rules found.
    mistyped: usize,
}

impl Check {
    fn value(&mut self, schema: &JSONSchemaProps, value: &Value, path: &FieldPath) {
        let mistyped_before = self.mistyped;
        if let Some(expected) = unexpected_type(schema, value) {
            let message = format!("must be of type {expected}, not {}", type_of(value));
            return self.mistype(path, message);
        }
        match value {
            Value::Object(object) => self.object(schema, object, path),
            Value::Array(list) => self.list(schema, list, path),
            Value::String(text) => {
                let letters = text.chars().count();
                if let Some(max) = schema.max_length.filter(|max| exceeds(letters, *max)) {
                    self.mistype(path, format!("may not be more than {max} bytes"));
                }
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or_default();
                if let Some(min) = schema.minimum.filter(|min| number < *min) {
                    self.mistype(path, format!("should be greater than or equal to {min}"));
                }
                if let Some(max) = schema.maximum.filter(|max| number > *max) {
                    self.mistype(path, format!("should be less than or equal to {max}"));
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        if let Some(supported) = &schema.enum_
            && !supported.iter().any(|supported| supported.0 == *value)
        {
            let supported: Vec<String> = supported.iter().map(|supported| supported.0.to_string()).collect();
            self.mistype(path, format!("Unsupported value: {value}: supported values: {}", supported.join(", ")));
        }
        if self.mistyped == mistyped_before {
            self.rules(schema.x_kubernetes_validations.as_deref(), value, path);
        }
    }

    fn object(&mut self, schema: &JSONSchemaProps, object: &Map<String, Value>, path: &FieldPath) {
        if let Some(max) = schema.max_properties.filter(|max| exceeds(object.len(), *max)) {
            self.mistype(path, format!("must have at most {max} properties"));
        }
        for name in schema.required.iter().flatten().filter(|name| !object.contains_key(*name)) {
            self.mistype(&path.field(name), "Required value".to_owned());
        }
        for (name, value) in object {
            if let Some(property) = schema.properties.as_ref().and_then(|properties| properties.get(name)) {
                self.value(property, value, &path.field(name));
            } else if let Some(values) = values(schema) {
                self.value(values, value, &path.key(name));
            }
        }
    }

    fn list(&mut self, schema: &JSONSchemaProps, list: &[Value], path: &FieldPath) {
        if let Some(max) = schema.max_items.filter(|max| exceeds(list.len(), *max)) {
            self.mistype(path, format!("must have at most {max} items"));
        }
        if let Some(items) = items(schema) {
            for (index, item) in list.iter().enumerate() {
                self.value(items, item, &path.index(index));
            }
        }
        let keys: Vec<Option<Value>> = list.iter().map(|item| key_of(schema, item)).collect();
        for (index, key) in keys.iter().enumerate() {
            if let Some(key) = key.as_ref().filter(|_| keys[..index].contains(key)) {
                self.mistype(&path.index(index), format!("Duplicate value: {key}"));
            }
        }
    }

    fn rules(&mut self, rules: Option<&[ValidationRule]>, value: &Value, path: &FieldPath) {
        for rule in rules.unwrap_or_default() {
            let message = match cel::is_satisfied(&rule.rule, value) {
                Ok(true) => continue,
                Ok(false) => rule.message.clone().unwrap_or_else(|| format!("failed rule: {}", rule.rule)),
                Err(error) => format!("rule evaluation error: {error}: {}", rule.rule),
            };
            let below = FieldPath::parse(rule.field_path.as_deref().unwrap_or_default());
            self.problems.push(Problem::new(path.join(&below), message));
        }
    }

    fn mistype(&mut self, path: &FieldPath, message: String) {
        self.mistyped += 1;
        self.problems.push(Problem::new(path.with_keys_as_fields(), message));
    }
}

/// Returns the type that a value should have and has not.
fn unexpected_type<'a>(schema: &'a JSONSchemaProps, value: &Value) -> Option<&'a str> {
    if schema.x_kubernetes_int_or_string == Some(true) {
        return Some("integer or string").filter(|_| !value.is_i64() && !value.is_u64() && !value.is_string());
    }
    let expected = schema.type_.as_deref()?;
    let is_expected = match expected {
        "number" => value.is_number(),
        other => type_of(value) == other,
    };
    (!is_expected).then_some(expected)
}

/// Returns the type of a value, as schemas name it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Returns what no two items of a list may have in common; `None` where they may be equal.
fn key_of(schema: &JSONSchemaProps, item: &Value) -> Option<Value> {
    match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => Some(item.clone()),
        Some("map") => {
            let keys = schema.x_kubernetes_list_map_keys.iter().flatten();
            Some(keys.map(|key| (key.clone(), item.get(key).cloned().unwrap_or(json!(null)))).collect())
        }
        _ => None,
    }
}

fn exceeds(size: usize, max: i64) -> bool {
    i64::try_from(size).is_ok_and(|size| size > max)
}
