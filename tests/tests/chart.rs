//! Objects that the chart renders, for several sets of values. The cluster's tests show that they are accepted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use dnstier_tests::require;
use serde_json::Value;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs Helm; returns its output, or its standard error when it fails.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(require::helm().unwrap()).args(arguments).current_dir(REPOSITORY).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Renders the chart for a release `dnstier` in the namespace `dnstier-system`.
fn template(arguments: &[&str]) -> Result<String, String> {
    let standard = ["template", "dnstier", "charts/dnstier", "--namespace", "dnstier-system"];
    helm(&[&standard, arguments].concat())
}

/// Parses the rendered objects.
fn objects(rendered: &str) -> Vec<Value> {
    let documents = rendered.split("\n---\n").filter(|document| document.lines().any(|line| line.starts_with("kind:")));
    documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Replaces the version in rendered text: a new version of the chart changes no snapshot.
fn unversioned(rendered: &str) -> String {
    rendered.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    require!(require::helm());
    helm(&["lint", "--strict", "charts/dnstier"]).unwrap();
}

#[test]
fn the_default_values_render_this() {
    require!(require::helm());
    let rendered = template(&["--set", "crds.install=false"]).unwrap();
    insta::assert_snapshot!(unversioned(&rendered));
}

#[test]
fn a_demanding_cluster_gets_what_it_asks_for() {
    require!(require::helm());
    let values = Path::new(REPOSITORY).join("charts/dnstier/ci/demanding-values.yaml");
    let rendered = template(&["--values", values.to_str().unwrap(), "--show-only", "templates/deployment.yaml"]);
    insta::assert_snapshot!(unversioned(&rendered.unwrap()));
    let all_objects = objects(&template(&["--values", values.to_str().unwrap()]).unwrap());
    let in_dns_system: Vec<_> =
        all_objects.iter().filter(|object| object["metadata"]["namespace"] == "dns-system").collect();
    assert_eq!(in_dns_system.len(), 2, "a Role and its binding beside the second cluster DNS");
    for absent in ["Namespace", "CustomResourceDefinition"] {
        assert!(all_objects.iter().all(|object| object["kind"] != absent), "{absent}");
    }
}

#[test]
fn a_misspelt_value_is_refused_with_its_name() {
    require!(require::helm());
    let error = template(&["--set", "operator.loglevel=debug"]).unwrap_err();
    assert!(error.contains("loglevel"), "{error}");
    for wrong in ["operator.logLevel=loud", "operator.pollInterval=5", "image.pullPolicy=Sometimes", "crds.keep=maybe"]
    {
        template(&["--set", wrong]).unwrap_err();
    }
}

#[test]
fn an_older_kubernetes_is_refused() {
    require!(require::helm());
    let error = template(&["--kube-version", "1.32.0"]).unwrap_err();
    assert!(error.contains(">=1.33.0-0"), "{error}");
}

#[test]
fn the_crd_is_the_generated_one_and_is_kept() {
    require!(require::helm());
    let crd = |arguments: &[&str]| {
        let all = objects(&template(arguments).unwrap());
        all.into_iter().find(|object| object["kind"] == "CustomResourceDefinition").unwrap()
    };
    let generated = std::fs::read_to_string(Path::new(REPOSITORY).join("charts/dnstier/files/dnstiers.yaml")).unwrap();
    let generated: Value = serde_saphyr::from_str(&generated).unwrap();
    let rendered = crd(&[]);
    assert!(with_floats(&rendered["spec"]) == with_floats(&generated["spec"]), "the chart renders another CRD");
    assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(crd(&["--set", "crds.keep=false"])["metadata"]["annotations"], Value::Null);
}

/// Converts every number to a float: Helm writes 1.0 as 1.
fn with_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(values) => values.iter().map(with_floats).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), with_floats(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn no_permission_is_a_wildcard() {
    require!(require::helm());
    let roles = objects(&template(&[]).unwrap()).into_iter().filter(|object| object["rules"].is_array());
    let rules: Vec<_> = roles.flat_map(|role| role["rules"].as_array().unwrap().clone()).collect();
    assert!(rules.len() > 10);
    for rule in rules {
        assert!(!rule.to_string().contains('*'), "{rule}");
    }
}

/// Returns the rendered objects of a kind.
fn of_kind(kind: &str, arguments: &[&str]) -> Vec<Value> {
    objects(&template(arguments).unwrap()).into_iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn every_kind_that_the_operator_may_write_is_bound_by_an_admission_policy() {
    require!(require::helm());
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let policies = of_kind("ValidatingAdmissionPolicy", &[]);
    let bound: Vec<(String, String)> = policies
        .iter()
        .flat_map(|policy| policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap())
        .flat_map(|rule| texts(&rule["resources"]).into_iter().map(|kind| (texts(&rule["apiGroups"]).concat(), kind)))
        .collect();
    let roles = [of_kind("Role", &[]), of_kind("ClusterRole", &[])].concat();
    let mut checked = 0;
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        let group = texts(&rule["apiGroups"]).concat();
        let writes = texts(&rule["verbs"]).iter().any(|verb| !["get", "list", "watch"].contains(&verb.as_str()));
        // A status of a tier and an event configure nothing.
        if !writes || ["dnstier.io", "events.k8s.io"].contains(&group.as_str()) {
            continue;
        }
        for kind in texts(&rule["resources"]) {
            assert!(bound.contains(&(group.clone(), kind.clone())), "no policy bounds writes of {group}/{kind}");
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} were found in the Roles");
}

#[test]
fn the_admission_policies_are_in_force_for_the_operator_alone_until_they_are_turned_off() {
    require!(require::helm());
    let policies = of_kind("ValidatingAdmissionPolicy", &[]);
    let bindings = of_kind("ValidatingAdmissionPolicyBinding", &[]);
    assert_eq!((policies.len(), bindings.len()), (3, 3));
    let subject = of_kind("ClusterRoleBinding", &[])[0]["subjects"][0].clone();
    let text = |field: &str| subject[field].as_str().unwrap().to_owned();
    let account = format!("system:serviceaccount:{}:{}", text("namespace"), text("name"));
    for (policy, binding) in policies.iter().zip(&bindings) {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let conditions = policy["spec"]["matchConditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0]["expression"], format!("request.userInfo.username == '{account}'"));
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
        assert_eq!(binding["spec"]["validationActions"], serde_json::json!(["Deny"]));
    }
    for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        assert!(of_kind(kind, &["--set", "admissionPolicy.enabled=false"]).is_empty(), "{kind}");
    }
}

#[test]
fn a_service_monitor_that_is_asked_for_finds_every_service_of_metrics() {
    require!(require::helm());
    assert!(of_kind("ServiceMonitor", &[]).is_empty() && of_kind("Service", &[]).is_empty(), "off by default");
    let arguments = [
        "--set",
        "serviceMonitor.enabled=true,serviceMonitor.interval=15s,serviceMonitor.labels.release=prometheus,\
         nodeNamespace.name=nodes",
    ];
    let monitors = of_kind("ServiceMonitor", &arguments);
    assert_eq!(monitors.len(), 1);
    let (metadata, spec) = (&monitors[0]["metadata"], &monitors[0]["spec"]);
    assert_eq!(metadata["labels"]["release"], "prometheus");
    assert_eq!(spec["namespaceSelector"]["matchNames"], serde_json::json!(["dnstier-system", "nodes"]));
    assert_eq!(spec["endpoints"][0]["port"], "metrics");
    assert_eq!(spec["endpoints"][0]["interval"], "15s");
    // Those of tiers have these labels, too: the operator's unit tests show it.
    let wanted = serde_json::json!({"app.kubernetes.io/part-of": "dnstier", "dnstier.io/metrics": "true"});
    assert_eq!(spec["selector"]["matchLabels"], wanted);
    let services = of_kind("Service", &arguments);
    let labels = &services[0]["metadata"]["labels"];
    assert!(wanted.as_object().unwrap().iter().all(|(label, value)| labels[label] == *value), "{labels}");
    assert_eq!(services[0]["spec"]["ports"][0]["name"], "metrics");
    let default_interval = of_kind("ServiceMonitor", &["--set", "serviceMonitor.enabled=true"]);
    assert_eq!(default_interval[0]["spec"]["endpoints"][0].get("interval"), None);
    template(&["--set", "serviceMonitor.interval=often"]).unwrap_err();
}

#[test]
fn an_extra_image_is_a_repository_without_tag_or_pattern() {
    require!(require::helm());
    let render = |image: &str| template(&["--set-json", &format!("admissionPolicy.extraImages=[\"{image}\"]")]);
    for good in ["registry.example", "registry.example:5000/a/b", "registry.example/dns/", "library", "a/b_c/d-e.f"] {
        let rendered = render(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        assert!(rendered.contains(&format!("['{}'].exists", good.trim_end_matches('/'))), "{good}");
    }
    for bad in
        ["", "*", "registry.example/*", "registry.example/a:1", "registry.example/a@sha256:0", "a'b", "a b", "/a"]
    {
        render(bad).expect_err(bad);
    }
}
