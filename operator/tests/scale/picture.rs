//! Picture of how cost grows with the number of nodes: a panel for each figure, with a bar for each cluster.

use std::fmt::Write as _;

use crate::figures::{FIGURES, Row};

/// Figures with a panel, and their titles.
const PANELS: [(&str, &str); 6] = [
    ("memory_peak_mib", "Memory, at most (MiB)"),
    ("restart_first_pass_s", "First pass after a start (s)"),
    ("canary_told_s", "Change until a canary is told (s)"),
    ("idle_cpu_percent", "Processor at rest (% of one)"),
    ("writes_per_s", "API writes in any second"),
    ("rollout_s", "Whole roll-out, soak 5s (s)"),
];
const COLUMNS: usize = 3;
const WIDTH: f64 = 250.0;
const HEIGHT: f64 = 190.0;
/// Height of the longest bar.
const BAR: f64 = 110.0;
const BAR_WIDTH: f64 = 46.0;
const COLOUR: &str = "#2b6cb0";
const LIMIT_COLOUR: &str = "#c53030";

/// Returns the picture as SVG.
pub(crate) fn svg(rows: &[Row]) -> String {
    let height = HEIGHT * PANELS.len().div_ceil(COLUMNS) as f64 + 30.0;
    let width = WIDTH * COLUMNS as f64 + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n  \
         <text x=\"20\" y=\"18\" font-size=\"14\" font-weight=\"bold\">The operator and the number of nodes</text>\n"
    );
    for (index, (key, title)) in PANELS.into_iter().enumerate() {
        let (column, line) = ((index % COLUMNS) as f64, (index / COLUMNS) as f64);
        panel(&mut svg, (20.0 + column * WIDTH, 30.0 + line * HEIGHT), key, title, rows);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, (left, top): (f64, f64), key: &str, title: &str, rows: &[Row]) {
    let figure = FIGURES.iter().find(|figure| figure.key == key);
    let limit = figure.and_then(|figure| figure.limit);
    let digits = figure.map_or(0, |figure| figure.digits);
    let values = rows.iter().filter_map(|row| Some((row.nodes, row.get(key)?)));
    let largest = values.clone().map(|(_, value)| value).chain(limit).fold(f64::MIN_POSITIVE, f64::max);
    let bottom = top + 40.0 + BAR;
    let y_of = |value: f64| bottom - BAR * value / largest;
    writeln!(svg, "  <text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>", top + 16.0).unwrap();
    for (index, (nodes, value)) in values.enumerate() {
        let x = left + index as f64 * (BAR_WIDTH + 20.0);
        let (y, middle) = (y_of(value), x + BAR_WIDTH / 2.0);
        writeln!(
            svg,
            "  <rect x=\"{x:.0}\" y=\"{y:.1}\" width=\"{BAR_WIDTH:.0}\" height=\"{:.1}\" fill=\"{COLOUR}\"/>\n  \
             <text x=\"{middle:.0}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.digits$}</text>\n  \
             <text x=\"{middle:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{nodes}</text>",
            bottom - y,
            y - 4.0,
            bottom + 16.0
        )
        .unwrap();
    }
    if let Some(limit) = limit {
        let (y, right) = (y_of(limit), left + 3.0 * (BAR_WIDTH + 20.0));
        writeln!(
            svg,
            "  <line x1=\"{left:.0}\" y1=\"{y:.1}\" x2=\"{right:.0}\" y2=\"{y:.1}\" stroke=\"{LIMIT_COLOUR}\" \
             stroke-dasharray=\"4 3\"/>\n  <text x=\"{:.0}\" y=\"{:.1}\" fill=\"{LIMIT_COLOUR}\">{limit:.0}</text>",
            right + 4.0,
            y + 4.0
        )
        .unwrap();
    }
}

#[test]
fn a_bar_at_the_limit_ends_at_its_line() {
    let mut row = Row::new(100);
    row.set("memory_peak_mib", 300.0);
    let svg = svg(&[row]);
    assert!(svg.contains("y=\"70.0\" width=\"46\" height=\"110.0\""), "{svg}");
    assert!(svg.contains("y1=\"70.0\""), "{svg}");
    assert_eq!(svg.matches("<rect").count(), 1, "figures that were not measured have no bar");
}
