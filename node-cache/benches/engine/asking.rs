//! What a question costs that memory cannot answer: to a foreign server, asked from a new socket each time, and to a resolver
//! of our own, asked from sockets that serve again.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio, exit};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use node_cache::dns::codes::rtype;
use node_cache::identity::Identity;
use node_cache::resolver::Resolver;
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::client::Client;
use crate::running::{address, processor_time};
use crate::server::{self, ANSWER, serve};
use crate::statistics::median;

/// Whom the questions go to, as an argument.
pub(crate) const WHOM: [&str; 2] = ["foreign", "own"];
/// Where the resolvers of the zone are looked for.
const SERVICE: &str = "zone-a.dnstier-system.svc.cluster.local";
/// Questions of one turn, each about another name.
const QUESTIONS: usize = 10_000;
const TURNS: usize = 15;

/// Prints processor time for each question, both kinds in turns.
pub(crate) fn run() {
    let mut second = CpuSet::new();
    second.set(1);
    sched_setaffinity(None, &second).expect("a second processor");
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = upstream.local_addr().unwrap();
    std::thread::spawn(move || answer(&upstream));
    let mut servers = WHOM.map(|whom| {
        let (child, place) = start(whom, at);
        (whom, child, Client::new(place, TURNS * QUESTIONS), Vec::new())
    });
    for _ in 0..TURNS {
        for (whom, child, client, times) in &mut servers {
            let before = processor_time(child.id());
            let report = client.ask(QUESTIONS);
            assert!(report.answered > QUESTIONS / 2, "{whom}: {report:?}");
            times.push((processor_time(child.id()) - before) / report.answered as f64);
        }
    }
    for (whom, mut child, _, times) in servers {
        println!("{whom:<8} {:>7.0} ns of processor time for each question", median(&times));
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn start(whom: &str, upstream: SocketAddr) -> (Child, SocketAddr) {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program).args(["asks", whom, &upstream.port().to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (child, address(&port))
}

/// Serves until it is killed; the first line that it prints is its port.
pub(crate) fn asks(whom: &str, upstream: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let resolver = resolver(whom, address(upstream)).await;
        let _serving = serve(socket, resolver);
        println!("{port}");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
}

/// Asks so many questions of a resolver in this process, whose worker is what is counted.
pub(crate) fn counted(whom: &str, questions: &str) {
    let questions: usize = questions.parse().unwrap();
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = upstream.local_addr().unwrap();
    std::thread::spawn(move || answer(&upstream));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let place = socket.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    let whom = whom.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let resolver = resolver(&whom, at).await;
            let _serving = serve(socket, resolver);
            sender.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap();
    let report = Client::new(place, questions).ask(questions);
    assert_eq!(report.length, ANSWER, "another answer than the one that is meant");
    println!("{}", report.answered);
    exit(0);
}

/// A resolver that knows nothing yet, and has found whom to ask.
async fn resolver(whom: &str, upstream: SocketAddr) -> Arc<Resolver> {
    let mut config = server::config();
    let mut book = Box::new(GroupRegistry::default());
    let resolver = Arc::new(Resolver::new(Identity::default(), 64 << 20, Arc::default()));
    if whom == "foreign" {
        let servers = serde_json::json!({ "servers": [{ "address": upstream }] });
        config.resolver.upstreams = serde_json::from_value(servers).unwrap();
        resolver.apply(Snapshot::for_zone_resolver(&config, "", &mut book));
    } else {
        config.cluster_dns.bootstrap = vec![upstream];
        let zone = serde_json::json!([{ "name": "zone-a", "bootstrap": [upstream], "service": SERVICE }]);
        config.zones = serde_json::from_value(zone).unwrap();
        resolver.apply(Snapshot::for_node(&config, Some("zone-a"), &mut book));
        let limit = Instant::now() + Duration::from_secs(30);
        let snapshot = resolver.snapshot().unwrap();
        let found = || {
            let mut groups = snapshot.scopes().iter().flat_map(|scope| scope.pool.groups());
            groups.any(|group| group.scope() == "zone/zone-a" && !group.discovered().is_empty())
        };
        while !found() {
            assert!(Instant::now() < limit, "the resolver of the zone is not found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // What follows the servers goes with it.
    Box::leak(book);
    resolver
}

/// Says to every question for a service that it is this server, and to every other one four addresses.
fn answer(socket: &UdpSocket) {
    let at = socket.local_addr().unwrap();
    let mut buffer = [0; 1232];
    loop {
        let Ok((_, client)) = socket.recv_from(&mut buffer) else { continue };
        let name = 13 + buffer[12..].iter().position(|octet| *octet == 0).unwrap();
        let is_service = buffer[name..name + 2] == rtype::SRV.to_be_bytes();
        let counts: [u8; 8] = if is_service { [0, 1, 0, 1, 0, 0, 0, 1] } else { [0, 1, 0, 4, 0, 0, 0, 0] };
        let mut message = buffer[..name + 4].to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        message[4..12].copy_from_slice(&counts);
        if is_service {
            message.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 11, 0, 0, 0, 0]);
            message.extend(at.port().to_be_bytes());
            message.extend(*b"\x03pod\0\x03pod\0\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01");
        } else {
            for last in 0..4 {
                message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 203, 0, 113, last]);
            }
        }
        let _ = socket.send_to(&message, client);
    }
}
