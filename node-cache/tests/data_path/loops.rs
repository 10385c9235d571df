//! Forwarding loops, and packets that two servers would send to each other for ever.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{MessageType, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::{Upstream, UpstreamSource};
use tokio::net::UdpSocket;

use crate::support::{Action, Authority, Tier, config, exchange, query_for};

fn set_upstream_id(tier: &Tier, to: SocketAddr) {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(vec![Upstream { address: to, protocol: Default::default() }]);
    tier.apply_forwarding(&config);
}

fn sent(tier: &Tier) -> u64 {
    tier.resolver.snapshot().unwrap().upstreams()[0].sent
}

#[tokio::test]
async fn servers_that_forward_to_each_other_fail_each_question_within_a_second_after_a_few_packets() {
    const NAMES: u64 = 20;
    let (one, two, own) =
        (Tier::start(Default::default()), Tier::start(Default::default()), Tier::start(Default::default()));
    set_upstream_id(&one, two.address);
    set_upstream_id(&two, one.address);
    set_upstream_id(&own, own.address);
    let started = Instant::now();
    let queries: Vec<_> = (0..NAMES).map(|number| query_for(&format!("n{number}.example"), RecordType::A)).collect();
    let deadline = one.resolver.snapshot().unwrap().scopes()[0].deadline;
    for (which, tier) in ["one of two", "its own"].into_iter().zip([&one, &own]) {
        let started = Instant::now();
        let responses = join_all(queries.iter().map(|query| exchange(tier.address, query))).await;
        assert!(responses.iter().all(|response| response.metadata.response_code == ResponseCode::ServFail));
        // It takes 0.6 s; without loop detection it would take until the deadline.
        assert!(started.elapsed() < deadline - Duration::from_millis(500), "{which}: {:?}", started.elapsed());
    }
    // Three for each query and server, and one probe a second of a server that is down.
    let seconds = 1 + started.elapsed().as_secs();
    for tier in [&one, &two, &own] {
        assert!(sent(tier) <= 3 * NAMES + 4 * seconds, "{} in {seconds} s", sent(tier));
    }
    // No more queries are sent, not even for other names.
    let before = [sent(&one), sent(&two), sent(&own)];
    let another = query_for("another.example", RecordType::A);
    for tier in [&one, &two, &own] {
        assert_eq!(exchange(tier.address, &another).await.metadata.response_code, ResponseCode::ServFail);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (tier, before) in [&one, &two, &own].into_iter().zip(before) {
        assert!(sent(tier) - before <= 4 * 3, "{} more", sent(tier) - before);
    }
}

#[tokio::test]
async fn who_repeats_a_question_that_looks_for_loops_changes_nothing() {
    let authority = Authority::start(|query| {
        let response = query.default_response(300, 1);
        // One slow response triggers a loop probe.
        if query.name().to_ascii().eq_ignore_ascii_case("slow.example.") {
            Action::RespondAfter(Duration::from_millis(600), response)
        } else {
            Action::Respond(response)
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    exchange(tier.address, &query_for("slow.example", RecordType::A)).await;
    let names: Vec<_> = authority.queries().iter().map(|query| query.name().to_ascii()).collect();
    let probe = names.iter().find(|name| name.ends_with(".slow.example.") && name.len() == 32 + 14).expect("a probe");
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..3 {
        assert_eq!(
            exchange(tier.address, &query_for(probe, RecordType::A)).await.answers.len(),
            1,
            "a name like others"
        );
    }
    assert_eq!(exchange(tier.address, &query_for("www.example", RecordType::A)).await.answers.len(), 1);
}

/// Sends this many responses, with queries in between, which are answered.
async fn flood_with_responses(count: usize) {
    const RESPONSES_PER_QUERY: usize = 100;
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let cached = query_for("www.example", RecordType::A);
    exchange(tier.address, &cached).await;
    authority.clear_queries();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for number in 0..count {
        let mut response = query_for(["www.example", "new.example"][number % 2], RecordType::A);
        response.metadata.message_type = MessageType::Response;
        response.metadata.id = number as u16;
        socket.send_to(&response.to_vec().unwrap(), tier.address).await.unwrap();
        if number % RESPONSES_PER_QUERY == 0 {
            // A worker reads in order: once this is answered, it has read the responses before it.
            exchange(tier.address, &cached).await;
        }
    }
    exchange(tier.address, &cached).await;
    let received = socket.try_recv(&mut [0; 1500]);
    assert!(received.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "an answer to a response");
    assert_eq!(authority.queries().len(), 0);
    let dropped = tier.resolver.metrics().traffic(0, 0).dropped;
    assert!(dropped > count as u64 / 2, "{dropped} of {count} came in");
}

#[tokio::test]
async fn a_flood_of_responses_is_answered_with_nothing() {
    flood_with_responses(20_000).await;
}

#[tokio::test]
#[ignore = "a minute; run by make test-long"]
async fn a_million_responses_are_answered_with_nothing() {
    flood_with_responses(1_000_000).await;
}
