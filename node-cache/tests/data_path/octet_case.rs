//! Servers that compare names by octet: they deny every name in random case (0x20) that they know in lower case.

use std::collections::HashSet;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache_config::{CaseRandomization, Config, Protocol, Route, Upstream, UpstreamSource};

use crate::inspection::inspect;
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, exchange, negative_response, query_for,
};

fn is_lower(query: &ReceivedQuery) -> bool {
    let text = query.name().to_ascii();
    text == text.to_lowercase()
}

/// Script of a server that denies what is not in lower case, and what starts with "missing".
fn by_octet(denial: ResponseCode) -> impl Fn(&ReceivedQuery) -> Action + Send + 'static {
    move |query| {
        let is_missing = query.name().to_ascii().starts_with("missing");
        match is_lower(query) && !is_missing {
            true => Action::Respond(query.default_response(300, 1)),
            false if is_missing => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
            false => Action::Respond(negative_response(query, denial, 300)),
        }
    }
}

/// Name with so many letters that its random case is never the lower case.
fn long_name(number: usize) -> String {
    format!("a-name-with-many-letters-{number}.example")
}

async fn rcode_of(tier: &Tier, name: &str) -> (ResponseCode, usize) {
    let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
    (response.metadata.response_code, response.answers.len())
}

/// Asserts that every name is answered from the first one on, and that the server is soon queried in lower case alone.
async fn assert_learned(tier: &Tier, server: &Authority) {
    for number in 0..8 {
        assert_eq!(rcode_of(tier, &long_name(number)).await, (ResponseCode::NoError, 1), "name {number}");
    }
    for number in 3..8 {
        assert_eq!(server.query_count(&long_name(number)), 1, "name {number} costs no second query");
    }
    assert!(server.queries().iter().filter(|query| query.is(&long_name(7))).all(is_lower));
    for command in ["explain www.example", "stats"] {
        let text = inspect(tier, command).await;
        assert!(text.contains("in lower case because it compares names by octet"), "{text}");
    }
}

#[tokio::test]
async fn every_name_of_a_server_that_compares_by_octet_is_answered_and_three_names_show_what_it_does() {
    for denial in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let with_tcp = Authority::start(by_octet(denial)).await;
        let without_tcp = Authority::without_tcp("127.0.0.1", by_octet(denial)).await;
        for server in [&with_tcp, &without_tcp] {
            let tier = Tier::forwarding_to(&[server.address]).await;
            assert_learned(&tier, server).await;
        }
        let over_tcp = Authority::start(by_octet(denial)).await;
        let ip = std::net::Ipv4Addr::LOCALHOST.into();
        assert_learned(&Tier::resolver_on(ip, &[over_tcp.address], Protocol::Tcp), &over_tcp).await;
    }
}

#[tokio::test]
async fn a_route_of_a_node_and_the_cluster_dns_may_compare_by_octet_too() {
    let routed = Authority::start(by_octet(ResponseCode::NXDomain)).await;
    let cluster = Authority::start(by_octet(ResponseCode::NXDomain)).await;
    let mut config = config(cluster.address);
    config.routes =
        vec![Route { suffix: "example".into(), upstreams: vec![routed.address.into()], packet_budgets: Vec::new() }];
    let tier = Tier::on_node(&config, None).await;
    assert_eq!(rcode_of(&tier, &long_name(0)).await, (ResponseCode::NoError, 1));
    assert_eq!(rcode_of(&tier, "web.shop.svc.cluster.local").await, (ResponseCode::NoError, 1));
}

#[tokio::test]
async fn the_cluster_dns_is_asked_for_ns_records_in_lower_case_and_for_others_in_random_case() {
    let cluster = Authority::start(|query| match is_lower(query) || query.rtype() != RecordType::NS {
        true => Action::Respond(query.default_response(0, 1)),
        // CoreDNS finds no NS records of its zone in random case, and keeps that for clients with any case.
        false => Action::Respond(negative_response(query, ResponseCode::NoError, 300)),
    })
    .await;
    let tier = Tier::on_node(&config(cluster.address), None).await;
    assert_eq!(rcode_of(&tier, "some-service.shop.svc.cluster.local").await, (ResponseCode::NoError, 1));
    let before = cluster.queries().len();
    for name in ["cluster.local", "CLUSTER.local", "cluster.LOCAL", "other.cluster.local"] {
        let response = exchange(tier.address, &query_for(name, RecordType::NS)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{name}");
    }
    let asked = &cluster.queries()[before..];
    assert!(asked.len() > 1 && asked.iter().all(is_lower), "{asked:?}");
    assert!(cluster.queries().iter().any(|query| !is_lower(query)), "addresses are asked in random case");
}

#[tokio::test]
async fn a_name_that_does_not_exist_in_any_case_is_denied_and_costs_one_query_more() {
    for has_tcp in [true, false] {
        let server = match has_tcp {
            true => Authority::start(by_octet(ResponseCode::NoError)).await,
            false => Authority::without_tcp("127.0.0.1", by_octet(ResponseCode::NoError)).await,
        };
        let tier = Tier::forwarding_to(&[server.address]).await;
        // NODATA in mixed case, NXDOMAIN in lower case: the latter is true.
        assert_eq!(rcode_of(&tier, "missing-with-many-letters.example").await, (ResponseCode::NXDomain, 0));
        assert_eq!(server.queries().len(), 2);
        assert!(!server.queries().iter().any(|query| query.tcp));
    }
}

#[tokio::test]
async fn denials_of_a_server_that_knows_names_in_mixed_case_cost_nothing() {
    let server = Authority::start(|query| match query.name().to_ascii().to_lowercase().starts_with("missing") {
        true => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
        false => Action::Respond(query.default_response(300, 1)),
    })
    .await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode_of(&tier, "missing-before-it-is-known.example").await;
    assert_eq!(server.query_count("missing-before-it-is-known.example"), 2);
    rcode_of(&tier, &long_name(0)).await;
    for number in 0..20 {
        let name = format!("missing-with-many-letters-{number}.example");
        assert_eq!(rcode_of(&tier, &name).await.0, ResponseCode::NXDomain);
        assert_eq!(server.query_count(&name), 1, "{name}");
    }
    assert!(inspect(&tier, "stats").await.lines().all(|line| !line.contains("in lower case")));
}

#[tokio::test]
async fn a_server_that_does_not_answer_in_lower_case_keeps_its_denial() {
    for has_tcp in [true, false] {
        let script = |query: &ReceivedQuery| match is_lower(query) {
            true => Action::Ignore,
            false => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
        };
        let server = match has_tcp {
            true => Authority::start(script).await,
            false => Authority::without_tcp("127.0.0.1", script).await,
        };
        let tier = Tier::forwarding_to(&[server.address]).await;
        assert_eq!(rcode_of(&tier, &long_name(0)).await, (ResponseCode::NXDomain, 0));
        assert_eq!(server.queries().len(), 2);
    }
}

#[tokio::test]
async fn forged_records_in_lower_case_are_neither_believed_nor_a_reason_to_give_up_the_random_case() {
    for has_tcp in [true, false] {
        // The true server denies; somebody guesses ID and port of each first query in lower case over UDP.
        let seen = std::sync::Mutex::new(HashSet::new());
        let script = move |query: &ReceivedQuery| {
            let is_first = || seen.lock().unwrap().insert(query.name().to_ascii());
            match !query.tcp && is_lower(query) && is_first() {
                true => Action::Respond(query.default_response(300, 66)),
                false => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
            }
        };
        let server = match has_tcp {
            true => Authority::start(script).await,
            false => Authority::without_tcp("127.0.0.1", script).await,
        };
        let tier = Tier::forwarding_to(&[server.address]).await;
        for number in 0..8 {
            assert_eq!(rcode_of(&tier, &long_name(number)).await, (ResponseCode::NXDomain, 0), "TCP: {has_tcp}");
        }
        let queries = server.queries();
        let last: Vec<_> = queries.iter().filter(|query| query.is(&long_name(7))).collect();
        assert!(!is_lower(last[0]), "the random case is kept");
        assert!(!inspect(&tier, "stats").await.contains("in lower case"));
    }
}

#[tokio::test]
async fn the_owner_of_a_domain_cannot_have_the_random_case_given_up_for_others() {
    // His names are denied in mixed case and known in lower case, behind a server that knows all others in any case.
    let server = Authority::without_tcp("127.0.0.1", |query| {
        let is_his = query.name().to_ascii().to_lowercase().ends_with("letters.evil.example.");
        match is_his && !is_lower(query) {
            true => Action::Respond(negative_response(query, ResponseCode::NXDomain, 0)),
            false => Action::Respond(query.default_response(300, 1)),
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode_of(&tier, &long_name(0)).await;
    for number in 0..8 {
        rcode_of(&tier, &format!("{number}.letters.evil.example")).await;
    }
    rcode_of(&tier, &long_name(1)).await;
    assert!(!is_lower(server.queries().last().unwrap()));
}

#[tokio::test]
async fn an_upstream_without_case_randomization_is_queried_in_lower_case_from_the_first_name_on() {
    let disabled = |address| Upstream { case_randomization: CaseRandomization::Disabled, ..Upstream::from(address) };
    let [forwarded, routed, usual] = [(); 3].map(|()| Authority::start(by_octet(ResponseCode::NXDomain)));
    let [forwarded, routed, usual] = [forwarded.await, routed.await, usual.await];
    let mut config: Config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(vec![disabled(forwarded.address)]);
    let resolver = Tier::start(Default::default());
    resolver.apply_forwarding(&config);
    let servers = vec![disabled(routed.address)];
    config.routes = vec![Route { suffix: "example".into(), upstreams: servers, packet_budgets: Vec::new() }];
    let node = Tier::on_node(&config, None).await;
    for (tier, server) in [(&resolver, &forwarded), (&node, &routed)] {
        for number in 0..4 {
            assert_eq!(rcode_of(tier, &long_name(number)).await, (ResponseCode::NoError, 1));
        }
        assert!(server.queries().len() == 4 && server.queries().iter().all(is_lower));
        let text = inspect(tier, &format!("explain {}", long_name(0))).await;
        assert!(text.contains("in lower case by its configuration"), "{text}");
    }
    // Changed back, without a restart.
    config.resolver.upstreams = UpstreamSource::Servers(vec![usual.address.into()]);
    resolver.apply_forwarding(&config);
    rcode_of(&resolver, &long_name(9)).await;
    assert!(!is_lower(&usual.queries()[0]));
    let data = address_record("x", 0, "192.0.2.1").data;
    let response = exchange(resolver.address, &query_for(&long_name(9), RecordType::A)).await;
    assert_eq!(response.answers[0].data, data);
}
