//! More than three upstreams, some of them silent: all that are named are tried while a client waits.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;

use crate::support::{
    Action, Authority, Tier, address_record, config, empty_response, exchange, query_for, route, wait_until,
};

/// Longest time for which a stub resolver waits.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Kind of servers that do not answer.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// Servers that receive queries and are silent.
    Silent,
    /// Ports at which nothing listens (ICMP port unreachable).
    Refused,
}

/// Servers of which one is good.
struct Servers {
    silent: Vec<Authority>,
    good: Authority,
    addresses: Vec<SocketAddr>,
}

impl Servers {
    async fn start(count: usize, good: usize, absence: Absence) -> Self {
        let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
        let mut servers = Self { silent: Vec::new(), addresses: Vec::new(), good: authority };
        for number in 0..count {
            let address = match absence {
                _ if number == good => servers.good.address,
                Absence::Silent => {
                    servers.silent.push(Authority::start(|_| Action::Ignore).await);
                    servers.silent.last().unwrap().address
                }
                Absence::Refused => UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap(),
            };
            servers.addresses.push(address);
        }
        servers
    }

    /// Returns the number of queries for a name, to all servers.
    fn query_count(&self, name: &str) -> usize {
        self.silent.iter().chain([&self.good]).map(|server| server.query_count(name)).sum()
    }
}

/// Returns whether a name is answered while a client waits.
async fn is_answered(tier: &Tier, name: &str) -> bool {
    let query = query_for(name, RecordType::A);
    let response = tokio::time::timeout(CLIENT_TIMEOUT, exchange(tier.address, &query)).await;
    response.is_ok_and(|response| response.answers.len() == 1)
}

#[tokio::test]
async fn the_first_name_is_answered_by_the_only_good_server_of_up_to_eight_wherever_it_is_named() {
    let mut cases = Vec::new();
    for absence in [Absence::Silent, Absence::Refused] {
        cases.extend([(4, 3), (5, 4), (8, 7), (8, 4), (8, 0)].map(|(count, good)| (count, good, absence)));
    }
    let results = join_all(cases.iter().map(async |(count, good, absence)| {
        let servers = Servers::start(*count, *good, *absence).await;
        let tier = Tier::forwarding_to(&servers.addresses).await;
        let is_first_answered = is_answered(&tier, "first.example").await;
        let queries = servers.query_count("first.example");
        (is_first_answered, queries <= *count, is_answered(&tier, "second.example").await)
    }));
    for (case, result) in cases.iter().zip(results.await) {
        assert_eq!(result, (true, true, true), "(servers, good one, others): {case:?}");
    }
}

#[tokio::test]
async fn a_route_of_a_node_reaches_the_last_of_eight_servers_too() {
    let servers = Servers::start(8, 7, Absence::Silent).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.routes = vec![route("corp.example", &servers.addresses)];
    let tier = Tier::on_node(&config, None).await;
    assert!(is_answered(&tier, "www.corp.example").await);
}

#[tokio::test]
async fn silent_servers_are_sent_a_name_once_each_and_are_left_alone_when_they_are_down() {
    let servers = Servers::start(5, 4, Absence::Silent).await;
    let tier = Tier::forwarding_to(&servers.addresses).await;
    for number in 0..4 {
        let name = format!("n{number}.example");
        assert!(is_answered(&tier, &name).await);
        assert!(servers.query_count(&name) <= 5, "{name}: {}", servers.query_count(&name));
    }
    let upstreams = tier.resolver.snapshot().unwrap().upstreams();
    assert!(upstreams[..4].iter().all(|upstream| !upstream.healthy) && upstreams[4].healthy, "{upstreams:?}");
    assert!(is_answered(&tier, "later.example").await);
    assert_eq!(servers.query_count("later.example"), 1, "down servers are probed with other names");
}

#[tokio::test]
async fn where_all_of_nine_are_silent_a_name_is_sent_eight_times_and_three_times_when_all_are_down() {
    let servers = Servers::start(10, 9, Absence::Silent).await;
    let silent = &servers.addresses[..9];
    let tier = Tier::forwarding_to(silent).await;
    let response = exchange(tier.address, &query_for("first.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(servers.query_count("first.example"), 8);
    for name in ["second.example", "third.example"] {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    // The ninth is tried when the others are down.
    let is_down = |index: usize| !tier.resolver.snapshot().unwrap().upstreams()[index].healthy;
    let mut number = 0;
    wait_until("all servers are down", RECOVERY_TIMEOUT, async || {
        number += 1;
        exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        (0..9).all(is_down)
    })
    .await;
    exchange(tier.address, &query_for("down.example", RecordType::A)).await;
    assert!(servers.query_count("down.example") <= 3 + 1, "{}", servers.query_count("down.example"));
    // Any of them that answers again is noticed by its probe.
    servers.silent[6].set_script(|query| Action::Respond(query.default_response(300, 7)));
    let mut number = 0;
    wait_until("the seventh server answers", RECOVERY_TIMEOUT, async || {
        number += 1;
        is_answered(&tier, &format!("again{number}.example")).await
    })
    .await;
}

#[tokio::test]
async fn servers_that_have_answered_are_sent_a_name_three_times_together_whatever_they_say() {
    // Six servers that know one domain and fail for all others.
    let mut servers = Vec::new();
    for _ in 0..6 {
        let script = |query: &crate::support::ReceivedQuery| match query.is("good.example") {
            true => Action::Respond(query.default_response(0, 1)),
            false => Action::Respond(empty_response(query, ResponseCode::ServFail)),
        };
        servers.push(Authority::start(script).await);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let tier = Tier::forwarding_to(&addresses).await;
    let count = |name: &str| servers.iter().map(|server| server.query_count(name)).sum::<usize>();
    exchange(tier.address, &query_for("new.example", RecordType::A)).await;
    assert_eq!(count("new.example"), 3, "three have said that they have no answer");
    // The others are brought to answer, so that all have answered in the last minute.
    for server in &servers[..3] {
        server.stop_responding();
    }
    let response = exchange(tier.address, &query_for("good.example", RecordType::A)).await;
    assert_eq!(response.answers[0].data, address_record("x", 0, "192.0.2.1").data, "beside the silent ones");
    assert_eq!(count("good.example"), 4, "three that have answered before, and one that has not");
}
