//! CSV file of hits: for other programs, and to measure one server again without the others.

use std::fmt::Write as _;

use super::row::Row;
use crate::statistics::Estimate;

const HEADING: &str = "server,version,names,cpu_ns_per_response,user_ns,echo_cpu_ns,echo_ratio,half_width_95,runs,\
                       turns_dropped,response_octets,instructions,system_calls";

/// Writes the rows below a comment with the machine and the names of the columns.
pub(super) fn write(rows: &[Row], machine: &str) -> String {
    let mut text = format!("# {machine}\n{HEADING}\n");
    for row in rows {
        let Row { server, version, names, cpu_ns, user_ns, echo_ns, ratio, runs, dropped_turns, octets, .. } = row;
        let or_empty = |value: Option<f64>, digits| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
        let instructions = or_empty(row.instructions, 0);
        let system_calls = or_empty(row.system_calls, 4);
        let Estimate { value, half_width } = ratio;
        writeln!(
            text,
            "\"{server}\",{version},{names},{cpu_ns:.0},{user_ns:.0},{echo_ns:.0},{value:.4},{half_width:.4},{runs},\
             {dropped_turns},{octets},{instructions},{system_calls}"
        )
        .unwrap();
    }
    text
}

/// Reads the rows that [`write`] wrote; none where they were measured on another machine.
pub(super) fn read(text: &str, machine: &str) -> Vec<Row> {
    let is_this_machine = text.lines().next().and_then(|line| line.strip_prefix("# ")) == Some(machine);
    text.lines().filter(|_| is_this_machine).filter_map(read_row).collect()
}

fn read_row(line: &str) -> Option<Row> {
    let (server, rest) = line.strip_prefix('"')?.split_once("\",")?;
    let cells: Vec<&str> = rest.split(',').collect();
    let number = |cell: usize| cells.get(cell)?.parse::<f64>().ok();
    let count = |cell: usize| cells.get(cell)?.parse::<usize>().ok();
    Some(Row {
        server: server.into(),
        version: (*cells.first()?).into(),
        names: count(1)?,
        cpu_ns: number(2)?,
        user_ns: number(3)?,
        echo_ns: number(4)?,
        ratio: Estimate { value: number(5)?, half_width: number(6)? },
        runs: count(7)?,
        dropped_turns: count(8)?,
        octets: count(9)?,
        instructions: number(10),
        system_calls: number(11),
    })
}

#[cfg(test)]
mod tests {
    use super::{HEADING, Row, read, write};
    use crate::statistics::Estimate;

    fn rows() -> Vec<Row> {
        let row = Row {
            server: "dnsdist, 32 datagrams per call".into(),
            version: "1.7.3-2".into(),
            names: 1000,
            cpu_ns: 2027.0,
            user_ns: 655.0,
            echo_ns: 1409.0,
            ratio: Estimate { value: 0.6952, half_width: 0.0148 },
            runs: 5,
            dropped_turns: 1,
            octets: 118,
            instructions: Some(8282.0),
            system_calls: Some(0.0625),
        };
        vec![Row { names: 400_000, instructions: None, system_calls: None, ..row.clone() }, row]
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let text = write(&rows(), "this machine");
        assert_eq!(text.lines().nth(1), Some(HEADING));
        assert_eq!(read(&text, "this machine"), rows());
    }

    #[test]
    fn rows_of_another_machine_are_not_read() {
        assert_eq!(read(&write(&rows(), "another machine"), "this machine"), []);
        assert_eq!(read("", "this machine"), []);
    }

    #[test]
    fn the_published_file_can_be_read() {
        let text = crate::report::output::read("hits", "csv");
        let machine = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap();
        assert_eq!(read(&text, machine).len(), text.lines().count() - 2);
        assert_eq!(text.lines().nth(1), Some(HEADING));
    }
}
