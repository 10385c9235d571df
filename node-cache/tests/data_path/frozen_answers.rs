//! Silent names of one domain change no answer for another one: no server is down because of them, and stale answers
//! are refreshed whatever the state of the upstreams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::rr::RecordType;
use node_cache_config::{Protocol, Upstream, UpstreamSource};

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, ede, exchange, exchange_from, query_for,
    wait_until, zone,
};

/// TTL of the known names, in seconds.
const TTL: u32 = 2;
/// Time in which a changed record must show: the TTL, and a few failed tries.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(8);
const DOWN_TIMEOUT: Duration = Duration::from_secs(20);
const KNOWN_NAMES: [&str; 5] = ["www.a.example", "www.b.example", "www.shop.test", "mail.shop.test", "a-b.test"];

/// Returns whether a query is for a name of the domain that no server responds for.
fn is_dead(query: &ReceivedQuery) -> bool {
    query.name().to_ascii().to_ascii_lowercase().ends_with("dead.example.")
}

/// Returns a script that responds with this last octet to all but dead names.
fn alive(last_octet: u8) -> impl Fn(&ReceivedQuery) -> Action + Send + 'static {
    move |query| if is_dead(query) { Action::Ignore } else { Action::Respond(query.default_response(TTL, last_octet)) }
}

/// Starts this many servers that respond with the last octet 1.
async fn start_servers(count: usize) -> Vec<Authority> {
    join_all((0..count).map(|_| Authority::start(alive(1)))).await
}

fn addresses(servers: &[Authority]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

/// Returns whether the response to a known name has this last octet.
async fn has_octet(tier: &Tier, name: &str, last_octet: u8) -> bool {
    let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
    let expected = address_record("x", 0, &format!("192.0.2.{last_octet}"));
    response.answers.first().is_some_and(|answer| answer.data == expected.data)
}

async fn cache_known_names(tier: &Tier) {
    for name in KNOWN_NAMES {
        assert!(has_octet(tier, name, 1).await, "{name}");
    }
}

/// Sends queries for dead names, `interval` apart, and waits for no response.
async fn send_dead_queries(tier: &Tier, prefix: &str, count: usize, interval: Duration) {
    for number in 0..count {
        let query = query_for(&format!("{prefix}{number}.dead.example"), RecordType::A);
        let response = exchange_from("127.0.0.1:0", tier.address, &query, Duration::from_millis(1));
        response.await;
        tokio::time::sleep(interval).await;
    }
}

/// Waits until each known name has this last octet.
async fn wait_until_changed(tier: &Tier, last_octet: u8) {
    let changed = async |name| {
        wait_until(name, CHANGE_TIMEOUT, async || has_octet(tier, name, last_octet).await).await;
    };
    join_all(KNOWN_NAMES.map(changed)).await;
}

/// Changes all records, sends queries for dead names, and waits until the changes show in `tier`.
async fn changes_show_after_dead_queries(tier: &Tier, servers: &[Authority], dead_queries: usize) {
    cache_known_names(tier).await;
    servers.iter().for_each(|server| server.set_script(alive(2)));
    let interval = Duration::from_millis(1200) / u32::try_from(dead_queries).unwrap();
    send_dead_queries(tier, "n", dead_queries, interval).await;
    // Entries are stale, and the dead names have timed out, when the known names are queried again.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let dead_queries_received = servers.iter().flat_map(Authority::queries).filter(is_dead).count();
    assert!(dead_queries_received >= dead_queries, "{dead_queries_received}");
    wait_until_changed(tier, 2).await;
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_with_one_upstream() {
    let servers = start_servers(1).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    changes_show_after_dead_queries(&tier, &servers, 7).await;
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_with_two_or_three_upstreams() {
    let of = async |count: usize| {
        let servers = start_servers(count).await;
        let tier = Tier::forwarding_to(&addresses(&servers)).await;
        changes_show_after_dead_queries(&tier, &servers, 7 * count).await;
    };
    tokio::join!(of(2), of(3));
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_with_an_upstream_over_tcp() {
    let servers = start_servers(1).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = Upstream { address: servers[0].address, protocol: Protocol::Tcp };
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream]);
    let tier = Tier::start(node_cache::server::TcpLimits::default());
    tier.apply_forwarding(&config);
    changes_show_after_dead_queries(&tier, &servers, 7).await;
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_on_a_node() {
    let servers = start_servers(1).await;
    let resolver = Tier::forwarding_to(&addresses(&servers)).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.zones = vec![zone("a", resolver.address)];
    let node = Tier::on_node(&config, Some("a")).await;
    changes_show_after_dead_queries(&node, &servers, 7).await;
}

#[tokio::test]
async fn a_server_that_ignores_queries_for_the_root_is_not_down_either() {
    let without_root = |last_octet| {
        let alive = alive(last_octet);
        move |query: &ReceivedQuery| if query.name().is_root() { Action::Ignore } else { alive(query) }
    };
    let server = Authority::start(without_root(1)).await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    cache_known_names(&tier).await;
    server.set_script(without_root(2));
    send_dead_queries(&tier, "n", 7, Duration::from_millis(170)).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    wait_until_changed(&tier, 2).await;
}

#[tokio::test]
async fn a_domain_that_is_silent_for_ever_makes_no_server_down() {
    let servers = start_servers(2).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    cache_known_names(&tier).await;
    let flood = send_dead_queries(&tier, "f", 150, Duration::from_millis(40));
    let check = async {
        for last_octet in [2, 3] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            servers.iter().for_each(|server| server.set_script(alive(last_octet)));
            wait_until_changed(&tier, last_octet).await;
            // The second server, which had answered nothing, is probed once.
            let upstreams = tier.resolver.snapshot().unwrap().upstreams();
            assert!(upstreams[0].healthy, "{upstreams:?}");
        }
    };
    tokio::join!(flood, check);
    let upstreams = tier.resolver.snapshot().unwrap().upstreams();
    assert!(upstreams.iter().all(|upstream| upstream.healthy), "{upstreams:?}");
    let confirmations = servers[0].query_count(".");
    assert!((1..=20).contains(&confirmations), "{confirmations}: at most one a second");
}

/// Waits until the only server is known to be down. Known names are answered all the while.
async fn wait_until_down(tier: &Tier) {
    let is_down = async || {
        let query = query_for(KNOWN_NAMES[0], RecordType::A);
        assert_eq!(exchange(tier.address, &query).await.answers.len(), 1);
        !tier.resolver.snapshot().unwrap().upstreams()[0].healthy
    };
    wait_until("the server is down", DOWN_TIMEOUT, is_down).await;
}

#[tokio::test]
async fn a_server_that_was_down_is_found_up_and_changes_show_although_nobody_asks_a_new_name() {
    let servers = start_servers(1).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    cache_known_names(&tier).await;
    servers[0].stop_responding();
    tokio::time::sleep(Duration::from_secs(u64::from(TTL))).await;
    wait_until_down(&tier).await;
    for name in KNOWN_NAMES {
        let started = Instant::now();
        let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
        assert_eq!((response.answers.len(), ede(&response)), (1, Some(3)), "{name}");
        assert!(started.elapsed() < Duration::from_millis(500), "stale at once");
    }
    servers[0].set_script(alive(2));
    wait_until_changed(&tier, 2).await;
}

#[tokio::test]
async fn a_stale_name_is_queried_again_while_every_upstream_is_down() {
    let servers = start_servers(1).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    let names: Vec<String> = (0..12).map(|number| format!("www.known-{number}.test")).collect();
    join_all(names.iter().map(|name| has_octet(&tier, name, 1))).await;
    cache_known_names(&tier).await;
    servers[0].stop_responding();
    tokio::time::sleep(Duration::from_secs(u64::from(TTL))).await;
    wait_until_down(&tier).await;
    // Silent for all probes, and for all names but one.
    let name = names.last().unwrap();
    let only = name.clone();
    servers[0].set_script(move |query| {
        if query.is(&only) { Action::Respond(query.default_response(300, 2)) } else { Action::Ignore }
    });
    wait_until(name, CHANGE_TIMEOUT, async || has_octet(&tier, name, 2).await).await;
}
