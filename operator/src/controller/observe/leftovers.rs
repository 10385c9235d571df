//! Leftovers: what is in the namespace of this release and is not about the tier as it is now. A release that gets a
//! tier back finds there what it had left; a tier that was deleted and created again finds what its predecessor had.

use dnstier_crds::DnsTier;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use node_cache_config::names::{STABLE_REVISION, revision_key};

use crate::controller::observe::take_record;
use crate::controller::owned::{OwnedObjects, names};
use crate::controller::rollout::store::StoredRecord;
use crate::settings::Settings;

/// Takes the record of the roll-outs of a tier out of its ConfigMaps. That of another namespace is of another release.
/// One of a tier of this name that was deleted tells nothing, and is written over.
pub(super) fn take_own_record(owned: &mut OwnedObjects, tier: &DnsTier, settings: &Settings) -> StoredRecord {
    let name = tier.name_any();
    let is_record = |config_map: &ConfigMap| config_map.name_any() == names::rollout(&name);
    let is_own = |config_map: &ConfigMap| config_map.namespace().as_deref() == Some(&settings.namespace);
    owned.config_maps.retain(|config_map| !is_record(config_map) || is_own(config_map));
    let is_of_predecessor = |config_map: &ConfigMap| is_record(config_map) && !is_of(config_map, tier);
    let tells_nothing = owned.config_maps.iter().any(is_of_predecessor);
    let stored = take_record(owned, &name);
    if tells_nothing { StoredRecord { record: None, problem: None, ..stored } } else { stored }
}

/// Returns whether an object is of a tier, and not of an earlier one of its name.
fn is_of(config_map: &ConfigMap, tier: &DnsTier) -> bool {
    let owners = config_map.owner_references();
    owners.is_empty() || owners.iter().any(|owner| Some(&owner.uid) == tier.metadata.uid.as_ref())
}

/// Removes the revisions of the resolvers' namespace, if they are from before another release had the tier: they lack
/// the stable revision of the nodes' namespace, which all releases share. They are then made again from those, as in
/// the namespace of a release that has a tier for the first time: what is proven has to be there before any resolver
/// may have to go back to it.
pub(super) fn remove_outdated_revisions(owned: &mut OwnedObjects, tier: &str, settings: &Settings) {
    let name = names::revisions(tier);
    let of_nodes = owned.config_map(&settings.node_namespace, &name).and_then(|of_nodes| of_nodes.data.as_ref());
    let stable = of_nodes.and_then(|data| data.get(&revision_key(STABLE_REVISION)));
    let of_resolvers = owned.config_map(&settings.namespace, &name);
    let is_outdated = stable.zip(of_resolvers).is_some_and(|(stable, of_resolvers)| {
        of_resolvers.data.iter().flatten().all(|(_, revision)| revision != stable)
    });
    if is_outdated {
        owned.config_maps.retain(|config_map| {
            config_map.name_any() != name || config_map.namespace().as_deref() != Some(&settings.namespace)
        });
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::controller::desired;
    use crate::controller::fixtures::{build_desired, serving, settings};
    use crate::controller::observe::Observed;
    use crate::controller::owned::revision_history;
    use crate::controller::rollout::record::{Record, Step};
    use crate::controller::rollout::revision::TierRevision;

    /// Returns the ConfigMap of a record in a namespace, of a tier with this UID.
    fn record(namespace: &str, owner: Option<&str>) -> ConfigMap {
        let owner = owner.map(|uid| vec![OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() }]);
        let metadata = ObjectMeta {
            name: Some("dnstier-default-rollout".to_owned()),
            namespace: Some(namespace.to_owned()),
            owner_references: owner,
            ..ObjectMeta::default()
        };
        let record = Record::new(TierRevision::default(), None, Step::Done, Timestamp::UNIX_EPOCH);
        let before = StoredRecord { resource_version: Some(format!("of {namespace}")), ..StoredRecord::default() };
        before.replaced_by(&record, metadata)
    }

    #[test]
    fn the_record_is_that_of_this_release_and_of_this_very_tier() {
        let (observed, settings) = (serving("{}"), settings());
        let take = |records: Vec<ConfigMap>| {
            let mut owned = observed.owned.clone();
            owned.config_maps.extend(records);
            let stored = take_own_record(&mut owned, &observed.tier, &settings);
            assert_eq!(owned.config_maps, observed.owned.config_maps, "no record is an object of the spec");
            (stored.record.is_some(), stored.resource_version)
        };
        let version = || Some("of dnstier-system".to_owned());
        let (own, other) = (Some("uid-of-default"), Some("uid-of-before"));
        assert_eq!(take(vec![record("dnstier-system", own)]), (true, version()));
        assert_eq!(take(vec![record("dnstier-system", None)]), (true, version()));
        assert_eq!(take(vec![record("dnstier-system", other)]), (false, version()), "it is written over");
        assert_eq!(take(vec![record("dnstier-node", own)]), (false, None), "another release lives there");
        assert_eq!(take(vec![record("dnstier-system", own), record("dnstier-node", other)]), (true, version()));
    }

    fn of_namespace<'a>(owned: &'a mut OwnedObjects, namespace: &str) -> &'a mut ConfigMap {
        let is_there = |config_map: &&mut ConfigMap| config_map.namespace().as_deref() == Some(namespace);
        owned.config_maps.iter_mut().find(is_there).unwrap()
    }

    /// Returns a cluster in which another release has proven a revision of its own since this one had the tier.
    fn given_back() -> Observed {
        let mut observed = serving("{}");
        let of_nodes = of_namespace(&mut observed.owned, "dnstier-node");
        let data = of_nodes.data.get_or_insert_default();
        let theirs = data[&revision_key(STABLE_REVISION)].replace("\"maxTtl\":3600", "\"maxTtl\":1234");
        assert_ne!(theirs, data[&revision_key(STABLE_REVISION)]);
        data.extend(["theirs", STABLE_REVISION].map(|name| (revision_key(name), theirs.clone())));
        let revisions: Vec<&str> = ["theirs"].into_iter().chain(revision_history(of_nodes)).collect();
        let revisions = revisions.join(",");
        of_nodes.annotations_mut().insert("dnstier.io/revisions".to_owned(), revisions);
        for pod in observed.pods.iter_mut().filter(|pod| pod.namespace == "dnstier-node") {
            pod.annotated_revision = Some("theirs".to_owned());
        }
        observed
    }

    #[test]
    fn a_release_that_gets_a_tier_back_keeps_what_the_other_has_proven_for_its_resolvers() {
        let (mut observed, settings) = (given_back(), settings());
        remove_outdated_revisions(&mut observed.owned, "default", &settings);
        assert_eq!(observed.owned.config_maps.len(), 1);
        let mut desired = build_desired(&observed);
        desired::set_stable(&mut desired, &observed.owned, "theirs");
        let theirs = of_namespace(&mut observed.owned, "dnstier-node").data.clone().unwrap()["theirs.json"].clone();
        let of_resolvers = of_namespace(&mut desired.objects, "dnstier-system").data.clone().unwrap();
        for name in ["theirs", STABLE_REVISION] {
            assert_eq!(of_resolvers.get(&revision_key(name)), Some(&theirs), "{name}");
        }
    }

    #[test]
    fn revisions_that_have_the_stable_one_of_the_nodes_stay_as_they_are() {
        let (observed, settings) = (serving("{}"), settings());
        let revisions_after = |change: &dyn Fn(&mut OwnedObjects)| {
            let mut owned = observed.owned.clone();
            change(&mut owned);
            remove_outdated_revisions(&mut owned, "default", &settings);
            owned.config_maps.len()
        };
        assert_eq!(revisions_after(&|_| ()), 2);
        let proves_the_newest = |owned: &mut OwnedObjects| {
            let of_resolvers = of_namespace(owned, "dnstier-system").data.get_or_insert_default();
            of_resolvers.insert(revision_key(STABLE_REVISION), "the one before".to_owned());
        };
        assert_eq!(revisions_after(&proves_the_newest), 2, "it is there under its name");
        let loses_stable = |owned: &mut OwnedObjects| {
            of_namespace(owned, "dnstier-node").data.get_or_insert_default().remove(&revision_key(STABLE_REVISION));
        };
        assert_eq!(revisions_after(&loses_stable), 2, "nothing is known");
        let is_of_nodes_alone = |owned: &mut OwnedObjects| {
            owned.config_maps.retain(|config_map| config_map.namespace().as_deref() == Some("dnstier-node"));
        };
        assert_eq!(revisions_after(&is_of_nodes_alone), 1);
    }
}
