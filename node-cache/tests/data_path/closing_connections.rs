//! Servers that close TCP connections with queries in flight (RFC 7766 §6.2.4): the queries go on other connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use crate::inspection::inspect;
use crate::support::{ReceivedQuery, Tier, empty_response, exchange, query_for};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Names that are queried at once.
const NAMES: usize = 60;
/// Most connections to a server at a time.
const MAX_CONNECTIONS: usize = 8;

/// How a server ends each connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// FIN after this many responses, or RST where queries are unread.
    Close(usize),
    /// RST after this many responses.
    Reset(usize),
    /// End in the middle of the response after this many.
    Break(usize),
}

/// Server that truncates all responses over UDP, and ends its connections.
struct ClosingServer {
    address: SocketAddr,
    counts: Arc<Counts>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl ClosingServer {
    /// Starts a server that takes `delay` for each response over TCP.
    async fn start(end: End, delay: Duration) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let counts = Arc::<Counts>::default();
        let tasks = vec![tokio::spawn(truncate_all(udp)), tokio::spawn(accept_all(tcp, end, delay, counts.clone()))];
        Self { address, counts, tasks }
    }

    fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    fn most_open(&self) -> usize {
        self.counts.most_open.load(Ordering::Relaxed)
    }
}

impl Drop for ClosingServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn truncate_all(udp: UdpSocket) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((length, source)) = udp.recv_from(&mut buffer).await else { continue };
        let query = ReceivedQuery { message: Message::from_vec(&buffer[..length]).unwrap(), source, tcp: false };
        let mut message = empty_response(&query, ResponseCode::NoError);
        message.metadata.truncation = true;
        udp.send_to(&message.to_vec().unwrap(), source).await.unwrap();
    }
}

async fn accept_all(tcp: TcpListener, end: End, delay: Duration, counts: Arc<Counts>) {
    loop {
        let Ok((stream, source)) = tcp.accept().await else { continue };
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let open = counts.open.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_open.fetch_max(open, Ordering::Relaxed);
        let counts = counts.clone();
        tokio::spawn(async move {
            let _ = serve(stream, source, end, delay).await;
            counts.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(mut stream: TcpStream, source: SocketAddr, end: End, delay: Duration) -> std::io::Result<()> {
    // Otherwise a response may wait for an acknowledgement, and is lost when the connection is reset.
    stream.set_nodelay(true)?;
    let (End::Close(responses) | End::Reset(responses) | End::Break(responses)) = end;
    for number in 0.. {
        if number == responses && !matches!(end, End::Break(_)) {
            break;
        }
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        let query = ReceivedQuery { message: Message::from_vec(&message).unwrap(), source, tcp: true };
        tokio::time::sleep(delay).await;
        let response = query.default_response(300, 1).to_vec().unwrap();
        let mut framed = [&u16::try_from(response.len()).unwrap().to_be_bytes()[..], &response].concat();
        if number == responses {
            framed.truncate(20);
        }
        stream.write_all(&framed).await?;
        if number == responses {
            break;
        }
    }
    if let End::Reset(_) = end {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Queries names at once and returns how many are answered.
async fn answered(tier: &Tier, prefix: &str) -> usize {
    let queries: Vec<_> = (0..NAMES).map(|n| query_for(&format!("{prefix}{n}.example"), RecordType::A)).collect();
    let responses = join_all(queries.iter().map(|query| exchange(tier.address, query))).await;
    responses.iter().filter(|response| response.answers.len() == 1).count()
}

/// Ends of connections that give some responses, and how many.
const ENDS: [(End, usize); 5] =
    [(End::Close(1), 1), (End::Close(5), 5), (End::Reset(1), 1), (End::Reset(5), 5), (End::Break(2), 2)];

/// Asserts that all names are answered, again when the capacity is known, over a bounded number of connections.
async fn assert_all_answered(tier: &Tier, server: &ClosingServer, end: End, responses: usize) {
    for round in ["first", "second"] {
        let before = server.connections();
        assert_eq!(answered(tier, round).await, NAMES, "{end:?}, {round} round");
        let connections = server.connections() - before;
        // Those that are opened before the capacity is known, and one for each group of responses. On a busy machine
        // names wait so long that they are sent three times.
        let most = 3 * NAMES.div_ceil(responses) + 2 * MAX_CONNECTIONS;
        assert!(connections <= most, "{end:?}, {round} round: {connections} connections");
    }
    assert!(server.most_open() <= 2 * MAX_CONNECTIONS, "{end:?}: {} connections at a time", server.most_open());
}

#[tokio::test]
async fn sixty_truncated_names_at_once_are_answered_by_a_server_that_ends_its_connections() {
    for (end, responses) in ENDS {
        let server = ClosingServer::start(end, Duration::ZERO).await;
        let tier = Tier::resolver_on(LOOPBACK, &[server.address], Protocol::Udp);
        assert_all_answered(&tier, &server, end, responses).await;
    }
}

#[tokio::test]
async fn sixty_names_at_once_are_answered_by_a_server_of_protocol_tcp_that_ends_its_connections() {
    for (end, responses) in ENDS {
        let server = ClosingServer::start(end, Duration::ZERO).await;
        let tier = Tier::resolver_on(LOOPBACK, &[server.address], Protocol::Tcp);
        assert_all_answered(&tier, &server, end, responses).await;
    }
}

#[tokio::test]
async fn sixty_truncated_names_at_once_are_answered_on_a_node_whose_server_ends_its_connections() {
    for (end, responses) in ENDS {
        let server = ClosingServer::start(end, Duration::ZERO).await;
        let tier = Tier::node_on(LOOPBACK, &[server.address]);
        assert_all_answered(&tier, &server, end, responses).await;
    }
}

#[tokio::test]
async fn names_are_answered_over_connections_that_give_one_response_although_each_takes_a_while() {
    let server = ClosingServer::start(End::Close(1), Duration::from_millis(20)).await;
    let tier = Tier::resolver_on(LOOPBACK, &[server.address], Protocol::Udp);
    assert_eq!(answered(&tier, "n").await, NAMES);
}

#[tokio::test]
async fn the_number_of_responses_that_a_connection_gives_is_learned_and_told() {
    let server = ClosingServer::start(End::Close(5), Duration::ZERO).await;
    let tier = Tier::resolver_on(LOOPBACK, &[server.address], Protocol::Udp);
    assert!(!inspect(&tier, "explain www.example").await.contains("closes"));
    assert_eq!(answered(&tier, "n").await, NAMES);
    for command in ["explain www.example", "stats"] {
        let text = inspect(&tier, command).await;
        let learned = text.split("closes a TCP connection after ").nth(1).unwrap_or_else(|| panic!("{text}"));
        let responses: usize = learned.split(' ').next().unwrap().parse().unwrap();
        // A response that a reset overtakes does not count.
        assert!((1..=5).contains(&responses), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_closes_every_connection_without_a_response_is_tried_a_few_times_and_another_one_is_asked() {
    for end in [End::Close(0), End::Reset(0), End::Break(0)] {
        let closing = ClosingServer::start(end, Duration::ZERO).await;
        let tier = Tier::resolver_on(LOOPBACK, &[closing.address], Protocol::Udp);
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers.len(), 0);
        assert!((3..=9).contains(&closing.connections()), "{end:?}: {} connections", closing.connections());
        let good = ClosingServer::start(End::Close(1), Duration::ZERO).await;
        let tier = Tier::resolver_on(LOOPBACK, &[closing.address, good.address], Protocol::Udp);
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers.len(), 1, "{end:?}");
    }
}
