//! Near misses: packets from an upstream's address to the port of a query in flight, with another ID or question. They
//! are counted, and what they are about goes over TCP, where nobody can guess.

use std::collections::HashSet;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use socket2::{Domain, Socket, Type};

use crate::inspection::inspect;
use crate::ports::node_with_discovered_resolver;
use crate::support::{Action, Authority, ReceivedQuery, Tier, address_record, exchange, query_for, wait_until};

/// Returns whether an attacker guesses at a query: those for names below `guessed.example`.
fn is_guessed(query: &ReceivedQuery) -> bool {
    query.name().to_ascii().to_lowercase().ends_with("guessed.example.")
}

/// Builds a response with a forged address and another ID.
fn with_wrong_id(query: &ReceivedQuery) -> Message {
    let mut forged = query.default_response(300, 66);
    forged.metadata.id = forged.metadata.id.wrapping_add(1);
    forged
}

/// Builds a response with a forged address to another question.
fn with_wrong_question(query: &ReceivedQuery) -> Message {
    let mut forged = query.default_response(300, 66);
    forged.queries[0].set_query_type(RecordType::AAAA);
    forged
}

/// Answers over TCP, and over UDP only what nobody guesses at; for the rest there are only forgeries.
fn only_forgeries_over_udp(forge: fn(&ReceivedQuery) -> Message) -> impl Fn(&ReceivedQuery) -> Action + Send + 'static {
    move |query| match is_guessed(query) && !query.tcp {
        true => Action::Respond(forge(query)),
        false => Action::Respond(query.default_response(300, 1)),
    }
}

/// Sends two forgeries before the true response.
fn forgeries_first(query: &ReceivedQuery) -> Action {
    let packets = [with_wrong_id(query), with_wrong_question(query), query.default_response(300, 1)];
    let forged = if is_guessed(query) { 0 } else { 2 };
    Action::SendRaw(packets[forged..].iter().map(|message| message.to_vec().unwrap()).collect())
}

async fn assert_true_answer(tier: &Tier, name: &str) {
    let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
    let data: Vec<_> = response.answers.iter().map(|record| &record.data).collect();
    assert_eq!(data, [&address_record(name, 0, "192.0.2.1").data], "{name}: {}", response.metadata.response_code);
}

/// Returns the number of near misses from a server.
fn near_misses(tier: &Tier, server: &Authority) -> u64 {
    let upstreams = tier.resolver.snapshot().unwrap().upstreams();
    upstreams.iter().filter(|upstream| upstream.address == server.address).map(|upstream| upstream.near_misses).sum()
}

/// Returns for each query that a server received for a name whether it came over TCP.
fn transports(server: &Authority, name: &str) -> Vec<bool> {
    server.queries().iter().filter(|query| query.is(name)).map(|query| query.tcp).collect()
}

#[tokio::test]
async fn a_query_with_a_near_miss_goes_over_tcp_at_once() {
    for forge in [with_wrong_id, with_wrong_question] {
        let authority = Authority::start(only_forgeries_over_udp(forge)).await;
        let resolver = Tier::forwarding_to(&[authority.address]).await;
        assert_true_answer(&resolver, "www.guessed.example").await;
        assert_eq!(transports(&authority, "www.guessed.example"), [false, true]);
        assert_eq!(near_misses(&resolver, &authority), 1);
        assert_true_answer(&resolver, "www.other.example").await;
        assert_eq!(transports(&authority, "www.other.example"), [false]);
    }
}

#[tokio::test]
async fn on_a_node_a_query_to_a_resolver_of_the_tier_goes_over_tcp_after_near_misses() {
    let (node, _cluster, resolver) = node_with_discovered_resolver(|query| {
        let forged = vec![with_wrong_id(query).to_vec().unwrap(); 2];
        match is_guessed(query) && !query.tcp {
            true => Action::SendRaw(forged),
            false => Action::Respond(query.default_response(300, 1)),
        }
    })
    .await;
    for number in 0..10 {
        // Ports that are kept for later queries.
        assert_true_answer(&node, &format!("n{number}.other.example")).await;
        assert_true_answer(&node, &format!("n{number}.guessed.example")).await;
    }
    assert!(near_misses(&node, &resolver) >= 4);
    assert_eq!(transports(&resolver, "n9.guessed.example"), [true]);
    assert_eq!(transports(&resolver, "n9.other.example"), [false]);
}

#[tokio::test]
async fn a_response_that_the_network_delivers_twice_is_no_near_miss() {
    let (node, _cluster, resolver) = node_with_discovered_resolver(|query| {
        let packet = query.default_response(300, 1).to_vec().unwrap();
        Action::SendRaw(vec![packet; 2])
    })
    .await;
    for number in 0..100 {
        assert_true_answer(&node, &format!("n{number}.example")).await;
    }
    let ports: HashSet<u16> = resolver.queries().iter().map(|query| query.source.port()).collect();
    assert!(ports.len() < 90, "ports are kept: {}", ports.len());
    assert_eq!(near_misses(&node, &resolver), 0);
    assert!(resolver.queries().iter().all(|query| !query.tcp));
}

#[tokio::test]
async fn a_domain_that_is_guessed_at_again_and_again_is_asked_over_tcp_and_no_other_one_is() {
    let authority = Authority::start(only_forgeries_over_udp(with_wrong_id)).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        assert_true_answer(&tier, &format!("n{number}.guessed.example")).await;
    }
    assert!(inspect(&tier, "explain new.guessed.example").await.contains("up, over TCP because of near misses\n"));
    assert!(!inspect(&tier, "explain www.other.example").await.contains("TCP"));
    assert!(inspect(&tier, "stats").await.contains(", 4 near misses\n"));
    assert_true_answer(&tier, "new.guessed.example").await;
    assert_true_answer(&tier, "www.other.example").await;
    assert_eq!(transports(&authority, "new.guessed.example"), [true]);
    assert_eq!(transports(&authority, "www.other.example"), [false]);
}

#[tokio::test]
async fn near_misses_cost_no_answer_where_tcp_is_closed() {
    for ip in ["127.0.0.1", "::1"] {
        let authority = Authority::without_tcp(ip, forgeries_first).await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        for number in 0..20 {
            assert_true_answer(&tier, &format!("n{number}.guessed.example")).await;
        }
        let first: Vec<_> = authority.queries().into_iter().filter(|query| query.is("n0.guessed.example")).collect();
        assert_eq!(first.len(), 2, "asked once more over UDP");
        assert_ne!(first[0].source.port(), first[1].source.port(), "from a fresh port");
        assert_ne!(first[0].message.metadata.id, first[1].message.metadata.id, "under a fresh ID");
        assert!(near_misses(&tier, &authority) >= 20);
    }
}

#[tokio::test]
async fn near_misses_cost_no_answer_where_packets_to_tcp_are_dropped() {
    let authority = Authority::without_tcp("127.0.0.1", forgeries_first).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    // The kernel drops packets for new connections to a listener whose queue is full. The port is bound already.
    let listener = authority.closed_tcp().unwrap();
    listener.listen(0).unwrap();
    let fill = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let is_connected = socket.connect_timeout(&authority.address.into(), Duration::from_millis(200)).is_ok();
        is_connected.then_some(socket)
    };
    let filling: Vec<_> = std::iter::from_fn(fill).take(100).collect();
    assert!(filling.len() < 100, "the queue is full");
    for number in 0..20 {
        assert_true_answer(&tier, &format!("n{number}.guessed.example")).await;
    }
    assert_eq!(authority.query_count("n19.guessed.example"), 1, "TCP is not tried for each query");
}

#[tokio::test]
async fn near_misses_cost_no_answer_where_tcp_is_silent() {
    let authority = Authority::start(|query| if query.tcp { Action::Ignore } else { forgeries_first(query) }).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..6 {
        assert_true_answer(&tier, &format!("n{number}.guessed.example")).await;
    }
    assert!(authority.queries().iter().any(|query| query.tcp));
}

#[tokio::test]
async fn forgeries_for_one_upstream_keep_no_other_one_from_answering() {
    // The first one has no true response for anybody.
    let first = Authority::without_tcp("127.0.0.1", |query| Action::Respond(with_wrong_id(query))).await;
    let second = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[first.address, second.address]).await;
    for number in 0..4 {
        assert_true_answer(&tier, &format!("n{number}.guessed.example")).await;
    }
    let is_counted = async || near_misses(&tier, &first) > 0;
    wait_until("near misses are counted", Duration::from_secs(10), is_counted).await;
    assert_eq!(near_misses(&tier, &second), 0);
    assert!(second.queries().iter().all(|query| !query.tcp), "near misses of one server say nothing about another");
}
