//! Silent names of one domain change no answer for another one: no server is down because of them, and stale answers
//! are refreshed whatever the state of the upstreams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::rr::RecordType;
use node_cache_config::{Protocol, Zone};

use crate::processes::{NodeCache, ZoneResolver};
use crate::require::{program, require};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, Unbound, address_record, config, ede, exchange, exchange_from,
    loopback_client, query_for, wait_until, zone,
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

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
async fn start_servers(ip: IpAddr, count: usize) -> Vec<Authority> {
    join_all((0..count).map(|_| Authority::start_on(ip, alive(1)))).await
}

fn addresses(servers: &[Authority]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

/// Returns whether the response to a known name has this last octet.
async fn has_octet(server: SocketAddr, name: &str, last_octet: u8) -> bool {
    let response = exchange(server, &query_for(name, RecordType::A)).await;
    let expected = address_record("x", 0, &format!("192.0.2.{last_octet}"));
    response.answers.first().is_some_and(|answer| answer.data == expected.data)
}

async fn cache_known_names(server: SocketAddr) {
    for name in KNOWN_NAMES {
        assert!(has_octet(server, name, 1).await, "{name}");
    }
}

/// Sends queries for dead names, `interval` apart, and waits for no response.
async fn send_dead_queries(server: SocketAddr, prefix: &str, count: usize, interval: Duration) {
    for number in 0..count {
        let query = query_for(&format!("{prefix}{number}.dead.example"), RecordType::A);
        let response = exchange_from(loopback_client(server), server, &query, Duration::from_millis(1));
        response.await;
        tokio::time::sleep(interval).await;
    }
}

/// Waits until each known name has this last octet.
async fn wait_until_changed(server: SocketAddr, last_octet: u8) {
    let changed = async |name| {
        wait_until(name, CHANGE_TIMEOUT, async || has_octet(server, name, last_octet).await).await;
    };
    join_all(KNOWN_NAMES.map(changed)).await;
}

/// Changes all records, sends queries for dead names, and waits until the changes show in the responses of `server`.
async fn changes_show_after_dead_queries(server: SocketAddr, authorities: &[Authority], dead_queries: usize) {
    cache_known_names(server).await;
    authorities.iter().for_each(|authority| authority.set_script(alive(2)));
    let interval = Duration::from_millis(1200) / u32::try_from(dead_queries).unwrap();
    send_dead_queries(server, "n", dead_queries, interval).await;
    // Entries are stale, and the dead names have timed out, when the known names are queried again.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let dead_queries_received = authorities.iter().flat_map(Authority::queries).filter(is_dead).count();
    assert!(dead_queries_received >= dead_queries, "{dead_queries_received}");
    wait_until_changed(server, 2).await;
}

/// Has a zone resolver forward to this many servers, which are silent for dead names.
async fn changes_show_at_a_resolver(ip: IpAddr, count: usize, protocol: Protocol) {
    let servers = start_servers(ip, count).await;
    let tier = Tier::resolver_on(ip, &addresses(&servers), protocol);
    changes_show_after_dead_queries(tier.address, &servers, 7 * count).await;
}

/// Has a node forward to this many resolvers, each of which forwards to a server that is silent for dead names.
async fn changes_show_at_a_node(ip: IpAddr, count: usize) {
    let servers = start_servers(ip, count).await;
    let resolvers: Vec<_> =
        servers.iter().map(|server| Tier::resolver_on(ip, &[server.address], Protocol::Udp)).collect();
    let resolver_addresses: Vec<_> = resolvers.iter().map(|resolver| resolver.address).collect();
    let node = Tier::node_on(ip, &resolver_addresses);
    changes_show_after_dead_queries(node.address, &servers, 7 * count).await;
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_with_one_upstream() {
    changes_show_at_a_resolver(V4, 1, Protocol::Udp).await;
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_with_two_or_three_upstreams() {
    tokio::join!(changes_show_at_a_resolver(V4, 2, Protocol::Udp), changes_show_at_a_resolver(V4, 3, Protocol::Udp));
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_with_an_upstream_over_tcp() {
    tokio::join!(changes_show_at_a_resolver(V4, 1, Protocol::Tcp), changes_show_at_a_resolver(V6, 2, Protocol::Tcp));
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_on_a_node() {
    tokio::join!(changes_show_at_a_node(V4, 1), changes_show_at_a_node(V4, 2), changes_show_at_a_node(V4, 3));
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_over_ipv6() {
    tokio::join!(
        changes_show_at_a_resolver(V6, 1, Protocol::Udp),
        changes_show_at_a_resolver(V6, 3, Protocol::Udp),
        changes_show_at_a_node(V6, 1),
        changes_show_at_a_node(V6, 2),
    );
}

#[tokio::test]
async fn silent_names_of_one_domain_freeze_no_other_on_a_node_with_two_zone_resolvers_as_processes() {
    let servers = start_servers(V4, 1).await;
    let upstream = servers[0].address;
    let resolvers = [ZoneResolver::start(upstream, "0s").await, ZoneResolver::start(upstream, "0s").await];
    let bootstrap: Vec<_> = resolvers.iter().map(|resolver| resolver.dns).collect();
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.zones = vec![Zone { bootstrap: bootstrap.clone(), ..zone("zone-a", bootstrap[0]) }];
    let node = NodeCache::start(&config).await;
    changes_show_after_dead_queries(node.dns, &servers, 14).await;
}

#[tokio::test]
async fn silent_names_of_a_zone_behind_unbound_freeze_no_other() {
    require!(program("unbound"));
    let servers = start_servers(V4, 2).await;
    // Silence counts against a server in unbound, too, so that the silent zone has one of its own.
    let unbound = Unbound::start(V4, &[(".", servers[0].address), ("dead.example", servers[1].address)]).await;
    let tier = Tier::resolver_on(V4, &[unbound.address], Protocol::Udp);
    changes_show_after_dead_queries(tier.address, &servers, 8).await;
}

#[tokio::test]
async fn a_server_that_ignores_queries_for_the_root_is_not_down_either() {
    let without_root = |last_octet| {
        let alive = alive(last_octet);
        move |query: &ReceivedQuery| if query.name().is_root() { Action::Ignore } else { alive(query) }
    };
    let server = Authority::start(without_root(1)).await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    cache_known_names(tier.address).await;
    server.set_script(without_root(2));
    send_dead_queries(tier.address, "n", 7, Duration::from_millis(170)).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    wait_until_changed(tier.address, 2).await;
}

#[tokio::test]
async fn a_domain_that_is_silent_for_ever_makes_no_server_down() {
    let servers = start_servers(V4, 2).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    cache_known_names(tier.address).await;
    let flood = send_dead_queries(tier.address, "f", 150, Duration::from_millis(40));
    let check = async {
        for last_octet in [2, 3] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            servers.iter().for_each(|server| server.set_script(alive(last_octet)));
            wait_until_changed(tier.address, last_octet).await;
            // The second server, which had answered nothing, is probed once.
            let upstreams = tier.resolver.snapshot().unwrap().upstreams();
            assert!(upstreams[0].healthy, "{upstreams:?}");
        }
    };
    tokio::join!(flood, check);
    let upstreams = tier.resolver.snapshot().unwrap().upstreams();
    assert!(upstreams.iter().all(|upstream| upstream.healthy), "{upstreams:?}");
    let confirmations = servers[0].query_count(".");
    // The circuit breaker sends one a second at the most; detection sends some, too, while it knows no other name.
    assert!((1..=60).contains(&confirmations), "{confirmations}");
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
    let servers = start_servers(V4, 1).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    cache_known_names(tier.address).await;
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
    wait_until_changed(tier.address, 2).await;
}

#[tokio::test]
async fn a_stale_name_is_queried_again_while_every_upstream_is_down() {
    let servers = start_servers(V4, 1).await;
    let tier = Tier::forwarding_to(&addresses(&servers)).await;
    let names: Vec<String> = (0..12).map(|number| format!("www.known-{number}.test")).collect();
    join_all(names.iter().map(|name| has_octet(tier.address, name, 1))).await;
    cache_known_names(tier.address).await;
    servers[0].stop_responding();
    tokio::time::sleep(Duration::from_secs(u64::from(TTL))).await;
    wait_until_down(&tier).await;
    // Silent for all probes, and for all names but one.
    let name = names.last().unwrap();
    let only = name.clone();
    servers[0].set_script(move |query| {
        if query.is(&only) { Action::Respond(query.default_response(300, 2)) } else { Action::Ignore }
    });
    wait_until(name, CHANGE_TIMEOUT, async || has_octet(tier.address, name, 2).await).await;
}
