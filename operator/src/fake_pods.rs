//! Pods of a tier in a fake cluster, for tests: they follow their annotations, and serve `/status` and `/probe`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use node_cache_config::figures::{AddressQueries, Figures, ScopeResponses};
use node_cache_config::status::{NOT_IN_VOLUME, Revision};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::controller::owned::labels;
use crate::fake_cluster::FakeCluster;
use crate::fake_page::{self, Page};

/// Queries a second to each pod.
const QUERIES: u64 = 50;

/// Fault of a pod with a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refusal of the revision.
    Refused,
    /// A tenth of the responses are SERVFAIL.
    Servfail,
    /// Other answers to probes.
    WrongAnswers,
    /// No answers to probes.
    DeadRoute,
    /// A process that ends again and again.
    Crash,
    /// A pod whose volume does not get the revision.
    Deaf,
    /// A pod that answers nothing.
    Mute,
}

/// Pods of a tier.
#[derive(Clone)]
pub(crate) struct FakePods {
    state: Arc<Mutex<State>>,
}

struct State {
    cluster: Arc<FakeCluster>,
    now: Timestamp,
    /// Faults by revision and pod; those of an empty name are of every pod.
    faults: BTreeMap<(String, String), Fault>,
    pods: BTreeMap<String, PodState>,
    /// Address that is asked, beside others.
    asked_address: Option<IpAddr>,
    made: u32,
}

struct PodState {
    collection: String,
    node: String,
    is_node_pod: bool,
    in_force: Option<String>,
    figures: Figures,
    counted: Timestamp,
    started: u64,
    names: u32,
}

impl FakePods {
    /// Starts pods without any.
    pub(crate) fn new(cluster: Arc<FakeCluster>, now: Timestamp) -> Self {
        let state =
            State { cluster, now, faults: BTreeMap::new(), pods: BTreeMap::new(), asked_address: None, made: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Adds the pod of a node, in place of an earlier one; returns its name.
    pub(crate) async fn add_node_pod(&self, zone: &str, node: &str) -> String {
        self.add(zone, node, labels::COMPONENT_NODE_CACHE).await
    }

    /// Adds a resolver of a zone and returns its name.
    pub(crate) async fn add_resolver(&self, zone: &str, node: &str) -> String {
        self.add(zone, node, labels::COMPONENT_ZONE_RESOLVER).await
    }

    async fn add(&self, zone: &str, node: &str, component: &str) -> String {
        let is_node_pod = component == labels::COMPONENT_NODE_CACHE;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut state = self.lock();
        state.made += 1;
        let kind = if is_node_pod { "cache" } else { "resolver" };
        let name = format!("{kind}-{node}-{}", state.made);
        let namespace = if is_node_pod { "dnstier-node" } else { "dnstier-system" };
        let collection = format!("/api/v1/namespaces/{namespace}/pods");
        let mut pod_labels = labels::component_labels("default", component);
        pod_labels.insert(labels::ZONE.to_owned(), zone.to_owned());
        let container = json!({"name": "x", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {"startedAt": state.now.to_string()}}});
        let pod = json!({
            "metadata": {
                "uid": format!("uid-of-{name}"), "labels": pod_labels, "creationTimestamp": state.now.to_string(),
                "annotations": {labels::METRICS_PORT: port.to_string()},
            },
            "spec": {"nodeName": node, "containers": []},
            "status": {"podIP": "127.0.0.1", "phase": "Running", "containerStatuses": [container],
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        state.cluster.merge(&collection, &name, pod);
        let started = u64::try_from(state.now.as_second()).unwrap();
        let pod = PodState {
            collection,
            node: node.to_owned(),
            is_node_pod,
            in_force: None,
            figures: Figures::default(),
            counted: state.now,
            started,
            names: 0,
        };
        state.pods.insert(name.clone(), pod);
        drop(state);
        let (pods, served) = (self.clone(), name.clone());
        let router = Router::new().fallback(move |request: Request| {
            let body = pods.reply(&served, request.uri().path(), request.uri().query().unwrap_or_default());
            async move { body.to_string().into_response() }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        name
    }

    /// Begins to delete a pod, which is still there.
    pub(crate) fn begin_delete(&self, name: &str) {
        let state = self.lock();
        if let Some(pod) = state.pods.get(name) {
            let metadata = json!({"deletionTimestamp": state.now.to_string()});
            state.cluster.merge(&pod.collection, name, json!({"metadata": metadata}));
        }
    }

    /// Deletes a pod.
    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.lock();
        if let Some(pod) = state.pods.remove(name) {
            state.cluster.delete(&pod.collection, name);
        }
    }

    /// Makes pods do this with a revision: one of them, or with an empty name all of them.
    pub(crate) fn set_fault(&self, revision: &str, pod: &str, fault: Option<Fault>) {
        let key = (revision.to_owned(), pod.to_owned());
        let mut state = self.lock();
        match fault {
            Some(fault) => state.faults.insert(key, fault),
            None => state.faults.remove(&key),
        };
    }

    /// Lets a query a second come to this address on each node.
    pub(crate) fn ask(&self, address: &str) {
        self.lock().asked_address = address.parse().ok();
    }

    /// Sets the time.
    pub(crate) fn set_now(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// Returns the names of the pods of all nodes with their nodes.
    pub(crate) fn node_pods(&self) -> Vec<(String, String)> {
        let state = self.lock();
        let pods = state.pods.iter().filter(|(_, pod)| pod.is_node_pod);
        pods.map(|(name, pod)| (name.clone(), pod.node.clone())).collect()
    }

    /// Returns the names of all pods with their nodes.
    pub(crate) fn names(&self) -> Vec<(String, String)> {
        self.lock().pods.iter().map(|(name, pod)| (name.clone(), pod.node.clone())).collect()
    }

    /// Returns the revision that a pod is asked to run.
    pub(crate) fn asked(&self, name: &str) -> Option<String> {
        let state = self.lock();
        let pod = state.pods.get(name)?;
        asked(&state.cluster, &pod.collection, name)
    }

    /// Returns the revisions that each pod was ever asked to run, by node for node pods, by name for resolvers.
    pub(crate) fn seen(&self) -> BTreeMap<String, BTreeSet<String>> {
        let state = self.lock();
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for request in state.cluster.requests().iter().filter(|request| request.method == "PATCH") {
            let Some(revision) = request.body["metadata"]["annotations"]["dnstier.io/revision"].as_str() else {
                continue;
            };
            let Some(name) = request.path().trim_end_matches("/status").rsplit('/').next() else { continue };
            let key = state.pods.get(name).filter(|pod| pod.is_node_pod).map_or(name, |pod| &pod.node);
            seen.entry(key.to_owned()).or_default().insert(revision.to_owned());
        }
        seen
    }

    fn reply(&self, name: &str, path: &str, query: &str) -> Value {
        let mut state = self.lock();
        let now = state.now;
        let State { cluster, faults, pods, asked_address, .. } = &mut *state;
        let Some(pod) = pods.get_mut(name) else { return Value::Null };
        let asked = asked(cluster, &pod.collection, name);
        let fault_of = |revision: Option<&String>| {
            let revision = revision?;
            let of = |pod: &str| faults.get(&(revision.clone(), pod.to_owned())).copied();
            of(name).or_else(|| of(""))
        };
        let fault = fault_of(asked.as_ref());
        if fault == Some(Fault::Mute) {
            return Value::Null;
        }
        if !matches!(fault, Some(Fault::Refused | Fault::Deaf)) && asked.is_some() {
            pod.in_force.clone_from(&asked);
        }
        let running = fault_of(pod.in_force.as_ref());
        pod.count(now, running, asked_address.filter(|_| pod.is_node_pod));
        if path == "/probe" {
            return probe_result(query, running);
        }
        if running == Some(Fault::Crash) {
            pod.started = u64::try_from(now.as_second()).unwrap();
        }
        let refusal = match (fault, &asked) {
            (Some(Fault::Refused), _) => Some("zones: it is bad.".to_owned()),
            (Some(Fault::Deaf), Some(asked)) => Some(format!("revision {asked} {NOT_IN_VOLUME}")),
            _ => None,
        };
        pod.status(name, Revision { asked, in_force: pod.in_force.clone(), refusal })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl PodState {
    /// Counts the responses since the last time.
    fn count(&mut self, now: Timestamp, fault: Option<Fault>, address: Option<IpAddr>) {
        let seconds = u64::try_from(now.duration_since(self.counted).as_secs()).unwrap_or_default();
        self.counted = now;
        let responses = QUERIES * seconds;
        let servfail = if fault == Some(Fault::Servfail) { responses / 10 } else { responses / 200 };
        for _ in 0..servfail {
            self.names += 1;
            let minute = u64::try_from(now.as_second() / 60).unwrap();
            self.figures.servfail_names.insert(minute, format!("{}-{}", self.node, self.names).as_bytes());
        }
        let queries = address.into_iter().map(|address| AddressQueries { address, queries: seconds });
        let row = ScopeResponses { noerror: responses - servfail, servfail, ..ScopeResponses::new("outside") };
        self.figures.add(&Figures { responses: vec![row], queries: queries.collect(), ..Figures::default() });
    }

    fn status(&self, name: &str, revision: Revision) -> Value {
        let page = Page {
            pod_uid: format!("uid-of-{name}"),
            node: self.node.clone(),
            is_resolver: !self.is_node_pod,
            revision,
            captured: vec!["10.96.0.10".parse().unwrap()],
            caches: ["cache-0", "cache-1"].map(str::to_owned).to_vec(),
            started: self.started,
            figures: self.figures.clone(),
            ..Page::default()
        };
        page.into_json()
    }
}

fn probe_result(query: &str, fault: Option<Fault>) -> Value {
    let (rcode, digest) = match fault {
        Some(Fault::DeadRoute) => (2, "none"),
        Some(Fault::WrongAnswers) => (0, "other"),
        _ => (0, "right"),
    };
    fake_page::probe_result(query, rcode, digest)
}

fn asked(cluster: &FakeCluster, collection: &str, name: &str) -> Option<String> {
    let pods = cluster.list(collection);
    let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name)?;
    pod["metadata"]["annotations"]["dnstier.io/revision"].as_str().map(str::to_owned)
}
