//! Table of one part: rows appear on the terminal as they are measured, and all are published at the end.

use std::fmt::Write as _;

use super::labels::OURS;
use super::output;

/// Widths of the columns with the names of servers and with their versions.
const NAME_WIDTH: usize = 32;
const VERSION_WIDTH: usize = 20;
/// Smallest width of the other columns.
const MIN_WIDTH: usize = 7;

/// Column with its heading on the page and its name in the CSV file.
#[derive(Clone, Copy)]
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str);

/// Goal of a part, with what was measured.
pub(crate) struct Goal {
    pub(crate) subject: String,
    pub(crate) wanted: String,
    pub(crate) measured: String,
    pub(crate) is_reached: bool,
}

/// Which values of a column are better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// Results of one part. The first two columns are the server and its version.
pub(crate) struct Table {
    part: &'static str,
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

/// Formats a number with three significant digits, or all that stand before the point; a dash for NaN.
pub(crate) fn format_number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Table {
    /// Begins a table, and prints its heading.
    pub(crate) fn new(part: &'static str, columns: &'static [Column]) -> Self {
        let table = Self { part, columns, rows: Vec::new() };
        println!("{}", table.heading());
        table
    }

    /// Adds a row, and prints it.
    pub(crate) fn add(&mut self, row: Vec<String>) {
        println!("{}", self.format_row(&row));
        self.rows.push(row);
    }

    /// Returns one line of Markdown that names the servers better than DnsTier in a column, among the rows that the
    /// filter takes; empty where DnsTier has no number in it.
    pub(crate) fn compare(&self, filter: impl Fn(&[String]) -> bool, column: usize, better: Better) -> String {
        let rows: Vec<&Vec<String>> = self.rows.iter().filter(|row| filter(row)).collect();
        let value = |row: &Vec<String>| row[column].parse::<f64>().ok();
        let Some(ours) = rows.iter().find(|row| row[0] == OURS).and_then(|row| value(row)) else {
            return String::new();
        };
        let is_better = |peer: f64| match better {
            Better::Lower => peer < ours,
            Better::Higher => peer > ours,
        };
        let better: Vec<String> = rows
            .iter()
            .filter(|row| value(row).is_some_and(is_better))
            .map(|row| format!("{} ({})", row[0], row[column]))
            .collect();
        let heading = self.columns[column].0;
        let ours = format_number(ours);
        match better.as_slice() {
            [] => format!("* {heading}: no server is better than DnsTier ({ours}).\n"),
            better => format!("* {heading}: better than DnsTier ({ours}): {}.\n", better.join(", ")),
        }
    }

    /// Compares several columns among all rows, one line each.
    pub(crate) fn compare_all(&self, columns: &[(usize, Better)]) -> String {
        columns.iter().map(|(column, better)| self.compare(|_| true, *column, *better)).collect()
    }

    /// Writes the page and the CSV file of the part, and prints its goals.
    pub(crate) fn publish(&self, title: &str, method: &str, goals: &[Goal], remarks: &str) {
        for Goal { subject, wanted, measured, is_reached } in goals {
            let result = if *is_reached { "reached" } else { "**missed**" };
            println!("{subject}: {measured} ({wanted} wanted, {result})");
        }
        output::write(self.part, "md", &self.page(&output::machine(), title, method, goals, remarks));
        output::write(self.part, "csv", &self.csv());
    }

    /// Writes the chart of the part.
    pub(crate) fn publish_chart(&self, svg: &str) {
        output::write(self.part, "svg", svg);
    }

    fn page(&self, machine: &str, title: &str, method: &str, goals: &[Goal], remarks: &str) -> String {
        let mut page = page_beginning(title, method);
        write!(page, "\n\n{machine}\n").unwrap();
        if !goals.is_empty() {
            page += "\n| goal | wanted | measured | |\n| --- | --- | --- | --- |\n";
        }
        for Goal { subject, wanted, measured, is_reached } in goals {
            let result = if *is_reached { "reached" } else { "**missed**" };
            writeln!(page, "| {subject} | {wanted} | {measured} | {result} |").unwrap();
        }
        writeln!(page, "\n{remarks}\n{}", self.heading()).unwrap();
        for row in &self.rows {
            writeln!(page, "{}", self.format_row(row)).unwrap();
        }
        page
    }

    fn csv(&self) -> String {
        let mut csv: String = self.columns.iter().map(|column| column.1).collect::<Vec<_>>().join(",") + "\n";
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| quote(cell)).collect();
            writeln!(csv, "{}", cells.join(",")).unwrap();
        }
        csv
    }

    /// Returns the row of headings and the rule below it.
    fn heading(&self) -> String {
        let headings: Vec<String> = self.columns.iter().map(|column| column.0.to_owned()).collect();
        let dashes = |column| {
            let width: usize = self.width(column);
            if column < 2 { "-".repeat(width) } else { format!("{}:", "-".repeat(width - 1)) }
        };
        let rule = (0..self.columns.len()).map(dashes).collect::<Vec<_>>().join(" | ");
        format!("{}\n| {rule} |", self.format_row(&headings))
    }

    fn format_row(&self, cells: &[String]) -> String {
        let cell = |(column, cell): (usize, &String)| {
            let width = self.width(column);
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        format!("| {} |", cells.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | "))
    }

    fn width(&self, column: usize) -> usize {
        let min = [NAME_WIDTH, VERSION_WIDTH].get(column).copied().unwrap_or(MIN_WIDTH);
        self.columns[column].0.chars().count().max(min)
    }
}

/// Returns the title of a page, and how its figures were measured.
pub(crate) fn page_beginning(title: &str, method: &str) -> String {
    format!("# {title}\n\nWritten by `make bench`. {method}")
}

fn quote(cell: &str) -> String {
    if cell.contains(',') { format!("\"{cell}\"") } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Better, Column, Goal, Table, format_number};

    const COLUMNS: &[Column] = &[Column("server", "server"), Column("version", "version"), Column("p50 µs", "p50_us")];

    fn table(rows: &[[&str; 3]]) -> Table {
        let mut table = Table::new("test", COLUMNS);
        rows.iter().for_each(|row| table.add(row.map(str::to_owned).to_vec()));
        table
    }

    #[test]
    fn a_number_has_as_many_decimals_as_are_worth_printing() {
        let numbers = [1234.5, 99.96, 12.34, -5.034, 0.0, f64::NAN].map(format_number);
        assert_eq!(numbers, ["1234", "100.0", "12.3", "-5.03", "0.00", "-"]);
    }

    #[test]
    fn a_row_fills_its_columns() {
        let table = table(&[["DnsTier", "0.1.0", "40.8"]]);
        let heading = table.heading();
        let lines: Vec<&str> = heading.lines().collect();
        assert_eq!(lines[0], format!("| {:<32} | {:<20} | {:>7} |", "server", "version", "p50 µs"));
        assert_eq!(lines[1], format!("| {} | {} | ------: |", "-".repeat(32), "-".repeat(20)));
        assert_eq!(table.format_row(&table.rows[0]), format!("| {:<32} | {:<20} |    40.8 |", "DnsTier", "0.1.0"));
    }

    #[test]
    fn better_servers_are_named_with_their_numbers() {
        let rows = [["DnsTier", "", "40.8"], ["a", "", "40.7"], ["b, c", "", "7"], ["d", "", "41"], ["e", "", "-"]];
        let table = table(&rows);
        assert_eq!(
            table.compare(|_| true, 2, Better::Lower),
            "* p50 µs: better than DnsTier (40.8): a (40.7), b, c (7).\n"
        );
        assert_eq!(table.compare_all(&[(2, Better::Higher)]), "* p50 µs: better than DnsTier (40.8): d (41).\n");
        let none = table.compare(|row| row[0] != "d", 2, Better::Higher);
        assert_eq!(none, "* p50 µs: no server is better than DnsTier (40.8).\n");
        assert_eq!(table.compare(|row| row[0] != "DnsTier", 2, Better::Lower), "");
    }

    #[test]
    fn a_comma_is_quoted_in_the_csv_file() {
        let table = table(&[["dnsdist, 32", "1.7", "3"]]);
        assert_eq!(table.csv(), "server,version,p50_us\n\"dnsdist, 32\",1.7,3\n");
    }

    #[test]
    fn a_page_has_its_method_its_goals_its_remarks_and_its_rows() {
        let table = table(&[["DnsTier", "0.1.0", "3"]]);
        let goal =
            |is_reached| Goal { subject: "p50".into(), wanted: "≤ 2".into(), measured: "3".into(), is_reached };
        let page = table.page("Machine.", "Title", "Method.", &[goal(false), goal(true)], "Remarks.\n");
        let beginning = "# Title\n\nWritten by `make bench`. Method.\n\nMachine.\n\n| goal | wanted | measured | |\n";
        assert!(page.starts_with(beginning), "{page}");
        assert!(page.contains("| p50 | ≤ 2 | 3 | **missed** |\n| p50 | ≤ 2 | 3 | reached |\n\nRemarks.\n\n| server "));
        assert!(page.ends_with("|       3 |\n"), "{page}");
        assert!(!table.page("Machine.", "Title", "Method.", &[], "").contains("goal"));
    }
}
