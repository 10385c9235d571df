//! From starting a program to its first answer.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::load::flow::Flow;
use crate::load::queries as names;
use crate::report::charts::Bars;
use crate::report::table::{Column, Goal, Report, number};
use crate::servers::process::stay_on;
use crate::servers::subject::{OURS, Room, Subject};
use crate::servers::upstream::Upstream;

/// Starts of each server.
const STARTS: usize = 15;
/// Questions a second.
const RATE: f64 = 5_000.0;
/// What takes longer is no start.
const LIMIT: Duration = Duration::from_secs(10);
/// Milliseconds within which ours shall answer.
const GOAL: f64 = 20.0;
/// What is usual for a cache.
const ROOM: Room = Room { bytes: 64 << 20, names: 100_000 };

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("median ms", "median_ms"),
    Column("least ms", "least_ms"),
    Column("most ms", "most_ms"),
    Column("CPU ms", "cpu_ms"),
    Column("starts", "starts"),
];

pub(crate) fn run(only: Option<&str>) {
    stay_on(1);
    let folder = tempfile::tempdir().unwrap();
    let mut report = Report::new("start", COLUMNS);
    let mut bars = Bars::new("ms from starting a program to its first answer");
    let mut ours = f64::NAN;
    for subject in Subject::all(only) {
        let starts: Vec<(f64, f64)> = (0..STARTS).filter_map(|_| start(&subject, folder.path())).collect();
        if starts.is_empty() {
            println!("{} does not answer and is left out", subject.name());
            continue;
        }
        let mut times: Vec<f64> = starts.iter().map(|(time, _)| *time).collect();
        let mut work: Vec<f64> = starts.iter().map(|(_, work)| *work).collect();
        times.sort_by(f64::total_cmp);
        work.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        if subject.name() == OURS {
            ours = median;
        }
        bars.add(subject.name(), median);
        report.add(vec![
            subject.name().into(),
            subject.version(),
            number(median),
            number(times[0]),
            number(times[times.len() - 1]),
            number(work[work.len() / 2]),
            format!("{}", times.len()),
        ]);
    }
    if only.is_some() {
        return;
    }
    let goal = Goal {
        what: "the first answer of a zone resolver with its configuration".into(),
        wanted: format!("≤ {GOAL:.0} ms"),
        measured: format!("{} ms", number(ours)),
        reached: ours <= GOAL,
    };
    let better = report.better(|_| true, 2, true);
    let method = format!("{METHOD} That is {} ms (median).", number(wrapper()));
    report.write("svg", &bars.picture());
    let remarks = format!("![Bars: milliseconds to the first answer](start.svg)\n\n{better}");
    report.publish("From starting a program to its first answer", &method, &[goal], &remarks);
}

const METHOD: &str = "Each server is started 15 times with its configuration on disk and its files in the page cache, alone on the
first processor, and is asked a new name each 0.2 ms from the moment it is started, until one of them is answered out of an
upstream that answers at once: an answer that says the server cannot do so yet does not count. DnsTier is the program
`zone-resolver` with a cache of 64 MiB: caches on a node get their sockets from the agent and have nothing else to do. *CPU* is the
processor time of the process until then. All are started by `taskset`, whose own time is in all figures.";

/// Milliseconds until it answers, and milliseconds for which it ran.
fn start(subject: &Subject, folder: &Path) -> Option<(f64, f64)> {
    let mut upstream = Upstream::new(names::four_addresses);
    let began = Instant::now();
    let running = subject.start(folder, upstream.address(), ROOM);
    let mut flow = Flow::new(running.address, 1);
    let mut source = |number, out: &mut Vec<u8>| names::of_set(0, number, out);
    let answered = flow.until_answered(RATE, LIMIT, &mut source, || upstream.serve());
    answered.then(|| (began.elapsed().as_secs_f64() * 1000.0, running.processor_time() / 1e6))
}

/// Milliseconds that `taskset` takes itself.
fn wrapper() -> f64 {
    let mut times: Vec<f64> = (0..STARTS)
        .map(|_| {
            let began = Instant::now();
            let _ = Command::new("taskset").args(["-c", "0", "true"]).status();
            let whole = began.elapsed();
            let began = Instant::now();
            let _ = Command::new("true").status();
            whole.saturating_sub(began.elapsed()).as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
