//! The API reference, as Markdown.

use dnstier_crds::conditions::{ConditionType, Reason};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool,
};

const HEAD: &str = "\
<!-- Generated from crds/src/v1alpha1 by `make crds`. -->
# DnsTier

`apiVersion: dnstier.io/v1alpha1`, `kind: DnsTier`, short name `dt`. A DnsTier belongs to the whole cluster, not to a
namespace. Nothing in its spec is required: `spec: {}` is a working tier. The same text is in
`kubectl explain dnstier.spec`.

- **Durations** are whole hours, minutes and seconds: `30s`, `5m`, `24h`, `1h30m`. A day is `24h`.
- **Sizes** are quantities of bytes: `64Mi`, `1Gi`, `100M`.
- **Addresses and networks** are in canonical form (RFC 5952): `192.0.2.53`, `2001:db8::53`, `10.0.0.0/8`.
- **Names** are in lower case and without a final dot.
- A field that does not exist is refused by `kubectl` (its `--validate=strict` is the default).

The API server refuses what breaks one of the *rules* below, with their sentence. What only the cluster can know, \
such as
a Service that does not exist, becomes a [condition](#conditions), and what was in force before stays in force.
";

/// Fields with a type of Kubernetes, and links to its reference.
const KUBERNETES_TYPES: [(&str, &str); 3] = [
    ("affinity", "[Affinity](https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.33/#affinity-v1-core)"),
    (
        "tolerations",
        "list of [Toleration](https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.33/#toleration-v1-core)",
    ),
    (
        "conditions",
        "list of [Condition](https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.33/#condition-v1-meta)",
    ),
];

/// Renders the reference of every version of the definition.
pub(crate) fn render(definition: &CustomResourceDefinition) -> String {
    let mut text = HEAD.to_owned();
    for version in &definition.spec.versions {
        let root = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        if let Some(root) = root {
            root_rules(root, &mut text);
            for part in ["spec", "status"] {
                if let Some(schema) = root.properties.as_ref().and_then(|properties| properties.get(part)) {
                    object(part, schema, &mut text);
                }
            }
        }
        columns(version, &mut text);
    }
    conditions(&mut text);
    text
}

fn root_rules(root: &JSONSchemaProps, text: &mut String) {
    text.push_str("\n## metadata\n\n");
    rules("metadata", root, text);
}

/// Renders the section of an object, then those of the objects in it.
fn object(path: &str, schema: &JSONSchemaProps, text: &mut String) {
    let Some(properties) = &schema.properties else { return };
    let level = if path.contains('.') { "###" } else { "##" };
    text.push_str(&format!("\n{level} {path}\n\n"));
    if let Some(description) = &schema.description {
        text.push_str(&format!("{description}\n\n"));
    }
    text.push_str("| field | type | default | meaning |\n| --- | --- | --- | --- |\n");
    for (name, property) in properties {
        text.push_str(&row(path, name, property, schema));
    }
    let mut lines = String::new();
    rules(path, schema, &mut lines);
    for (name, property) in properties {
        field_rules(&format!("{path}.{name}"), property, &mut lines);
    }
    if !lines.is_empty() {
        text.push_str(&format!("\nRules:\n\n{lines}"));
    }
    for (name, property) in properties.iter().filter(|(name, _)| kubernetes_type(name).is_none()) {
        let (path, inner) = match items(property) {
            Some(items) => (format!("{path}.{name}[]"), items),
            None => (format!("{path}.{name}"), property),
        };
        object(&path, inner, text);
    }
}

fn row(path: &str, name: &str, property: &JSONSchemaProps, parent: &JSONSchemaProps) -> String {
    let required = parent.required.as_ref().is_some_and(|names| names.iter().any(|required| required == name));
    let default = match &property.default {
        _ if required => "required".to_owned(),
        Some(value) if property.properties.is_none() || name == "capture" => format!("`{}`", value.0),
        _ => String::new(),
    };
    let meaning = property.description.as_deref().unwrap_or_default().replace("\n\n", " ").replace('|', "\\|");
    format!("| `{name}` | {} | {default} | {meaning} |\n", kind(path, name, property))
}

fn kind(path: &str, name: &str, property: &JSONSchemaProps) -> String {
    if let Some(link) = kubernetes_type(name) {
        return link.to_owned();
    }
    let path = format!("{path}.{name}");
    if property.properties.is_some() {
        return format!("[object](#{})", anchor(&path));
    }
    if let Some(values) = &property.enum_ {
        return values
            .iter()
            .map(|value| format!("`{}`", value.0.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(items) = items(property) {
        return match items.properties {
            Some(_) => format!("[list of objects](#{})", anchor(&format!("{path}[]"))),
            None => format!("list of {}s", items.type_.as_deref().unwrap_or("value")),
        };
    }
    if property.additional_properties.is_some() {
        return "map".to_owned();
    }
    if property.x_kubernetes_int_or_string == Some(true) {
        return "integer or string".to_owned();
    }
    let kind = property.type_.clone().unwrap_or_default();
    match (property.minimum, property.maximum) {
        (Some(minimum), Some(maximum)) => format!("{kind}, {minimum} to {maximum}"),
        _ => kind,
    }
}

fn field_rules(path: &str, property: &JSONSchemaProps, text: &mut String) {
    if property.properties.is_none() {
        rules(path, property, text);
    }
    if let Some(items) = items(property).filter(|items| items.properties.is_none()) {
        rules(&format!("{path}[]"), items, text);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &property.additional_properties {
        rules(&format!("{path}[]"), values, text);
    }
}

fn rules(path: &str, schema: &JSONSchemaProps, text: &mut String) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        let message = rule.message.as_deref().unwrap_or_default();
        text.push_str(&format!("- `{path}{}`: {message}.\n", rule.field_path.as_deref().unwrap_or_default()));
    }
}

fn columns(version: &CustomResourceDefinitionVersion, text: &mut String) {
    text.push_str("\n## Columns of kubectl get\n\n| column | with | meaning |\n| --- | --- | --- |\n");
    for column in version.additional_printer_columns.iter().flatten() {
        let with = if column.priority.unwrap_or_default() > 0 { "`-o wide`" } else { "" };
        let meaning = column.description.as_deref().unwrap_or("Time since it was created.");
        text.push_str(&format!("| {} | {with} | {meaning} |\n", column.name.to_uppercase()));
    }
}

fn conditions(text: &mut String) {
    text.push_str("\n## Conditions\n\n| type | meaning when `True` |\n| --- | --- |\n");
    for type_ in ConditionType::ALL {
        text.push_str(&format!("| `{}` | {} |\n", type_.name(), type_.meaning()));
    }
    text.push_str(
        "\n### Reasons\n\nThe reason of `Ready` is the tier's phase.\n\n| reason | meaning |\n| --- | --- |\n",
    );
    for reason in Reason::ALL {
        text.push_str(&format!("| `{}` | {} |\n", reason.name(), reason.meaning()));
    }
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(items) => Some(items),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn kubernetes_type(name: &str) -> Option<&'static str> {
    KUBERNETES_TYPES.iter().find(|(field, _)| *field == name).map(|(_, link)| *link)
}

/// Returns the fragment that Markdown renderers give to a heading.
fn anchor(path: &str) -> String {
    path.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect()
}
