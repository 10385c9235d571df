//! Exchange of one query with one upstream: ID, port, 0x20 case, EDNS, TCP, hedging.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::{Protocol, Upstream, UpstreamSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, empty_response, exchange, query_for, response_with,
    srv_record, wait_until,
};

/// Time in which a server that is up again gets all queries again, on a slow machine.
const SLOW_START_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_question_has_a_fresh_number_and_port() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let queries: Vec<_> = (0..300).map(|n| query_for(&format!("n{n}.example"), RecordType::A)).collect();
    for batch in queries.chunks(50) {
        join_all(batch.iter().map(|query| exchange(tier.address, query))).await;
    }
    let queries = authority.queries();
    assert_eq!(queries.len(), 300);
    let ids: HashSet<u16> = queries.iter().map(|query| query.message.metadata.id).collect();
    let ports: HashSet<u16> = queries.iter().map(|query| query.source.port()).collect();
    assert!(ids.len() > 290 && ports.len() > 280, "{} numbers, {} ports", ids.len(), ports.len());
    assert!(queries.iter().filter(|query| query.message.metadata.id == 4711).count() < 5, "not the client's number");
    let neighbours = queries.windows(2).filter(|pair| pair[1].source.port() == pair[0].source.port() + 1).count();
    assert!(neighbours < 20, "ports in sequence: {neighbours}");
}

/// Builds a packet of this kind that is no response to the query; `None` beyond the last kind.
fn junk(query: &ReceivedQuery, kind: usize) -> Option<Vec<u8>> {
    let forged = query.default_response(300, 66);
    let mut wrong = forged.clone();
    let packet = forged.to_vec().unwrap();
    Some(match kind {
        0..=3 => {
            match kind {
                0 => wrong.metadata.id = wrong.metadata.id.wrapping_add(1),
                1 => _ = wrong.queries[0].set_name(crate::support::name("other.example")),
                2 => _ = wrong.queries[0].set_query_type(RecordType::AAAA),
                _ => wrong.queries.clear(),
            }
            wrong.to_vec().unwrap()
        }
        4 => query.message.to_vec().unwrap(),
        5 => {
            // A record that no further octets could make whole: a pointer forwards.
            let owner = packet.windows(2).rposition(|octets| octets == [0xc0, 12]).unwrap();
            [&packet[..owner], &[0xff, 0xff], &packet[owner + 2..]].concat()
        }
        6 => packet[..11].to_vec(),
        7 => Vec::new(),
        8 => vec![0xff; 64],
        _ => return None,
    })
}

#[tokio::test]
async fn two_hundred_packets_of_each_kind_that_are_no_answer_are_ignored_and_the_true_one_is_awaited() {
    let kind_of = |query: &ReceivedQuery| query.name().to_ascii()[1..].split('.').next().unwrap().parse::<usize>().ok();
    let script = move |query: &ReceivedQuery| {
        let junk = kind_of(query).and_then(|kind| junk(query, kind));
        let mut packets = vec![junk.unwrap_or_default(); 200];
        packets.push(query.default_response(300, 1).to_vec().unwrap());
        Action::SendRaw(packets)
    };
    // One that is closed over TCP: the first near miss would end what can be forged.
    let authority = Authority::without_tcp("127.0.0.1", script).await;
    let foreign = Tier::forwarding_to(&[authority.address]).await;
    let (own, _cluster, _resolver) = crate::ports::node_with_discovered_resolver(script).await;
    for tier in [foreign, own] {
        for kind in 0..9 {
            let name = format!("k{kind}.example");
            let response = exchange(tier.address, &query_for(&name, RecordType::A)).await;
            assert_eq!(response.answers, [address_record(&name, 300, "192.0.2.1")]);
        }
    }
    for kind in 0..9 {
        let count = authority.query_count(&format!("k{kind}.example"));
        let most = if kind < 4 { 2 } else { 1 };
        assert!((1..=most).contains(&count), "kind {kind}: only a near miss leads to a try over TCP: {count}");
    }
}

/// Builds responses that are wrong in one field each.
fn forgeries(query: &ReceivedQuery) -> Vec<Vec<u8>> {
    let response = query.default_response(300, 66).to_vec().unwrap();
    let question_end = response[12..].iter().position(|octet| *octet == 0).unwrap() + 12 + 5;
    let with = |offset: usize, change: u8| {
        let mut packet = response.clone();
        packet[offset] ^= change;
        packet
    };
    let mut forged: Vec<_> = (0..16).map(|bit| with(bit / 8, 1 << (bit % 8))).collect();
    forged.extend([
        with(2, 0x80),                // a question
        with(2, 0x28),                // another opcode
        with(5, 1),                   // no question
        with(5, 3),                   // two of them
        with(13, 1),                  // another name
        with(question_end - 3, 0x1c), // another type
        with(question_end - 1, 2),    // another class
    ]);
    forged
}

/// Sends this many forged responses, always before the true one.
async fn forge(count: usize) {
    const FORGERIES_PER_QUERY: usize = 200;
    // One that is closed over TCP: the first near miss would end what can be forged.
    let authority = Authority::without_tcp("127.0.0.1", |query| {
        let mut packets: Vec<_> = forgeries(query).iter().cycle().take(FORGERIES_PER_QUERY).cloned().collect();
        packets.push(query.default_response(300, 1).to_vec().unwrap());
        Action::SendRaw(packets)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..count / FORGERIES_PER_QUERY {
        authority.clear_queries();
        let response = exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!(response.answers[0].data, address_record("x", 0, "192.0.2.1").data, "n{number}.example");
        assert!(authority.queries().len() <= 2, "asked once more where TCP was tried, every 30 s");
    }
    let near_misses = tier.resolver.snapshot().unwrap().upstreams()[0].near_misses;
    assert!(near_misses >= count as u64 / 2, "{near_misses}");
}

#[tokio::test]
async fn none_of_a_hundred_thousand_answers_with_one_wrong_field_is_believed() {
    forge(100_000).await;
}

#[tokio::test]
#[ignore = "minutes; run by make test-long"]
async fn none_of_ten_million_answers_with_one_wrong_field_is_believed() {
    forge(10_000_000).await;
}

#[tokio::test]
async fn a_server_is_told_1232_octets_and_a_longer_answer_goes_over_tcp() {
    let records =
        |count| (0..count).map(|_| crate::support::unknown_record("big.example", 65_280, &[7; 240])).collect();
    // A server that truncates, and one that sends more than EDNS allows.
    for cuts in [true, false] {
        let authority = Authority::start(move |query| {
            let message = response_with(query, records(16));
            Action::Respond(if query.tcp || !cuts { message } else { message.truncate() })
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        let big = query_for("big.example", RecordType::Unknown(65_280));
        let response = crate::support::exchange_over_tcp(tier.address, &big).await;
        assert_eq!(response.answers.len(), 16);
        let queries = authority.queries();
        assert!(queries.iter().all(|query| query.message.edns.as_ref().unwrap().max_payload() == 1232));
        assert_eq!(queries.iter().map(|query| query.tcp).collect::<Vec<_>>(), [false, true], "cuts: {cuts}");
    }
}

#[tokio::test]
async fn a_server_of_protocol_tcp_is_asked_over_tcp_alone() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = over_tcp(authority.address);
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert!(authority.queries().iter().all(|query| query.tcp) && authority.queries().len() == 1);
}

/// Builds the response of a server that writes every name in lower case.
fn lowered(query: &ReceivedQuery, last_octet: u8) -> Message {
    let mut message = query.default_response(300, last_octet);
    let lower = message.queries[0].name().to_lowercase();
    message.queries[0].set_name(lower);
    message
}

#[tokio::test]
async fn names_are_asked_in_random_case_and_an_answer_in_another_case_is_not_believed() {
    let authority = Authority::start(|query| match query.tcp {
        true => Action::Respond(query.default_response(300, 1)),
        false => Action::Respond(lowered(query, 66)),
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        let query = query_for(&format!("a-name-with-many-letters-{number}.example"), RecordType::A);
        assert_eq!(exchange(tier.address, &query).await.answers[0].data, address_record("x", 0, "192.0.2.1").data);
    }
    let queries = authority.queries();
    let texts: HashSet<String> = queries.iter().map(|query| query.name().to_ascii()).collect();
    assert!(texts.iter().any(|text| *text != text.to_lowercase()), "{texts:?}");
    assert_eq!(queries.iter().filter(|query| query.tcp).count(), 4, "one forgery is no reason to ask in lower case");
}

#[tokio::test]
async fn nobody_sees_the_random_case_in_which_a_name_was_asked() {
    // Like CoreDNS, it copies the case of the question into the names of its records.
    let authority = Authority::start(|query| {
        let target = query.name().to_ascii();
        let mut message = response_with(query, vec![srv_record(&target, 300, 53, &target)]);
        message.add_additional(address_record(&format!("Other.{target}"), 300, "192.0.2.1"));
        Action::Respond(message)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        let name = format!("a-name-with-many-letters-{number}.example.");
        let response = exchange(tier.address, &query_for(&name, RecordType::SRV)).await;
        assert_eq!(response.answers[0].data.to_string(), format!("0 100 53 {name}"));
        assert_eq!(response.additionals[0].name.to_string(), format!("Other.{name}"), "what was not asked stays");
    }
}

#[tokio::test]
async fn a_server_that_loses_case_over_tcp_too_is_asked_in_lower_case_from_then_on() {
    let authority = Authority::start(|query| Action::Respond(lowered(query, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..5 {
        let query = query_for(&format!("a-name-with-many-letters-{number}.example"), RecordType::A);
        assert_eq!(exchange(tier.address, &query).await.answers.len(), 1);
    }
    let queries = authority.queries();
    assert_eq!(queries.iter().filter(|query| query.tcp).count(), 1);
    assert!(queries[2..].iter().all(|query| query.name().to_ascii() == query.name().to_ascii().to_lowercase()));
}

#[tokio::test]
async fn a_server_without_tcp_is_asked_in_lower_case_once_three_answers_in_another_case_agree() {
    let authority = Authority::without_tcp("127.0.0.1", |query| Action::Respond(lowered(query, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        let query = query_for(&format!("a-name-with-many-letters-{number}.example"), RecordType::A);
        assert_eq!(exchange(tier.address, &query).await.answers.len(), 1);
    }
    let queries = authority.queries();
    assert_eq!(queries.len(), 3 + 3, "later names do not pay");
    let is_lower = |query: &ReceivedQuery| query.name().to_ascii() == query.name().to_ascii().to_lowercase();
    assert!(queries[..3].iter().all(|query| !is_lower(query)) && queries[3..].iter().all(is_lower));
    let ports: HashSet<u16> = queries[..3].iter().map(|query| query.source.port()).collect();
    let ids: HashSet<u16> = queries[..3].iter().map(|query| query.message.metadata.id).collect();
    let cases: HashSet<String> = queries[..3].iter().map(|query| query.name().to_ascii()).collect();
    assert_eq!((ports.len(), ids.len(), cases.len()), (3, 3, 3), "each with a port, an ID and a case of its own");
}

#[tokio::test]
async fn one_or_two_forged_answers_in_another_case_are_not_believed_although_tcp_is_closed() {
    for forgeries in [1, 2] {
        let received = std::sync::atomic::AtomicUsize::new(0);
        let authority = Authority::without_tcp("127.0.0.1", move |query| {
            match received.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                number if number < forgeries => Action::Respond(lowered(query, 66)),
                _ => Action::Respond(query.default_response(300, 1)),
            }
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        for number in 0..4 {
            let query = query_for(&format!("a-name-with-many-letters-{number}.example"), RecordType::A);
            let data = exchange(tier.address, &query).await.answers[0].data.clone();
            assert_eq!(data, address_record("x", 0, "192.0.2.1").data, "{forgeries} forgeries");
        }
        let queries = authority.queries();
        assert_eq!(queries.len(), 4 + forgeries);
        let is_lower = |query: &ReceivedQuery| query.name().to_ascii() == query.name().to_ascii().to_lowercase();
        assert!(!queries.iter().any(is_lower), "0x20 is never given up for it");
    }
}

#[tokio::test]
async fn answers_in_another_case_that_contradict_each_other_are_not_believed() {
    let received = std::sync::atomic::AtomicUsize::new(0);
    let authority = Authority::without_tcp("127.0.0.1", move |query| {
        let number = received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Action::Respond(lowered(query, if number < 2 { 66 } else { number as u8 }))
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let query = query_for("a-name-with-many-letters.example", RecordType::A);
    assert_eq!(exchange(tier.address, &query).await.metadata.response_code, ResponseCode::ServFail);
    assert!(authority.queries().len() <= 9, "three sends, each of three datagrams: {}", authority.queries().len());
    // It is another matter with answers that agree.
    authority.set_script(|query| Action::Respond(lowered(query, 1)));
    let query = query_for("another-name-with-many-letters.example", RecordType::A);
    assert_eq!(exchange(tier.address, &query).await.answers.len(), 1);
}

/// Starts a zone resolver that queries this server over TCP only.
fn over_tcp(server: SocketAddr) -> Tier {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = Upstream { protocol: Protocol::Tcp, ..server.into() };
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream]);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    tier
}

#[tokio::test]
async fn questions_over_tcp_share_one_connection_and_wait_for_no_other_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tier = over_tcp(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, source) = listener.accept().await.unwrap();
        let mut queries = Vec::new();
        while queries.len() < 50 {
            queries.push(ReceivedQuery { message: read_message(&mut stream).await, source, tcp: true });
        }
        // Responses come in reverse order.
        for query in queries.iter().rev() {
            write_message(&mut stream, &query.default_response(300, 1)).await;
        }
        stream
    });
    let queries: Vec<_> = (0..50).map(|number| query_for(&format!("n{number}.example"), RecordType::A)).collect();
    let responses = join_all(queries.iter().map(|query| exchange(tier.address, query))).await;
    assert!(responses.iter().all(|response| response.answers.len() == 1));
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_server_closes_costs_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tier = over_tcp(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            // One response for each connection; a second query on it is read and never answered.
            let (mut stream, source) = listener.accept().await.unwrap();
            let query = ReceivedQuery { message: read_message(&mut stream).await, source, tcp: true };
            write_message(&mut stream, &query.default_response(300, 1)).await;
            read_message(&mut stream).await;
        }
    });
    for number in 0..4 {
        let response = exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!((number, response.answers.len()), (number, 1));
    }
}

async fn read_message(stream: &mut TcpStream) -> Message {
    let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut message).await.unwrap();
    Message::from_vec(&message).unwrap()
}

async fn write_message(stream: &mut TcpStream, message: &Message) {
    let message = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
    stream.write_all(&message).await.unwrap();
}

#[tokio::test]
async fn the_second_upstream_answers_for_a_silent_first_one_which_is_then_left_alone() {
    let silent = Authority::start(|_| Action::Ignore).await;
    let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let tier = Tier::forwarding_to(&[silent.address, second.address]).await;
    for number in 0..3 {
        let started = Instant::now();
        let response = exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!(response.answers.len(), 1);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    let started = Instant::now();
    for number in 10..60 {
        exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(silent.queries().len() <= 4, "{}", silent.queries().len());
    // The first server recovers, and is preferred again by slow start.
    silent.set_script(|query| Action::Respond(query.default_response(300, 1)));
    let mut number = 100;
    let mut answered_in_a_row = 0;
    wait_until("the first server is preferred", SLOW_START_TIMEOUT, async || {
        number += 1;
        let name = format!("n{number}.example");
        let response = exchange(tier.address, &query_for(&name, RecordType::A)).await;
        let is_from_first = response.answers[0].data == address_record(&name, 0, "192.0.2.1").data;
        answered_in_a_row = if is_from_first { answered_in_a_row + 1 } else { 0 };
        answered_in_a_row == 20
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_slower_than_usual_is_not_waited_for_and_does_not_count_as_failing() {
    let first = Authority::start(|query| match query.name().to_ascii().to_lowercase().starts_with("slow") {
        true => Action::RespondAfter(Duration::from_millis(200), query.default_response(300, 1)),
        false => Action::Respond(query.default_response(300, 1)),
    })
    .await;
    let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let tier = Tier::forwarding_to(&[first.address, second.address]).await;
    for number in 0..40 {
        exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
    }
    let mut by_second = 0;
    for number in 0..5 {
        let response = exchange(tier.address, &query_for(&format!("slow{number}.example"), RecordType::A)).await;
        by_second += usize::from(response.answers[0].data == address_record("x", 0, "192.0.2.2").data);
    }
    assert!(by_second > 0, "the second one answers first");
    assert!(tier.resolver.snapshot().unwrap().upstreams()[0].healthy);
}

#[tokio::test]
async fn another_upstream_is_asked_when_one_fails() {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let failing = Authority::start(move |query| Action::Respond(empty_response(query, rcode))).await;
        let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
        let tier = Tier::forwarding_to(&[failing.address, second.address]).await;
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers.len(), 1);
        assert_eq!((failing.queries().len(), second.queries().len()), (1, 1));
        let upstreams = tier.resolver.snapshot().unwrap().upstreams();
        assert!(upstreams.iter().all(|upstream| upstream.healthy && upstream.timeouts == 0), "it answered in time");
    }
}

#[tokio::test]
async fn a_slow_answer_still_counts() {
    let slow =
        Authority::start(|query| Action::RespondAfter(Duration::from_millis(1200), query.default_response(300, 1)))
            .await;
    let tier = Tier::forwarding_to(&[slow.address]).await;
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.answers.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_report_that_nobody_listens_moves_a_question_on_at_once() {
    let gone = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let tier = Tier::forwarding_to(&[gone, second.address]).await;
    let mut fastest = Duration::MAX;
    for name in ["one.example", "two.example"] {
        let started = Instant::now();
        exchange(tier.address, &query_for(name, RecordType::A)).await;
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(300), "{fastest:?}");
}

#[tokio::test]
async fn a_resolv_conf_that_names_only_captured_addresses_is_told_and_fails_with_a_reason() {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::ResolvConf;
    let mut book = node_cache::upstream::GroupRegistry::default();
    let snapshot = node_cache::snapshot::Snapshot::for_zone_resolver(&config, "nameserver 169.254.20.10\n", &mut book);
    assert!(snapshot.upstream_problem.as_ref().unwrap().contains("169.254.20.10"));
    let tier = Tier::start(Default::default());
    tier.resolver.apply(snapshot);
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(crate::support::ede(&response), Some(22));
    assert!(started.elapsed() < Duration::from_secs(1));
}
