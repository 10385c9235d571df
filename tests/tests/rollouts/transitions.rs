//! Twenty changes of fields one after the other, half of them wrong, held to five oracles: workloads are healthy, the
//! operator runs on and logs nothing bad, a change moves what `docs/what-a-change-moves.md` tells and nothing else, and
//! everything is as it was once the change is taken back.

use std::collections::{BTreeMap, BTreeSet};

use dnstier_tests::require;
use serde_json::{Value, json};

use crate::tier::{
    NAMESPACE, Pod, TIER, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, kubectl_json, patch_tier,
    pods_labelled, restore_tier, wait_until, wait_until_ready,
};
use crate::witness::wait_until_rolled_out;

/// Label of the operator's pods.
const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// Fields that come into force: a merge patch of the spec, and the parts that it moves.
fn good() -> [(Value, &'static [Part]); 10] {
    use Part::{NodeRevision, NodeTemplate, ResolverRevision, ResolverTemplate, Resolvers};
    [
        (json!({"nodeCache": {"cache": {"maxTtl": "20s"}}}), &[NodeRevision]),
        (json!({"nodeCache": {"cache": {"negativeMaxTtl": "10s"}}}), &[NodeRevision]),
        (json!({"nodeCache": {"lastResort": {"packetsPerSecond": 50}}}), &[NodeRevision]),
        (json!({"nodeCache": {"podAnnotations": {"note": "hello"}}}), &[NodeTemplate]),
        (json!({"resolvers": {"cache": {"serveStale": "1h"}}}), &[ResolverRevision]),
        (json!({"resolvers": {"privateSuffixes": ["corp.example"]}}), &[ResolverRevision]),
        (json!({"resolvers": {"podLabels": {"team": "dns"}}}), &[ResolverTemplate]),
        (json!({"resolvers": {"replicasPerZone": 1}}), &[Resolvers]),
        (json!({"rollout": {"canariesPerZone": 2}}), &[]),
        (json!({"rollout": {"waveSize": "100%"}, "clusterDomain": "cluster.local"}), &[]),
    ]
}

/// Fields that lead to an error, and what the message of `Degraded` has to name.
fn bad() -> [(Value, &'static str); 10] {
    let dead = json!([{"suffix": "dead.example", "upstreams": [{"addresses": ["192.0.2.77"]}]}]);
    let weight = json!([{"weight": 0, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]);
    let term = json!([{"topologyKey": "", "labelSelector": {}}]);
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    [
        (json!({"clusterDns": {"name": "no-such-dns"}}), "no-such-dns"),
        (json!({"clusterDns": {"namespace": "nowhere"}}), "nowhere"),
        (json!({"resolvers": {"zones": ["zone-a", "zone-b", "zone-c", "zone-z"]}}), "zone-z"),
        (json!({"resolvers": {"upstreams": [{"addresses": ["10.96.0.10"]}]}}), "10.96.0.10"),
        (json!({"routes": dead}), "dead.example SOA"),
        (json!({"nodeCache": {"affinity": {"nodeAffinity": {preferred: weight}}}}), "weight"),
        (json!({"resolvers": {"affinity": {"podAntiAffinity": {required: term}}}}), "topologyKey"),
        (json!({"nodeCache": {"tolerations": [{"key": "bad key", "operator": "Exists"}]}}), "tolerations"),
        (json!({"resolvers": {"tolerations": [{"key": "x", "value": "not a value!"}]}}), "tolerations"),
        (json!({"resolvers": {"resources": {"limits": {"gold": "1"}}}}), "gold"),
    ]
}

/// Part of the tier that a field can move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    NodeRevision,
    NodeTemplate,
    ResolverRevision,
    ResolverTemplate,
    Resolvers,
}

/// Owned objects of the tier by kind, namespace and name, without what Kubernetes and the way to them add.
type State = BTreeMap<String, Value>;

fn state() -> State {
    let kinds = "daemonsets,deployments,services,configmaps,poddisruptionbudgets,networkpolicies,serviceaccounts";
    let selector = format!("app.kubernetes.io/instance={TIER}");
    let list = kubectl_json(&["get", kinds, "-A", "-l", &selector]);
    let object = |object: &Value| {
        let metadata = &object["metadata"];
        let name = format!("{} {}/{}", object["kind"], metadata["namespace"], metadata["name"]);
        let stable = &object["data"]["stable.json"];
        (name, json!({"labels": metadata["labels"], "spec": object["spec"], "stable": stable}))
    };
    list["items"].as_array().expect("a list").iter().map(object).collect()
}

/// Returns what each part is like: templates, numbers of resolvers, and the revisions that pods are asked to run.
fn parts() -> BTreeMap<Part, BTreeSet<String>> {
    let selector = format!("app.kubernetes.io/instance={TIER}");
    let list = kubectl_json(&["get", "daemonsets,deployments,pods", "-A", "-l", &selector]);
    let mut parts: BTreeMap<Part, BTreeSet<String>> = BTreeMap::new();
    for object in list["items"].as_array().expect("a list") {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let of_nodes = metadata["labels"]["app.kubernetes.io/component"] == "node-cache";
        let template = if of_nodes { Part::NodeTemplate } else { Part::ResolverTemplate };
        let revision = if of_nodes { Part::NodeRevision } else { Part::ResolverRevision };
        let mut put = |part, value: &Value| parts.entry(part).or_default().extend([value.to_string()]);
        match object["kind"].as_str() {
            Some("Pod") if metadata["deletionTimestamp"].is_null() => {
                put(revision, &metadata["annotations"]["dnstier.io/revision"]);
            }
            Some("DaemonSet") => put(template, &spec["template"]),
            Some("Deployment") => {
                put(template, &spec["template"]);
                put(Part::Resolvers, &spec["replicas"]);
            }
            _ => {}
        }
    }
    parts
}

/// Checks that each workload of the tier has all of its pods, each up to date and available.
fn healthy() -> Result<(), String> {
    let selector = format!("app.kubernetes.io/instance={TIER}");
    let list = kubectl_json(&["get", "daemonsets,deployments", "-A", "-l", &selector]);
    list["items"].as_array().expect("a list").iter().try_for_each(|workload| {
        let (spec, status) = (&workload["spec"], &workload["status"]);
        let (wanted, counts) = if workload["kind"] == "DaemonSet" {
            let counts = ["currentNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable"];
            (&status["desiredNumberScheduled"], counts)
        } else {
            (&spec["replicas"], ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"])
        };
        let is_observed = status["observedGeneration"] == workload["metadata"]["generation"];
        let is_healthy = is_observed && counts.iter().all(|count| status[count] == *wanted);
        ensure(is_healthy, || format!("{} is not healthy: {status}", workload["metadata"]["name"]))
    })
}

/// Operator that is watched: its pods, and where their logs were read to.
struct Operator {
    pods: Vec<Pod>,
    lines: BTreeMap<String, usize>,
}

impl Operator {
    fn watch() -> Self {
        let mut operator = Self { pods: pods_labelled(NAMESPACE, OPERATOR), lines: BTreeMap::new() };
        assert!(!operator.pods.is_empty(), "no operator runs");
        operator.new_lines();
        operator
    }

    /// Returns what was logged since the last call.
    fn new_lines(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        for pod in &self.pods {
            let log = kubectl(&["logs", "-n", NAMESPACE, &pod.name]);
            let lines: Vec<&str> = log.lines().collect();
            let read = self.lines.insert(pod.name.clone(), lines.len()).unwrap_or_default();
            new.extend(lines.iter().skip(read).map(|line| format!("{}: {line}", pod.name)));
        }
        new
    }

    /// Asserts that the operator has not restarted, and has logged no error, no panic, and no warning unless the change
    /// is wrong.
    fn assert_well(&mut self, change: &Value, is_wrong: bool) {
        let now = pods_labelled(NAMESPACE, OPERATOR);
        let lives = |pods: &[Pod]| pods.iter().map(|pod| (pod.uid.clone(), pod.restarts)).collect::<BTreeSet<_>>();
        assert_eq!(lives(&now), lives(&self.pods), "{change}: an operator has ended");
        let is_bad = |line: &String| {
            // An API server on a machine that has too much to do.
            let is_warning = line.contains(" WARN ") && !line.contains("did not answer within");
            line.contains(" ERROR ") || line.contains("panicked") || (is_warning && !is_wrong)
        };
        let bad: Vec<String> = self.new_lines().into_iter().filter(is_bad).collect();
        assert!(bad.is_empty(), "{change}: {bad:#?}");
    }
}

/// Waits until the tier and its workloads are at rest.
fn rest() {
    wait_until_ready();
    wait_until("workloads are healthy", WAIT_TIMEOUT, healthy);
}

/// Takes a change back, and waits until everything is as it was.
fn take_back(before: &State, change: &Value) {
    restore_tier().expect("the tier is there");
    rest();
    wait_until(&format!("everything is as it was before {change}"), WAIT_TIMEOUT, || {
        let now = state();
        let differs = |name: &&String| before.get(*name) != now.get(*name);
        let different: BTreeSet<&String> = before.keys().chain(now.keys()).filter(differs).collect();
        ensure(different.is_empty(), || format!("{different:?} differ"))
    });
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn twenty_changes_of_fields_leave_nothing_behind_when_they_are_taken_back() {
    require!(require::lab());
    let _tier = exclusive_tier();
    rest();
    let (before, mut operator) = (state(), Operator::watch());
    for (change, expected) in good() {
        eprintln!("{change}");
        let parts_before = parts();
        patch_tier(&json!({"spec": change}).to_string());
        wait_until_rolled_out();
        rest();
        let now = parts();
        let all: BTreeSet<Part> = parts_before.keys().chain(now.keys()).copied().collect();
        let moved: Vec<Part> = all.into_iter().filter(|part| parts_before.get(part) != now.get(part)).collect();
        assert_eq!(moved, expected, "{change}");
        operator.assert_well(&change, false);
        take_back(&before, &change);
        operator.assert_well(&change, false);
    }
    for (change, says) in bad() {
        eprintln!("{change}");
        patch_tier(&json!({"spec": change}).to_string());
        let degraded = wait_until(&format!("the message names {says}"), 3 * WAIT_TIMEOUT, || {
            let degraded = condition("Degraded")?;
            ensure(degraded.0 == "True" && degraded.2.contains(says), || format!("{degraded:?}"))?;
            Ok(degraded)
        });
        eprintln!("  {degraded:?}");
        take_back(&before, &change);
        operator.assert_well(&change, true);
    }
}
