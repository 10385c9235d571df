//! Objects that the chart renders, for several sets of values. The cluster's tests show that they are accepted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use dnstier_tests::require;
use serde_json::{Value, json};

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
fn values_with_which_the_operator_would_not_start_are_refused() {
    require!(require::helm());
    for wrong in [
        "operator.pollInterval=0s",
        "operator.pollInterval=0h00m000s",
        "operator.logFormat=xml",
        "operator.logLevel=dnstier_operator=loud",
        r"operator.logLevel=info\,\,debug",
    ] {
        assert!(template(&["--set", wrong]).is_err(), "{wrong}");
    }
    for right in [
        "operator.pollInterval=1s",
        "operator.pollInterval=10s",
        "operator.pollInterval=1m0s",
        r"operator.logLevel=warn\,dnstier_operator::controller=trace\,kube=error",
    ] {
        template(&["--set", right]).unwrap();
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

/// Values that this version has introduced: `helm upgrade --reuse-values` brings the values of an older chart, which
/// lack them.
const NEW_VALUES: [&str; 6] =
    ["admissionPolicy", "resourceQuota", "openshift", "image.architectures", "operator.replicas", "operator.logFormat"];

#[test]
fn the_values_of_an_older_chart_render_what_the_default_values_render() {
    require!(require::helm());
    // As `--reuse-values` does: the values of the chart itself do not count.
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("dnstier");
    let source = Path::new(REPOSITORY).join("charts/dnstier");
    let copied = Command::new("cp").arg("-r").arg(&source).arg(&chart).status().unwrap();
    assert!(copied.success());
    let mut values: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(source.join("values.yaml")).unwrap()).unwrap();
    for path in NEW_VALUES {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = if parent.is_empty() { &mut values } else { &mut values[parent] };
        assert!(parent.as_object_mut().unwrap().remove(key).is_some(), "{path} is no value");
    }
    std::fs::write(chart.join("values.yaml"), values.to_string()).unwrap();
    let arguments = ["template", "dnstier", chart.to_str().unwrap(), "--namespace", "dnstier-system"];
    assert_eq!(helm(&arguments).unwrap(), template(&[]).unwrap());
    let nulls: Vec<String> = NEW_VALUES.map(|path| format!("--set={path}=null")).into();
    assert_eq!(template(&nulls.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), template(&[]).unwrap());
}

#[test]
fn both_namespaces_have_a_quota_for_every_critical_priority_class_until_it_is_turned_off() {
    require!(require::helm());
    let namespaces = |arguments: &[&str]| -> Vec<String> {
        let quotas = of_kind("ResourceQuota", arguments);
        quotas.iter().map(|quota| quota["metadata"]["namespace"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(namespaces(&[]), ["dnstier-system", "dnstier-node"]);
    assert_eq!(namespaces(&["--set", "nodeNamespace.create=false"]), ["dnstier-system", "dnstier-node"]);
    assert_eq!(namespaces(&["--set", "nodeNamespace.name=dnstier-system"]), ["dnstier-system"]);
    assert!(namespaces(&["--set", "resourceQuota.enabled=false"]).is_empty());
    let quota = of_kind("ResourceQuota", &[]).remove(0);
    let scope = &quota["spec"]["scopeSelector"]["matchExpressions"][0];
    let objects = operators_objects();
    let workloads = ["daemonSets", "deployments"].map(|kind| objects[kind].as_array().unwrap().clone()).concat();
    let mut classes: Vec<Value> =
        workloads.iter().map(|workload| workload["spec"]["template"]["spec"]["priorityClassName"].clone()).collect();
    classes.push(of_kind("Deployment", &[])[0]["spec"]["template"]["spec"]["priorityClassName"].clone());
    assert!(classes.len() >= 3);
    for class in classes {
        assert!(scope["values"].as_array().unwrap().contains(&class), "{class}");
    }
}

/// Returns the objects that the operator makes of an empty spec, from the snapshot of its test.
fn operators_objects() -> Value {
    let path = "operator/src/controller/desired/snapshots/\
                dnstier_operator__controller__desired__tests__an_empty_spec_gives_these_objects.snap";
    let snapshot = std::fs::read_to_string(Path::new(REPOSITORY).join(path)).unwrap();
    let (_, objects) = snapshot.trim_start_matches("---\n").split_once("\n---\n").unwrap();
    serde_saphyr::from_str(objects).unwrap()
}

#[test]
fn on_openshift_the_node_pods_may_have_exactly_what_the_operator_renders() {
    require!(require::helm());
    assert!(of_kind("SecurityContextConstraints", &[]).is_empty());
    let enabled = ["--set", "openshift.enabled=true"];
    let constraints = of_kind("SecurityContextConstraints", &enabled).remove(0);
    let objects = operators_objects();
    let pod = &objects["daemonSets"][0]["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().unwrap();
    let contexts: Vec<&Value> = containers.iter().map(|container| &container["securityContext"]).collect();
    let added: BTreeSet<String> = contexts
        .iter()
        .filter_map(|context| context["capabilities"]["add"].as_array())
        .flatten()
        .map(|capability| capability.as_str().unwrap().to_owned())
        .collect();
    let texts = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&constraints["allowedCapabilities"]), added);
    assert_eq!(constraints["allowHostNetwork"], pod["hostNetwork"]);
    let is_volume_kind = |kind: &String| ["emptyDir", "projected"].contains(&kind.as_str());
    let volumes = pod["volumes"].as_array().unwrap().iter();
    let kinds: BTreeSet<String> = volumes
        .flat_map(|volume| volume.as_object().unwrap().keys().cloned().collect::<Vec<_>>())
        .filter(|key| key != "name")
        .collect();
    assert!(kinds.iter().all(is_volume_kind), "{kinds:?}");
    assert_eq!(texts(&constraints["volumes"]), kinds);
    let range = |field: &str| constraints["runAsUser"][field].as_i64().unwrap();
    for context in contexts {
        let user = context["runAsUser"].as_i64().unwrap();
        assert!((range("uidRangeMin")..=range("uidRangeMax")).contains(&user));
        for (field, allowed) in [
            ("allowPrivilegeEscalation", "allowPrivilegeEscalation"),
            ("readOnlyRootFilesystem", "readOnlyRootFilesystem"),
        ] {
            assert_eq!(context[field], constraints[allowed], "{field}");
        }
        assert_eq!(context["capabilities"]["drop"], constraints["requiredDropCapabilities"]);
    }
    let group = &constraints["fsGroup"]["ranges"][0];
    assert_eq!(
        (&group["min"], &group["max"]),
        (&pod["securityContext"]["fsGroup"], &pod["securityContext"]["fsGroup"])
    );
    for forbidden in ["allowHostDirVolumePlugin", "allowHostIPC", "allowHostPID", "allowHostPorts"] {
        assert_eq!(constraints[forbidden], false, "{forbidden}");
    }
    assert_eq!(constraints["allowPrivilegedContainer"], false);

    let grants: Vec<(Value, Value, Value)> = of_kind("Role", &enabled)
        .iter()
        .filter(|role| role["rules"][0]["apiGroups"][0] == "security.openshift.io")
        .map(|role| {
            let binding = of_kind("RoleBinding", &enabled)
                .into_iter()
                .find(|binding| binding["metadata"]["name"] == role["metadata"]["name"])
                .unwrap();
            assert_eq!(binding["metadata"]["namespace"], role["metadata"]["namespace"]);
            let namespace = role["metadata"]["namespace"].clone();
            (namespace, role["rules"][0]["resourceNames"].clone(), binding["subjects"][0]["name"].clone())
        })
        .collect();
    let expected =
        [("dnstier-node", constraints["metadata"]["name"].as_str().unwrap()), ("dnstier-system", "nonroot-v2")];
    let expected = expected.map(|(namespace, name)| {
        (json!(namespace), json!([name]), json!(format!("system:serviceaccounts:{namespace}")))
    });
    assert_eq!(grants, expected);
}

#[test]
fn no_pod_of_the_chart_runs_where_its_image_cannot() {
    require!(require::helm());
    let pods = |arguments: &[&str]| {
        let deployment = of_kind("Deployment", arguments).remove(0)["spec"]["template"]["spec"].clone();
        [deployment, of_kind("Pod", arguments).remove(0)["spec"].clone()]
    };
    let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    for pod in pods(&["--set", "image.architectures={amd64,arm64}"]) {
        assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
        let expression = json!({"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]});
        let expected = json!([{"matchExpressions": [expression]}]);
        assert_eq!(pod.pointer(terms), Some(&expected));
    }
    for pod in pods(&["--set-json", "image.architectures=[]"]) {
        assert_eq!(pod["affinity"], Value::Null);
    }
}

#[test]
fn replicas_are_spread_and_leave_a_lost_node_after_twenty_seconds() {
    require!(require::helm());
    let deployment = of_kind("Deployment", &[]).remove(0);
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["spec"]["strategy"]["type"]),
        (&json!(3), &json!("RollingUpdate"))
    );
    let pod = &deployment["spec"]["template"]["spec"];
    for constraint in pod["topologySpreadConstraints"].as_array().unwrap() {
        assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway");
        assert_eq!(constraint["labelSelector"]["matchLabels"], deployment["spec"]["selector"]["matchLabels"]);
    }
    assert_eq!(pod["topologySpreadConstraints"][0]["topologyKey"], "topology.kubernetes.io/zone");
    let seconds = |pod: &Value, taint: &str| {
        let tolerations = pod["tolerations"].as_array().unwrap();
        let toleration = tolerations.iter().find(|toleration| toleration["key"] == taint);
        toleration.map(|toleration| toleration["tolerationSeconds"].clone())
    };
    let taints = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    assert!(taints.iter().all(|taint| seconds(pod, taint) == Some(json!(20))));
    let more = ["--set-json", "operator.tolerations=[{\"key\":\"infra\",\"operator\":\"Exists\"}]"];
    let pod = &of_kind("Deployment", &more)[0]["spec"]["template"]["spec"];
    assert!(seconds(pod, taints[0]).is_some() && seconds(pod, "infra").is_some());
}

#[test]
fn a_drain_takes_one_replica_at_a_time_and_is_not_blocked_by_a_single_one() {
    require!(require::helm());
    let budget = of_kind("PodDisruptionBudget", &[]).remove(0);
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["selector"], of_kind("Deployment", &[])[0]["spec"]["selector"]);
    for replicas in ["0", "1"] {
        let arguments = ["--set", &format!("operator.replicas={replicas}")];
        assert!(of_kind("PodDisruptionBudget", &arguments).is_empty(), "{replicas}");
        assert_eq!(of_kind("Deployment", &arguments)[0]["spec"]["replicas"].to_string(), replicas);
    }
    template(&["--set", "operator.replicas=-1"]).unwrap_err();
}

#[test]
fn the_operator_may_write_one_lease_and_read_those_of_other_releases() {
    require!(require::helm());
    let rules = |kind: &str| -> Vec<(Value, Value, Value)> {
        let roles = of_kind(kind, &[]).into_iter();
        let of_role = |role: Value| -> Vec<(Value, Value, Value)> {
            let rules = role["rules"].as_array().unwrap().iter();
            let leases = rules.filter(|rule| rule["apiGroups"][0] == "coordination.k8s.io");
            let namespace = role["metadata"]["namespace"].clone();
            leases.map(|rule| (namespace.clone(), rule["resourceNames"].clone(), rule["verbs"].clone())).collect()
        };
        roles.flat_map(of_role).collect()
    };
    let names = json!(["dnstier-operator"]);
    assert_eq!(rules("ClusterRole"), [(Value::Null, names.clone(), json!(["get"]))]);
    let namespace = json!("dnstier-system");
    assert_eq!(
        rules("Role"),
        [(namespace.clone(), Value::Null, json!(["create"])), (namespace, names, json!(["get", "update"]))]
    );
}
