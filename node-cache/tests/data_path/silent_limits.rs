//! Silent limits of an upstream: found, respected, their excess sent to the fallback, and forgotten when they are gone.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use node_cache::upstream::detection::state::State;
use node_cache_config::status::BUDGET_SPENT;
use node_cache_config::{PacketBudget, Upstream};

use crate::inspection::inspect;
use crate::require::require;
use crate::support::namespace::{
    end_limit, in_own_namespace, limit_new_flows, limit_packets, note_flows, own_namespace,
};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, allow_loopback, config, query_for, servers_over, wait_until,
};

/// Time for which a condition is awaited: a machine that is short of processors decides nothing for as long.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Queries a second of the clients.
const RATE: u32 = 150;
/// Time in which a query counts as answered: the client's own timeout would be five seconds.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// A zone resolver with one upstream and maybe a fallback.
struct Servers {
    upstream: Authority,
    fallback: Option<Authority>,
    tier: Tier,
}

impl Servers {
    async fn start(has_fallback: bool, script: impl Fn(&ReceivedQuery) -> Action + Send + 'static) -> Self {
        let upstream = Authority::start(script).await;
        let mut config = config("127.0.0.1:9".parse().unwrap());
        config.resolver.upstreams = servers_over(&[upstream.address], node_cache_config::Protocol::Udp);
        let mut fallback = None;
        if has_fallback {
            let authority = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
            config.resolver.fallback = vec![Upstream::from(authority.address)];
            fallback = Some(authority);
        }
        allow_loopback(&mut config);
        let tier = Tier::start(Default::default());
        tier.apply_forwarding(&config);
        Self { upstream, fallback, tier }
    }

    /// Returns the verdict on the upstream.
    fn verdict(&self) -> State {
        let servers = self.tier.resolver.snapshot().unwrap().servers();
        servers.iter().find(|(scope, _)| scope == "forward").and_then(|(_, server)| server.verdict()).unwrap()
    }

    /// Returns whether the upstream counts as up.
    fn is_upstream_up(&self) -> bool {
        let servers = self.tier.resolver.snapshot().unwrap().servers();
        servers.iter().any(|(scope, server)| scope == "forward" && server.is_up())
    }

    /// Waits until a verdict holds.
    async fn wait_for(&self, name: &str, holds: impl Fn(State) -> bool) {
        let started = Instant::now();
        wait_until(name, TIMEOUT, async || holds(self.verdict())).await;
        eprintln!("{name}: {:?} after {:?}", self.verdict(), started.elapsed());
    }

    /// Counts the queries that reach the upstream and the fallback in the time to come.
    async fn packets(&self, time: Duration) -> (usize, usize) {
        self.upstream.clear_queries();
        let fallback = self.fallback.as_ref();
        fallback.inspect(|fallback| fallback.clear_queries());
        tokio::time::sleep(time).await;
        (self.upstream.queries().len(), fallback.map_or(0, |fallback| fallback.queries().len()))
    }
}

/// Load of new names in a hundred domains, from a thread of its own.
struct Load {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(Instant, Option<u8>)>>,
}

impl Load {
    fn start(server: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        Self { is_over, thread: std::thread::spawn(move || send_queries(server, &stop)) }
    }

    /// Ends the load, and returns when each query was sent and its rcode; `None` without an answer in time.
    fn end(self) -> Vec<(Instant, Option<u8>)> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Sends queries until it is over.
fn send_queries(server: SocketAddr, is_over: &AtomicBool) -> Vec<(Instant, Option<u8>)> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut packet = query_for("n000000.d00.example", RecordType::A).to_vec().unwrap();
    let mut queries: Vec<(Instant, Option<u8>)> = Vec::new();
    let mut by_id = HashMap::new();
    let mut next = Instant::now();
    let mut end: Option<Instant> = None;
    while end.is_none_or(|end| Instant::now() < end) {
        let now = Instant::now();
        if end.is_none() && is_over.load(Ordering::Relaxed) {
            end = Some(now + ANSWER_TIME);
        }
        // What a slow machine has missed is not made up for.
        next = next.max(now.checked_sub(Duration::from_millis(50)).unwrap_or(now));
        while end.is_none() && next <= now {
            let number = queries.len();
            packet[..2].copy_from_slice(&(number as u16).to_be_bytes());
            let digits = format!("{number:06}");
            packet[14..20].copy_from_slice(digits.as_bytes());
            packet[22..24].copy_from_slice(&digits.as_bytes()[4..]);
            let _ = socket.send(&packet);
            by_id.insert(number as u16, number);
            queries.push((Instant::now(), None));
            next += Duration::from_secs(1) / RATE;
        }
        let mut buffer = [0; 512];
        while let Ok(length) = socket.recv(&mut buffer) {
            assert!(length >= 12);
            let number = by_id[&u16::from_be_bytes([buffer[0], buffer[1]])];
            if queries[number].0.elapsed() <= ANSWER_TIME {
                queries[number].1 = Some(buffer[3] & 15);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    queries
}

/// Returns the share of queries sent from this time on that were answered NOERROR.
fn answered(queries: &[(Instant, Option<u8>)], from: Instant) -> f64 {
    let rcodes: Vec<_> = queries.iter().filter(|(sent_at, _)| *sent_at >= from).map(|(_, rcode)| *rcode).collect();
    rcodes.iter().filter(|rcode| **rcode == Some(0)).count() as f64 / rcodes.len().max(1) as f64
}

fn has_ceiling(verdict: State) -> bool {
    matches!(verdict, State::Held { ceiling: Some(ceiling), .. } if ceiling < 60.0)
}

#[test]
#[ignore = "a machine that is short of processors decides nothing; run by make test-long"]
fn a_silent_limit_is_found_its_excess_goes_to_the_fallback_and_all_comes_back_when_it_is_gone() {
    require!(own_namespace());
    in_own_namespace(|| async {
        let servers = Servers::start(true, |query| Action::Respond(query.default_response(300, 1))).await;
        let load = Load::start(servers.tier.address);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(servers.verdict(), State::Well);
        limit_packets(servers.upstream.address.port(), Some(60));
        let limited_at = Instant::now();
        servers.wait_for("a ceiling is in force", has_ceiling).await;
        servers.wait_for("the cause is known", |verdict| verdict.name() == "limited").await;
        let (upstream, fallback) = servers.packets(Duration::from_secs(5)).await;
        assert!(upstream <= 5 * 63, "{upstream} packets reached the upstream in 5 s");
        assert!(fallback >= 5 * RATE as usize / 3, "{fallback} packets reached the fallback in 5 s");
        let text = inspect(&servers.tier, &format!("explain {}", servers.upstream.address)).await;
        for part in
            ["  limits          limited, at most ", "  told            limited: ", "  suspected\n", "  limited\n"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        end_limit();
        let is_back = |verdict| matches!(verdict, State::Returning { .. } | State::Well);
        servers.wait_for("all traffic is back", is_back).await;
        let (upstream, fallback) = servers.packets(Duration::from_secs(2)).await;
        // What is slower than the p95 latency still goes there, too.
        assert!(fallback * 10 <= upstream, "{fallback} of {upstream} packets still reach the fallback");
        let share = answered(&load.end(), limited_at + Duration::from_secs(2));
        assert!(share >= 0.999, "{share}");
    });
}

#[test]
#[ignore = "a machine that is short of processors decides nothing; run by make test-long"]
fn where_new_flows_have_no_room_ports_are_kept_and_nearly_all_is_answered_by_the_upstream() {
    require!(own_namespace());
    in_own_namespace(|| async {
        let servers = Servers::start(true, |query| Action::Respond(query.default_response(300, 1))).await;
        note_flows(servers.upstream.address.port());
        let load = Load::start(servers.tier.address);
        // Some ports are kept answered by then.
        tokio::time::sleep(Duration::from_secs(12)).await;
        limit_new_flows(20);
        let limited_at = Instant::now();
        servers.wait_for("new flows are known to have no room", |verdict| verdict.name() == "flows limited").await;
        assert!(matches!(servers.verdict(), State::Held { ceiling: None, .. }), "{:?}", servers.verdict());
        let (upstream, fallback) = servers.packets(Duration::from_secs(5)).await;
        // What is slower than the p95 latency, or seldom has a fresh port, still goes to the fallback.
        assert!(upstream >= 4 * RATE as usize && fallback * 4 <= upstream, "{upstream} and {fallback} packets");
        let share = answered(&load.end(), limited_at + Duration::from_secs(2));
        assert!(share >= 0.999, "{share}");
    });
}

#[test]
#[ignore = "a machine that is short of processors decides nothing; run by make test-long"]
fn a_silent_upstream_gets_probes_only_while_the_fallback_answers_and_returns_by_itself() {
    require!(own_namespace());
    in_own_namespace(|| async {
        let servers = Servers::start(true, |query| Action::Respond(query.default_response(300, 1))).await;
        let load = Load::start(servers.tier.address);
        tokio::time::sleep(Duration::from_secs(4)).await;
        servers.upstream.stop_responding();
        let silent_at = Instant::now();
        // A process that was short of processors leaves it to the circuit breaker.
        let is_silent = async || servers.verdict() == State::Silent || !servers.is_upstream_up();
        wait_until("it is silent", TIMEOUT, is_silent).await;
        let (upstream, _) = servers.packets(Duration::from_secs(3)).await;
        assert!((1..=45).contains(&upstream), "{upstream} packets in 3 s");
        servers.upstream.set_script(|query| Action::Respond(query.default_response(300, 1)));
        let is_back =
            async || matches!(servers.verdict(), State::Returning { .. } | State::Well) && servers.is_upstream_up();
        wait_until("all traffic is back", TIMEOUT, is_back).await;
        let share = answered(&load.end(), silent_at + Duration::from_secs(2));
        assert!(share >= 0.999, "{share}");
    });
}

#[tokio::test]
async fn a_packet_budget_below_the_need_is_told_with_the_need_and_its_rate() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = servers_over(&[upstream.address], node_cache_config::Protocol::Udp);
    let servers = vec![upstream.address];
    config.resolver.packet_budgets =
        vec![PacketBudget { servers, packets_per_second: RATE / 3, in_flight: None, processes: 1 }];
    allow_loopback(&mut config);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    let load = Load::start(tier.address);
    let throttle = || {
        let upstreams = tier.resolver.snapshot().unwrap().upstreams();
        upstreams.into_iter().find_map(|upstream| upstream.detection).and_then(|detection| detection.throttle)
    };
    wait_until("it is told", TIMEOUT, async || throttle().is_some()).await;
    let told = throttle().unwrap();
    assert_eq!((told.state.as_str(), told.answered), (BUDGET_SPENT, RATE / 3));
    assert!((RATE / 2..2 * RATE).contains(&told.offered), "{told:?}");
    drop(load.end());
}

/// Asserts that no verdict comes while nobody answers new names for which `is_dead` holds, for 20 s. What the upstream
/// has answered before is in its cache.
fn assert_no_verdict(is_dead: impl Fn(&ReceivedQuery) -> bool + Send + 'static) {
    require!(own_namespace());
    in_own_namespace(|| async {
        let are_some_dead = Arc::new(AtomicBool::new(false));
        let (is_begun, cache) = (are_some_dead.clone(), Mutex::new(HashSet::new()));
        let servers = Servers::start(false, move |query| {
            let (name, mut cache) = (query.name().to_lowercase(), cache.lock().unwrap());
            if is_begun.load(Ordering::Relaxed) && !cache.contains(&name) && is_dead(query) {
                return Action::Ignore;
            }
            cache.insert(name);
            Action::Respond(query.default_response(300, 1))
        })
        .await;
        let load = Load::start(servers.tier.address);
        tokio::time::sleep(Duration::from_secs(4)).await;
        are_some_dead.store(true, Ordering::Relaxed);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            let verdict = servers.verdict();
            assert!(matches!(verdict, State::Well | State::Suspected), "{verdict:?} after {:?}", started.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let queries = load.end();
        assert!(queries.len() > 24 * RATE as usize / 4, "{} queries", queries.len());
    });
}

#[test]
fn names_that_nobody_answers_are_no_limit_when_they_are_30_percent_of_all() {
    assert_no_verdict(|query| {
        let number: Option<u32> = query.name().to_ascii().get(1..7).and_then(|digits| digits.parse().ok());
        // Spread over all domains and all times.
        number.is_some_and(|number| (number.wrapping_mul(2_654_435_761) >> 16) % 10 < 3)
    });
}

#[test]
fn dead_domains_with_a_tenth_of_the_queries_are_no_limit() {
    assert_no_verdict(|query| query.name().to_ascii().split('.').nth(1).is_some_and(|domain| domain.ends_with('7')));
}
