//! Names of every kind resolve on every node, over UDP and TCP and both families, by this node's caches and through
//! this zone's resolvers.

use std::net::Ipv4Addr;

use dnstier_tests::dns::{Response, Transport};
use dnstier_tests::require;

use crate::tier::{
    CLUSTER_DNS, CLUSTER_DNS_V6, LINK_LOCAL, NODES, ensure, exclusive_tier, kubectl_json, node_status, query,
    resolver_statuses, responder, wait_until,
};

const SERVERS: [&str; 3] = [CLUSTER_DNS, CLUSTER_DNS_V6, LINK_LOCAL];

#[test]
fn the_caches_of_the_own_node_answer_at_every_captured_address() {
    require!(require::lab());
    let _tier = exclusive_tier();
    for node in NODES {
        for server in SERVERS {
            let (responder_node, instance) = responder(node, server).expect("an identity");
            assert_eq!(responder_node, node, "asked at {server}");
            assert!(instance.starts_with("cache-"), "{instance}");
        }
    }
}

#[test]
fn names_of_the_cluster_are_answered_over_udp_and_tcp_and_both_families() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let pod = toolbox_on("node-b");
    let dashed = pod.replace('.', "-");
    let reverse = reverse(&pod);
    for node in NODES {
        assert_at_every_address(node, &["kubernetes.default.svc.cluster.local"], |response| {
            data(response, "A") == ["10.96.0.1"]
        });
        assert_at_every_address(node, &[&format!("{dashed}.lab.pod.cluster.local")], |response| {
            data(response, "A") == [pod.as_str()]
        });
        assert_at_every_address(node, &["toolboxes.lab.svc.cluster.local"], |response| data(response, "A").len() == 3);
        assert_at_every_address(node, &["toolboxes.lab.svc.cluster.local", "AAAA"], |response| {
            data(response, "AAAA").len() == 3
        });
        assert_at_every_address(node, &["_web._tcp.toolbox.lab.svc.cluster.local", "SRV"], |response| {
            data(response, "SRV").len() == 1
        });
        assert_at_every_address(node, &["1.0.96.10.in-addr.arpa", "PTR"], |response| {
            data(response, "PTR") == ["kubernetes.default.svc.cluster.local."]
        });
        assert_at_every_address(node, &[&reverse, "PTR"], |response| !data(response, "PTR").is_empty());
        assert_at_every_address(node, &["no-such-service.default.svc.cluster.local"], |response| {
            response.rcode == "NXDOMAIN"
        });
    }
}

#[test]
fn names_of_the_world_of_every_kind_are_answered_on_every_node() {
    require!(require::lab());
    let _tier = exclusive_tier();
    for node in NODES {
        assert_at_every_address(node, &["shop.example"], |response| data(response, "A") == ["203.0.113.10"]);
        assert_at_every_address(node, &["shop.example", "AAAA"], |response| {
            data(response, "AAAA") == ["2001:db8:80::10"]
        });
        assert_at_every_address(node, &["mail.example", "MX"], |response| data(response, "MX").len() == 3);
        assert_at_every_address(node, &["s1._domainkey.mail.example", "TXT"], |response| {
            data(response, "TXT")[0].contains("v=DKIM1")
        });
        assert_at_every_address(node, &["far.shop.example"], |response| {
            data(response, "CNAME").len() == 4 && data(response, "A") == ["203.0.113.11"]
        });
        assert_at_every_address(node, &["gone.shop.example"], |response| {
            response.rcode == "NXDOMAIN" && data(response, "CNAME").len() == 1
        });
        assert_at_every_address(node, &["some.thing.wild.example"], |response| data(response, "A") == ["203.0.113.31"]);
        assert_at_every_address(node, &["25.100.51.198.in-addr.arpa", "PTR"], |response| {
            data(response, "PTR") == ["mail.example."]
        });
        assert_at_every_address(node, &["nowhere.shop.example"], |response| response.rcode == "NXDOMAIN");
        assert_at_every_address(node, &["bare.example"], |response| {
            response.rcode == "NOERROR" && response.answers.is_empty()
        });
    }
}

#[test]
fn a_signed_answer_carries_its_signatures_only_when_they_are_asked_for() {
    require!(require::lab());
    let _tier = exclusive_tier();
    for node in NODES {
        assert_at_every_address(node, &["www.signed.example", "--dnssec"], |response| {
            data(response, "A") == ["203.0.113.51"] && data(response, "RRSIG").len() == 1
        });
        assert_at_every_address(node, &["www.signed.example"], |response| {
            data(response, "A") == ["203.0.113.51"] && data(response, "RRSIG").is_empty()
        });
    }
}

#[test]
fn an_answer_too_long_for_udp_is_cut_off_and_comes_whole_over_tcp() {
    require!(require::lab());
    let _tier = exclusive_tier();
    for node in NODES {
        for server in SERVERS {
            let response = query(node, &["text.big.example", "TXT", "--server", server]);
            assert_eq!(response.transport, Transport::TcpAfterUdp, "{response:?}");
            assert!(response.size > 1232 && data(&response, "TXT")[0].contains("20-of-20"), "{response:?}");
        }
    }
}

#[test]
fn a_pods_search_path_leads_to_services_and_to_the_world() {
    require!(require::lab());
    let _tier = exclusive_tier();
    for node in NODES {
        let response = query(node, &["kubernetes.default", "--search"]);
        assert_eq!(data(&response, "A"), ["10.96.0.1"], "{response:?}");
        let response = query(node, &["toolbox", "--search"]);
        assert_eq!(data(&response, "A").len(), 1, "{response:?}");
        let response = query(node, &["shop.example", "--search"]);
        assert_eq!(data(&response, "A"), ["203.0.113.10"], "{response:?}");
    }
}

#[test]
fn questions_go_through_the_own_nodes_cache_and_the_own_zones_resolvers() {
    require!(require::lab());
    let _tier = exclusive_tier();
    const COUNT: u64 = 40;
    for (node, zone) in NODES.into_iter().zip(["zone-a", "zone-b", "zone-c"]) {
        let queries_of_zones = || ["zone-a", "zone-b", "zone-c"].map(|zone| (zone, queries_of_zone(zone)));
        let before = queries_of_node(node);
        let zones_before = queries_of_zones();
        for number in 0..COUNT {
            let name = format!("through-{number}-{}.{node}.wild.example", before);
            assert_eq!(query(node, &[&name, "--server", CLUSTER_DNS]).rcode, "NOERROR");
        }
        let own = wait_until("the counters show the questions", crate::tier::WAIT_TIMEOUT, || {
            let asked = queries_of_node(node) - before;
            let zones = queries_of_zones();
            let own = zones.iter().zip(&zones_before).find(|((name, _), _)| *name == zone);
            let own = own.map_or(0, |((_, after), (_, before))| after - before);
            ensure(asked >= COUNT && own >= COUNT, || format!("{node}: {asked} asked, {own} through {zone}"))?;
            Ok(own)
        });
        for ((name, after), (_, before)) in queries_of_zones().into_iter().zip(zones_before) {
            assert!(name == zone || after - before < own / 2, "{node}: {name} was asked {} times", after - before);
        }
    }
}

/// Sends a query to every captured address over UDP and TCP and asserts a property of the responses.
fn assert_at_every_address(node: &str, query_args: &[&str], is_expected: impl Fn(&Response) -> bool) {
    for server in SERVERS {
        for transport in [[].as_slice(), &["--tcp"]] {
            let arguments = [query_args, &["--server", server], transport].concat();
            let response = query(node, &arguments);
            assert!(is_expected(&response), "{} from {node}: {response:?}", arguments.join(" "));
        }
    }
}

fn data<'a>(response: &'a Response, record_type: &'a str) -> Vec<&'a str> {
    response.data(record_type).collect()
}

fn queries_of_node(node: &str) -> u64 {
    let status = node_status(node).expect("a status");
    status.instances.iter().map(|instance| instance.traffic.queries).sum()
}

fn queries_of_zone(zone: &str) -> u64 {
    resolver_statuses(zone).iter().map(|status| status.instance.traffic.queries).sum()
}

/// Returns the IPv4 address of the toolbox pod of a node.
fn toolbox_on(node: &str) -> String {
    let field = format!("--field-selector=spec.nodeName={node}");
    let list = kubectl_json(&["get", "pods", "-n", "lab", "-l", "app=toolbox", &field]);
    list["items"][0]["status"]["podIP"].as_str().expect("an address").to_owned()
}

fn reverse(address: &str) -> String {
    let [a, b, c, d] = address.parse::<Ipv4Addr>().expect("an IPv4 address").octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}
