//! Forwarding loops, and packets that two servers would send to each other for ever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{MessageType, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::Protocol;
use tokio::net::UdpSocket;

use crate::require::{program, require};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, Unbound, allow_loopback, config, empty_response, exchange, query_for,
    servers_over, wait_until, zone,
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Time within which a forwarding loop has to be detected.
const DETECTION_LIMIT: Duration = Duration::from_secs(5);

fn forward_to(tier: &Tier, servers: &[SocketAddr]) {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = servers_over(servers, Protocol::Udp);
    allow_loopback(&mut config);
    tier.apply_forwarding(&config);
}

/// Returns the number of loop probes that came back, for a tier that is queried for no local name.
fn loops_detected(tier: &Tier) -> u64 {
    tier.resolver.metrics().queries() - tier.resolver.metrics().traffic(0, 0).queries
}

async fn wait_until_loop_is_detected(tier: &Tier) {
    wait_until("the loop is detected", DETECTION_LIMIT, async || loops_detected(tier) > 0).await;
}

fn sent(tier: &Tier) -> u64 {
    tier.resolver.snapshot().unwrap().upstreams()[0].sent
}

#[tokio::test]
async fn servers_that_forward_to_each_other_are_found_and_each_question_fails_after_a_few_packets() {
    const NAMES: u64 = 20;
    let (one, two, own) =
        (Tier::start(Default::default()), Tier::start(Default::default()), Tier::start(Default::default()));
    forward_to(&one, &[two.address]);
    forward_to(&two, &[one.address]);
    forward_to(&own, &[own.address]);
    let started = Instant::now();
    let queries: Vec<_> = (0..NAMES).map(|number| query_for(&format!("n{number}.example"), RecordType::A)).collect();
    for (which, tier) in ["one of two", "its own"].into_iter().zip([&one, &own]) {
        let started = Instant::now();
        let responses = join_all(queries.iter().map(|query| exchange(tier.address, query))).await;
        assert!(responses.iter().all(|response| response.metadata.response_code == ResponseCode::ServFail));
        assert!(started.elapsed() < DETECTION_LIMIT, "{which}: {:?}", started.elapsed());
        assert!(loops_detected(tier) > 0, "{which}");
    }
    // Three for each query and server, and one probe a second of a server that is down.
    let seconds = 1 + started.elapsed().as_secs();
    for tier in [&one, &two, &own] {
        assert!(sent(tier) <= 3 * NAMES + 4 * seconds, "{} in {seconds} s", sent(tier));
    }
    // Other names cost no more.
    let before = [sent(&one), sent(&two), sent(&own)];
    let another = query_for("another.example", RecordType::A);
    let responses = join_all([&one, &two, &own].map(|tier| exchange(tier.address, &another))).await;
    assert!(responses.iter().all(|response| response.metadata.response_code == ResponseCode::ServFail));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seconds = started.elapsed().as_secs() + 1 - seconds;
    for (tier, before) in [&one, &two, &own].into_iter().zip(before) {
        assert!(sent(tier) - before <= 4 * (3 + seconds), "{} more", sent(tier) - before);
    }
}

#[tokio::test]
async fn a_loop_from_a_node_through_a_zone_back_to_the_node_is_found() {
    let resolver = Tier::start(Default::default());
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.zones = vec![zone("zone-a", resolver.address)];
    let node = Tier::on_node(&config, Some("zone-a")).await;
    forward_to(&resolver, &[node.address]);
    let response = exchange(node.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    // The resolver looks for itself, through the node.
    wait_until_loop_is_detected(&resolver).await;
}

#[tokio::test]
async fn a_server_in_a_loop_is_left_out_while_another_one_answers() {
    join_all([(V4, 1), (V6, 1), (V4, 2), (V6, 3)].map(async |(ip, other_count)| {
        let start = |_| Authority::start_on(ip, |query| Action::Respond(query.default_response(300, 1)));
        let others = join_all((0..other_count).map(start)).await;
        let tier = Tier::start_on(ip, Default::default());
        let servers: Vec<_> = [tier.address].into_iter().chain(others.iter().map(|other| other.address)).collect();
        forward_to(&tier, &servers);
        let answers = async |name: &str| exchange(tier.address, &query_for(name, RecordType::A)).await.answers.len();
        assert_eq!(answers("first.example").await, 1);
        wait_until_loop_is_detected(&tier).await;
        let before = sent(&tier);
        for number in 0..20 {
            assert_eq!(answers(&format!("n{number}.example")).await, 1);
        }
        assert!(sent(&tier) - before <= 2, "{ip}: {} queries to the server in the loop", sent(&tier) - before);
    }))
    .await;
}

async fn a_loop_through_unbound_is_found_on(ip: IpAddr) {
    let tier = Tier::start_on(ip, Default::default());
    let unbound = Unbound::start(ip, &[(".", tier.address)]).await;
    assert_eq!(loops_detected(&tier), 0);
    forward_to(&tier, &[unbound.address]);
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    wait_until_loop_is_detected(&tier).await;
}

#[tokio::test]
async fn a_loop_through_unbound_is_found() {
    require!(program("unbound"));
    tokio::join!(a_loop_through_unbound_is_found_on(V4), a_loop_through_unbound_is_found_on(V6));
}

#[tokio::test]
async fn loops_over_ipv6_are_found() {
    let start = || Tier::start_on(V6, Default::default());
    let (one, two, own, resolver) = (start(), start(), start(), start());
    forward_to(&one, &[two.address]);
    forward_to(&two, &[one.address]);
    forward_to(&own, &[own.address]);
    let node = Tier::node_on(V6, &[resolver.address]);
    forward_to(&resolver, &[node.address]);
    join_all([(&one, &one), (&own, &own), (&node, &resolver)].map(async |(tier, detecting)| {
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        wait_until_loop_is_detected(detecting).await;
    }))
    .await;
}

/// Servers between the client and those in charge of its domain.
#[derive(Clone, Copy, Debug)]
enum Path {
    Resolver,
    ResolverAndUnbound,
    Node,
}

/// A client that queries slow names of its own domain, this many a second.
#[derive(Clone, Copy, Debug)]
struct EchoAttack {
    ip: IpAddr,
    path: Path,
    servers: usize,
    names_per_second: u32,
}

/// Has a client query slow names of its own domain. The server in charge of the domain has each name that it is asked
/// for sent to the resolver by a client. Returns how many of 20 new names of others are answered, and the names that
/// the domain's server was asked for.
async fn attack_with_echoed_names(attack: EchoAttack) -> (usize, Vec<String>) {
    const OTHER_NAMES: usize = 20;
    let EchoAttack { ip, path, servers, names_per_second } = attack;
    // Another address than that of the others, where there is one.
    let client_address = |last| if ip == V4 { IpAddr::from([127, 0, 0, last]) } else { ip };
    let resolver = Arc::new(OnceLock::<SocketAddr>::new());
    let mut authorities = Vec::new();
    for _ in 0..servers {
        let resolver = resolver.clone();
        let client = std::net::UdpSocket::bind((client_address(3), 0)).unwrap();
        let script = move |query: &ReceivedQuery| {
            let name = query.name().to_ascii().to_ascii_lowercase();
            if name.ends_with(".attacker.example.") {
                let echo = query_for(&name, query.rtype()).to_vec().unwrap();
                client.send_to(&echo, resolver.get().unwrap()).unwrap();
                return Action::RespondAfter(Duration::from_millis(600), query.default_response(300, 1));
            }
            if name.ends_with(".example.") {
                return Action::Respond(query.default_response(300, 1));
            }
            Action::Respond(empty_response(query, ResponseCode::NXDomain))
        };
        authorities.push(Authority::start_on(ip, script).await);
    }
    let addresses: Vec<_> = authorities.iter().map(|authority| authority.address).collect();
    let (tier, _unbound) = match path {
        Path::Resolver => (Tier::resolver_on(ip, &addresses, Protocol::Udp), None),
        Path::ResolverAndUnbound => {
            let unbound = Unbound::start(ip, &[(".", addresses[0])]).await;
            (Tier::resolver_on(ip, &[unbound.address], Protocol::Udp), Some(unbound))
        }
        Path::Node => (Tier::node_on(ip, &addresses), None),
    };
    resolver.set(tier.address).unwrap();
    let attacker = std::net::UdpSocket::bind((client_address(2), 0)).unwrap();
    let address = tier.address;
    let attack = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / names_per_second);
        for number in 0.. {
            ticks.tick().await;
            let query = query_for(&format!("n{number}.attacker.example"), RecordType::A);
            attacker.send_to(&query.to_vec().unwrap(), address).unwrap();
        }
    });
    // Long enough for a loop probe.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut answered = 0;
    for number in 0..OTHER_NAMES {
        let query = query_for(&format!("n{number}.others.example"), RecordType::A);
        answered += usize::from(exchange(tier.address, &query).await.answers.len() == 1);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    attack.abort();
    assert_eq!(loops_detected(&tier), 0, "there is no loop");
    let names = authorities.iter().flat_map(Authority::queries).map(|query| query.name().to_ascii().to_lowercase());
    (answered, names.filter(|name| name.ends_with(".attacker.example.")).collect())
}

async fn others_are_answered_during(attacks: &[EchoAttack]) {
    let results = join_all(attacks.iter().map(|attack| attack_with_echoed_names(*attack))).await;
    for (attack, (answered, names)) in attacks.iter().zip(results) {
        assert_eq!(answered, 20, "{attack:?}");
        assert!(names.len() >= 3, "slow names are queried: {attack:?}");
        // One slow name a second takes no server down: nothing but a loop probe could be a name that is made up.
        let has_made_up_name =
            names.iter().any(|name| name.split('.').count() > "n0.attacker.example.".split('.').count());
        assert!(attack.names_per_second > 1 || !has_made_up_name, "a name was made up below the domain: {attack:?}");
    }
}

#[tokio::test]
async fn a_domain_whose_names_come_back_from_a_client_is_no_loop() {
    let resolver = |servers, names_per_second| EchoAttack { ip: V4, path: Path::Resolver, servers, names_per_second };
    let node = |servers, names_per_second| EchoAttack { path: Path::Node, ..resolver(servers, names_per_second) };
    let over_ipv6 = |attack| EchoAttack { ip: V6, ..attack };
    others_are_answered_during(&[
        resolver(1, 1),
        resolver(1, 20),
        resolver(2, 60),
        resolver(3, 100),
        node(1, 1),
        node(2, 60),
        over_ipv6(resolver(1, 1)),
        over_ipv6(resolver(2, 60)),
        over_ipv6(node(1, 1)),
    ])
    .await;
}

#[tokio::test]
async fn a_domain_behind_unbound_whose_names_come_back_from_a_client_is_no_loop() {
    require!(program("unbound"));
    let unbound = EchoAttack { ip: V4, path: Path::ResolverAndUnbound, servers: 1, names_per_second: 1 };
    others_are_answered_during(&[unbound, EchoAttack { ip: V6, ..unbound }]).await;
}

/// Sends this many responses, with queries in between, which are answered.
async fn flood_with_responses(count: usize) {
    const RESPONSES_PER_QUERY: usize = 100;
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let cached = query_for("www.example", RecordType::A);
    exchange(tier.address, &cached).await;
    authority.clear_queries();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for number in 0..count {
        let mut response = query_for(["www.example", "new.example"][number % 2], RecordType::A);
        response.metadata.message_type = MessageType::Response;
        response.metadata.id = number as u16;
        socket.send_to(&response.to_vec().unwrap(), tier.address).await.unwrap();
        if number % RESPONSES_PER_QUERY == 0 {
            // A worker reads in order: once this is answered, it has read the responses before it.
            exchange(tier.address, &cached).await;
        }
    }
    exchange(tier.address, &cached).await;
    let received = socket.try_recv(&mut [0; 1500]);
    assert!(received.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "an answer to a response");
    assert_eq!(authority.queries().len(), 0);
    let dropped = tier.resolver.metrics().traffic(0, 0).dropped;
    assert!(dropped > count as u64 / 2, "{dropped} of {count} came in");
}

#[tokio::test]
async fn a_flood_of_responses_is_answered_with_nothing() {
    flood_with_responses(20_000).await;
}

#[tokio::test]
#[ignore = "a minute; run by make test-long"]
async fn a_million_responses_are_answered_with_nothing() {
    flood_with_responses(1_000_000).await;
}
