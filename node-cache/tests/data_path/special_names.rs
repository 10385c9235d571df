//! Special-use names, which are never sent to public servers (RFC 6761, RFC 6303).

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use node_cache::dns::answer::Source;
use node_cache::dns::codes::rtype;
use node_cache::dns::query::Query;
use node_cache::dns::{Name, Response};
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use node_cache_config::{Config, Upstream, UpstreamSource};

use crate::support::{Action, Authority, Tier, config, exchange, query_for, route, zone};

/// Addresses of public servers. No packet is sent to them.
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8:53", "[2001:4860:4860::8888]:53"];
const PRIVATE_REVERSE_NAMES: [&str; 5] = [
    "1.0.0.10.in-addr.arpa",
    "9.1.168.192.in-addr.arpa",
    "1.0.64.100.in-addr.arpa",
    "1.254.169.in-addr.arpa",
    "1.0.0.0.d.f.ip6.arpa",
];

fn forwarding(servers: &[&str]) -> Config {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = |server: &&str| Upstream::from(server.parse::<std::net::SocketAddr>().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(servers.iter().map(upstream).collect());
    config
}

fn snapshot(servers: &[&str]) -> Snapshot {
    Snapshot::for_zone_resolver(&forwarding(servers), "", &mut GroupRegistry::default())
}

fn internal_query(name: &str, kind: u16) -> Query {
    Query::plain(Name::from_text(name).unwrap(), kind)
}

#[tokio::test]
async fn names_of_private_addresses_are_denied_where_only_servers_of_the_outside_could_be_asked() {
    for servers in [&PUBLIC_SERVERS[..1], &PUBLIC_SERVERS[1..], &PUBLIC_SERVERS[..]] {
        let snapshot = snapshot(servers);
        for name in PRIVATE_REVERSE_NAMES {
            let query = internal_query(name, rtype::PTR);
            let response = snapshot.empty_zones.answer(&query.question()).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(response.source, Source::Local);
            let response = Message::from_vec(&response.to_udp_wire(&query)).unwrap();
            assert_eq!(
                (response.metadata.response_code, response.answers.len()),
                (ResponseCode::NXDomain, 0),
                "{name}"
            );
            let [soa] = &response.authorities[..] else { panic!("{:?}", response.authorities) };
            assert!(matches!(&soa.data, RData::SOA(data) if data.minimum == 10_800 && data.mname == soa.name));
            assert!(soa.name.zone_of(response.queries[0].name()));
        }
        assert!(snapshot.empty_zones.answer(&internal_query("8.8.8.8.in-addr.arpa", rtype::PTR).question()).is_none());
    }
}

#[tokio::test]
async fn an_empty_zone_has_its_own_records_and_nothing_else() {
    let snapshot = snapshot(&PUBLIC_SERVERS);
    let response = |kind| {
        let query = internal_query("10.in-addr.arpa", kind);
        Message::from_vec(&snapshot.empty_zones.answer(&query.question()).unwrap().to_udp_wire(&query)).unwrap()
    };
    for kind in [RecordType::SOA, RecordType::NS] {
        let response = response(kind.into());
        assert_eq!((response.metadata.response_code, response.answers[0].record_type()), (ResponseCode::NoError, kind));
    }
    let nothing = response(rtype::A);
    assert_eq!((nothing.metadata.response_code, nothing.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn servers_inside_are_asked_for_names_of_private_addresses_and_those_outside_beside_them_are_not() {
    let inside = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let address = inside.address.to_string();
    for servers in [vec![&*address], vec![PUBLIC_SERVERS[0], &*address]] {
        let snapshot = snapshot(&servers);
        for name in PRIVATE_REVERSE_NAMES {
            let name = Name::from_text(name).unwrap();
            assert_eq!(snapshot.empty_zones.find(&name), None);
            let query = snapshot.routes.find(&name).pool.groups().flat_map(|group| group.status());
            assert_eq!(query.map(|server| server.address).collect::<Vec<_>>(), [inside.address], "{name}");
        }
        let www = snapshot.routes.find(&Name::from_text("www.example").unwrap());
        assert_eq!(www.pool.groups().flat_map(|group| group.status()).count(), servers.len());
    }
    let tier = Tier::forwarding_to(&[inside.address]).await;
    exchange(tier.address, &query_for(PRIVATE_REVERSE_NAMES[0], RecordType::A)).await;
    assert_eq!(inside.query_count(PRIVATE_REVERSE_NAMES[0]), 1);
}

#[tokio::test]
async fn names_of_one_host_go_nowhere_in_any_role() {
    let cluster = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let node = Tier::on_node(&config(cluster.address), None).await;
    let resolver = Tier::forwarding_to(&[cluster.address]).await;
    let names = ["1.0.0.127.in-addr.arpa", "www.invalid", "hidden.onion", "_dns.resolver.arpa", "a.localhost"];
    for tier in [&node, &resolver] {
        for name in names {
            for _ in 0..2 {
                let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
                let expected = match name {
                    "_dns.resolver.arpa" | "a.localhost" => ResponseCode::NoError,
                    _ => ResponseCode::NXDomain,
                };
                assert_eq!(response.metadata.response_code, expected, "{name}");
            }
            assert_eq!(cluster.query_count(name), 0, "{name}");
        }
    }
}

/// Names that companies, home networks and multicast DNS use.
const LOCAL_NAMES: [&str; 6] = ["ad.corp.local", "corp.local", "local", "printer.local", "nas.home.arpa", "home.arpa"];

#[tokio::test]
async fn names_below_local_and_home_arpa_are_asked_of_a_server_inside() {
    let inside = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[inside.address]).await;
    for name in LOCAL_NAMES {
        assert_eq!(exchange(tier.address, &query_for(name, RecordType::A)).await.answers.len(), 1, "{name}");
        exchange(tier.address, &query_for(name, RecordType::DS)).await;
        assert_eq!(inside.query_count(name), 2, "{name}");
    }
}

#[tokio::test]
async fn names_below_local_and_home_arpa_are_asked_of_servers_inside_alone_where_there_are_others() {
    let inside = ["10.0.0.2:53", "192.168.1.1:53", "169.254.169.253:53", "127.0.0.53:53", "[fd00:ec2::253]:53"];
    for server in inside {
        for servers in [vec![PUBLIC_SERVERS[0], server], vec![server, PUBLIC_SERVERS[1]], vec![server]] {
            let snapshot = snapshot(&servers);
            for name in LOCAL_NAMES.map(|name| Name::from_text(name).unwrap()) {
                assert_eq!(snapshot.empty_zones.find(&name), None, "{name} with {servers:?}");
                let asked = snapshot.routes.find(&name).pool.groups().flat_map(|group| group.status());
                let addresses: Vec<_> = asked.map(|server| server.address.to_string()).collect();
                assert_eq!(addresses, [server], "{name}");
            }
        }
    }
}

#[tokio::test]
async fn names_below_local_and_home_arpa_are_denied_where_only_servers_of_the_outside_could_be_asked() {
    for servers in [&PUBLIC_SERVERS[..1], &PUBLIC_SERVERS[..]] {
        let snapshot = snapshot(servers);
        for name in LOCAL_NAMES {
            for kind in [rtype::A, 43] {
                let answer = snapshot.empty_zones.answer(&internal_query(name, kind).question());
                let expected = if matches!(name, "local" | "home.arpa") { 0 } else { 3 };
                assert_eq!(answer.map(|answer| answer.response.rcode()), Some(expected), "{name} {kind}");
            }
        }
    }
}

#[tokio::test]
async fn a_node_asks_its_zone_for_names_below_local_but_the_cluster_dns_for_those_of_the_cluster() {
    let cluster = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", resolver.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    for name in LOCAL_NAMES {
        assert_eq!(exchange(tier.address, &query_for(name, RecordType::A)).await.answers.len(), 1, "{name}");
        assert_eq!((resolver.query_count(name), cluster.query_count(name)), (1, 0), "{name}");
    }
    exchange(tier.address, &query_for("web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(resolver.query_count("web.shop.svc.cluster.local"), 0);
    // Nobody can be asked without zones.
    let alone = Tier::on_node(&crate::support::config(cluster.address), None).await;
    for name in ["ad.corp.local", "nas.home.arpa"] {
        let response = exchange(alone.address, &query_for(name, RecordType::A)).await;
        assert_eq!((response.metadata.response_code, cluster.query_count(name)), (ResponseCode::NXDomain, 0), "{name}");
    }
    let text = alone.resolver.inspect(node_cache::admin::Inspection::Explain {
        name: Name::from_text("printer.local").unwrap(),
        rtype: rtype::A,
    });
    assert!(text.await.contains("empty zone local.: never forwarded"));
}

#[tokio::test]
async fn a_route_is_stronger_than_what_a_name_means_elsewhere() {
    let cluster = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let corp = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let mut config = config(cluster.address);
    config.routes = ["corp.local", "home.arpa", "lab.test"].map(|suffix| route(suffix, &[corp.address])).into();
    let tier = Tier::on_node(&config, None).await;
    for name in ["dc.corp.local", "nas.home.arpa", "www.lab.test"] {
        assert_eq!(exchange(tier.address, &query_for(name, RecordType::A)).await.answers.len(), 1, "{name}");
        assert_eq!(corp.query_count(name), 1);
    }
    let elsewhere = exchange(tier.address, &query_for("printer.local", RecordType::A)).await;
    assert_eq!(elsewhere.metadata.response_code, ResponseCode::NXDomain);
    let in_cluster = exchange(tier.address, &query_for("web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(in_cluster.answers.len(), 1, "and so is the cluster's own zone");
    config.routes.clear();
    tier.apply_on_node(&config, None);
    let gone = exchange(tier.address, &query_for("dc.corp.local", RecordType::A)).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
}

/// A local negative response can be cached by the client.
#[tokio::test]
async fn a_denial_of_an_empty_zone_may_be_kept_by_the_next_cache() {
    let snapshot = snapshot(&PUBLIC_SERVERS);
    let query = internal_query(PRIVATE_REVERSE_NAMES[0], rtype::PTR);
    let wire = snapshot.empty_zones.answer(&query.question()).unwrap().to_udp_wire(&query);
    let read = Response::read(&wire, 0, &query.question()).unwrap();
    assert_eq!(read.ttl(), node_cache::dns::ResponseTtl::Negative(10_800));
}
