//! Aliases that lead into another scope: the chain goes on there (RFC 1034 §5.3.3, step 4).

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata};
use node_cache::dns::Name;
use node_cache_config::Config;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, ede, empty_response, exchange, name,
    negative_response, query_for, response_with, route, unknown_record, wait_until, zone,
};

const OUTSIDE: u8 = 1;
const CORP: u8 = 2;
const PARTNER: u8 = 3;
const CLUSTER: u8 = 4;
const DNAME: u16 = 39;

fn alias(owner: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(rdata::CNAME(name(target))))
}

/// Records of a server behind an alias whose target is in another scope.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behind {
    Nothing,
    Denial,
    /// An address of its own.
    Data,
}

const ALL_BEHIND: [Behind; 3] = [Behind::Nothing, Behind::Denial, Behind::Data];

/// Builds the response of a server: `a-….X` is an alias to the rest of its first label with dots for dashes, all other
/// names have the address 192.0.2.`last_octet`.
fn answer(query: &ReceivedQuery, last_octet: u8, behind: Behind) -> Message {
    let owner = query.name().to_ascii().to_ascii_lowercase();
    let Some(target) = alias_target(&owner) else { return query.default_response(300, last_octet) };
    let mut message = match behind {
        Behind::Denial => negative_response(query, ResponseCode::NXDomain, 300),
        Behind::Nothing | Behind::Data => response_with(query, vec![]),
    };
    message.add_answer(alias(&owner, &target, 300));
    if behind == Behind::Data {
        message.add_answer(address_record(&target, 300, &format!("203.0.113.{last_octet}")));
    }
    message
}

/// Returns the target of the aliases of [`answer`].
fn alias_target(owner: &str) -> Option<String> {
    let (label, _) = owner.split_once('.')?;
    Some(label.strip_prefix("a-")?.replace('-', "."))
}

/// A node with a zone, two routes and a cluster DNS.
struct Node {
    outside: Authority,
    corp: Authority,
    partner: Authority,
    cluster: Authority,
    config: Config,
    tier: Tier,
}

impl Node {
    async fn start(behind: Behind) -> Self {
        let server =
            async move |octet| Authority::start(move |query| Action::Respond(answer(query, octet, behind))).await;
        let outside = server(OUTSIDE).await;
        let corp = server(CORP).await;
        let partner = server(PARTNER).await;
        let cluster = server(CLUSTER).await;
        let mut config = config(cluster.address);
        config.zones = vec![zone("zone-a", outside.address)];
        config.routes = vec![route("corp.test", &[corp.address]), route("partner.test", &[partner.address])];
        let tier = Tier::on_node(&config, Some("zone-a")).await;
        Self { outside, corp, partner, cluster, config, tier }
    }

    async fn query(&self, name: &str) -> Message {
        exchange(self.tier.address, &query_for(name, RecordType::A)).await
    }

    fn query_count(&self, name: &str) -> [usize; 4] {
        [&self.outside, &self.corp, &self.partner, &self.cluster].map(|authority| authority.query_count(name))
    }
}

/// Returns the addresses in a response, and the number of aliases.
fn addresses_and_aliases(response: &Message) -> (Vec<String>, usize) {
    let addresses = response.answers.iter().filter(|record| record.record_type() == RecordType::A);
    let aliases = response.answers.iter().filter(|record| record.record_type() == RecordType::CNAME).count();
    (addresses.map(|record| record.data.to_string()).collect(), aliases)
}

fn addresses(octet: u8) -> Vec<String> {
    vec![format!("192.0.2.{octet}")]
}

#[tokio::test]
async fn an_alias_that_leads_below_a_suffix_goes_on_at_the_servers_of_that_suffix_whatever_others_say_of_it() {
    for behind in ALL_BEHIND {
        let node = Node::start(behind).await;
        for (from, target, octet) in [
            ("example", "db.corp.test", CORP),
            ("example", "corp.test", CORP),
            ("example", "web.shop.svc.cluster.local", CLUSTER),
            ("corp.test", "www.partner.test", PARTNER),
            ("corp.test", "web.shop.svc.cluster.local", CLUSTER),
            ("x.svc.cluster.local", "www.partner.test", PARTNER),
        ] {
            let queried = format!("a-{}.{from}", target.replace('.', "-"));
            for round in 0..2 {
                let response = node.query(&queried).await;
                assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{queried} {behind:?}");
                assert_eq!(addresses_and_aliases(&response), (addresses(octet), 1), "{queried} {behind:?} {round}");
                assert_eq!(response.answers[0].name, name(&queried), "the alias comes first");
                assert_eq!(node.query_count(&queried).iter().sum::<usize>(), 1, "{queried}: from the cache");
            }
        }
        assert_eq!(node.query_count("db.corp.test"), [0, 1, 0, 0]);
        assert_eq!(node.query_count("web.shop.svc.cluster.local"), [0, 0, 0, 1], "each part has its own cache entry");
    }
}

#[tokio::test]
async fn an_alias_to_an_outside_name_goes_on_outside_unless_who_sent_it_has_data() {
    for behind in ALL_BEHIND {
        let node = Node::start(behind).await;
        for (from, octet) in [("corp.test", CORP), ("external.svc.cluster.local", CLUSTER)] {
            let response = node.query(&format!("a-www-shop-example.{from}")).await;
            let expected = match behind {
                Behind::Data => vec![format!("203.0.113.{octet}")],
                Behind::Nothing | Behind::Denial => addresses(OUTSIDE),
            };
            assert_eq!(addresses_and_aliases(&response), (expected, 1), "{from} {behind:?}");
        }
        assert_eq!(node.query_count("www.shop.example"), [usize::from(behind != Behind::Data), 0, 0, 0]);
    }
}

#[tokio::test]
async fn an_alias_from_outside_does_not_lead_into_the_cluster_where_that_is_forbidden() {
    let node = Node::start(Behind::Denial).await;
    let mut snapshot = node_cache::snapshot::Snapshot::for_node(&node.config, Some("zone-a"), &mut Default::default());
    snapshot.follows_aliases_into_cluster = false;
    node.tier.resolver.apply(snapshot);
    let refused = node.query("a-web-shop-svc-cluster-local.example").await;
    assert_eq!(refused.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(node.query_count("web.shop.svc.cluster.local"), [0; 4]);
    // Whoever wrote a route or a Service may lead where they want.
    for from in ["corp.test", "example.corp.test"] {
        let response = node.query(&format!("a-web-shop-svc-cluster-local.{from}")).await;
        assert_eq!(addresses_and_aliases(&response), (addresses(CLUSTER), 1), "{from}");
    }
    let to_route = node.query("a-db-corp-test.example").await;
    assert_eq!(addresses_and_aliases(&to_route), (addresses(CORP), 1));
}

#[tokio::test]
async fn a_chain_goes_through_as_many_scopes_as_it_needs_and_an_alias_of_a_zone_counts() {
    let node = Node::start(Behind::Denial).await;
    // outside → corp → partner → cluster → outside
    node.outside.set_script(|query| Action::Respond(chain(query, OUTSIDE)));
    node.corp.set_script(|query| Action::Respond(chain(query, CORP)));
    node.partner.set_script(|query| Action::Respond(chain(query, PARTNER)));
    node.cluster.set_script(|query| Action::Respond(chain(query, CLUSTER)));
    let response = node.query("start.example").await;
    assert_eq!(addresses_and_aliases(&response), (addresses(OUTSIDE), 5));
    let owners: Vec<_> = response.answers.iter().map(|record| record.name.to_ascii()).collect();
    let expected =
        ["start.example.", "inner.example.", "a.corp.test.", "b.partner.test.", "c.cluster.local.", "end.example."];
    assert_eq!(owners, expected);
    assert_eq!(response.answers.iter().map(|record| record.ttl).min(), Some(40));
    // A DNAME record, and the alias that is made of it.
    let response = node.query("www.moved.example").await;
    assert_eq!(addresses_and_aliases(&response), (addresses(CORP), 1));
    assert_eq!(response.answers.len(), 3);
}

fn chain(query: &ReceivedQuery, last_octet: u8) -> Message {
    let owner = query.name().to_ascii().to_ascii_lowercase();
    match &*owner {
        "start.example." => response_with(
            query,
            vec![alias(&owner, "inner.example.", 300), alias("inner.example.", "a.corp.test", 200)],
        ),
        "a.corp.test." => response_with(query, vec![alias(&owner, "b.partner.test", 40)]),
        "b.partner.test." => response_with(query, vec![alias(&owner, "c.cluster.local", 100)]),
        "c.cluster.local." => response_with(query, vec![alias(&owner, "end.example", 100)]),
        "www.moved.example." => {
            let target = Name::from_text("corp.test").unwrap();
            let zone = unknown_record("moved.example.", DNAME, target.as_bytes());
            response_with(query, vec![zone, alias(&owner, "www.corp.test", 300)])
        }
        _ => query.default_response(300, last_octet),
    }
}

#[tokio::test]
async fn aliases_in_a_circle_of_scopes_and_endless_ones_fail_after_a_few_queries() {
    let node = Node::start(Behind::Nothing).await;
    let circle = |query: &ReceivedQuery| {
        let owner = query.name().to_ascii().to_ascii_lowercase();
        let number: u32 = owner.trim_start_matches('n').split('.').next().unwrap().parse().unwrap_or_default();
        let target = match &*owner {
            "x.example." => "y.corp.test".to_owned(),
            "y.corp.test." => "x.example".to_owned(),
            _ if owner.contains("corp") => format!("n{}.partner.test", number + 1),
            _ => format!("n{}.corp.test", number + 1),
        };
        Action::Respond(response_with(query, vec![alias(&owner, &target, 300)]))
    };
    [&node.outside, &node.corp, &node.partner].iter().for_each(|authority| authority.set_script(circle));
    for queried in ["x.example", "n0.example"] {
        let started = Instant::now();
        let response = node.query(queried).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail, "{queried}");
        assert!(response.answers.is_empty() && started.elapsed() < Duration::from_secs(4));
    }
    let asked = [&node.outside, &node.corp, &node.partner].map(|authority| authority.queries().len());
    assert!(asked.iter().sum::<usize>() <= 12, "{asked:?}");
}

#[tokio::test]
async fn what_the_last_server_says_counts_for_the_whole() {
    let node = Node::start(Behind::Nothing).await;
    for rcode in [ResponseCode::NXDomain, ResponseCode::NoError, ResponseCode::Refused, ResponseCode::ServFail] {
        let is_failure = matches!(rcode, ResponseCode::Refused | ResponseCode::ServFail);
        node.corp.set_script(move |query| {
            Action::Respond(match is_failure {
                true => empty_response(query, rcode),
                false => negative_response(query, rcode, 300),
            })
        });
        let queried = format!("a-n{}-corp-test.example", u16::from(rcode));
        for _ in 0..2 {
            let response = node.query(&queried).await;
            let records = (response.answers.len(), response.authorities.len());
            let expected = if is_failure { (0, 0) } else { (1, 1) };
            assert_eq!((response.metadata.response_code, records), (rcode, expected));
            assert_eq!(node.query_count(&queried), [1, 0, 0, 0], "the alias stays in the cache");
        }
    }
}

#[tokio::test]
async fn a_silent_server_behind_an_alias_is_a_failure_within_the_time_of_one_query() {
    let node = Node::start(Behind::Denial).await;
    node.corp.stop_responding();
    let started = Instant::now();
    let response = node.query("a-db-corp-test.example").await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ede(&response), Some(22));
    assert!(started.elapsed() < Duration::from_millis(4800), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_change_at_the_end_of_an_alias_is_seen_after_its_own_ttl_and_a_stale_part_makes_the_whole_stale() {
    let node = Node::start(Behind::Data).await;
    let queried = "a-db-corp-test.example";
    node.corp.set_script(|query| Action::Respond(query.default_response(1, 50)));
    assert_eq!(addresses_and_aliases(&node.query(queried).await).0, addresses(50));
    node.corp.set_script(|query| Action::Respond(query.default_response(1, 51)));
    wait_until("the new address", Duration::from_secs(20), async || {
        addresses_and_aliases(&node.query(queried).await).0 == addresses(51)
    })
    .await;
    assert_eq!(node.outside.query_count(queried), 1);
    node.corp.stop_responding();
    wait_until("a stale response", Duration::from_secs(20), async || {
        let response = node.query(queried).await;
        addresses_and_aliases(&response) == (addresses(51), 1) && ede(&response) == Some(3)
    })
    .await;
}

#[tokio::test]
async fn a_revision_that_changes_a_route_changes_where_aliases_lead_at_once() {
    let node = Node::start(Behind::Denial).await;
    let queried = "a-db-corp-test.example";
    assert_eq!(addresses_and_aliases(&node.query(queried).await).0, addresses(CORP));
    let mut config = node.config.clone();
    config.routes = vec![route("corp.test", &[node.partner.address])];
    node.tier.apply_on_node(&config, Some("zone-a"));
    assert_eq!(addresses_and_aliases(&node.query(queried).await).0, addresses(PARTNER));
    config.routes.clear();
    node.tier.apply_on_node(&config, Some("zone-a"));
    assert_eq!(addresses_and_aliases(&node.query(queried).await).0, addresses(OUTSIDE));
}

#[tokio::test]
async fn authentic_is_only_what_is_authentic_in_all_parts() {
    let node = Node::start(Behind::Nothing).await;
    let authentic = |query: &ReceivedQuery, octet| {
        let mut message = answer(query, octet, Behind::Nothing);
        message.metadata.authentic_data = true;
        Action::Respond(message)
    };
    node.outside.set_script(move |query| authentic(query, OUTSIDE));
    node.corp.set_script(move |query| authentic(query, CORP));
    let query = |name: &str| {
        let mut query = query_for(name, RecordType::A);
        query.metadata.authentic_data = true;
        query
    };
    let whole = exchange(node.tier.address, &query("www.shop.example")).await;
    assert!(whole.metadata.authentic_data);
    let mixed = exchange(node.tier.address, &query("a-db-corp-test.example")).await;
    assert_eq!(mixed.answers.len(), 2);
    assert!(!mixed.metadata.authentic_data);
}

#[tokio::test]
async fn a_query_for_the_alias_itself_leads_nowhere_and_any_does() {
    let node = Node::start(Behind::Nothing).await;
    let queried = "a-db-corp-test.example";
    let response = exchange(node.tier.address, &query_for(queried, RecordType::CNAME)).await;
    assert_eq!((response.answers.len(), node.query_count("db.corp.test")), (1, [0; 4]));
    let any = exchange(node.tier.address, &query_for(queried, RecordType::ANY)).await;
    assert_eq!(addresses_and_aliases(&any), (addresses(CORP), 1));
    let no_data = exchange(node.tier.address, &query_for(queried, RecordType::AAAA)).await;
    assert_eq!((no_data.metadata.response_code, no_data.answers.len()), (ResponseCode::NoError, 1));
}

#[tokio::test]
async fn many_clients_of_one_alias_share_each_of_its_queries() {
    let node = Node::start(Behind::Denial).await;
    node.corp
        .set_script(|query| Action::RespondAfter(Duration::from_millis(200), answer(query, CORP, Behind::Nothing)));
    let queries = (0..20).map(|_| node.query("a-db-corp-test.example"));
    for response in futures::future::join_all(queries).await {
        assert_eq!(addresses_and_aliases(&response), (addresses(CORP), 1));
    }
    assert_eq!(node.query_count("a-db-corp-test.example"), [1, 0, 0, 0]);
    assert_eq!(node.query_count("db.corp.test"), [0, 1, 0, 0]);
}
