//! Bar chart of the ratios to the echo, with their confidence intervals.

use std::fmt::Write as _;

use super::row::Row;
use crate::report::labels::{ECHO, OURS};

/// Height of a bar's row.
const ROW_HEIGHT: usize = 26;
/// Left edge of the bars.
const LEFT: usize = 260;
/// Length of a bar whose ratio is 1.
const FULL_WIDTH: f64 = 440.0;

/// Returns the chart as SVG: groups of one number of names each, and in them a bar for each server.
pub(super) fn svg(rows: &[Row]) -> String {
    let mut groups: Vec<usize> = rows.iter().map(|row| row.names).collect();
    groups.dedup();
    let height = ROW_HEIGHT * (rows.len() + 2 * groups.len()) + 24;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n  <rect width=\"800\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut y = 8;
    for names in groups {
        let title = format!("{names} names: CPU time of the echo ÷ CPU time of the server (1 is the cost of sockets)");
        writeln!(svg, "  <text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>", y + 18).unwrap();
        y += ROW_HEIGHT + 4;
        let group = || rows.iter().filter(|row| row.names == names);
        let bottom = y + ROW_HEIGHT * group().count();
        for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let x = LEFT as f64 + FULL_WIDTH * tick;
            writeln!(svg, "  <path d=\"M{x:.0} {y}V{bottom}\" stroke=\"#a0aec0\" stroke-dasharray=\"3\"/>").unwrap();
        }
        for row in group() {
            append_bar(&mut svg, y, row);
            y += ROW_HEIGHT;
        }
        y += ROW_HEIGHT - 4;
    }
    svg + "</svg>\n"
}

fn append_bar(svg: &mut String, y: usize, row: &Row) {
    let Row { server, ratio, .. } = row;
    let left = LEFT as f64;
    let width = FULL_WIDTH * ratio.value;
    let middle = y + ROW_HEIGHT / 2;
    let colour = match server.as_str() {
        OURS => "#2b6cb0",
        server if server.starts_with(ECHO) => "#718096",
        _ => "#cbd5e0",
    };
    let from = left + width * (1.0 - ratio.half_width);
    let to = left + width * (1.0 + ratio.half_width);
    writeln!(svg, "  <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{server}</text>", LEFT - 8, middle + 5).unwrap();
    let top = y + 3;
    let height = ROW_HEIGHT - 6;
    writeln!(svg, "  <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"{height}\" fill=\"{colour}\"/>")
        .unwrap();
    writeln!(svg, "  <path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#1a202c\" stroke-width=\"3\"/>").unwrap();
    writeln!(svg, "  <text x=\"{:.0}\" y=\"{}\">{:.2}</text>", to.max(left) + 8.0, middle + 5, ratio.value).unwrap();
}

#[cfg(test)]
mod tests {
    use super::{Row, svg};
    use crate::statistics::Estimate;

    #[test]
    fn each_number_of_names_has_a_title_and_each_server_a_bar_with_its_interval() {
        let row = |server: &str, names, value| Row {
            server: server.into(),
            names,
            ratio: Estimate { value, half_width: 0.1 },
            ..Row::default()
        };
        let svg = svg(&[row("echo", 1000, 1.0), row("DnsTier", 1000, 0.5), row("DnsTier", 400_000, 0.25)]);
        assert_eq!((svg.matches("1000 names:").count(), svg.matches("400000 names:").count()), (1, 1));
        assert!(svg.contains("width=\"440\"") && svg.contains("width=\"220\"") && svg.contains("width=\"110\""));
        // 260 + 220 × (1 ± 0.1).
        assert!(svg.contains("M458.0 ") && svg.contains("H502.0\""), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
