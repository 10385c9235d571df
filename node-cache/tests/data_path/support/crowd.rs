//! Clients that ask for names that no server answers, and a client that asks for new names beside them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Action, ReceivedQuery, exchange_from, query_for};

/// Dead names in a second, of all clients of a crowd.
pub(crate) const RATE: u32 = 1_500;
/// Time between two new names of others.
const INTERVAL: Duration = Duration::from_millis(25);
/// Time for which a client waits for a response, and its tries: a datagram may be lost on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(1500);
const MAX_TRIES: usize = 3;
/// Connections of each client over TCP.
const CONNECTIONS: u32 = 8;

/// Dead name of a client, by number.
pub(crate) type DeadName = fn(u32, u32) -> String;

/// Name number `number` of the client `client`, below one domain.
pub(crate) fn in_one_domain(client: u32, number: u32) -> String {
    format!("n{number}-{client}.dead.example")
}

/// Name number `number` of the client `client`, in a domain of its own.
pub(crate) fn in_many_domains(client: u32, number: u32) -> String {
    format!("dead{number}-{client}.example")
}

/// Ignores names of crowds and answers all others.
pub(crate) fn answer_others(query: &ReceivedQuery) -> Action {
    match query.name().to_ascii().to_ascii_lowercase().contains("dead") {
        true => Action::Ignore,
        false => Action::Respond(query.default_response(300, 1)),
    }
}

/// Address of client number `client` of a crowd over IPv4.
pub(crate) fn ipv4(client: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + client).into()
}

/// Clients that ask for dead names, [`RATE`] a second together, until they are dropped.
pub(crate) struct Crowd(Vec<JoinHandle<()>>);

impl Crowd {
    /// Starts as many clients over UDP, with these addresses. They have numbers from 1 on.
    pub(crate) fn start(server: SocketAddr, clients: u32, address: fn(u32) -> IpAddr, name: DeadName) -> Self {
        let ask = |client| {
            let socket = std::net::UdpSocket::bind((address(client), 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            tokio::spawn(async move {
                let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
                let mut ticks = ticks(clients);
                for number in 0.. {
                    ticks.tick().await;
                    // Responses are not read.
                    let _ = socket.try_send_to(&query(&name(client, number)), server);
                }
            })
        };
        Self((1..=clients).map(ask).collect())
    }

    /// Starts as many clients over TCP, each with [`CONNECTIONS`]. A connection that was closed is replaced.
    pub(crate) fn start_over_tcp(server: SocketAddr, clients: u32, name: DeadName) -> Self {
        let ask = |connection: u32| async move {
            let client = 1 + connection / CONNECTIONS;
            let mut ticks = ticks(clients * CONNECTIONS);
            for number in 0.. {
                ticks.tick().await;
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((ipv4(client), 0).into()).unwrap();
                let Ok(stream) = socket.connect(server).await else { continue };
                let (mut reader, mut writer) = stream.into_split();
                let write = async {
                    for query_number in 0.. {
                        ticks.tick().await;
                        let query = query(&name(client, (connection * 1_000 + number) * 10_000 + query_number));
                        let framed = [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat();
                        if writer.write_all(&framed).await.is_err() {
                            return;
                        }
                    }
                };
                let read = async { while reader.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
                tokio::select! {
                    () = write => {}
                    () = read => {}
                }
            }
        };
        Self((0..clients * CONNECTIONS).map(|connection| tokio::spawn(ask(connection))).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Returns the times at which each of `askers` asks.
fn ticks(askers: u32) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs(1) * askers / RATE);
    // A machine that stands still for a moment sends no burst after it, which would fill the socket's buffer.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn query(name: &str) -> Vec<u8> {
    query_for(name, RecordType::A).to_vec().unwrap()
}

/// Asks for new names, one each 25 ms, each as the client of this address. Returns the time to each answer.
pub(crate) async fn ask_for_names(
    server: SocketAddr,
    names: usize,
    client: impl Fn(usize) -> IpAddr,
    name: impl Fn(usize) -> String,
) -> Vec<Duration> {
    let ask = async |number: usize| {
        sleep(INTERVAL * u32::try_from(number).unwrap()).await;
        let query = query_for(&name(number), RecordType::A);
        let source = SocketAddr::new(client(number), 0).to_string();
        let started = Instant::now();
        for _ in 0..MAX_TRIES {
            if let Some(response) = exchange_from(&source, server, &query, TIMEOUT).await {
                return (!response.answers.is_empty()).then(|| started.elapsed());
            }
        }
        None
    };
    join_all((0..names).map(ask)).await.into_iter().flatten().collect()
}
