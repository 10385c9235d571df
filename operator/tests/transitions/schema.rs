//! Fields of the spec, as the schema of the CustomResourceDefinition has them.

use serde_json::Value;

const CRD: &str = include_str!("../../../charts/dnstier/files/dnstiers.yaml");

/// Shape of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Leaf,
    Object,
    List,
    Map,
}

/// Field of the spec.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) path: String,
    pub(crate) shape: Shape,
    /// Whether the object around it must have it.
    pub(crate) is_required: bool,
    /// Schema of the field.
    pub(crate) schema: Value,
}

impl Field {
    /// Returns whether this is a field of Kubernetes' affinity.
    pub(crate) fn is_of_affinity(&self) -> bool {
        self.path.contains(".affinity.")
    }
}

/// Returns every field of the spec, from the outside to the inside.
pub(crate) fn fields() -> Vec<Field> {
    let crd: Value = serde_saphyr::from_str(CRD).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut fields = Vec::new();
    walk(spec, "", true, &mut fields);
    fields
}

fn walk(schema: &Value, path: &str, is_required: bool, fields: &mut Vec<Field>) {
    let (items, entries) = (schema.get("items"), schema["additionalProperties"].as_object());
    let properties = schema["properties"].as_object();
    let shape = match (properties, items, entries) {
        (Some(_), ..) => Shape::Object,
        (_, Some(_), _) => Shape::List,
        (_, _, Some(_)) => Shape::Map,
        _ => Shape::Leaf,
    };
    if !path.is_empty() {
        fields.push(Field { path: path.to_owned(), shape, is_required, schema: schema.clone() });
    }
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
    for (name, child) in properties.into_iter().flatten() {
        let child_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        walk(child, &child_path, required.contains(&name.as_str()), fields);
    }
    if let Some(items) = items {
        walk(items, &format!("{path}[]"), true, fields);
    }
    if entries.is_some() {
        walk(&schema["additionalProperties"], &format!("{path}{{}}"), true, fields);
    }
}

#[test]
fn the_schema_has_fields_of_every_shape() {
    let fields = fields();
    let shape =
        |path: &str| fields.iter().find(|field| field.path == path).map(|field| (field.shape, field.is_required));
    assert_eq!(shape("routes"), Some((Shape::List, false)));
    assert_eq!(shape("routes[].suffix"), Some((Shape::Leaf, true)));
    assert_eq!(shape("nodeCache.nodeSelector"), Some((Shape::Map, false)));
    assert_eq!(shape("nodeCache.nodeSelector{}"), Some((Shape::Leaf, true)));
    assert_eq!(shape("rollout"), Some((Shape::Object, false)));
    assert!(fields.iter().filter(|field| field.shape == Shape::Leaf).count() > 200);
}
