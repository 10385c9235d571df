//! What a question costs that the server has to ask on: its time beside asking the upstream directly, and processor time.

use std::time::Duration;

use crate::load::flow::{Flow, Outcome, Plan};
use crate::load::queries as names;
use crate::report::charts::Bars;
use crate::report::table::{Column, Goal, Report, number};
use crate::servers::process::{Running, stay_on};
use crate::servers::subject::{AMPLE, OURS, Subject, is_ready};
use crate::servers::upstream::Upstream;

/// Questions of a turn, and turns: those to the server and those to the upstream itself alternate.
const TURN: u64 = 250;
const TURNS: u64 = 24;
/// Questions a second where each finds a processor that has gone to sleep.
const RATE: f64 = 8_000.0;
/// Questions under way at one time, when it is not one.
const MANY: usize = 64;
/// What is asked with many under way, and how long at the most.
const QUESTIONS: u64 = 150_000;
const LIMIT: Duration = Duration::from_secs(5);
/// Microseconds that a miss may take over asking directly.
const GOAL: f64 = 15.0;

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("direct µs", "direct_p50_us"),
    Column("miss µs", "miss_p50_us"),
    Column("added µs", "added_p50_us"),
    Column("rested", "added_p50_us_at_8000_per_s"),
    Column("miss p99 µs", "miss_p99_us"),
    Column("CPU µs, one", "cpu_us_window_1"),
    Column("CPU µs, 64", "cpu_us_window_64"),
    Column("misses/s, 64", "misses_per_s_window_64"),
    Column("asked on", "upstream_questions_per_miss"),
    Column("lost", "lost"),
];

pub(crate) fn run(only: Option<&str>) {
    stay_on(1);
    let folder = tempfile::tempdir().unwrap();
    let mut report = Report::new("misses", COLUMNS);
    let mut bars = Bars::new("µs that a miss takes over asking directly (p50)");
    let mut added_by_us = [f64::NAN; 2];
    for subject in Subject::all(only) {
        // Beside the server, on the first processor: what is added is then the server's own work, and not the waking up of
        // another processor.
        let beside = Upstream::new(names::four_addresses).on(0);
        let running = subject.start(folder.path(), beside.address(), AMPLE);
        if !is_ready(running.address, || ()) {
            println!("{} does not answer and is left out", subject.name());
            continue;
        }
        let mut one = one_by_one(&running, beside.address(), None, 0);
        let mut rested = one_by_one(&running, beside.address(), Some(RATE), 3);
        drop((running, beside));
        let Some(many) = many_at_once(&subject, folder.path()) else { continue };
        let (direct, miss) = (one.direct.per_mille(500), one.miss.per_mille(500));
        let rested_added = rested.miss.per_mille(500) - rested.direct.per_mille(500);
        if subject.name() == OURS {
            added_by_us = [miss - direct, rested_added];
        }
        bars.add(subject.name(), miss - direct);
        report.add(vec![
            subject.name().into(),
            subject.version(),
            number(direct),
            number(miss),
            number(miss - direct),
            number(rested_added),
            number(one.miss.per_mille(990)),
            number(one.processor_time),
            number(many.processor_time),
            format!("{:.0}", many.rate),
            format!("{:.2}", many.asked_on),
            format!("{}", one.lost() + rested.lost() + many.lost),
        ]);
    }
    if only.is_some() {
        return;
    }
    let whats = ["a miss takes over asking directly (p50)", "the same, rested"];
    let goals: Vec<Goal> = whats
        .into_iter()
        .zip(added_by_us)
        .map(|(what, added)| Goal {
            what: what.into(),
            wanted: format!("≤ {GOAL:.0} µs"),
            measured: format!("{} µs", number(added)),
            reached: added <= GOAL,
        })
        .collect();
    let everyone = |_: &[String]| true;
    let better: String = [(4, true), (5, true), (7, true), (8, true), (9, false)]
        .iter()
        .map(|(column, lower)| report.better(everyone, *column, *lower))
        .collect();
    let remarks = format!("![Bars: microseconds added to a miss](misses.svg)\n\n{better}");
    report.write("svg", &bars.picture());
    report.publish("A question that is not in memory", METHOD, &goals, &remarks);
}

const METHOD: &str = "Each server forwards to one that says four addresses at once to whatever it is asked, over UDP, on the
loopback interface of a network namespace of their own. Every question is about a name that nobody asked before.

*One*: one question is under way, and the next one follows the answer at once. Server and upstream share the first processor, the
client waits on the second one without sleeping. In turns of 250, 6,000 questions go to the server and as many to the upstream
itself (*direct*); *added* is the difference of their medians. So it is the server's own work and its switches to the upstream, while a real upstream
would also have to wake the server's processor up, whichever server it is. *CPU* is the processor time of the server's
process for each answer, kernel included. States are seen some 10 µs apart, for minutes at a time: in one of them a question comes at the very
moment at which the server goes to sleep after its last answer, which is when it is slowest to wake. Where that befalls the upstream when
it is asked directly, and not the server, *added* is below zero. So *rested* is *added* once more with 8,000 questions in a second,
planned beforehand: each finds a server that sleeps, with what it needs no longer at hand.

*64*: as many are under way. The server has the first processor alone; client and upstream are one program on the second. *Asked on* are the
questions that the upstream saw for each one that was asked: more than 1.00 is load that the server adds, less
are answers that it did not have to ask for.";

struct OneByOne {
    direct: Outcome,
    miss: Outcome,
    /// Microseconds for each answer.
    processor_time: f64,
}

impl OneByOne {
    const fn lost(&self) -> u64 {
        self.miss.lost + self.direct.lost
    }
}

/// Names are those of a set.
fn one_by_one(running: &Running, upstream: std::net::SocketAddr, rate: Option<f64>, set: u8) -> OneByOne {
    let (mut via, mut direct) = (Flow::new(running.address, 1), Flow::new(upstream, 1));
    let plan = Plan { questions: TURN, limit: LIMIT, rate, window: 1 };
    let mut all = OneByOne { direct: Outcome::default(), miss: Outcome::default(), processor_time: 0.0 };
    // The first turn of both is for warming up.
    for turn in 0..=TURNS {
        let name = |number, out: &mut Vec<u8>| names::of_set(set, turn * TURN + number, out);
        let before = running.processor_time();
        let miss = via.ask(plan, &mut { name }, || ());
        let after = running.processor_time();
        let straight = direct.ask(plan, &mut { name }, || ());
        if turn > 0 {
            all.processor_time += after - before;
            add(&mut all.miss, miss);
            add(&mut all.direct, straight);
        }
    }
    all.processor_time /= 1000.0 * all.miss.answered.max(1) as f64;
    all
}

fn add(to: &mut Outcome, turn: Outcome) {
    to.answered += turn.answered;
    to.lost += turn.lost;
    to.latencies.extend(turn.latencies);
}

struct ManyAtOnce {
    rate: f64,
    /// Microseconds for each answer.
    processor_time: f64,
    asked_on: f64,
    lost: u64,
}

fn many_at_once(subject: &Subject, folder: &std::path::Path) -> Option<ManyAtOnce> {
    let mut upstream = Upstream::new(names::four_addresses);
    let running = subject.started(folder, &mut upstream, AMPLE)?;
    let mut flow = Flow::new(running.address, 4);
    let plan = Plan { questions: QUESTIONS / 20, limit: LIMIT, rate: None, window: MANY };
    flow.ask(plan, &mut |number, out| names::of_set(1, number, out), || upstream.serve());
    let (before, asked) = (running.processor_time(), upstream.asked());
    let plan = Plan { questions: QUESTIONS, ..plan };
    let outcome = flow.ask(plan, &mut |number, out| names::of_set(2, number, out), || upstream.serve());
    let answered = outcome.answered.max(1) as f64;
    Some(ManyAtOnce {
        rate: outcome.rate(),
        processor_time: (running.processor_time() - before) / answered / 1000.0,
        asked_on: (upstream.asked() - asked) as f64 / answered,
        lost: outcome.lost + outcome.failed,
    })
}
