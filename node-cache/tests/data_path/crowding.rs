//! Clients that fill the queries in flight with names that no server answers, beside others that ask for new names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::rr::RecordType;
use node_cache::metrics::{DropReason, RefusalReason};
use node_cache::resolver::Room;
use node_cache_config::{Config, Upstream, UpstreamSource};
use tokio::time::sleep;

use crate::require::require;
use crate::support::crowd::{
    Crowd, DeadName, RATE, answer_others, ask_for_names, in_many_domains, in_one_domain, ipv4,
};
use crate::support::namespace::{in_own_namespace, own_namespace};
use crate::support::{Authority, Tier, config, exchange_over_tcp, query_for, route, zone};

/// Clients that ask for dead names: a few, and as many as could take all that clients may have.
const FEW: u32 = 3;
const MANY: u32 = 8;
/// Addresses of an attacker who has an IPv6 network for itself.
const ATTACKER_ADDRESSES: u32 = 400;
/// Pods of a node, with addresses in one IPv6 network.
const PODS: usize = 100;
/// Time in which the crowd fills what it can fill, before the first name of others.
const LEAD: Duration = Duration::from_millis(1500);
/// New names of others, of which one may be lost.
const NAMES: usize = 60;
const MIN_ANSWERED: usize = NAMES - 1;

/// One name for all clients, and another one each second: single-flight, but each client waits.
fn of_each_second(_: u32, number: u32) -> String {
    format!("dead{}.example", number * MANY / RATE)
}

/// Address number `number` of the first IPv6 network of the namespace.
fn in_first_network(number: u32) -> IpAddr {
    Ipv6Addr::new(0xfd09, 0, 0, 1, 0, 0, 0, number as u16).into()
}

/// Client of its own, over IPv4 or IPv6 as the server.
fn other_client(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 9).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0xfd09, 0, 0, 2, 0, 0, 0, 9).into(),
    }
}

/// Asks for new names as a client of its own. Returns the number of answers.
async fn ask_for_new_names(server: SocketAddr, name: fn(usize) -> String) -> usize {
    ask_for_names(server, NAMES, |_| other_client(server), name).await.len()
}

fn outside_name(number: usize) -> String {
    format!("www.others-{number}.example")
}

fn cluster_name(number: usize) -> String {
    format!("web-{number}.shop.svc.cluster.local")
}

fn route_name(number: usize) -> String {
    format!("web-{number}.corp.example")
}

fn open(config: &mut Config) {
    let clients = ["127.0.0.0/8", "fd09::/16"].map(|network| network.parse().unwrap()).to_vec();
    config.node_cache.allow_from = clients.clone();
    config.resolver.allow_from = clients;
}

async fn resolver(upstreams: &[&Authority]) -> Tier {
    resolver_at(Ipv4Addr::LOCALHOST.into(), upstreams)
}

fn resolver_at(address: IpAddr, upstreams: &[&Authority]) -> Tier {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = |authority: &&Authority| Upstream::from(authority.address);
    config.resolver.upstreams = UpstreamSource::Servers(upstreams.iter().map(upstream).collect());
    open(&mut config);
    let (room, _) = Room::of_zone_resolver(4 << 20);
    let tier = Tier::with_room(address, 1, Default::default(), room);
    tier.apply_forwarding(&config);
    tier
}

/// Starts the cache of a node whose cluster DNS answers everything, with a route, and with one resolver in its zone.
async fn node(inside: &Authority, outside: SocketAddr) -> Tier {
    node_at(Ipv4Addr::LOCALHOST.into(), inside, outside)
}

fn node_at(address: IpAddr, inside: &Authority, outside: SocketAddr) -> Tier {
    let mut config = config(inside.address);
    config.zones = vec![zone("zone-a", outside)];
    config.routes = vec![route("corp.example", &[inside.address])];
    open(&mut config);
    let tier = Tier::at(address, 1, Default::default());
    tier.apply_on_node(&config, Some("zone-a"));
    tier
}

async fn crowd_at_resolver(upstreams: &[&Authority], clients: u32, name: DeadName) {
    let tier = resolver(upstreams).await;
    let _crowd = Crowd::start(tier.address, clients, ipv4, name);
    sleep(LEAD).await;
    let answered = ask_for_new_names(tier.address, outside_name).await;
    assert!(answered >= MIN_ANSWERED, "{answered} of {NAMES}");
}

async fn crowd_at_node(clients: u32, name: DeadName) {
    let inside = Authority::start(answer_others).await;
    let outside = Authority::start(answer_others).await;
    let tier = node(&inside, outside.address).await;
    let _crowd = Crowd::start(tier.address, clients, ipv4, name);
    assert_all_names_of_others_are_answered(&tier).await;
}

/// Asks a node for new names of outside, the cluster and a route.
async fn assert_all_names_of_others_are_answered(tier: &Tier) {
    sleep(LEAD).await;
    let answered = [outside_name, cluster_name, route_name].map(|name| ask_for_new_names(tier.address, name));
    let answered = join_all(answered).await;
    assert!(answered.iter().all(|answered| *answered >= MIN_ANSWERED), "{answered:?} of {NAMES}");
    assert_eq!(tier.resolver.metrics().drops(DropReason::GlobalLimit), 0);
}

#[tokio::test]
async fn a_dead_domain_takes_no_name_of_others_at_a_node() {
    crowd_at_node(FEW, in_one_domain).await;
}

#[tokio::test]
async fn dead_domains_without_number_take_no_name_of_others_at_a_node() {
    crowd_at_node(FEW, in_many_domains).await;
}

#[tokio::test]
async fn eight_clients_with_dead_domains_without_number_take_no_name_of_others_at_a_node() {
    crowd_at_node(MANY, in_many_domains).await;
}

#[tokio::test]
async fn eight_clients_that_all_wait_for_one_dead_name_leave_room_for_others() {
    crowd_at_node(MANY, of_each_second).await;
}

#[tokio::test]
async fn a_dead_domain_takes_no_name_of_others_at_a_resolver() {
    let upstream = Authority::start(answer_others).await;
    crowd_at_resolver(&[&upstream], FEW, in_one_domain).await;
}

#[tokio::test]
async fn a_dead_domain_takes_no_name_of_others_at_a_resolver_of_two_upstreams() {
    let first = Authority::start(answer_others).await;
    let second = Authority::start(answer_others).await;
    crowd_at_resolver(&[&first, &second], FEW, in_one_domain).await;
}

#[tokio::test]
async fn dead_domains_without_number_take_no_name_of_others_at_a_resolver() {
    let upstream = Authority::start(answer_others).await;
    crowd_at_resolver(&[&upstream], FEW, in_many_domains).await;
}

#[tokio::test]
async fn a_dead_domain_behind_a_node_takes_no_name_of_others_at_its_resolver() {
    let inside = Authority::start(answer_others).await;
    let upstream = Authority::start(answer_others).await;
    let resolver = resolver(&[&upstream]).await;
    let node = node(&inside, resolver.address).await;
    let _crowd = Crowd::start(node.address, FEW, ipv4, in_one_domain);
    sleep(LEAD).await;
    // A name of the node that follows one of another client finds no room among those that wait.
    let at_node = ask_for_new_names(node.address, outside_name);
    let at_resolver = ask_for_new_names(resolver.address, |number| format!("www.else-{number}.example"));
    let answered = tokio::join!(at_node, at_resolver);
    assert!(answered.0 >= MIN_ANSWERED && answered.1 >= MIN_ANSWERED, "{answered:?} of {NAMES}");
}

#[tokio::test]
async fn a_dead_domain_takes_no_name_of_others_over_tcp() {
    let upstream = Authority::start(answer_others).await;
    let tier = resolver(&[&upstream]).await;
    let _crowd = Crowd::start(tier.address, FEW, ipv4, in_one_domain);
    sleep(LEAD).await;
    for number in 0..NAMES {
        let query = query_for(&outside_name(number), RecordType::A);
        assert_eq!(exchange_over_tcp(tier.address, &query).await.answers.len(), 1, "{number}");
    }
}

#[tokio::test]
async fn dead_domains_without_number_take_no_name_of_others_at_a_resolver_of_three_upstreams() {
    let first = Authority::start(answer_others).await;
    let second = Authority::start(answer_others).await;
    let third = Authority::start(answer_others).await;
    crowd_at_resolver(&[&first, &second, &third], FEW, in_many_domains).await;
}

#[tokio::test]
async fn clients_over_tcp_with_dead_domains_without_number_take_no_name_of_others_at_a_node() {
    let inside = Authority::start(answer_others).await;
    let outside = Authority::start(answer_others).await;
    let tier = node(&inside, outside.address).await;
    let _crowd = Crowd::start_over_tcp(tier.address, FEW, in_many_domains);
    assert_all_names_of_others_are_answered(&tier).await;
}

#[tokio::test]
async fn clients_over_tcp_with_a_dead_domain_take_no_name_of_others_at_a_resolver_of_two_upstreams() {
    let first = Authority::start(answer_others).await;
    let second = Authority::start(answer_others).await;
    let tier = resolver(&[&first, &second]).await;
    let _crowd = Crowd::start_over_tcp(tier.address, FEW, in_one_domain);
    sleep(LEAD).await;
    let answered = ask_for_new_names(tier.address, outside_name).await;
    assert!(answered >= MIN_ANSWERED, "{answered} of {NAMES}");
}

/// Runs a node over IPv6 beside a crowd of clients of one IPv6 network.
fn with_node_over_ipv6<F: Future<Output = ()>>(test: impl FnOnce(Tier) -> F + Send + 'static) {
    in_own_namespace(async || {
        let inside = Authority::start(answer_others).await;
        let outside = Authority::start(answer_others).await;
        test(node_at(Ipv6Addr::LOCALHOST.into(), &inside, outside.address)).await;
    });
}

#[test]
fn ipv6_clients_with_dead_domains_without_number_take_no_name_of_others_at_a_node() {
    require!(own_namespace());
    with_node_over_ipv6(async |tier| {
        let _crowd = Crowd::start(tier.address, MANY, in_first_network, in_many_domains);
        assert_all_names_of_others_are_answered(&tier).await;
    });
}

#[test]
fn ipv6_clients_with_a_dead_domain_take_no_name_of_others_at_a_resolver() {
    require!(own_namespace());
    in_own_namespace(async || {
        let upstream = Authority::start(answer_others).await;
        let tier = resolver_at(Ipv6Addr::LOCALHOST.into(), &[&upstream]);
        let _crowd = Crowd::start(tier.address, FEW, in_first_network, in_one_domain);
        sleep(LEAD).await;
        let answered = ask_for_new_names(tier.address, outside_name).await;
        assert!(answered >= MIN_ANSWERED, "{answered} of {NAMES}");
    });
}

#[test]
fn a_hostile_pod_takes_nothing_from_99_others_of_its_ipv6_network() {
    require!(own_namespace());
    with_node_over_ipv6(async |tier| {
        let _crowd = Crowd::start(tier.address, 1, in_first_network, in_many_domains);
        sleep(LEAD).await;
        let pod = |number: usize| in_first_network(2 + number as u32);
        let names = [outside_name, cluster_name].map(|name| ask_for_names(tier.address, PODS - 1, pod, name));
        let answered: Vec<usize> = join_all(names).await.iter().map(Vec::len).collect();
        assert!(answered.iter().all(|answered| *answered >= PODS - 2), "{answered:?} of {}", PODS - 1);
        let metrics = tier.resolver.metrics();
        assert_eq!(metrics.drops(DropReason::GlobalLimit), 0);
        let held_back = metrics.refused_admissions(RefusalReason::Client) + metrics.drops(DropReason::ClientLimit);
        assert!(held_back > 0, "the hostile pod is held back");
    });
}

#[test]
fn an_attacker_with_an_ipv6_network_for_itself_takes_no_name_of_others() {
    require!(own_namespace());
    with_node_over_ipv6(async |tier| {
        let _crowd = Crowd::start(tier.address, ATTACKER_ADDRESSES, in_first_network, in_many_domains);
        assert_all_names_of_others_are_answered(&tier).await;
        assert!(tier.resolver.metrics().drops(DropReason::ClientLimit) > 0, "it is held back as one client");
    });
}

/// Returns the middle and the 99th percentile of these times.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times[(times.len() - 1) * percent / 100])
}

/// Prints the response times of new names of others without a crowd and with one.
async fn print_response_times(place: &str, tier: &Tier) {
    const MEASURED: usize = 1_000;
    let client = other_client(tier.address);
    let measure = async |kind: &str| {
        let name = |number: usize| format!("www.{kind}-{number}.example");
        let times = ask_for_names(tier.address, MEASURED, |_| client, name).await;
        let answered = times.len();
        let [median, p99] = percentiles(times);
        eprintln!("{place}, {kind}: {answered} of {MEASURED} answered, median {median:?}, p99 {p99:?}");
    };
    measure("idle").await;
    let _crowd = Crowd::start(tier.address, FEW, ipv4, in_many_domains);
    sleep(LEAD).await;
    measure("crowded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes; run by make test-long"]
async fn response_times_of_others_beside_a_crowd_are_measured() {
    let inside = Authority::start(answer_others).await;
    let upstream = Authority::start(answer_others).await;
    let resolver = resolver(&[&upstream]).await;
    let node = node(&inside, upstream.address).await;
    for _ in 0..2 {
        print_response_times("node", &node).await;
        print_response_times("resolver", &resolver).await;
        // Upstream queries of the crowd end.
        sleep(Duration::from_secs(5)).await;
    }
}
