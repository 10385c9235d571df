//! The API server rejects invalid objects with a sentence that names the field, accepts valid ones, and explains every
//! field. The tables are in `tests/fixtures/crd`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dnstier_tests::require;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::lab;
use crate::tier::{NAMESPACE, RestoreOnDrop, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl, kubectl_json, wait_until};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/crd");
const DEFINITION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/dnstier/files/dnstiers.yaml");
/// Fields whose types belong to Kubernetes, which explains them itself.
const BORROWED: [&str; 2] = ["affinity", "tolerations"];
/// Cases that are checked at a time.
const MAX_CONCURRENT_CASES: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bad {
    name: String,
    #[serde(default = "bad")]
    tier: String,
    spec: Option<Value>,
    at: String,
    says: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Good {
    name: String,
    #[serde(default = "good")]
    tier: String,
    spec: Option<Value>,
    becomes: Option<Value>,
}

fn bad() -> String {
    "bad".to_owned()
}

fn good() -> String {
    "good".to_owned()
}

#[test]
fn what_is_bad_is_refused_with_a_sentence_that_names_the_field() {
    require!(require::lab());
    let table: Vec<Bad> = table("bad.yaml");
    assert!(table.len() >= 50);
    check_all(&table, |case| {
        let Err(refusal) = create(&case.tier, case.spec.as_ref()) else {
            return Err(format!("{}: it was accepted", case.name));
        };
        if !refusal.contains(&case.at) || !refusal.contains(&case.says) {
            return Err(format!("{}: expected {} {}, got {refusal}", case.name, case.at, case.says));
        }
        match problems(&refusal).find(|problem| !problem.contains(&case.at)) {
            Some(other) => Err(format!("{}: it was also refused for something else: {other}", case.name)),
            None => Ok(()),
        }
    });
}

#[test]
fn what_is_good_is_accepted_and_filled_in() {
    require!(require::lab());
    let table: Vec<Good> = table("good.yaml");
    assert!(table.len() >= 15);
    check_all(&table, |case| {
        let created = create(&case.tier, case.spec.as_ref()).map_err(|refusal| format!("{}: {refusal}", case.name))?;
        let created: Value = serde_json::from_str(&created).map_err(|error| format!("{}: {error}", case.name))?;
        match &case.becomes {
            Some(expected) if created["spec"] != *expected => {
                Err(format!("{}: expected {expected}, got {}", case.name, created["spec"]))
            }
            _ => Ok(()),
        }
    });
}

#[test]
fn a_tier_that_no_operator_has_seen_is_not_current_and_the_operator_replaces_all_of_that() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let operator = "deployment/dnstier-operator";
    let scale = |replicas: &str| kubectl(&["scale", "-n", NAMESPACE, operator, &format!("--replicas={replicas}")]);
    let _restore = RestoreOnDrop(|| {
        drop(kubectl(&["delete", "dnstier", "unseen", "--ignore-not-found"]));
        drop(scale("3"));
        drop(kubectl(&["rollout", "status", "-n", NAMESPACE, operator, "--timeout=120s"]));
    });
    scale("0");
    kubectl(&[
        "wait",
        "-n",
        NAMESPACE,
        "pod",
        "-l",
        "app.kubernetes.io/component=operator",
        "--for=delete",
        "--timeout=60s",
    ]);
    let tier = "{apiVersion: dnstier.io/v1alpha1, kind: DnsTier, metadata: {name: unseen}}";
    lab().kubectl_with_input(&["apply", "--server-side", "-f", "-"], tier).expect("it is accepted");
    let status = kubectl_json(&["get", "dnstier", "unseen"])["status"].clone();
    assert_eq!(status["observedGeneration"], 0, "kstatus waits for generation 1: {status}");
    let reasons = |status: &Value| -> Vec<String> {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().map(|condition| format!("{} {}", condition["status"], condition["reason"])).collect()
    };
    assert_eq!(reasons(&status), vec!["\"Unknown\" \"Pending\""; 5], "{status}");
    let wait = ["wait", "dnstier", "unseen", "--for=condition=Ready", "--timeout=1s"];
    lab().kubectl(&wait).expect_err("kubectl wait waits");

    scale("3");
    // The other tier has the addresses already.
    let status = wait_until("the operator writes the status", WAIT_TIMEOUT, || {
        let status = kubectl_json(&["get", "dnstier", "unseen"])["status"].clone();
        ensure(status["observedGeneration"] == 1, || status.to_string())?;
        Ok(status)
    });
    assert!(status.to_string().contains("AddressTaken") && !status.to_string().contains("Pending"), "{status}");
    assert!(!status.to_string().contains("1970-"), "every condition has a time: {status}");
}

#[test]
fn kubectl_explains_every_field() {
    require!(require::lab());
    let definition: Value = serde_saphyr::from_str(&read(DEFINITION)).expect("the definition is YAML");
    let root = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut objects = Vec::new();
    for part in ["spec", "status"] {
        let path = format!("dnstier.{part}");
        let mut fields = BTreeSet::new();
        collect_fields(&path, &root[part], &mut fields, &mut objects);
        let listed =
            listed_fields(&path, &lab().kubectl(&["explain", &path, "--recursive"]).expect("kubectl explains"));
        assert!(listed.is_superset(&fields), "not listed: {:?}", fields.difference(&listed).collect::<Vec<_>>());
    }
    assert!(objects.len() >= 10, "{objects:?}");
    check_all(&objects, |path| {
        let text = lab().kubectl(&["explain", path]).map_err(|error| format!("{path}: {error:#}"))?;
        let is_manual =
            text.contains("DESCRIPTION:") && !text.contains("<no description>") && !text.contains("<empty>");
        if is_manual { Ok(()) } else { Err(format!("{path} is not explained: {text}")) }
    });
}

/// Returns the object that the API server would store, as JSON, or why it would not.
fn create(tier: &str, spec: Option<&Value>) -> Result<String, String> {
    let mut object = json!({"apiVersion": "dnstier.io/v1alpha1", "kind": "DnsTier", "metadata": {"name": tier}});
    if let Some(spec) = spec {
        object["spec"] = spec.clone();
    }
    lab()
        .kubectl_with_input(
            &["create", "--dry-run=server", "--validate=strict", "--output=json", "-f", "-"],
            &object.to_string(),
        )
        .map_err(|error| format!("{error:#}"))
}

/// Returns the lines that kubectl prints for several problems of one object, without the note that rules were not
/// checked because a type was wrong.
fn problems(refusal: &str) -> impl Iterator<Item = &str> {
    refusal.lines().filter(|line| line.starts_with("* ") && !line.contains("some validation rules were not checked"))
}

/// Checks all cases, some at a time, and panics with those that fail.
fn check_all<T: Sync>(cases: &[T], check: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = thread::scope(|scope| {
        let work = || -> Vec<String> {
            let cases_of_worker = std::iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::Relaxed)));
            cases_of_worker.filter_map(|case| check(case).err()).collect()
        };
        let workers: Vec<_> = (0..MAX_CONCURRENT_CASES).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no look panics")).collect()
    });
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// Collects the paths of all fields below `path`, and of the objects among them, which have a page of their own.
fn collect_fields(path: &str, schema: &Value, fields: &mut BTreeSet<String>, objects: &mut Vec<String>) {
    let schema = if schema["items"].is_object() { &schema["items"] } else { schema };
    let Some(properties) = schema["properties"].as_object() else { return };
    objects.push(path.to_owned());
    for (name, property) in properties {
        let path = format!("{path}.{name}");
        if !BORROWED.contains(&name.as_str()) {
            collect_fields(&path, property, fields, objects);
        }
        fields.insert(path);
    }
}

/// Returns the paths in the output of `kubectl explain --recursive`: each level is indented by two more blanks.
fn listed_fields(root: &str, printed: &str) -> BTreeSet<String> {
    let mut path = vec![root.to_owned()];
    let mut listed = BTreeSet::new();
    let fields = printed.lines().skip_while(|line| !line.starts_with("FIELDS:")).skip(1);
    for (line, name) in fields.filter_map(|line| Some((line, line.trim_start().split_once('\t')?.0))) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        path.truncate(depth);
        path.push(name.to_owned());
        listed.insert(path.join("."));
    }
    listed
}

fn table<T: DeserializeOwned>(name: &str) -> Vec<T> {
    serde_saphyr::from_str(&read(&format!("{FIXTURES}/{name}"))).expect("the table is readable")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
