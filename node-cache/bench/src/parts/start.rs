//! Part `start`: time from starting a program to its first response.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::processors::{CLIENT_CPU, pin_current_thread, server_command};
use crate::load::flow::Flow;
use crate::load::queries;
use crate::report::bars::Bars;
use crate::report::labels::OURS;
use crate::report::table::{Better, Column, Goal, Table, format_number};
use crate::servers::subject::{CacheSize, Subject};
use crate::servers::upstream::{Upstream, four_addresses};
use crate::statistics::median;

/// Starts of each server.
const STARTS: usize = 15;
/// Queries per second.
const RATE: f64 = 5_000.0;
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum milliseconds until DnsTier's first response.
const GOAL: f64 = 20.0;
/// Usual size of a cache.
const CACHE_SIZE: CacheSize = CacheSize { bytes: 64 << 20, names: 100_000 };

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("median ms", "median_ms"),
    Column("min ms", "min_ms"),
    Column("max ms", "max_ms"),
    Column("CPU ms", "cpu_ms"),
    Column("starts", "starts"),
];

pub(super) const TITLE: &str = "From starting a program to its first response";

/// One start of a server, in milliseconds.
#[derive(Clone, Copy)]
struct Start {
    /// Until its first response.
    time: f64,
    /// CPU time until then.
    cpu_time: f64,
}

pub(crate) fn run(prefix: Option<&str>) {
    pin_current_thread(CLIENT_CPU);
    let folder = tempfile::tempdir().unwrap();
    let mut table = Table::new("start", COLUMNS);
    let mut bars = Bars::new("ms from starting a program to its first response");
    let mut ours = f64::NAN;
    for subject in Subject::installed(prefix) {
        let starts: Vec<Start> = (0..STARTS).filter_map(|_| start(&subject, folder.path())).collect();
        if starts.is_empty() {
            println!("{} does not answer and is left out", subject.name());
            continue;
        }
        let times: Vec<f64> = starts.iter().map(|start| start.time).collect();
        let cpu_times: Vec<f64> = starts.iter().map(|start| start.cpu_time).collect();
        let median_time = median(&times);
        if subject.name() == OURS {
            ours = median_time;
        }
        bars.add(subject.name(), median_time);
        table.add(vec![
            subject.name().into(),
            subject.version(),
            format_number(median_time),
            format_number(times.iter().copied().fold(f64::INFINITY, f64::min)),
            format_number(times.iter().copied().fold(0.0, f64::max)),
            format_number(median(&cpu_times)),
            format!("{}", times.len()),
        ]);
    }
    if prefix.is_some() {
        return;
    }
    let goal = Goal {
        subject: "first response of a zone resolver with its configuration".into(),
        wanted: format!("≤ {GOAL:.0} ms"),
        measured: format!("{} ms", format_number(ours)),
        is_reached: ours <= GOAL,
    };
    let better = table.compare_all(&[(2, Better::Lower)]);
    let method = format!("{METHOD} That is {} ms (median).", format_number(launcher_time()));
    table.publish_chart(&bars.svg());
    let remarks = format!("![Bars: milliseconds to the first response](start.svg)\n\n{better}");
    table.publish(TITLE, &method, &[goal], &remarks);
}

pub(super) const METHOD: &str = "Each server is started 15 times with its configuration on disk and its files in the
page cache, alone on the first processor. From the moment it is started it gets a query for a new name each 0.2 ms,
until it answers one of them from an upstream that answers at once: a response with a failure does not count. DnsTier
is the program `zone-resolver` with a cache of 64 MiB: caches on a node get their sockets from the agent and have
nothing else to do. *CPU* is the CPU time of the process until then. All are started by `setpriv` and `taskset`, whose
own time is in all figures.";

/// Starts a server; `None` where it does not answer in time.
fn start(subject: &Subject, folder: &Path) -> Option<Start> {
    let mut upstream = Upstream::new(four_addresses);
    let started = Instant::now();
    let server = subject.spawn(folder, upstream.address(), CACHE_SIZE);
    let mut client = Flow::new(server.address, 1);
    let mut source = |number, out: &mut Vec<u8>| queries::append_of_set(0, number, out);
    let is_answered = client.run_until_answered(RATE, START_TIMEOUT, &mut source, || upstream.serve_pending());
    let time = started.elapsed().as_secs_f64() * 1000.0;
    is_answered.then(|| Start { time, cpu_time: server.cpu_time() / 1e6 })
}

/// Returns the milliseconds that `setpriv` and `taskset` take before they become the server.
fn launcher_time() -> f64 {
    let times: Vec<f64> = (0..STARTS)
        .map(|_| {
            let started = Instant::now();
            let _ = server_command().arg("true").status();
            let launched = started.elapsed();
            let started = Instant::now();
            let _ = Command::new("true").status();
            launched.saturating_sub(started.elapsed()).as_secs_f64() * 1000.0
        })
        .collect();
    median(&times)
}
