//! Faults between pods and a captured address that no self-query on the node shows.

use std::net::SocketAddr;
use std::time::Duration;

use node_cache::admin::Command;
use node_cache_config::status::CaptureState;
use socket2::{Domain, Socket, Type};

use crate::dns::{FROM_CACHE, FROM_CLUSTER_DNS};
use crate::flood::{Flood, query_rcode};
use crate::process::{Node, wait_until};
use crate::require::{network_namespaces, require};
use crate::{LINK_LOCAL, SERVICE4, SERVICE6, wait_until_captured};

/// Long enough for two failed lookups, two failed self-queries, and a machine that compiles something else.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);

const FIREWALL: &str = r#"
table inet firewall {
	chain input {
		type filter hook input priority 0
		iif "to1" udp dport 53 drop
	}
}
"#;

/// Moves the rule for local addresses behind others, as network plugins do.
fn make_room_for_rules(node: &Node) {
    for family in ["-4", "-6"] {
        node.network.node.ip(&format!("{family} rule add pref 100 lookup local"));
        node.network.node.ip(&format!("{family} rule del pref 0"));
    }
}

/// Returns how many addresses have this problem, by the agent's metrics.
fn addresses_with(node: &Node, problem: &str) -> Option<String> {
    let metrics = node.control(Command::Metrics)?;
    let series = format!("dnstier_agent_addresses_with_problem{{problem=\"{problem}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned))
}

fn reason(node: &Node, address: &str) -> String {
    node.captured(address).and_then(|captured| captured.reason).unwrap_or_default()
}

#[test]
fn an_address_that_the_node_does_not_route_for_pods_is_withdrawn_until_it_does() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE4, true), (SERVICE6, true), (LINK_LOCAL, false)]);
    make_room_for_rules(&node);
    let pod = &node.network.pod;
    for (family, address, from) in [("-4", SERVICE4, "10.9.1.2"), ("-6", SERVICE6, "fd09:1::2")] {
        for (action, fate) in [("blackhole", "dropped"), ("prohibit", "prohibited")] {
            wait_until_captured(&node, &[SERVICE4, SERVICE6, LINK_LOCAL]);
            assert_eq!(query_rcode(pod, address), Some(FROM_CACHE), "{address}");
            let rule = format!("pref 50 iif to1 to {address} {action}");
            node.network.node.ip(&format!("{family} rule add {rule}"));
            wait_until(&format!("{address} is withdrawn after {action}"), NOTICE_TIMEOUT, || {
                node.captured(address).is_some_and(|captured| captured.state == CaptureState::Withdrawn)
                    && reason(&node, address)
                        == format!(
                            "queries of pods are not routed to this address on the node: \
                             a packet from {from} on to1 is {fate}"
                        )
            });
            wait_until("the Service answers", NOTICE_TIMEOUT, || query_rcode(pod, address) == Some(FROM_CLUSTER_DNS));
            assert!(node.is_captured(LINK_LOCAL), "other addresses stay");
            assert_eq!(addresses_with(&node, "pod_route").as_deref(), Some("1"));
            node.network.node.ip(&format!("{family} rule del {rule}"));
        }
    }
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
}

#[test]
fn a_rule_for_one_pod_is_told_and_takes_the_address_from_no_other() {
    require!(network_namespaces());
    let mut node = Node::without_caches(&[(SERVICE4, true)]);
    let other = node.network.add_pod(3);
    assert_eq!(query_rcode(&other, SERVICE4), Some(FROM_CLUSTER_DNS));
    node.start_caches();
    wait_until_captured(&node, &[SERVICE4]);
    make_room_for_rules(&node);
    node.network.node.ip("rule add pref 50 from 10.9.3.2 to 10.96.0.10 blackhole");
    wait_until("it is told", NOTICE_TIMEOUT, || reason(&node, SERVICE4).starts_with("queries of some pods are not"));
    std::thread::sleep(Duration::from_secs(6));
    assert!(node.is_captured(SERVICE4), "{}", reason(&node, SERVICE4));
    assert_eq!(query_rcode(&node.network.pod, SERVICE4), Some(FROM_CACHE));
    node.network.node.ip("rule del pref 50");
    wait_until("nothing is told any more", NOTICE_TIMEOUT, || reason(&node, SERVICE4).is_empty());
}

#[test]
fn a_pod_whose_source_address_is_not_valid_says_nothing_of_the_address() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE4, true)]);
    wait_until_captured(&node, &[SERVICE4]);
    // The only pod is a neighbour whose route leads elsewhere: no packet of it is accepted, wherever it goes.
    node.network.node.try_run(&["sysctl", "-q", "net.ipv4.conf.all.rp_filter=1"]).unwrap();
    node.network.node.ip("route add 10.9.1.2/32 dev to2");
    std::thread::sleep(Duration::from_secs(8));
    assert!(node.is_captured(SERVICE4), "{}", reason(&node, SERVICE4));
    assert_eq!(reason(&node, SERVICE4), "");
}

#[test]
fn a_packet_filter_that_drops_all_that_pods_send_is_told_and_withdraws_nothing() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE4, true), (SERVICE6, true)]);
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
    let flood = Flood::start(&node.network.pod, &[SERVICE4, SERVICE6]);
    node.network.nft(FIREWALL);
    for address in [SERVICE4, SERVICE6] {
        wait_until(&format!("it is told of {address}"), Duration::from_secs(60), || {
            reason(&node, address) == "packets of pods arrive, and none passes the packet filters of this node"
        });
        assert!(node.is_captured(address), "a policy for single pods looks the same");
    }
    assert_eq!(addresses_with(&node, "pod_packets").as_deref(), Some("2"));
    node.network.nft("delete table inet firewall");
    for address in [SERVICE4, SERVICE6] {
        wait_until("nothing is told any more", NOTICE_TIMEOUT, || reason(&node, address).is_empty());
    }
    let report = flood.report();
    assert!(report.lost > 0 && report.from_cluster_dns == 0, "{report:?}");
}

#[test]
fn a_process_of_the_host_that_binds_beside_the_agent_is_told() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE6, true), (LINK_LOCAL, false)]);
    for (address, kind) in [(LINK_LOCAL, Type::DGRAM), (SERVICE6, Type::STREAM)] {
        wait_until_captured(&node, &[SERVICE6, LINK_LOCAL]);
        let at = SocketAddr::new(address.parse().unwrap(), 53);
        let foreign = node.network.node.inside(move || {
            let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at.into()).unwrap();
            if kind == Type::STREAM {
                socket.listen(16).unwrap();
            }
            socket
        });
        let protocol = if kind == Type::STREAM { "Tcp" } else { "Udp" };
        let expected = format!(
            "another process (user 0) has bound a socket to port 53 of this address ({protocol}) and takes a share of \
             the queries"
        );
        wait_until("it is told", Duration::from_secs(60), || reason(&node, address) == expected);
        assert_eq!(addresses_with(&node, "foreign_socket").as_deref(), Some("1"));
        drop(foreign);
        wait_until("nothing is told any more", NOTICE_TIMEOUT, || reason(&node, address).is_empty());
    }
}
