//! What a pod's search path costs the cluster DNS.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache::dns::Name;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::query::Query;

use crate::support::{Asked, Authority, Reply, Tier, address, ask, config, denial_with_soa, question, reply};

const SEARCH_PATH: [&str; 3] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];

/// What CoreDNS says in a cluster with one namespace and one Service, whose port has a name.
fn cluster_answer(asked: &Asked) -> Message {
    let name = asked.name().to_ascii().to_ascii_lowercase();
    match (name.trim_end_matches('.'), asked.kind()) {
        ("web.shop.svc.cluster.local", RecordType::A) => reply(asked, vec![address(&name, 5, "10.96.1.2")]),
        ("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV) => {
            reply(asked, vec![crate::support::service_record(&name, 5, 80, "web.shop.svc.cluster.local")])
        }
        ("shop.svc.cluster.local", RecordType::TXT) => denial_with_soa(asked, ResponseCode::NXDomain, 300),
        ("shop.svc.cluster.local" | "web.shop.svc.cluster.local", _) => {
            denial_with_soa(asked, ResponseCode::NoError, 300)
        }
        _ => denial_with_soa(asked, ResponseCode::NXDomain, 300),
    }
}

async fn cluster() -> (Authority, Tier) {
    let authority = Authority::start(|asked| Reply::Say(cluster_answer(asked))).await;
    let tier = Tier::on_node(&config(authority.address), None).await;
    (authority, tier)
}

/// What was asked beside looking for servers.
fn asked_about(authority: &Authority, suffix: &str) -> usize {
    let asked = authority.asked();
    let names = asked.iter().map(|asked| asked.name().to_ascii().to_ascii_lowercase());
    names.filter(|name| !name.starts_with("_dns._udp.") && name.trim_end_matches('.').ends_with(suffix)).count()
}

fn query(name: &str) -> Query {
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
        let answer = tier.resolver.resolve(&query(&format!("{outside}.{suffix}"))).await;
        assert_eq!(answer.response.rcode(), rcode::NXDOMAIN, "{outside}.{suffix}");
    }
    for tld in tlds {
        let asked = asked_about(&authority, &format!(".{tld}.cluster.local"))
            + SEARCH_PATH.iter().map(|suffix| asked_about(&authority, &format!("{tld}.{suffix}"))).sum::<usize>();
        assert!(asked <= 10, "{tld}: {asked}");
    }
    assert!(asked_about(&authority, "") <= 10 * tlds.len(), "{}", asked_about(&authority, ""));
}

#[tokio::test]
async fn a_denial_of_a_name_above_is_said_like_one_of_the_name_itself() {
    let (authority, tier) = cluster().await;
    for name in ["www.example.com.shop.svc.cluster.local", "Mail.Example.com.shop.svc.cluster.local"] {
        let answer = ask(tier.address, &question(name, RecordType::AAAA)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(answer.queries[0].name().eq_case(&crate::support::name(name)), "{:?}", answer.queries);
        let [soa] = &answer.authorities[..] else { panic!("{:?}", answer.authorities) };
        assert_eq!((soa.record_type(), soa.name.to_ascii()), (RecordType::SOA, "example.".into()));
        assert!(soa.ttl > 0 && soa.ttl <= 30, "{}", soa.ttl);
    }
    assert_eq!(asked_about(&authority, "com.shop.svc.cluster.local"), 1);
}

#[tokio::test]
async fn names_that_exist_below_a_denied_label_with_an_underscore_are_still_found() {
    let (authority, tier) = cluster().await;
    let denied = ask(tier.address, &question("_tcp.web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    let found = ask(tier.address, &question("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV)).await;
    assert_eq!(found.answers.len(), 1);
    // A namespace that is known to be there is not asked for again with each of its Services.
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask(tier.address, &question("web.shop.svc.cluster.local", kind)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    }
    assert_eq!(authority.asked_for("shop.svc.cluster.local"), 1);
}

#[tokio::test]
async fn a_namespace_that_is_denied_for_one_type_is_there_for_all_others() {
    let (_authority, tier) = cluster().await;
    let denied = ask(tier.address, &question("shop.svc.cluster.local", RecordType::TXT)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    for name in ["shop.svc.cluster.local", "web.shop.svc.cluster.local"] {
        let answer = ask(tier.address, &question(name, RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
    }
    let denied = ask(tier.address, &question("shop.svc.cluster.local", RecordType::TXT)).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_service_is_found_although_nobody_says_whether_its_namespace_is_there() {
    let authority = Authority::start(|asked| match asked.is("shop.svc.cluster.local") {
        true => Reply::Say(crate::support::denial(asked, ResponseCode::ServFail)),
        false => Reply::Say(cluster_answer(asked)),
    })
    .await;
    let tier = Tier::on_node(&config(authority.address), None).await;
    let answer = ask(tier.address, &question("web.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
}
