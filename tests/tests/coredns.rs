//! Zone resolver with a real CoreDNS as its upstream, on the loopback interface.
//!
//! CoreDNS answers the queries of a TCP connection one after the other, so that a slow name holds up those behind it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dnstier_tests::dns::{Client, Query, Transport};
use dnstier_tests::require;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use node_cache_config::{Config, Protocol, Upstream, UpstreamSource};

/// Number of names of others, one each quarter of a second, and the time within which each has to be answered.
const NAMES: u32 = 12;
const INTERVAL: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_secs(1);
/// Time that a slow name takes over TCP, and in which another one is sent.
const SLOW: Duration = Duration::from_secs(1);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Process that is killed on drop, and when the test ends in another way.
struct Process(Child);

impl Process {
    fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Returns the path of `zone-resolver`, which cargo puts beside the programs of this package.
fn zone_resolver() -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name("zone-resolver");
    if path.exists() { Ok(path) } else { Err("needs zone-resolver, which `cargo build --workspace` makes".to_owned()) }
}

/// Binds a free port of 127.0.0.1, over UDP and TCP.
fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

fn free_address() -> SocketAddr {
    bind().0.local_addr().unwrap()
}

/// Builds the response to a query: 192.0.2.1, or a truncated one.
fn response(query: &Message, truncated: bool) -> Vec<u8> {
    let name = query.queries.first().unwrap().name().clone();
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_available = true;
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.truncation = truncated;
    response.add_queries(query.queries.clone());
    if !truncated {
        response.add_answer(Record::from_rdata(name, 300, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
    }
    response.to_vec().unwrap()
}

/// Starts a server that truncates all responses over UDP and takes a second over TCP for names that begin with `slow`.
/// The server runs until the test program ends.
fn start_authority() -> SocketAddr {
    let (udp, tcp) = bind();
    let address = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, source)) = udp.recv_from(&mut buffer) {
            if let Some(query) = buffer.get(..length).and_then(|packet| Message::from_vec(packet).ok()) {
                drop(udp.send_to(&response(&query, true), source));
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Answers the queries of a connection until its end.
fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet).ok()?;
        let query = Message::from_vec(&packet).ok()?;
        if query.queries.first()?.name().to_ascii().to_ascii_lowercase().starts_with("slow") {
            std::thread::sleep(SLOW);
        }
        let response = response(&query, false);
        stream.write_all(&[&u16::try_from(response.len()).ok()?.to_be_bytes()[..], &response].concat()).ok()?;
    }
}

fn query(name: &str) -> Query {
    Query::new(Name::from_ascii(name).unwrap(), RecordType::A)
}

/// Returns whether a server answers within the limit.
fn is_answered(server: SocketAddr, name: &str) -> bool {
    let client = Client { servers: vec![server], tcp: false, timeout: LIMIT, tries: 1 };
    client.resolve(&query(name)).is_ok_and(|response| response.data("A").eq(["192.0.2.1"]))
}

fn wait_until_answered(what: &str, server: SocketAddr) {
    let started = Instant::now();
    while !is_answered(server, &format!("n{}.start.example.", started.elapsed().as_micros())) {
        assert!(started.elapsed() < START_TIMEOUT, "{what} answers nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start_coredns(folder: &Path, program: &Path, forward_to: SocketAddr) -> (Process, SocketAddr) {
    let address = free_address();
    let corefile = folder.join("Corefile");
    let text = format!(
        ".:{port} {{\n bind {ip}\n forward . {forward_to} {{\n  max_fails 0\n }}\n}}\n",
        ip = address.ip(),
        port = address.port(),
    );
    fs::write(&corefile, text).unwrap();
    let process = Process::start(program, &["-conf", corefile.to_str().unwrap()]);
    wait_until_answered("CoreDNS", address);
    (process, address)
}

fn start_zone_resolver(
    folder: &Path,
    program: &Path,
    upstream: SocketAddr,
    protocol: Protocol,
) -> (Process, SocketAddr) {
    let mut config = Config::example();
    config.resolver.upstreams = UpstreamSource::Servers(vec![Upstream { protocol, ..upstream.into() }]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    fs::write(folder.join("revision"), "r1").unwrap();
    fs::write(folder.join("r1.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let (address, http) = (free_address(), free_address());
    let (listen, on, folder) = (address.to_string(), http.to_string(), folder.to_str().unwrap());
    let arguments = ["run", "--config-dir", folder, "--run-dir", folder, "--listen", &listen, "--http", &on];
    let more = ["--cache-size", "4194304", "--drain", "0s"];
    let process = Process::start(program, &[&arguments[..], &more].concat());
    wait_until_answered("the zone resolver", address);
    (process, address)
}

/// Queries four slow names a second, for as long as the names of others take.
fn query_slow_names(server: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    for number in 0..NAMES + 4 {
        let name = Name::from_ascii(format!("slow{number}.slow.example.")).unwrap();
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(hickory_proto::op::Query::query(name, RecordType::A));
        socket.send_to(&query.to_vec().unwrap(), server).unwrap();
        std::thread::sleep(INTERVAL);
    }
}

/// Returns how many names of others are answered in time beside slow names.
fn answered_beside_slow_names(coredns: SocketAddr, protocol: Protocol) -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let (_process, resolver) = start_zone_resolver(folder.path(), &zone_resolver().unwrap(), coredns, protocol);
    std::thread::scope(|scope| {
        scope.spawn(|| query_slow_names(resolver));
        std::thread::sleep(INTERVAL);
        let names = (0..NAMES).map(|number| {
            let started = Instant::now();
            let answered = is_answered(resolver, &format!("n{number}.others.example.org."));
            std::thread::sleep(INTERVAL.saturating_sub(started.elapsed()));
            u32::from(answered)
        });
        names.sum()
    })
}

#[test]
fn slow_names_over_tcp_hold_up_no_others_at_coredns() {
    require!(require::coredns(), zone_resolver());
    let folder = tempfile::tempdir().unwrap();
    let (_process, coredns) = start_coredns(folder.path(), &require::coredns().unwrap(), start_authority());
    let truncated = Client { servers: vec![coredns], tcp: false, timeout: LIMIT, tries: 1 };
    let transport = truncated.resolve(&query("www.example.")).unwrap().transport;
    assert_eq!(transport, Transport::TcpAfterUdp, "CoreDNS passes truncated responses on");
    let answered = std::thread::scope(|scope| {
        [Protocol::Udp, Protocol::Tcp]
            .map(|protocol| scope.spawn(move || answered_beside_slow_names(coredns, protocol)))
            .map(|thread| thread.join().unwrap())
    });
    assert_eq!(answered, [NAMES; 2], "over UDP, then TCP, and over TCP alone");
}
