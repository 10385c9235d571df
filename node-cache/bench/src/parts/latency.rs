//! How long answers from memory take when questions come at their own times, whether or not the ones before were answered.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::load::flow::{Flow, Outcome, Plan, median_per_mille};
use crate::load::queries as names;
use crate::report::charts::Ranges;
use crate::report::table::{Column, Report, number};
use crate::servers::process::{Running, stay_on};
use crate::servers::subject::{AMPLE, Subject};
use crate::servers::upstream::Upstream;

/// Names that are in memory.
const NAMES: u64 = 1_000;
/// Sockets of the client.
const SOCKETS: usize = 4;
/// Questions a second that every server is asked.
const RATES: [f64; 3] = [1_000.0, 10_000.0, 50_000.0];
/// Shares of what each server can do.
const SHARES: [f64; 3] = [0.1, 0.5, 0.8];
/// How long a rate is kept up, and how many questions are enough before.
const TIME: f64 = 4.5;
const ENOUGH: f64 = 200_000.0;
/// Each load is put on so many times, all of them in turns: what another program on the machine disturbs for a moment
/// then does not decide.
const TURNS: usize = 3;
/// Of a thousand.
const PERCENTILES: [usize; 3] = [500, 990, 999];
/// Questions under way when it is found out what a server can do, and how long that takes for each of three times.
const WINDOW: usize = 128;
const CAPACITY: Duration = Duration::from_millis(700);
/// A server that works less than this is not what limits the answers.
const BUSY: f64 = 0.9;

/// The server that only reads the question and writes the same addresses behind it.
const BARE: &str = "no cache at all";

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("load", "load"),
    Column("asked/s", "questions_per_s"),
    Column("p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("p99.9 µs", "p999_us"),
    Column("lost", "lost"),
    Column("late %", "client_late_percent"),
    Column("questions", "questions"),
];

pub(crate) fn run(only: Option<&str>) {
    stay_on(1);
    let folder = tempfile::tempdir().unwrap();
    let mut report = Report::new("latency", COLUMNS);
    let mut picture = Ranges::new("p50, p99 and p99.9 in µs at 10,000 questions a second");
    let bare = Upstream::new(names::four_addresses).on(0);
    Named { name: BARE, version: "" }.measure(bare.address(), || f64::NAN, &mut report, &mut picture);
    drop(bare);
    for subject in Subject::all(only) {
        let Some(running) = warmed(&subject, folder.path()) else { continue };
        let server = Named { name: subject.name(), version: &subject.version() };
        server.measure(running.address, || running.processor_time(), &mut report, &mut picture);
    }
    if only.is_some() {
        return;
    }
    let mut better = String::new();
    for load in RATES.map(absolute).into_iter().chain(SHARES.map(relative)) {
        better += &format!("\nAt {load}:\n\n");
        for column in 4..=6 {
            better += &report.better(|row| row[2] == load && row[0] != BARE, column, true);
        }
    }
    report.write("svg", &picture.picture());
    let remarks = format!("![Lines from p50 over p99 to p99.9 of each server](latency.svg)\n{better}");
    report.publish("Latency of answers from memory", METHOD, &[], &remarks);
}

const METHOD: &str = "1,000 names are in memory. Each server runs alone on the first processor, the client on the second one,
which never sleeps, in a network namespace of their own.

Questions leave at times that are planned beforehand, evenly at the rate of the line, and the latency of each counts from its
planned time to its answer: what a stalled server, or a stalled client, holds up counts in full (no coordinated
omission). *Late* are questions that the client itself sent more than 0.1 ms after their time; where there are many the line
says something about the client as well. *Lost* are those without an answer.
Every load is put on three times for a third of its time, in turns with the other loads; a percentile is the
median of the three.

Each server is asked at the same rates, and at shares of what it can do itself: the median of three closed loops with 128
questions under way, in the same run (*100 %*; a line `>100 %` says that the server did not work all the time, so that the
client's limit was measured). *no cache at all* is the upstream of this benchmark, which says the same to
everybody, 32 datagrams for a system call: what sockets and machine alone take.
This is a virtual machine: waking up a processor that sleeps is a part of every figure, and most of it at low rates, when
the server has always gone to sleep before the next question comes.";

fn absolute(rate: f64) -> String {
    format!("{rate:.0}/s")
}

fn relative(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// A server that has all names in memory.
fn warmed(subject: &Subject, folder: &Path) -> Option<Running> {
    let mut upstream = Upstream::new(names::four_addresses);
    let running = subject.started(folder, &mut upstream, AMPLE)?;
    let mut flow = Flow::new(running.address, SOCKETS);
    let plan = Plan { questions: NAMES, limit: Duration::from_secs(5), rate: None, window: 8 };
    for _ in 0..20 {
        let asked = upstream.asked();
        let outcome = flow.ask(plan, &mut known, || upstream.serve());
        if outcome.answered == NAMES && upstream.asked() == asked {
            return Some(running);
        }
    }
    println!("{} does not come to know {NAMES} names and is left out", subject.name());
    None
}

/// In an order that comes to all names alike.
fn known(number: u64, out: &mut Vec<u8>) {
    names::of_set(0, number.wrapping_mul(7919) % NAMES, out);
}

/// A server as it is named in the table.
struct Named<'a> {
    name: &'a str,
    version: &'a str,
}

impl Named<'_> {
    /// Measures the server at this address, of which `worked` tells for how many nanoseconds it has run.
    fn measure(&self, server: SocketAddr, worked: impl Fn() -> f64, report: &mut Report, picture: &mut Ranges) {
        let mut flow = Flow::new(server, SOCKETS);
        let (capacity, busy) = capacity(worked, &mut flow);
        let all = format!("{}100 %", if busy < BUSY { ">" } else { "" });
        report.add(self.row(&all, capacity, &[]));
        let shares = SHARES.map(|share| (relative(share), capacity * share));
        let loads: Vec<(String, f64)> = RATES.map(|rate| (absolute(rate), rate)).into_iter().chain(shares).collect();
        let mut turns: Vec<Vec<Outcome>> = loads.iter().map(|_| Vec::new()).collect();
        for _ in 0..TURNS {
            for ((_, rate), turns) in loads.iter().zip(&mut turns) {
                let questions = (rate * TIME).min(ENOUGH.max(*rate)) / TURNS as f64;
                let limit = Duration::from_secs(20);
                let plan = Plan { questions: questions as u64, limit, rate: Some(*rate), window: usize::MAX };
                turns.push(flow.ask(plan, &mut known, || ()));
            }
        }
        for ((load, rate), turns) in loads.iter().zip(&turns) {
            report.add(self.row(load, *rate, turns));
        }
        picture.add(self.name, PERCENTILES.map(|share| median_per_mille(&turns[1], share)).to_vec());
    }

    fn row(&self, load: &str, rate: f64, turns: &[Outcome]) -> Vec<String> {
        let sum = |of: fn(&Outcome) -> u64| turns.iter().map(of).sum::<u64>();
        let sent = sum(|turn| turn.sent);
        let [p50, p99, p999] = PERCENTILES.map(|share| number(median_per_mille(turns, share)));
        let lost = sum(|turn| turn.lost + turn.failed);
        let late = number(100.0 * sum(|turn| turn.late) as f64 / sent as f64);
        let [lost, sent] = [lost, sent].map(|count| if turns.is_empty() { "-".into() } else { count.to_string() });
        vec![self.name.into(), self.version.into(), load.into(), format!("{rate:.0}"), p50, p99, p999, lost, late, sent]
    }
}

/// Answers a second, the median of three times, and the share of it in which the server worked.
fn capacity(worked: impl Fn() -> f64, flow: &mut Flow) -> (f64, f64) {
    let plan = Plan { questions: u64::MAX, limit: CAPACITY, rate: None, window: WINDOW };
    let mut times: Vec<(f64, f64)> = (0..3)
        .map(|_| {
            let before = worked();
            let outcome = flow.ask(plan, &mut known, || ());
            (outcome.rate(), (worked() - before) / (1e9 * outcome.seconds))
        })
        .collect();
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    times[1]
}
