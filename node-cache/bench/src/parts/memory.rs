//! How much memory a server takes, for each answer and after many more than it may keep.

use std::path::Path;
use std::time::Duration;

use crate::load::flow::{Flow, Plan};
use crate::load::queries as names;
use crate::report::table::{Column, Goal, Report, number};
use crate::servers::process::{Running, stay_on};
use crate::servers::subject::{OURS, Room, Subject};
use crate::servers::upstream::Upstream;

/// Answers whose bytes are counted.
const HELD: u64 = 100_000;
/// What a server is warmed up with before.
const WARM: u64 = 2_000;
/// Room for all of them and not much more, since an index grows with the room.
const ROOM_FOR_HELD: Room = Room { bytes: 96 << 20, names: 130_000 };
/// Bytes that a cache may have.
const SIZE: u64 = 64 << 20;
/// Bytes that ours may take beside them.
const SPARE: u64 = 16 << 20;
/// Names that are asked for once.
const FLOOD: u64 = 10_000_000;
/// How long that may take: in an ordinary run; in a long one, and of what has a goal.
const PATIENCE: Duration = Duration::from_secs(60);
const LONG_PATIENCE: Duration = Duration::from_secs(900);
/// Questions under way.
const WINDOW: usize = 64;

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("bytes/answer", "bytes_per_answer"),
    Column("names", "unique_names_asked"),
    Column("names/s", "names_per_s"),
    Column("start MiB", "rss_start_mib"),
    Column("peak MiB", "rss_peak_mib"),
    Column("grown MiB", "rss_growth_mib"),
    Column("room MiB", "room_mib"),
    Column("lost", "lost"),
];

pub(crate) fn run(only: Option<&str>) {
    stay_on(1);
    let folder = tempfile::tempdir().unwrap();
    let is_long = std::env::var_os("BENCH_LONG").is_some();
    let mut report = Report::new("memory", COLUMNS);
    let (mut peak, mut reached) = (u64::MAX, 0);
    for subject in Subject::all(only).into_iter().filter(Subject::has_memory_of_its_own) {
        let Some(bytes) = bytes_of_an_answer(&subject, folder.path()) else { continue };
        // Who counts answers gets as many as fit into the same bytes, by what was just measured.
        let room = subject.room(SIZE, (SIZE as f64 / bytes.unwrap_or(f64::INFINITY)) as usize);
        let limit = if is_long || subject.name() == OURS { LONG_PATIENCE } else { PATIENCE };
        let Some(flood) = flood(&subject, folder.path(), room, limit) else { continue };
        if subject.name() == OURS {
            (peak, reached) = (flood.peak, flood.names);
        }
        report.add(vec![
            subject.name().into(),
            subject.version(),
            bytes.map_or_else(|| "-".into(), |bytes| format!("{bytes:.0}")),
            format!("{}", flood.names),
            format!("{:.0}", flood.rate),
            mebibytes(flood.start),
            mebibytes(flood.peak),
            mebibytes(flood.peak.saturating_sub(flood.start)),
            mebibytes(room.bytes),
            format!("{}", flood.lost),
        ]);
    }
    if only.is_some() {
        return;
    }
    let goal = Goal {
        what: format!("memory of DnsTier with a cache of 64 MiB, after {reached} names"),
        wanted: format!("≤ {} MiB", mebibytes(SIZE + SPARE)),
        measured: format!("{} MiB", mebibytes(peak)),
        reached: peak <= SIZE + SPARE,
    };
    let everyone = |_: &[String]| true;
    let better = [2, 6, 7].map(|column| report.better(everyone, column, true)).concat();
    report.publish("Memory", METHOD, &[goal], &better);
}

const METHOD: &str = "Each server forwards to one that says four addresses at once, in 118 octets, to whatever it is asked.

*bytes/answer*: with room for all of them (96 MiB, or 130,000 names), the growth of the resident memory by 100,000 names, divided by them, after 2,000 others
that warmed it up. That all are in memory is seen by asking for them again: the upstream must not hear of it (a server of
which it does for more than one in a hundred has none). dnsmasq takes all memory of its cache at its start: what it takes then,
beside what it takes without a cache, is divided by its records, of which an answer here has four.

*names* are then asked for once each by a new process, as fast as it answers with 64 questions under way, so that far more comes
in than it may keep: 10,000,000, for 15 minutes at the most, and for one minute of others than DnsTier unless the run is a long one
(`BENCH_LONG=1`): by then each was asked for more than it may keep. Its resident memory after its first answers is
*start*, the most that it ever had *peak*. DnsTier, unbound and kresd are told the bytes in *room* (unbound a third of it for
messages and two for RRsets, as its manual says); the others count answers, and are told as many as fit into these bytes by what
was measured before. What kresd keeps lies in a file that is mapped into its memory, and counts as its memory here.";

fn mebibytes(bytes: u64) -> String {
    number(bytes as f64 / f64::from(1 << 20))
}

/// Bytes by which memory grows for each answer that is kept; none inside when the server does not keep all of them.
fn bytes_of_an_answer(subject: &Subject, folder: &Path) -> Option<Option<f64>> {
    let mut upstream = Upstream::new(names::four_addresses);
    let running = subject.started(folder, &mut upstream, ROOM_FOR_HELD)?;
    if subject.takes_all_at_once() {
        // Its room is five records for each name, and an answer has four.
        let all = running.memory().saturating_sub(subject.empty(folder, &mut upstream)?);
        return Some(Some(4.0 / 5.0 * all as f64 / ROOM_FOR_HELD.names as f64));
    }
    let mut flow = Flow::new(running.address, 4);
    learn(&mut flow, &mut upstream, 0, WARM);
    let before = running.memory();
    learn(&mut flow, &mut upstream, 1, HELD);
    let grown = running.memory().saturating_sub(before);
    let asked = upstream.asked();
    learn(&mut flow, &mut upstream, 1, HELD);
    Some((upstream.asked() - asked <= HELD / 100).then_some(grown as f64 / HELD as f64))
}

/// Asks for names of a set until nearly all were answered.
fn learn(flow: &mut Flow, upstream: &mut Upstream, set: u8, names: u64) {
    let plan = Plan { questions: names, limit: Duration::from_secs(30), rate: None, window: WINDOW };
    for _ in 0..3 {
        let outcome = flow.ask(plan, &mut |number, out| names::of_set(set, number, out), || upstream.serve());
        if outcome.answered + names / 1000 >= names {
            return;
        }
    }
}

struct Flooded {
    names: u64,
    rate: f64,
    start: u64,
    peak: u64,
    lost: u64,
}

fn flood(subject: &Subject, folder: &Path, room: Room, limit: Duration) -> Option<Flooded> {
    let mut upstream = Upstream::new(names::four_addresses);
    let running: Running = subject.started(folder, &mut upstream, room)?;
    let start = running.memory();
    let mut flow = Flow::new(running.address, 4);
    let plan = Plan { questions: FLOOD, limit, rate: None, window: WINDOW };
    let outcome = flow.ask(plan, &mut |number, out| names::of_set(2, number, out), || upstream.serve());
    let lost = outcome.lost + outcome.failed;
    Some(Flooded { names: outcome.sent, rate: outcome.rate(), start, peak: running.peak(), lost })
}
