//! Own writes: what the operator wrote and its watches have not delivered yet, so that no reconciliation acts on state
//! from before its own writes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Time for which an own write counts that the watch has not delivered. A watch without events ends after five minutes,
/// and begins with a list.
pub(crate) const MAX_LAG: Duration = Duration::from_secs(600);
/// Time for which an object counts as there that was created and that its store does not have: somebody may have
/// deleted it.
const MAX_CREATION_LAG: Duration = Duration::from_secs(5);

/// Kind, namespace and name of an object.
type Key = (String, String, String);

/// Last write of each object.
#[derive(Debug, Default)]
pub(crate) struct OwnWrites {
    writes: Mutex<HashMap<Key, OwnWrite>>,
}

/// Write of an object.
#[derive(Debug)]
struct OwnWrite {
    time: Instant,
    /// Versions that the write replaced; `None` for an object that did not exist. A store that has one of them lags.
    replaced: Vec<Option<String>>,
    /// Object as it was written; `None` when it was deleted.
    object: Option<Value>,
}

impl OwnWrites {
    /// Records that an object was written. `replaced` is the version that the write followed from.
    pub(crate) fn record_apply<K>(&self, written: &K, replaced: Option<String>, now: Instant)
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        if let Ok(object) = serde_json::to_value(written) {
            self.record(key(written), replaced, Some(object), now);
        }
    }

    /// Records that an object was deleted.
    pub(crate) fn record_delete<K: Resource<DynamicType = ()>>(&self, deleted: &K, now: Instant) {
        self.record(key(deleted), deleted.resource_version(), None, now);
    }

    fn record(&self, key: Key, version: Option<String>, object: Option<Value>, now: Instant) {
        let mut writes = self.lock(now);
        let mut replaced = writes.remove(&key).map(|write| write.replaced).unwrap_or_default();
        replaced.push(version);
        writes.insert(key, OwnWrite { time: now, replaced, object });
    }

    /// Returns the objects of one kind in a namespace with the own writes that their store lacks. `predicate` selects
    /// among objects that the store does not have yet.
    pub(crate) fn overlay<K>(
        &self,
        namespace: &str,
        objects: Vec<K>,
        predicate: impl Fn(&K) -> bool,
        now: Instant,
    ) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let writes = self.lock(now);
        let mut created: HashMap<&str, &OwnWrite> = writes
            .iter()
            .filter(|((kind, other, _), write)| {
                let is_new = now.saturating_duration_since(write.time) < MAX_CREATION_LAG;
                *kind == K::kind(&()) && other == namespace && is_new && write.replaced.contains(&None)
            })
            .map(|((.., name), write)| (name.as_str(), write))
            .collect();
        let mut current = Vec::new();
        for object in objects {
            created.remove(object.name_any().as_str());
            match writes.get(&key(&object)) {
                Some(write) if write.replaced.contains(&object.resource_version()) => current.extend(write.read()),
                Some(_) | None => current.push(object),
            }
        }
        current.extend(created.values().filter_map(|write| write.read()).filter(|object| predicate(object)));
        current.sort_by_key(|object: &K| object.name_any());
        current
    }

    /// Locks the writes and forgets the old ones.
    fn lock(&self, now: Instant) -> MutexGuard<'_, HashMap<Key, OwnWrite>> {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.retain(|_, write| now.saturating_duration_since(write.time) < MAX_LAG);
        writes
    }
}

impl OwnWrite {
    fn read<K: DeserializeOwned>(&self) -> Option<K> {
        serde_json::from_value(self.object.clone()?).ok()
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    (K::kind(&()).into_owned(), object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some("revisions".to_owned());
        object.metadata.namespace = Some("a".to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    /// Returns the version that is read when the store has this one.
    fn read(writes: &OwnWrites, store: Option<&str>, now: Instant) -> Option<String> {
        let objects = store.map(config_map).into_iter().collect();
        let current = writes.overlay::<ConfigMap>("a", objects, |_| true, now);
        assert!(current.len() <= 1);
        current.first().and_then(ResourceExt::resource_version)
    }

    #[test]
    fn a_store_that_has_what_an_own_write_replaced_is_not_believed() {
        let (writes, now) = (OwnWrites::default(), Instant::now());
        writes.record_apply(&config_map("2"), Some("1".to_owned()), now);
        writes.record_apply(&config_map("3"), Some("2".to_owned()), now);
        for (store, expected) in [("1", "3"), ("2", "3"), ("3", "3"), ("4", "4")] {
            for later in [Duration::ZERO, Duration::from_secs(330)] {
                assert_eq!(read(&writes, Some(store), now + later).as_deref(), Some(expected), "{store}");
            }
        }
        assert_eq!(read(&writes, Some("1"), now + MAX_LAG).as_deref(), Some("1"));
    }

    #[test]
    fn an_object_that_was_created_exists_and_one_that_was_deleted_does_not() {
        let (writes, now) = (OwnWrites::default(), Instant::now());
        writes.record_apply(&config_map("1"), None, now);
        assert_eq!(read(&writes, None, now).as_deref(), Some("1"));
        assert_eq!(read(&writes, None, now + MAX_CREATION_LAG), None, "somebody has deleted it");
        assert_eq!(read(&writes, Some("2"), now).as_deref(), Some("2"));
        assert!(writes.overlay::<ConfigMap>("other", Vec::new(), |_| true, now).is_empty());
        assert!(writes.overlay::<ConfigMap>("a", Vec::new(), |_| false, now).is_empty());
        writes.record_delete(&config_map("1"), now);
        for store in [None, Some("1")] {
            assert_eq!(read(&writes, store, now), None, "{store:?}");
        }
        assert_eq!(read(&writes, Some("5"), now).as_deref(), Some("5"), "somebody created it again");
    }

    #[test]
    fn an_object_that_somebody_else_deleted_after_an_own_write_is_gone() {
        let (writes, now) = (OwnWrites::default(), Instant::now());
        writes.record_apply(&config_map("2"), Some("1".to_owned()), now);
        assert_eq!(read(&writes, None, now), None);
    }
}
