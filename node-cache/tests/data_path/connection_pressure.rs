//! Clients that take all connections they can get: other clients, and the kubelet, are served all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use nix::sched::{CloneFlags, unshare};
use node_cache::server::TcpLimits;
use node_cache_config::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::processes::{NODE_ADDRESS, ZoneResolver};
use crate::require::{network_namespaces, require};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, allow_loopback, config, exchange, query_for, servers_over, wait_until,
};

/// Addresses that take all they can get, as eight pods do.
const GREEDY_CLIENTS: usize = 8;
/// Places of the status server for clients outside the node.
const STATUS_CONNECTIONS: usize = 32;
/// Queries or probes of others, one after the other.
const OTHERS: usize = 12;

/// Networks of the clients: the greedy ones, the others, the node, and the servers.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn greedy_client(self, number: usize) -> SocketAddr {
        self.client(9, number % GREEDY_CLIENTS)
    }

    fn other_client(self, number: usize) -> SocketAddr {
        self.client(10, number)
    }

    fn client(self, network: u8, number: usize) -> SocketAddr {
        let host = u8::try_from(number + 1).unwrap();
        let ip: IpAddr = match self {
            Self::V4 => [127, 0, network, host].into(),
            Self::V6 => format!("2001:db8::{network}:{host}").parse().unwrap(),
        };
        SocketAddr::new(ip, 0)
    }

    /// Returns the address of the servers, and of the node.
    fn server(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn node(self) -> IpAddr {
        match self {
            Self::V4 => NODE_ADDRESS.parse().unwrap(),
            Self::V6 => self.client(8, 0).ip(),
        }
    }

    /// Runs a test where the loopback interface has all addresses: for IPv6 in a network namespace of its own.
    fn run<F: Future<Output = ()>>(self, test: impl FnOnce() -> F + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if matches!(self, Self::V6) {
                self.enter_own_network();
            }
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Moves the calling thread into a network namespace of its own, which ends with the threads in it.
    fn enter_own_network(self) {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let ip = |arguments: &str| {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        ip("link set lo up");
        let clients = (0..GREEDY_CLIENTS).map(|number| self.greedy_client(number).ip());
        let others = (0..OTHERS).map(|number| self.other_client(number).ip());
        for address in clients.chain(others).chain([self.node()]) {
            ip(&format!("address add {address}/128 dev lo nodad"));
        }
    }
}

async fn connect_from(source: SocketAddr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(source)?;
    socket.connect(server).await
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
async fn small_tier(family: Family) -> (Authority, Tier) {
    let authority = Authority::start_on(family.server(), |query| {
        let delay = if query.name().to_ascii().to_lowercase().starts_with("slow") { 3 } else { 0 };
        Action::RespondAfter(Duration::from_secs(delay), query.default_response(300, 1))
    })
    .await;
    let limits = TcpLimits { max_connections: 64, max_connections_per_client: 16, ..TcpLimits::default() };
    let tier = Tier::start_on(family.server(), limits);
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = servers_over(&[authority.address], Protocol::Udp);
    allow_loopback(&mut config);
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
async fn answered_of_others(tier: &Tier, family: Family) -> usize {
    let mut answered = 0;
    for number in 0..OTHERS {
        let client = family.other_client(number);
        if let Ok(mut stream) = connect_from(client, tier.address).await {
            answered += usize::from(ask(&mut stream, &framed("www.example")).await == Some(1));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answered
}

async fn others_are_answered_while_all_connections_send(family: Family, query_of: impl Fn(usize) -> Vec<u8>) {
    let (_authority, tier) = small_tier(family).await;
    let mut greedy = JoinSet::new();
    for number in 0..GREEDY_CLIENTS * 16 {
        greedy.spawn(hold_a_connection(family.greedy_client(number), tier.address, query_of(number)));
    }
    let is_full = async || tier.resolver.metrics().traffic(0, 0).dropped > 0;
    wait_until("no more connections are admitted without another being closed", Duration::from_secs(10), is_full).await;
    assert_eq!(answered_of_others(&tier, family).await, OTHERS);
}

fn idle_clients_keep_no_other_client_from_tcp(family: Family) {
    family.run(move || others_are_answered_while_all_connections_send(family, |_| framed("www.example")));
}

fn clients_with_slow_queries_keep_no_other_client_from_tcp(family: Family) {
    let query_of = |number| framed(&format!("slow{number}.example"));
    family.run(move || others_are_answered_while_all_connections_send(family, query_of));
}

#[test]
fn eight_clients_that_hold_all_connections_idle_keep_no_other_client_from_tcp() {
    idle_clients_keep_no_other_client_from_tcp(Family::V4);
}

#[test]
fn eight_clients_that_hold_all_connections_idle_over_ipv6_keep_no_other_client_from_tcp() {
    require!(network_namespaces());
    idle_clients_keep_no_other_client_from_tcp(Family::V6);
}

#[test]
fn eight_clients_with_a_slow_query_on_each_connection_keep_no_other_client_from_tcp() {
    clients_with_slow_queries_keep_no_other_client_from_tcp(Family::V4);
}

#[test]
fn eight_clients_with_a_slow_query_on_each_ipv6_connection_keep_no_other_client_from_tcp() {
    require!(network_namespaces());
    clients_with_slow_queries_keep_no_other_client_from_tcp(Family::V6);
}

#[tokio::test]
async fn a_connection_with_a_query_in_flight_outlives_the_idle_ones_of_its_client() {
    let (_authority, tier) = small_tier(Family::V4).await;
    let mut waiting = connect_from(Family::V4.greedy_client(0), tier.address).await.unwrap();
    let answer = tokio::spawn(async move { ask(&mut waiting, &framed("slow.example")).await });
    let mut idle = Vec::new();
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(2) {
        idle.push(connect_from(Family::V4.greedy_client(number), tier.address).await);
        number += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(tier.resolver.metrics().traffic(0, 0).dropped > 50, "the idle ones were closed for each other");
    assert!(answer.await.unwrap().is_some(), "a response, if only SERVFAIL");
}

/// Requests a page of the status server from this address; `None` without a response, as where the connection is closed
/// or not admitted. A response that says that the process is not live is one: on a busy machine a worker may need
/// longer for its proof than a probe waits, which says nothing of the connections.
async fn get(source: SocketAddr, server: SocketAddr, path: &str) -> Option<String> {
    let request = async {
        let mut stream = connect_from(source, server).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        response.starts_with("HTTP/1.").then_some(response)
    };
    timeout(Duration::from_secs(30), request).await.ok().flatten()
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

async fn kubelet_and_others_are_answered_while_all_status_connections_are_taken(family: Family) {
    let script = |query: &ReceivedQuery| Action::Respond(query.default_response(300, 1));
    let upstream = Authority::start_on(family.server(), script).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = servers_over(&[upstream.address], Protocol::Udp);
    let resolver = match family {
        Family::V4 => ZoneResolver::configured(&config, &[]).await,
        Family::V6 => ZoneResolver::configured_on(family.server(), family.node(), &config, &[]).await,
    };
    wait_until("it is ready", Duration::from_secs(10), async || resolver.probe("ready")).await;
    let connections = Arc::<AtomicUsize>::default();
    let mut greedy = JoinSet::new();
    for number in 0..GREEDY_CLIENTS * 40 {
        greedy.spawn(hold_in_silence(family.greedy_client(number), resolver.http, connections.clone()));
    }
    let all_taken = async || connections.load(Ordering::Relaxed) > 2 * STATUS_CONNECTIONS;
    wait_until("all places are taken, and more callers wait", Duration::from_secs(10), all_taken).await;
    let kubelet = SocketAddr::new(family.node(), 0);
    let other = family.other_client(0);
    let mut answered = [0; 3];
    for _ in 0..OTHERS {
        answered[0] += usize::from(get(kubelet, resolver.http, "/live").await.is_some());
        answered[1] += usize::from(get(kubelet, resolver.http, "/ready").await.is_some());
        answered[2] += usize::from(get(other, resolver.http, "/status").await.is_some());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(answered, [OTHERS; 3], "/live and /ready of the kubelet, /status of another client");
}

#[test]
fn eight_clients_that_hold_all_status_connections_keep_neither_the_kubelet_nor_others_from_theirs() {
    Family::V4.run(move || kubelet_and_others_are_answered_while_all_status_connections_are_taken(Family::V4));
}

#[test]
fn eight_clients_that_hold_all_status_connections_over_ipv6_keep_neither_the_kubelet_nor_others_from_theirs() {
    require!(network_namespaces());
    Family::V6.run(move || kubelet_and_others_are_answered_while_all_status_connections_are_taken(Family::V6));
}
