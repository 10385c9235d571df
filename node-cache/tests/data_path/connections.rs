//! TCP connections of clients: order, limits and timeouts.

use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use node_cache::server::TcpLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::require::{open_files, require};
use crate::support::{Action, Authority, Tier, config, exchange, exchange_on, exchange_over_tcp, query_for};

async fn tier(limits: TcpLimits) -> (Authority, Tier) {
    let authority = Authority::start(|query| {
        let delay = if query.is("slow.example") { 400 } else { 0 };
        Action::RespondAfter(Duration::from_millis(delay), query.default_response(300, 1))
    })
    .await;
    let tier = Tier::start(limits);
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = node_cache_config::UpstreamSource::Servers(vec![authority.address.into()]);
    tier.apply_forwarding(&config);
    (authority, tier)
}

async fn closed_within(stream: &mut TcpStream, time: Duration) -> bool {
    matches!(timeout(time, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn answers_of_one_connection_come_as_they_are_ready() {
    let (_authority, tier) = tier(TcpLimits::default()).await;
    let mut stream = TcpStream::connect(tier.address).await.unwrap();
    let mut slow = query_for("slow.example", RecordType::A);
    slow.metadata.id = 1;
    let mut fast = query_for("fast.example", RecordType::A);
    fast.metadata.id = 2;
    let packet = slow.to_vec().unwrap();
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let first = Message::from_vec(&exchange_on(&mut stream, &fast.to_vec().unwrap()).await).unwrap();
    assert_eq!(first.metadata.id, 2);
    let length = stream.read_u16().await.unwrap();
    let mut second = vec![0; usize::from(length)];
    stream.read_exact(&mut second).await.unwrap();
    assert_eq!(Message::from_vec(&second).unwrap().metadata.id, 1);
}

#[tokio::test]
async fn a_client_that_has_asked_and_closed_its_side_still_gets_its_answer() {
    let (_authority, tier) = tier(TcpLimits::default()).await;
    let mut stream = TcpStream::connect(tier.address).await.unwrap();
    let packet = query_for("slow.example", RecordType::A).to_vec().unwrap();
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    assert_eq!(Message::from_vec(&response[2..]).unwrap().answers.len(), 1);
}

#[tokio::test]
async fn idle_halting_and_silent_connections_are_closed() {
    let limits = TcpLimits {
        first_byte_timeout: Duration::from_millis(200),
        message_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(400),
        ..TcpLimits::default()
    };
    let (_authority, tier) = tier(limits).await;
    let mut silent = TcpStream::connect(tier.address).await.unwrap();
    let mut halting = TcpStream::connect(tier.address).await.unwrap();
    let mut idle = TcpStream::connect(tier.address).await.unwrap();
    halting.write_all(&[0]).await.unwrap();
    exchange_on(&mut idle, &query_for("www.example", RecordType::A).to_vec().unwrap()).await;
    let started = Instant::now();
    for stream in [&mut silent, &mut halting, &mut idle] {
        assert!(closed_within(stream, Duration::from_secs(2)).await);
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn one_source_cannot_take_all_connections_and_all_sources_no_more_than_there_are() {
    let limits = TcpLimits { max_connections: 6, max_connections_per_client: 4, ..TcpLimits::default() };
    let (_authority, tier) = tier(limits).await;
    let www = query_for("www.example", RecordType::A).to_vec().unwrap();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(tier.address).await.unwrap();
        exchange_on(&mut stream, &www).await;
        connections.push(stream);
    }
    let mut fifth = TcpStream::connect(tier.address).await.unwrap();
    assert!(closed_within(&mut fifth, Duration::from_secs(1)).await);
    assert_eq!(tier.resolver.metrics().traffic(0, 0).dropped, 1);
    drop(connections.pop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    exchange_over_tcp(tier.address, &query_for("www.example", RecordType::A)).await;
}

#[tokio::test]
async fn a_source_that_may_not_ask_is_closed_unheard() {
    let (authority, tier) = tier(TcpLimits::default()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(tier.address).await.unwrap();
    assert!(closed_within(&mut stream, Duration::from_secs(1)).await);
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn many_idle_connections_do_not_touch_datagrams() {
    require!(open_files(8192));
    let (_authority, tier) = tier(TcpLimits { max_connections_per_client: 512, ..TcpLimits::default() }).await;
    let idle = join_all((0..400).map(|_| TcpStream::connect(tier.address))).await;
    assert!(idle.iter().all(Result::is_ok));
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    let started = Instant::now();
    for _ in 0..50 {
        exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_asks_hears_how_long_its_connection_is_kept_and_others_do_not() {
    let (_authority, tier) = tier(TcpLimits::default()).await;
    let mut with_keepalive = query_for("www.example", RecordType::A);
    let keepalive = EdnsOption::Unknown(11, vec![]);
    with_keepalive.edns.as_mut().unwrap().options_mut().insert(keepalive);
    let keepalive_of = |response: &Message| {
        let option = response.edns.as_ref().unwrap().option(EdnsCode::from(11)).cloned();
        option.map(|option| Vec::<u8>::try_from(&option).unwrap())
    };
    assert_eq!(
        keepalive_of(&exchange_over_tcp(tier.address, &with_keepalive).await),
        Some(vec![0, 100]),
        "ten seconds"
    );
    assert_eq!(keepalive_of(&exchange_over_tcp(tier.address, &query_for("www.example", RecordType::A)).await), None);
    assert_eq!(keepalive_of(&exchange(tier.address, &with_keepalive).await), None, "a datagram has no connection");
}

#[tokio::test]
async fn a_question_longer_than_any_needs_to_be_is_malformed_and_the_connection_goes_on() {
    let (authority, tier) = tier(TcpLimits::default()).await;
    let mut stream = TcpStream::connect(tier.address).await.unwrap();
    let mut long = query_for("www.example", RecordType::A).to_vec().unwrap();
    long.resize(65_535, 0);
    // The header counts 1,000 additional records; the part of the message that is kept holds fewer.
    long[10..12].copy_from_slice(&1000_u16.to_be_bytes());
    let response = exchange_on(&mut stream, &long).await;
    assert_eq!((response.len(), response[3] & 0x0f), (12, 1));
    // An UPDATE is not forwarded, however long it is.
    long[2] = 5 << 3;
    let response = exchange_on(&mut stream, &long).await;
    assert_eq!((response.len(), response[2] >> 3 & 0x0f, response[3] & 0x0f), (12, 5, 4));
    assert_eq!(authority.queries().len(), 0);
    let packet = query_for("www.example", RecordType::A).to_vec().unwrap();
    assert_eq!(Message::from_vec(&exchange_on(&mut stream, &packet).await).unwrap().answers.len(), 1);
}

/// Connects to the tier from this address.
async fn connect_from(source: &str, tier: &Tier) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(source.parse().unwrap())?;
    socket.connect(tier.address).await
}

/// Starts a tier that serves every loopback address, and whose responses are as long as a message can be.
async fn with_long_answers(limits: TcpLimits) -> (Authority, Tier) {
    let authority = Authority::start(|query| {
        let long = || crate::support::unknown_record("long.example", 65_280, &[7; 1000]);
        let count = if query.is("long.example") { 63 } else { 0 };
        let mut message = crate::support::response_with(query, (0..count).map(|_| long()).collect());
        match () {
            () if count == 0 => message = query.default_response(300, 1),
            () if !query.tcp => message = message.truncate(),
            () => {}
        }
        Action::Respond(message)
    })
    .await;
    let tier = Tier::start(limits);
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = node_cache_config::Upstream::from(authority.address);
    config.resolver.upstreams = node_cache_config::UpstreamSource::Servers(vec![upstream]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    tier.apply_forwarding(&config);
    (authority, tier)
}

#[tokio::test]
async fn a_client_that_reads_none_of_its_answers_is_left_and_others_are_served() {
    let (_authority, tier) = with_long_answers(TcpLimits::default()).await;
    let long = query_for("long.example", RecordType::Unknown(65_280));
    assert_eq!(exchange_over_tcp(tier.address, &long).await.answers.len(), 63);
    let packet = long.to_vec().unwrap();
    let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat().repeat(64);
    let greedy = || node_cache::metrics::render("cache-0", tier.resolver.metrics(), Default::default());
    let started = Instant::now();
    let mut connections = Vec::new();
    // Socket buffers in the kernel hold some of the unread responses.
    while !greedy().contains("reason=\"greedy\"") {
        assert!(started.elapsed() < Duration::from_secs(60), "{}", greedy());
        let mut stream = connect_from("127.0.0.1:0", &tier).await.unwrap();
        let _ = stream.write_all(&framed).await;
        connections.push(stream);
    }
    let mut other = connect_from("127.0.0.2:0", &tier).await.unwrap();
    let response = Message::from_vec(&exchange_on(&mut other, &packet).await).unwrap();
    assert_eq!(response.answers.len(), 63);
    let small = query_for("www.example", RecordType::A);
    assert_eq!(exchange(tier.address, &small).await.answers.len(), 1, "and its own datagrams");
}

#[tokio::test]
async fn ten_thousand_connections_that_say_nothing_or_half_a_word_take_nothing_from_others() {
    require!(open_files(8192));
    const CONNECTIONS: usize = 10_000;
    let (_authority, tier) = with_long_answers(TcpLimits::default()).await;
    let small = query_for("www.example", RecordType::A);
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        let Ok(mut stream) = connect_from("127.0.0.1:0", &tier).await else { continue };
        if number % 2 == 0 {
            let _ = stream.write_all(&[0xff, 0xff, 1]).await;
        }
        // Refused connections are closed already; this end need not hold all others.
        if number % 10 == 0 {
            connections.push(stream);
        }
        if number % 1000 == 0 {
            assert_eq!(exchange(tier.address, &small).await.answers.len(), 1, "datagrams");
            let mut other = connect_from("127.0.0.2:0", &tier).await.unwrap();
            let response = exchange_on(&mut other, &small.to_vec().unwrap()).await;
            assert_eq!(Message::from_vec(&response).unwrap().answers.len(), 1, "a new client after {number}");
        }
    }
    assert!(tier.resolver.metrics().traffic(0, 0).dropped > 0, "some were turned away");
}

#[tokio::test]
async fn when_all_connections_are_taken_by_those_who_say_nothing_a_new_client_is_served_after_their_time() {
    let limits = TcpLimits {
        max_connections: 50,
        max_connections_per_client: 10,
        first_byte_timeout: Duration::from_millis(500),
        ..TcpLimits::default()
    };
    let (_authority, tier) = with_long_answers(limits).await;
    let mut connections = Vec::new();
    for number in 0..100 {
        connections.push(connect_from(&format!("127.0.0.{}:0", 10 + number % 10), &tier).await.unwrap());
    }
    let packet = query_for("www.example", RecordType::A).to_vec().unwrap();
    let started = Instant::now();
    loop {
        let mut stream = connect_from("127.0.0.2:0", &tier).await.unwrap();
        let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat();
        let _ = stream.write_all(&framed).await;
        if stream.read_u16().await.is_ok() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
