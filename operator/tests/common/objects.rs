//! Objects of the cluster as watches of the test deliver them, past the proxy, and every UID that was ever there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;

/// Group, version, kind and plural of what is watched.
pub(crate) const KINDS: [(&str, &str, &str, &str); 10] = [
    ("dnstier.io", "v1alpha1", "DnsTier", "dnstiers"),
    ("", "v1", "Node", "nodes"),
    ("", "v1", "Pod", "pods"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
];

/// Kind, namespace and name of an object.
pub(crate) type Key = (&'static str, String, String);

/// All objects of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    /// First sight of each UID: the object as it was made.
    made: BTreeMap<String, (Key, Arc<Value>)>,
    /// UIDs of the objects that are gone.
    removed: BTreeSet<String>,
    /// Kinds whose first list is complete.
    listed: BTreeSet<&'static str>,
    /// Number of changes so far of each kind, and of each world.
    versions: HashMap<String, u64>,
}

impl Objects {
    /// Watches one kind until the cluster ends.
    pub(crate) async fn watch(&self, client: Client, kind: (&'static str, &str, &'static str, &str)) {
        let (group, version, kind, plural) = kind;
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let mut events = watcher(api, watcher::Config::default()).boxed();
        let mut found = BTreeSet::new();
        while let Some(event) = events.next().await {
            let mut state = self.lock();
            match event {
                Ok(watcher::Event::Init) => found.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    found.insert(key(kind, &object));
                    state.put(kind, &object);
                }
                Ok(watcher::Event::InitDone) => {
                    let is_gone = |(key, _): &(&Key, &Arc<Value>)| key.0 == kind && !found.contains(*key);
                    let gone: Vec<Key> = state.objects.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
                    gone.iter().for_each(|key| state.remove(key));
                    state.listed.insert(kind);
                }
                Ok(watcher::Event::Apply(object)) => state.put(kind, &object),
                Ok(watcher::Event::Delete(object)) => {
                    state.put(kind, &object);
                    state.remove(&key(kind, &object));
                }
                // The watch goes on by itself.
                Err(_) => {}
            }
        }
    }

    /// Returns whether the first lists of all kinds are complete.
    pub(crate) fn are_listed(&self) -> bool {
        self.lock().listed.len() == KINDS.len()
    }

    /// Returns the number of changes so far of a kind or a world.
    pub(crate) fn version_of(&self, kind_or_world: &str) -> u64 {
        self.lock().versions.get(kind_or_world).copied().unwrap_or_default()
    }

    /// Returns the objects that a predicate selects.
    pub(crate) fn select(&self, predicate: impl Fn(&Key, &Value) -> bool) -> Vec<(Key, Arc<Value>)> {
        let state = self.lock();
        let selected = state.objects.iter().filter(|(key, object)| predicate(key, object));
        selected.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Returns the object of this kind, namespace and name.
    pub(crate) fn get(&self, kind: &'static str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.lock().objects.get(&(kind, namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Returns every object of a predicate that was ever made, with whether it is gone.
    pub(crate) fn history(&self, predicate: impl Fn(&Key, &Value) -> bool) -> Vec<(Key, Arc<Value>, bool)> {
        let state = self.lock();
        let selected = state.made.iter().filter(|(_, (key, object))| predicate(key, object));
        selected.map(|(uid, (key, object))| (key.clone(), object.clone(), state.removed.contains(uid))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, kind: &'static str, object: &DynamicObject) {
        let Ok(mut value) = serde_json::to_value(object) else { return };
        value["kind"] = kind.into();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let (key, value) = (key(kind, object), Arc::new(value));
        self.count_change(&key);
        let uid = object.metadata.uid.clone().unwrap_or_default();
        self.made.entry(uid.clone()).or_insert_with(|| (key.clone(), value.clone()));
        // An object of another UID under this name means that the earlier one is gone.
        if let Some(earlier) = self.objects.insert(key, value)
            && let Some(earlier) = earlier["metadata"]["uid"].as_str().filter(|earlier| *earlier != uid)
        {
            self.removed.insert(earlier.to_owned());
        }
    }

    fn count_change(&mut self, key: &Key) {
        let (kind, namespace, name) = key;
        let world = if namespace.is_empty() { name } else { namespace };
        // Names of namespaces and nodes are those of their worlds with an end.
        for changed in [*kind, world.split('-').next().unwrap_or_default()] {
            *self.versions.entry(changed.to_owned()).or_default() += 1;
        }
    }

    fn remove(&mut self, key: &Key) {
        self.count_change(key);
        if let Some(object) = self.objects.remove(key) {
            self.removed.insert(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        }
    }
}

fn key(kind: &'static str, object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (kind, metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
