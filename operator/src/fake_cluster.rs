//! Fake cluster on a fake API server, for tests: it stores what is written, and serves lists and watches of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fake_api::{FakeApi, FakeRequest, Reply};

/// Fake cluster, which ends with the runtime of its test.
pub(crate) struct FakeCluster {
    /// API server of the cluster.
    pub(crate) api: FakeApi,
    objects: Objects,
}

/// Objects of the cluster.
#[derive(Clone)]
struct Objects {
    state: Arc<Mutex<State>>,
    /// Version of the newest event.
    version: Arc<watch::Sender<usize>>,
    /// Watches that deliver nothing for now.
    held: Arc<watch::Sender<Held>>,
}

/// Watches whose events are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// No watch.
    Nothing,
    /// Watches of one collection.
    Collection(&'static str),
    /// All watches.
    Everything,
}

impl Held {
    fn includes(self, collection: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Collection(held) => held == collection,
            Self::Everything => true,
        }
    }
}

#[derive(Default)]
struct State {
    /// Objects by the path of their collection and their name.
    objects: BTreeMap<(String, String), Value>,
    /// Events with their collections; the version of an event is its position, counted from 1.
    events: Vec<(String, Value)>,
}

/// Parts of the path of a request.
struct Target {
    collection: String,
    name: Option<String>,
    is_subresource: bool,
}

impl FakeCluster {
    /// Starts a cluster without objects. `refuse` may answer a request in its place.
    pub(crate) async fn start(refuse: impl Fn(&FakeRequest) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let objects = Objects {
            state: Arc::default(),
            version: Arc::new(watch::Sender::new(0)),
            held: Arc::new(watch::Sender::new(Held::Nothing)),
        };
        let served = objects.clone();
        let reply = move |request: &FakeRequest| refuse(request).unwrap_or_else(|| served.reply(request));
        Self { api: FakeApi::start(reply).await, objects }
    }

    /// Creates or changes an object: what `object` has replaces what is there.
    pub(crate) fn merge(&self, collection: &str, name: &str, object: Value) {
        self.objects.merge(collection, name, object);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, collection: &str, name: &str) {
        self.objects.delete(collection, name);
    }

    /// Holds back the events of these watches, and lets go those of the others.
    pub(crate) fn hold(&self, held: Held) {
        self.objects.held.send_replace(held);
    }

    /// Returns the objects of a collection.
    pub(crate) fn list(&self, collection: &str) -> Vec<Value> {
        self.objects.list(collection, &[])
    }

    /// Returns the requests so far that are no watches.
    pub(crate) fn requests(&self) -> Vec<FakeRequest> {
        self.api.requests().into_iter().filter(|request| !request.is_watch()).collect()
    }
}

impl Objects {
    fn reply(&self, request: &FakeRequest) -> Reply {
        let Some(target) = Target::parse(request.path()) else { return Reply::refusal(404, "no such path") };
        let selector = selector(&request.uri);
        match (request.method.as_str(), target.name) {
            ("GET", None) if request.is_watch() => self.watch(target.collection, selector, &request.uri),
            ("GET", None) => {
                let version = self.version.borrow().to_string();
                Reply::list("Object", &version, &self.list(&target.collection, &selector))
            }
            ("GET", Some(name)) => match self.lock().objects.get(&(target.collection, name)) {
                Some(object) => Reply::Json(200, object.clone()),
                None => Reply::refusal(404, "not found"),
            },
            ("PATCH", Some(name)) if request.uri.contains("dryRun=All") => {
                let existing = self.lock().objects.get(&(target.collection, name)).cloned();
                let mut object = existing.unwrap_or_else(|| json!({}));
                merge_json(&mut object, request.body.clone());
                Reply::Json(200, object)
            }
            ("PATCH", Some(name)) if target.is_subresource && !self.has(&target.collection, &name) => {
                Reply::refusal(404, "not found")
            }
            ("PATCH", Some(name)) => {
                let mut patch = request.body.clone();
                if !target.is_subresource {
                    patch["status"].take();
                }
                if self.is_of_another_version(&target.collection, &name, &patch) {
                    return Reply::refusal(409, "the object has been modified");
                }
                Reply::Json(200, self.merge(&target.collection, &name, patch))
            }
            ("DELETE", Some(name)) => {
                self.delete(&target.collection, &name);
                Reply::Json(200, json!({"kind": "Status", "status": "Success"}))
            }
            ("POST", None) if target.collection.ends_with("/configmaps") => {
                let name = request.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.lock().objects.contains_key(&(target.collection.clone(), name.clone())) {
                    return Reply::refusal(409, "the object already exists");
                }
                Reply::Json(201, self.merge(&target.collection, &name, request.body.clone()))
            }
            ("POST", None) => Reply::Json(201, request.body.clone()),
            _ => Reply::refusal(405, "not allowed"),
        }
    }

    /// Returns whether a patch names another version than that of the object.
    fn is_of_another_version(&self, collection: &str, name: &str, patch: &Value) -> bool {
        let state = self.lock();
        let object = state.objects.get(&(collection.to_owned(), name.to_owned()));
        let version = object.map_or(&Value::Null, |object| &object["metadata"]["resourceVersion"]);
        let named = &patch["metadata"]["resourceVersion"];
        !named.is_null() && named != version
    }

    fn has(&self, collection: &str, name: &str) -> bool {
        self.lock().objects.contains_key(&(collection.to_owned(), name.to_owned()))
    }

    fn list(&self, collection: &str, selector: &[(String, String)]) -> Vec<Value> {
        let state = self.lock();
        let objects = state.objects.iter().filter(|((other, _), _)| other == collection).map(|(_, object)| object);
        objects.filter(|object| is_selected(object, selector)).cloned().collect()
    }

    fn merge(&self, collection: &str, name: &str, patch: Value) -> Value {
        let mut state = self.lock();
        let version = state.events.len() + 1;
        let key = (collection.to_owned(), name.to_owned());
        let existing = state.objects.get(&key).cloned();
        let mut object = existing
            .clone()
            .unwrap_or_else(|| json!({"metadata": {"name": name, "uid": format!("uid-{version}"), "generation": 0}}));
        if collection.ends_with("/daemonsets") && !patch["spec"].is_null() {
            // An apply takes away what it does not name any more.
            object["spec"] = json!({});
            object["metadata"]["annotations"] = json!({});
        }
        if !patch["status"]["rollout"].is_null() {
            object["status"]["rollout"] = json!({});
        }
        merge_json(&mut object, patch);
        if let Some((_, rest)) = collection.split_once("/namespaces/") {
            object["metadata"]["namespace"] = json!(rest.split('/').next());
        }
        if existing.as_ref().is_none_or(|existing| existing["spec"] != object["spec"]) {
            let generation = object["metadata"]["generation"].as_u64().unwrap_or_default() + 1;
            object["metadata"]["generation"] = json!(generation);
        }
        if collection.ends_with("/services") && object["spec"]["clusterIP"].is_null() {
            object["spec"]["clusterIP"] = json!(format!("10.96.1.{version}"));
            object["spec"]["clusterIPs"] = json!([format!("10.96.1.{version}")]);
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let type_ = if existing.is_some() { "MODIFIED" } else { "ADDED" };
        state.objects.insert(key, object.clone());
        self.push(state, collection, json!({"type": type_, "object": object}));
        object
    }

    fn delete(&self, collection: &str, name: &str) {
        let mut state = self.lock();
        if let Some(mut object) = state.objects.remove(&(collection.to_owned(), name.to_owned())) {
            object["metadata"]["resourceVersion"] = json!((state.events.len() + 1).to_string());
            self.push(state, collection, json!({"type": "DELETED", "object": object}));
        }
    }

    fn push(&self, mut state: MutexGuard<'_, State>, collection: &str, event: Value) {
        state.events.push((collection.to_owned(), event));
        self.version.send_replace(state.events.len());
    }

    /// Returns the events of a collection from a version on, and those that follow.
    fn watch(&self, collection: String, selector: Vec<(String, String)>, uri: &str) -> Reply {
        let from = parameter(uri, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let objects = self.clone();
        let version = self.version.subscribe();
        let lines = stream::unfold((from, version), move |(next, mut version)| {
            let (objects, collection, selector) = (objects.clone(), collection.clone(), selector.clone());
            async move {
                version.wait_for(|version| *version > next).await.ok()?;
                objects.held.subscribe().wait_for(|held| !held.includes(&collection)).await.ok()?;
                let (of, event) = objects.lock().events[next].clone();
                let is_sent = of == collection && is_selected(&event["object"], &selector);
                Some((if is_sent { format!("{event}\n") } else { String::new() }, (next + 1, version)))
            }
        });
        Reply::Stream(lines.filter(|line| std::future::ready(!line.is_empty())).boxed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let version = match *parts.first()? {
            "api" => 2,
            "apis" => 3,
            _ => return None,
        };
        let kind =
            if parts.get(version) == Some(&"namespaces") && parts.len() > version + 2 { version + 2 } else { version };
        parts.get(kind)?;
        Some(Self {
            collection: format!("/{}", parts[..=kind].join("/")),
            name: parts.get(kind + 1).map(|name| (*name).to_owned()),
            is_subresource: parts.len() > kind + 2,
        })
    }
}

/// Returns a parameter of a query.
fn parameter<'a>(uri: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = uri.split_once('?')?;
    query.split('&').find_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='))
}

/// Returns the labels that a request selects by.
fn selector(uri: &str) -> Vec<(String, String)> {
    let text = parameter(uri, "labelSelector").unwrap_or_default();
    let text = text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn is_selected(object: &Value, selector: &[(String, String)]) -> bool {
    selector.iter().all(|(key, value)| object["metadata"]["labels"][key] == json!(value))
}

/// Merges a patch into an object: maps by key, everything else as a whole.
fn merge_json(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(&key);
                } else {
                    merge_json(object.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (object, patch) => *object = patch,
    }
}
