//! What was measured, as a table: on the terminal while it goes, and as a page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::report::hits::bars::picture;
use crate::report::hits::csv as figures;
use crate::statistics::Estimate;

pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks");
/// What our own server is called.
pub(crate) const OURS: &str = "DnsTier";
/// The echo whose socket is watched all the time.
pub(crate) const WAITING_ECHO: &str = "echo with epoll";

/// What was measured of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) version: String,
    /// That it was asked for, alike.
    pub(crate) names: usize,
    /// Of processor time for an answer, the kernel's included.
    pub(crate) nanoseconds: f64,
    /// The part of it outside of the kernel.
    pub(crate) user: f64,
    /// Of an echo of as many octets.
    pub(crate) echo: f64,
    /// The echo's time divided by the server's.
    pub(crate) ratio: Estimate,
    pub(crate) lives: usize,
    /// Turns that did not count.
    pub(crate) dropped: usize,
    pub(crate) octets: usize,
    /// In user mode for each answer, where they could be counted.
    pub(crate) instructions: Option<f64>,
    /// System calls for each answer, where they could be counted.
    pub(crate) calls: Option<f64>,
}

/// The heads of the columns on the terminal.
pub(crate) fn head() -> String {
    format!(
        "{:<32} {:<20} {:>7} {:>7} {:>7} {:>7} {:>9} {:>7} {:>6} {:>6} {:>12} {:>6}",
        "server",
        "version",
        "names",
        "ns",
        "user",
        "echo",
        "echo ÷ it",
        "± %",
        "lives",
        "octets",
        "instructions",
        "calls"
    )
}

/// A row on the terminal.
pub(crate) fn line(row: &Row) -> String {
    let Row { name, version, names, nanoseconds, user, echo, ratio, lives, octets, .. } = row;
    let (instructions, calls) = (number(row.instructions, 0), number(row.calls, 2));
    let (ratio, width) = (ratio.value, 100.0 * ratio.half_width);
    format!(
        "{name:<32} {version:<20} {names:>7} {nanoseconds:>7.0} {user:>7.0} {echo:>7.0} {ratio:>9.3} {width:>7.1} {lives:>6} \
         {octets:>6} {instructions:>12} {calls:>6}"
    )
}

/// The rows that were written on this very machine.
pub(crate) fn read() -> Vec<Row> {
    figures::rows(&fs::read_to_string(Path::new(FOLDER).join("hits.csv")).unwrap_or_default(), &machine())
}

/// Puts a row in the place of the one of the same server with as many names, or else behind all with as many.
pub(crate) fn put(rows: &mut Vec<Row>, row: Row) {
    match rows.iter_mut().find(|other| other.name == row.name && other.names == row.names) {
        Some(other) => *other = row,
        None => {
            let behind = rows.iter().rposition(|other| other.names <= row.names).map_or(0, |last| last + 1);
            rows.insert(behind, row);
        }
    }
}

/// Our own row with as many names.
fn ours(rows: &[Row], names: usize) -> Option<&Row> {
    rows.iter().find(|row| row.name == OURS && row.names == names)
}

fn is_peer(row: &Row) -> bool {
    row.name != OURS && !row.name.starts_with("echo")
}

/// Writes the page, its figures and its picture.
pub(crate) fn write(rows: &[Row], bytes_of_an_entry: u64) {
    fs::create_dir_all(FOLDER).unwrap();
    let page = format!("{}{}{}{}", about(), markdown(rows), goals(rows, bytes_of_an_entry), better(rows));
    for (file, text) in [("hits.md", page), ("hits.csv", figures::csv(rows, &machine())), ("hits.svg", picture(rows))] {
        fs::write(Path::new(FOLDER).join(file), text).unwrap();
    }
}

fn about() -> String {
    format!("{}{}\n\n", include_str!("about.md"), machine())
}

fn markdown(rows: &[Row]) -> String {
    let heads = [
        "server",
        "version",
        "names",
        "ns",
        "user ns",
        "echo ns",
        "echo ÷ it",
        "octets",
        "instructions",
        "system calls",
        "it ÷ DnsTier",
        "sockets allow",
    ];
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len()));
    for row in rows {
        let Row { name, version, names, nanoseconds, user, echo, ratio, octets, .. } = row;
        let (instructions, calls) = (number(row.instructions, 0), number(row.calls, 2));
        let times = ours(rows, *names).filter(|_| is_peer(row)).map(|ours| ours.ratio.value / ratio.value);
        let (times, most) = (number(times, 2), number(is_peer(row).then(|| 1.0 / ratio.value), 2));
        let (ratio, width) = (ratio.value, 100.0 * ratio.half_width);
        writeln!(
            text,
            "| {name} | {version} | {names} | {nanoseconds:.0} | {user:.0} | {echo:.0} | {ratio:.2} ± {width:.1} % | {octets} | \
             {instructions} | {calls} | {times} | {most} |"
        )
        .unwrap();
    }
    text
}

/// A number, or a dash where there is none.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

/// The processor and the kernel.
pub(crate) fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processor.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Processor: {model}. Kernel: {}.", kernel.trim())
}

/// What is wanted, and whether it was reached.
fn goals(rows: &[Row], bytes_of_an_entry: u64) -> String {
    let mut text = String::from("\n## Goals\n\n| goal | figure | |\n| --- | --- | --- |\n");
    let mut add = |goal: &str, figure: String, is_reached: bool| {
        let word = if is_reached { "reached" } else { "missed" };
        writeln!(text, "| {goal} | {figure} | {word} |").unwrap();
    };
    for (names, goal) in [(1_000, 0.95), (400_000, 0.85)] {
        if let Some(ours) = ours(rows, names) {
            let Estimate { value, half_width } = ours.ratio;
            let figure = format!("{value:.3} ± {:.1} %", 100.0 * half_width);
            add(&format!("of the echo with {names} names at least {goal}"), figure, value >= goal);
        }
    }
    for row in rows.iter().filter(|row| is_peer(row)) {
        let Some(ours) = ours(rows, row.names) else { continue };
        let (times, most) = (ours.ratio.value / row.ratio.value, 1.0 / row.ratio.value);
        let goal = format!("{} with {} names: of what sockets allow at least 0.95", row.name, row.names);
        add(&goal, format!("{times:.2} of {most:.2}: {:.3}", times / most), times / most >= 0.95);
    }
    if let Some(instructions) = ours(rows, 1_000).and_then(|ours| ours.instructions) {
        add("instructions in user mode for an answer at most 700", format!("{instructions:.0}"), instructions <= 700.0);
    }
    add("bytes of an entry with four addresses at most 256", bytes_of_an_entry.to_string(), bytes_of_an_entry <= 256);
    let waiting = rows.iter().find(|row| row.name == WAITING_ECHO);
    if let (Some(ours), Some(waiting)) = (ours(rows, 1_000), waiting) {
        let share = ours.ratio.value / waiting.ratio.value;
        writeln!(text, "\nIt reaches {share:.2} of the echo that epoll watches all the time, with 1000 names.")
            .unwrap();
    }
    text
}

/// Where somebody else is better.
fn better(rows: &[Row]) -> String {
    let mut text = String::from("\n## Where a peer is better\n\n");
    let before = text.len();
    for row in rows.iter().filter(|row| is_peer(row)) {
        let Some(ours) = ours(rows, row.names) else { continue };
        let mut say = |what: &str, its: f64, ours: f64, digits: usize| {
            let Row { name, names, .. } = row;
            writeln!(text, "* {name} with {names} names takes {what}: {its:.digits$} against {ours:.digits$}.")
                .unwrap();
        };
        if row.ratio.value > ours.ratio.value {
            say("less processor time, in times of the echo's", 1.0 / row.ratio.value, 1.0 / ours.ratio.value, 2);
        }
        if let (Some(its), Some(ours)) = (row.calls, ours.calls)
            && its < ours
        {
            say("fewer system calls for an answer", its, ours, 3);
        }
        if let (Some(its), Some(ours)) = (row.instructions, ours.instructions)
            && its < ours
        {
            say("fewer instructions", its, ours, 0);
        }
    }
    if text.len() == before {
        text += "In none of these columns.\n";
    }
    text
}
