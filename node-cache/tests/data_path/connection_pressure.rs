//! Clients that take all connections they can get: other clients, and the kubelet, are served all the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use node_cache::server::TcpLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::processes::{NODE_ADDRESS, ZoneResolver};
use crate::support::{Action, Authority, Tier, config, exchange, query_for, wait_until};

/// Addresses that take all they can get, as eight pods do.
const GREEDY_CLIENTS: usize = 8;
/// Places of the status server for clients outside the node.
const STATUS_CONNECTIONS: usize = 32;
/// Queries or probes of others, one after the other.
const OTHERS: usize = 12;

async fn connect_from(source: SocketAddr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(source)?;
    socket.connect(server).await
}

fn greedy_client(number: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 9, 1 + (number % GREEDY_CLIENTS) as u8], 0))
}

fn framed(name: &str) -> Vec<u8> {
    let packet = query_for(name, RecordType::A).to_vec().unwrap();
    [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat()
}

/// Sends a query and returns the number of answers; `None` when the connection ends before a response.
async fn ask(stream: &mut TcpStream, query: &[u8]) -> Option<usize> {
    let exchange = async {
        stream.write_all(query).await.ok()?;
        let length = stream.read_u16().await.ok()?;
        let mut response = vec![0; usize::from(length)];
        stream.read_exact(&mut response).await.ok()?;
        Some(Message::from_vec(&response).unwrap().answers.len())
    };
    timeout(Duration::from_secs(5), exchange).await.ok().flatten()
}

/// Starts a tier with room for 64 connections, 16 of one client, and `www.example` in its cache. Names that begin with
/// `slow` take the upstream three seconds.
async fn small_tier() -> (Authority, Tier) {
    let authority = Authority::start(|query| {
        let delay = if query.name().to_ascii().to_lowercase().starts_with("slow") { 3 } else { 0 };
        Action::RespondAfter(Duration::from_secs(delay), query.default_response(300, 1))
    })
    .await;
    let tier = Tier::start(TcpLimits { max_connections: 64, max_connections_per_client: 16, ..TcpLimits::default() });
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = node_cache_config::Upstream { address: authority.address, protocol: Default::default() };
    config.resolver.upstreams = node_cache_config::UpstreamSource::Servers(vec![upstream]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    tier.apply_forwarding(&config);
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    (authority, tier)
}

/// Has one client hold a connection all the time on which it sends this query each second, and reads nothing but
/// responses. A connection that was closed is replaced.
async fn hold_a_connection(client: SocketAddr, server: SocketAddr, query: Vec<u8>) {
    loop {
        if let Ok(mut stream) = connect_from(client, server).await {
            while ask(&mut stream, &query).await.is_some() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns how many of [`OTHERS`] queries over new connections of other clients are answered.
async fn answered_of_others(tier: &Tier) -> usize {
    let mut answered = 0;
    for number in 0..OTHERS {
        let client = SocketAddr::from(([127, 0, 10, 1 + number as u8], 0));
        if let Ok(mut stream) = connect_from(client, tier.address).await {
            answered += usize::from(ask(&mut stream, &framed("www.example")).await == Some(1));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answered
}

async fn others_are_answered_while_all_connections_send(query_of: impl Fn(usize) -> Vec<u8>) {
    let (_authority, tier) = small_tier().await;
    let mut greedy = JoinSet::new();
    for number in 0..GREEDY_CLIENTS * 16 {
        greedy.spawn(hold_a_connection(greedy_client(number), tier.address, query_of(number)));
    }
    let is_full = async || tier.resolver.metrics().traffic(0, 0).dropped > 0;
    wait_until("no more connections are admitted without another being closed", Duration::from_secs(10), is_full).await;
    assert_eq!(answered_of_others(&tier).await, OTHERS);
}

#[tokio::test]
async fn eight_clients_that_hold_all_connections_idle_keep_no_other_client_from_tcp() {
    others_are_answered_while_all_connections_send(|_| framed("www.example")).await;
}

#[tokio::test]
async fn eight_clients_with_a_slow_query_on_each_connection_keep_no_other_client_from_tcp() {
    others_are_answered_while_all_connections_send(|number| framed(&format!("slow{number}.example"))).await;
}

#[tokio::test]
async fn a_connection_with_a_query_in_flight_outlives_the_idle_ones_of_its_client() {
    let (_authority, tier) = small_tier().await;
    let mut waiting = connect_from(greedy_client(0), tier.address).await.unwrap();
    let answer = tokio::spawn(async move { ask(&mut waiting, &framed("slow.example")).await });
    let mut idle = Vec::new();
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(2) {
        idle.push(connect_from(greedy_client(number), tier.address).await);
        number += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(tier.resolver.metrics().traffic(0, 0).dropped > 50, "the idle ones were closed for each other");
    assert!(answer.await.unwrap().is_some(), "a response, if only SERVFAIL");
}

/// Requests a page of the status server from this address; `None` without a good response within a second.
async fn get(source: SocketAddr, server: SocketAddr, path: &str) -> Option<String> {
    let request = async {
        let mut stream = connect_from(source, server).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        response.contains(" 200 ").then_some(response)
    };
    timeout(Duration::from_secs(1), request).await.ok().flatten()
}

/// Holds a connection to the status server on which nothing is sent, and replaces it when the server closes it. Counts
/// the connections.
async fn hold_in_silence(client: SocketAddr, server: SocketAddr, connections: Arc<AtomicUsize>) {
    loop {
        if let Ok(mut stream) = connect_from(client, server).await {
            connections.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read_u8().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn eight_clients_that_hold_all_status_connections_keep_neither_the_kubelet_nor_others_from_theirs() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let server = node_cache_config::Upstream { address: upstream.address, protocol: Default::default() };
    config.resolver.upstreams = node_cache_config::UpstreamSource::Servers(vec![server]);
    let resolver = ZoneResolver::configured(&config, &[]).await;
    wait_until("it is ready", Duration::from_secs(10), async || resolver.probe("ready")).await;
    let connections = Arc::<AtomicUsize>::default();
    let mut greedy = JoinSet::new();
    for number in 0..GREEDY_CLIENTS * 40 {
        greedy.spawn(hold_in_silence(greedy_client(number), resolver.http, connections.clone()));
    }
    let all_taken = async || connections.load(Ordering::Relaxed) > 2 * STATUS_CONNECTIONS;
    wait_until("all places are taken, and more callers wait", Duration::from_secs(10), all_taken).await;
    let kubelet = SocketAddr::new(NODE_ADDRESS.parse().unwrap(), 0);
    let other = SocketAddr::from(([127, 0, 10, 1], 0));
    let mut answered = [0; 3];
    for _ in 0..OTHERS {
        answered[0] += usize::from(get(kubelet, resolver.http, "/live").await.is_some());
        answered[1] += usize::from(get(kubelet, resolver.http, "/ready").await.is_some());
        answered[2] += usize::from(get(other, resolver.http, "/status").await.is_some());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(answered, [OTHERS; 3], "/live and /ready of the kubelet, /status of another client");
}
