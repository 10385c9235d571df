//! What others feel of one client that asks for a great many names that nobody asked for before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::load::flow::{Course, Flow, Outcome, Plan, median_per_mille, together};
use crate::load::queries as names;
use crate::report::table::{Column, Goal, Report, number};
use crate::servers::process::stay_on;
use crate::servers::subject::{OURS, Room, Subject};
use crate::servers::upstream::{Said, Upstream};

/// Names that the others ask for, and how often in a second.
const NAMES: u64 = 1_000;
const RATE: f64 = 5_000.0;
/// Questions a second of the one.
const FLOOD: f64 = 50_000.0;
/// Less than what the names of the flood take in all.
const ROOM: Room = Room { bytes: 16 << 20, names: 60_000 };
/// How long a turn takes, and how many there are of either kind.
const TIME: f64 = 0.1;
const TURNS: usize = 45;
const LIMIT: Duration = Duration::from_secs(10);
const OTHERS: &str = "127.0.0.2";
/// Microseconds that stand for a question without an answer.
const NEVER: f64 = u32::MAX as f64 / 1000.0;
/// How much worse the others may fare: times in p99, and percent of their hits.
const GOAL: (f64, f64) = (2.0, 2.0);

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

pub(crate) fn run(only: Option<&str>) {
    stay_on(1);
    let folder = tempfile::tempdir().unwrap();
    let mut report = Report::new("fairness", COLUMNS);
    let mut ours = (f64::NAN, f64::NAN);
    for subject in Subject::all(only).into_iter().filter(Subject::has_memory_of_its_own) {
        let mut upstream = Upstream::new(knowledge);
        let Some(running) = subject.started(folder.path(), &mut upstream, ROOM) else { continue };
        let mut clients = Clients {
            others: Flow::from(OTHERS, running.address, 4),
            one: Flow::new(running.address, 4),
            upstream,
            asked_before: 0,
        };
        // Twice, so that the names are seen to be asked for more than once.
        (0..60).for_each(|_| drop(clients.turn(false)));
        let (mut alone, mut flooded) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            alone.push(clients.turn(false));
            flooded.push(clients.turn(true));
        }
        let [before, after] = [&alone, &flooded].map(|turns| Felt::by(turns));
        let hits = 100.0 * (1.0 - after.asked_on as f64 / after.answered.max(1) as f64);
        if subject.name() == OURS {
            ours = (after.p99 / before.p99, hits);
        }
        report.add(vec![
            subject.name().into(),
            subject.version(),
            number(before.p50),
            number(before.p99),
            number(after.p50),
            number(after.p99),
            number(after.p99 / before.p99),
            // An answer that does not come takes for ever.
            if after.p99_of_all < NEVER { number(after.p99_of_all) } else { "never".into() },
            format!("{hits:.2}"),
            after.lost.to_string(),
            format!("{:.0}", after.flood),
        ]);
    }
    if only.is_some() {
        return;
    }
    let (slower, fewer) = GOAL;
    let goals = [
        Goal {
            what: "p99 of the others, times what it is alone".into(),
            wanted: format!("≤ {slower:.0}"),
            measured: number(ours.0),
            reached: ours.0 <= slower,
        },
        Goal {
            what: "hits of the others".into(),
            wanted: format!("≥ {:.0} %", 100.0 - fewer),
            measured: format!("{:.2} %", ours.1),
            reached: ours.1 >= 100.0 - fewer,
        },
    ];
    let better: String = [(5, true), (6, true), (7, true), (8, false)]
        .map(|(column, lower)| report.better(|_| true, column, lower))
        .concat();
    report.publish("One client that asks for everything", METHOD, &goals, &better);
}

const METHOD: &str = "A server with a cache of 16 MiB (or 60,000 names) has 1,000 names in memory, for which other clients ask
5,000 times a second, at planned times. They do so alone for a tenth of a second, and then while one client, from an address of
its own, asks for 50,000 names a second that nobody asked for before; 45 times each, in turns. A percentile, in
microseconds from a question's planned time to its answer, is the median of the turns: a virtual machine that stands still for a
millisecond some times a second says nothing about servers, but made p99 of a second and a half anything from 49 to 3,600 µs. *p99 of all*
is that of all questions of the flooded turns together, with what the machine has added. *hits* are those questions of the others
that did not reach the upstream while the flood went on, *unanswered* those that got no answer then, *flood/s* the answers that the one
client got. The server runs alone on the first processor; all clients and the upstream are one program on the second, whose
own work for the flood is part of the others' times.";

/// How often the upstream heard of the others' names.
static ASKED_ON: AtomicU64 = AtomicU64::new(0);

fn knowledge(name: &[u8], rtype: u16) -> Said {
    if name.windows(6).any(|part| part == b"\x05set-a") {
        ASKED_ON.fetch_add(1, Ordering::Relaxed);
    }
    names::four_addresses(name, rtype)
}

struct Clients {
    others: Flow,
    one: Flow,
    upstream: Upstream,
    /// Names of the flood that are used up.
    asked_before: u64,
}

/// What came of a turn.
struct Turn {
    others: Outcome,
    asked_on: u64,
    /// Answers to the flood, in a second.
    flood: f64,
}

impl Clients {
    fn turn(&mut self, flooded: bool) -> Turn {
        let plan =
            |rate: f64| Plan { questions: (rate * TIME) as u64, limit: LIMIT, rate: Some(rate), window: usize::MAX };
        let (mut others, mut one) = (Course::new(plan(RATE)), Course::new(plan(FLOOD)));
        let (asked_on, before) = (ASKED_ON.load(Ordering::Relaxed), self.asked_before);
        let mut known = |number: u64, out: &mut Vec<u8>| names::of_set(0, number.wrapping_mul(7919) % NAMES, out);
        let mut unknown = |number: u64, out: &mut Vec<u8>| names::of_set(1, before + number, out);
        let (mut others_over, mut one_over) = (false, !flooded);
        while !(others_over && one_over) {
            others_over = others_over || self.others.step(&mut others, &mut known);
            one_over = one_over || self.one.step(&mut one, &mut unknown);
            self.upstream.serve();
        }
        self.asked_before += one.outcome().sent;
        let flood = one.outcome().answered as f64 / TIME;
        Turn { others: others.outcome().clone(), asked_on: ASKED_ON.load(Ordering::Relaxed) - asked_on, flood }
    }
}

/// What the others felt in all turns of a kind.
struct Felt {
    p50: f64,
    p99: f64,
    /// Not by turns.
    p99_of_all: f64,
    answered: u64,
    asked_on: u64,
    lost: u64,
    flood: f64,
}

impl Felt {
    fn by(turns: &[Turn]) -> Self {
        let [p50, p99] = [500, 990].map(|share| median_per_mille(turns.iter().map(|turn| &turn.others), share));
        let sum = |of: fn(&Turn) -> u64| turns.iter().map(of).sum::<u64>();
        Self {
            p50,
            p99,
            p99_of_all: together(turns.iter().map(|turn| &turn.others)).per_mille(990),
            answered: sum(|turn| turn.others.answered),
            asked_on: sum(|turn| turn.asked_on),
            lost: sum(|turn| turn.others.lost + turn.others.failed),
            flood: turns.iter().map(|turn| turn.flood).sum::<f64>() / turns.len() as f64,
        }
    }
}
