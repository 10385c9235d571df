//! One table of results: lines appear as they are measured, and all of them are published at the end.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks");
/// Widths of the columns with the names of servers and their versions.
const NAME: usize = 32;
const VERSION: usize = 20;

/// A column: its head for people, its head for programs.
#[derive(Clone, Copy)]
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str);

/// What was wanted, and what came of it.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) wanted: String,
    pub(crate) measured: String,
    pub(crate) reached: bool,
}

/// Results of one part.
pub(crate) struct Report {
    part: &'static str,
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

/// A number with as many decimals as are worth printing.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Report {
    /// Begins it; the first column tells which server it is.
    pub(crate) fn new(part: &'static str, columns: &'static [Column]) -> Self {
        let report = Self { part, columns, rows: Vec::new() };
        let heads: Vec<String> = columns.iter().map(|column| column.0.to_owned()).collect();
        println!("{}", report.line(&heads));
        println!("{}", report.rule());
        report
    }

    /// Adds a line, and shows it.
    pub(crate) fn add(&mut self, row: Vec<String>) {
        println!("{}", self.line(&row));
        self.rows.push(row);
    }

    /// Says which servers are better than ours in a column, whose numbers are better when they are lower, or higher.
    pub(crate) fn better(&self, rows: impl Fn(&[String]) -> bool, column: usize, lower: bool) -> String {
        let rows: Vec<&Vec<String>> = self.rows.iter().filter(|row| rows(row)).collect();
        let value = |row: &Vec<String>| row[column].parse::<f64>().ok();
        let Some(ours) = rows.iter().find(|row| row[0] == crate::servers::subject::OURS).and_then(|row| value(row))
        else {
            return String::new();
        };
        let is_better = |theirs: f64| if lower { theirs < ours } else { theirs > ours };
        let better: Vec<String> = rows
            .iter()
            .filter(|row| value(row).is_some_and(is_better))
            .map(|row| format!("{} ({})", row[0], row[column]))
            .collect();
        let head = self.columns[column].0;
        match better.as_slice() {
            [] => format!("* {head}: nobody is better than DnsTier ({}).\n", number(ours)),
            better => format!("* {head}: better than DnsTier ({}) are {}.\n", number(ours), better.join(", ")),
        }
    }

    /// Writes `docs/benchmarks/<part>.md` and `.csv`.
    pub(crate) fn publish(&self, title: &str, method: &str, goals: &[Goal], remarks: &str) {
        let heads: Vec<String> = self.columns.iter().map(|column| column.0.to_owned()).collect();
        let mut text = format!("# {title}\n\nWritten by `make bench`. {method}\n\n{}\n", machine());
        if !goals.is_empty() {
            text += "\n| goal | wanted | measured | |\n| --- | --- | --- | --- |\n";
        }
        for Goal { what, wanted, measured, reached } in goals {
            let reached = if *reached { "reached" } else { "**missed**" };
            writeln!(text, "| {what} | {wanted} | {measured} | {reached} |").unwrap();
            println!("{what}: {measured} ({wanted} wanted, {reached})");
        }
        writeln!(text, "\n{remarks}\n{}\n{}", self.line(&heads), self.rule()).unwrap();
        let mut csv: String = self.columns.iter().map(|column| column.1).collect::<Vec<_>>().join(",") + "\n";
        for row in &self.rows {
            writeln!(text, "{}", self.line(row)).unwrap();
            let cells: Vec<String> = row.iter().map(|cell| quoted(cell)).collect();
            writeln!(csv, "{}", cells.join(",")).unwrap();
        }
        self.write("md", &text);
        self.write("csv", &csv);
    }

    /// Writes a file beside the others.
    pub(crate) fn write(&self, kind: &str, content: &str) {
        fs::create_dir_all(FOLDER).unwrap();
        fs::write(Path::new(FOLDER).join(format!("{}.{kind}", self.part)), content).unwrap();
    }

    fn width(&self, column: usize) -> usize {
        let least = [NAME, VERSION].get(column).copied().unwrap_or(7);
        self.columns[column].0.chars().count().max(least)
    }

    fn line(&self, cells: &[String]) -> String {
        let cell = |(column, cell): (usize, &String)| {
            let width = self.width(column);
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        format!("| {} |", cells.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | "))
    }

    fn rule(&self) -> String {
        let dashes = |column| {
            let width: usize = self.width(column);
            if column < 2 { "-".repeat(width) } else { format!("{}:", "-".repeat(width - 1)) }
        };
        format!("| {} |", (0..self.columns.len()).map(dashes).collect::<Vec<_>>().join(" | "))
    }
}

/// The processor and the kernel on which all this was measured.
fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Processor: {}. Kernel: {}.", model.unwrap_or("unknown"), kernel.trim())
}

fn quoted(cell: &str) -> String {
    if cell.contains(',') { format!("\"{cell}\"") } else { cell.to_owned() }
}
