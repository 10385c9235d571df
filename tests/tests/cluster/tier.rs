//! Observation of the tier, and queries to it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dnstier_tests::dns::Response;
use dnstier_tests::lab::Signal;
use node_cache_config::status::{CaptureState, NodeStatus, ResolverStatus};
use serde_json::Value;

use crate::{EXAMPLE, lab};

/// Roll-out settings of the tier of the tests: the example with the shortest soak.
const ROLLOUT: &str = "  rollout: {soak: 5s}\n";

pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
pub(crate) const NODE_NAMESPACE: &str = "dnstier-node";
pub(crate) const NAMESPACE: &str = "dnstier-system";
/// Chart of this checkout.
pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/dnstier");
pub(crate) const TIER: &str = "default";
pub(crate) const CLUSTER_DNS: &str = "10.96.0.10";
pub(crate) const CLUSTER_DNS_V6: &str = "fd96::a";
pub(crate) const LINK_LOCAL: &str = "169.254.20.10";
/// Timeout far above any observed time, for waits that should end much sooner.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// Polls until there is a value, and panics with the last error if there is none in time.
pub(crate) fn wait_until<T>(condition: &str, timeout: Duration, mut poll: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match poll() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > timeout => panic!("{condition}: not within {timeout:?}; last seen: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Returns `Ok` when the condition holds, else the actual state.
pub(crate) fn ensure(holds: bool, actual: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(actual()) }
}

pub(crate) fn kubectl(arguments: &[&str]) -> String {
    lab().kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {}: {error:#}", arguments.join(" ")))
}

pub(crate) fn kubectl_json(arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.extend(["-o", "json"]);
    serde_json::from_str(&kubectl(&arguments)).expect("kubectl prints JSON")
}

/// Returns the name of the operator's pod that is the leader; `None` while nobody is.
pub(crate) fn operator_leader() -> Option<String> {
    let lease = kubectl_json(&["get", "lease", "-n", NAMESPACE, "dnstier-operator"]);
    let (pod, _) = lease["spec"]["holderIdentity"].as_str()?.rsplit_once('_')?;
    Some(pod.to_owned())
}

/// Changes the spec of the tier by a JSON merge patch.
pub(crate) fn patch_tier(patch: &str) {
    kubectl(&["patch", "dnstier", TIER, "--type=merge", "-p", patch]);
}

/// Properties of a pod that tests need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) restarts: u64,
    pub(crate) ready: bool,
}

/// Returns the pods of a component of the tier that are not terminating.
pub(crate) fn pods(namespace: &str, component: &str) -> Vec<Pod> {
    pods_labelled(namespace, &format!("app.kubernetes.io/instance={TIER},app.kubernetes.io/component={component}"))
}

/// Returns the pods with these labels that are not terminating.
pub(crate) fn pods_labelled(namespace: &str, selector: &str) -> Vec<Pod> {
    let list = kubectl_json(&["get", "pods", "-n", namespace, "-l", selector]);
    let items = list["items"].as_array().expect("a list of pods");
    items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(pod).collect()
}

fn pod(pod: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    Pod {
        name: text(&pod["metadata"]["name"]),
        uid: text(&pod["metadata"]["uid"]),
        node: text(&pod["spec"]["nodeName"]),
        restarts: containers.iter().filter_map(|container| container["restartCount"].as_u64()).sum(),
        ready: !containers.is_empty() && containers.iter().all(|container| container["ready"] == true),
    }
}

/// Returns the node pods, in the order of the nodes' names.
pub(crate) fn node_pods() -> Vec<Pod> {
    let mut pods = pods(NODE_NAMESPACE, "node-cache");
    pods.sort_by(|a, b| a.node.cmp(&b.node));
    pods
}

/// Returns the node pod of a node.
pub(crate) fn node_pod(node: &str) -> Result<Pod, String> {
    let pods = node_pods();
    pods.iter().find(|pod| pod.node == node).cloned().ok_or_else(|| format!("no pod on {node} among {pods:?}"))
}

/// Fetches the status of a node's agent.
pub(crate) fn node_status(node: &str) -> Result<NodeStatus, String> {
    status_of(NODE_NAMESPACE, &node_pod(node)?.name, 9353)
}

/// Fetches the statuses of a zone's resolvers.
pub(crate) fn resolver_statuses(zone: &str) -> Vec<ResolverStatus> {
    let all = pods(NAMESPACE, "zone-resolver");
    let statuses = all.iter().filter_map(|pod| status_of::<ResolverStatus>(NAMESPACE, &pod.name, 9153).ok());
    statuses.filter(|status| status.zone.as_deref() == Some(zone)).collect()
}

fn status_of<T: serde::de::DeserializeOwned>(namespace: &str, pod: &str, port: u16) -> Result<T, String> {
    let text = get(namespace, pod, port, "status").map_err(|error| format!("{error:#}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))
}

/// Fetches a path of a pod over HTTP.
pub(crate) fn get(namespace: &str, pod: &str, port: u16, path: &str) -> anyhow::Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}");
    lab().kubectl(&["get", "--raw", &path])
}

/// Returns a condition of the tier: its status, reason and message.
pub(crate) fn condition(kind: &str) -> Result<(String, String, String), String> {
    condition_of(TIER, kind)
}

/// Returns a condition of a tier of any name.
pub(crate) fn condition_of(tier: &str, kind: &str) -> Result<(String, String, String), String> {
    let tier = kubectl_json(&["get", "dnstier", tier]);
    let conditions = tier["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    let condition = found.ok_or_else(|| format!("no condition {kind} in {}", tier["status"]))?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    if condition["observedGeneration"] != tier["metadata"]["generation"] {
        return Err(format!("condition {kind} is of an older generation: {condition}"));
    }
    Ok((text("status"), text("reason"), text("message")))
}

/// Waits until no other test uses the tier, and until it is as in the example and ready: no test sees what another one
/// has broken.
pub(crate) fn exclusive_tier() -> MutexGuard<'static, ()> {
    static TIER_LOCK: Mutex<()> = Mutex::new(());
    let guard = TIER_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if restore_tier().is_err() {
        // A test that removed the tier has failed before it was back.
        lab().install().expect("the tier comes back");
        restore_tier().expect("the tier is there");
    }
    wait_until_ready();
    guard
}

/// Replaces the tier by that of all tests. What an earlier test or run has seen fail is tried again.
pub(crate) fn restore_tier() -> anyhow::Result<()> {
    let example = std::fs::read_to_string(EXAMPLE)? + ROLLOUT;
    let retry = format!("metadata:\n  annotations: {{dnstier.io/retry-rollout: \"{:016x}\"}}\n", rand::random::<u64>());
    let tier = example.replacen("metadata:\n", &retry, 1);
    lab().kubectl_with_input(&["replace", "-f", "-"], &tier).map(drop)
}

/// Waits until the tier is Ready, its configuration is rolled out and settled, nothing is Degraded, and all addresses
/// are captured on every node.
pub(crate) fn wait_until_ready() {
    wait_until("the tier is whole", 3 * WAIT_TIMEOUT, || {
        let ready = condition("Ready")?;
        ensure(ready.0 == "True", || format!("Ready is {ready:?}"))?;
        let rolled_out = condition("RolledOut")?;
        ensure(rolled_out.0 == "True", || format!("RolledOut is {rolled_out:?}"))?;
        let progressing = condition("Progressing")?;
        ensure(progressing.0 == "False", || format!("Progressing is {progressing:?}"))?;
        let degraded = condition("Degraded")?;
        ensure(degraded.0 == "False", || format!("Degraded is {degraded:?}"))?;
        for node in lab().nodes() {
            captured(node.name)?;
            resolves(node.name)?;
        }
        Ok(())
    });
}

/// Checks that a unique name resolves on a node at the first try, and so by resolvers and upstream.
fn resolves(node: &str) -> Result<(), String> {
    let name = format!("whole-{:016x}.wild.example", rand::random::<u64>());
    let response = try_query(node, &[&name, "--server", CLUSTER_DNS, "--tries", "1", "--timeout", "4500"])?;
    ensure(response.rcode == "NOERROR", || format!("{node}: {response:?}"))
}

/// Checks that every address is captured on a node by caches that are all alive.
pub(crate) fn captured(node: &str) -> Result<NodeStatus, String> {
    let status = node_status(node)?;
    ensure(status.captured.len() == 3, || format!("{node}: {:?}", status.captured))?;
    ensure(status.captured.iter().all(|address| address.state == CaptureState::Captured), || {
        format!("{node}: {:?}", status.captured)
    })?;
    ensure(status.instances.len() == 2 && status.instances.iter().all(|instance| instance.alive), || {
        format!("{node}: {:?}", status.instances)
    })?;
    ensure(status.revision.asked == status.revision.in_force, || format!("{node}: {:?}", status.revision))?;
    Ok(status)
}

/// Sends a signal to the process of a container of a node's tier pod.
pub(crate) fn signal(node: &str, container: &str, signal: Signal) {
    let pod = node_pod(node).unwrap_or_else(|error| panic!("{error}"));
    signal_container(node, &pod.uid, container, signal).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Sends a signal to the processes of a container; an error when there are none.
pub(crate) fn signal_container(node: &str, pod_uid: &str, container: &str, signal: Signal) -> anyhow::Result<()> {
    let node = lab().node(node)?;
    let pids = node.pid_of_container(pod_uid, container)?;
    anyhow::ensure!(!pids.is_empty(), "no process runs in {container}");
    pids.into_iter().try_for_each(|pid| node.kill(pid, signal))
}

/// Guard that repairs something when a test ends, also one that fails in the middle.
pub(crate) struct RestoreOnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for RestoreOnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Stops the kubelet of a node until the guard is dropped.
pub(crate) fn stop_kubelet_until_drop(node: &'static str) -> RestoreOnDrop<impl FnMut()> {
    lab().node(node).and_then(|node| node.stop_kubelet()).expect("the kubelet stops");
    RestoreOnDrop(move || {
        let started = lab().node(node).and_then(|node| node.start_kubelet());
        if let Err(error) = started {
            eprintln!("the kubelet of {node} does not start again: {error:#}");
        }
    })
}

/// Waits until the tier counts one of its nodes as away.
pub(crate) fn wait_until_one_is_away() {
    wait_until("the node is counted as away", WAIT_TIMEOUT, || {
        let status = kubectl_json(&["get", "dnstier", TIER])["status"].clone();
        ensure(status["nodes"]["away"] == 1, || format!("{status}"))
    });
}

/// Waits until the tier is `Degraded` with a message that has all of these parts.
pub(crate) fn wait_until_degraded(expectation: &str, parts: &[&str]) {
    let degraded = wait_until(expectation, WAIT_TIMEOUT, || {
        let degraded = condition("Degraded")?;
        let is_degraded = degraded.0 == "True" && parts.iter().all(|part| degraded.2.contains(part));
        ensure(is_degraded, || format!("{degraded:?}"))?;
        Ok(degraded)
    });
    eprintln!("{degraded:?}");
}

/// Sends a query from the toolbox pod of a node.
pub(crate) fn try_query(node: &str, arguments: &[&str]) -> Result<Response, String> {
    let mut command = vec!["/ask", "--json"];
    command.extend(arguments);
    let text = lab().exec(node, &command).map_err(|error| format!("{error:#}"))?;
    serde_json::from_str(text.trim()).map_err(|error| format!("{error} in {text}"))
}

/// Sends a query from the toolbox pod of a node, and panics without a response.
pub(crate) fn query(node: &str, arguments: &[&str]) -> Response {
    try_query(node, arguments).unwrap_or_else(|error| panic!("{} from {node}: {error}", arguments.join(" ")))
}

/// Returns node and instance of the server at an address, by its identity: `("node-a", "cache-0")`.
pub(crate) fn responder(node: &str, server: &str) -> Result<(String, String), String> {
    let report = try_query(
        node,
        &["id.server", "TXT", "--class", "CH", "--server", server, "--timeout", "1000", "--tries", "1"],
    )?;
    let text = report.answers.first().map(|answer| answer.data.clone()).ok_or_else(|| format!("{report:?}"))?;
    let part = |name: &str| {
        let start = text.find(&format!("{name}=")).map(|at| at + name.len() + 1)?;
        text[start..].split([' ', '"', ',']).next().map(str::to_owned)
    };
    Ok((part("node").ok_or(&text)?.clone(), part("instance").ok_or(&text)?.clone()))
}
