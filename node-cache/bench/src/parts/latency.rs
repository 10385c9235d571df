//! Part `latency`: latency of hits at planned times (open loop), whether or not earlier queries were answered.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::host::processors::{CLIENT_CPU, SERVER_CPU, pin_current_thread};
use crate::load::flow::Flow;
use crate::load::plan::{Outcome, Plan, median_per_mille};
use crate::load::queries;
use crate::report::lines::Lines;
use crate::report::table::{Better, Column, Table, format_number};
use crate::servers::process::ServerProcess;
use crate::servers::subject::{AMPLE_CACHE, Subject};
use crate::servers::upstream::{Upstream, four_addresses};

/// Names in the cache.
const NAMES: u64 = 1_000;
/// Sockets of the client.
const SOCKETS: usize = 4;
/// Rates in queries per second, equal for all servers.
const RATES: [f64; 3] = [1_000.0, 10_000.0, 50_000.0];
/// Rate of the chart, as a place in [`RATES`].
const CHART_RATE: usize = 1;
/// Rates as shares of each server's capacity.
const SHARES: [f64; 3] = [0.1, 0.5, 0.8];
/// Seconds of each rate, and the number of queries that is enough before.
const SECONDS_PER_RATE: f64 = 4.5;
const MAX_QUERIES_PER_RATE: f64 = 200_000.0;
const RATE_TIME_LIMIT: Duration = Duration::from_secs(20);
/// Turns of each rate, in turns with the other rates, so that a short disturbance of the machine does not decide.
const TURNS: usize = 3;
/// Percentiles per mille: p50, p99 and p99.9.
const PERCENTILES: [usize; 3] = [500, 990, 999];
/// Queries in flight while a server's capacity is measured, and the time of each of three measurements.
const CAPACITY_WINDOW: usize = 128;
const CAPACITY_TIME: Duration = Duration::from_millis(700);
/// Share of the time below which a server does not work so much that it limits the responses.
const MIN_BUSY_SHARE: f64 = 0.9;
/// Rounds of all names that a server has to learn them.
const MAX_WARM_UP_ROUNDS: usize = 20;

/// Name of the upstream in the table: it parses the query only and writes the same addresses behind it.
const NO_CACHE: &str = "no cache at all";

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("load", "load"),
    Column("queries/s", "queries_per_s"),
    Column("p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("p99.9 µs", "p999_us"),
    Column("lost", "lost"),
    Column("late %", "client_late_percent"),
    Column("queries", "queries"),
];

pub(super) const TITLE: &str = "Latency of cache hits";

pub(crate) fn run(prefix: Option<&str>) {
    pin_current_thread(CLIENT_CPU);
    let folder = tempfile::tempdir().unwrap();
    let mut table = Table::new("latency", COLUMNS);
    let mut chart = Lines::new("p50, p99 and p99.9 in µs at 10,000 queries per second");
    let upstream = Upstream::new(four_addresses).spawn(SERVER_CPU);
    let no_cache = Measured { name: NO_CACHE, version: "" };
    no_cache.measure(upstream.address(), || f64::NAN, &mut table, &mut chart);
    drop(upstream);
    for subject in Subject::installed(prefix) {
        let Some(server) = spawn_warm(&subject, folder.path()) else { continue };
        let measured = Measured { name: subject.name(), version: &subject.version() };
        measured.measure(server.address, || server.cpu_time(), &mut table, &mut chart);
    }
    if prefix.is_some() {
        return;
    }
    let mut better = String::new();
    for load in RATES.map(rate_label).into_iter().chain(SHARES.map(share_label)) {
        better += &format!("\nAt {load}:\n\n");
        for column in 4..=6 {
            better += &table.compare(|row| row[2] == load && row[0] != NO_CACHE, column, Better::Lower);
        }
    }
    table.publish_chart(&chart.svg());
    let remarks = format!("![Lines from p50 over p99 to p99.9 of each server](latency.svg)\n{better}");
    table.publish(TITLE, METHOD, &[], &remarks);
}

pub(super) const METHOD: &str =
    "1,000 names are in the cache. Each server runs alone on the first processor, the client
on the second one, which never sleeps, in a network namespace of their own.

Queries are sent at planned times, evenly at the rate of the row (open loop), and the latency of each counts from its
planned time to its response: the delay by a stalled server, or by a stalled client, counts in full (no coordinated
omission). *late* are queries that the client itself sent more than 0.1 ms after their time; where there are many, the
row says something about the client as well. *lost* are queries without a response. Every rate is kept up three times
for a third of its time, in turns with the other rates; a percentile is the median of the three.

All servers are queried at equal rates, and at shares of their own capacity: the median of three closed loops with 128
queries in flight, in the same run (*100 %*; a row `>100 %` says that the server was not busy all the time, so that the
client's limit was measured). *no cache at all* is the upstream of this benchmark, which sends the same answer to every
query, 32 datagrams per system call: the latency of sockets and machine alone.
This is a virtual machine: waking a processor that sleeps is a part of every figure, and most of it at low rates, when
the server has always gone to sleep before the next query comes.";

fn rate_label(rate: f64) -> String {
    format!("{rate:.0}/s")
}

fn share_label(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Starts a server and waits until it has all names in its cache; `None` where it does not learn them.
fn spawn_warm(subject: &Subject, folder: &Path) -> Option<ServerProcess> {
    let mut upstream = Upstream::new(four_addresses);
    let server = subject.spawn_ready(folder, &mut upstream, AMPLE_CACHE)?;
    let mut client = Flow::new(server.address, SOCKETS);
    let plan = Plan { queries: NAMES, time_limit: Duration::from_secs(5), rate: None, window: 8 };
    for _ in 0..MAX_WARM_UP_ROUNDS {
        let before = upstream.queries();
        let outcome = client.run(plan, &mut append_known, || upstream.serve_pending());
        if outcome.answered == NAMES && upstream.queries() == before {
            return Some(server);
        }
    }
    println!("{} does not learn {NAMES} names and is left out", subject.name());
    None
}

/// Appends a query for a name in the cache, all names equally often.
fn append_known(number: u64, out: &mut Vec<u8>) {
    queries::append_of_set(0, number.wrapping_mul(7919) % NAMES, out);
}

/// Capacity of a server.
struct Capacity {
    /// Responses per second.
    rate: f64,
    /// Share of the time in which the server ran; NaN where it is not known.
    busy_share: f64,
}

/// Server as the table names it.
struct Measured<'a> {
    name: &'a str,
    version: &'a str,
}

impl Measured<'_> {
    /// Measures the server at an address; `cpu_time` returns the nanoseconds for which it has run.
    fn measure(&self, server: SocketAddr, cpu_time: impl Fn() -> f64, table: &mut Table, chart: &mut Lines) {
        let mut client = Flow::new(server, SOCKETS);
        let capacity = measure_capacity(cpu_time, &mut client);
        let label = if capacity.busy_share < MIN_BUSY_SHARE { ">100 %" } else { "100 %" };
        table.add(self.row(label, capacity.rate, &[]));
        let shares = SHARES.map(|share| (share_label(share), capacity.rate * share));
        let rates = RATES.map(|rate| (rate_label(rate), rate));
        let loads: Vec<(String, f64)> = rates.into_iter().chain(shares).collect();
        let mut turns: Vec<Vec<Outcome>> = loads.iter().map(|_| Vec::new()).collect();
        for _ in 0..TURNS {
            for ((_, rate), turns) in loads.iter().zip(&mut turns) {
                let queries = (rate * SECONDS_PER_RATE).min(MAX_QUERIES_PER_RATE.max(*rate)) / TURNS as f64;
                let plan = Plan {
                    queries: queries as u64,
                    time_limit: RATE_TIME_LIMIT,
                    rate: Some(*rate),
                    window: usize::MAX,
                };
                turns.push(client.run(plan, &mut append_known, || ()));
            }
        }
        for ((load, rate), turns) in loads.iter().zip(&turns) {
            table.add(self.row(load, *rate, turns));
        }
        chart.add(self.name, PERCENTILES.map(|share| median_per_mille(&turns[CHART_RATE], share)).to_vec());
    }

    fn row(&self, load: &str, rate: f64, turns: &[Outcome]) -> Vec<String> {
        let sum = |count: fn(&Outcome) -> u64| turns.iter().map(count).sum::<u64>();
        let sent = sum(|turn| turn.sent);
        let [p50, p99, p999] = PERCENTILES.map(|share| format_number(median_per_mille(turns, share)));
        let late = format_number(100.0 * sum(|turn| turn.late) as f64 / sent as f64);
        let lost = sum(|turn| turn.lost + turn.failed);
        let or_dash = |count: u64| if turns.is_empty() { "-".into() } else { count.to_string() };
        vec![
            self.name.into(),
            self.version.into(),
            load.into(),
            format!("{rate:.0}"),
            p50,
            p99,
            p999,
            or_dash(lost),
            late,
            or_dash(sent),
        ]
    }
}

/// Measures a server's capacity three times in a closed loop, and returns the median by rate.
fn measure_capacity(cpu_time: impl Fn() -> f64, client: &mut Flow) -> Capacity {
    let plan = Plan { queries: u64::MAX, time_limit: CAPACITY_TIME, rate: None, window: CAPACITY_WINDOW };
    let mut measurements = [(); 3].map(|()| {
        let before = cpu_time();
        let outcome = client.run(plan, &mut append_known, || ());
        Capacity { rate: outcome.rate(), busy_share: (cpu_time() - before) / (1e9 * outcome.seconds) }
    });
    measurements.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    let [_, median, _] = measurements;
    median
}
