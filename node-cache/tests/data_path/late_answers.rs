//! Names that take their upstream longer than a client waits: the query goes on after the client was answered, and its
//! late answer is cached (RFC 8767 §5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache_config::Protocol;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, config, ede, empty_response, exchange, negative_response, query_for, route,
    wait_until,
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Time that a server takes for a slow name: longer than any deadline of ours.
const SLOW: Duration = Duration::from_millis(4200);
const WAIT_LIMIT: Duration = Duration::from_secs(30);

fn is_slow(query: &ReceivedQuery) -> bool {
    query.name().to_ascii().to_ascii_lowercase().starts_with("slow")
}

/// Starts a server that takes long for slow names: 192.0.2.1 for A, NXDOMAIN for `slow-nx…`.
async fn slow_server(ip: IpAddr) -> Authority {
    Authority::start_on(ip, |query| {
        let name = query.name().to_ascii().to_ascii_lowercase();
        let response = if name.starts_with("slow-nx") {
            negative_response(query, ResponseCode::NXDomain, 300)
        } else {
            query.default_response(300, 1)
        };
        if is_slow(query) { Action::RespondAfter(SLOW, response) } else { Action::Respond(response) }
    })
    .await
}

async fn rcode(server: SocketAddr, name: &str) -> ResponseCode {
    exchange(server, &query_for(name, RecordType::A)).await.metadata.response_code
}

/// Checks that the first query for a slow name fails, that a client who repeats it at once gets the late answer, and
/// that later ones find it in the cache. The servers are sent no more than three queries for the name, a node's client
/// causes three for each resolver.
async fn late_answer_is_kept(
    server: SocketAddr,
    name: &str,
    expected: ResponseCode,
    servers: &[Authority],
    most: usize,
) {
    // A server that has answered is not taken for dead because of one name.
    assert_eq!(rcode(server, &format!("first-{name}")).await, ResponseCode::NoError, "{name}");
    let started = Instant::now();
    let response = exchange(server, &query_for(name, RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail, "{name}");
    assert!(started.elapsed() < SLOW, "{name}: the client is answered before: {:?}", started.elapsed());
    let rcode_again = rcode(server, name).await;
    assert_eq!(rcode_again, expected, "{name}: the query that is in flight answers, after {:?}", started.elapsed());
    let sent: usize = servers.iter().map(|server| server.query_count(name)).sum();
    assert!(sent <= most, "{name}: {sent} queries");
    assert_eq!(rcode(server, name).await, expected, "{name}");
    let sent_later: usize = servers.iter().map(|server| server.query_count(name)).sum();
    assert_eq!(sent_later, sent, "{name}: it is cached");
}

#[tokio::test]
async fn a_late_answer_is_cached_and_who_repeats_the_query_gets_it() {
    let cases = [
        (V4, Protocol::Udp, "slow.example", ResponseCode::NoError),
        (V4, Protocol::Udp, "slow-nx.example", ResponseCode::NXDomain),
        (V4, Protocol::Tcp, "slow.example", ResponseCode::NoError),
        (V6, Protocol::Udp, "slow.example", ResponseCode::NoError),
    ];
    join_all(cases.map(async |(ip, protocol, name, expected)| {
        let servers = [slow_server(ip).await];
        let tier = Tier::resolver_on(ip, &[servers[0].address], protocol);
        late_answer_is_kept(tier.address, name, expected, &servers, 3).await;
    }))
    .await;
}

#[tokio::test]
async fn a_late_answer_is_kept_although_nobody_repeats_the_query() {
    let server = slow_server(V4).await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode(tier.address, "www.example").await;
    assert_eq!(rcode(tier.address, "slow.example").await, ResponseCode::ServFail);
    wait_until("the answer is cached", WAIT_LIMIT, async || tier.resolver.cache().entries() == 2).await;
    assert_eq!(rcode(tier.address, "slow.example").await, ResponseCode::NoError);
    assert!(server.query_count("slow.example") <= 3);
}

#[tokio::test]
async fn a_late_answer_is_kept_of_a_server_that_answered_nothing_before() {
    let server = slow_server(V4).await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    assert_eq!(rcode(tier.address, "slow.example").await, ResponseCode::ServFail);
    wait_until("the answer is cached", WAIT_LIMIT, async || tier.resolver.cache().entries() == 1).await;
    assert_eq!(rcode(tier.address, "slow.example").await, ResponseCode::NoError);
}

#[tokio::test]
async fn an_error_of_one_server_does_not_end_the_wait_for_another_one() {
    join_all([ResponseCode::ServFail, ResponseCode::Refused].map(async |error| {
        let failing = Authority::start(move |query| {
            let is_slow = is_slow(query);
            Action::Respond(if is_slow { empty_response(query, error) } else { query.default_response(300, 2) })
        })
        .await;
        let slow = slow_server(V4).await;
        let tier = Tier::forwarding_to(&[failing.address, slow.address]).await;
        rcode(tier.address, "www.example").await;
        assert_eq!(rcode(tier.address, "slow.example").await, error);
        assert_eq!(rcode(tier.address, "slow.example").await, ResponseCode::NoError, "{error}");
    }))
    .await;
}

#[tokio::test]
async fn a_node_remembers_no_failure_of_a_name_whose_query_goes_on_in_a_zone_resolver() {
    join_all([1, 2].map(async |count| {
        let servers = [slow_server(V4).await];
        let resolvers: Vec<_> =
            (0..count).map(|_| Tier::resolver_on(V4, &[servers[0].address], Protocol::Udp)).collect();
        let addresses: Vec<_> = resolvers.iter().map(|resolver| resolver.address).collect();
        let node = Tier::node_on(V4, &addresses);
        late_answer_is_kept(node.address, "slow.example", ResponseCode::NoError, &servers, 3 * count).await;
    }))
    .await;
}

#[tokio::test]
async fn a_client_of_a_node_sees_no_error_that_means_something_in_the_tier_only() {
    let server = slow_server(V4).await;
    let resolver = Tier::resolver_on(V4, &[server.address], Protocol::Udp);
    let node = Tier::node_on(V4, &[resolver.address]);
    rcode(node.address, "www.example").await;
    let response = exchange(node.address, &query_for("slow.example", RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(22)));
}

#[tokio::test]
async fn late_answers_of_the_cluster_dns_and_of_a_route_are_kept_too() {
    let servers = [slow_server(V4).await];
    let mut config = config(servers[0].address);
    config.routes = vec![route("corp.example", &[servers[0].address])];
    let node = Tier::on_node(&config, None).await;
    tokio::join!(
        late_answer_is_kept(node.address, "slow.svc.cluster.local", ResponseCode::NoError, &servers, 3),
        late_answer_is_kept(node.address, "slow.corp.example", ResponseCode::NoError, &servers, 3),
    );
}

#[tokio::test]
async fn a_stale_answer_is_served_soon_and_the_late_answer_replaces_it() {
    let server = Authority::start(|query| Action::Respond(query.default_response(1, 7))).await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode(tier.address, "slow.example").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.set_script(|query| {
        let response = query.default_response(300, 8);
        if is_slow(query) { Action::RespondAfter(SLOW, response) } else { Action::Respond(response) }
    });
    let started = Instant::now();
    let stale = exchange(tier.address, &query_for("slow.example", RecordType::A)).await;
    assert_eq!((stale.answers[0].ttl, ede(&stale)), (30, Some(3)));
    assert!(started.elapsed() < SLOW, "{:?}", started.elapsed());
    wait_until("the answer is fresh", WAIT_LIMIT, async || {
        exchange(tier.address, &query_for("slow.example", RecordType::A)).await.answers[0].ttl > 30
    })
    .await;
    assert!(server.query_count("slow.example") <= 4, "one, and three: {}", server.query_count("slow.example"));
}

#[tokio::test]
async fn a_query_repeated_a_second_after_the_deadline_is_sent_anew() {
    // Lost packets, from the view of the client.
    let server = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode(tier.address, "www.example").await;
    server.set_script(|query| {
        if query.is("lost.example") { Action::Ignore } else { Action::Respond(query.default_response(300, 1)) }
    });
    assert_eq!(rcode(tier.address, "lost.example").await, ResponseCode::ServFail);
    let sent = server.query_count("lost.example");
    server.set_script(|query| Action::Respond(query.default_response(300, 1)));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(rcode(tier.address, "lost.example").await, ResponseCode::NoError);
    assert_eq!(server.query_count("lost.example"), sent + 1);
}

#[tokio::test]
async fn a_name_that_stays_silent_is_a_cached_failure_in_the_end() {
    let server = Authority::start(|query| {
        if query.is("dead.example") { Action::Ignore } else { Action::Respond(query.default_response(300, 1)) }
    })
    .await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode(tier.address, "www.example").await;
    let started = Instant::now();
    assert_eq!(rcode(tier.address, "dead.example").await, ResponseCode::ServFail);
    let explain = async || {
        let name = node_cache::dns::Name::from_text("dead.example").unwrap();
        let inspection = node_cache::admin::Inspection::Explain { name, rtype: 1 };
        tier.resolver.inspect(inspection).await
    };
    assert!(!explain().await.contains("no upstream responded"), "the query goes on");
    wait_until("the failure is cached", WAIT_LIMIT, async || explain().await.contains("no upstream responded")).await;
    assert!(started.elapsed() > Duration::from_secs(9), "{:?}", started.elapsed());
    let sent = server.query_count("dead.example");
    assert_eq!(rcode(tier.address, "dead.example").await, ResponseCode::ServFail);
    assert!(sent <= 3 && server.query_count("dead.example") == sent, "it is not asked again");
}

#[tokio::test]
async fn silent_names_of_one_domain_leave_room_for_the_late_answers_of_others() {
    let server = Authority::start(|query| {
        let response = query.default_response(300, 1);
        if query.name().to_ascii().to_ascii_lowercase().ends_with("dead.example.") {
            Action::Ignore
        } else if is_slow(query) {
            Action::RespondAfter(SLOW, response)
        } else {
            Action::Respond(response)
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[server.address]).await;
    rcode(tier.address, "www.test").await;
    let dead: Vec<String> = (0..200).map(|number| format!("n{number}.dead.example")).collect();
    let dead_names = join_all(dead.iter().map(|name| rcode(tier.address, name)));
    let (rcodes, ()) = tokio::join!(dead_names, async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let servers = std::slice::from_ref(&server);
        late_answer_is_kept(tier.address, "slow.test", ResponseCode::NoError, servers, 3).await;
    });
    assert!(rcodes.iter().all(|rcode| *rcode == ResponseCode::ServFail));
}
