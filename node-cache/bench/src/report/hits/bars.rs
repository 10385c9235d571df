//! The ratios as a picture: a bar for each server and number of names.

use std::fmt::Write as _;

use crate::report::hits::page::{OURS, Row};

const LINE: usize = 26;
const LEFT: usize = 260;
const FULL: f64 = 440.0;

/// Bars in groups of one number of names each, with the echo's full length behind them.
pub(crate) fn picture(rows: &[Row]) -> String {
    let mut groups: Vec<usize> = rows.iter().map(|row| row.names).collect();
    groups.dedup();
    let height = LINE * (rows.len() + 2 * groups.len()) + 24;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n  \
         <rect width=\"800\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut y = 8;
    for names in groups {
        let title = format!("{names} names: the echo's processor time ÷ the server's (1 is what sockets cost)");
        writeln!(svg, "  <text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>", y + 18).unwrap();
        y += LINE + 4;
        let of_group = || rows.iter().filter(|row| row.names == names);
        let bottom = y + LINE * of_group().count();
        for tenth in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let x = LEFT as f64 + FULL * tenth;
            writeln!(svg, "  <path d=\"M{x:.0} {y}V{bottom}\" stroke=\"#a0aec0\" stroke-dasharray=\"3\"/>").unwrap();
        }
        for row in of_group() {
            bar(&mut svg, y, row);
            y += LINE;
        }
        y += LINE - 4;
    }
    svg + "</svg>\n"
}

fn bar(svg: &mut String, y: usize, row: &Row) {
    let Row { name, ratio, .. } = row;
    let (left, width, middle) = (LEFT as f64, FULL * ratio.value, y + LINE / 2);
    let colour = match name.as_str() {
        OURS => "#2b6cb0",
        name if name.starts_with("echo") => "#718096",
        _ => "#cbd5e0",
    };
    let (from, to) = (left + width * (1.0 - ratio.half_width), left + width * (1.0 + ratio.half_width));
    writeln!(svg, "  <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", LEFT - 8, middle + 5).unwrap();
    writeln!(
        svg,
        "  <rect x=\"{LEFT}\" y=\"{}\" width=\"{width:.0}\" height=\"{}\" fill=\"{colour}\"/>",
        y + 3,
        LINE - 6
    )
    .unwrap();
    writeln!(svg, "  <path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#1a202c\" stroke-width=\"3\"/>").unwrap();
    writeln!(svg, "  <text x=\"{:.0}\" y=\"{}\">{:.2}</text>", to.max(left) + 8.0, middle + 5, ratio.value).unwrap();
}
