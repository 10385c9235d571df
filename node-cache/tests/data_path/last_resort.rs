//! Last resort of a node: while no resolver of any zone answers, the upstreams of the resolvers are asked, at a rate.

use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::{Config, LastResort, Upstream, UpstreamSource};

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, config, ede, empty_response, exchange, exchange_from, query_for, route,
    wait_until, zone,
};

/// Time for which conditions are awaited.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A node with a resolver in each of two zones, which answer 192.0.2.1 and 192.0.2.2, and their upstream, which answers
/// 192.0.2.3. Cluster DNS and a route answer 192.0.2.53.
struct Servers {
    own: Authority,
    other: Authority,
    upstream: Authority,
    /// Cluster DNS, and the server of the route `corp.example`.
    inside: Authority,
    tier: Tier,
    config: Config,
}

impl Servers {
    async fn start(last_resort: LastResort, ttl: u32) -> Self {
        let start = |octet| Authority::start(move |query| answer(query, ttl, octet));
        let (own, other, upstream, inside) = (start(1).await, start(2).await, start(3).await, start(53).await);
        let mut config = config(inside.address);
        config.node_cache.last_resort = last_resort;
        config.zones = vec![zone("zone-a", own.address), zone("zone-b", other.address)];
        config.routes = vec![route("corp.example", &[inside.address])];
        config.resolver.upstreams = UpstreamSource::Servers(vec![Upstream::from(upstream.address)]);
        config.resolver.private_suffixes = vec!["private.example".into()];
        let tier = Tier::on_node(&config, Some("zone-a")).await;
        Self { own, other, upstream, inside, tier, config }
    }

    async fn resolve(&self, name: &str) -> Message {
        exchange(self.tier.address, &query_for(name, RecordType::A)).await
    }

    /// Silences all resolvers, and waits until they count as down.
    async fn silence_resolvers(&self) {
        self.own.stop_responding();
        self.other.stop_responding();
        let mut number = 0;
        wait_until("no resolver is up", TIMEOUT, async || {
            number += 1;
            let address = self.tier.address;
            let names = (0..4).map(|part| query_for(&format!("silent{number}-{part}.example"), RecordType::A));
            join_all(names.map(|query| async move { exchange(address, &query).await })).await;
            !self.upstreams().iter().any(|(scope, is_up)| scope.starts_with("zone/") && *is_up)
        })
        .await;
    }

    /// Returns the group of each upstream, and whether it is up.
    fn upstreams(&self) -> Vec<(String, bool)> {
        let upstreams = self.tier.resolver.snapshot().unwrap().upstreams();
        upstreams.into_iter().map(|upstream| (upstream.scope, upstream.healthy)).collect()
    }
}

/// Returns a rate for a single cache.
const fn at_rate(packets_per_second: u32) -> LastResort {
    LastResort::Upstreams { packets_per_second, instances: 1 }
}

/// Answers an address of this last octet; names of Services that lead to no pod.
fn answer(query: &ReceivedQuery, ttl: u32, octet: u8) -> Action {
    match query.name().to_ascii().starts_with("_dns._") {
        true => Action::Respond(empty_response(query, ResponseCode::NXDomain)),
        false => Action::Respond(query.default_response(ttl, octet)),
    }
}

/// Returns the address in a response, as text; empty without one.
fn address(response: &Message) -> String {
    response.answers.first().map(|record| record.data.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn the_upstreams_are_asked_when_no_resolver_answers_and_no_more_after_the_first_that_does() {
    let servers = Servers::start(at_rate(1000), 0).await;
    for number in 0..30 {
        assert_eq!(address(&servers.resolve(&format!("n{number}.example")).await), "192.0.2.1");
    }
    // One zone is gone: the other answers.
    servers.own.stop_responding();
    for number in 0..10 {
        assert_eq!(address(&servers.resolve(&format!("own-gone{number}.example")).await), "192.0.2.2");
    }
    // Nobody answers this name, and the other zone answers others.
    servers.other.set_script(|query| match query.is("dead.example") {
        true => Action::Ignore,
        false => answer(query, 0, 2),
    });
    assert_eq!(servers.resolve("dead.example").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(servers.upstream.queries().len(), 0, "a resolver answers");
    servers.silence_resolvers().await;
    for number in 0..20 {
        assert_eq!(address(&servers.resolve(&format!("all-gone{number}.example")).await), "192.0.2.3");
    }
    assert!(servers.tier.resolver.metrics().reserve_responses() >= 20);
    assert!(servers.upstreams().contains(&("last-resort".to_owned(), true)));
    servers.other.set_script(|query| answer(query, 0, 2));
    let mut number = 0;
    wait_until("a resolver is asked again", TIMEOUT, async || {
        number += 1;
        address(&servers.resolve(&format!("again{number}.example")).await) == "192.0.2.2"
    })
    .await;
    servers.upstream.clear_queries();
    for number in 0..50 {
        assert_eq!(address(&servers.resolve(&format!("back{number}.example")).await), "192.0.2.2");
    }
    assert_eq!(servers.upstream.queries().len(), 0, "a resolver answers");
}

#[tokio::test]
async fn names_of_the_cluster_and_of_routes_are_no_outside_names() {
    let servers = Servers::start(at_rate(1000), 0).await;
    servers.resolve("known.example").await;
    servers.silence_resolvers().await;
    servers.inside.stop_responding();
    let inside = ["web.default.svc.cluster.local", "db.corp.example", "1.0.0.10.in-addr.arpa"];
    let queries = inside.map(|name| query_for(name, RecordType::A));
    let responses = join_all(queries.iter().map(|query| exchange(servers.tier.address, query))).await;
    for (name, response) in inside.iter().zip(responses) {
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail, "{name}");
        assert_eq!(servers.upstream.query_count(name), 0, "{name}");
    }
    assert_eq!(address(&servers.resolve("www.private.example").await), "192.0.2.3", "these upstreams know it");
}

#[tokio::test]
async fn the_upstreams_get_no_more_packets_than_the_rate() {
    const RATE: u32 = 10;
    let servers = Servers::start(at_rate(RATE), 0).await;
    servers.resolve("known.example").await;
    servers.silence_resolvers().await;
    servers.upstream.clear_queries();
    let started = Instant::now();
    let address = servers.tier.address;
    // Ten times the rate, for four seconds.
    let mut clients = Vec::new();
    for number in 0..400 {
        let query = query_for(&format!("flood{number}.example"), RecordType::A);
        clients.push(tokio::spawn(async move {
            exchange_from("127.0.0.1:0", address, &query, Duration::from_secs(8)).await
        }));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let responses = join_all(clients).await.into_iter().filter_map(|response| response.unwrap());
    let answered = responses.filter(|response| !response.answers.is_empty()).count();
    let packets = servers.upstream.queries().len();
    let allowed = f64::from(RATE) * (started.elapsed().as_secs_f64() + 1.0);
    println!("{packets} packets, {answered} of 400 answered in {:?}", started.elapsed());
    assert!(packets as f64 <= allowed, "{packets} packets in {:?}", started.elapsed());
    assert!(answered >= 2 * RATE as usize, "{answered} answered with {packets} packets");
}

#[tokio::test]
async fn a_stale_answer_is_given_where_the_rate_is_used_up() {
    let servers = Servers::start(LastResort::Upstreams { packets_per_second: 1, instances: 8 }, 1).await;
    servers.resolve("kept.example").await;
    servers.silence_resolvers().await;
    wait_until("the answer is stale", TIMEOUT, async || {
        let response = servers.resolve("kept.example").await;
        assert!(!response.answers.is_empty(), "{response:?}");
        ede(&response) == Some(3)
    })
    .await;
}

#[tokio::test]
async fn a_last_resort_that_is_disabled_sends_nothing_and_a_revision_that_enables_it_needs_no_restart() {
    let servers = Servers::start(LastResort::Disabled, 0).await;
    servers.resolve("known.example").await;
    servers.silence_resolvers().await;
    let response = servers.resolve("new.example").await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(servers.upstream.queries().len(), 0);
    let mut config = servers.config.clone();
    config.node_cache.last_resort = at_rate(100);
    servers.tier.apply_on_node(&config, Some("zone-a"));
    assert_eq!(address(&servers.resolve("newer.example").await), "192.0.2.3");
}

#[tokio::test]
async fn a_server_of_the_last_resort_is_believed_no_more_than_any_other() {
    let servers = Servers::start(at_rate(1000), 0).await;
    servers.resolve("known.example").await;
    servers.silence_resolvers().await;
    servers.upstream.set_script(|query| {
        let mut response = query.default_response(0, 3);
        response.metadata.authentic_data = true;
        Action::Respond(response)
    });
    let mut query = query_for("www.example", RecordType::A);
    query.metadata.authentic_data = true;
    let response = exchange(servers.tier.address, &query).await;
    assert_eq!((address(&response).as_str(), response.metadata.authentic_data), ("192.0.2.3", false));
}
