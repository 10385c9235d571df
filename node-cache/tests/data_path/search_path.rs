//! Cost of a pod's search path for the cluster DNS: the NXDOMAIN cut (RFC 8020).

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache::dns::Name;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::query::Query;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, exchange, negative_response, query_for,
    response_with,
};

const SEARCH_PATH: [&str; 3] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];

/// Builds the response of CoreDNS in a cluster with one Service, whose port has a name, beside that of the API server.
fn cluster_answer(query: &ReceivedQuery) -> Message {
    let name = query.name().to_ascii().to_ascii_lowercase();
    match (name.trim_end_matches('.'), query.rtype()) {
        ("web.shop.svc.cluster.local", RecordType::A) => {
            response_with(query, vec![address_record(&name, 5, "10.96.1.2")])
        }
        ("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV) => {
            response_with(query, vec![crate::support::srv_record(&name, 5, 80, "web.shop.svc.cluster.local")])
        }
        ("shop.svc.cluster.local", RecordType::TXT) => negative_response(query, ResponseCode::NXDomain, 300),
        ("kubernetes.default.svc.cluster.local", RecordType::A) => {
            response_with(query, vec![address_record(&name, 5, "10.96.0.1")])
        }
        ("shop.svc.cluster.local" | "web.shop.svc.cluster.local" | "default.svc.cluster.local", _) => {
            negative_response(query, ResponseCode::NoError, 300)
        }
        _ => negative_response(query, ResponseCode::NXDomain, 300),
    }
}

async fn cluster() -> (Authority, Tier) {
    let authority = Authority::start(|query| Action::Respond(cluster_answer(query))).await;
    let tier = Tier::on_node(&config(authority.address), None).await;
    // A server that knows a name in random case is not asked again for what it denies.
    exchange(tier.address, &query_for("kubernetes.default.svc.cluster.local", RecordType::A)).await;
    authority.clear_queries();
    (authority, tier)
}

/// Returns the number of queries for names with this suffix, without those of discovery.
fn query_count_below(authority: &Authority, suffix: &str) -> usize {
    let queries = authority.queries();
    let names = queries.iter().map(|query| query.name().to_ascii().to_ascii_lowercase());
    names.filter(|name| !name.starts_with("_dns._udp.") && name.trim_end_matches('.').ends_with(suffix)).count()
}

fn internal_query(name: &str) -> Query {
    Query::plain(Name::from_text(name).unwrap(), rtype::A)
}

#[tokio::test]
async fn a_hundred_thousand_outside_names_cost_the_cluster_dns_ten_questions_for_each_top_level_domain() {
    let (authority, tier) = cluster().await;
    let tlds = ["com", "org", "net", "de", "fr", "io", "dev", "info", "biz", "eu"];
    for number in 0..100_000 {
        let tld = tlds[number % tlds.len()];
        let outside = format!("host-{number}.shop-{}.{tld}", number % 997);
        let suffix = SEARCH_PATH[number / tlds.len() % SEARCH_PATH.len()];
        let response = tier.resolver.resolve(&internal_query(&format!("{outside}.{suffix}"))).await;
        assert_eq!(response.response.rcode(), rcode::NXDOMAIN, "{outside}.{suffix}");
    }
    for tld in tlds {
        let count = query_count_below(&authority, &format!(".{tld}.cluster.local"))
            + SEARCH_PATH.iter().map(|suffix| query_count_below(&authority, &format!("{tld}.{suffix}"))).sum::<usize>();
        assert!(count <= 10, "{tld}: {count}");
    }
    assert!(query_count_below(&authority, "") <= 10 * tlds.len(), "{}", query_count_below(&authority, ""));
}

#[tokio::test]
async fn a_denial_of_a_name_above_is_said_like_one_of_the_name_itself() {
    let (authority, tier) = cluster().await;
    for name in ["www.example.com.shop.svc.cluster.local", "Mail.Example.com.shop.svc.cluster.local"] {
        let response = exchange(tier.address, &query_for(name, RecordType::AAAA)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
        assert!(response.queries[0].name().eq_case(&crate::support::name(name)), "{:?}", response.queries);
        let [soa] = &response.authorities[..] else { panic!("{:?}", response.authorities) };
        assert_eq!((soa.record_type(), soa.name.to_ascii()), (RecordType::SOA, "example.".into()));
        assert!(soa.ttl > 0 && soa.ttl <= 30, "{}", soa.ttl);
    }
    assert_eq!(query_count_below(&authority, "com.shop.svc.cluster.local"), 1);
}

#[tokio::test]
async fn names_that_exist_below_a_denied_label_with_an_underscore_are_still_found() {
    let (authority, tier) = cluster().await;
    let denied = exchange(tier.address, &query_for("_tcp.web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    let found = exchange(tier.address, &query_for("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV)).await;
    assert_eq!(found.answers.len(), 1);
    // A namespace that is known to exist is not queried again for each of its Services.
    for kind in [RecordType::A, RecordType::AAAA] {
        let response = exchange(tier.address, &query_for("web.shop.svc.cluster.local", kind)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    }
    assert_eq!(authority.query_count("shop.svc.cluster.local"), 1);
}

#[tokio::test]
async fn a_namespace_that_is_denied_for_one_type_is_there_for_all_others() {
    let (_authority, tier) = cluster().await;
    let denied = exchange(tier.address, &query_for("shop.svc.cluster.local", RecordType::TXT)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    for name in ["shop.svc.cluster.local", "web.shop.svc.cluster.local"] {
        let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{name}");
    }
    let denied = exchange(tier.address, &query_for("shop.svc.cluster.local", RecordType::TXT)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_service_is_found_although_nobody_says_whether_its_namespace_is_there() {
    let authority = Authority::start(|query| match query.is("shop.svc.cluster.local") {
        true => Action::Respond(crate::support::empty_response(query, ResponseCode::ServFail)),
        false => Action::Respond(cluster_answer(query)),
    })
    .await;
    let tier = Tier::on_node(&config(authority.address), None).await;
    let response = exchange(tier.address, &query_for("web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(response.answers.len(), 1);
}
