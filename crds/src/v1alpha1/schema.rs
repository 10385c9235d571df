//! Schemas of fields that cannot be derived from their Rust type.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::validation::{
    ANNOTATIONS, ASKABLE, CAPTURABLE, CAPTURED_ADDRESS, LINUX, NETWORK, NODE_SELECTOR, NOT_THE_CLOUDS, OWN_ANNOTATIONS,
    OWN_LABELS, POD_LABELS, QUANTITY, REQUESTS_WITHIN_LIMITS, Rule, SUFFIX, UPSTREAM_ADDRESS, UPSTREAM_HAS_ADDRESSES,
    ZONE, rules,
};

/// Returns the schema of an optional `Switch`. The derived schema of such an enum loses the field's description.
pub(super) fn switch(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Enabled", "Disabled"]})
}

/// Returns the schema of `preset` of a packet budget.
pub(super) fn budget_preset(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["AWS", "Azure", "Huawei"]})
}

/// Returns the schema of `type` of a probe.
pub(super) fn probe_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "default": "A",
        "enum": ["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"],
    })
}

/// Returns the schema of `compare` of a probe.
pub(super) fn probe_compare(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "default": "Rcode", "enum": ["Rcode", "Answers"]})
}

/// Returns the schema of `nodeCache.capture.addresses`.
pub(super) fn captured_addresses(_: &mut SchemaGenerator) -> Schema {
    string_set(8, 64, &[CAPTURED_ADDRESS, CAPTURABLE, NOT_THE_CLOUDS], &[])
}

/// Returns the schema of `addresses` of an upstream.
pub(super) fn upstream_addresses(_: &mut SchemaGenerator) -> Schema {
    string_set(8, 64, &[UPSTREAM_ADDRESS, ASKABLE], &[UPSTREAM_HAS_ADDRESSES])
}

/// Returns the schema of `nodeCache.allowFrom`.
pub(super) fn networks(_: &mut SchemaGenerator) -> Schema {
    string_set(64, 64, &[NETWORK], &[])
}

/// Returns the schema of `resolvers.zones`.
pub(super) fn zones(_: &mut SchemaGenerator) -> Schema {
    string_set(64, 63, &[ZONE], &[])
}

/// Returns the schema of `resolvers.privateSuffixes`.
pub(super) fn private_suffixes(_: &mut SchemaGenerator) -> Schema {
    string_set(64, 253, &[SUFFIX], &[])
}

/// Returns the schema of requests and limits of `core/v1.ResourceRequirements`. Its `claims` would need a field of the
/// pod that a tier does not have.
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
            "requests": amounts("The part reserved for a container, by the name of the resource. Default: its limits."),
        },
        "x-kubernetes-validations": rules(&[REQUESTS_WITHIN_LIMITS]),
    })
}

/// Returns the schema of `nodeSelector`.
pub(super) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    string_map(63, &[NODE_SELECTOR, LINUX])
}

/// Returns the schema of `podLabels`.
pub(super) fn pod_labels(_: &mut SchemaGenerator) -> Schema {
    string_map(63, &[POD_LABELS, OWN_LABELS])
}

/// Returns the schema of `podAnnotations`.
pub(super) fn pod_annotations(_: &mut SchemaGenerator) -> Schema {
    string_map(4096, &[ANNOTATIONS, OWN_ANNOTATIONS])
}

/// Returns the schema of a list of distinct strings.
fn string_set(max_items: u32, max_length: u32, item_rules: &[Rule], list_rules: &[Rule]) -> Schema {
    let mut schema = json_schema!({
        "type": "array",
        "maxItems": max_items,
        "items": {"type": "string", "maxLength": max_length, "x-kubernetes-validations": rules(item_rules)},
        "x-kubernetes-list-type": "set",
    });
    attach_rules(&mut schema, list_rules);
    schema
}

/// Returns the schema of a map from strings to strings.
fn string_map(max_length: u32, map_rules: &[Rule]) -> Schema {
    let mut schema = json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": max_length},
    });
    attach_rules(&mut schema, map_rules);
    schema
}

fn attach_rules(schema: &mut Schema, schema_rules: &[Rule]) {
    if !schema_rules.is_empty() {
        let value: Value = rules(schema_rules);
        schema.insert("x-kubernetes-validations".to_owned(), value);
    }
}
