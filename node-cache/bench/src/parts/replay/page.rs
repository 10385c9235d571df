//! Table of all casts, and the page with it.

use std::fmt::Write as _;

use super::cast::Cast;
use super::chart;
use super::conduct::CastRun;
use super::measure::percent;
use super::measure::{GOOD, count, packets_between};
use super::peers;
use super::schedule::Scale;
use super::verdict::{Figures, Goal, Goals, seconds};
use crate::report::output;

/// Name of the page, its chart and its figures.
const PART: &str = "replay";

pub(crate) const TITLE: &str = "A provider that silently limits";

pub(crate) const METHOD: &str = "8,000 queries a second of mail servers (those of [traces](traces.md), over 200,000
domains and 15 block lists, each of them a registered domain, TTLs of 6 to 60 s) go to one cast of resolvers after the
other, from eight client addresses for each resolver. All casts have the same two servers: the provider's resolver and a
fallback, each an unbound in front of one authoritative server, started anew for each cast. The authoritative server
knows every name by rule, so that the right answer is known without a query; a tenth of the domains is delegated to an
address that answers nothing. Their queries are *unanswerable* and counted apart.

World, three nodes and clients are in network namespaces of their own. After 10 s of warm-up and 10 s without a limit
(*control*) packet rules in the world's namespace drop what is too much, without an ICMP error: *packets per source*
above 1,024 a second of one address, *packets, shared* above 3,072 a second of all together, *new flows* that find no
place in a table of 4,096 (source address and port), each of which stays for 30 s. At the same time the fallback takes
1,500 a second of one address. Their counters are the packets below; a cast drops nothing. **With fewer than four
processors load and limits are halved**, so that their ratios stay; only the fallback takes 900 instead of 750, because
caches hit less with half of the load. The table says how many queries a second each cast had.

Queries are sent at planned times, one try each. *right*: the right code and records within a second of the planned
time, and not stale. *late*: right after that. *stale*: marked as stale. *silent*: no response within 5 s. *failed*:
SERVFAIL or another code that is no answer. *worst second*: the smallest share of right answers in a whole second.
*to 99.9 %*: from the first dropped packet until a second from which on 99.9 % of the answers are right, in it and up to
the end of the limit. A cast with less than 99.9 % in its control window, or whose client sent more than 1 % late, runs
again with load and limits halved; if that is no better, it is void.

Each program has the configuration that serves it best here; the files are in
[`node-cache/bench/src/parts/replay/files`](../../node-cache/bench/src/parts/replay/files). unbound and NodeLocal's
CoreDNS prefer no server, so half of their queries go to the fallback at all times. dnsdist is told both limits and
takes the next server above the first one's. DnsTier asks the provider as long as it answers: two zone resolvers and a
node cache on each node. *told*: with a budget of 900 packets a second and node.";

const HEADINGS: [&str; 15] = [
    "cast",
    "queries/s",
    "limiter",
    "asked",
    "right %",
    "worst second %",
    "to 99.9 %",
    "late",
    "stale",
    "wrong",
    "failed",
    "silent",
    "unanswerable (silent)",
    "provider packets/s (dropped)",
    "fallback packets/s (dropped)",
];

/// Returns the table of all casts, those that were not run included, each of which comes with its missing program.
pub(super) fn table(runs: &[CastRun], not_run: &[(Cast, &str)]) -> String {
    let missing = |(cast, program): &(Cast, &str)| {
        let name = format!("({}) {}", cast.letter(), cast.name());
        row_without_figures([name, "-".to_owned(), format!("not run: {program} is not installed")])
    };
    let rows: Vec<Vec<String>> = runs.iter().flat_map(rows).chain(not_run.iter().map(missing)).collect();
    aligned(&HEADINGS, &rows)
}

/// Returns a row without figures.
fn row_without_figures(cells: [String; 3]) -> Vec<String> {
    cells.into_iter().chain((3..HEADINGS.len()).map(|_| "-".to_owned())).collect()
}

/// Returns the rows of a cast: one for each limiter, or one that says why it is void.
fn rows(run: &CastRun) -> Vec<Vec<String>> {
    let name = format!("({}) {}", run.cast.letter(), run.cast.name());
    if let Some(fault) = run.fault() {
        return vec![row_without_figures([name, run.scale.rate.to_string(), format!("void: {fault}")])];
    }
    let row = |figures: Figures| {
        let counts = figures.counts;
        let rates = |all: u64, dropped: u64| {
            let rate = |packets: u64| packets as f64 / figures.seconds.max(0.001);
            format!("{:.0} ({:.0})", rate(all), rate(dropped))
        };
        let packets = figures.packets;
        vec![
            name.clone(),
            run.scale.rate.to_string(),
            figures.limiter.name().to_owned(),
            counts.asked.to_string(),
            percent(counts.right_share()).replace(" %", ""),
            percent(figures.worst_second).replace(" %", ""),
            seconds(figures.interruption),
            counts.late.to_string(),
            counts.stale.to_string(),
            counts.wrong.to_string(),
            counts.failed.to_string(),
            counts.silent.to_string(),
            format!("{} ({})", counts.unanswerable, counts.unanswerable_silent),
            rates(packets.provider, packets.provider_dropped),
            rates(packets.fallback, packets.fallback_dropped),
        ]
    };
    run.limited().map(|(limited, limiter)| row(Figures::of(run, limited, limiter))).collect()
}

/// Returns a table in Markdown whose columns are as wide as their widest cell.
fn aligned(headings: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&heading]).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths
        .iter()
        .enumerate()
        .map(|(column, width)| if column == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) });
    let rule: String = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
    line(&heading) + &rule + &rows.iter().map(line).collect::<String>()
}

/// Writes the page, the chart and the figures of each second.
pub(super) fn publish(runs: &[CastRun], not_run: &[(Cast, &str)], goals: &Goals) {
    output::write(PART, "svg", &chart::svg(runs));
    output::write(PART, "csv", &csv(runs));
    output::write(PART, "md", &page(runs, not_run, goals));
}

fn page(runs: &[CastRun], not_run: &[(Cast, &str)], goals: &Goals) -> String {
    let mut page = format!("{}\n\n{}", beginning(), output::machine());
    writeln!(page, " {}.{}", peers::versions().join(", "), divisor(runs)).unwrap();
    page += "\n| goal | measured | |\n| --- | --- | --- |\n";
    for (subject, goals) in [("told", &goals.told), ("not told", &goals.not_told)] {
        for Goal { subject: goal, measured, is_reached } in goals {
            let result = if *is_reached { "reached" } else { "**missed**" };
            writeln!(page, "| DnsTier, {subject}: {} | {measured} | {result} |", goal.trim_end_matches(':')).unwrap();
        }
    }
    page += "\n![Lines: share of right answers in each second, and share of packets dropped](replay.svg)\n\n";
    page += &equals(runs);
    page + "\n" + &table(runs, not_run) + "\n" + &goals.lines().join("\n\n") + "\n"
}

/// Returns a sentence that says by how much load and limits were smaller than the full ones.
fn divisor(runs: &[CastRun]) -> String {
    let rate = runs.iter().map(|run| run.scale.rate).max().unwrap_or_default();
    let divisor = Scale::FULL.rate / rate.max(1);
    if divisor <= 1 {
        return String::new();
    }
    format!(" It has too few processors for the full load: **load and limits are divided by {divisor}**.")
}

/// Returns title and method of the page.
pub(crate) fn beginning() -> String {
    format!("# {TITLE}\n\nWritten by `make replay`. {METHOD}")
}

/// Returns a line for each phase of another cast that does as well as DnsTier has to: 99.9 % right answers, or nothing
/// dropped.
fn equals(runs: &[CastRun]) -> String {
    let peers = runs.iter().filter(|run| !run.cast.is_ours() && run.fault().is_none());
    let mut lines: Vec<String> = Vec::new();
    for run in peers {
        for (limited, limiter) in run.limited() {
            let figures = Figures::of(run, limited, limiter);
            let share = figures.counts.right_share();
            let dropped = figures.packets.provider_dropped;
            if share >= GOOD || dropped == 0 {
                let (name, limiter) = (run.cast.name(), limiter.name());
                lines.push(format!("* {limiter}: {name}: {} right, {dropped} packets dropped.\n", percent(share)));
            }
        }
    }
    let known = if lines.is_empty() { "No other cast does" } else { "Other casts do" };
    let end = if lines.is_empty() { "." } else { ":" };
    format!("{known} as well as DnsTier has to (99.9 % right, or nothing dropped){end}\n\n{}", lines.concat())
}

/// Returns the figures of each second of each cast.
fn csv(runs: &[CastRun]) -> String {
    let mut csv = "cast,queries_per_second,second,phase,asked,right,late,stale,wrong,failed,silent,unanswerable,\
                   unanswerable_silent,provider_packets,provider_dropped,fallback_packets,fallback_dropped\n"
        .to_owned();
    for run in runs {
        let phases = run.phases.iter().map(|limited| limited.phase);
        for (second, phase) in phases.flat_map(|phase| (phase.start..phase.end).map(move |second| (second, phase))) {
            let counts = count(&run.queries, second * 1_000, second * 1_000 + 1_000);
            let (packets, _) = packets_between(&run.samples, second * 1_000, second * 1_000 + 1_000);
            let numbers = [
                u64::from(counts.asked),
                counts.right.into(),
                counts.late.into(),
                counts.stale.into(),
                counts.wrong.into(),
                counts.failed.into(),
                counts.silent.into(),
                counts.unanswerable.into(),
                counts.unanswerable_silent.into(),
                packets.provider,
                packets.provider_dropped,
                packets.fallback,
                packets.fallback_dropped,
            ];
            let numbers = numbers.map(|number| number.to_string()).join(",");
            let phase = phase.span.name().replace(',', "");
            writeln!(csv, "{},{},{second},{phase},{numbers}", run.cast.letter(), run.scale.rate).unwrap();
        }
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::{Cast, aligned, beginning, table};
    use crate::report::output;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = aligned(&["cast", "µs"], &[vec!["a".into(), "12345".into()]]);
        assert_eq!(table, "| cast |    µs |\n| ---- | ----: |\n| a    | 12345 |\n");
    }

    #[test]
    fn a_cast_whose_program_is_missing_has_a_row_that_says_so() {
        let table = table(&[], &[(Cast::Dnsdist, "dnsdist")]);
        assert!(table.lines().last().is_some_and(|row| row.contains("not run: dnsdist is not installed")), "{table}");
    }

    #[test]
    fn the_published_page_begins_with_the_text_that_is_written_now() {
        assert!(output::read("replay", "md").starts_with(&beginning()));
    }
}
