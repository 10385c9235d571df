//! How many questions a cache spares its upstream, at equal memory, on streams of questions that are made from a fixed seed.

mod mail;
mod random;
mod zipf;

use std::path::Path;
use std::time::Duration;

use crate::load::flow::{Course, Flow, Plan};
use crate::load::queries as names;
use crate::report::charts::Bars;
use crate::report::table::{Column, Report, number};
use crate::servers::process::{Running, stay_on};
use crate::servers::subject::{OURS, Room, Subject};
use crate::servers::upstream::{Knowledge, Upstream};

/// Questions a second to each server, and in all.
const RATE: f64 = 4_000.0;
const QUESTIONS: usize = 280_000;
const LONG: usize = 2_000_000;
/// Time runs so many times as fast: TTLs are divided by it.
const FASTER: u32 = 5;
/// The shortest and the longest TTL in seconds, before that.
const TTL: (u32, u32) = (30, 300);
/// The most questions under way at one server: one that is slower than the stream gets the rest of it later.
const WINDOW: usize = 512;
/// How long the whole of a stream may take, as a multiple of what it should.
const PATIENCE: f64 = 2.0;
/// What a server is warmed up with before its memory is looked at.
const WARM: u64 = 2_000;
const MIB: u64 = 1 << 20;
const MAIL: &str = "mail";
/// Between two looks at what is to be sent.
const NAP: Duration = Duration::from_micros(200);

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("trace", "trace"),
    Column("hit %", "hit_percent"),
    Column("from memory %", "answered_from_memory_percent"),
    Column("grown MiB", "rss_growth_mib"),
    Column("peak MiB", "rss_peak_growth_mib"),
    Column("asked", "questions"),
    Column("asked on", "upstream_questions"),
    Column("of them refreshes", "refreshes"),
    Column("lost", "lost"),
];

/// A stream of questions, what is said to them, and what it is called.
struct Trace {
    name: &'static str,
    questions: Vec<Vec<u8>>,
    knowledge: Knowledge,
}

pub(crate) fn run(only: Option<&str>) {
    stay_on(1);
    let folder = tempfile::tempdir().unwrap();
    let questions = if std::env::var_os("BENCH_LONG").is_some() { LONG } else { QUESTIONS };
    let mut report = Report::new("traces", COLUMNS);
    let mut bars = Bars::new("questions spared the upstream, in %");
    let traces: [fn(usize) -> Trace; 3] = [zipf_09, zipf_10, mail];
    for trace in traces {
        let trace = trace(questions);
        for line in play(&trace, folder.path(), only) {
            bars.add(&format!("{}, {}", line.name, trace.name), line.hit());
            report.add(line.row(trace.name));
        }
    }
    if only.is_some() {
        return;
    }
    let better: String = ["Zipf 0.9", "Zipf 1.0", MAIL]
        .iter()
        .map(|trace| format!("\n{trace}:\n\n{}", report.better(|row| row[2] == *trace, 3, false)))
        .collect();
    report.write("svg", &bars.picture());
    report.publish("Hit rate at equal memory", METHOD, &[], &format!("![Bars: hit rates](traces.svg)\n{better}"));
}

const METHOD: &str = "All servers are asked the same questions at the same time, 4,000 a second each and 280,000 in all (2,000,000 with
`BENCH_LONG=1`), with an upstream of its own for each, which counts. *hit* is the share of questions for which the upstream
was asked nothing: refreshes ahead of time, repetitions and second servers all count against it. *From memory* takes
refreshes, which DnsTier counts, out again: it is the share of clients who did not wait.

Servers run in real time, since only ours has a clock that could be set; so that it does not take an hour, time is made five times as fast by
dividing TTLs by five. They are whole seconds from 6 to 60, the stream is that of 800 questions a second with TTLs of
30 to 300 seconds over 350 seconds.

*Zipf*: A of one of 1,000,000 names, the one of rank r with a probability of 1/r^s; one to four addresses. *mail*: what a mail
server asks for each message: PTR of the client, A of its address in 5 to 15 block lists, TXT of the sender's domain, of its
DMARC policy, of its DKIM key and of the provider that its SPF policy includes, MX of the domain, and A and AAAA of its mail hosts. Half of
the clients are senders that come again (100,000 by Zipf 1.0), half were never seen before; there are 300,000 domains by Zipf 1.0;
95 of 100 answers of block lists, half of the PTR and half of the DMARC ones are NXDOMAIN.

Memory is equal where it can be: each server is configured so that its resident memory grows by about 8 MiB, and *grown* and *peak* say
what it was in this run, after 2,000 other questions that warmed it up (for dnsmasq, which takes all at its start, beside one
without a cache). CoreDNS as NodeLocal DNSCache is configured as on a node, whatever it takes.";

fn zipf_09(questions: usize) -> Trace {
    Trace { name: "Zipf 0.9", questions: zipf::trace(0.9, questions), knowledge: zipf::say }
}

fn zipf_10(questions: usize) -> Trace {
    Trace { name: "Zipf 1.0", questions: zipf::trace(1.0, questions), knowledge: zipf::say }
}

fn mail(questions: usize) -> Trace {
    Trace { name: MAIL, questions: mail::trace(questions), knowledge: mail::say }
}

/// The TTL of what is said to a question, out of its hash.
fn ttl(hash: u64) -> u32 {
    (TTL.0 + (hash >> 32) as u32 % (TTL.1 - TTL.0 + 1)) / FASTER
}

/// One server on its way through a trace.
struct Player {
    subject: Subject,
    running: Running,
    upstream: Upstream,
    flow: Flow,
    course: Course,
    over: bool,
    memory: u64,
    asked: u64,
    refreshes: u64,
}

struct Line {
    name: &'static str,
    version: String,
    questions: u64,
    asked: u64,
    refreshes: Option<u64>,
    grown: u64,
    peak: u64,
    lost: u64,
}

fn play(trace: &Trace, folder: &Path, only: Option<&str>) -> Vec<Line> {
    let subjects = Subject::all(only).into_iter().filter(Subject::has_memory_of_its_own);
    let mut players: Vec<Player> =
        subjects.enumerate().filter_map(|(number, subject)| prepared(number, subject, trace, folder)).collect();
    let plan = Plan {
        questions: trace.questions.len() as u64,
        limit: Duration::from_secs_f64(PATIENCE * trace.questions.len() as f64 / RATE),
        rate: Some(RATE),
        window: WINDOW,
    };
    players.iter_mut().for_each(|player| player.course = Course::new(plan));
    while players.iter().any(|player| !player.over) {
        for player in players.iter_mut().filter(|player| !player.over) {
            let mut source = |number: u64, out: &mut Vec<u8>| out.extend_from_slice(&trace.questions[number as usize]);
            player.over = player.flow.step(&mut player.course, &mut source);
            player.upstream.serve();
        }
        std::thread::sleep(NAP);
    }
    players.into_iter().map(Player::line).collect()
}

/// A server with an upstream of its own that has answered some questions. Servers are spread over both processors.
fn prepared(number: usize, subject: Subject, trace: &Trace, folder: &Path) -> Option<Player> {
    let mut upstream = Upstream::new(trace.knowledge);
    let running = subject.started(folder, &mut upstream, room(&subject, trace.name))?;
    running.move_to(number % 2);
    let mut flow = Flow::new(running.address, 1);
    let plan = Plan { questions: WARM, limit: Duration::from_secs(5), rate: None, window: 32 };
    flow.ask(plan, &mut |number, out| names::of_set(0, number, out), || upstream.serve());
    let empty = subject.takes_all_at_once().then(|| subject.empty(folder, &mut upstream)).flatten();
    let (memory, asked) = (empty.unwrap_or_else(|| running.memory()), upstream.asked());
    let refreshes = running.counter(REFRESHES).unwrap_or_default();
    Some(Player { subject, running, upstream, flow, course: Course::new(plan), over: false, memory, asked, refreshes })
}

/// The counter of ours for questions that were asked ahead of time.
const REFRESHES: &str = "dnstier_cache_refreshes_total";

impl Player {
    fn line(self) -> Line {
        let outcome = self.course.outcome();
        Line {
            name: self.subject.name(),
            version: self.subject.version(),
            questions: outcome.answered,
            asked: self.upstream.asked() - self.asked,
            refreshes: self.running.counter(REFRESHES).map(|refreshes| refreshes - self.refreshes),
            grown: self.running.memory().saturating_sub(self.memory),
            peak: self.running.peak().saturating_sub(self.memory),
            lost: outcome.lost + outcome.failed,
        }
    }
}

impl Line {
    /// Questions spared the upstream, in percent.
    fn hit(&self) -> f64 {
        100.0 * (1.0 - self.asked as f64 / self.questions as f64)
    }

    fn row(&self, trace: &str) -> Vec<String> {
        let from_memory = |refreshes: u64| {
            let waited = self.asked.saturating_sub(refreshes) as f64;
            format!("{:.1}", 100.0 * (1.0 - waited / self.questions as f64))
        };
        vec![
            self.name.into(),
            self.version.clone(),
            trace.into(),
            format!("{:.1}", self.hit()),
            self.refreshes.map_or_else(|| "-".into(), from_memory),
            number(self.grown as f64 / f64::from(1 << 20)),
            number(self.peak as f64 / f64::from(1 << 20)),
            format!("{}", self.questions),
            format!("{}", self.asked),
            self.refreshes.map_or_else(|| "-".into(), |refreshes| format!("{refreshes}")),
            format!("{}", self.lost),
        ]
    }
}

/// How much room a server is given so that its memory grows by about 8 MiB: found by trying.
fn room(subject: &Subject, trace: &str) -> Room {
    let of = |zipf: u64, mail: u64| if trace == MAIL { mail } else { zipf };
    let (bytes, answers) = match subject.name() {
        OURS => (of(13 * MIB, 10 * MIB), 0),
        "unbound" => (of(7 * MIB, 6 * MIB), 0),
        "kresd" => (8 * MIB, 0),
        "dnsmasq" => (0, 18_500),
        "dnsdist" => (0, of(10_200, 7_500)),
        "CoreDNS" => (0, of(5_200, 3_200)),
        _ => (0, 5_000),
    };
    subject.room(bytes, answers as usize)
}
