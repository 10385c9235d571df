//! Promises of the record, of its ConfigMap, and of the names of revisions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use node_cache_config::{Config, fingerprint};

use super::record::Record;
use super::revision::{TierRevision, assign, known_revisions};
use super::simulation::{World, revision};
use super::store::StoredRecord;

fn stored(record: &Record) -> StoredRecord {
    let metadata = ObjectMeta { name: Some("dnstier-default-rollout".to_owned()), ..ObjectMeta::default() };
    let mut config_map = StoredRecord::default().replaced_by(record, metadata);
    config_map.metadata.resource_version = Some("7".to_owned());
    StoredRecord::read(Some(&config_map))
}

#[test]
fn a_record_is_read_as_it_was_written_and_replaced_at_the_version_that_was_read() {
    let mut world = World::new(&[4]);
    world.bad.insert("n5".to_owned());
    for desired in [revision(5, 1), revision(2, 1)] {
        world.change(desired);
        world.run(12);
        let stored = stored(world.record());
        assert_eq!((stored.record.as_ref(), &stored.problem), (Some(world.record()), &None));
        let next = stored.replaced_by(world.record(), ObjectMeta::default());
        assert_eq!(next.metadata.resource_version.as_deref(), Some("7"));
    }
    assert_eq!(world.record().rejections.len(), 1);
}

#[test]
fn a_record_that_cannot_be_read_counts_as_lost_and_is_told() {
    let world = World::new(&[1]);
    let mut config_map = StoredRecord::default().replaced_by(world.record(), ObjectMeta::default());
    config_map.metadata.name = Some("dnstier-default-rollout".to_owned());
    config_map.metadata.resource_version = Some("7".to_owned());
    let text = config_map.data.as_ref().unwrap()["record.json"].clone();
    let cases = [
        (text.replace("\"version\":1", "\"version\":2"), "it is of version 2, not 1"),
        (text.replace("\"Done\"", "\"Dancing\""), "unknown variant `Dancing`"),
        (text[..text.len() / 2].to_owned(), "EOF while parsing"),
        (String::new(), "EOF while parsing"),
    ];
    for (text, says) in cases {
        config_map.data.as_mut().unwrap().insert("record.json".to_owned(), text);
        let stored = StoredRecord::read(Some(&config_map));
        assert_eq!((stored.record, stored.resource_version.as_deref()), (None, Some("7")));
        let problem = stored.problem.unwrap();
        assert!(problem.contains("dnstier-default-rollout") && problem.contains(says), "{problem}");
    }
    config_map.data = None;
    assert!(StoredRecord::read(Some(&config_map)).problem.unwrap().contains("it has no key record.json"));
    assert_eq!(StoredRecord::read(None), StoredRecord::default());
}

#[test]
fn ten_rejections_are_kept_the_newest_first() {
    let mut world = World::new(&[1]);
    for number in 5..17 {
        world.bad.insert(format!("n{number}"));
        world.change(revision(number, 1));
        world.settle();
    }
    let rejections = &world.record().rejections;
    assert_eq!((rejections.len(), rejections[0].target.as_str(), rejections[9].target.as_str()), (10, "n16r1", "n7r1"));
}

#[test]
fn a_part_that_is_the_same_keeps_the_name_under_which_it_runs() {
    let mut configs = [Config::example(), Config::example(), Config::example()];
    configs[1].resolver.cache.max_ttl = 1;
    configs[2].resolver.cache.max_ttl = 1;
    configs[2].node_cache.cache.max_ttl = 1;
    let ids: Vec<String> = configs.iter().map(fingerprint).collect();
    let json = |config: &Config| serde_json::to_string(config).unwrap();
    let mut data: BTreeMap<String, String> =
        configs.iter().map(|config| (format!("{}.json", fingerprint(config)), json(config))).collect();
    data.insert("stable.json".to_owned(), json(&configs[0]));
    data.insert("broken.json".to_owned(), "{".to_owned());
    let config_map = ConfigMap { data: Some(data), ..ConfigMap::default() };
    let (known, stable) = known_revisions(&config_map);
    assert_eq!((known.len(), stable.map(|stable| stable.id).as_ref()), (3, Some(&ids[0])));
    let find = |id: &String| known.iter().find(|known| known.id == *id).unwrap();
    let names = |revision: &TierRevision| [revision.id.clone(), revision.nodes.clone(), revision.resolvers.clone()];
    let first = assign(find(&ids[0]), &[], &known);
    assert_eq!(names(&first), [ids[0].clone(), ids[0].clone(), ids[0].clone()]);
    let second = assign(find(&ids[1]), &[&first], &known);
    assert_eq!(names(&second), [ids[1].clone(), ids[0].clone(), ids[1].clone()]);
    let third = assign(find(&ids[2]), &[&second], &known);
    assert_eq!(names(&third), [ids[2].clone(), ids[2].clone(), ids[1].clone()]);
    let back = assign(find(&ids[0]), &[&third], &known);
    assert_eq!(names(&back), names(&first), "the resolvers' part differs again, and the nodes'");
    let unreadable = assign(find(&ids[1]), &[&first], &[]);
    assert_eq!(names(&unreadable), [ids[1].clone(), ids[1].clone(), ids[1].clone()]);
}
