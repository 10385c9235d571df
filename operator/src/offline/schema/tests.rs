//! Tests with the tables of good and bad objects, which are what the API server of the lab refuses and accepts, too.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde::Deserialize;
use serde_json::{Value, json};

use super::completion::{items, values};
use super::{check, schema};
use crate::offline::cel;
use crate::offline::field_path::FieldPath;

const GOOD: &str = include_str!("../../../../tests/fixtures/crd/good.yaml");

#[derive(Deserialize)]
struct Good {
    name: String,
    tier: Option<String>,
    #[serde(default)]
    spec: Value,
    becomes: Option<Value>,
}

fn visit(schema: &JSONSchemaProps, path: &FieldPath, look: &mut impl FnMut(&JSONSchemaProps, &FieldPath)) {
    look(schema, path);
    for (name, property) in schema.properties.iter().flatten() {
        visit(property, &path.field(name), look);
    }
    for inner in items(schema).into_iter().chain(values(schema)) {
        visit(inner, &path.key("x"), look);
    }
}

#[test]
fn what_the_api_server_accepts_is_accepted_and_filled_in() {
    let cases: Vec<Good> = serde_saphyr::from_str(GOOD).unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let name = case.tier.unwrap_or_else(|| "good".to_owned());
        let object = json!({"metadata": {"name": name}, "spec": case.spec});
        let (completed, problems) = check(schema(), &object);
        assert_eq!(problems, [], "{}", case.name);
        if let Some(expected) = case.becomes {
            assert_eq!(completed["spec"], expected, "{}", case.name);
        }
    }
}

#[test]
fn every_rule_of_the_definition_can_be_evaluated() {
    let mut count = 0;
    visit(schema(), &FieldPath::default(), &mut |schema, path| {
        for rule in schema.x_kubernetes_validations.iter().flatten() {
            count += 1;
            assert!(rule.message.is_some() && rule.message_expression.is_none(), "{path}");
            assert!(!rule.rule.contains("oldSelf"), "{path}: no older object is known here");
            // Whatever the value is, the rule has to be understood.
            if let Err(error) = cel::is_satisfied(&rule.rule, &json!({})) {
                let text = error.to_string();
                assert!(!text.contains("unknown") && !text.contains("expected the end"), "{path}: {text}");
            }
        }
    });
    assert!(count > 60, "{count}");
}

#[test]
fn every_keyword_of_the_definition_is_understood() {
    let known = [
        "type",
        "description",
        "title",
        "format",
        "default",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "enum",
        "minimum",
        "maximum",
        "maxLength",
        "maxItems",
        "maxProperties",
        "x-kubernetes-validations",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-int-or-string",
    ];
    visit(schema(), &FieldPath::default(), &mut |schema, path| {
        let Value::Object(keywords) = serde_json::to_value(schema).unwrap() else { panic!("{path}") };
        let unknown: Vec<&String> = keywords.keys().filter(|keyword| !known.contains(&keyword.as_str())).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    });
}

#[test]
fn every_problem_of_an_object_is_found_at_once() {
    let spec = json!({
        "clusterDomain": "Cluster.Local",
        "nodeCache": {"instances": 9, "cache": {"size": "1Mi"}, "podLabels": {"team": 1}},
        "resolvers": {"upstreams": [{"addresses": ["x"]}, {}], "zone": []},
    });
    let (_, problems) = check(schema(), &json!({"metadata": {}, "spec": spec, "extra": 1}));
    let fields: Vec<String> = problems.iter().map(|problem| problem.field.to_string()).collect();
    for expected in [
        "extra",
        "metadata.name",
        "spec.clusterDomain",
        "spec.nodeCache.instances",
        "spec.nodeCache.cache.size",
        "spec.nodeCache.podLabels.team",
        "spec.resolvers.upstreams[0].addresses[0]",
        "spec.resolvers.upstreams[1].addresses",
        "spec.resolvers.zone",
    ] {
        assert!(fields.iter().any(|field| field == expected), "{expected} is not in {fields:?}");
    }
    assert_eq!(fields.len(), 9, "{problems:#?}");
}

#[test]
fn a_status_in_a_file_is_not_looked_at() {
    let object = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"conditions": "none"}});
    let (completed, problems) = check(schema(), &object);
    assert_eq!((problems, completed.get("status")), (Vec::new(), None));
}
