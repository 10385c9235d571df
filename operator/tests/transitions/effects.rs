//! Effects of a spec: the parts of a world that a field can move, and which of them it may move as
//! `docs/what-a-change-moves.md` tells.

use std::collections::{BTreeMap, BTreeSet};

use node_cache_config::names::{REVISION_ANNOTATION, revision_key};
use node_cache_config::{Config, part_fingerprints};
use serde_json::{Value, json};

use crate::common::objects::Objects;

const TABLE: &str = include_str!("../../../docs/what-a-change-moves.md");
const COMPONENT: &str = "app.kubernetes.io/component";
const INSTANCE: &str = "app.kubernetes.io/instance";
const REVISIONS: &str = "dnstier.io/revisions";

/// Part of a world that a field can move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    NodeRevision,
    ResolverRevision,
    NodeTemplate,
    ResolverTemplate,
    Nodes,
    Resolvers,
    Services,
}

/// Effects of a spec that a world shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effects(BTreeMap<Part, BTreeMap<String, Value>>);

impl Effects {
    /// Returns what a world shows.
    pub(crate) fn of(world: &str, objects: &Objects) -> Self {
        let owned = objects.select(|_, object| object["metadata"]["labels"][INSTANCE] == world);
        let mut parts: BTreeMap<Part, BTreeMap<String, Value>> = BTreeMap::new();
        let mut put = |part, name: &str, value| parts.entry(part).or_default().insert(name.to_owned(), value);
        for ((kind, _, name), object) in &owned {
            let spec = &object["spec"];
            match *kind {
                "ConfigMap" => {
                    let Some((nodes, resolvers)) = fingerprints(object) else { continue };
                    if object["metadata"]["labels"][COMPONENT] == "node-cache" {
                        put(Part::NodeRevision, "nodes", json!(nodes));
                    } else {
                        put(Part::ResolverRevision, "resolvers", json!(resolvers));
                    }
                }
                "DaemonSet" => drop(put(Part::NodeTemplate, name, spec["template"].clone())),
                "Deployment" => {
                    // Templates of all zones are alike but for the name of the zone.
                    put(Part::ResolverTemplate, name, spec["template"].clone());
                    put(Part::Resolvers, name, spec["replicas"].clone());
                }
                "Pod" if object["metadata"]["labels"][COMPONENT] == "node-cache" => {
                    put(Part::Nodes, spec["nodeName"].as_str().unwrap_or_default(), json!(true));
                }
                "Service" => {
                    let metadata = &object["metadata"];
                    let shown = json!({"selector": spec["selector"], "ports": spec["ports"]});
                    put(Part::Services, &format!("{}/{name}", metadata["namespace"]), shown);
                }
                _ => {}
            }
        }
        Self(parts)
    }

    /// Returns the parts that differ. A template of a zone that is new or gone is no change of templates.
    pub(crate) fn moved_since(&self, before: &Self) -> BTreeSet<Part> {
        let parts: BTreeSet<Part> = self.0.keys().chain(before.0.keys()).copied().collect();
        let is_moved = |part: &Part| {
            let (old, new) = (before.0.get(part), self.0.get(part));
            if *part == Part::ResolverTemplate
                && let (Some(old), Some(new)) = (old, new)
            {
                return old.iter().any(|(name, template)| new.get(name).is_some_and(|other| other != template));
            }
            old != new
        };
        parts.into_iter().filter(is_moved).collect()
    }

    /// Returns the differences, one line for each.
    pub(crate) fn differences(&self, before: &Self) -> Vec<String> {
        let moved = self.moved_since(before).into_iter();
        moved.map(|part| format!("{part:?}\n    {:?}\n    {:?}", before.0.get(&part), self.0.get(&part))).collect()
    }
}

/// Returns the fingerprints of both parts of the newest revision of a ConfigMap.
fn fingerprints(object: &Value) -> Option<(String, String)> {
    let newest = object["metadata"]["annotations"][REVISIONS].as_str()?.split(',').next()?;
    let config = Config::from_json(object["data"][revision_key(newest)].as_str()?.as_bytes()).ok()?;
    let parts = part_fingerprints(&config);
    Some((parts.nodes, parts.resolvers))
}

/// Returns what each pod of a world is asked to run, by the names of the pods.
pub(crate) fn asked(world: &str, objects: &Objects) -> BTreeMap<String, Value> {
    let pods = objects.select(|key, object| key.0 == "Pod" && object["metadata"]["labels"][INSTANCE] == world);
    pods.into_iter()
        .map(|((.., name), pod)| (name, pod["metadata"]["annotations"][REVISION_ANNOTATION].clone()))
        .collect()
}

/// Returns the parts that a field may move: those of its row, or of the row of an object around it.
pub(crate) fn movable(path: &str) -> Option<BTreeSet<Part>> {
    let plain = |path: &str| path.replace("[]", "").replace("{}", "");
    let path = plain(path);
    let is_around = |field: &str| path == field || path.starts_with(&format!("{field}."));
    let of_fields = |field: &str| field.starts_with(&format!("{path}."));
    let rows = TABLE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows: Vec<(String, &str)> = rows.map(|(field, text)| (plain(field), text)).collect();
    // An object that is removed or set whole moves what its fields move.
    let row = rows.iter().filter(|(field, _)| is_around(field)).max_by_key(|(field, _)| field.len());
    let texts: Vec<&str> = match row {
        Some((_, text)) => vec![text],
        None => rows.iter().filter(|(field, _)| of_fields(field)).map(|(_, text)| *text).collect(),
    };
    (!texts.is_empty()).then(|| texts.into_iter().flat_map(parts_of).collect())
}

fn parts_of(text: &str) -> Vec<Part> {
    let words = [
        ("node revision", Part::NodeRevision),
        ("resolver revision", Part::ResolverRevision),
        ("node template", Part::NodeTemplate),
        ("resolver template", Part::ResolverTemplate),
        ("the number of resolvers", Part::Resolvers),
        ("resolvers of these zones", Part::Resolvers),
        ("Services", Part::Services),
    ];
    let mut parts: Vec<Part> = words.iter().filter(|(word, _)| text.contains(word)).map(|(_, part)| *part).collect();
    // Nodes that run the caches: "nodes of resolvers" show in templates and zones.
    if text.starts_with("nodes,") {
        parts.push(Part::Nodes);
    }
    parts
}

#[test]
fn the_documentation_tells_what_a_field_moves() {
    let of = |path: &str| movable(path).map(|parts| parts.into_iter().collect::<Vec<_>>());
    assert_eq!(of("routes[].upstreams[].port"), Some(vec![Part::NodeRevision]));
    assert_eq!(of("nodeCache.cache.size"), Some(vec![Part::NodeTemplate]));
    assert_eq!(of("nodeCache.cache"), Some(vec![Part::NodeRevision, Part::NodeTemplate]));
    let of_nodes = vec![Part::NodeTemplate, Part::Nodes];
    let of_resolvers = vec![Part::NodeRevision, Part::ResolverTemplate, Part::Resolvers, Part::Services];
    for field in ["nodeSelector{}", "affinity.nodeAffinity", "tolerations[].key"] {
        assert_eq!(of(&format!("nodeCache.{field}")), Some(of_nodes.clone()), "{field} moves no zone");
        assert_eq!(of(&format!("resolvers.{field}")), Some(of_resolvers.clone()), "{field} moves zones");
    }
    assert_eq!(of("resolvers.zones"), Some(vec![Part::NodeRevision, Part::Resolvers, Part::Services]));
    assert_eq!(of("rollout.soak"), Some(Vec::new()));
    assert_eq!(of("unknown"), None);
    let without: Vec<String> =
        crate::schema::fields().into_iter().map(|field| field.path).filter(|path| movable(path).is_none()).collect();
    assert_eq!(without, Vec::<String>::new(), "fields without a row in docs/what-a-change-moves.md");
}
