//! Late responses over TCP from an upstream that answers the queries of a connection one after the other, or in any
//! order.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use crate::support::{Action, Authority, ReceivedQuery, Tier, empty_response, exchange, query_for};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Number of names of others, one each quarter of a second.
const NAMES: usize = 12;
const INTERVAL: Duration = Duration::from_millis(250);
/// Time within which each of them has to be answered.
const LIMIT: Duration = Duration::from_secs(1);
/// Most connections to a server.
const MAX_CONNECTIONS: usize = 8;

fn truncated(query: &ReceivedQuery) -> Message {
    let mut message = empty_response(query, ResponseCode::NoError);
    message.metadata.truncation = true;
    message
}

/// Returns how long the server takes for a name: a second for `slow…`, a quarter for `late…`.
fn delay(query: &ReceivedQuery) -> Duration {
    let name = query.name().to_ascii().to_ascii_lowercase();
    Duration::from_millis(if name.starts_with("slow") {
        1000
    } else if name.starts_with("late") {
        250
    } else {
        0
    })
}

/// Starts a server that truncates all responses over UDP and answers the queries of a connection in order.
async fn in_order_server(ip: IpAddr) -> Authority {
    Authority::start_on(ip, |query| {
        if query.tcp {
            Action::RespondAfter(delay(query), query.default_response(300, 1))
        } else {
            Action::Respond(truncated(query))
        }
    })
    .await
}

/// Has a client query slow names of one domain, this many a second.
fn query_slow_names(tier: &Tier, names_per_second: u32) -> JoinHandle<()> {
    let address = tier.address;
    let source = if address.is_ipv4() { "127.0.0.2:0" } else { "[::1]:0" };
    let client = std::net::UdpSocket::bind(source).unwrap();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / names_per_second);
        for number in 0.. {
            ticks.tick().await;
            let query = query_for(&format!("slow{number}.slow.example"), RecordType::A);
            client.send_to(&query.to_vec().unwrap(), address).unwrap();
        }
    })
}

/// Queries names of others and returns how many of them are answered in time.
async fn answered_in_time(tier: &Tier) -> usize {
    let mut answered = 0;
    for number in 0..NAMES {
        let started = Instant::now();
        let query = query_for(&format!("n{number}.others.example.org"), RecordType::A);
        let response = exchange(tier.address, &query).await;
        answered += usize::from(response.answers.len() == 1 && started.elapsed() < LIMIT);
        tokio::time::sleep(INTERVAL.saturating_sub(started.elapsed())).await;
    }
    answered
}

fn connections(server: &Authority) -> usize {
    let queries = server.queries();
    queries.iter().filter(|query| query.tcp).map(|query| query.source).collect::<HashSet<_>>().len()
}

/// Returns how many names of others are answered in time beside slow names, for a tier that forwards to the server.
async fn beside_slow_names(tier: &Tier, names_per_second: u32, servers: &[Authority]) -> usize {
    let slow = query_slow_names(tier, names_per_second);
    tokio::time::sleep(INTERVAL).await;
    let answered = answered_in_time(tier).await;
    slow.abort();
    for server in servers {
        assert!(connections(server) <= MAX_CONNECTIONS, "{} connections", connections(server));
    }
    let queries: Vec<_> = servers.iter().flat_map(Authority::queries).collect();
    let is_slow = |query: &&ReceivedQuery| query.tcp && delay(query) > Duration::ZERO;
    assert!(queries.iter().filter(is_slow).count() >= NAMES / 2, "slow names are queried");
    answered
}

#[tokio::test]
async fn slow_names_over_tcp_hold_up_no_others_at_a_server_that_answers_in_order() {
    let cases = [(V4, 1, 4), (V4, 2, 4), (V4, 3, 4), (V4, 1, 20), (V6, 1, 4), (V6, 2, 4)];
    let results = join_all(cases.map(async |(ip, count, names_per_second)| {
        let servers = join_all((0..count).map(|_| in_order_server(ip))).await;
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let tier = Tier::resolver_on(ip, &addresses, Protocol::Udp);
        beside_slow_names(&tier, names_per_second, &servers).await
    }));
    for ((ip, servers, names_per_second), answered) in cases.into_iter().zip(results.await) {
        assert_eq!(answered, NAMES, "{ip}: {servers} servers, {names_per_second} slow names a second");
    }
}

#[tokio::test]
async fn slow_names_over_tcp_hold_up_no_others_at_a_node_or_a_server_of_protocol_tcp() {
    let results = join_all([V4, V6].map(async |ip| {
        let servers = [in_order_server(ip).await, in_order_server(ip).await];
        let node = Tier::node_on(ip, &[servers[0].address]);
        let resolver = Tier::resolver_on(ip, &[servers[1].address], Protocol::Tcp);
        tokio::join!(beside_slow_names(&node, 4, &servers[..1]), beside_slow_names(&resolver, 4, &servers[1..]))
    }));
    assert_eq!(results.await, [(NAMES, NAMES); 2], "at a node and a resolver, over IPv4 and IPv6");
}

/// Starts a server that truncates all responses over UDP and answers the queries of a connection in any order. Returns
/// its address and the number of its connections.
async fn any_order_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, source) = udp.recv_from(&mut buffer).await.unwrap();
            let message = Message::from_vec(&buffer[..length]).unwrap();
            let query = ReceivedQuery { message, source, tcp: false };
            udp.send_to(&truncated(&query).to_vec().unwrap(), source).await.unwrap();
        }
    });
    let accepted = Arc::<AtomicUsize>::default();
    let count = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (stream, source) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let (mut reader, writer) = stream.into_split();
                let writer = Arc::new(tokio::sync::Mutex::new(writer));
                while let Ok(length) = reader.read_u16().await {
                    let mut message = vec![0; usize::from(length)];
                    reader.read_exact(&mut message).await.unwrap();
                    let query = ReceivedQuery { message: Message::from_vec(&message).unwrap(), source, tcp: true };
                    let writer = writer.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(delay(&query)).await;
                        let response = query.default_response(300, 1).to_vec().unwrap();
                        let length = u16::try_from(response.len()).unwrap().to_be_bytes();
                        let _ = writer.lock().await.write_all(&[&length[..], &response].concat()).await;
                    });
                }
            });
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_server_that_answers_in_any_order_is_queried_over_one_connection_whatever_is_slow() {
    let (address, accepted) = any_order_server().await;
    let tier = Tier::resolver_on(V4, &[address], Protocol::Udp);
    let late = query_for("late.example", RecordType::A);
    let quick = query_for("quick.example", RecordType::A);
    // The quick one is sent after the late one and answered before it.
    tokio::join!(exchange(tier.address, &late), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        exchange(tier.address, &quick).await
    });
    let slow = query_slow_names(&tier, 4);
    assert_eq!(answered_in_time(&tier).await, NAMES);
    slow.abort();
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
}
