//! Rights of the operator: whoever has its token can write what the operator itself writes, and nothing else.
//!
//! Requests are dry runs on the API server: authorization and admission decide as ever, and nothing is written.

use dnstier_tests::require;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::lab;
use crate::tier::{
    CHART, NAMESPACE, NODE_NAMESPACE, RestoreOnDrop, WAIT_TIMEOUT, exclusive_tier, kubectl, kubectl_json, node_pods,
    wait_until,
};

const OPERATOR: &str = "dnstier-operator";
const DAEMON_SET: &str = "dnstier-default-node-cache";

/// A thief of the operator's token.
struct Thief {
    kubeconfig: NamedTempFile,
}

impl Thief {
    fn new() -> Self {
        let token = kubectl(&["create", "token", OPERATOR, "-n", NAMESPACE]);
        let mut config = kubectl_json(&["config", "view", "--raw", "--minify"]);
        config["users"][0]["user"] = json!({"token": token.trim()});
        let kubeconfig = NamedTempFile::new().expect("a file");
        std::fs::write(kubeconfig.path(), config.to_string()).expect("the configuration is written");
        let thief = Self { kubeconfig };
        let identity = thief.kubectl(&["auth", "whoami", "-o", "json"], "").expect("the token is valid");
        assert!(identity.contains(&format!("system:serviceaccount:{NAMESPACE}:{OPERATOR}")), "{identity}");
        thief
    }

    /// Runs kubectl with the token alone; returns the response, or the refusal.
    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.path().display());
        let arguments = [&[kubeconfig.as_str()], arguments].concat();
        lab().kubectl_with_input(&arguments, input).map_err(|error| format!("{error:#}"))
    }

    fn create(&self, object: &Value) -> Result<String, String> {
        self.kubectl(
            &["create", "--raw", &format!("{}?dryRun=All", collection(object)), "-f", "-"],
            &object.to_string(),
        )
    }

    /// Patches an object or, when `subresource` is not empty, a part of it.
    fn patch(&self, object: &Value, subresource: &str, patch: &Value) -> Result<String, String> {
        let subresource = format!("--subresource={subresource}");
        let patch = patch.to_string();
        let arguments = ["patch", "-f", "-", &subresource, "--type=merge", "--dry-run=server", "-p", &patch];
        self.kubectl(&arguments, &object.to_string())
    }

    fn delete(&self, object: &Value) -> Result<String, String> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.kubectl(&["delete", "--raw", &format!("{}/{name}?dryRun=All", collection(object))], "")
    }
}

/// Returns the path of the collection that an object is in.
fn collection(object: &Value) -> String {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let (version, namespace) = (text(&object["apiVersion"]), text(&object["metadata"]["namespace"]));
    let root = if version == "v1" { "/api" } else { "/apis" };
    let plural = match text(&object["kind"]).to_lowercase() {
        kind if kind.ends_with('y') => format!("{}ies", kind.trim_end_matches('y')),
        kind => format!("{kind}s"),
    };
    format!("{root}/{version}/namespaces/{namespace}/{plural}")
}

/// Builds an object without content.
fn object(version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}})
}

/// Returns a workload of the tier as a new one of another tier.
fn copy_of(kind: &str, namespace: &str, name: &str) -> Value {
    let existing = kubectl_json(&["get", kind, "-n", namespace, name]);
    let copy_name = name.replace("-default-", "-stolen-");
    let mut copy = object("apps/v1", existing["kind"].as_str().expect("a kind"), namespace, &copy_name);
    copy["spec"] = existing["spec"].clone();
    copy
}

fn node_cache() -> Value {
    copy_of("daemonset", NODE_NAMESPACE, DAEMON_SET)
}

fn zone_resolver() -> Value {
    let names =
        kubectl(&["get", "deployment", "-n", NAMESPACE, "-o", "name", "-l", "app.kubernetes.io/instance=default"]);
    let name = names.lines().find_map(|line| line.strip_prefix("deployment.apps/")).expect("a Deployment of a zone");
    copy_of("deployment", NAMESPACE, name)
}

fn pod(workload: &mut Value) -> &mut Value {
    &mut workload["spec"]["template"]["spec"]
}

/// Asserts that a policy refuses a request, with this text.
fn assert_refused(attempt: &str, response: Result<String, String>, policy: &str, text: &str) {
    match response {
        Ok(response) => panic!("{attempt} is admitted: {response}"),
        Err(refusal) => {
            let by_policy = refusal.contains(&format!("ValidatingAdmissionPolicy '{OPERATOR}-{policy}'"));
            assert!(
                by_policy && refusal.contains(text),
                "{attempt} is not refused by {policy} with {text:?}: {refusal}"
            );
        }
    }
}

#[test]
fn a_stolen_token_creates_no_workload_with_more_than_the_operator_renders() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let thief = Thief::new();
    thief.create(&node_cache()).expect("a DaemonSet as the operator renders it is admitted");
    thief.create(&zone_resolver()).expect("a Deployment as the operator renders it is admitted");

    type Change = fn(&mut Value);
    let changes: [(&str, &str, Change); 28] = [
        ("a privileged container", "privilege", |pod| {
            let context = &mut pod["containers"][0]["securityContext"];
            context["privileged"] = json!(true);
            context["allowPrivilegeEscalation"] = json!(true);
        }),
        ("the host's file system", "volumes", |pod| {
            push(&mut pod["volumes"], json!({"name": "host", "hostPath": {"path": "/"}}));
        }),
        ("a Secret as a volume", "volumes", |pod| {
            push(&mut pod["volumes"], json!({"name": "loot", "secret": {"secretName": "loot"}}));
        }),
        ("a token as a volume", "volumes", |pod| {
            push(&mut pod["volumes"][0]["projected"]["sources"], json!({"serviceAccountToken": {"path": "token"}}));
        }),
        ("another ConfigMap as a volume", "volumes", |pod| {
            push(&mut pod["volumes"][0]["projected"]["sources"], json!({"configMap": {"name": "other"}}));
        }),
        ("a further capability of the agent", "capability", |pod| {
            push(&mut pod["containers"][0]["securityContext"]["capabilities"]["add"], json!("SYS_ADMIN"));
        }),
        ("a capability of a cache", "capability", |pod| {
            pod["containers"][1]["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
        }),
        ("a cache that is root", "user", |pod| {
            pod["containers"][1]["securityContext"]["runAsUser"] = json!(0);
            pod["containers"][1]["securityContext"]["runAsNonRoot"] = json!(false);
        }),
        ("a root file system to write to", "privilege", |pod| {
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = json!(false);
        }),
        ("the processes of the host", "field", |pod| pod["hostPID"] = json!(true)),
        ("the IPC of the host", "field", |pod| pod["hostIPC"] = json!(true)),
        ("an init container", "field", |pod| {
            pod["initContainers"] = json!([{"name": "first", "image": pod["containers"][0]["image"].clone()}]);
        }),
        ("a cache of the group of root", "user", |pod| {
            pod["containers"][1]["securityContext"]["runAsGroup"] = json!(0);
        }),
        ("no seccomp profile", "seccomp", |pod| {
            pod["securityContext"]["seccompProfile"] = json!({"type": "Unconfined"})
        }),
        ("another account", "account", |pod| pod["serviceAccountName"] = json!("default")),
        ("an account with a token", "token", |pod| pod["automountServiceAccountToken"] = json!(true)),
        ("another command", "command", |pod| pod["containers"][0]["command"] = json!(["/usr/sbin/nft"])),
        ("another command as a probe", "command", |pod| {
            pod["containers"][0]["livenessProbe"]["exec"]["command"] = json!(["/usr/sbin/nft", "flush", "ruleset"]);
        }),
        ("another program in the place of nft", "argument", |pod| {
            push(&mut pod["containers"][0]["args"], json!("--nft=/etc/dnstier/own.json"));
        }),
        ("the agent itself as a probe", "argument", |pod| {
            pod["containers"][0]["livenessProbe"]["exec"]["command"] =
                json!(["/node-agent", "run", "--nft", "/etc/dnstier/own.json"]);
        }),
        ("another folder of the configuration", "argument", |pod| {
            push(&mut pod["containers"][1]["args"], json!("/proc/1/root/etc"));
        }),
        ("a configuration that can be run", "volumes", |pod| {
            pod["volumes"][0]["projected"]["defaultMode"] = json!(0o755);
        }),
        ("a file of the configuration that can be run", "volumes", |pod| {
            let items = json!([{"key": "own.json", "path": "own.json", "mode": 0o755}]);
            pod["volumes"][0]["projected"]["sources"][0]["configMap"]["items"] = items;
        }),
        ("an annotation that can be run", "volumes", |pod| {
            pod["volumes"][0]["projected"]["sources"][1]["downwardAPI"]["items"][0]["mode"] = json!(0o755);
        }),
        ("a command at the start", "field", |pod| {
            pod["containers"][0]["lifecycle"] = json!({"postStart": {"exec": {"command": ["/usr/sbin/nft"]}}});
        }),
        ("a library of its own", "variable", |pod| {
            push(&mut pod["containers"][0]["env"], json!({"name": "LD_PRELOAD", "value": "/etc/dnstier/own.json"}));
        }),
        ("a mount over the programs", "mount", |pod| {
            pod["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/usr/sbin");
        }),
        ("another image", "localhost/dnstier-node-cache", |pod| {
            pod["containers"][1]["image"] = json!("registry.example/evil:1");
        }),
    ];
    for (attempt, text, change) in changes {
        let mut workload = node_cache();
        change(pod(&mut workload));
        assert_refused(attempt, thief.create(&workload), "workloads", text);
    }

    let changes: [(&str, &str, Change); 3] = [
        ("a resolver on the host's network", "network of the host", |pod| {
            pod["hostNetwork"] = json!(true);
            pod["containers"][0].as_object_mut().expect("a container").remove("ports");
        }),
        ("a resolver with a capability", "capability", |pod| {
            pod["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
        }),
        ("a resolver on a port of the host", "host port", |pod| {
            pod["containers"][0]["ports"][0]["hostPort"] = json!(53)
        }),
    ];
    for (attempt, text, change) in changes {
        let mut workload = zone_resolver();
        change(pod(&mut workload));
        assert_refused(attempt, thief.create(&workload), "workloads", text);
    }

    let existing = object("apps/v1", "DaemonSet", NODE_NAMESPACE, DAEMON_SET);
    let patch = json!({"spec": {"template": {"spec": {"hostPID": true}}}});
    assert_refused("a change of the tier's own pods", thief.patch(&existing, "", &patch), "workloads", "field");
    let mut other = node_cache();
    other["metadata"]["name"] = json!("other");
    assert_refused("a workload of another name", thief.create(&other), "objects", "of the name other");
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

#[test]
fn a_stolen_token_changes_no_object_but_those_of_tiers() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let thief = Thief::new();
    let kube_dns = object("v1", "Service", "kube-system", "kube-dns");
    let repointed = thief.patch(&kube_dns, "", &json!({"spec": {"selector": {"app": "evil"}}}));
    assert_refused("kube-dns repointed", repointed, "objects", "of the name kube-dns");
    assert_refused("kube-dns deleted", thief.delete(&kube_dns), "objects", "of the name kube-dns");

    let service_of_name = |name: &str, spec: &Value| {
        let mut service = object("v1", "Service", "kube-system", name);
        service["spec"] = spec.clone();
        service["spec"]["ports"] = json!([{"port": 53, "protocol": "UDP"}]);
        thief.create(&service)
    };
    let other = service_of_name("dnstier-other", &json!({}));
    assert_refused("a Service of another name", other, "objects", "of the name dnstier-other");
    let service = |spec: &Value| service_of_name("dnstier-stolen-cluster-dns", spec);
    service(&json!({"type": "ClusterIP"})).expect("a shadow Service is admitted");
    let text = "ClusterIP without external addresses";
    assert_refused("an address of the outside", service(&json!({"externalIPs": ["192.0.2.53"]})), "objects", text);
    assert_refused("a load balancer", service(&json!({"type": "LoadBalancer"})), "objects", text);
    let alias = service(&json!({"type": "ExternalName", "externalName": "evil.example"}));
    assert_refused("an alias", alias, "objects", text);

    for name in ["dnstier-stolen-other-metrics", "dnstier-metrics", "node-cache-metrics"] {
        let mut service = object("v1", "Service", NODE_NAMESPACE, name);
        service["spec"] = json!({"clusterIP": "None", "ports": [{"port": 9353}]});
        assert_refused("a Service beside the node pods", thief.create(&service), "objects", "of the name");
    }

    for orphan in [
        object("v1", "Service", "kube-system", "dnstier-default-cluster-dns"),
        object("v1", "Service", NODE_NAMESPACE, "dnstier-default-node-cache-metrics"),
        object("v1", "ConfigMap", NODE_NAMESPACE, "dnstier-default-revisions"),
        object("v1", "ConfigMap", NAMESPACE, "dnstier-default-rollout"),
        object("apps/v1", "DaemonSet", NODE_NAMESPACE, DAEMON_SET),
        object("networking.k8s.io/v1", "NetworkPolicy", NAMESPACE, "dnstier-default-zone-resolver"),
    ] {
        thief.delete(&orphan).expect("an object of a tier is deleted, as the operator deletes orphans");
    }

    let config_map = object("v1", "ConfigMap", NAMESPACE, "kube-root-ca.crt");
    assert_refused("a ConfigMap of others", thief.delete(&config_map), "objects", "kube-root-ca.crt");
    let config_map = object("v1", "ConfigMap", NODE_NAMESPACE, "other");
    assert_refused("a further ConfigMap", thief.create(&config_map), "objects", "of the name other");
    let record = |namespace| object("v1", "ConfigMap", namespace, "dnstier-stolen-rollout");
    thief.create(&record(NAMESPACE)).expect("the record of a roll-out is admitted beside the operator");
    assert_refused("a record beside the node pods", thief.create(&record(NODE_NAMESPACE)), "objects", "of the name");
    let own_account = object("v1", "ServiceAccount", NAMESPACE, OPERATOR);
    assert_refused("its own account", thief.delete(&own_account), "objects", OPERATOR);
    let own_workload = object("apps/v1", "Deployment", NAMESPACE, OPERATOR);
    assert_refused("its own Deployment", thief.delete(&own_workload), "objects", OPERATOR);
    let lease = object("coordination.k8s.io/v1", "Lease", NAMESPACE, "other");
    assert_refused("a further Lease", thief.create(&lease), "objects", "of the name other");
    let mut account = object("v1", "ServiceAccount", NODE_NAMESPACE, "dnstier-stolen-node-cache");
    thief.create(&account).expect("an account of a tier is admitted");
    account["metadata"]["annotations"] = json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/admin"});
    assert_refused("a role in a cloud", thief.create(&account), "objects", "annotations");

    let mut policy = object("networking.k8s.io/v1", "NetworkPolicy", NAMESPACE, "dnstier-stolen-zone-resolver");
    policy["spec"] = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    assert_refused("a network policy for all pods", thief.create(&policy), "objects", "zone resolvers alone");
    let mut budget = object("policy/v1", "PodDisruptionBudget", NAMESPACE, "dnstier-stolen-zone-00000000");
    budget["spec"] = json!({"selector": {}, "maxUnavailable": 0});
    assert_refused("a budget for all pods", thief.create(&budget), "objects", "zone resolvers alone");
}

#[test]
fn a_stolen_token_changes_nothing_of_a_pod_but_annotations_of_the_operator() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let thief = Thief::new();
    let pod = object("v1", "Pod", NODE_NAMESPACE, &node_pods().first().expect("a node pod").name);
    let patch = |patch: &Value| thief.patch(&pod, "status", patch);
    patch(&json!({"metadata": {"annotations": {"dnstier.io/revision": "other"}}})).expect("an annotation is admitted");

    let text = "nothing of a pod but annotations";
    let forged = json!({"status": {"podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}]}});
    assert_refused("a forged address", patch(&forged), "pods", text);
    let condition = json!({"status": {"conditions": []}});
    assert_refused("a forged condition", patch(&condition), "pods", text);
    assert_refused("a label", patch(&json!({"metadata": {"labels": {"app": "evil"}}})), "pods", text);
    assert_refused("a finalizer", patch(&json!({"metadata": {"finalizers": ["example.com/x"]}})), "pods", text);
    let foreign = patch(&json!({"metadata": {"annotations": {"example.com/x": "y"}}}));
    assert_refused("an annotation of others", foreign, "pods", "begin with dnstier.io/");
}

#[test]
fn a_prefix_of_extra_images_ends_with_a_name_and_not_within_one() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let _restore = RestoreOnDrop(|| lab().install().expect("the default is back"));
    let values = "admissionPolicy.extraImages={registry.example/dns,registry.example:5000}";
    let arguments = ["upgrade", "dnstier", CHART, "-n", NAMESPACE, "--reuse-values", "--set", values, "--wait"];
    lab().helm(&arguments).expect("the upgrade");
    let thief = Thief::new();
    let workload = node_cache();
    let create = |image: &str| {
        let mut workload = workload.clone();
        pod(&mut workload)["containers"][1]["image"] = json!(image);
        thief.create(&workload)
    };
    wait_until("the prefix is in force", WAIT_TIMEOUT, || create("registry.example/dns:1"));
    let digest = format!("@sha256:{}", "0".repeat(64));
    for admitted in [
        "registry.example/dns",
        &format!("registry.example/dns{digest}"),
        &format!("registry.example/dns:1{digest}"),
        "registry.example/dns/node-cache:1",
        "registry.example:5000/any/node-cache:1",
    ] {
        create(admitted).unwrap_or_else(|refusal| panic!("{admitted}: {refusal}"));
    }
    for refused in [
        "registry.example/dns-evil:1",
        "registry.example/dns.evil/x:1",
        "registry.example:5001/dns:1",
        "registry.example/dns:5000/evil",
        "registry.example:50000/dns:1",
        "evil.example/registry.example/dns:1",
        "localhost/dnstier-node-cache-evil:1",
        "localhost:5000/dnstier-node-cache:1",
        "dnstier-node-cache:1",
    ] {
        assert_refused(refused, create(refused), "workloads", "admissionPolicy.extraImages");
    }
}
