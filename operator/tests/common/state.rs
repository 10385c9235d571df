//! State of a world in a form that two runs have in common: without versions, times, and what the API server chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use node_cache_config::names::REVISION_ANNOTATION;
use node_cache_config::{Config, PartFingerprints, part_fingerprints};
use serde_json::{Value, json};

use super::objects::{Key, Objects};

const APPLIED: &str = "dnstier.io/applied";
const REVISIONS: &str = "dnstier.io/revisions";
const COMPONENT: &str = "app.kubernetes.io/component";
const RECORD: &str = "record.json";
const ZONE: &str = "dnstier.io/zone";
/// Annotations of the operator on a pod, beside the revision.
const POD_ANNOTATIONS: [&str; 2] = ["dnstier.io/zone", "dnstier.io/resolvers-on-node"];

/// Objects of a world by their names, and the conditions of its tier.
pub(crate) type WorldState = BTreeMap<String, Value>;

/// Number of objects of each name that were ever made in a world, and that are gone.
pub(crate) type Counts = BTreeMap<String, (usize, usize)>;

/// Returns whether an object is one of the tier of a world, or its tier.
fn is_of_tier(world: &str, key: &Key, object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    match key.0 {
        _ if !key.1.starts_with(world) && key.2 != world => false,
        "DnsTier" => key.2 == world,
        "Node" => false,
        _ => {
            labels["app.kubernetes.io/managed-by"] == "dnstier-operator"
                && labels["app.kubernetes.io/instance"] == world
        }
    }
}

/// Returns the state of a world.
pub(crate) fn state_of(world: &str, objects: &Objects) -> WorldState {
    let of_world = objects
        .select(|key, object| is_of_tier(world, key, object) || (key.0 == "Service" && key.1.starts_with(world)));
    let replacements = replacements(world, &of_world);
    let of_tier = of_world.into_iter().filter(|(key, object)| is_of_tier(world, key, object));
    normalize(world, of_tier, &replacements)
}

/// Returns how many objects of each name were made in a world, and how many are gone.
pub(crate) fn counts_of(world: &str, objects: &Objects) -> Counts {
    let mut counts = Counts::new();
    for (key, object, is_gone) in objects.history(|key, object| is_of_tier(world, key, object)) {
        let (made, gone) = counts.entry(name_of(world, &key, &object)).or_default();
        *made += 1;
        *gone += usize::from(is_gone);
    }
    counts
}

/// Returns the name of an object in all worlds. Pods have the name of what they are for.
fn name_of(world: &str, key: &Key, object: &Value) -> String {
    let (kind, namespace, name) = key;
    let name = if *kind == "Pod" {
        let labels = &object["metadata"]["labels"];
        let text = |label: &str| labels[label].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text(COMPONENT), text(ZONE))
    } else {
        name.clone()
    };
    format!("{kind} {namespace}/{name}").replace(world, "world")
}

fn normalize(
    world: &str,
    objects: impl IntoIterator<Item = (Key, Arc<Value>)>,
    replacements: &[(String, String)],
) -> WorldState {
    let mut state = WorldState::new();
    let objects: Vec<(Key, Arc<Value>)> = objects.into_iter().collect();
    let revisions = Revisions::of(&objects);
    for (key, object) in objects {
        let name = name_of(world, &key, &object);
        let value = match key.0 {
            "Pod" => pod(&object, &revisions),
            "DnsTier" => tier(&object),
            _ => match object["data"][RECORD].as_str() {
                Some(text) => json!({"owners": owners(&object), "record": record(text, &revisions)}),
                None => owned(&object),
            },
        };
        let mut text = value.to_string();
        for (from, to) in replacements {
            text = text.replace(from, to);
        }
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if key.0 == "Pod" {
            // Pods of one workload are a set.
            let pods = state.entry(name).or_insert_with(|| json!([]));
            if let Some(pods) = pods.as_array_mut() {
                pods.push(value);
                pods.sort_by_key(Value::to_string);
            }
        } else {
            state.insert(name, value);
        }
    }
    state
}

/// Returns what stands for something else in each world, the longest first: addresses of Services, the revision in
/// force, and the name of the world.
fn replacements(world: &str, objects: &[(Key, Arc<Value>)]) -> Vec<(String, String)> {
    let mut replacements = vec![(world.to_owned(), "world".to_owned())];
    for (key, object) in objects {
        if let ("Service", Some(address)) = (key.0, object["spec"]["clusterIP"].as_str())
            && address != "None"
        {
            replacements.push((address.to_owned(), format!("<{}>", key.2.replace(world, "world"))));
        }
        if let Some(newest) = newest_revision(object) {
            replacements.push((newest.to_owned(), "<newest>".to_owned()));
        }
    }
    replacements.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    replacements.dedup();
    replacements
}

/// Parts of the configurations of a world, by their names.
#[derive(Default)]
struct Revisions {
    parts: BTreeMap<String, PartFingerprints>,
    newest: Option<PartFingerprints>,
}

impl Revisions {
    fn of(objects: &[(Key, Arc<Value>)]) -> Self {
        let mut revisions = Self::default();
        for (_, object) in objects {
            let Some(newest) = newest_revision(object) else { continue };
            for (key, json) in object["data"].as_object().into_iter().flatten() {
                let config = Config::from_json(json.as_str().unwrap_or_default().as_bytes());
                if let (Some(name), Ok(config)) = (key.strip_suffix(".json"), config) {
                    revisions.parts.insert(name.to_owned(), part_fingerprints(&config));
                }
            }
            revisions.newest = revisions.parts.get(newest).cloned();
        }
        revisions
    }

    /// Returns what a pod of a component runs with this revision: the part of the newest, under whatever name, or
    /// another one. Under which name a part is known depends on how many revisions there were on the way.
    fn part(&self, revision: &Value, is_resolver: bool) -> Value {
        let Some(name) = revision.as_str() else { return Value::Null };
        let part = |parts: &PartFingerprints| if is_resolver { parts.resolvers.clone() } else { parts.nodes.clone() };
        match (self.parts.get(name).map(part), self.newest.as_ref().map(part)) {
            (Some(one), Some(other)) if one == other => json!("<newest>"),
            (Some(_), _) => json!(name),
            (None, _) => json!(format!("{name}, which is in no ConfigMap")),
        }
    }
}

/// Returns a record without times, its writer, and what its way has left.
fn record(text: &str, revisions: &Revisions) -> Value {
    let Ok(record) = serde_json::from_str::<Value>(text) else { return json!(text) };
    let revision = |which: &str| {
        let revision = &record[which];
        json!([revision["id"], revisions.part(&revision["nodes"], false), revisions.part(&revision["resolvers"], true)])
    };
    let rest = ["version", "step", "zone", "moved", "superseded", "rejections"].map(|key| record[key].clone());
    json!({"target": revision("target"), "proven": revision("proven"), "rest": rest})
}

fn owners(object: &Value) -> Vec<Value> {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.map(|owner| json!([owner["kind"], owner["name"]])).collect()
}

fn newest_revision(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][REVISIONS].as_str()?.split(',').next().filter(|newest| !newest.is_empty())
}

/// Returns an object without status, versions and older revisions. Which of those are kept depends on how many passes
/// it took.
fn owned(object: &Value) -> Value {
    let newest = newest_revision(object).map(str::to_owned);
    let metadata = &object["metadata"];
    let mut annotations = metadata["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|name, _| name.starts_with("dnstier.io/") && name != APPLIED);
    if let Some(newest) = &newest {
        annotations.insert(REVISIONS.to_owned(), json!(newest));
    }
    let mut data = object["data"].clone();
    if let (Some(newest), Some(data)) = (&newest, data.as_object_mut()) {
        data.retain(|key, _| key.starts_with(newest.as_str()) || key.starts_with("stable"));
    }
    json!({
        "labels": metadata["labels"],
        "annotations": annotations,
        "owners": owners(object),
        "isBeingDeleted": metadata["deletionTimestamp"].is_string(),
        "spec": object["spec"],
        "data": data,
    })
}

fn pod(object: &Value, revisions: &Revisions) -> Value {
    let is_resolver = object["metadata"]["labels"][COMPONENT] == "zone-resolver";
    let revision = &object["metadata"]["annotations"][REVISION_ANNOTATION];
    let annotations = POD_ANNOTATIONS.map(|name| object["metadata"]["annotations"][name].clone());
    json!({
        "node": object["spec"]["nodeName"],
        "revision": revisions.part(revision, is_resolver),
        "annotations": annotations,
        "phase": object["status"]["phase"],
        "isBeingDeleted": object["metadata"]["deletionTimestamp"].is_string(),
    })
}

fn tier(object: &Value) -> Value {
    let status = &object["status"];
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<Value> = conditions.map(|each| json!([each["type"], each["status"], each["reason"]])).collect();
    let rollout = ["kind", "target", "step", "zone", "moved", "total"].map(|key| status["rollout"][key].clone());
    let revision = &status["revision"];
    json!({
        "spec": object["spec"], "conditions": conditions, "operator": status["operator"], "revision": revision,
        "rollout": rollout,
    })
}

/// Returns whether the tier of a world says that its newest spec is rolled out and nothing is left to do.
pub(crate) fn is_at_rest(world: &str, objects: &Objects) -> bool {
    let Some(tier) = objects.get("DnsTier", "", world) else { return false };
    let has = |type_: &str, status: &str| {
        tier["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
            condition["type"] == type_
                && condition["status"] == status
                && condition["observedGeneration"] == tier["metadata"]["generation"]
        })
    };
    has("RolledOut", "True") && has("Ready", "True") && has("Progressing", "False") && has("Degraded", "False")
}

/// Returns the step of the roll-out that the tier of a world shows.
pub(crate) fn step_of(world: &str, objects: &Objects) -> Option<String> {
    let tier = objects.get("DnsTier", "", world)?;
    Some(tier["status"]["rollout"]["step"].as_str()?.to_owned())
}

/// Returns how two states differ, one line for each object; empty when they are the same.
pub(crate) fn differences(expected: &WorldState, found: &WorldState) -> Vec<String> {
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        match (expected.get(name), found.get(name)) {
            (Some(_), None) => lines.push(format!("- {name} is missing")),
            (None, Some(_)) => lines.push(format!("+ {name} is there")),
            (Some(one), Some(other)) if one != other => lines.push(format!("~ {name}\n    {one}\n    {other}")),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
fn config_map(address: &str, revisions: &str) -> (Key, Arc<Value>) {
    let newest = revisions.split(',').next().unwrap();
    let object = json!({
        "metadata": {"uid": address, "annotations": {REVISIONS: revisions, APPLIED: revisions}},
        "data": {format!("{newest}.json"): address, "stable.json": address, "older.json": "x"},
    });
    (("ConfigMap", "w1-node".to_owned(), "w1-revisions".to_owned()), Arc::new(object))
}

#[cfg(test)]
fn service(world: &str, address: &str) -> (Key, Arc<Value>) {
    let object = json!({"metadata": {"uid": address}, "spec": {"clusterIP": address, "clusterIPs": [address]}});
    (("Service", format!("{world}-node"), format!("{world}-vip")), Arc::new(object))
}

#[test]
fn worlds_that_differ_in_what_the_api_server_chooses_are_the_same() {
    let state = |objects: Vec<(Key, Arc<Value>)>| normalize("w1", objects.clone(), &replacements("w1", &objects));
    let one = state(vec![service("w1", "10.96.0.1"), config_map("10.96.0.1", "aa,bb")]);
    let other = state(vec![service("w1", "10.96.0.17"), config_map("10.96.0.17", "cc")]);
    assert_eq!(differences(&one, &other), Vec::<String>::new());
    assert!(one.contains_key("Service world-node/world-vip"), "{one:?}");
    let without = state(vec![config_map("10.96.0.1", "aa,bb")]);
    assert_eq!(differences(&one, &without).len(), 2, "the Service, and the revision that names no address of it");
}

#[test]
fn records_of_two_ways_to_the_same_end_are_the_same() {
    let config = include_str!("../../../examples/config.json");
    let revisions = |names: [&str; 2]| {
        let data = json!({format!("{}.json", names[0]): config, format!("{}.json", names[1]): config});
        json!({"metadata": {"annotations": {REVISIONS: names.join(",")}}, "data": data})
    };
    let object = Arc::new(revisions(["aa", "bb"]));
    let revisions = Revisions::of(&[(("ConfigMap", "w1-node".to_owned(), "w1-revisions".to_owned()), object)]);
    let of = |nodes: &str, since: &str, step: &str| {
        let revision = json!({"id": "aa", "nodes": nodes, "resolvers": "aa"});
        let text = json!({"target": revision, "proven": revision, "step": step, "since": since, "writer": since});
        record(&text.to_string(), &revisions)
    };
    assert_eq!(of("aa", "1", "Done"), of("bb", "2", "Done"));
    assert_ne!(of("aa", "1", "Done"), of("aa", "1", "Finish"));
    assert_ne!(of("aa", "1", "Done"), of("cc", "1", "Done"), "a revision that is in no ConfigMap");
}
