//! Questions at a steady rate, one try each, so that every loss shows; and single questions.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::dns;
use crate::network::Namespace;

/// Questions a second.
const RATE: u32 = 1000;
/// An answer that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sockets in use; each is replaced after a while, so that old and new flows meet every change.
const SOCKETS: usize = 8;

/// What became of a flood.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: usize,
    pub(crate) lost: usize,
    pub(crate) from_cache: usize,
    pub(crate) from_cluster_dns: usize,
    /// For each flow that lost something: the server, how many questions, and when the first and the last of them were
    /// sent, in milliseconds from the start.
    pub(crate) losses: BTreeMap<String, (usize, u128, u128)>,
}

/// A question that was not answered yet.
struct Open {
    sent: Instant,
    flow: String,
}

/// A flood that goes on until it is asked for its report.
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
    let mut open: HashMap<u16, Open> = HashMap::new();
    let mut sockets: Vec<UdpSocket> = (0..SOCKETS).map(|number| connected(servers[number % servers.len()])).collect();
    let mut retired: Vec<(Instant, UdpSocket)> = Vec::new();
    let start = Instant::now();
    let mut last = None;
    while last.is_none_or(|last: Instant| last.elapsed() < PATIENCE) {
        if stopped.load(Ordering::Relaxed) {
            last = last.or_else(|| Some(Instant::now()));
        }
        let due =
            if last.is_some() { report.sent } else { start.elapsed().as_millis() as usize * RATE as usize / 1000 };
        while report.sent < due {
            let number = report.sent % SOCKETS;
            if report.sent % 160 < SOCKETS && (report.sent / 160) % SOCKETS == number {
                let fresh = connected(servers[number % servers.len()]);
                retired.push((Instant::now(), std::mem::replace(&mut sockets[number], fresh)));
            }
            let id = report.sent as u16;
            let flow = format!("{} {:?}", servers[number % servers.len()].ip(), sockets[number].local_addr());
            let question = Open { sent: Instant::now(), flow };
            match sockets[number].send(&dns::question(id, "name.example")) {
                Ok(_) => lose(&mut report, open.insert(id, question), start),
                Err(_) => lose(&mut report, Some(question), start),
            }
            report.sent += 1;
        }
        for socket in sockets.iter().chain(retired.iter().map(|(_, socket)| socket)) {
            receive(socket, &mut open, &mut report, start);
        }
        retired.retain(|(at, _)| at.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    for question in open.into_values() {
        lose(&mut report, Some(question), start);
    }
    report
}

fn lose(report: &mut Report, question: Option<Open>, start: Instant) {
    let Some(Open { sent, flow }) = question else { return };
    let at = (sent - start).as_millis();
    let (count, first, last) = report.losses.entry(flow).or_insert((0, at, at));
    (*count, *first, *last) = (*count + 1, at.min(*first), at.max(*last));
    report.lost += 1;
}

fn receive(socket: &UdpSocket, open: &mut HashMap<u16, Open>, report: &mut Report, start: Instant) {
    let mut bytes = [0; 512];
    while let Ok(length) = socket.recv(&mut bytes) {
        if length < 12 {
            continue;
        }
        let Some(question) = open.remove(&dns::id_of(&bytes)) else { continue };
        if question.sent.elapsed() > PATIENCE {
            lose(report, Some(question), start);
            continue;
        }
        match dns::rcode_of(&bytes) {
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

/// Asks once over UDP and gives the response code; none if nothing comes within a second.
pub(crate) fn ask(from: &Namespace, server: &str) -> Option<u8> {
    let server = SocketAddr::new(server.parse().unwrap(), 53);
    from.inside(move || {
        let socket = connected(server);
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send(&dns::question(7, "name.example")).ok()?;
        let mut bytes = [0; 512];
        socket.recv(&mut bytes).ok().map(|_| dns::rcode_of(&bytes))
    })
}

/// The same over TCP.
pub(crate) fn ask_tcp(from: &Namespace, server: &str) -> Option<u8> {
    let server = SocketAddr::new(server.parse().unwrap(), 53);
    from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let question = dns::question(7, "name.example");
        stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat()).ok()?;
        let mut bytes = [0; 14];
        stream.read_exact(&mut bytes).ok()?;
        Some(dns::rcode_of(&bytes[2..]))
    })
}

/// Fetches a path over HTTP and gives status line and body.
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
