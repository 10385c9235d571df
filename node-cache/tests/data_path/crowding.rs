//! Clients that fill the queries in flight with names that no server answers, beside others that ask for new names.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::rr::RecordType;
use node_cache::metrics::DropReason;
use node_cache_config::{Config, Upstream, UpstreamSource};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, config, exchange_from, exchange_over_tcp, query_for, route, zone,
};

/// Dead names in a second, of all clients that ask for them.
const RATE: u32 = 1_500;
/// Clients that ask for dead names: a few, and as many as could take all that clients may have.
const FEW: u8 = 3;
const MANY: u8 = 8;
/// Time in which the crowd fills what it can fill, before the first name of others.
const LEAD: Duration = Duration::from_millis(1500);
/// New names of others, of which one may be lost, and the time between two of them.
const NAMES: usize = 60;
const MIN_ANSWERED: usize = 59;
const INTERVAL: Duration = Duration::from_millis(25);
/// Time for which a client waits for a response, and its tries: a datagram may be lost on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(1500);
const MAX_TRIES: usize = 3;

/// Dead name of a client, by number.
type DeadName = fn(u8, u32) -> String;

/// Name number `number` of the client `client`, below one domain.
fn in_one_domain(client: u8, number: u32) -> String {
    format!("n{number}-{client}.dead.example")
}

/// Name number `number` of the client `client`, in a domain of its own.
fn in_many_domains(client: u8, number: u32) -> String {
    format!("dead{number}-{client}.example")
}

/// One name for all clients, and another one each second: single-flight, but each client waits.
fn of_each_second(_: u8, number: u32) -> String {
    format!("dead{}.example", number * u32::from(MANY) / RATE)
}

/// Ignores names of the crowd and answers all others.
fn answer_others(query: &ReceivedQuery) -> Action {
    match query.name().to_ascii().to_ascii_lowercase().contains("dead") {
        true => Action::Ignore,
        false => Action::Respond(query.default_response(300, 1)),
    }
}

/// Clients that ask for dead names until they are dropped.
struct Crowd(Vec<JoinHandle<()>>);

impl Crowd {
    fn start(server: SocketAddr, clients: u8, name: DeadName) -> Self {
        let interval_of_client = Duration::from_secs(1) * clients.into() / RATE;
        let ask = |client| {
            let socket = std::net::UdpSocket::bind(format!("127.0.1.{client}:0")).unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut ticks = interval(interval_of_client);
            // A machine that stands still for a moment sends no burst after it, which would fill the socket's buffer.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            tokio::spawn(async move {
                let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
                for number in 0.. {
                    ticks.tick().await;
                    let query = query_for(&name(client, number), RecordType::A).to_vec().unwrap();
                    // Responses are not read.
                    let _ = socket.try_send_to(&query, server);
                }
            })
        };
        Self((1..=clients).map(ask).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Asks for a new name each 25 ms as a client of its own. Returns the number of answers.
async fn ask_for_new_names(server: SocketAddr, name: fn(usize) -> String) -> usize {
    let ask = async |number: usize| {
        sleep(INTERVAL * u32::try_from(number).unwrap()).await;
        let query = query_for(&name(number), RecordType::A);
        for _ in 0..MAX_TRIES {
            if let Some(response) = exchange_from("127.0.0.9:0", server, &query, TIMEOUT).await {
                return response.answers.len();
            }
        }
        0
    };
    join_all((0..NAMES).map(ask)).await.into_iter().sum()
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
    config.node_cache.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
}

async fn resolver(upstreams: &[&Authority]) -> Tier {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = |authority: &&Authority| Upstream { address: authority.address, protocol: Default::default() };
    config.resolver.upstreams = UpstreamSource::Servers(upstreams.iter().map(upstream).collect());
    open(&mut config);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    tier
}

/// Starts the cache of a node whose cluster DNS answers everything, with a route, and with one resolver in its zone.
async fn node(inside: &Authority, outside: SocketAddr) -> Tier {
    let mut config = config(inside.address);
    config.zones = vec![zone("zone-a", outside)];
    config.routes = vec![route("corp.example", &[inside.address])];
    open(&mut config);
    Tier::on_node(&config, Some("zone-a")).await
}

async fn crowd_at_resolver(upstreams: &[&Authority], clients: u8, name: DeadName) {
    let tier = resolver(upstreams).await;
    let _crowd = Crowd::start(tier.address, clients, name);
    sleep(LEAD).await;
    let answered = ask_for_new_names(tier.address, outside_name).await;
    assert!(answered >= MIN_ANSWERED, "{answered} of {NAMES}");
}

async fn crowd_at_node(clients: u8, name: DeadName) {
    let inside = Authority::start(answer_others).await;
    let outside = Authority::start(answer_others).await;
    let tier = node(&inside, outside.address).await;
    let _crowd = Crowd::start(tier.address, clients, name);
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
    let _crowd = Crowd::start(node.address, FEW, in_one_domain);
    sleep(LEAD).await;
    let answered = [node.address, resolver.address].map(|server| ask_for_new_names(server, outside_name));
    let answered = join_all(answered).await;
    assert!(answered.iter().all(|answered| *answered >= MIN_ANSWERED), "{answered:?} of {NAMES}");
}

#[tokio::test]
async fn a_dead_domain_takes_no_name_of_others_over_tcp() {
    let upstream = Authority::start(answer_others).await;
    let tier = resolver(&[&upstream]).await;
    let _crowd = Crowd::start(tier.address, FEW, in_one_domain);
    sleep(LEAD).await;
    for number in 0..NAMES {
        let query = query_for(&outside_name(number), RecordType::A);
        assert_eq!(exchange_over_tcp(tier.address, &query).await.answers.len(), 1, "{number}");
    }
}
