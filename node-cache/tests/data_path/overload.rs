//! A zone resolver that has no room for a query says so to its nodes: it is no failure of the name or of the resolver,
//! and clients see a registered Extended DNS Error.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache::metrics::RefusalReason;

use crate::support::crowd::{Crowd, answer_others, in_one_domain, ipv4};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, config, empty_response, exchange_raw, failure, query_for, route,
    wait_until, zone,
};

const BUDGET_EXHAUSTED: u16 = 49152;
const UPSTREAMS_FAILED: u16 = 49153;
const OVERLOADED: u16 = 49154;
const STILL_IN_FLIGHT: u16 = 49155;
const NO_REACHABLE_AUTHORITY: u16 = 22;
const NETWORK_ERROR: u16 = 23;

/// Returns SERVFAIL as a resolver without room sends it.
fn overload(query: &ReceivedQuery) -> Action {
    failure(query, OVERLOADED)
}

/// Asks for a name and returns rcode, number of answers, and the info-codes of all Extended DNS Errors.
async fn ask(tier: &Tier, name: &str) -> (ResponseCode, u16, Vec<u16>) {
    let query = query_for(name, RecordType::A).to_vec().unwrap();
    let packet = exchange_raw(tier.address, "127.0.0.1:0", &query, Duration::from_secs(6)).await.unwrap();
    let errors = packet.windows(6).filter_map(|octets| match octets {
        [0, 15, 0, 2, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    });
    (ResponseCode::from(0, packet[3] & 15), u16::from_be_bytes([packet[6], packet[7]]), errors.collect())
}

#[tokio::test]
async fn a_resolver_without_room_says_so_with_a_registered_error_first() {
    let authority = Authority::start(answer_others).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = node_cache_config::Upstream::from(authority.address);
    config.resolver.upstreams = node_cache_config::UpstreamSource::Servers(vec![upstream]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    let _crowd = Crowd::start(tier.address, 3, ipv4, in_one_domain);
    let is_full = async || {
        let refused = |reason: &RefusalReason| tier.resolver.metrics().refused_admissions(*reason);
        RefusalReason::ALL.iter().map(refused).sum::<u64>() > 100
    };
    wait_until("queries are refused", Duration::from_secs(20), is_full).await;
    let mut number = 0;
    let is_refused = async || {
        number += 1;
        let (code, _, errors) = ask(&tier, &format!("next{number}.dead.example")).await;
        code == ResponseCode::ServFail && errors == [NETWORK_ERROR, OVERLOADED]
    };
    wait_until("a query of the dead domain is refused at once", Duration::from_secs(30), is_refused).await;
}

#[tokio::test]
async fn a_node_forgets_that_its_resolver_had_no_room_and_clients_see_a_registered_error() {
    let resolver = Authority::start(overload).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.zones = vec![zone("zone-a", resolver.address)];
    let node = Tier::on_node(&config, Some("zone-a")).await;
    for asked in 1..=20 {
        let expected = (ResponseCode::ServFail, 0, vec![NETWORK_ERROR]);
        assert_eq!(ask(&node, "www.example").await, expected);
        assert_eq!(resolver.query_count("www.example"), asked, "the failure is kept");
    }
    let upstreams = node.resolver.snapshot().unwrap().upstreams();
    assert!(upstreams.iter().any(|upstream| upstream.address == resolver.address && upstream.healthy));
    resolver.set_script(|query| Action::Respond(query.default_response(300, 1)));
    assert_eq!(ask(&node, "www.example").await, (ResponseCode::NoError, 1, vec![]));
}

#[tokio::test]
async fn an_overload_that_another_server_claims_is_a_failure_like_any_other() {
    let server = Authority::start(overload).await;
    let mut config = config(server.address);
    config.routes = vec![route("corp.example", &[server.address])];
    let node = Tier::on_node(&config, None).await;
    let resolver = Tier::forwarding_to(&[server.address]).await;
    let of_node = || vec![NETWORK_ERROR];
    let of_resolver = vec![NO_REACHABLE_AUTHORITY, UPSTREAMS_FAILED];
    let cases = [
        (&node, "www.corp.example", of_node()),
        (&node, "web.shop.svc.cluster.local", of_node()),
        (&resolver, "a.example", of_resolver),
    ];
    for (tier, name, expected) in cases {
        for _ in 0..3 {
            assert_eq!(ask(tier, name).await, (ResponseCode::ServFail, 0, expected.clone()), "{name}");
        }
        assert!(server.query_count(name) < 3, "the failure of {name} is not kept");
    }
}

#[tokio::test]
async fn a_node_keeps_only_the_failure_of_upstreams_and_no_failure_counts_against_the_resolver() {
    let resolver = Authority::start(overload).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.zones = vec![zone("zone-a", resolver.address)];
    let node = Tier::on_node(&config, Some("zone-a")).await;
    let momentary = [
        (BUDGET_EXHAUSTED, NETWORK_ERROR, "budget.example", 1),
        (OVERLOADED, NETWORK_ERROR, "overload.example", 1),
        // It is repeated once, to join the query that goes on.
        (STILL_IN_FLIGHT, NO_REACHABLE_AUTHORITY, "late.example", 2),
    ];
    for (code, public, name, sends) in momentary {
        resolver.set_script(move |query| failure(query, code));
        for asked in 1..=3 {
            assert_eq!(ask(&node, name).await, (ResponseCode::ServFail, 0, vec![public]), "{code}");
            assert!((asked..=asked * sends).contains(&resolver.query_count(name)), "{code} is kept");
        }
    }
    resolver.set_script(|query| failure(query, UPSTREAMS_FAILED));
    let failed = (ResponseCode::ServFail, 0, vec![NO_REACHABLE_AUTHORITY]);
    assert_eq!(ask(&node, "failed.example").await, failed);
    assert_eq!(ask(&node, "failed.example").await, failed);
    assert_eq!(resolver.query_count("failed.example"), 1, "it is not kept");
    let upstreams = node.resolver.snapshot().unwrap().upstreams();
    assert!(upstreams.iter().any(|upstream| upstream.address == resolver.address && upstream.healthy));
}

#[tokio::test]
async fn a_resolver_says_that_its_upstreams_failed_when_none_answers_and_when_all_refuse() {
    let silent = Authority::start(|_| Action::Ignore).await;
    let failing = Authority::start(|query| Action::Respond(empty_response(query, ResponseCode::ServFail))).await;
    let expected = (ResponseCode::ServFail, 0, vec![NO_REACHABLE_AUTHORITY, UPSTREAMS_FAILED]);
    for server in [&silent, &failing] {
        let resolver = Tier::forwarding_to(&[server.address]).await;
        for number in 0..2 {
            // The second time the failure is cached.
            assert_eq!(ask(&resolver, "www.example").await, expected, "{number}");
        }
    }
}

#[tokio::test]
async fn a_reason_that_an_upstream_gives_for_its_failure_is_passed_on() {
    const BOGUS: u16 = 6;
    let server = Authority::start(|query| failure(query, BOGUS)).await;
    let resolver = Tier::forwarding_to(&[server.address]).await;
    for _ in 0..2 {
        assert_eq!(ask(&resolver, "www.example").await, (ResponseCode::ServFail, 0, vec![BOGUS]));
    }
}
