//! The CustomResourceDefinition: the derived schema, and corrections that types cannot express.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::conditions::{ConditionStatus, ConditionType, Reason};

use super::validation::{NAME, rules};
use super::{DnsTier, DnsTierSpec, NODE_CACHE_SIZE, RESOLVER_CACHE_SIZE};

/// Returns the definition to install: that of [`DnsTier`] with
///
/// * no field that takes `null`: the API server replaces `null` by the default, or drops it;
/// * a default for every object, so that its fields get their defaults also where the object is missing;
/// * no default in the fields of the status, which the operator alone writes, but one for a status that it has not
///   written yet;
/// * integer formats that the API server knows;
/// * descriptions with one line for each paragraph.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = DnsTier::crd();
    let schemas = definition.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    for root in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        visit(root, &mut normalize);
        root.required = None;
        root.x_kubernetes_validations = validations();
        if let Some(spec) = property(root, "spec") {
            visit(spec, &mut set_object_default);
            set_cache_size_defaults(spec);
            // The API server validates this default before it fills in defaults of fields.
            spec.default = Some(JSON(json!(DnsTierSpec::default())));
        }
        if let Some(status) = property(root, "status") {
            visit(status, &mut |schema| schema.default = None);
            status.default = Some(JSON(pending_status()));
        }
    }
    definition
}

/// Returns the status of a tier that no operator has seen, which says so: kstatus (Helm, Flux) takes an object without
/// a status for one that is as it should be.
///
/// Everything in it is replaced by the first status that the operator writes. `Reconciling` would not be: the operator
/// removes it by leaving it out, and server-side apply removes only what the operator itself has written. kstatus waits
/// all the same, because no spec has the generation 0, and because `Ready` is unknown.
fn pending_status() -> Value {
    let condition = |type_: ConditionType| {
        json!({
            "type": type_.name(),
            "status": ConditionStatus::Unknown.name(),
            "reason": Reason::Pending.name(),
            "message": Reason::Pending.meaning(),
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        })
    };
    let always_present = ConditionType::ALL.iter().copied().filter(|type_| !type_.only_while_true());
    let conditions: Vec<Value> = always_present.map(condition).collect();
    json!({"observedGeneration": 0, "conditions": conditions})
}

/// Adapts one schema to what the API server accepts.
fn normalize(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.format = schema.format.take().map(|format| match format.as_str() {
        "uint8" | "uint16" => "int32".to_owned(),
        "uint32" => "int64".to_owned(),
        _ => format,
    });
    schema.description = schema.description.take().map(|text| {
        let paragraphs: Vec<String> = text.split("\n\n").map(|lines| lines.replace('\n', " ")).collect();
        paragraphs.join("\n\n")
    });
}

/// Gives an object whose fields have defaults the default `{}`. `capture` is different: its default is a complete
/// object, and the fields of one that is given are not filled in.
fn set_object_default(schema: &mut JSONSchemaProps) {
    let has_defaults = schema
        .properties
        .as_ref()
        .is_some_and(|properties| properties.values().any(|property| property.default.is_some()));
    if has_defaults && schema.required.is_none() {
        schema.default = Some(JSON(json!({})));
    }
}

/// Sets the default of `cache.size`, which differs between nodes and zones.
fn set_cache_size_defaults(spec: &mut JSONSchemaProps) {
    for (part, size) in [("nodeCache", NODE_CACHE_SIZE), ("resolvers", RESOLVER_CACHE_SIZE)] {
        let cache = property(spec, part).and_then(|part| property(part, "cache"));
        if let Some(field) = cache.and_then(|cache| property(cache, "size")) {
            field.default = Some(JSON(json!(size)));
        }
    }
}

fn validations() -> Option<Vec<ValidationRule>> {
    serde_json::from_value(rules(&[NAME])).ok()
}

fn property<'a>(schema: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut(name)
}

/// Calls `change` for a schema and every schema in it.
fn visit(schema: &mut JSONSchemaProps, change: &mut impl FnMut(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        visit(property, change);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        visit(items, change);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        visit(values, change);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::conditions::{Report, merge};
    use crate::v1alpha1::DnsTierStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn part(name: &str) -> JSONSchemaProps {
        let definition = definition();
        let mut root = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        root.properties.as_mut().unwrap().remove(name).unwrap()
    }

    /// Fills in defaults as the API server does: missing fields first, then the fields of present objects.
    fn apply_defaults(schema: &JSONSchemaProps, value: &mut Value) {
        for (name, property) in schema.properties.iter().flatten() {
            if let (Some(object), Some(default)) = (value.as_object_mut(), &property.default) {
                object.entry(name).or_insert_with(|| default.0.clone());
            }
            if let Some(inner) = value.get_mut(name) {
                apply_defaults(property, inner);
            }
        }
        if let (Some(JSONSchemaPropsOrArray::Schema(items)), Some(list)) = (&schema.items, value.as_array_mut()) {
            list.iter_mut().for_each(|item| apply_defaults(items, item));
        }
    }

    fn each_field(path: &str, schema: &JSONSchemaProps, check: &mut impl FnMut(&str, &JSONSchemaProps)) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            check(&path, property);
            each_field(&path, property, check);
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &property.items {
                each_field(&path, items, check);
            }
        }
    }

    #[test]
    fn the_api_server_fills_in_what_rust_fills_in() {
        let spec = part("spec");
        let mut defaulted = json!({});
        apply_defaults(&spec, &mut defaulted);
        assert_eq!(defaulted, serde_json::to_value(DnsTierSpec::default()).unwrap());
        assert_eq!(spec.default.as_ref().unwrap().0, defaulted);

        let mut partial =
            json!({"nodeCache": {"cache": {}}, "resolvers": {"upstreams": [{"addresses": ["192.0.2.1"]}]}});
        let from_rust: DnsTierSpec = serde_json::from_value(partial.clone()).unwrap();
        apply_defaults(&spec, &mut partial);
        let from_api_server: DnsTierSpec = serde_json::from_value(partial).unwrap();
        assert_eq!(from_rust.resolvers, from_api_server.resolvers);
        assert_eq!(from_rust.node_cache.cache_size(), from_api_server.node_cache.cache_size());
        assert_eq!(from_rust.resolvers.cache_size(), from_api_server.resolvers.cache_size());
    }

    #[test]
    fn every_field_is_explained_and_tells_its_default() {
        for name in ["spec", "status"] {
            each_field(name, &part(name), &mut |path, field| {
                let description = field.description.as_deref().unwrap_or_default();
                assert!(description.len() > 5, "{path} is not explained");
                assert!(!description.contains("[`"), "{path} is explained in terms of Rust");
                let default = field.default.as_ref().map(|default| &default.0);
                if let Some(default) = default.filter(|default| default.is_string() || default.is_number()) {
                    let text = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
                    assert!(description.contains(&text), "{path} does not tell its default {text}");
                }
            });
        }
    }

    #[test]
    fn a_tier_that_no_operator_has_seen_says_so_and_nothing_that_the_operator_would_leave_behind() {
        let default = part("status").default.unwrap().0;
        let pending: DnsTierStatus = serde_json::from_value(default.clone()).unwrap();
        assert_eq!(pending.observed_generation, Some(0));
        let types: Vec<&str> = pending.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, ["Ready", "Progressing", "RolledOut", "Degraded", "UpstreamThrottled"]);
        for condition in &pending.conditions {
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("Unknown", "Pending"));
            let type_ = ConditionType::ALL.iter().find(|type_| type_.name() == condition.type_).unwrap();
            assert!(!type_.only_while_true(), "{} would stay for ever", condition.type_);
        }
        let fields: Vec<&String> = default.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["conditions", "observedGeneration"]);
    }

    #[test]
    fn the_first_report_of_the_operator_begins_a_new_transition() {
        let pending: DnsTierStatus = serde_json::from_value(pending_status()).unwrap();
        let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let (status, reason) = (ConditionStatus::Unknown, Reason::Forbidden);
        let report = Report { type_: ConditionType::Ready, status, reason, message: "x.".to_owned() };
        assert_eq!(merge(&pending.conditions, &[report], Some(1), &now)[0].last_transition_time, now);
    }

    #[test]
    fn null_is_the_same_as_not_said() {
        each_field("spec", &part("spec"), &mut |path, field| assert_eq!(field.nullable, None, "{path}"));
    }

    #[test]
    fn every_rule_has_a_sentence_of_one_line() {
        for name in ["spec", "status"] {
            each_field(name, &part(name), &mut |path, field| {
                for rule in field.x_kubernetes_validations.iter().flatten() {
                    let message = rule.message.as_deref().unwrap_or_default();
                    assert!(["must", "goes with"].iter().any(|word| message.contains(word)), "{path}: {message}");
                    assert!(!message.contains('\n') && !rule.rule.contains('\n'), "{path}: {message}");
                }
            });
        }
    }

    #[test]
    fn what_the_api_server_accepts_is_understood() {
        #[derive(Deserialize)]
        struct Case {
            name: String,
            spec: Value,
            becomes: Option<Value>,
        }
        let table = include_str!("../../../tests/fixtures/crd/good.yaml");
        let cases: Vec<Case> = serde_saphyr::from_str(table).unwrap();
        assert!(cases.len() >= 15);
        for case in cases {
            let spec = serde_json::from_value::<DnsTierSpec>(case.becomes.unwrap_or(case.spec));
            assert!(spec.is_ok(), "{}: {spec:?}", case.name);
        }
    }
}
