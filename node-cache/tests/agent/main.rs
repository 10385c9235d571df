//! Promises of the agent on a node: the real process in a network namespace with a Service and a cluster DNS, two
//! caches that receive its sockets, and a pod that sends queries. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod dns;
mod flood;
mod hijack;
mod memory;
mod network;
mod process;
mod reachability;
#[path = "../require/mod.rs"]
mod require;
mod servers;

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use dns::{FROM_CACHE, FROM_CLUSTER_DNS};
use flood::{Flood, query_rcode, query_rcode_over_tcp};
use hijack::HijackedCache;
use node_cache::handover::{HeldSocket, Protocol};
use node_cache_config::status::CaptureState;
use process::{METRICS_PORT, Node, POD_UID, config, wait_until, write_revision};
use require::{network_namespaces, require};
use rustix::process::Signal;
use servers::Cache;
use socket2::SockRef;

const SERVICE4: &str = "10.96.0.10";
const SERVICE6: &str = "fd96::a";
const LINK_LOCAL: &str = "169.254.20.10";
const ALL_ADDRESSES: [(&str, bool); 3] = [(SERVICE4, true), (SERVICE6, true), (LINK_LOCAL, false)];
/// Long enough for a machine that compiles something else.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Several leases of a captured address (5 s each).
const LEASE_TIMEOUT: Duration = Duration::from_secs(30);

fn wait_until_captured(node: &Node, addresses: &[&str]) {
    for address in addresses {
        wait_until(&format!("{address} is captured"), SETTLE_TIMEOUT, || node.is_captured(address));
    }
}

#[test]
fn a_captured_address_is_answered_on_the_node_over_every_transport_and_family() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&ALL_ADDRESSES);
    wait_until("the agent tells its status", SETTLE_TIMEOUT, || node.status().is_some());
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CLUSTER_DNS));
    assert_eq!(query_rcode(&node.network.pod, SERVICE6), Some(FROM_CLUSTER_DNS));
    wait_until("it is told what is missing", SETTLE_TIMEOUT, || {
        node.captured(SERVICE4).and_then(|captured| captured.reason).as_deref()
            == Some("no cache is running on this node")
    });
    assert!(!node.probe("ready").0 && node.probe("live").0);

    node.start_caches();
    wait_until_captured(&node, &[SERVICE4, SERVICE6, LINK_LOCAL]);
    for from in [&node.network.pod, &node.network.node] {
        for address in [SERVICE4, SERVICE6, LINK_LOCAL] {
            assert_eq!(query_rcode(from, address), Some(FROM_CACHE), "{address}");
            assert_eq!(query_rcode_over_tcp(from, address), Some(FROM_CACHE), "{address} over TCP");
        }
    }
    let (ready, message) = node.probe("ready");
    assert!(ready, "{message}");
}

#[test]
fn when_everything_is_killed_the_service_answers_again_after_the_lease() {
    require!(network_namespaces());
    let mut node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
    node.agent.kill();
    node.caches.clear();
    for address in [SERVICE4, SERVICE6] {
        wait_until(&format!("{address} is answered by the Service"), LEASE_TIMEOUT, || {
            query_rcode(&node.network.pod, address) == Some(FROM_CLUSTER_DNS)
        });
    }
    let addresses = node.network.loopback();
    assert!(!addresses.contains(SERVICE4) && !addresses.contains(SERVICE6), "{addresses}");
    assert!(node.network.table().is_some(), "the rules are left, and harmless");
}

#[test]
fn capture_and_withdrawal_lose_no_query_and_leave_nothing() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&ALL_ADDRESSES);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6]);
    sleep(Duration::from_millis(300));
    for _ in 0..3 {
        node.start_caches();
        wait_until_captured(&node, &[SERVICE4, SERVICE6]);
        sleep(Duration::from_millis(500));
        let (status, took) = node.agent.terminate();
        assert!(status.success() && took < Duration::from_secs(3), "{status} after {took:?}");
        // The caches serve as long as the agent runs.
        node.caches.clear();
        let addresses = node.network.loopback();
        assert!(
            !addresses.contains(SERVICE4) && !addresses.contains(SERVICE6) && !addresses.contains(LINK_LOCAL),
            "{addresses}"
        );
        assert_eq!(node.network.table(), None);
        node.restart_agent();
    }
    let report = flood.report();
    assert_eq!(report.lost, 0, "{report:?}");
    assert!(report.from_cache > 500 && report.from_cluster_dns > 500, "{report:?}");
}

#[test]
fn an_agent_that_is_killed_and_started_anew_loses_no_query() {
    require!(network_namespaces());
    let mut node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4, SERVICE6, LINK_LOCAL]);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6, LINK_LOCAL]);
    for calm in [1000, 6500] {
        node.agent.kill();
        sleep(Duration::from_millis(1000));
        node.restart_agent();
        wait_until_captured(&node, &[SERVICE4, SERVICE6, LINK_LOCAL]);
        sleep(Duration::from_millis(calm));
    }
    let report = flood.report();
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(report.from_cluster_dns, 0, "no query went to the Service: {report:?}");
}

#[test]
fn a_cache_that_hangs_or_dies_is_made_up_for_by_the_other() {
    require!(network_namespaces());
    let mut node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6]);
    node.caches[0].pause(true);
    sleep(Duration::from_millis(3000));
    node.caches[0].pause(false);
    drop(node.caches.pop());
    sleep(Duration::from_millis(3000));
    let report = flood.report();
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(report.from_cluster_dns, 0, "{report:?}");
}

#[test]
fn a_real_cache_that_is_stopped_or_killed_takes_nothing_with_it() {
    require!(network_namespaces());
    let node = Node::without_caches(&[(SERVICE4, true)]);
    let [stopped, mut killed] = node.start_cache_processes();
    wait_until_captured(&node, &[SERVICE4]);
    let alive = || node.status().unwrap().instances.iter().map(|instance| instance.alive).collect::<Vec<_>>();
    assert_eq!(alive(), [true, true]);

    let flood = Flood::start(&node.network.pod, &[SERVICE4]);
    sleep(Duration::from_millis(500));
    stopped.signal(Signal::STOP);
    sleep(Duration::from_millis(500));
    let report = flood.report();
    assert!(report.lost < report.sent / 10, "more than what it was just about to answer: {report:?}");

    let flood = Flood::start(&node.network.pod, &[SERVICE4]);
    sleep(Duration::from_millis(3000));
    assert_eq!(alive(), [false, true]);
    assert!(node.is_captured(SERVICE4) && node.probe("ready").0);
    assert_eq!(flood.report().lost, 0);

    stopped.signal(Signal::CONT);
    wait_until("the stopped one answers again", SETTLE_TIMEOUT, || alive() == [true, true]);
    killed.kill();
    let flood = Flood::start(&node.network.pod, &[SERVICE4]);
    sleep(Duration::from_millis(3000));
    assert_eq!(alive(), [true, false]);
    assert_eq!(flood.report().lost, 0);
    let answered = node.status().unwrap().instances[0].traffic.queries;
    assert!(answered > 2000, "{answered}");
}

#[test]
fn a_pod_that_is_told_to_stop_and_replaced_loses_no_query() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&[(SERVICE4, true), (SERVICE6, true)]);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6]);
    for _ in 0..2 {
        let mut caches = node.start_cache_processes();
        wait_until_captured(&node, &[SERVICE4, SERVICE6]);
        sleep(Duration::from_millis(1000));
        // The kubelet sends SIGTERM to all containers at once.
        for process in caches.iter().chain([&node.agent]) {
            process.signal(Signal::TERM);
        }
        for process in caches.iter_mut().chain([&mut node.agent]) {
            assert!(process.wait().success());
        }
        let addresses = node.network.loopback();
        assert!(!addresses.contains(SERVICE4) && !addresses.contains(SERVICE6), "{addresses}");
        node.restart_agent();
    }
    let report = flood.report();
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn while_all_caches_hang_the_service_answers() {
    require!(network_namespaces());
    let node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4]);
    for cache in &node.caches {
        cache.pause(true);
    }
    wait_until("the switch is off", SETTLE_TIMEOUT, || !node.is_captured(SERVICE4));
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CLUSTER_DNS));
    let reason = node.captured(SERVICE4).unwrap().reason.unwrap();
    assert_eq!(reason, "the caches of this pod do not answer");
    for cache in &node.caches {
        cache.pause(false);
    }
    wait_until_captured(&node, &[SERVICE4]);
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CACHE));
}

#[test]
fn when_the_last_cache_is_gone_the_service_answers_at_once() {
    require!(network_namespaces());
    let mut node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4]);
    node.caches.clear();
    let took = wait_until("the Service answers", SETTLE_TIMEOUT, || {
        query_rcode(&node.network.pod, SERVICE4) == Some(FROM_CLUSTER_DNS)
    });
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn an_address_of_somebody_else_is_left_alone() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&[(SERVICE4, true), (SERVICE6, true)]);
    node.network.node.ip("addr add 10.96.0.10/32 dev to2");
    node.network.node.ip("addr add fd96::a/128 dev lo nodad");
    node.start_caches();
    for (address, link) in [(SERVICE4, "to2"), (SERVICE6, "lo")] {
        wait_until("it is told", SETTLE_TIMEOUT, || {
            node.captured(address).is_some_and(|captured| captured.state == CaptureState::Foreign)
        });
        let reason = node.captured(address).unwrap().reason.unwrap();
        assert_eq!(reason, format!("somebody else has put this address on the link {link}; it is left alone"));
    }
    assert!(node.probe("ready").0, "what belongs to somebody else makes nothing unready");
    assert!(node.agent.terminate().0.success());
    assert!(node.network.node.ip("addr show dev to2").contains(SERVICE4));
    assert!(node.network.loopback().contains(SERVICE6));
}

#[test]
fn an_address_that_somebody_brings_later_is_given_up() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE4, true), (SERVICE6, true)]);
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
    node.network.node.ip("addr add 10.96.0.10/32 dev to2");
    wait_until("it is told", SETTLE_TIMEOUT, || {
        node.captured(SERVICE4).is_some_and(|captured| captured.state == CaptureState::Foreign)
    });
    wait_until("ours is gone", SETTLE_TIMEOUT, || !node.network.loopback().contains(SERVICE4));
    assert!(node.is_captured(SERVICE6));
    node.network.node.ip("addr del 10.96.0.10/32 dev to2");
    wait_until_captured(&node, &[SERVICE4]);
}

#[test]
fn addresses_follow_the_configuration_without_losing_a_query() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE4, true)]);
    wait_until_captured(&node, &[SERVICE4]);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6]);
    write_revision(node.config_dir.path(), "r2", &config(&[(SERVICE6, true)]));
    wait_until_captured(&node, &[SERVICE6]);
    wait_until("the address is off the node", SETTLE_TIMEOUT, || !node.network.loopback().contains(SERVICE4));
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CLUSTER_DNS));
    assert_eq!(query_rcode(&node.network.pod, SERVICE6), Some(FROM_CACHE));

    write_revision(node.config_dir.path(), "r3", &config(&[]));
    wait_until("the refusal is told", SETTLE_TIMEOUT, || {
        node.status().is_some_and(|status| status.revision.refusal.is_some())
    });
    let status = node.status().unwrap();
    assert_eq!(status.revision.in_force.as_deref(), Some("r2"));
    assert!(node.is_captured(SERVICE6), "what was in force stays");
    let report = flood.report();
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn rules_that_somebody_removed_are_put_back() {
    require!(network_namespaces());
    let node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4]);
    node.network.nft("delete table inet dnstier_test");
    wait_until("the rules are back", SETTLE_TIMEOUT, || node.network.table().is_some());
    wait_until("the caches answer", SETTLE_TIMEOUT, || query_rcode(&node.network.pod, SERVICE4) == Some(FROM_CACHE));
    node.network.nft("flush chain inet dnstier_test prerouting");
    wait_until("the caches answer", SETTLE_TIMEOUT, || query_rcode(&node.network.pod, SERVICE4) == Some(FROM_CACHE));
    let metrics = node.control(node_cache::admin::Command::Metrics).unwrap();
    assert!(metrics.contains("dnstier_agent_rule_reasserts_total 2\n"), "{metrics}");
}

#[test]
fn a_table_that_is_not_whole_is_replaced_by_an_agent_that_is_started() {
    require!(network_namespaces());
    let mut node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4]);
    node.agent.kill();
    node.network.nft("flush chain inet dnstier_test prerouting");
    node.restart_agent();
    wait_until("the table is whole", SETTLE_TIMEOUT, || {
        node.network
            .table()
            .is_some_and(|table| table.split_whitespace().filter(|word| *word == "notrack").count() == 8)
    });
    wait_until("the caches answer", SETTLE_TIMEOUT, || query_rcode(&node.network.pod, SERVICE4) == Some(FROM_CACHE));
}

#[test]
fn a_first_capture_waits_until_a_zone_resolver_has_responded() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&[(SERVICE4, true)]);
    node.start_caches();
    let set_outside_down = |yes| {
        for cache in &node.caches {
            cache.behaviour.outside_is_down.store(yes, Ordering::Relaxed);
        }
    };
    set_outside_down(true);
    wait_until("it is told what is missing", SETTLE_TIMEOUT, || {
        let reason = node.captured(SERVICE4).and_then(|captured| captured.reason);
        reason.is_some_and(|reason| reason == "no resolver of a zone has answered the caches yet")
    });
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CLUSTER_DNS));
    set_outside_down(false);
    wait_until_captured(&node, &[SERVICE4]);
    set_outside_down(true);
    sleep(Duration::from_secs(3));
    assert!(node.is_captured(SERVICE4), "an upstream that dies later withdraws nothing");
}

#[test]
fn a_first_capture_waits_for_zone_resolvers_only_as_long_as_the_service_has_better_answers() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&[(SERVICE4, true)]);
    node.start_caches();
    for cache in &node.caches {
        cache.behaviour.outside_is_down.store(true, Ordering::Relaxed);
    }
    // Longer than the silence that the agent waits for.
    sleep(Duration::from_secs(36));
    assert!(!node.is_captured(SERVICE4), "the Service resolves outside names");
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CLUSTER_DNS));
    node.cluster_dns.behaviour.outside_is_down.store(true, Ordering::Relaxed);
    wait_until_captured(&node, &[SERVICE4]);
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CACHE));
}

#[test]
fn real_caches_take_any_response_of_an_upstream_for_a_way_out() {
    require!(network_namespaces());
    // The cluster DNS, which stands for the zone resolver, too, answers the root with SERVFAIL.
    let node = Node::without_caches(&[(SERVICE4, true)]);
    node.cluster_dns.behaviour.outside_is_down.store(true, Ordering::Relaxed);
    let _caches = node.start_cache_processes();
    wait_until_captured(&node, &[SERVICE4]);
    let traffic = node.status().unwrap().instances.into_iter().map(|instance| instance.traffic);
    let counted: Vec<_> = traffic.map(|traffic| (traffic.queries, traffic.hits, traffic.servfail)).collect();
    assert_eq!(counted, [(0, 0, 0); 2], "what the tier asks itself is no traffic");
}

#[test]
fn status_metrics_and_probes_are_served_on_the_addresses_of_the_pod() {
    require!(network_namespaces());
    let node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4]);
    for address in ["10.9.1.1", "fd09:1::1"] {
        let server = SocketAddr::new(address.parse().unwrap(), METRICS_PORT);
        let get = |path: &str| flood::get(&node.network.pod, server, path).unwrap();
        let status: serde_json::Value = serde_json::from_str(&get("/status").1).unwrap();
        assert_eq!(status["node"], "node-a");
        assert_eq!(status["revision"]["inForce"], "r1");
        assert_eq!(status["captured"][0]["state"], "Captured");
        assert_eq!(
            status["instances"][1],
            serde_json::json!({
                "name": "cache-1", "alive": true, "started": 5, "restarts": 0,
                "revision": {"asked": null, "inForce": null, "refusal": null},
                "traffic": {"queries": 0, "hits": 0, "stale": 0, "servfail": 0, "dropped": 0, "cacheBytes": 0,
                    "cacheEntries": 0},
                "upstreams": [
                    {"scope": "cluster", "address": "10.9.2.2:53", "healthy": true, "responded": true, "sent": 1,
                        "inFlight": 0, "state": "Up", "timeouts": 0, "nearMisses": 0},
                    {"scope": "zone/", "address": "10.9.2.2:53", "healthy": true, "responded": true, "sent": 1,
                        "inFlight": 0, "state": "Up", "timeouts": 0, "nearMisses": 0},
                ],
                "upstreamProblem": null,
            })
        );
        assert_eq!(
            status["figures"],
            serde_json::json!({
                "responses": [["cluster", 14, 0, 0, 0]], "slowMisses": 0, "queries": [],
                "servfailNames": {"minute": 0, "current": "", "previous": ""},
            })
        );
        assert_eq!(status["capabilities"], serde_json::json!(["figures", "probe-digest"]));
        assert!(status["started"].as_u64().is_some_and(|started| started > 1_700_000_000), "{status}");
        let metrics = get("/metrics").1;
        assert!(metrics.contains("dnstier_agent_captured{address=\"10.96.0.10\"} 1\n"), "{metrics}");
        assert!(metrics.contains("dnstier_build_info{process=\"agent\",version=\""), "{metrics}");
        assert!(metrics.contains("# TYPE dnstier_agent_rule_reasserts_total counter\n"), "{metrics}");
        let series = metrics.lines().filter(|line| !line.starts_with('#') && !line.contains("process=\"cache-"));
        // With three addresses; a fourth one adds four.
        assert!(series.clone().count() <= 28, "{}", series.collect::<Vec<_>>().join("\n"));
        let (line, body) = get("/probe?name=kubernetes.default.svc.cluster.local");
        assert_eq!(line, "HTTP/1.1 200 OK", "{body}");
        let result: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(result["instance"].as_str().is_some_and(|name| name.starts_with("cache-")), "{body}");
        assert_eq!((&result["rcode"], &result["digest"]), (&serde_json::json!(3), &serde_json::json!("0aff")));
        let (line, body) = get("/probe?name=bank.example");
        assert_eq!(line, "HTTP/1.1 404 Not Found");
        assert_eq!(body, "only names of the configuration can be asked for: ., kubernetes.default.svc.cluster.local");
        for parameters in ["", "?", "?type=A", "?name=.&name=bank.example", "?name=.&server=::1"] {
            let (line, body) = get(&format!("/probe{parameters}"));
            assert_eq!(line, "HTTP/1.1 400 Bad Request", "{parameters}");
            assert_eq!(
                body,
                "a probe has the parameters `name` and, if need be, `type`, of a name of the configuration"
            );
        }
    }
}

#[test]
fn a_packet_filter_that_hangs_holds_up_no_renewal() {
    require!(network_namespaces());
    let node = Node::start(&ALL_ADDRESSES);
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6]);
    node.let_nft_hang();
    sleep(Duration::from_secs(8));
    let report = flood.report();
    assert_eq!((report.lost, report.from_cluster_dns), (0, 0), "{report:?}");
}

/// Waits until three queries of the pod in a row are answered by the caches, over UDP and over TCP.
fn wait_until_answered(node: &Node, address: &'static str, after: &str) {
    wait_until(&format!("{address} is answered after {after}"), Duration::from_secs(20), || {
        let pod = &node.network.pod;
        (0..3).all(|_| query_rcode(pod, address) == Some(FROM_CACHE))
            && (0..3).all(|_| query_rcode_over_tcp(pod, address) == Some(FROM_CACHE))
    });
}

#[test]
fn what_a_hijacked_cache_does_to_the_sockets_keeps_no_pod_from_the_other_cache() {
    require!(network_namespaces());
    type Change = fn(&HeldSocket);
    let ways: [(&str, Protocol, Change); 6] = [
        ("a bound device", Protocol::Udp, |socket| SockRef::from(socket).bind_device(Some(b"lo")).unwrap()),
        ("a bound device of the listener", Protocol::Tcp, |socket| {
            SockRef::from(socket).bind_device(Some(b"lo")).unwrap();
        }),
        ("a small TTL", Protocol::Udp, |socket| match socket.address {
            std::net::IpAddr::V4(_) => SockRef::from(socket).set_ttl_v4(1).unwrap(),
            std::net::IpAddr::V6(_) => SockRef::from(socket).set_unicast_hops_v6(1).unwrap(),
        }),
        ("a peer", Protocol::Udp, |socket| {
            let peer = SocketAddr::new(socket.address, 7);
            SockRef::from(socket).connect(&peer.into()).unwrap();
        }),
        ("the end of the listener", Protocol::Tcp, |socket| {
            SockRef::from(socket).shutdown(Shutdown::Both).unwrap();
        }),
        // The kernel tells nobody: only the silence at the address shows it.
        ("the end of sending", Protocol::Udp, |socket| {
            let _ = SockRef::from(socket).shutdown(Shutdown::Write);
        }),
    ];
    let mut node = Node::without_caches(&[(SERVICE6, true), (LINK_LOCAL, false)]);
    node.caches.push(Cache::start(node.run_dir.path(), "cache-0", POD_UID));
    let mut hijacked = HijackedCache::start(node.run_dir.path(), "cache-1");
    wait_until_captured(&node, &[SERVICE6, LINK_LOCAL]);
    for address in [LINK_LOCAL, SERVICE6] {
        wait_until_answered(&node, address, "the capture");
        for (after, protocol, change) in ways {
            let socket = hijacked.socket(address, protocol);
            change(&socket);
            wait_until(&format!("the socket of {address} is replaced after {after}"), Duration::from_secs(20), || {
                let latest = hijacked.socket(address, protocol);
                latest.cookie().unwrap() != socket.cookie().unwrap()
            });
            wait_until_answered(&node, address, after);
        }
    }
    drop(hijacked);
    for address in [LINK_LOCAL, SERVICE6] {
        wait_until_answered(&node, address, "the end of the hijacked cache");
    }
}

#[test]
fn an_agent_starts_whatever_caches_put_where_its_sockets_are_to_be() {
    require!(network_namespaces());
    let mut node = Node::start(&[(SERVICE4, true)]);
    wait_until_captured(&node, &[SERVICE4]);
    assert!(node.agent.terminate().0.success());
    for name in ["sockets.sock", "agent.sock"] {
        let path = node.run_dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir_all(path.join("below")).unwrap();
        std::os::unix::fs::chown(&path, Some(65532), Some(65532)).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    node.restart_agent();
    wait_until_captured(&node, &[SERVICE4]);
    let (ready, message) = node.probe("ready");
    assert!(ready, "{message}");
}

#[test]
fn connections_that_say_nothing_fail_no_probe_and_keep_no_cache_from_its_sockets() {
    require!(network_namespaces());
    let mut node = Node::start(&[(SERVICE4, true)]);
    wait_until_captured(&node, &[SERVICE4]);
    let mut silent = Vec::new();
    for round in 0..6 {
        for name in ["sockets.sock", "agent.sock"] {
            let connect = |_| std::os::unix::net::UnixStream::connect(node.run_dir.path().join(name)).unwrap();
            silent.extend((0..100).map(connect));
        }
        let (live, message) = node.probe("live");
        assert!(live, "{round}: {message}");
    }
    node.caches.clear();
    node.start_caches();
    wait_until_captured(&node, &[SERVICE4]);
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CACHE));
}
