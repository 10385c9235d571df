//! Room of a zone resolver: thousands of names that no server answers, from one node or many, are all answered, and so
//! are the names of others.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache::metrics::{DropReason, RefusalReason};
use node_cache::resolver::Room;
use node_cache_config::{Config, UpstreamSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::ceiling::{Container, MAX_BESIDE_CACHE, status_kb};
use crate::processes::ZoneResolver;
use crate::require::{open_files, require};
use crate::support::crowd::{Crowd, DeadName, answer_others, ask_for_names, in_many_domains, ipv4};
use crate::support::{Authority, Tier, config, query_for, wait_until};

const OVERLOADED: [u8; 6] = [0, 15, 0, 2, 0xc0, 0x02];
const NETWORK_ERROR: [u8; 6] = [0, 15, 0, 2, 0, 23];
/// Time within which every query has a response: longer than the deadline of a zone resolver.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns an open configuration of a zone resolver with this upstream.
fn open_config(upstream: SocketAddr) -> Config {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream.into()]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

/// Returns a query for a dead name, with its number as ID.
fn dead_query(name: DeadName, client: u32, number: u16) -> Vec<u8> {
    let mut query = query_for(&name(client, number.into()), RecordType::A).to_vec().unwrap();
    query[..2].copy_from_slice(&number.to_be_bytes());
    query
}

/// Responses to the dead names of a client.
#[derive(Debug, Default)]
struct Responses {
    /// IDs of the queries that have one.
    answered: HashSet<u16>,
    /// Number of those that say that there is no room.
    overloaded: usize,
}

impl Responses {
    fn add(&mut self, query: &[u8], response: &[u8]) {
        assert_eq!(ResponseCode::from(0, response[3] & 15), ResponseCode::ServFail);
        assert!(response.len() <= query.len() + 12, "{} octets for {}", response.len(), query.len());
        self.answered.insert(u16::from_be_bytes([response[0], response[1]]));
        let registered = response.windows(6).position(|option| option == NETWORK_ERROR);
        let overloaded = response.windows(6).position(|option| option == OVERLOADED);
        assert_eq!(registered.is_some(), overloaded.is_some());
        assert!(registered <= overloaded, "a stranger reads the registered code");
        self.overloaded += usize::from(overloaded.is_some());
    }
}

/// Asks for so many dead names, each after this time, from one address. Returns the responses, once all are there.
async fn ask_for_dead_names(server: SocketAddr, client: u32, name: DeadName, names: u16, each: Duration) -> Responses {
    let socket = UdpSocket::bind((ipv4(client), 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let longest = dead_query(name, client, u16::MAX);
    let mut responses = Responses::default();
    let mut buffer = [0; 1500];
    let mut sent = 0;
    let mut ticks = interval(each);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut limit = Instant::now();
    while responses.answered.len() < usize::from(names) {
        tokio::select! {
            length = socket.recv(&mut buffer) => {
                responses.add(&longest, &buffer[..length.unwrap()]);
            }
            _ = ticks.tick(), if sent < names => {
                socket.send(&dead_query(name, client, sent)).await.unwrap();
                sent += 1;
                limit = Instant::now() + RESPONSE_TIMEOUT;
            }
            () = tokio::time::sleep_until(limit.into()), if sent == names => break,
        }
    }
    responses
}

#[tokio::test]
async fn a_query_without_room_among_those_that_wait_is_answered_over_udp_and_without_edns_too() {
    let upstream = Authority::start(answer_others).await;
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&open_config(upstream.address));
    let responses = ask_for_dead_names(tier.address, 1, in_many_domains, 800, Duration::from_micros(500)).await;
    assert_eq!(responses.answered.len(), 800);
    assert!(responses.overloaded > 200, "512 of one client may wait: {}", responses.overloaded);
    let metrics = tier.resolver.metrics();
    assert!(metrics.refused_admissions(RefusalReason::Client) > 200);
    assert_eq!([DropReason::ClientLimit, DropReason::GlobalLimit].map(|reason| metrics.drops(reason)), [0, 0]);
}

#[tokio::test]
async fn a_query_without_room_among_those_that_wait_is_answered_over_tcp_and_the_connection_stays() {
    let upstream = Authority::start(answer_others).await;
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&open_config(upstream.address));
    let client = tokio::spawn(ask_for_dead_names(tier.address, 1, in_many_domains, 700, Duration::from_micros(500)));
    let refused = async || tier.resolver.metrics().refused_admissions(RefusalReason::Client) > 50;
    wait_until("512 queries of the client wait", Duration::from_secs(20), refused).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ipv4(1), 0).into()).unwrap();
    let mut stream = socket.connect(tier.address).await.unwrap();
    let mut responses = Responses::default();
    for number in 1_000..1_010 {
        let query = dead_query(in_many_domains, 1, number);
        stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat()).await.unwrap();
        let length = timeout(RESPONSE_TIMEOUT, stream.read_u16()).await.unwrap().unwrap();
        let mut response = vec![0; length.into()];
        stream.read_exact(&mut response).await.unwrap();
        responses.add(&query, &response);
    }
    assert_eq!(responses.answered.len(), 10);
    assert!(responses.overloaded > 0, "while 512 wait there is no room");
    assert_eq!(client.await.unwrap().answered.len(), 700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_a_node_with_1000_dead_names_a_second_is_answered_and_those_of_others_too() {
    require!(open_files(16_384));
    let upstream = Authority::start(answer_others).await;
    let config = open_config(upstream.address);
    let resolver = ZoneResolver::configured(&config, &["--drain", "0s", "--cache-size", "268435456"]).await;
    let others = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let other: IpAddr = Ipv4Addr::new(127, 0, 0, 9).into();
        ask_for_names(resolver.dns, 60, |_| other, |number| format!("www.others-{number}.example")).await
    };
    let node = ask_for_dead_names(resolver.dns, 1, in_many_domains, 5_000, Duration::from_millis(1));
    let (of_node, of_others) = tokio::join!(node, others);
    assert_eq!(of_node.answered.len(), 5_000, "a query was dropped");
    assert!(of_others.len() >= 59, "{}", of_others.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_gets_a_tenth_of_the_queries_in_flight_at_a_busy_zone_resolver_and_others_go_on() {
    const NAMES: u16 = 800;
    require!(open_files(16_384));
    let asked = Arc::<Mutex<HashSet<String>>>::default();
    let names = asked.clone();
    let upstream = Authority::start(move |query| {
        names.lock().unwrap().insert(query.name().to_ascii().to_ascii_lowercase());
        answer_others(query)
    })
    .await;
    let config = open_config(upstream.address);
    let resolver = ZoneResolver::configured(&config, &["--drain", "0s", "--cache-size", "268435456"]).await;
    // A node has 2,244 queries in flight when it is refused more, which is more than half.
    let more_names = |client, number| format!("also-dead{number}-{client}.example");
    let _node = [in_many_domains, more_names].map(|names| Crowd::start(resolver.dns, 1, ipv4, names));
    let refused = async || {
        let metrics = resolver.get("/metrics").await;
        let mut refused = metrics.lines().filter(|line| line.contains("admission_refused") && line.contains("client"));
        refused.any(|line| line.rsplit(' ').next().is_some_and(|count| count.parse::<f64>().unwrap() > 500.0))
    };
    wait_until("the node is refused more", Duration::from_secs(60), refused).await;
    let busy = |_, number| format!("n{number}.busy-dead.example");
    let responses = ask_for_dead_names(resolver.dns, 2, busy, NAMES, Duration::from_micros(500)).await;
    assert_eq!(responses.answered.len(), usize::from(NAMES));
    assert!(responses.overloaded > 300, "{}", responses.overloaded);
    let of_domain = asked.lock().unwrap().iter().filter(|name| name.ends_with(".busy-dead.example.")).count();
    assert!((50..=400).contains(&of_domain), "{of_domain}");
    let other: IpAddr = Ipv4Addr::new(127, 0, 0, 9).into();
    let others = ask_for_names(resolver.dns, 60, |_| other, |number| format!("www.others-{number}.example")).await;
    assert!(others.len() >= 59, "{}", others.len());
}

/// Counts of a crowd and its upstream.
#[derive(Debug, Default)]
struct Counts {
    /// Dead names that the upstream has been asked for.
    asked: Mutex<HashSet<String>>,
    /// Responses that say that no upstream answered, to those who asked first.
    failed: AtomicUsize,
}

/// Asks for dead names from one address, one each 16 ms, until it is dropped. A second address asks for each of them
/// too.
async fn ask_for_ever(server: SocketAddr, client: u32, counts: Arc<Counts>) {
    let bind = async |number| {
        let socket = UdpSocket::bind((ipv4(number), 0)).await.unwrap();
        socket.connect(server).await.unwrap();
        socket
    };
    let (first, second) = (bind(client).await, bind(100 + client).await);
    let mut ticks = interval(Duration::from_millis(16));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = [0; 1500];
    for number in 0.. {
        ticks.tick().await;
        let query = dead_query(in_many_domains, client, number);
        // The second one follows.
        let _ = (first.try_send(&query), second.try_send(&query));
        while let Ok(length) = first.try_recv(&mut buffer) {
            let is_overloaded = buffer[..length].windows(6).any(|option| option == OVERLOADED);
            counts.failed.fetch_add(usize::from(!is_overloaded), Ordering::Relaxed);
        }
        while second.try_recv(&mut buffer).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_resolver_has_3900_queries_in_flight_and_takes_no_more_than_16_mib_and_what_it_took_from_its_cache() {
    const CACHE: u64 = 256 << 20;
    require!(open_files(16_384));
    let counts = Arc::<Counts>::default();
    let asked = counts.clone();
    let upstream = Authority::start(move |query| {
        let name = query.name().to_ascii().to_ascii_lowercase();
        if name.contains("dead") {
            asked.asked.lock().unwrap().insert(name);
        }
        answer_others(query)
    })
    .await;
    let config = open_config(upstream.address);
    let mut resolver = ZoneResolver::configured(&config, &["--drain", "0s", "--cache-size", &CACHE.to_string()]).await;
    let process = resolver.pid().unwrap();
    let idle = status_kb(process, "VmHWM");
    let container = Container::hold(process);
    let mut crowd = JoinSet::new();
    for client in 1..=40 {
        crowd.spawn(ask_for_ever(resolver.dns, client, counts.clone()));
    }
    let mut most = 0;
    let mut kernel = 0;
    let are_many_in_flight = async || {
        upstream.clear_queries();
        let failed = counts.failed.load(Ordering::Relaxed);
        most = most.max(counts.asked.lock().unwrap().len().saturating_sub(failed));
        kernel = kernel.max(container.as_ref().map_or(0, Container::kernel_bytes));
        most >= 3_900
    };
    wait_until("3,900 queries are in flight", Duration::from_secs(60), are_many_in_flight).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    kernel = kernel.max(container.as_ref().map_or(0, Container::kernel_bytes));
    let (_, left) = Room::of_zone_resolver(CACHE);
    let peak = status_kb(process, "VmHWM");
    eprintln!(
        "{most} in flight; idle {idle} kB, peak {peak} kB, kernel {} kB, taken {} kB",
        kernel >> 10,
        (CACHE - left) >> 10
    );
    assert!(1024 * peak <= MAX_BESIDE_CACHE + CACHE - left, "{peak} kB");
}
