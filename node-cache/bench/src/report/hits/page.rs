//! Page of hits, and the rows of the same figures on the terminal.

use std::fmt::Write as _;

use super::row::{Row, ours};
use super::{bars, csv};
use crate::report::labels::{EPOLL_ECHO, OURS};
use crate::report::output;
use crate::statistics::Estimate;

/// Name of the part, and so of its files.
const PART: &str = "hits";
/// Everything above the machine.
const ABOUT: &str = include_str!("about.md");
const HEADINGS: [&str; 12] = [
    "server",
    "version",
    "names",
    "ns",
    "user ns",
    "echo ns",
    "echo ÷ server",
    "octets",
    "instructions",
    "system calls",
    "server ÷ DnsTier",
    "socket limit",
];
/// Smallest ratios to the echo that are wanted, by number of names.
const RATIO_GOALS: [(usize, f64); 2] = [(1_000, 0.95), (400_000, 0.85)];
/// Smallest share of the socket limit that is wanted, against each peer.
const SOCKET_LIMIT_GOAL: f64 = 0.95;
/// Most instructions in user mode per response.
const MAX_INSTRUCTIONS: f64 = 700.0;
/// Most bytes per cache entry with four addresses.
const MAX_ENTRY_BYTES: u64 = 256;

/// Returns the headings of the columns on the terminal.
pub(crate) fn terminal_heading() -> String {
    format!(
        "{:<32} {:<20} {:>7} {:>7} {:>7} {:>7} {:>13} {:>7} {:>6} {:>6} {:>12} {:>6}",
        "server",
        "version",
        "names",
        "ns",
        "user",
        "echo",
        "echo ÷ server",
        "± %",
        "runs",
        "octets",
        "instructions",
        "calls"
    )
}

/// Returns a row on the terminal.
pub(crate) fn terminal_row(row: &Row) -> String {
    let Row { server, version, names, cpu_ns, user_ns, echo_ns, ratio, runs, octets, .. } = row;
    let instructions = or_dash(row.instructions, 0);
    let system_calls = or_dash(row.system_calls, 2);
    let percent = 100.0 * ratio.half_width;
    let ratio = ratio.value;
    format!(
        "{server:<32} {version:<20} {names:>7} {cpu_ns:>7.0} {user_ns:>7.0} {echo_ns:>7.0} {ratio:>13.3} \
         {percent:>7.1} {runs:>6} {octets:>6} {instructions:>12} {system_calls:>6}"
    )
}

/// Reads the published rows; none where they were measured on another machine.
pub(crate) fn read_published() -> Vec<Row> {
    csv::read(&output::read(PART, "csv"), &output::machine())
}

/// Writes the page, the CSV file and the chart.
pub(crate) fn publish(rows: &[Row], bytes_per_entry: u64) {
    let machine = output::machine();
    output::write(PART, "md", &page(rows, bytes_per_entry, &machine));
    output::write(PART, "csv", &csv::write(rows, &machine));
    output::write(PART, "svg", &bars::svg(rows));
}

fn page(rows: &[Row], bytes_per_entry: u64, machine: &str) -> String {
    let table = markdown_table(rows);
    let goals = goals(rows, bytes_per_entry);
    let better_peers = better_peers(rows);
    format!("{ABOUT}\n{machine}\n\n{table}{goals}{better_peers}")
}

fn markdown_table(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}\n", HEADINGS.join(" | "), " --- |".repeat(HEADINGS.len()));
    for row in rows {
        let Row { server, version, names, cpu_ns, user_ns, echo_ns, ratio, octets, .. } = row;
        let instructions = or_dash(row.instructions, 0);
        let system_calls = or_dash(row.system_calls, 2);
        let ours = ours(rows, *names).filter(|_| row.is_peer());
        let times = or_dash(ours.map(|ours| ours.ratio.value / ratio.value), 2);
        let socket_limit = or_dash(row.is_peer().then(|| 1.0 / ratio.value), 2);
        let percent = 100.0 * ratio.half_width;
        let ratio = ratio.value;
        writeln!(
            text,
            "| {server} | {version} | {names} | {cpu_ns:.0} | {user_ns:.0} | {echo_ns:.0} | \
             {ratio:.2} ± {percent:.1} % | {octets} | {instructions} | {system_calls} | {times} | {socket_limit} |"
        )
        .unwrap();
    }
    text
}

/// Formats a number; a dash where there is none.
fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

fn goals(rows: &[Row], bytes_per_entry: u64) -> String {
    let mut text = String::from("\n## Goals\n\n| goal | figure | |\n| --- | --- | --- |\n");
    let mut add = |goal: &str, figure: String, is_reached: bool| {
        let result = if is_reached { "reached" } else { "missed" };
        writeln!(text, "| {goal} | {figure} | {result} |").unwrap();
    };
    for (names, wanted) in RATIO_GOALS {
        if let Some(ours) = ours(rows, names) {
            let Estimate { value, half_width } = ours.ratio;
            let figure = format!("{value:.3} ± {:.1} %", 100.0 * half_width);
            add(&format!("echo ÷ {OURS} with {names} names ≥ {wanted}"), figure, value >= wanted);
        }
    }
    for row in rows.iter().filter(|row| row.is_peer()) {
        let Some(ours) = ours(rows, row.names) else { continue };
        let times = ours.ratio.value / row.ratio.value;
        let socket_limit = 1.0 / row.ratio.value;
        let share = times / socket_limit;
        let goal = format!("{} with {} names: share of the socket limit ≥ {SOCKET_LIMIT_GOAL}", row.server, row.names);
        add(&goal, format!("{times:.2} of {socket_limit:.2}: {share:.3}"), share >= SOCKET_LIMIT_GOAL);
    }
    if let Some(instructions) = ours(rows, RATIO_GOALS[0].0).and_then(|ours| ours.instructions) {
        let goal = format!("instructions in user mode per response ≤ {MAX_INSTRUCTIONS}");
        add(&goal, format!("{instructions:.0}"), instructions <= MAX_INSTRUCTIONS);
    }
    let goal = format!("bytes per cache entry with four addresses ≤ {MAX_ENTRY_BYTES}");
    add(&goal, bytes_per_entry.to_string(), bytes_per_entry <= MAX_ENTRY_BYTES);
    let epoll_echo = rows.iter().find(|row| row.server == EPOLL_ECHO);
    if let (Some(ours), Some(epoll_echo)) = (ours(rows, RATIO_GOALS[0].0), epoll_echo) {
        let share = ours.ratio.value / epoll_echo.ratio.value;
        writeln!(text, "\nCPU time of the `{EPOLL_ECHO}` ÷ CPU time of {OURS} with {} names: {share:.2}.", ours.names)
            .unwrap();
    }
    text
}

fn better_peers(rows: &[Row]) -> String {
    const HEADING: &str = "\n## Where a peer is better\n\n";
    let mut text = String::from(HEADING);
    for row in rows.iter().filter(|row| row.is_peer()) {
        let Some(ours) = ours(rows, row.names) else { continue };
        let mut add = |what: &str, peer: f64, ours: f64, digits: usize| {
            let Row { server, names, .. } = row;
            writeln!(text, "* {server} with {names} names takes {what}: {peer:.digits$} against {ours:.digits$}.")
                .unwrap();
        };
        if row.ratio.value > ours.ratio.value {
            add("less CPU time, as a multiple of the echo's", 1.0 / row.ratio.value, 1.0 / ours.ratio.value, 2);
        }
        if let (Some(peer), Some(ours)) = (row.system_calls, ours.system_calls)
            && peer < ours
        {
            add("fewer system calls per response", peer, ours, 3);
        }
        if let (Some(peer), Some(ours)) = (row.instructions, ours.instructions)
            && peer < ours
        {
            add("fewer instructions per response", peer, ours, 0);
        }
    }
    if text.len() == HEADING.len() {
        text += "In none of these columns.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ABOUT, Row, markdown_table, page, terminal_heading, terminal_row};
    use crate::report::output;
    use crate::statistics::Estimate;

    fn row(server: &str, names: usize, ratio: f64) -> Row {
        Row {
            server: server.into(),
            version: "0.1.0".into(),
            names,
            cpu_ns: 1400.0 / ratio,
            user_ns: 20.0,
            echo_ns: 1400.0,
            ratio: Estimate { value: ratio, half_width: 0.012 },
            runs: 5,
            octets: 118,
            system_calls: Some(0.07),
            ..Row::default()
        }
    }

    #[test]
    fn a_peer_is_compared_with_dnstier_and_with_the_socket_limit() {
        let table = markdown_table(&[row("DnsTier", 1000, 0.96), row("unbound", 1000, 0.64)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[2], "| DnsTier | 0.1.0 | 1000 | 1458 | 20 | 1400 | 0.96 ± 1.2 % | 118 | – | 0.07 | – | – |");
        assert!(lines[3].ends_with("| 0.64 ± 1.2 % | 118 | – | 0.07 | 1.50 | 1.56 |"), "{}", lines[3]);
        assert!(lines.iter().all(|line| line.matches('|').count() == 13));
    }

    #[test]
    fn a_page_says_which_goals_are_missed() {
        let rows = [
            row("echo with epoll", 1000, 0.9),
            Row { instructions: Some(701.0), ..row("DnsTier", 1000, 0.96) },
            row("unbound", 1000, 0.64),
            row("DnsTier", 400_000, 0.84),
        ];
        let page = page(&rows, 257, "Machine.");
        for line in [
            "| echo ÷ DnsTier with 1000 names ≥ 0.95 | 0.960 ± 1.2 % | reached |",
            "| echo ÷ DnsTier with 400000 names ≥ 0.85 | 0.840 ± 1.2 % | missed |",
            "| unbound with 1000 names: share of the socket limit ≥ 0.95 | 1.50 of 1.56: 0.960 | reached |",
            "| instructions in user mode per response ≤ 700 | 701 | missed |",
            "| bytes per cache entry with four addresses ≤ 256 | 257 | missed |",
            "CPU time of the `echo with epoll` ÷ CPU time of DnsTier with 1000 names: 1.07.",
            "In none of these columns.",
        ] {
            assert!(page.lines().any(|other| other == line), "{line}\n{page}");
        }
    }

    #[test]
    fn a_page_says_where_a_peer_is_better() {
        let faster = Row { instructions: Some(10.0), system_calls: Some(0.06), ..row("dnsdist", 1000, 0.98) };
        let page = page(&[Row { instructions: Some(600.0), ..row("DnsTier", 1000, 0.5) }, faster], 100, "Machine.");
        let (_, better) = page.split_once("## Where a peer is better\n\n").unwrap();
        assert_eq!(
            better,
            "* dnsdist with 1000 names takes less CPU time, as a multiple of the echo's: 1.02 against 2.00.\n\
             * dnsdist with 1000 names takes fewer system calls per response: 0.060 against 0.070.\n\
             * dnsdist with 1000 names takes fewer instructions per response: 10 against 600.\n"
        );
    }

    #[test]
    fn the_columns_on_the_terminal_are_as_wide_as_their_headings() {
        let width = terminal_heading().chars().count();
        assert_eq!(terminal_row(&row("DnsTier", 400_000, 0.96)).chars().count(), width);
    }

    #[test]
    fn the_published_page_begins_with_what_is_printed_now() {
        assert!(output::read("hits", "md").starts_with(ABOUT));
    }
}
