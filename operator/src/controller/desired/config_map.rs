//! The ConfigMaps that hold the last revisions, one key each.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use node_cache_config::names::{STABLE_REVISION, revision_key};

use crate::controller::desired::child_meta;
use crate::controller::desired::config::Rendered;
use crate::controller::owned::Children;
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// How many revisions are kept although no pod names them, the newest included.
const KEPT: usize = 5;
/// How many bytes of older revisions fit beside the newest one, which is there twice; the API server takes a mebibyte.
const MOST_BYTES_OF_OLDER: usize = 700 * 1024;

/// The revisions in both namespaces: the newest one under its own name and as `stable`, and older ones.
///
/// A revision that a pod names stays; of the others the newest stay.
#[must_use]
pub(super) fn config_maps(
    tier: &ValidatedTier,
    settings: &Settings,
    newest: &Rendered,
    existing: &Children,
    named: &[String],
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
            let before = existing.config_map(namespace, &name);
            let kept = kept(newest, before, named);
            let mut metadata = child_meta(tier, namespace, name.clone(), labels::of(&tier.name, component));
            let history: Vec<&str> = kept.iter().map(|(revision, _)| revision.as_str()).collect();
            metadata.annotations = Some(BTreeMap::from([(labels::REVISIONS.to_owned(), history.join(","))]));
            // Whoever works from an older state than the one that is there is refused instead of undoing it.
            metadata.resource_version = before.and_then(ResourceExt::resource_version);
            let mut data: BTreeMap<String, String> =
                kept.into_iter().map(|(revision, json)| (revision_key(&revision), json)).collect();
            data.insert(revision_key(STABLE_REVISION), newest.json.clone());
            ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
        })
        .collect()
}

/// The newest revision of a ConfigMap.
#[must_use]
pub fn revision_in_force(config_map: &ConfigMap) -> Option<String> {
    history(config_map).next().map(str::to_owned)
}

fn history(config_map: &ConfigMap) -> impl Iterator<Item = &str> {
    let text = config_map.annotations().get(labels::REVISIONS).map_or("", String::as_str);
    text.split(',').filter(|revision| !revision.is_empty())
}

/// Revisions and their texts from the newest to the oldest.
fn kept(newest: &Rendered, before: Option<&ConfigMap>, named: &[String]) -> Vec<(String, String)> {
    let mut kept = vec![(newest.revision.clone(), newest.json.clone())];
    let Some((before, data)) = before.and_then(|before| Some((before, before.data.as_ref()?))) else { return kept };
    let older: Vec<&str> = history(before).filter(|revision| **revision != newest.revision).collect();
    let mut unnamed_left = (KEPT - 1).saturating_sub(older.iter().filter(|revision| is_named(named, revision)).count());
    let mut bytes_left = MOST_BYTES_OF_OLDER;
    for revision in older {
        let Some(json) = data.get(&revision_key(revision)) else { continue };
        let stays = is_named(named, revision) || unnamed_left > 0;
        if !stays || json.len() > bytes_left {
            continue;
        }
        if !is_named(named, revision) {
            unnamed_left -= 1;
        }
        bytes_left -= json.len();
        kept.push((revision.to_owned(), json.clone()));
    }
    kept
}

fn is_named(named: &[String], revision: &str) -> bool {
    named.iter().any(|name| name == revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(revision: &str) -> Rendered {
        Rendered { revision: revision.to_owned(), json: format!("{{\"{revision}\":1}}") }
    }

    fn holding(revisions: &[&str]) -> ConfigMap {
        let mut config_map = ConfigMap::default();
        config_map.annotations_mut().insert(labels::REVISIONS.to_owned(), revisions.join(","));
        config_map.data =
            Some(revisions.iter().map(|revision| (revision_key(revision), rendered(revision).json)).collect());
        config_map
    }

    fn names_of(kept: Vec<(String, String)>) -> Vec<String> {
        kept.into_iter().map(|(revision, _)| revision).collect()
    }

    #[test]
    fn five_revisions_are_kept_and_the_oldest_goes() {
        let before = holding(&["e", "d", "c", "b", "a"]);
        assert_eq!(names_of(kept(&rendered("f"), Some(&before), &[])), ["f", "e", "d", "c", "b"]);
    }

    #[test]
    fn a_revision_that_a_pod_names_stays_however_old_it_is() {
        let before = holding(&["e", "d", "c", "b", "a"]);
        assert_eq!(names_of(kept(&rendered("f"), Some(&before), &["a".to_owned()])), ["f", "e", "d", "c", "a"]);
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(names_of(kept(&rendered("f"), Some(&before), &all)), ["f", "e", "d", "c", "b", "a"]);
    }

    #[test]
    fn going_back_to_an_older_revision_makes_it_the_newest() {
        let before = holding(&["c", "b", "a"]);
        let kept = kept(&rendered("a"), Some(&before), &[]);
        assert_eq!(names_of(kept), ["a", "c", "b"]);
    }

    #[test]
    fn the_same_revision_again_changes_nothing() {
        let before = holding(&["c", "b", "a"]);
        assert_eq!(names_of(kept(&rendered("c"), Some(&before), &[])), ["c", "b", "a"]);
    }

    #[test]
    fn older_revisions_never_make_the_object_too_large_to_be_written() {
        let mut before = holding(&["g", "f", "e", "d", "c", "b", "a"]);
        for text in before.data.iter_mut().flat_map(|data| data.values_mut()) {
            *text = "x".repeat(150 * 1024);
        }
        let all: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).into();
        let kept = kept(&rendered("h"), Some(&before), &all);
        assert_eq!(names_of(kept), ["h", "g", "f", "e", "d"]);
    }
}
