//! What was measured as text with commas, for other programs, and to measure one server again without the others.

use std::fmt::Write as _;

use crate::report::hits::page::Row;
use crate::statistics::Estimate;

const HEADS: &str = "server,version,names,cpu_ns_per_answer,user_ns,echo_cpu_ns,echo_ratio,half_width_95,lives,turns_dropped,\
                     answer_octets,instructions,system_calls";

/// The rows below the machine and the heads.
pub(crate) fn csv(rows: &[Row], machine: &str) -> String {
    let mut text = format!("# {machine}\n{HEADS}\n");
    for row in rows {
        let Row { name, version, names, nanoseconds, user, echo, ratio, lives, dropped, octets, .. } = row;
        let empty = |value: Option<f64>, digits| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
        let (instructions, calls) = (empty(row.instructions, 0), empty(row.calls, 4));
        let Estimate { value, half_width } = ratio;
        writeln!(
            text,
            "\"{name}\",{version},{names},{nanoseconds:.0},{user:.0},{echo:.0},{value:.4},{half_width:.4},{lives},{dropped},\
             {octets},{instructions},{calls}"
        )
        .unwrap();
    }
    text
}

/// The rows that [`csv`] wrote; none where they are of another machine.
pub(crate) fn rows(text: &str, machine: &str) -> Vec<Row> {
    let is_of_here = text.lines().next().and_then(|line| line.strip_prefix("# ")) == Some(machine);
    text.lines().filter(|_| is_of_here).filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let (name, rest) = line.strip_prefix('"')?.split_once("\",")?;
    let cells: Vec<&str> = rest.split(',').collect();
    let number = |cell: usize| cells.get(cell)?.parse::<f64>().ok();
    let count = |cell: usize| cells.get(cell)?.parse::<usize>().ok();
    Some(Row {
        name: name.into(),
        version: (*cells.first()?).into(),
        names: count(1)?,
        nanoseconds: number(2)?,
        user: number(3)?,
        echo: number(4)?,
        ratio: Estimate { value: number(5)?, half_width: number(6)? },
        lives: count(7)?,
        dropped: count(8)?,
        octets: count(9)?,
        instructions: number(10),
        calls: number(11),
    })
}
