//! ConfigMaps of the revisions: the newest revision and a history, one key each.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use node_cache_config::names::{STABLE_REVISION, revision_key};

use crate::controller::desired::config::RenderedRevision;
use crate::controller::desired::meta::owned_meta;
use crate::controller::owned::{OwnedObjects, labels, names, revision_history};
use crate::controller::rollout::pods::Role;
use crate::controller::rollout::revision::known_revisions;
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// Maximum number of revisions, the newest included, unless more of them are in use.
const MAX_REVISIONS: usize = 5;
/// Maximum size of the older revisions that are not in use, in bytes: every node reads the ConfigMap at each write.
const MAX_UNUSED_BYTES: usize = 16 * 1024;
/// Maximum size of all older revisions in bytes. The newest revision is in the ConfigMap twice, and the API server
/// accepts a mebibyte.
const MAX_HISTORY_BYTES: usize = 700 * 1024;

/// Builds the ConfigMaps of both namespaces: the newest revision under its identifier and as `stable`, and older ones.
///
/// Revisions in use stay, those first with which the proven one runs; of the others, the newest ones stay.
#[must_use]
pub(super) fn config_maps(
    tier: &ValidatedTier,
    settings: &Settings,
    newest: &RenderedRevision,
    existing: &OwnedObjects,
    in_use: &BTreeSet<String>,
) -> Vec<ConfigMap> {
    let name = names::revisions(&tier.name);
    let mut namespaces = vec![
        (&settings.node_namespace, labels::COMPONENT_NODE_CACHE),
        (&settings.namespace, labels::COMPONENT_ZONE_RESOLVER),
    ];
    if settings.node_namespace == settings.namespace {
        namespaces.truncate(1);
    }
    namespaces
        .into_iter()
        .map(|(namespace, component)| {
            let previous = existing.config_map(namespace, &name);
            // One that is not there gets the history of the other: a release in another namespace has taken the tier
            // over, or somebody has deleted it.
            let source = previous.or_else(|| existing.config_maps.iter().find(|other| other.name_any() == name));
            let revisions = retain_revisions(newest, source, in_use);
            let mut metadata =
                owned_meta(tier, namespace, name.clone(), labels::component_labels(&tier.name, component));
            let history: Vec<&str> = revisions.iter().map(|revision| revision.id.as_str()).collect();
            metadata.annotations = Some(BTreeMap::from([(labels::REVISIONS.to_owned(), history.join(","))]));
            // Makes the API server refuse the write with a conflict when the history was read before its last change.
            metadata.resource_version = previous.and_then(ResourceExt::resource_version);
            let mut data: BTreeMap<String, String> =
                revisions.into_iter().map(|revision| (revision_key(&revision.id), revision.json)).collect();
            data.insert(revision_key(STABLE_REVISION), newest.json.clone());
            ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
        })
        .collect()
}

/// Sets the revision with which pods start that were not told any. One that is lost is not replaced: its key stays as
/// it was.
pub(super) fn set_stable(config_map: &mut ConfigMap, existing: &OwnedObjects, stable: &str) {
    let (key, stable_key) = (revision_key(stable), revision_key(STABLE_REVISION));
    let Some(data) = &mut config_map.data else { return };
    let of_others = || existing.config_maps.iter().filter_map(|other| other.data.as_ref());
    let json = data.get(&key).cloned().or_else(|| of_others().find_map(|data| data.get(&key).cloned()));
    let json = json.or_else(|| of_others().find_map(|data| data.get(&stable_key).cloned()));
    if let Some(json) = json {
        data.insert(stable_key, json);
    }
}

/// Returns the patches that make another revision the one with which pods start that were not told any, at the versions
/// that were read: of the ConfigMaps that have its key and start pods with another one.
pub(super) fn stable_patches(existing: &OwnedObjects, stable: &str) -> Vec<ConfigMap> {
    let (key, stable_key) = (revision_key(stable), revision_key(STABLE_REVISION));
    let patch = |config_map: &ConfigMap| {
        let data = config_map.data.as_ref()?;
        let json = data.get(&key).filter(|json| data.get(&stable_key) != Some(*json))?;
        let metadata = ObjectMeta {
            name: config_map.metadata.name.clone(),
            namespace: config_map.namespace(),
            resource_version: config_map.resource_version(),
            ..ObjectMeta::default()
        };
        let data = BTreeMap::from([(stable_key.clone(), json.clone())]);
        Some(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
    };
    existing.config_maps.iter().filter_map(patch).collect()
}

/// Returns the revisions of the next ConfigMap, the newest first.
fn retain_revisions(
    newest: &RenderedRevision,
    previous: Option<&ConfigMap>,
    in_use: &BTreeSet<String>,
) -> Vec<RenderedRevision> {
    let data = previous.and_then(|previous| previous.data.as_ref());
    let older = previous.into_iter().flat_map(revision_history).filter(|revision| *revision != newest.id);
    let older: Vec<(&str, &String)> =
        older.filter_map(|revision| Some((revision, data?.get(&revision_key(revision))?))).collect();
    let (mut used, unused): (Vec<_>, Vec<_>) =
        older.iter().copied().partition(|(revision, _)| in_use.contains(*revision));
    let unused = unused.into_iter().take((MAX_REVISIONS - 1).saturating_sub(used.len()));
    if used.iter().map(|(_, json)| json.len()).sum::<usize>() > MAX_HISTORY_BYTES {
        let proven = previous.map(|previous| proven_names(previous, &used)).unwrap_or_default();
        used.sort_by_key(|(revision, _)| !proven.contains(*revision));
    }
    // Those in use come first: a pod may start with one of them again.
    let (mut retained, remaining_bytes) = fitting(used.into_iter(), MAX_HISTORY_BYTES);
    retained.extend(fitting(unused, MAX_UNUSED_BYTES.min(remaining_bytes)).0);
    let older = older.into_iter().filter(|(revision, _)| retained.contains(revision));
    let older = older.map(|(revision, json)| RenderedRevision { id: revision.to_owned(), json: json.clone() });
    std::iter::once(newest.clone()).chain(older).collect()
}

/// Returns the names under which pods run the proven revision: that of the key `stable`, and for each part the oldest
/// name with the same one, since a part that does not change keeps its name. `used` has the newest names first.
fn proven_names(config_map: &ConfigMap, used: &[(&str, &String)]) -> BTreeSet<String> {
    let (known, stable) = known_revisions(config_map);
    let Some(stable) = stable else { return BTreeSet::new() };
    let oldest = |role| {
        let is_same = |name: &&str| {
            known.iter().any(|revision| revision.id == **name && revision.part(role) == stable.part(role))
        };
        used.iter().rev().map(|(name, _)| *name).find(is_same).map(str::to_owned)
    };
    [Role::Node, Role::Resolver].into_iter().filter_map(oldest).chain([stable.id.clone()]).collect()
}

/// Returns the first revisions that fit into a size, and how many bytes remain.
fn fitting<'a>(revisions: impl Iterator<Item = (&'a str, &'a String)>, max_bytes: usize) -> (BTreeSet<&'a str>, usize) {
    let mut remaining_bytes = max_bytes;
    let fits = |(_, json): &(&str, &String)| {
        let fits = json.len() <= remaining_bytes;
        remaining_bytes -= if fits { json.len() } else { 0 };
        fits
    };
    let fitting = revisions.filter(fits).map(|(revision, _)| revision).collect();
    (fitting, remaining_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures;
    use crate::controller::validate::validate;
    use node_cache_config::Config;
    use serde_json::json;

    fn rendered(id: &str) -> RenderedRevision {
        RenderedRevision { id: id.to_owned(), json: format!("{{\"{id}\":1}}") }
    }

    fn config_map_with(revisions: &[&str]) -> ConfigMap {
        let mut config_map = ConfigMap::default();
        config_map.annotations_mut().insert(labels::REVISIONS.to_owned(), revisions.join(","));
        config_map.data =
            Some(revisions.iter().map(|revision| (revision_key(revision), rendered(revision).json)).collect());
        config_map
    }

    fn ids(revisions: Vec<RenderedRevision>) -> Vec<String> {
        revisions.into_iter().map(|revision| revision.id).collect()
    }

    #[test]
    fn five_revisions_are_kept_and_the_oldest_goes() {
        let previous = config_map_with(&["e", "d", "c", "b", "a"]);
        assert_eq!(ids(retain_revisions(&rendered("f"), Some(&previous), &BTreeSet::new())), ["f", "e", "d", "c", "b"]);
    }

    #[test]
    fn a_revision_that_a_pod_names_stays_however_old_it_is() {
        let previous = config_map_with(&["e", "d", "c", "b", "a"]);
        let revisions = retain_revisions(&rendered("f"), Some(&previous), &BTreeSet::from(["a".to_owned()]));
        assert_eq!(ids(revisions), ["f", "e", "d", "c", "a"]);
        let all: BTreeSet<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        let revisions = retain_revisions(&rendered("f"), Some(&previous), &all);
        assert_eq!(ids(revisions), ["f", "e", "d", "c", "b", "a"]);
    }

    #[test]
    fn large_revisions_that_nobody_uses_are_not_kept() {
        let mut previous = config_map_with(&["d", "c", "b", "a"]);
        let large = "x".repeat(40 * 1024);
        for revision in ["d", "c", "b", "a"] {
            previous.data.as_mut().unwrap().insert(revision_key(revision), large.clone());
        }
        let in_use = BTreeSet::from(["c".to_owned(), "b".to_owned()]);
        assert_eq!(ids(retain_revisions(&rendered("e"), Some(&previous), &in_use)), ["e", "c", "b"]);
    }

    #[test]
    fn going_back_to_an_older_revision_makes_it_the_newest() {
        let previous = config_map_with(&["c", "b", "a"]);
        let revisions = retain_revisions(&rendered("a"), Some(&previous), &BTreeSet::new());
        assert_eq!(ids(revisions), ["a", "c", "b"]);
    }

    #[test]
    fn pods_start_with_the_proven_revision_which_is_kept_when_its_key_is_lost() {
        let stable_of = |config_map: &ConfigMap| config_map.data.as_ref().unwrap()["stable.json"].clone();
        let mut config_map = config_map_with(&["b", "a"]);
        set_stable(&mut config_map, &OwnedObjects::default(), "a");
        assert_eq!(stable_of(&config_map), rendered("a").json);
        let existing = OwnedObjects { config_maps: vec![config_map], ..OwnedObjects::default() };
        let mut next = config_map_with(&["c", "b"]);
        set_stable(&mut next, &existing, "a");
        assert_eq!(stable_of(&next), rendered("a").json);
        let mut lost = existing.clone();
        lost.config_maps[0].data.as_mut().unwrap().remove("a.json");
        let mut next = config_map_with(&["c", "b"]);
        set_stable(&mut next, &lost, "a");
        assert_eq!(stable_of(&next), rendered("a").json);
    }

    #[test]
    fn only_the_key_with_which_pods_start_is_patched_where_it_differs_and_the_revision_is_there() {
        let mut config_map = config_map_with(&["b", "a"]);
        config_map.metadata.name = Some("revisions".to_owned());
        config_map.metadata.resource_version = Some("7".to_owned());
        config_map.data.as_mut().unwrap().insert(revision_key(STABLE_REVISION), rendered("a").json);
        let existing = OwnedObjects { config_maps: vec![config_map], ..OwnedObjects::default() };
        assert_eq!((stable_patches(&existing, "a").len(), stable_patches(&existing, "c").len()), (0, 0));
        let [patch]: [ConfigMap; 1] = stable_patches(&existing, "b").try_into().unwrap();
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "revisions", "resourceVersion": "7"}, "data": {"stable.json": rendered("b").json},
        });
        assert_eq!(serde_json::to_value(patch).unwrap(), expected);
    }

    #[test]
    fn the_same_revision_again_changes_nothing() {
        let previous = config_map_with(&["c", "b", "a"]);
        assert_eq!(ids(retain_revisions(&rendered("c"), Some(&previous), &BTreeSet::new())), ["c", "b", "a"]);
    }

    #[test]
    fn older_revisions_never_make_the_object_too_large_to_be_written() {
        let mut previous = config_map_with(&["g", "f", "e", "d", "c", "b", "a"]);
        for text in previous.data.iter_mut().flat_map(|data| data.values_mut()) {
            *text = "x".repeat(150 * 1024);
        }
        let all: BTreeSet<String> = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).into();
        let revisions = retain_revisions(&rendered("h"), Some(&previous), &all);
        assert_eq!(ids(revisions), ["h", "g", "f", "e", "d"]);
    }

    #[test]
    fn the_proven_revision_stays_and_later_ones_go_for_it_when_there_is_no_room_for_all() {
        let observed = fixtures::serving("{}");
        let data = observed.owned.config_maps[0].data.clone().unwrap();
        let config = Config::from_json(data[&revision_key(STABLE_REVISION)].as_bytes()).unwrap();
        let large = |of_nodes: u32, of_resolvers: u32| {
            let mut config = config.clone();
            config.node_cache.cache.max_ttl = of_nodes;
            config.resolver.cache.max_ttl = of_resolvers;
            serde_json::to_string(&config).unwrap() + &" ".repeat(150 * 1024)
        };
        let mut previous = config_map_with(&["g", "f", "e", "d", "c", "b", "a"]);
        let data = previous.data.as_mut().unwrap();
        // Nodes are asked to run c and resolvers b, whose part is that of c; the later ones are for nodes alone.
        let parts = [("a", 1, 1), ("b", 2, 2), ("c", 3, 2), ("d", 4, 2), ("e", 5, 2), ("f", 6, 2), ("g", 7, 2)];
        data.extend(parts.map(|(revision, nodes, resolvers)| (revision_key(revision), large(nodes, resolvers))));
        data.insert(revision_key(STABLE_REVISION), large(3, 2));
        let all: BTreeSet<String> = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).into();
        assert_eq!(ids(retain_revisions(&rendered("h"), Some(&previous), &all)), ["h", "g", "f", "c", "b"]);
    }

    #[test]
    fn a_config_map_that_is_not_there_gets_the_revisions_in_use_of_the_other_namespace() {
        let (mut observed, settings) = (fixtures::serving("{}"), fixtures::settings());
        let tier = validate(&observed, &settings).unwrap();
        observed.owned.config_maps.retain(|other| other.namespace().as_ref() == Some(&settings.node_namespace));
        let [of_nodes] = observed.owned.config_maps.as_slice() else { panic!("one is left") };
        let proven = revision_history(of_nodes).next().unwrap().to_owned();
        let in_use = BTreeSet::from([proven.clone()]);
        let config_maps = config_maps(&tier, &settings, &rendered("new"), &observed.owned, &in_use);
        assert_eq!(config_maps.len(), 2);
        for config_map in &config_maps {
            let data = config_map.data.as_ref().unwrap();
            assert!(data.contains_key(&revision_key(&proven)) && data.contains_key(&revision_key("new")), "{data:?}");
        }
    }

    #[test]
    fn a_large_revision_in_use_stays_and_newer_ones_that_nobody_runs_go_for_it() {
        let mut previous = config_map_with(&["e", "d", "c", "b", "a"]);
        for text in previous.data.iter_mut().flat_map(|data| data.values_mut()) {
            *text = "x".repeat(6 * 1024);
        }
        previous.data.as_mut().unwrap().insert(revision_key("a"), "x".repeat(690 * 1024));
        let revisions = retain_revisions(&rendered("f"), Some(&previous), &BTreeSet::from(["a".to_owned()]));
        assert_eq!(ids(revisions), ["f", "e", "a"]);
    }
}
