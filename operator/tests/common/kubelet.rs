//! Scheduler and kubelets of all nodes: pods are bound, run at once, answer `/status` and `/probe` on an address of
//! their own out of 127.0.0.0/8, and go when they are told to.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use node_cache_config::names::ZONE_LABEL;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::objects::{Key, Objects};
use super::pod_page::PlayedPod;

const INTERVAL: Duration = Duration::from_millis(50);
const METRICS_PORT: &str = "dnstier.io/metrics-port";
/// Part of the name of an image that cannot be pulled.
pub(crate) const UNPULLABLE: &str = "unpullable";

/// Next step of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Bind(String),
    TellUnscheduled,
    Run,
    Remove,
}

/// Pod that runs.
struct Running {
    address: Ipv4Addr,
    server: JoinHandle<()>,
}

/// Runs the pods of the cluster until it ends.
pub(crate) async fn run(client: Client, objects: Arc<Objects>) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut next = 0;
    let (mut version, mut has_work) = (0, false);
    let mut busy: HashSet<String> = HashSet::new();
    let mut steps: JoinSet<String> = JoinSet::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        while let Some(done) = steps.try_join_next() {
            busy.remove(&done.unwrap_or_default());
        }
        let latest = objects.version_of("Pod");
        if std::mem::replace(&mut version, latest) == latest && !has_work {
            continue;
        }
        has_work = !busy.is_empty();
        let pods = objects.select(|key, _| key.0 == "Pod");
        let uids: HashSet<&str> = pods.iter().map(|(_, pod)| text(&pod["metadata"]["uid"])).collect();
        running.retain(|uid, pod| {
            let is_there = uids.contains(uid.as_str());
            if !is_there {
                pod.server.abort();
            }
            is_there
        });
        for ((_, namespace, name), pod) in &pods {
            let uid = text(&pod["metadata"]["uid"]).to_owned();
            let Some(step) = (!busy.contains(&uid)).then(|| next_step(pod, &pods, &objects)).flatten() else {
                continue;
            };
            if step == Step::Run && !running.contains_key(&uid) {
                next += 1;
                if let Some(pod) = start(namespace, name, pod, next, &objects).await {
                    running.insert(uid.clone(), pod);
                }
            }
            let address = running.get(&uid).map(|pod| pod.address);
            let (api, name) = (Api::namespaced(client.clone(), namespace), name.clone());
            busy.insert(uid.clone());
            let containers = pod["spec"]["containers"].clone();
            steps.spawn(async move {
                carry_out(&api, &name, step, address, &containers).await;
                // What was written takes a moment to come back.
                tokio::time::sleep(INTERVAL * 2).await;
                uid
            });
        }
    }
}

/// Returns what is done with a pod next; `None` for one that runs.
fn next_step(pod: &Value, pods: &[(Key, Arc<Value>)], objects: &Objects) -> Option<Step> {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Some(Step::Remove);
    }
    if !pod["spec"]["nodeName"].is_string() {
        let is_told = pod["status"]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty());
        return node_for(pod, pods, objects).map(Step::Bind).or_else(|| (!is_told).then_some(Step::TellUnscheduled));
    }
    (pod["status"]["phase"] != "Running").then_some(Step::Run)
}

/// Returns the node for a pod: the one that the DaemonSet controller names, or the one of the zone with the fewest pods
/// of the same kind.
fn node_for(pod: &Value, pods: &[(Key, Arc<Value>)], objects: &Objects) -> Option<String> {
    let terms =
        &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    if pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet" {
        return terms[0]["matchFields"][0]["values"][0].as_str().map(str::to_owned);
    }
    let zone = &pod["metadata"]["labels"]["dnstier.io/zone"];
    let selector = pod["spec"]["nodeSelector"].as_object().cloned().unwrap_or_default();
    let nodes = objects.select(|key, node| {
        let labels = &node["metadata"]["labels"];
        key.0 == "Node" && labels[ZONE_LABEL] == *zone && selector.iter().all(|(key, value)| labels[key] == *value)
    });
    let pods_on = |node: &str| {
        let is_there = |(_, other): &&(_, Arc<Value>)| {
            other["spec"]["nodeName"] == node && other["metadata"]["labels"] == pod["metadata"]["labels"]
        };
        pods.iter().filter(is_there).count()
    };
    nodes.into_iter().map(|((.., name), _)| name).min_by_key(|name| (pods_on(name), name.clone()))
}

async fn carry_out(api: &Api<Pod>, name: &str, step: Step, address: Option<Ipv4Addr>, containers: &Value) {
    // A step that fails is taken again.
    match step {
        Step::Bind(node) => {
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            drop(api.create_subresource::<Value, Value>("binding", name, &PostParams::default(), &binding).await);
        }
        Step::TellUnscheduled => {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0 nodes are available",
            });
            let status = json!({"status": {"conditions": [condition]}});
            drop(api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await);
        }
        Step::Run if containers.to_string().contains(UNPULLABLE) => {
            let statuses: Vec<Value> = containers
                .as_array()
                .into_iter()
                .flatten()
                .map(|container| {
                    json!({
                        "name": container["name"], "image": container["image"], "imageID": "", "ready": false,
                        "restartCount": 0,
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "the image is not there"}},
                    })
                })
                .collect();
            let status = json!({"status": {"phase": "Pending", "containerStatuses": statuses}});
            drop(api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await);
        }
        Step::Run => {
            let Some(address) = address else { return };
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now});
            let statuses: Vec<Value> = containers.as_array().into_iter().flatten().map(|container| json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": now}},
            })).collect();
            let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
            let status = json!({"status": {
                "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
                "conditions": conditions,
                "containerStatuses": statuses,
            }});
            drop(api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await);
        }
        Step::Remove => drop(api.delete(name, &DeleteParams::default().grace_period(0)).await),
    }
}

/// Starts the server of a pod's pages, on the next address that is free.
async fn start(namespace: &str, name: &str, pod: &Value, number: u32, objects: &Arc<Objects>) -> Option<Running> {
    let port: u16 = pod["metadata"]["annotations"][METRICS_PORT].as_str()?.parse().ok()?;
    let [_, high, middle, low] = number.to_be_bytes();
    // Test programs that run side by side have different second parts.
    let part = 16 + u8::try_from(std::process::id() % 200).unwrap_or_default();
    let address = Ipv4Addr::new(127, part, high.wrapping_add(middle), low);
    let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(address), port)).await.ok()?;
    let (objects, pod) = (objects.clone(), Arc::new(PlayedPod::new(namespace, name)));
    let server = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            let (objects, pod) = (objects.clone(), pod.clone());
            let answer = move |request: Request<_>| {
                let page = match request.uri().path() {
                    "/probe" => pod.probe_result(request.uri().query().unwrap_or_default()),
                    _ => pod.page(&objects),
                };
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(page.to_string())))) }
            };
            connections.spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                drop(connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
            });
        }
    });
    Some(Running { address, server })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
