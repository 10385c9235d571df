//! Queries at a steady rate, one try each, so that every loss is counted; and single queries.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::dns;
use crate::network::Namespace;

/// Rate of a flood.
const QUERIES_PER_SECOND: u32 = 1000;
/// Time after which a query counts as lost.
const LOSS_TIMEOUT: Duration = Duration::from_secs(2);
/// Sockets in use; each is replaced after a while, so that old and new flows meet every change.
const SOCKET_COUNT: usize = 8;

/// Result of a flood.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: usize,
    pub(crate) lost: usize,
    pub(crate) from_cache: usize,
    pub(crate) from_cluster_dns: usize,
    /// Losses by flow: the server and the client's address.
    pub(crate) losses: BTreeMap<String, Losses>,
}

/// Lost queries of one flow.
#[derive(Debug)]
pub(crate) struct Losses {
    pub(crate) count: usize,
    /// When the first of them was sent, in milliseconds from the start.
    pub(crate) first_ms: u128,
    /// When the last of them was sent, in milliseconds from the start.
    pub(crate) last_ms: u128,
}

/// Query without a response so far.
struct PendingQuery {
    sent: Instant,
    flow: String,
}

/// Flood that runs until its report is taken.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

impl Flood {
    pub(crate) fn start(from: &Namespace, servers: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let servers: Vec<SocketAddr> =
            servers.iter().map(|server| (server.parse::<IpAddr>().unwrap(), 53).into()).collect();
        let stopped = Arc::clone(&stop);
        // A thread keeps the namespace in which it was started.
        let thread = from.inside(move || std::thread::spawn(move || flood(&servers, &stopped)));
        Self { stop, thread }
    }

    pub(crate) fn report(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn flood(servers: &[SocketAddr], stopped: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut pending: HashMap<u16, PendingQuery> = HashMap::new();
    let mut sockets: Vec<UdpSocket> =
        (0..SOCKET_COUNT).map(|number| connected(servers[number % servers.len()])).collect();
    let mut retired: Vec<(Instant, UdpSocket)> = Vec::new();
    let start = Instant::now();
    let mut last = None;
    while last.is_none_or(|last: Instant| last.elapsed() < LOSS_TIMEOUT) {
        if stopped.load(Ordering::Relaxed) {
            last = last.or_else(|| Some(Instant::now()));
        }
        let due = if last.is_some() {
            report.sent
        } else {
            start.elapsed().as_millis() as usize * QUERIES_PER_SECOND as usize / 1000
        };
        while report.sent < due {
            let number = report.sent % SOCKET_COUNT;
            if report.sent % 160 < SOCKET_COUNT && (report.sent / 160) % SOCKET_COUNT == number {
                let fresh = connected(servers[number % servers.len()]);
                retired.push((Instant::now(), std::mem::replace(&mut sockets[number], fresh)));
            }
            let id = report.sent as u16;
            let flow = format!("{} {:?}", servers[number % servers.len()].ip(), sockets[number].local_addr());
            let query = PendingQuery { sent: Instant::now(), flow };
            match sockets[number].send(&dns::query(id, "name.example")) {
                Ok(_) => count_lost(&mut report, pending.insert(id, query), start),
                Err(_) => count_lost(&mut report, Some(query), start),
            }
            report.sent += 1;
        }
        for socket in sockets.iter().chain(retired.iter().map(|(_, socket)| socket)) {
            receive(socket, &mut pending, &mut report, start);
        }
        retired.retain(|(at, _)| at.elapsed() < LOSS_TIMEOUT);
        std::thread::sleep(Duration::from_millis(1));
    }
    for query in pending.into_values() {
        count_lost(&mut report, Some(query), start);
    }
    report
}

fn count_lost(report: &mut Report, query: Option<PendingQuery>, start: Instant) {
    let Some(PendingQuery { sent, flow }) = query else { return };
    let at = (sent - start).as_millis();
    let losses = report.losses.entry(flow).or_insert(Losses { count: 0, first_ms: at, last_ms: at });
    losses.count += 1;
    losses.first_ms = losses.first_ms.min(at);
    losses.last_ms = losses.last_ms.max(at);
    report.lost += 1;
}

fn receive(socket: &UdpSocket, pending: &mut HashMap<u16, PendingQuery>, report: &mut Report, start: Instant) {
    let mut bytes = [0; 512];
    while let Ok(length) = socket.recv(&mut bytes) {
        if length < 12 {
            continue;
        }
        let Some(query) = pending.remove(&dns::id(&bytes)) else { continue };
        if query.sent.elapsed() > LOSS_TIMEOUT {
            count_lost(report, Some(query), start);
            continue;
        }
        match dns::rcode(&bytes) {
            dns::FROM_CACHE => report.from_cache += 1,
            _ => report.from_cluster_dns += 1,
        }
    }
}

fn connected(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(server).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends one query over UDP and returns the response code; `None` without a response within a second.
pub(crate) fn query_rcode(from: &Namespace, server: &str) -> Option<u8> {
    let server = SocketAddr::new(server.parse().unwrap(), 53);
    from.inside(move || {
        let socket = connected(server);
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send(&dns::query(7, "name.example")).ok()?;
        let mut bytes = [0; 512];
        socket.recv(&mut bytes).ok().map(|_| dns::rcode(&bytes))
    })
}

/// Sends one query over TCP and returns the response code; `None` without a response within a second.
pub(crate) fn query_rcode_over_tcp(from: &Namespace, server: &str) -> Option<u8> {
    let server = SocketAddr::new(server.parse().unwrap(), 53);
    from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let query = dns::query(7, "name.example");
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).ok()?;
        let mut bytes = [0; 14];
        stream.read_exact(&mut bytes).ok()?;
        Some(dns::rcode(&bytes[2..]))
    })
}

/// Fetches a path over HTTP and returns status line and body.
pub(crate) fn get(from: &Namespace, server: SocketAddr, path: &str) -> Option<(String, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    })
}
