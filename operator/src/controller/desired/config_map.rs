//! ConfigMaps of the revisions: the newest revision and a history, one key each.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use node_cache_config::names::{STABLE_REVISION, revision_key};

use crate::controller::desired::config::RenderedRevision;
use crate::controller::desired::meta::owned_meta;
use crate::controller::owned::{OwnedObjects, labels, names};
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// Maximum number of revisions, the newest included, unless pods name more of them in their annotations.
const MAX_REVISIONS: usize = 5;
/// Maximum size of all older revisions in bytes. The newest revision is in the ConfigMap twice, and the API server
/// accepts a mebibyte.
const MAX_HISTORY_BYTES: usize = 700 * 1024;

/// Builds the ConfigMaps of both namespaces: the newest revision under its identifier and as `stable`, and older ones.
///
/// Revisions that the annotation of a pod names stay; of the others, the newest ones stay.
#[must_use]
pub(super) fn config_maps(
    tier: &ValidatedTier,
    settings: &Settings,
    newest: &RenderedRevision,
    existing: &OwnedObjects,
    annotated_revisions: &[String],
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
            let revisions = retain_revisions(newest, previous, annotated_revisions);
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

/// Returns the newest revision of a ConfigMap, which is the one in force.
#[must_use]
pub(crate) fn active_revision(config_map: &ConfigMap) -> Option<String> {
    history(config_map).next().map(str::to_owned)
}

/// Returns the revisions of a ConfigMap, the newest first.
fn history(config_map: &ConfigMap) -> impl Iterator<Item = &str> {
    let text = config_map.annotations().get(labels::REVISIONS).map_or("", String::as_str);
    text.split(',').filter(|revision| !revision.is_empty())
}

/// Returns the revisions of the next ConfigMap, the newest first.
fn retain_revisions(
    newest: &RenderedRevision,
    previous: Option<&ConfigMap>,
    annotated_revisions: &[String],
) -> Vec<RenderedRevision> {
    let mut retained = vec![newest.clone()];
    let Some(previous) = previous else { return retained };
    let Some(data) = &previous.data else { return retained };
    let older: Vec<&str> = history(previous).filter(|revision| **revision != newest.id).collect();
    let is_annotated = |revision: &str| annotated_revisions.iter().any(|annotated| annotated == revision);
    let annotated = older.iter().filter(|revision| is_annotated(revision)).count();
    let mut remaining_unannotated = (MAX_REVISIONS - 1).saturating_sub(annotated);
    let mut remaining_bytes = MAX_HISTORY_BYTES;
    for revision in older {
        let Some(json) = data.get(&revision_key(revision)) else { continue };
        let is_retained = is_annotated(revision) || remaining_unannotated > 0;
        if !is_retained || json.len() > remaining_bytes {
            continue;
        }
        if !is_annotated(revision) {
            remaining_unannotated -= 1;
        }
        remaining_bytes -= json.len();
        retained.push(RenderedRevision { id: revision.to_owned(), json: json.clone() });
    }
    retained
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(ids(retain_revisions(&rendered("f"), Some(&previous), &[])), ["f", "e", "d", "c", "b"]);
    }

    #[test]
    fn a_revision_that_a_pod_names_stays_however_old_it_is() {
        let previous = config_map_with(&["e", "d", "c", "b", "a"]);
        let revisions = retain_revisions(&rendered("f"), Some(&previous), &["a".to_owned()]);
        assert_eq!(ids(revisions), ["f", "e", "d", "c", "a"]);
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        let revisions = retain_revisions(&rendered("f"), Some(&previous), &all);
        assert_eq!(ids(revisions), ["f", "e", "d", "c", "b", "a"]);
    }

    #[test]
    fn going_back_to_an_older_revision_makes_it_the_newest() {
        let previous = config_map_with(&["c", "b", "a"]);
        let revisions = retain_revisions(&rendered("a"), Some(&previous), &[]);
        assert_eq!(ids(revisions), ["a", "c", "b"]);
    }

    #[test]
    fn the_same_revision_again_changes_nothing() {
        let previous = config_map_with(&["c", "b", "a"]);
        assert_eq!(ids(retain_revisions(&rendered("c"), Some(&previous), &[])), ["c", "b", "a"]);
    }

    #[test]
    fn older_revisions_never_make_the_object_too_large_to_be_written() {
        let mut previous = config_map_with(&["g", "f", "e", "d", "c", "b", "a"]);
        for text in previous.data.iter_mut().flat_map(|data| data.values_mut()) {
            *text = "x".repeat(150 * 1024);
        }
        let all: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).into();
        let revisions = retain_revisions(&rendered("h"), Some(&previous), &all);
        assert_eq!(ids(revisions), ["h", "g", "f", "e", "d"]);
    }
}
