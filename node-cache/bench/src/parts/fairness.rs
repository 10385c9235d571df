//! Part `fairness`: latency and hits of other clients while one client floods a server with names that are in no cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::host::processors::{CLIENT_CPU, pin_current_thread};
use crate::load::flow::{Flow, Progress};
use crate::load::plan::{Outcome, Plan, median_per_mille, pool_latencies};
use crate::load::queries;
use crate::report::labels::OURS;
use crate::report::table::{Better, Column, Goal, Table, format_number};
use crate::servers::subject::{CacheSize, Subject};
use crate::servers::upstream::{Answer, Upstream, four_addresses};

/// Names that the other clients query, and their queries per second.
const NAMES: u64 = 1_000;
const RATE: f64 = 5_000.0;
/// Queries per second of the flood.
const FLOOD_RATE: f64 = 50_000.0;
/// Size of the cache, less than all names of the flood take.
const CACHE_SIZE: CacheSize = CacheSize { bytes: 16 << 20, names: 60_000 };
/// Seconds of a turn, and turns with and without a flood.
const TURN_SECONDS: f64 = 0.1;
const TURNS: usize = 45;
const TURN_TIME_LIMIT: Duration = Duration::from_secs(10);
/// Turns of the warm-up, in which every name is queried more than once.
const WARM_UP_TURNS: usize = 60;
/// Address of the other clients; the flood comes from 127.0.0.1.
const OTHER_CLIENTS: &str = "127.0.0.2";
/// Latency in microseconds of a query that has no response.
const NEVER: f64 = u32::MAX as f64 / 1000.0;
/// Maximum factor by which p99 of the other clients may grow.
const MAX_P99_RATIO: f64 = 2.0;
/// Minimum percentage of hits of the other clients.
const MIN_HIT_PERCENT: f64 = 98.0;

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("p50 alone", "alone_p50_us"),
    Column("p99 alone", "alone_p99_us"),
    Column("p50", "flooded_p50_us"),
    Column("p99", "flooded_p99_us"),
    Column("p99 ÷ alone", "p99_ratio"),
    Column("p99 of all", "flooded_p99_us_of_all"),
    Column("hits %", "hits_percent"),
    Column("unanswered", "unanswered"),
    Column("flood/s", "flood_answered_per_s"),
];

pub(super) const TITLE: &str = "One client that floods a server";

pub(crate) fn run(prefix: Option<&str>) {
    pin_current_thread(CLIENT_CPU);
    let folder = tempfile::tempdir().unwrap();
    let mut table = Table::new("fairness", COLUMNS);
    let mut our_p99_ratio = f64::NAN;
    let mut our_hits = f64::NAN;
    for subject in Subject::installed(prefix).into_iter().filter(Subject::has_distinct_cache) {
        let mut upstream = Upstream::new(zone_data);
        let Some(server) = subject.spawn_ready(folder.path(), &mut upstream, CACHE_SIZE) else { continue };
        let mut clients = Clients {
            others: Flow::from(OTHER_CLIENTS, server.address, 4),
            flooding: Flow::new(server.address, 4),
            upstream,
            used_names: 0,
        };
        for _ in 0..WARM_UP_TURNS {
            clients.take_turn(false);
        }
        let mut turns_alone = Vec::new();
        let mut turns_flooded = Vec::new();
        for _ in 0..TURNS {
            turns_alone.push(clients.take_turn(false));
            turns_flooded.push(clients.take_turn(true));
        }
        let alone = Summary::of(&turns_alone);
        let flooded = Summary::of(&turns_flooded);
        let hits = 100.0 * (1.0 - flooded.upstream_queries as f64 / flooded.answered.max(1) as f64);
        let p99_ratio = flooded.p99 / alone.p99;
        if subject.name() == OURS {
            our_p99_ratio = p99_ratio;
            our_hits = hits;
        }
        table.add(vec![
            subject.name().into(),
            subject.version(),
            format_number(alone.p50),
            format_number(alone.p99),
            format_number(flooded.p50),
            format_number(flooded.p99),
            format_number(p99_ratio),
            if flooded.p99_of_all < NEVER { format_number(flooded.p99_of_all) } else { "never".into() },
            format!("{hits:.2}"),
            flooded.unanswered.to_string(),
            format!("{:.0}", flooded.flood_rate),
        ]);
    }
    if prefix.is_some() {
        return;
    }
    let goals = [
        Goal {
            subject: "p99 of the other clients, as a multiple of p99 without a flood".into(),
            wanted: format!("≤ {MAX_P99_RATIO:.0}"),
            measured: format_number(our_p99_ratio),
            is_reached: our_p99_ratio <= MAX_P99_RATIO,
        },
        Goal {
            subject: "hits of the other clients".into(),
            wanted: format!("≥ {MIN_HIT_PERCENT:.0} %"),
            measured: format!("{our_hits:.2} %"),
            is_reached: our_hits >= MIN_HIT_PERCENT,
        },
    ];
    let better = table.compare_all(&[(5, Better::Lower), (6, Better::Lower), (7, Better::Lower), (8, Better::Higher)]);
    table.publish(TITLE, METHOD, &goals, &better);
}

pub(super) const METHOD: &str = "A server with a cache of 16 MiB (or 60,000 names) holds 1,000 names, which other
clients query 5,000 times per second, at planned times. They do so alone for a tenth of a second, and then while one
client, from an address of its own, queries 50,000 names per second that are in no cache; 45 times each, in turns. A
percentile, in microseconds from a query's planned time to its response, is the median of the turns: a virtual machine
that stands still for a millisecond some times a second says nothing about servers, but made p99 of a second and a
half anything from 49 to 3,600 µs. *p99 of all* is that of all queries of the flooded turns together, with what the
machine has added. *hits* are those queries of the other clients that did not reach the upstream during the flood,
*unanswered* those without a response then, *flood/s* the responses to the flooding client. The server runs alone on
the first processor; all clients and the upstream are one program on the second, whose own work for the flood is part
of the others' latency.";

/// Queries of the other clients that reached the upstream.
static OTHERS_UPSTREAM_QUERIES: AtomicU64 = AtomicU64::new(0);

fn zone_data(name: &[u8], rtype: u16) -> Answer {
    if name.windows(6).any(|part| part == b"\x05set-a") {
        OTHERS_UPSTREAM_QUERIES.fetch_add(1, Ordering::Relaxed);
    }
    four_addresses(name, rtype)
}

/// All clients of a server, and its upstream.
struct Clients {
    others: Flow,
    flooding: Flow,
    upstream: Upstream,
    /// Names that the flood has used; the next turn goes on behind them.
    used_names: u64,
}

/// Result of a turn.
struct Turn {
    others: Outcome,
    /// Queries of the other clients that reached the upstream.
    upstream_queries: u64,
    /// Responses to the flood per second.
    flood_rate: f64,
}

impl Clients {
    fn take_turn(&mut self, is_flooded: bool) -> Turn {
        let progress = |rate: f64| {
            let queries = (rate * TURN_SECONDS) as u64;
            Progress::new(Plan { queries, time_limit: TURN_TIME_LIMIT, rate: Some(rate), window: usize::MAX })
        };
        let mut others = progress(RATE);
        let mut flooding = progress(FLOOD_RATE);
        let upstream_queries = OTHERS_UPSTREAM_QUERIES.load(Ordering::Relaxed);
        let first_name = self.used_names;
        let mut known = |number: u64, out: &mut Vec<u8>| {
            queries::append_of_set(0, number.wrapping_mul(7919) % NAMES, out);
        };
        let mut unknown = |number: u64, out: &mut Vec<u8>| queries::append_of_set(1, first_name + number, out);
        let mut others_done = false;
        let mut flooding_done = !is_flooded;
        while !(others_done && flooding_done) {
            others_done = others_done || self.others.step(&mut others, &mut known);
            flooding_done = flooding_done || self.flooding.step(&mut flooding, &mut unknown);
            self.upstream.serve_pending();
        }
        self.used_names += flooding.outcome().sent;
        Turn {
            others: others.outcome().clone(),
            upstream_queries: OTHERS_UPSTREAM_QUERIES.load(Ordering::Relaxed) - upstream_queries,
            flood_rate: flooding.outcome().answered as f64 / TURN_SECONDS,
        }
    }
}

/// Summary of turns: percentiles in microseconds, and counts, of the other clients.
struct Summary {
    /// Median of the turns.
    p50: f64,
    /// Median of the turns.
    p99: f64,
    /// Of all queries together.
    p99_of_all: f64,
    answered: u64,
    upstream_queries: u64,
    unanswered: u64,
    flood_rate: f64,
}

impl Summary {
    fn of(turns: &[Turn]) -> Self {
        let others = || turns.iter().map(|turn| &turn.others);
        let sum = |count: fn(&Turn) -> u64| turns.iter().map(count).sum::<u64>();
        Self {
            p50: median_per_mille(others(), 500),
            p99: median_per_mille(others(), 990),
            p99_of_all: pool_latencies(others()).per_mille(990),
            answered: sum(|turn| turn.others.answered),
            upstream_queries: sum(|turn| turn.upstream_queries),
            unanswered: sum(|turn| turn.others.lost + turn.others.failed),
            flood_rate: turns.iter().map(|turn| turn.flood_rate).sum::<f64>() / turns.len() as f64,
        }
    }
}
