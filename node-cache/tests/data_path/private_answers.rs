//! Private addresses in answers for outside names: passed on by default, refused when the configuration says so.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata};
use node_cache::dns::codes::ede::BLOCKED;
use node_cache_config::{Captured, Config, PrivateAnswers};
use tokio::sync::watch;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, ede, empty_response, exchange, exchange_over_tcp,
    name, query_for, response_with, route, unknown_record, wait_until, zone,
};

const PATIENCE: Duration = Duration::from_secs(20);
const HTTPS: u16 = 65;
const SVCB: u16 = 64;
/// Time of a query in flight.
const SLOW: Duration = Duration::from_secs(1);
/// An address that the node captures and that is not private.
const CAPTURED: &str = "203.0.113.10";

/// Addresses that are refused, each in the first label of a name: `a4-10-0-0-1.example`, `a6-fd00--1.example`.
const REFUSED: [&str; 31] = [
    "10.0.0.0",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.169.254",
    "169.254.20.10",
    CAPTURED,
    "::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "::ffff:10.0.0.1",
    "::ffff:172.16.0.1",
    "::ffff:192.168.0.1",
    "::ffff:100.64.0.1",
    "::ffff:169.254.169.254",
    "::ffff:203.0.113.10",
    "::10.0.0.1",
    "::ffff:0:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::203.0.113.10",
    "64:ff9b:1::10.0.0.1",
    "2002:a00:1::1",
    "2002:c0a8:101::",
    "2002:cb00:710a::1",
];

/// Addresses that are passed on in any case: public ones beside the private ranges, and those of block lists.
const PASSED_ON: [&str; 16] = [
    "192.0.2.1",
    "9.255.255.255",
    "11.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "203.0.113.11",
    "127.0.0.1",
    "0.0.0.0",
    "::",
    "2001:db8::1",
    "::ffff:192.0.2.1",
    "::ffff:127.0.0.1",
    "64:ff9b::192.0.2.1",
    "2002:c000:201::1",
];

fn name_of(address: &str) -> String {
    let family = if address.contains(':') { 6 } else { 4 };
    format!("a{family}-{}.example", address.replace([':', '.'], "-"))
}

fn type_of(address: &str) -> RecordType {
    if address.parse::<IpAddr>().unwrap().is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(rdata::CNAME(name(target))))
}

/// Responds with the address that the name is made from.
fn respond_with_its_address(query: &ReceivedQuery) -> Action {
    let address = REFUSED.iter().chain(&PASSED_ON).find(|address| query.is(&name_of(address)));
    Action::Respond(match address {
        Some(address) if query.rtype() == type_of(address) => {
            response_with(query, vec![address_record(&name_of(address), 300, address)])
        }
        _ => empty_response(query, ResponseCode::NoError),
    })
}

/// Responds to every query with these records.
async fn answering(records: Vec<Record>) -> Authority {
    Authority::start(move |query| Action::Respond(response_with(query, records.clone()))).await
}

/// Builds the configuration of a node whose cluster DNS and zone resolver are these servers.
fn node_config(private_answers: PrivateAnswers, cluster: &Authority, outside: &Authority) -> Config {
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", outside.address)];
    config.node_cache.private_answers = private_answers;
    // No refused answer expires during a test.
    config.node_cache.cache.negative_max_ttl = 3600;
    config.node_cache.captured.push(Captured { address: CAPTURED.parse().unwrap(), service: true });
    config
}

async fn refusing_node(outside: &Authority) -> Tier {
    Tier::on_node(&node_config(PrivateAnswers::Refuse, outside, outside), Some("zone-a")).await
}

fn refused(tier: &Tier) -> u64 {
    tier.resolver.metrics().private_answers_refused()
}

/// Asserts that a response is NOERROR without any record, from a server that recurses: stub resolvers do not ask again.
fn assert_blocked(response: &Message, subject: &str) {
    assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{subject}: {response:?}");
    let records = response.answers.len() + response.authorities.len() + response.additionals.len();
    assert_eq!(records, 0, "{subject}: {response:?}");
    assert_eq!(ede(response), Some(BLOCKED), "{subject}: {response:?}");
    assert!(response.metadata.recursion_available && !response.metadata.truncation, "{subject}: {response:?}");
}

#[tokio::test]
async fn no_outside_name_leads_to_a_private_or_captured_address_where_those_are_refused() {
    let outside = Authority::start(respond_with_its_address).await;
    let tier = refusing_node(&outside).await;
    for (count, address) in (1..).zip(REFUSED) {
        let query = query_for(&name_of(address), type_of(address));
        for response in [
            exchange(tier.address, &query).await,
            exchange(tier.address, &query).await,
            exchange_over_tcp(tier.address, &query).await,
        ] {
            assert_blocked(&response, address);
        }
        assert_eq!(outside.query_count(&name_of(address)), 1, "{address}: a refused answer is cached");
        assert_eq!(refused(&tier), count, "{address}: it is counted once");
    }
    for address in PASSED_ON {
        for _ in 0..2 {
            let response = exchange(tier.address, &query_for(&name_of(address), type_of(address))).await;
            assert_eq!(response.answers, [address_record(&name_of(address), 300, address)], "{address}");
            assert_eq!(ede(&response), None, "{address}");
        }
    }
    assert_eq!(refused(&tier), REFUSED.len() as u64);
}

#[tokio::test]
async fn every_answer_is_passed_on_as_it_is_by_default() {
    let outside = Authority::start(respond_with_its_address).await;
    assert_eq!(Config::example().node_cache.private_answers, PrivateAnswers::Allow);
    let tier = Tier::on_node(&node_config(PrivateAnswers::default(), &outside, &outside), Some("zone-a")).await;
    for address in REFUSED.into_iter().chain(PASSED_ON) {
        let response = exchange(tier.address, &query_for(&name_of(address), type_of(address))).await;
        assert_eq!(response.answers, [address_record(&name_of(address), 300, address)], "{address}");
    }
    assert_eq!(refused(&tier), 0);
}

#[tokio::test]
async fn neither_any_nor_a_flag_of_dnssec_leads_around_the_refusal() {
    let outside = answering(vec![address_record("www.example", 300, "10.0.0.1")]).await;
    let tier = refusing_node(&outside).await;
    for (dnssec_ok, checking_disabled) in [(true, false), (false, true), (true, true)] {
        let mut query = query_for("www.example", RecordType::A);
        query.metadata.checking_disabled = checking_disabled;
        let mut edns = Edns::new();
        edns.set_dnssec_ok(dnssec_ok).set_max_payload(1232);
        query.set_edns(edns);
        assert_blocked(&exchange(tier.address, &query).await, &format!("DO {dnssec_ok} CD {checking_disabled}"));
    }
    let response = exchange(tier.address, &query_for("www.example", RecordType::ANY)).await;
    assert!(response.answers.iter().all(|record| record.record_type() == RecordType::HINFO), "{response:?}");
}

#[tokio::test]
async fn names_of_the_cluster_and_of_routes_may_have_private_addresses_and_public_reverse_names_may_not() {
    let private = |query: &ReceivedQuery| {
        let owner = query.name().to_ascii();
        Action::Respond(response_with(query, vec![address_record(&owner, 300, "10.0.0.1")]))
    };
    let cluster = Authority::start(private).await;
    let corp = Authority::start(private).await;
    let outside = Authority::start(private).await;
    let mut config = node_config(PrivateAnswers::Refuse, &cluster, &outside);
    let suffixes = ["corp.example", "lab.home.arpa", "office.local"];
    config.routes = suffixes.map(|suffix| route(suffix, &[corp.address])).to_vec();
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    for inside in [
        "db.corp.example",
        "corp.example",
        "nas.lab.home.arpa",
        "printer.office.local",
        "web.shop.svc.cluster.local",
        "1.0.0.10.in-addr.arpa",
    ] {
        for _ in 0..2 {
            let response = exchange(tier.address, &query_for(inside, RecordType::A)).await;
            assert_eq!(response.answers.len(), 1, "{inside}: {response:?}");
        }
    }
    assert_eq!((refused(&tier), outside.queries().len()), (0, 0));
    for name in ["www.example", "acorp.example", "local.example", "4.3.2.1.in-addr.arpa"] {
        assert_blocked(&exchange(tier.address, &query_for(name, RecordType::A)).await, name);
    }
}

#[tokio::test]
async fn an_outside_alias_of_a_name_inside_is_answered_by_its_route_or_refused_and_takes_nothing_from_that_name() {
    let chain = [
        vec![alias("www.evil.example", "db.corp.example"), address_record("db.corp.example", 300, "10.0.0.5")],
        vec![alias("www.evil.example", "web.svc.cluster.local")],
        vec![address_record("web.svc.cluster.local", 300, "10.96.0.7")],
    ];
    let outside = Authority::start(move |query| {
        let records = if query.is("www.evil.example") { chain[0].clone() } else { chain[1..].concat() };
        let records = records.into_iter().map(|mut record| {
            if record.name == name("www.evil.example") {
                record.name = query.name().clone();
            }
            record
        });
        Action::Respond(response_with(query, records.collect()))
    })
    .await;
    let inside = Authority::start(|query| Action::Respond(query.default_response(300, 5))).await;
    let mut config = node_config(PrivateAnswers::Refuse, &inside, &outside);
    config.routes = vec![route("corp.example", &[inside.address])];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let answer = exchange(tier.address, &query_for("www.evil.example", RecordType::A)).await.answers;
    let of_route = address_record("db.corp.example", 300, "192.0.2.5");
    assert_eq!(answer, [alias("www.evil.example", "db.corp.example"), of_route], "the route has the word on its names");
    assert_blocked(&exchange(tier.address, &query_for("other.evil.example", RecordType::A)).await, "the cluster");
    for inside_name in ["db.corp.example", "web.svc.cluster.local"] {
        let response = exchange(tier.address, &query_for(inside_name, RecordType::A)).await;
        assert_eq!(response.answers.len(), 1, "{inside_name}: {response:?}");
    }
}

#[tokio::test]
async fn a_refused_answer_is_no_answer_for_another_type_or_name() {
    let outside = Authority::start(|query| {
        let owner = query.name().to_ascii();
        let is_rebound = query.is("www.example") && query.rtype() == RecordType::A;
        let address = match query.rtype() {
            _ if is_rebound => "10.0.0.1",
            RecordType::AAAA => "2001:db8::1",
            _ => "192.0.2.1",
        };
        Action::Respond(response_with(query, vec![address_record(&owner, 300, address)]))
    })
    .await;
    let tier = refusing_node(&outside).await;
    for _ in 0..2 {
        assert_blocked(&exchange(tier.address, &query_for("www.example", RecordType::A)).await, "A");
        for (other, rtype) in [
            ("www.example", RecordType::AAAA),
            ("a.www.example", RecordType::A),
            ("example", RecordType::A),
            ("mail.example", RecordType::A),
        ] {
            let response = exchange(tier.address, &query_for(other, rtype)).await;
            assert_eq!(response.answers.len(), 1, "{other}: {response:?}");
        }
    }
}

#[tokio::test]
async fn one_private_address_among_public_ones_refuses_the_answer_as_a_whole() {
    let public = address_record("www.example", 300, "192.0.2.1");
    let private = address_record("www.example", 300, "192.168.1.1");
    for records in [[public.clone(), private.clone()], [private, public]] {
        let outside = answering(records.to_vec()).await;
        let tier = refusing_node(&outside).await;
        assert_blocked(&exchange(tier.address, &query_for("www.example", RecordType::A)).await, "both");
    }
}

/// Builds the data of a SVCB record of priority 1 for its own name, with an ALPN list before these parameters.
fn service_binding(parameters: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut data = b"\0\x01\0\0\x01\0\x03\x02h2".to_vec();
    for (key, value) in parameters {
        data.extend(key.to_be_bytes());
        data.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        data.extend(value);
    }
    data
}

#[tokio::test]
async fn a_private_hint_of_an_https_or_svcb_record_refuses_it_and_a_public_one_does_not() {
    let ipv6 = |address: &str| address.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let public = [(4, vec![192, 0, 2, 1, 203, 0, 113, 11]), (6, ipv6("2001:db8::1"))];
    let private: [&[(u16, Vec<u8>)]; 5] = [
        &[(4, vec![10, 0, 0, 1])],
        &[(4, vec![192, 0, 2, 1, 169, 254, 169, 254])],
        &[public[0].clone(), (6, [ipv6("2001:db8::1"), ipv6("fd00::1")].concat())],
        &[(5, b"ech".to_vec()), (6, ipv6("::ffff:10.0.0.1"))],
        &[(4, vec![203, 0, 113, 10])],
    ];
    for rtype in [HTTPS, SVCB] {
        let query = query_for("www.example", RecordType::from(rtype));
        for (parameters, is_refused) in private.iter().map(|each| (*each, true)).chain([(&public[..], false)]) {
            let record = unknown_record("www.example", rtype, &service_binding(parameters));
            let outside = answering(vec![record]).await;
            let tier = refusing_node(&outside).await;
            for _ in 0..2 {
                let response = exchange(tier.address, &query).await;
                if is_refused {
                    assert_blocked(&response, &format!("{rtype} {parameters:?}"));
                } else {
                    assert_eq!(response.answers.len(), 1, "{response:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_private_address_beside_the_answer_costs_what_is_beside_it_and_not_the_answer() {
    let nothing: Vec<Record> = Vec::new();
    let answer = vec![address_record("www.example", 300, "192.0.2.1")];
    let authority = vec![Record::from_rdata(name("example"), 300, RData::NS(rdata::NS(name("ns.example"))))];
    let private = vec![address_record("ns.example", 300, "10.0.0.53")];
    let public = vec![address_record("ns.example", 300, "192.0.2.53")];
    for (authorities, additionals, expected) in [
        (&authority, &public, (&authority, &public)),
        (&authority, &private, (&authority, &nothing)),
        (&nothing, &[&public[..], &private].concat(), (&nothing, &nothing)),
        (&[&authority[..], &private].concat(), &public, (&nothing, &nothing)),
    ] {
        let mut response = Message::response(0, hickory_proto::op::OpCode::Query);
        response.insert_answers(answer.clone());
        response.insert_authorities(authorities.clone());
        response.insert_additionals(additionals.clone());
        let outside = Authority::start(move |query| {
            let mut message = response_with(query, response.answers.clone());
            message.insert_authorities(response.authorities.clone());
            message.insert_additionals(response.additionals.clone());
            Action::Respond(message)
        })
        .await;
        let tier = refusing_node(&outside).await;
        for _ in 0..2 {
            let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
            assert_eq!(response.answers, answer);
            assert_eq!((&response.authorities, &response.additionals), expected);
            assert_eq!(ede(&response), None);
        }
        assert_eq!(
            (refused(&tier), outside.query_count("www.example")),
            (0, 1),
            "nothing is refused, and the answer is cached"
        );
    }
}

#[tokio::test]
async fn a_failure_with_a_private_address_stays_a_failure_without_it() {
    let outside = Authority::start(|query| {
        let mut message = response_with(query, vec![address_record("www.example", 300, "10.0.0.1")]);
        message.metadata.response_code = ResponseCode::ServFail;
        Action::Respond(message)
    })
    .await;
    let tier = refusing_node(&outside).await;
    for _ in 0..2 {
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        assert!(response.answers.is_empty(), "{response:?}");
    }
}

#[tokio::test]
async fn a_node_refuses_what_the_resolver_of_its_zone_passes_on() {
    let authority = Authority::start(respond_with_its_address).await;
    let resolver = Tier::forwarding_to(&[authority.address]).await;
    let mut config = node_config(PrivateAnswers::Refuse, &authority, &authority);
    config.zones = vec![zone("zone-a", resolver.address)];
    let node = Tier::on_node(&config, Some("zone-a")).await;
    let private = query_for(&name_of("10.0.0.0"), RecordType::A);
    assert_blocked(&exchange(node.address, &private).await, "at the node");
    assert_eq!(exchange(resolver.address, &private).await.answers.len(), 1, "zone resolvers have no filter");
    let public = query_for(&name_of("192.0.2.1"), RecordType::A);
    assert_eq!(exchange(node.address, &public).await.answers.len(), 1);
    assert_eq!(refused(&node), 1);
}

#[tokio::test]
async fn an_answer_that_was_cached_before_a_change_is_never_served_after_it() {
    let cluster = Authority::start(|query| Action::Respond(query.default_response(300, 7))).await;
    let outside = answering(vec![address_record("www.example", 300, "10.0.0.1")]).await;
    let mut config = node_config(PrivateAnswers::Allow, &cluster, &outside);
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let www = query_for("www.example", RecordType::A);
    let web = query_for("web.svc.cluster.local", RecordType::A);
    assert_eq!(exchange(tier.address, &web).await.answers.len(), 1);
    let cluster_queries = cluster.query_count("web.svc.cluster.local");
    let mut asked = None;
    for round in 0..2 {
        config.node_cache.private_answers = PrivateAnswers::Allow;
        tier.apply_on_node(&config, Some("zone-a"));
        assert_eq!(exchange(tier.address, &www).await.answers.len(), 1, "{round}");
        config.node_cache.private_answers = PrivateAnswers::Refuse;
        tier.apply_on_node(&config, Some("zone-a"));
        assert_blocked(&exchange(tier.address, &www).await, "after the change");
        // A query may be repeated on a busy machine.
        asked = asked.or_else(|| Some(outside.query_count("www.example")));
        // A revision that changes something else keeps the refused answer, as it keeps all others.
        config.node_cache.cache.max_ttl += 1;
        tier.apply_on_node(&config, Some("zone-a"));
        assert_blocked(&exchange(tier.address, &www).await, "after another change");
        assert_eq!(Some(outside.query_count("www.example")), asked, "{round}: the answers of both modes stay cached");
    }
    // One more captured address is one more address to refuse.
    outside.set_script(|query| Action::Respond(query.default_response(300, 9)));
    let other = query_for("other.example", RecordType::A);
    assert_eq!(exchange(tier.address, &other).await.answers.len(), 1);
    config.node_cache.captured.push(Captured { address: "192.0.2.9".parse().unwrap(), service: true });
    tier.apply_on_node(&config, Some("zone-a"));
    assert_blocked(&exchange(tier.address, &other).await, "captured since");
    assert_eq!(exchange(tier.address, &web).await.answers.len(), 1);
    let asked_again = cluster.query_count("web.svc.cluster.local");
    assert_eq!(asked_again, cluster_queries, "names of the cluster stay cached");
}

#[tokio::test]
async fn a_query_in_flight_during_a_change_brings_no_private_address_into_the_cache() {
    let (release, released) = watch::channel(false);
    let outside = Authority::start(move |query| {
        let message = response_with(query, vec![address_record("www.example", 300, "10.0.0.1")]);
        if *released.borrow() { Action::Respond(message) } else { Action::RespondAfter(SLOW, message) }
    })
    .await;
    let mut config = node_config(PrivateAnswers::Allow, &outside, &outside);
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let www = query_for("www.example", RecordType::A);
    let address = tier.address;
    let before = tokio::spawn({
        let www = www.clone();
        async move { exchange(address, &www).await }
    });
    wait_until("the query is in flight", PATIENCE, async || outside.query_count("www.example") > 0).await;
    release.send(true).unwrap();
    config.node_cache.private_answers = PrivateAnswers::Refuse;
    tier.apply_on_node(&config, Some("zone-a"));
    assert_blocked(&exchange(tier.address, &www).await, "during the flight");
    assert_eq!(before.await.unwrap().answers.len(), 1, "it was sent under the revision before");
    assert_blocked(&exchange(tier.address, &www).await, "after the flight");
}

#[tokio::test]
async fn a_private_address_from_before_a_change_is_not_served_stale_after_it() {
    let outside = answering(vec![address_record("www.example", 1, "10.0.0.1")]).await;
    let mut config = node_config(PrivateAnswers::Allow, &outside, &outside);
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let www = query_for("www.example", RecordType::A);
    assert_eq!(exchange(tier.address, &www).await.answers.len(), 1);
    outside.stop_responding();
    wait_until("the answer is stale", PATIENCE, async || ede(&exchange(tier.address, &www).await) == Some(3)).await;
    config.node_cache.private_answers = PrivateAnswers::Refuse;
    tier.apply_on_node(&config, Some("zone-a"));
    let response = exchange(tier.address, &www).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert!(response.answers.is_empty(), "{response:?}");
}

#[tokio::test]
async fn a_name_that_becomes_private_is_refused_and_one_that_becomes_public_is_answered_when_the_ttl_ends() {
    let outside = answering(vec![address_record("www.example", 1, "192.0.2.1")]).await;
    let tier = refusing_node(&outside).await;
    let www = query_for("www.example", RecordType::A);
    assert_eq!(exchange(tier.address, &www).await.answers.len(), 1);
    let rebound = vec![address_record("www.example", 1, "10.0.0.1")];
    outside.set_script(move |query| Action::Respond(response_with(query, rebound.clone())));
    wait_until("it is refused", PATIENCE, async || exchange(tier.address, &www).await.answers.is_empty()).await;
    assert_blocked(&exchange(tier.address, &www).await, "rebound");
    let public = vec![address_record("www.example", 300, "192.0.2.2")];
    outside.set_script(move |query| Action::Respond(response_with(query, public.clone())));
    wait_until("it is answered", PATIENCE, async || exchange(tier.address, &www).await.answers.len() == 1).await;
}
