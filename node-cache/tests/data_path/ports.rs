//! Source ports and IDs of upstream queries, and how far they can be guessed.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sched::{CloneFlags, unshare};
use node_cache_config::{CaseRandomization, Upstream, UpstreamSource};
use socket2::{Domain, Protocol, Socket, Type};

use crate::require::{network_namespaces, require, root};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, exchange, query_for, wait_until, zone,
};
use crate::zones::cluster_dns;

/// Starts a node cache that has discovered the one resolver of its zone; returns the cache, the cluster DNS and the
/// resolver.
pub(crate) async fn node_with_discovered_resolver(
    script: impl Fn(&ReceivedQuery) -> Action + Send + 'static,
) -> (Tier, Authority, Authority) {
    let resolver = Authority::start(script).await;
    let near = zone("zone-a", resolver.address);
    let cluster = cluster_dns(vec![(near.service.clone(), resolver.address)]).await;
    let mut config = config(cluster.address);
    config.zones = vec![near];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let is_discovered = async || {
        let snapshot = tier.resolver.snapshot().unwrap();
        let mut groups = snapshot.scopes().iter().flat_map(|scope| scope.pool.groups());
        groups.any(|group| group.scope() == "zone/zone-a" && !group.discovered().is_empty())
    };
    wait_until("the resolver is discovered", Duration::from_secs(8), is_discovered).await;
    (tier, cluster, resolver)
}

#[tokio::test]
async fn our_own_resolvers_are_asked_from_sockets_that_serve_again_for_a_while_under_fresh_numbers() {
    let (tier, _cluster, resolver) =
        node_with_discovered_resolver(|query| Action::Respond(query.default_response(300, 1))).await;
    for number in 0..600 {
        exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
    }
    let queries = resolver.queries();
    let numbers: HashSet<u16> = queries.iter().map(|query| query.message.metadata.id).collect();
    let ports: HashSet<u16> = queries.iter().map(|query| query.source.port()).collect();
    // A response that is late on a busy machine has its query repeated, within the retry budget.
    assert!((600..660).contains(&queries.len()), "{} queries", queries.len());
    assert!(numbers.len() > 580, "{} numbers", numbers.len());
    assert!((3..60).contains(&ports.len()), "{} ports", ports.len());
}

/// Sends a forged ICMP "port unreachable" for `server` to `client`, as anyone can who guesses the ports (RFC 792).
fn forge_unreachable(client: SocketAddr, server: SocketAddr) {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (client, server) else { panic!("IPv4") };
    let mut packet = vec![3, 3, 0, 0, 0, 0, 0, 0];
    packet.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0, 40, 0, 0]);
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("these tests need root");
    socket.send_to(&packet, &SocketAddr::new(client.ip(), 0).into()).unwrap();
}

#[tokio::test]
async fn a_report_that_nobody_listens_cancels_no_question() {
    require!(root("to open raw sockets"));
    let first = Mutex::new(None);
    let server = Arc::new(Mutex::new(None));
    let authority = Authority::start({
        let server = server.clone();
        move |query| {
            let client = SocketAddr::new("127.0.0.1".parse().unwrap(), query.source.port());
            for _ in 0..20 {
                forge_unreachable(client, server.lock().unwrap().unwrap());
            }
            // Only the first try is answered, and late.
            match *first.lock().unwrap().get_or_insert(query.source) == query.source {
                true => Action::RespondAfter(Duration::from_millis(300), query.default_response(300, 1)),
                false => Action::Ignore,
            }
        }
    })
    .await;
    *server.lock().unwrap() = Some(authority.address);
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.answers, [address_record("www.example", 300, "192.0.2.1")]);
    assert!(authority.queries().len() > 1, "the report was heard");
}

#[tokio::test]
async fn a_report_that_nobody_listens_costs_the_next_question_of_a_socket_nothing() {
    require!(root("to open raw sockets"));
    let (tier, _cluster, resolver) =
        node_with_discovered_resolver(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut ports = HashSet::new();
    for number in 0..20 {
        exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        let client = resolver.queries().last().unwrap().source;
        ports.insert(client.port());
        forge_unreachable(client, resolver.address);
    }
    assert_eq!(resolver.queries().len(), 20, "nothing was asked twice");
    assert!(ports.len() < 20, "some socket that had heard of it was asked from again: {}", ports.len());
}

/// ID and port of an upstream query, and the ID of the client's query.
#[derive(Clone, Copy)]
struct UpstreamQuery {
    client_id: u16,
    id: u16,
    port: u16,
}

#[test]
fn nothing_can_be_guessed_of_a_hundred_thousand_questions_to_a_foreign_server() {
    require!(network_namespaces());
    const QUERIES: usize = 100_000;
    const LOWEST: u16 = 1024;
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{LOWEST} 65535")).unwrap();
        query_foreign_server(QUERIES)
    });
    let queries = thread.join().unwrap();
    assert_eq!(queries.len(), QUERIES, "nothing was asked twice");
    let ports: HashSet<u16> = queries.iter().map(|query| query.port).collect();
    assert!(ports.len() > 28_000, "{} ports", ports.len());
    let equal_ids = queries.iter().filter(|query| query.id == query.client_id).count();
    assert!(equal_ids < 14, "{equal_ids} numbers are those of their clients; chance would give two");
    let above = |query: &UpstreamQuery| usize::from(query.port - LOWEST);
    for (property, value) in [
        ("the first half of numbers", (|query| usize::from(query.id >> 8)) as fn(&UpstreamQuery) -> usize),
        ("the last half of numbers", |query| usize::from(query.id & 0xff)),
        ("how numbers follow one another", |query| usize::from((query.id ^ query.client_id) & 0xff)),
    ] {
        assert!(unevenness(queries.iter().map(value), 256) < 380.0, "{property}");
    }
    // The range has 252 times 256 ports.
    assert!(unevenness(queries.iter().map(|query| above(query) >> 8), 252) < 375.0, "the first half of ports");
    assert!(unevenness(queries.iter().map(|query| above(query) & 0xff), 256) < 380.0, "the last half of ports");
    let steps = queries.windows(2).map(|pair| usize::from(pair[1].port.wrapping_sub(pair[0].port) & 0xff));
    assert!(unevenness(steps, 256) < 380.0, "how ports follow one another");
}

/// Returns Pearson's χ² of numbers against an even spread over this many classes. With 256 classes it is 255 on
/// average, and 380 once in a million times.
fn unevenness(numbers: impl Iterator<Item = usize>, classes: usize) -> f64 {
    let mut counts = vec![0.0; classes];
    numbers.for_each(|number| counts[number] += 1.0);
    let expected = counts.iter().sum::<f64>() / classes as f64;
    counts.iter().map(|count| (count - expected).powi(2) / expected).sum()
}

/// Sends this many queries through a resolver and returns what the upstream server received.
fn query_foreign_server(count: usize) -> Vec<UpstreamQuery> {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let address = server.local_addr().unwrap();
    let client_ids: Arc<Vec<u16>> = Arc::new((0..count).map(|_| rand::random()).collect());
    let receiver = std::thread::spawn({
        let client_ids = client_ids.clone();
        move || receive_all(&server, &client_ids)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    // A denial in random case would be queried again in lower case.
    let upstream = Upstream { case_randomization: CaseRandomization::Disabled, ..Upstream::from(address) };
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream]);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(tier.address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 512];
    for first in (0..count).step_by(50) {
        for (number, id) in client_ids.iter().enumerate().skip(first).take(50) {
            let mut message = query_for(&format!("n{number}.example"), RecordType::A);
            message.metadata.id = *id;
            client.send(&message.to_vec().unwrap()).unwrap();
        }
        for _ in first..count.min(first + 50) {
            client.recv(&mut buffer).expect("every question is answered");
        }
    }
    receiver.join().unwrap()
}

/// Answers every query with NODATA until as many have come as clients have sent, or none comes for five seconds.
fn receive_all(server: &UdpSocket, client_ids: &[u16]) -> Vec<UpstreamQuery> {
    let mut queries = Vec::with_capacity(client_ids.len());
    let mut buffer = [0; 512];
    while queries.len() < client_ids.len() {
        let Ok((length, source)) = server.recv_from(&mut buffer) else { break };
        let label = &buffer[14..13 + usize::from(buffer[12])];
        let client: usize = std::str::from_utf8(label).unwrap().parse().unwrap();
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        queries.push(UpstreamQuery { client_id: client_ids[client], id, port: source.port() });
        buffer[2..4].copy_from_slice(&[0x81, 0x80]);
        server.send_to(&buffer[..length], source).unwrap();
    }
    queries
}
