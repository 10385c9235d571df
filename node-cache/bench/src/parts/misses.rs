//! Part `misses`: latency of a miss beside a query to the upstream itself, and its CPU time.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::host::processors::{CLIENT_CPU, SERVER_CPU, pin_current_thread};
use crate::load::flow::Flow;
use crate::load::plan::{Outcome, Plan};
use crate::load::queries;
use crate::report::bars::Bars;
use crate::report::labels::OURS;
use crate::report::table::{Better, Column, Goal, Table, format_number};
use crate::servers::process::ServerProcess;
use crate::servers::subject::{AMPLE_CACHE, Subject};
use crate::servers::upstream::{Upstream, four_addresses};

/// Queries of a turn, and turns; those to the server and those to the upstream itself alternate.
const QUERIES_PER_TURN: u64 = 250;
const TURNS: u64 = 24;
/// Queries per second of an open loop in which each query finds a server that sleeps.
const SLEEPING_RATE: f64 = 8_000.0;
/// Queries in flight of the closed loop with a window.
const WINDOW: usize = 64;
/// Queries with a window, and their time limit.
const WINDOW_QUERIES: u64 = 150_000;
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Maximum microseconds of latency that a miss may add to a direct query.
const GOAL: f64 = 15.0;

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("direct µs", "direct_p50_us"),
    Column("miss µs", "miss_p50_us"),
    Column("added µs", "added_p50_us"),
    Column("added µs, asleep", "added_p50_us_at_8000_per_s"),
    Column("miss p99 µs", "miss_p99_us"),
    Column("CPU µs, 1", "cpu_us_window_1"),
    Column("CPU µs, 64", "cpu_us_window_64"),
    Column("misses/s, 64", "misses_per_s_window_64"),
    Column("upstream queries", "upstream_queries_per_miss"),
    Column("lost", "lost"),
];

pub(super) const TITLE: &str = "What a cache miss costs";

pub(crate) fn run(prefix: Option<&str>) {
    pin_current_thread(CLIENT_CPU);
    let folder = tempfile::tempdir().unwrap();
    let mut table = Table::new("misses", COLUMNS);
    let mut bars = Bars::new("µs that a miss adds to a direct query (p50)");
    let mut added_by_us = f64::NAN;
    let mut added_by_us_asleep = f64::NAN;
    for subject in Subject::installed(prefix) {
        // On the server's processor: what is added is then the server's own work, without waking another processor.
        let upstream = Upstream::new(four_addresses).spawn(SERVER_CPU);
        let server = subject.spawn(folder.path(), upstream.address(), AMPLE_CACHE);
        if !subject.wait_until_ready(&server, || ()) {
            continue;
        }
        let mut single = query_one_by_one(&server, upstream.address(), None, 0);
        let mut asleep = query_one_by_one(&server, upstream.address(), Some(SLEEPING_RATE), 3);
        drop(server);
        drop(upstream);
        let Some(windowed) = query_with_window(&subject, folder.path()) else { continue };
        let direct = single.direct.per_mille(500);
        let miss = single.miss.per_mille(500);
        let added_asleep = asleep.miss.per_mille(500) - asleep.direct.per_mille(500);
        if subject.name() == OURS {
            added_by_us = miss - direct;
            added_by_us_asleep = added_asleep;
        }
        bars.add(subject.name(), miss - direct);
        table.add(vec![
            subject.name().into(),
            subject.version(),
            format_number(direct),
            format_number(miss),
            format_number(miss - direct),
            format_number(added_asleep),
            format_number(single.miss.per_mille(990)),
            format_number(single.cpu_us),
            format_number(windowed.cpu_us),
            format!("{:.0}", windowed.rate),
            format!("{:.2}", windowed.upstream_queries),
            format!("{}", single.lost() + asleep.lost() + windowed.lost),
        ]);
    }
    if prefix.is_some() {
        return;
    }
    let goal = |subject: &str, added: f64| Goal {
        subject: subject.into(),
        wanted: format!("≤ {GOAL:.0} µs"),
        measured: format!("{} µs", format_number(added)),
        is_reached: added <= GOAL,
    };
    let goals = [
        goal("latency that a miss adds to a direct query (p50)", added_by_us),
        goal("latency that it adds when the server sleeps (p50)", added_by_us_asleep),
    ];
    let better = table.compare_all(&[
        (4, Better::Lower),
        (5, Better::Lower),
        (7, Better::Lower),
        (8, Better::Lower),
        (9, Better::Higher),
    ]);
    table.publish_chart(&bars.svg());
    table.publish(TITLE, METHOD, &goals, &format!("![Bars: microseconds that a miss adds](misses.svg)\n\n{better}"));
}

pub(super) const METHOD: &str = "Each server forwards over UDP to an upstream that answers every query at
once with four addresses, on the loopback interface of a network namespace of their own. Every query is for a name that
was not queried before.

*direct*, *miss*, *added*, *CPU, 1*: one query is in flight, and the next one follows its response at once. Server and
upstream share the first processor, the client waits on the second one without sleeping. In turns of 250, 6,000
queries go to the server and as many to the upstream itself (*direct*); *added* is the difference of their medians. So
it is the server's own work and its switches to the upstream, while a real upstream would also have to wake the
server's processor, whichever server it is. *CPU* is the CPU time of the server's process per response, kernel
included. There are states some 10 µs apart, for minutes at a time: in one of them a query comes at the very moment at
which the server goes to sleep after its last response, which is when it is slowest to wake. Where this happens to the
upstream in direct queries, and not to the server, *added* is below zero. So *added, asleep* is *added* once more with
8,000 queries per second at planned times: each finds a server that sleeps, with its data out of the processor's
caches.

*64*: 64 queries are in flight. The server has the first processor alone; client and upstream are one program on the
second. *upstream queries* are those that the upstream got for each query to the server: more than 1.00 is load that the
server adds, less are responses without a query to the upstream.";

/// Result of queries one by one.
struct OneByOne {
    direct: Outcome,
    miss: Outcome,
    /// Microseconds of CPU time per response.
    cpu_us: f64,
}

impl OneByOne {
    const fn lost(&self) -> u64 {
        self.miss.lost + self.direct.lost
    }
}

/// Sends queries for names of a set to a server and to the upstream itself, one at a time.
fn query_one_by_one(server: &ServerProcess, upstream: SocketAddr, rate: Option<f64>, set: u8) -> OneByOne {
    let mut server_client = Flow::new(server.address, 1);
    let mut direct_client = Flow::new(upstream, 1);
    let plan = Plan { queries: QUERIES_PER_TURN, time_limit: TIME_LIMIT, rate, window: 1 };
    let mut total = OneByOne { direct: Outcome::default(), miss: Outcome::default(), cpu_us: 0.0 };
    let mut cpu_time = 0.0;
    // The first turn of both is a warm-up.
    for turn in 0..=TURNS {
        let name = |number, out: &mut Vec<u8>| queries::append_of_set(set, turn * QUERIES_PER_TURN + number, out);
        let before = server.cpu_time();
        let miss = server_client.run(plan, &mut { name }, || ());
        let after = server.cpu_time();
        let direct = direct_client.run(plan, &mut { name }, || ());
        if turn > 0 {
            cpu_time += after - before;
            add_turn(&mut total.miss, miss);
            add_turn(&mut total.direct, direct);
        }
    }
    total.cpu_us = cpu_time / (1000.0 * total.miss.answered.max(1) as f64);
    total
}

fn add_turn(total: &mut Outcome, turn: Outcome) {
    total.answered += turn.answered;
    total.lost += turn.lost;
    total.latencies.extend(turn.latencies);
}

/// Result of queries with a window in flight.
struct Windowed {
    /// Responses per second.
    rate: f64,
    /// Microseconds of CPU time per response.
    cpu_us: f64,
    /// Queries that the upstream got per response.
    upstream_queries: f64,
    lost: u64,
}

fn query_with_window(subject: &Subject, folder: &Path) -> Option<Windowed> {
    let mut upstream = Upstream::new(four_addresses);
    let server = subject.spawn_ready(folder, &mut upstream, AMPLE_CACHE)?;
    let mut client = Flow::new(server.address, 4);
    let warm_up = Plan { queries: WINDOW_QUERIES / 20, time_limit: TIME_LIMIT, rate: None, window: WINDOW };
    client.run(warm_up, &mut |number, out| queries::append_of_set(1, number, out), || upstream.serve_pending());
    let cpu_time_before = server.cpu_time();
    let upstream_queries_before = upstream.queries();
    let plan = Plan { queries: WINDOW_QUERIES, ..warm_up };
    let mut source = |number, out: &mut Vec<u8>| queries::append_of_set(2, number, out);
    let outcome = client.run(plan, &mut source, || upstream.serve_pending());
    let answered = outcome.answered.max(1) as f64;
    Some(Windowed {
        rate: outcome.rate(),
        cpu_us: (server.cpu_time() - cpu_time_before) / answered / 1000.0,
        upstream_queries: (upstream.queries() - upstream_queries_before) as f64 / answered,
        lost: outcome.lost + outcome.failed,
    })
}
