//! Tests of the commands, with the tables of the repository and in front of a fake cluster.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use dnstier_crds::DnsTier;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::command::{Report, diff, render, validate};
use super::live_cluster::LiveCluster;
use super::planned_cluster::PlannedCluster;
use super::render::{bodies, to_yaml};
use super::settle::settle;
use super::tiers::TierFile;
use crate::client::Limits;
use crate::controller::fixtures::{settings, tier};
use crate::fake_api::{FakeRequest, Reply};
use crate::fake_cluster::FakeCluster;
use crate::leader::Leadership;
use crate::tests::{CONFIG_MAPS, DAEMON_SETS, DEPLOYMENTS, TIERS, put_objects, start_operator, wait_until};

const BAD: &str = include_str!("../../../tests/fixtures/crd/bad.yaml");
const GOOD: &str = include_str!("../../../tests/fixtures/crd/good.yaml");
const EXAMPLE: &str = include_str!("../../../examples/dnstier.yaml");

#[derive(Deserialize)]
struct Bad {
    name: String,
    tier: Option<String>,
    spec: Option<Value>,
    at: String,
    says: String,
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    cluster: PlannedCluster,
}

fn planned(arguments: &[&str]) -> PlannedCluster {
    Program::parse_from(["program"].iter().chain(arguments)).cluster
}

fn validated(text: &str) -> Report {
    validate(text, Path::new("tier.yaml"), &planned(&[]), &settings())
}

/// Returns a file with a tier of this spec, which is YAML.
fn file(spec: &str) -> String {
    format!("apiVersion: dnstier.io/v1alpha1\nkind: DnsTier\nmetadata: {{name: default}}\nspec: {spec}\n")
}

/// Returns a part of the line on which a field of an object should be told: its name, or that of the innermost field
/// around it, or the item of a list.
fn expected_on_line(object: &Value, field: &str) -> String {
    let pointer = field.replace(['.', '['], "/").replace(']', "");
    let (mut value, mut expected) = (object, String::new());
    for step in pointer.split('/') {
        let next = match value {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(step),
        };
        let Some(next) = next else { break };
        expected = match (value, next) {
            (Value::Array(_), Value::Object(item)) => item.keys().next().cloned().unwrap_or_default(),
            (Value::Array(_), Value::String(item)) => item.clone(),
            _ => format!("{step}:"),
        };
        value = next;
    }
    expected
}

#[test]
fn every_bad_object_has_its_line_and_its_field() {
    let table: Vec<Bad> = serde_saphyr::from_str(BAD).unwrap();
    assert!(table.len() >= 100, "{}", table.len());
    let mut failed = Vec::new();
    for case in table {
        let name = case.tier.clone().unwrap_or_else(|| "bad".to_owned());
        let mut object = json!({"apiVersion": "dnstier.io/v1alpha1", "kind": "DnsTier", "metadata": {"name": name}});
        if let Some(spec) = &case.spec {
            object["spec"] = spec.clone();
        }
        let text = format!("kind: Namespace\n---\n{}", serde_saphyr::to_string(&object).unwrap());
        // The name of the tier is refused by a rule of the whole object.
        let at = if case.at.is_empty() { "metadata.name" } else { &case.at };
        let complaints = TierFile::read(&text).complaints;
        let expected = expected_on_line(&object, at);
        let is_told = complaints.iter().any(|complaint| complaint.message.contains(&case.says));
        let is_placed = complaints.iter().all(|complaint| {
            let line = text.lines().nth(complaint.line - 1).unwrap_or_default();
            complaint.field == at && line.contains(&expected) && complaint.line > 2
        });
        if !is_told || !is_placed {
            failed.push(format!("{}: expected {at} ({expected}) {}, got {complaints:#?}", case.name, case.says));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_good_object_is_read_and_null_is_the_same_as_nothing() {
    let table: Vec<Value> = serde_saphyr::from_str(GOOD).unwrap();
    for case in table {
        let mut object = json!({"apiVersion": "dnstier.io/v1alpha1", "kind": "DnsTier", "metadata": {"name": "good"}});
        object["spec"] = case["spec"].clone();
        let file = TierFile::read(&serde_saphyr::to_string(&object).unwrap());
        assert_eq!((file.complaints, file.tiers.len()), (Vec::new(), 1), "{}", case["name"]);
        if let Some(becomes) = case.get("becomes") {
            assert_eq!(serde_json::to_value(&file.tiers[0].tier.spec).unwrap(), *becomes, "{}", case["name"]);
        }
    }
}

#[test]
fn exit_codes_tell_ci_what_it_needs_to_know() {
    let run = |arguments: &[&str]| {
        let arguments = ["dnstier-operator"].iter().chain(arguments);
        crate::Args::try_parse_from(arguments).unwrap().run().unwrap()
    };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dnstier.yaml");
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/dnstier/Chart.yaml");
    assert_eq!(run(&["validate", example]), ExitCode::from(0));
    let bad = std::env::temp_dir().join(format!("dnstier-bad-{}.yaml", std::process::id()));
    std::fs::write(&bad, file("{clusterDomain: X}")).unwrap();
    let codes = ["validate", "render"].map(|command| run(&[command, bad.to_str().unwrap()]));
    std::fs::remove_file(bad).unwrap();
    assert_eq!(codes, [ExitCode::from(1); 2]);
    assert_eq!(run(&["validate", other]), ExitCode::from(2));
    assert_eq!(run(&["validate", "/does/not/exist"]), ExitCode::from(2));
    assert_eq!(run(&["diff", "/does/not/exist"]), ExitCode::from(2));
}

#[test]
fn what_only_the_controller_refuses_has_its_line_and_field_too() {
    let text = "\
apiVersion: dnstier.io/v1alpha1
kind: DnsTier
metadata: {name: default}
spec:
  routes:
  - suffix: corp.example
    upstreams: [{addresses: [10.0.0.53]}]
  - suffix: lab.example
    upstreams: [{addresses: [10.96.0.10]}]
---
apiVersion: dnstier.io/v1alpha1
kind: DnsTier
metadata: {name: other}
spec:
  nodeCache:
    metricsPort: 9353
    capture:
      addresses: [169.254.20.10]
";
    let report = validated(text);
    assert_eq!(report.code, 1);
    let lines: Vec<&str> = report.output.lines().collect();
    assert_eq!(lines.len(), 3, "{}", report.output);
    assert!(lines[0].starts_with("tier.yaml:8: spec.routes[lab.example]: 10.96.0.10 is an address that this tier"));
    assert!(lines[1].starts_with("tier.yaml:16: spec.nodeCache.metricsPort: the older tier default uses port 9353"));
    assert!(
        lines[2].starts_with("tier.yaml:17: spec.nodeCache.capture: the older tier default captures 169.254.20.10")
    );
}

#[test]
fn the_example_is_valid_and_so_is_a_file_with_other_kinds_and_lists() {
    let list = "\
kind: List
items:
- {kind: ConfigMap}
- apiVersion: dnstier.io/v1alpha1
  kind: DnsTier
  metadata: {name: a}
  spec:
    nodeCache: {instances: 2}
";
    for text in [EXAMPLE, &format!("kind: Service\nspec: [1]\n---\n{EXAMPLE}"), list, &file("")] {
        let report = validated(text);
        assert_eq!(report, Report::default(), "{text}");
    }
    let report = validated(&list.replace("instances: 2", "instances: 9"));
    assert_eq!(
        (report.output.as_str(), report.code),
        ("tier.yaml:8: spec.nodeCache.instances: should be less than or equal to 8\n", 1)
    );
}

#[test]
fn an_example_that_was_copied_with_its_indentation_is_valid() {
    let notes = include_str!("../../../charts/dnstier/templates/NOTES.txt");
    let copied: String = notes
        .lines()
        .skip_while(|line| !line.ends_with("<<YAML"))
        .skip(1)
        .take_while(|line| line.trim() != "YAML")
        .map(|line| format!("  {line}\n"))
        .collect();
    assert!(copied.starts_with("  apiVersion: dnstier.io/"), "{copied}");
    assert_eq!(validated(&copied), Report::default());
    let report = validated(&copied.replace("spec: {}", "spec: {clusterDomain: X}"));
    assert!(report.output.starts_with("tier.yaml:4: spec.clusterDomain"), "{report:?}");
}

#[test]
fn a_file_that_is_no_yaml_or_has_no_tier_does_not_pass() {
    let report = validated("kind: DnsTier\n  spec: [\n");
    assert_eq!(report.code, 1, "{report:?}");
    assert!(report.output.starts_with("tier.yaml:"), "{report:?}");
    let report = validated("kind: Service\n");
    assert_eq!((report.notes.as_str(), report.code), ("error: tier.yaml has no DnsTier\n", 2));
    let report = validate("", Path::new("-"), &planned(&[]), &settings());
    assert_eq!(report.notes, "error: stdin has no DnsTier\n");
}

#[test]
fn other_versions_and_names_that_come_twice_are_refused() {
    let other = file("{}").replace("v1alpha1", "v1beta1");
    assert_eq!(validated(&other).output, "tier.yaml:1: apiVersion: must be dnstier.io/v1alpha1\n");
    let twice = format!("{}---\n{}", file("{}"), file("{}"));
    assert_eq!(validated(&twice).output, "tier.yaml:8: metadata.name: default is in this file twice\n");
}

#[test]
fn zones_that_were_named_and_are_missing_are_warned_of() {
    let text = file("{resolvers: {zones: [zone-a, zone-x]}}");
    assert_eq!(validated(&text), Report::default());
    let report = validate(&text, Path::new("tier.yaml"), &planned(&["--zones=zone-a,zone-b"]), &settings());
    assert_eq!(report.code, 0);
    assert!(report.output.starts_with("tier.yaml:4: warning: spec.resolvers.zones: no Linux node"), "{report:?}");
}

#[test]
fn the_example_gives_these_objects() {
    let report = render(EXAMPLE, Path::new("tier.yaml"), &planned(&[]), &settings()).unwrap();
    assert_eq!((report.notes.as_str(), report.code), ("", 0));
    insta::assert_snapshot!(report.output);
}

#[test]
fn what_is_printed_is_yaml_of_the_same_objects_each_time() {
    let text = format!("{}---\n{}", file("{}"), EXAMPLE.replace("name: default", "name: second"))
        .replace("nodeCache:", "nodeCache:\n    metricsPort: 9354\n    capture: {addresses: [169.254.20.11]}");
    let first = render(&text, Path::new("tier.yaml"), &planned(&[]), &settings()).unwrap();
    assert_eq!(first, render(&text, Path::new("tier.yaml"), &planned(&[]), &settings()).unwrap());
    assert_eq!(first.code, 0, "{}", first.notes);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&first.output).unwrap();
    let tiers = TierFile::read(&text).tiers;
    let mut expected = Vec::new();
    for each in &tiers {
        let others: Vec<DnsTier> = Vec::new();
        let settled = settle(&planned(&[]).observe(&each.tier, &others, &settings()), &settings()).unwrap();
        expected.extend(bodies(&settled.objects).unwrap());
    }
    assert_eq!(objects.len(), expected.len());
    assert_eq!(objects, expected);
}

#[test]
fn a_text_that_looks_like_something_else_stays_a_text_for_older_parsers_too() {
    for text in
        ["on", "y", "no", "1e3", "0o7", "0755", "1_000", "12:30", "~", "null", "0x1f", "2026-01-01", ".5", "=", "<<"]
    {
        let yaml = to_yaml(&json!({"a": text})).unwrap();
        assert!(yaml.contains(['"', '\'']), "{yaml}");
    }
}

#[test]
fn a_zone_more_changes_no_object_of_the_others() {
    let objects = |zones: &str| -> Vec<Value> {
        let report = render(&file("{}"), Path::new("tier.yaml"), &planned(&[zones]), &settings()).unwrap();
        serde_saphyr::from_multiple(&report.output).unwrap()
    };
    let (two, three) = (objects("--zones=a,b"), objects("--zones=a,b,c"));
    let missing: Vec<&Value> = two.iter().filter(|object| !three.contains(object)).collect();
    assert!(missing.iter().all(|object| object["kind"] == "ConfigMap"), "{missing:#?}");
}

#[test]
fn nothing_is_printed_of_a_file_with_an_invalid_tier() {
    let text = format!("{EXAMPLE}---\n{}", file("{nodeCache: {instances: 0}}").replace("default", "second"));
    let report = render(&text, Path::new("tier.yaml"), &planned(&[]), &settings()).unwrap();
    assert_eq!((report.output.as_str(), report.code), ("", 1));
    assert!(report.notes.contains("spec.nodeCache.instances: should be greater than or equal to 1"), "{report:?}");
}

/// Returns a cluster with an operator that has come to rest, and a client of it.
async fn cluster_at_rest() -> (FakeCluster, Client) {
    let cluster = FakeCluster::start(|_| None).await;
    drop(start_operator(&cluster, Leadership::permanent()));
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    let client = cluster.api.client(Limits::OPERATOR);
    (cluster, client)
}

async fn diff_of(client: &Client, spec: &str) -> Report {
    diff(&file(spec), Path::new("tier.yaml"), client, &settings()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operator_has_applied_is_no_difference() {
    let (cluster, client) = cluster_at_rest().await;
    let requests = cluster.requests().len();
    let report = diff_of(&client, "{}").await;
    assert_eq!((report.output.as_str(), report.code), ("", 0));
    assert_eq!(report.notes, "DnsTier default: 0 created, 0 changed, 0 deleted\n");
    let requests = cluster.requests().split_off(requests);
    let own: Vec<&FakeRequest> = requests.iter().filter(|request| request.method != "GET").collect();
    assert!(own.iter().all(|request| request.uri.contains("status")), "{own:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_changes_shows_in_the_objects_that_it_changes_and_nothing_is_written() {
    let (cluster, client) = cluster_at_rest().await;
    let before = (cluster.list(DAEMON_SETS), cluster.list(CONFIG_MAPS));
    let report = diff_of(&client, "{nodeCache: {instances: 3, cache: {maxTtl: 5m}}}").await;
    assert_eq!(report.code, 1);
    assert_eq!(report.notes, "DnsTier default: 0 created, 3 changed, 0 deleted\n");
    for part in [
        "+++ MERGED/apps.v1.DaemonSet.dnstier-node.dnstier-default-node-cache\n",
        "+++ MERGED/v1.ConfigMap.dnstier-node.dnstier-default-revisions\n",
        "+++ MERGED/v1.ConfigMap.dnstier-system.dnstier-default-revisions\n",
        "+        name: cache-2\n",
        "-          \"maxTtl\": 3600,\n",
        "+          \"maxTtl\": 300,\n",
    ] {
        assert!(report.output.contains(part), "{part:?} is not in\n{}", report.output);
    }
    assert!(!report.output.contains("/dev/null"), "{}", report.output);
    assert!(report.output.lines().count() < 300, "what stays the same is left out");
    assert_eq!((cluster.list(DAEMON_SETS), cluster.list(CONFIG_MAPS)), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_not_wanted_any_more_shows_as_deleted() {
    let (_cluster, client) = cluster_at_rest().await;
    let report = diff_of(&client, "{resolvers: {zones: [zone-a, zone-b]}}").await;
    assert_eq!(report.code, 1);
    assert_eq!(report.notes, "DnsTier default: 0 created, 2 changed, 4 deleted\n", "{}", report.output);
    let deleted = report.output.matches("+++ /dev/null\n").count();
    assert_eq!(deleted, 4, "{}", report.output);
    assert!(report.output.contains("-    dnstier.io/zone: zone-c\n"), "{}", report.output);
    assert!(!report.output.contains("empty-since"), "{}", report.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_is_not_there_yet_shows_as_created() {
    let cluster = FakeCluster::start(|_| None).await;
    put_objects(&cluster);
    let client = cluster.api.client(Limits::OPERATOR);
    let second = file("{nodeCache: {metricsPort: 9354, capture: {addresses: [169.254.20.11]}}}");
    let second = second.replace("name: default", "name: second");
    let report = diff(&second, Path::new("tier.yaml"), &client, &settings()).await.unwrap();
    assert_eq!(report.code, 1);
    assert!(report.notes.ends_with(" created, 0 changed, 0 deleted\n"), "{}", report.notes);
    assert!(report.output.contains("--- /dev/null\n+++ MERGED/apps.v1.DaemonSet."), "{}", report.output);
    for request in cluster.requests() {
        let is_list = request.method == "GET" && !request.path().ends_with("/kube-dns");
        let is_dry_run = request.method == "PATCH" && request.uri.contains("dryRun=All");
        assert!(is_list || is_dry_run, "{request:?} is more than the operator may do, or is a write");
    }
    // It is younger than the tier that is there, whose addresses it may not take.
    let report = diff(&second.replace("9354", "9353"), Path::new("tier.yaml"), &client, &settings()).await.unwrap();
    assert_eq!((report.output.as_str(), report.code), ("", 2));
    assert!(report.notes.contains("tier.yaml:4: spec.nodeCache.metricsPort: the older tier default"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_of_another_release_is_not_compared() {
    let cluster = FakeCluster::start(|_| None).await;
    put_objects(&cluster);
    cluster.merge(TIERS, "default", json!({"status": {"operator": {"namespace": "elsewhere"}}}));
    let client = cluster.api.client(Limits::OPERATOR);
    let error = diff(&file("{}"), Path::new("tier.yaml"), &client, &settings()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to the release in namespace elsewhere"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_server_would_refuse_is_an_error() {
    let cluster = FakeCluster::start(|request| {
        let is_refused = request.method == "PATCH" && request.path().contains("/daemonsets/");
        is_refused.then(|| Reply::refusal(403, "denied request: image x is not admitted"))
    })
    .await;
    put_objects(&cluster);
    let client = cluster.api.client(Limits::OPERATOR);
    let error = diff(&file("{}"), Path::new("tier.yaml"), &client, &settings()).await.unwrap_err().to_string();
    assert!(error.contains("cannot apply DaemonSet dnstier-node/dnstier-default-node-cache: denied"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rendered_is_what_the_operator_sends() {
    let cluster = FakeCluster::start(|_| None).await;
    put_objects(&cluster);
    let client = cluster.api.client(Limits::OPERATOR);
    let settings = settings();
    let before = LiveCluster::read(&client, &settings).await.unwrap();
    let live = tier("default", "2026-01-01T00:00:00Z", "{}");
    let settled = settle(&before.observe(&live, &[]).await.unwrap(), &settings).unwrap();
    drop(start_operator(&cluster, Leadership::permanent()));
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    let requests = cluster.requests();
    let sent = |body: &Value| {
        let name = body["metadata"]["name"].as_str().unwrap();
        let is_of = |request: &&FakeRequest| {
            request.method == "PATCH"
                && request.path().ends_with(&format!("/{name}"))
                && request.body["kind"] == body["kind"]
                && request.body["metadata"]["namespace"] == body["metadata"]["namespace"]
        };
        requests.iter().rfind(is_of).map(|request| request.body.clone())
    };
    let bodies = bodies(&settled.objects).unwrap();
    assert!(bodies.len() > 20, "{}", bodies.len());
    for body in &bodies {
        let sent = sent(body).unwrap_or_else(|| panic!("{body:#} was not sent"));
        if body["kind"] == "ConfigMap" {
            // Its addresses are placeholders.
            assert_eq!(sent["metadata"]["labels"], body["metadata"]["labels"]);
        } else {
            assert_eq!(&sent, body);
        }
    }
    let applied = requests.iter().filter(|request| request.method == "PATCH" && !request.path().starts_with(TIERS));
    let applied: Vec<&Value> = applied.map(|request| &request.body).collect();
    for object in &applied {
        let is_rendered =
            |body: &Value| body["kind"] == object["kind"] && body["metadata"]["name"] == object["metadata"]["name"];
        assert!(bodies.iter().any(is_rendered), "{object:#} is not rendered");
    }
    let kinds = |objects: &[&Value]| {
        let mut kinds: Vec<Value> = Vec::new();
        for object in objects {
            if !kinds.contains(&object["kind"]) {
                kinds.push(object["kind"].clone());
            }
        }
        kinds
    };
    assert_eq!(kinds(&bodies.iter().collect::<Vec<_>>()), kinds(&applied), "the order is another one");
}
