//! Probes of a real kubelet: pods that take all connections of a zone resolver's status port fail none of them.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dnstier_tests::require;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab;
use crate::tier::{
    NAMESPACE, Pod, RestoreOnDrop, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl, kubectl_json, pods, wait_until,
};

/// Pods that take all they can get, and the connections that each of them wants.
const GREEDY_PODS: usize = 8;
const CONNECTIONS: usize = 40;
/// Places of the status server for clients outside the node.
const STATUS_CONNECTIONS: usize = 32;
const STATUS_PORT: u16 = 9153;
/// Time under attack: two probes for liveness, which come every 10 s, and seven for readiness, every 3 s.
const ATTACK: Duration = Duration::from_secs(22);

/// Deployment of greedy pods.
const GREEDY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: greedy, namespace: lab}
spec:
  replicas: 8
  selector: {matchLabels: {app: greedy}}
  template:
    metadata: {labels: {app: greedy}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 0
      containers: [{name: greedy, image: IMAGE, imagePullPolicy: Never}]
";

/// Returns the ID of a process of each greedy pod, once all of them have an address.
fn greedy_processes() -> Result<Vec<u32>, String> {
    let list = kubectl_json(&["get", "pods", "-n", "lab", "-l", "app=greedy"]);
    let pods = list["items"].as_array().expect("a list of pods").clone();
    let ready: Vec<_> = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).collect();
    ensure(ready.len() == GREEDY_PODS, || format!("{} pods are ready", ready.len()))?;
    let process = |pod: &&serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let node = lab().node(&text(&pod["spec"]["nodeName"])).map_err(|error| format!("{error:#}"))?;
        let processes = node.pids_of_pod(&text(&pod["metadata"]["uid"]));
        processes.first().copied().ok_or_else(|| "a pod without a process".to_owned())
    };
    ready.iter().map(process).collect()
}

/// Holds silent connections to a server from the network of a process, and replaces those that the server closes.
/// Counts the connections.
fn hold_connections(process: u32, server: SocketAddr, stop: &AtomicBool, count: &AtomicUsize) {
    let network = File::open(format!("/proc/{process}/ns/net")).expect("the pod's network");
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
    let mut connections: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        connections.retain_mut(|connection| {
            connection.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
        for _ in connections.len()..CONNECTIONS {
            let Ok(connection) = TcpStream::connect_timeout(&server, Duration::from_millis(200)) else { break };
            count.fetch_add(1, Ordering::Relaxed);
            connection.set_nonblocking(true).expect("a socket of this process");
            connections.push(connection);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns how many probes of a pod have failed, by the events of its kubelet.
fn failed_probes(pod: &str) -> u64 {
    let selector = format!("reason=Unhealthy,involvedObject.name={pod}");
    let events = kubectl_json(&["get", "events", "-n", NAMESPACE, "--field-selector", &selector]);
    let events = events["items"].as_array().expect("a list of events");
    events.iter().map(|event| event["count"].as_u64().unwrap_or(1)).sum()
}

fn address_of(pod: &str) -> IpAddr {
    let address = kubectl(&["get", "pod", "-n", NAMESPACE, pod, "-o", "jsonpath={.status.podIP}"]);
    address.trim().parse().expect("an address")
}

#[test]
fn eight_pods_that_hold_all_status_connections_of_a_zone_resolver_fail_no_probe_of_the_kubelet() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let image = lab().image("toolbox").expect("the image of the toolbox");
    let _removal = RestoreOnDrop(|| {
        drop(lab().kubectl(&["delete", "deployment", "-n", "lab", "greedy", "--ignore-not-found", "--wait=false"]));
    });
    lab().kubectl_with_input(&["apply", "-f", "-"], &GREEDY.replace("IMAGE", &image)).expect("the pods are made");
    let processes = wait_until("the greedy pods run", WAIT_TIMEOUT, greedy_processes);

    let resolver = pods(NAMESPACE, "zone-resolver").into_iter().next().expect("a zone resolver");
    let server = SocketAddr::new(address_of(&resolver.name), STATUS_PORT);
    let failed_before = failed_probes(&resolver.name);
    let (stop, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
    let is_ready = || pods(NAMESPACE, "zone-resolver").contains(&resolver);
    let unready = std::thread::scope(|scope| {
        for process in processes {
            scope.spawn({
                let (stop, connections) = (&stop, &connections);
                move || hold_connections(process, server, stop, connections)
            });
        }
        let _stop = RestoreOnDrop(|| stop.store(true, Ordering::Relaxed));
        let started = Instant::now();
        let mut unready: Vec<Vec<Pod>> = Vec::new();
        while started.elapsed() < ATTACK {
            std::thread::sleep(Duration::from_secs(1));
            if !is_ready() {
                unready.push(pods(NAMESPACE, "zone-resolver"));
            }
        }
        unready
    });
    let connections = connections.load(Ordering::Relaxed);
    assert!(connections > 2 * STATUS_CONNECTIONS, "all places were taken: {connections} connections");
    assert!(unready.is_empty(), "it stays ready, and its container is not started again: {unready:?}");
    assert_eq!(failed_probes(&resolver.name) - failed_before, 0, "failed probes beside {connections} connections");
}
