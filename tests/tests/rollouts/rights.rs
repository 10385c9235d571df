//! The rights of the operator are those that it uses: what the lab's API server was asked for, against the Roles.

use std::collections::BTreeSet;
use std::fs;
use std::sync::OnceLock;

use dnstier_tests::lab::Lab;
use dnstier_tests::require;
use serde_json::Value;

use crate::lab;
use crate::tier::{NAMESPACE, NODE_NAMESPACE, exclusive_tier, kubectl_json};

/// User name of the operator.
const OPERATOR: &str = "system:serviceaccount:dnstier-system:dnstier-operator";
/// Ends of rights that the audit log does not show in use, each with its reason.
const NOT_SHOWN: [(&str, &str); 3] = [
    (" delete", "what a tier does not want any more; the tests do not come to it with every kind"),
    ("dnstier-node /events list", "why pods could not be made: a quota, which one test alone meets"),
    (" coordination.k8s.io/leases get", "whether the release that has claimed a tier is there: a second release"),
];

/// Right to a verb: `namespace group/resource verb`, the namespace empty for what is cluster-wide.
fn right(namespace: &str, group: &str, resource: &str, verb: &str) -> String {
    format!("{namespace} {group}/{resource} {verb}")
}

/// Length of the audit log when this program began, in bytes.
static START: OnceLock<usize> = OnceLock::new();

/// Begins to look for refusals. Other programs take Roles away on purpose, or uninstall the chart.
pub(crate) fn start(lab: &Lab) {
    START.get_or_init(|| fs::read(lab.layout().audit_log()).map_or(0, |log| log.len()));
}

/// Requests of the operator in the audit log from this byte on: the rights that were used, and those that were refused.
fn requests(start: usize) -> (BTreeSet<String>, BTreeSet<String>) {
    let log = fs::read(lab().layout().audit_log()).expect("an audit log");
    let text = String::from_utf8_lossy(&log[start..]);
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        // Tests use the token of the operator, too, by kubectl.
        if text("/user/username") != OPERATOR || text("/userAgent").starts_with("kubectl") {
            continue;
        }
        let resource = match text("/objectRef/subresource") {
            "" => text("/objectRef/resource").to_owned(),
            subresource => format!("{}/{subresource}", text("/objectRef/resource")),
        };
        let namespace = text("/objectRef/namespace");
        let right = |verb: &str| right(namespace, text("/objectRef/apiGroup"), &resource, verb);
        // Admission policies refuse what Roles allow.
        let is_refused = event.pointer("/responseStatus/code") == Some(&Value::from(403));
        match text("/annotations/authorization.k8s.io~1decision") {
            "allow" if !is_refused => used.insert(right(text("/verb"))),
            _ => refused.insert(right(text("/verb"))),
        };
        // Server-side apply of a new object is audited as patch, and needs create all the same.
        if text("/verb") == "patch" && event.pointer("/responseStatus/code") == Some(&Value::from(201)) {
            used.insert(right("create"));
        }
    }
    (used, refused)
}

/// Returns the rights that the Roles give, and the rules that name a wildcard.
fn given() -> (BTreeSet<String>, Vec<String>) {
    let (mut given, mut wildcards) = (BTreeSet::new(), Vec::new());
    let selector = "--selector=app.kubernetes.io/part-of=dnstier";
    for kind in ["roles", "clusterroles"] {
        let list = kubectl_json(&["get", kind, "--all-namespaces", selector]);
        for role in list["items"].as_array().expect("a list of roles") {
            let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
            for rule in role["rules"].as_array().expect("rules") {
                let texts = |field: &str| {
                    let values = rule[field].as_array().cloned().unwrap_or_default();
                    values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect::<Vec<_>>()
                };
                for group in texts("apiGroups") {
                    for resource in texts("resources") {
                        for verb in texts("verbs") {
                            if [&group, &resource, &verb].iter().any(|text| text.contains('*')) {
                                wildcards.push(rule.to_string());
                            }
                            given.insert(right(namespace, &group, &resource, &verb));
                        }
                    }
                }
            }
        }
    }
    (given, wildcards)
}

#[test]
fn every_right_of_the_operator_is_used_and_none_is_missing() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let (used, refused) = requests(START.get().copied().unwrap_or_default());
    let (given, wildcards) = given();
    assert_eq!(wildcards, Vec::<String>::new());
    assert!(refused.is_empty(), "{refused:#?}");
    // Leases of other releases are read in whatever namespace.
    let is_cluster_wide =
        |right: &String| given.contains(&format!(" {}", right.split_once(' ').map_or("", |(_, rest)| rest)));
    let more: Vec<_> = used.iter().filter(|right| !given.contains(*right) && !is_cluster_wide(right)).collect();
    assert!(more.is_empty(), "used without a Role of the chart: {more:#?}");
    let (used, _) = requests(0);
    assert!(used.len() > 20, "{used:?}");
    // A part of the tests does not need all of them.
    if std::env::var_os("DNSTIER_TESTS_REQUIRE_ALL").is_some() {
        let is_explained = |right: &String| NOT_SHOWN.iter().any(|(end, _)| right.ends_with(end));
        let unused: Vec<_> = given.difference(&used).filter(|right| !is_explained(right)).collect();
        assert!(unused.is_empty(), "given and not used in {NAMESPACE}, {NODE_NAMESPACE}, or cluster-wide: {unused:#?}");
    }
}
