//! Cost of a pod's search path for the cluster DNS: the NXDOMAIN cut (RFC 8020), where it has proved itself.

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache::dns::Name;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::query::Query;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, exchange, negative_response, query_for,
    response_with, wait_until, zone,
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

/// Starts a cluster DNS, a resolver that has every outside name, and a node with both.
async fn cluster_with(script: impl Fn(&ReceivedQuery) -> Message + Send + 'static) -> (Authority, Authority, Tier) {
    let authority = Authority::start(move |query| Action::Respond(script(query))).await;
    let outside = Authority::start(|query| Action::Respond(query.default_response(300, 9))).await;
    let mut config = config(authority.address);
    config.zones = vec![zone("zone-a", outside.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    // A server that knows a name in random case is not asked again for what it denies.
    exchange(tier.address, &query_for("kubernetes.default.svc.cluster.local", RecordType::A)).await;
    authority.clear_queries();
    (authority, outside, tier)
}

async fn rcode_of(tier: &Tier, name: &str) -> u16 {
    tier.resolver.resolve(&internal_query(name)).await.response.rcode()
}

/// Queries outside names and their search paths until the cluster DNS has denied `count` names for each step.
async fn walk_search_path(tier: &Tier, tld: &str, count: usize) {
    for number in 0..count {
        for suffix in SEARCH_PATH {
            rcode_of(tier, &format!("walked-{number}.{tld}.{suffix}")).await;
        }
        rcode_of(tier, &format!("walked-{number}.{tld}")).await;
    }
}

/// Waits until names below an ancestor are answered by its cut.
async fn wait_for_cut(tier: &Tier, authority: &Authority, ancestor: &str) {
    let mut number = 0;
    wait_until("a cut", Duration::from_secs(20), async || {
        number += 1;
        let name = format!("waits-{number}.{ancestor}");
        rcode_of(tier, &name).await;
        authority.query_count(&name) == 0
    })
    .await;
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
async fn of_thirty_thousand_outside_names_in_the_search_path_the_cluster_dns_is_asked_for_one_in_twelve() {
    const NAMES: usize = 30_000;
    let (authority, _outside, tier) = cluster_with(cluster_answer).await;
    let tlds = ["com", "org", "net", "de", "fr", "io", "dev", "info", "biz", "eu"];
    for tld in tlds {
        walk_search_path(&tier, tld, 12).await;
    }
    authority.clear_queries();
    for number in 0..NAMES {
        let tld = tlds[number % tlds.len()];
        let outside = format!("host-{number}.shop-{}.{tld}", number % 997);
        let suffix = SEARCH_PATH[number / tlds.len() % SEARCH_PATH.len()];
        assert_eq!(rcode_of(&tier, &format!("{outside}.{suffix}")).await, rcode::NXDOMAIN, "{outside}.{suffix}");
    }
    let count = query_count_below(&authority, "");
    eprintln!("{count} of {NAMES} names are asked of the cluster DNS");
    assert!((NAMES / 32..NAMES / 12).contains(&count), "{count}");
}

#[tokio::test]
async fn a_denial_of_a_name_above_is_said_like_one_of_the_name_itself() {
    let (authority, _outside, tier) = cluster_with(cluster_answer).await;
    walk_search_path(&tier, "com", 12).await;
    wait_for_cut(&tier, &authority, "com.shop.svc.cluster.local").await;
    let mut unasked = 0;
    for number in 0..20 {
        let name = format!("Mail-{number}.Example.com.shop.svc.cluster.local");
        let response = exchange(tier.address, &query_for(&name, RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
        assert!(response.queries[0].name().eq_case(&crate::support::name(&name)), "{:?}", response.queries);
        let [soa] = &response.authorities[..] else { panic!("{:?}", response.authorities) };
        assert_eq!((soa.record_type(), soa.name.to_ascii()), (RecordType::SOA, "example.".into()));
        assert!(soa.ttl > 0 && soa.ttl <= 30, "{}", soa.ttl);
        unasked += usize::from(authority.query_count(&name) == 0);
    }
    assert!(unasked > 10, "{unasked}");
    let text = tier.resolver.inspect(node_cache::admin::Inspection::Explain {
        name: Name::from_text("www.example.com.shop.svc.cluster.local").unwrap(),
        rtype: rtype::A,
    });
    let text = text.await;
    assert!(text.contains("com.shop.svc.cluster.local.: NXDOMAIN"), "{text}");
}

#[tokio::test]
async fn names_that_exist_below_a_denied_label_with_an_underscore_are_still_found() {
    let (authority, _outside, tier) = cluster_with(cluster_answer).await;
    let denied = exchange(tier.address, &query_for("_tcp.web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    let found = exchange(tier.address, &query_for("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV)).await;
    assert_eq!(found.answers.len(), 1);
    for kind in [RecordType::A, RecordType::AAAA] {
        let response = exchange(tier.address, &query_for("web.shop.svc.cluster.local", kind)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    }
    assert_eq!(authority.query_count("shop.svc.cluster.local"), 0, "no namespace is asked for before its Services");
}

/// Names that a Corefile adds with `hosts`, `template`, `rewrite` or `file`, at several depths, below names that do not
/// exist.
const ADDED_NAMES: [&str; 6] = [
    "git.tools.cluster.local",
    "a.b.c.d.cluster.local",
    "www.shop.example.cluster.local",
    "db.legacy.svc.cluster.local",
    "one.two.web.shop.svc.cluster.local",
    "api.eu.partner.pod.cluster.local",
];

#[tokio::test]
async fn every_name_that_the_cluster_dns_has_is_found_whatever_it_says_of_the_names_above_and_beside() {
    let script = |query: &ReceivedQuery| match ADDED_NAMES.iter().any(|name| query.is(name)) {
        true => query.default_response(5, 7),
        false => cluster_answer(query),
    };
    let (authority, _outside, tier) = cluster_with(script).await;
    // Outside names of these top-level domains are in use, but no search path of theirs.
    for outside in ["www.shop.com", "x.io"] {
        rcode_of(&tier, outside).await;
    }
    for name in ADDED_NAMES {
        let mut above = name;
        while let Some((_, parent)) = above.split_once('.').filter(|(_, parent)| *parent != "cluster.local") {
            above = parent;
            rcode_of(&tier, above).await;
            for number in 0..20 {
                assert_eq!(rcode_of(&tier, &format!("none-{number}.{above}")).await, rcode::NXDOMAIN);
            }
        }
        assert_eq!(rcode_of(&tier, name).await, rcode::NOERROR, "{name}");
        assert_eq!(authority.query_count(name), 1, "{name}");
    }
}

#[tokio::test]
async fn a_name_in_use_below_a_step_of_the_search_path_is_always_found_and_ends_the_cut_there() {
    let script = |query: &ReceivedQuery| match query.name().to_ascii().to_ascii_lowercase().contains("real-") {
        true => query.default_response(5, 7),
        false => cluster_answer(query),
    };
    let (authority, _outside, tier) = cluster_with(script).await;
    assert_eq!(rcode_of(&tier, "real-0.example.com.cluster.local").await, rcode::NOERROR);
    walk_search_path(&tier, "com", 12).await;
    for number in 1..40 {
        let name = format!("real-{number}.example.com.cluster.local");
        assert_eq!(rcode_of(&tier, &name).await, rcode::NOERROR, "{name}");
    }
    // Where no such name was in use, one in some finds the first of them.
    wait_for_cut(&tier, &authority, "com.shop.svc.cluster.local").await;
    let mut number = 0;
    wait_until("one is found", Duration::from_secs(20), async || {
        number += 1;
        rcode_of(&tier, &format!("real-{number}.com.shop.svc.cluster.local")).await == rcode::NOERROR
    })
    .await;
    for number in 1000..1040 {
        let name = format!("real-{number}.com.shop.svc.cluster.local");
        assert_eq!(rcode_of(&tier, &name).await, rcode::NOERROR, "{name}");
    }
}

#[tokio::test]
async fn a_new_namespace_is_found_at_once_whatever_was_denied_below_it_before() {
    let (authority, _outside, tier) = cluster_with(cluster_answer).await;
    walk_search_path(&tier, "com", 12).await;
    for number in 0..40 {
        assert_eq!(rcode_of(&tier, &format!("service-{number}.new.svc.cluster.local")).await, rcode::NXDOMAIN);
    }
    assert_eq!(rcode_of(&tier, "new.svc.cluster.local").await, rcode::NXDOMAIN);
    authority.set_script(|query| Action::Respond(query.default_response(5, 7)));
    for number in 40..80 {
        let name = format!("service-{number}.new.svc.cluster.local");
        assert_eq!(rcode_of(&tier, &name).await, rcode::NOERROR, "{name}");
    }
}

#[tokio::test]
async fn a_namespace_with_the_name_of_a_top_level_domain_is_hidden_no_longer_than_its_own_denial_is_kept() {
    let denied = |query: &ReceivedQuery| negative_response(query, ResponseCode::NXDomain, 1);
    let (authority, _outside, tier) = cluster_with(denied).await;
    walk_search_path(&tier, "com", 12).await;
    wait_for_cut(&tier, &authority, "com.svc.cluster.local").await;
    authority.set_script(|query| Action::Respond(query.default_response(5, 7)));
    let created = Instant::now();
    let mut number = 0;
    wait_until("a Service is found", Duration::from_secs(20), async || {
        number += 1;
        rcode_of(&tier, &format!("service-{number}.com.svc.cluster.local")).await == rcode::NOERROR
    })
    .await;
    eprintln!("found after {:?}", created.elapsed());
    for number in 1000..1040 {
        let name = format!("service-{number}.com.svc.cluster.local");
        assert_eq!(rcode_of(&tier, &name).await, rcode::NOERROR, "{name}");
    }
}

#[tokio::test]
async fn a_namespace_that_is_denied_for_one_type_is_there_for_all_others() {
    let (_authority, _outside, tier) = cluster_with(cluster_answer).await;
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
