//! Schemas of fields whose Rust type says less, or more, than the API does.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::validation::{
    ANNOTATIONS, ASKABLE, CAPTURABLE, CAPTURED_ADDRESS, NETWORK, NODE_SELECTOR, NOT_THE_CLOUDS, OWN_ANNOTATIONS,
    OWN_LABELS, POD_LABELS, QUANTITY, REQUESTS_WITHIN_LIMITS, Rule, UPSTREAM_ADDRESS, UPSTREAM_HAS_ADDRESSES, ZONE,
    rules,
};

/// A `Switch` that need not be given. What the derived schema gives for such an enum has lost the field's description.
pub(super) fn switch(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Enabled", "Disabled"]})
}

/// `nodeCache.capture.addresses`.
pub(super) fn captured_addresses(_: &mut SchemaGenerator) -> Schema {
    set(8, 64, &[CAPTURED_ADDRESS, CAPTURABLE, NOT_THE_CLOUDS], &[])
}

/// `addresses` of an upstream.
pub(super) fn upstream_addresses(_: &mut SchemaGenerator) -> Schema {
    set(8, 64, &[UPSTREAM_ADDRESS, ASKABLE], &[UPSTREAM_HAS_ADDRESSES])
}

/// `nodeCache.allowFrom`.
pub(super) fn networks(_: &mut SchemaGenerator) -> Schema {
    set(64, 64, &[NETWORK], &[])
}

/// `resolvers.zones`.
pub(super) fn zones(_: &mut SchemaGenerator) -> Schema {
    set(64, 63, &[ZONE], &[])
}

/// The requests and limits of `core/v1.ResourceRequirements`; its `claims` would need a field of the pod that a tier
/// does not have.
pub(super) fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = |description: &str| {
        json!({
            "type": "object",
            "description": description,
            "maxProperties": 16,
            "additionalProperties": {
                "x-kubernetes-int-or-string": true,
                "maxLength": 32,
                "x-kubernetes-validations": rules(&[QUANTITY]),
            },
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "limits": amounts("The most that a container may use, by the name of the resource (cpu, memory, …)."),
            "requests": amounts("What is reserved for a container, by the name of the resource. Default: its limits."),
        },
        "x-kubernetes-validations": rules(&[REQUESTS_WITHIN_LIMITS]),
    })
}

/// `nodeSelector`.
pub(super) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    map(63, &[NODE_SELECTOR])
}

/// `podLabels`.
pub(super) fn pod_labels(_: &mut SchemaGenerator) -> Schema {
    map(63, &[POD_LABELS, OWN_LABELS])
}

/// `podAnnotations`.
pub(super) fn pod_annotations(_: &mut SchemaGenerator) -> Schema {
    map(4096, &[ANNOTATIONS, OWN_ANNOTATIONS])
}

fn set(most: u32, longest: u32, of_each: &[Rule], of_all: &[Rule]) -> Schema {
    let mut schema = json_schema!({
        "type": "array",
        "maxItems": most,
        "items": {"type": "string", "maxLength": longest, "x-kubernetes-validations": rules(of_each)},
        "x-kubernetes-list-type": "set",
    });
    attach(&mut schema, of_all);
    schema
}

fn map(longest: u32, of_all: &[Rule]) -> Schema {
    let mut schema = json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": longest},
    });
    attach(&mut schema, of_all);
    schema
}

fn attach(schema: &mut Schema, of_all: &[Rule]) {
    if !of_all.is_empty() {
        let value: Value = rules(of_all);
        schema.insert("x-kubernetes-validations".to_owned(), value);
    }
}
