//! Bar chart: one value of each server.

use std::fmt::Write as _;

use super::labels::OURS;
use super::svg::{self, LEFT, OUR_COLOUR, ROW_HEIGHT};
use super::table::format_number;

/// Length of the longest bar.
const FULL_WIDTH: f64 = 360.0;
const PEER_COLOUR: &str = "#cbd5e0";

/// Bar chart whose longest bar fills the width.
pub(crate) struct Bars {
    title: &'static str,
    rows: Vec<(String, f64)>,
}

impl Bars {
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Adds a bar; a negative value becomes a bar of length 0.
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.rows.push((name.into(), value.max(0.0)));
    }

    /// Returns the chart as SVG.
    pub(crate) fn svg(&self) -> String {
        let max = self.rows.iter().fold(f64::MIN_POSITIVE, |max, (_, value)| max.max(*value));
        let mut svg = svg::begin(ROW_HEIGHT * (self.rows.len() + 1) + 24, self.title);
        for (row, (name, value)) in self.rows.iter().enumerate() {
            let y = 32 + row * ROW_HEIGHT;
            let colour = if name.starts_with(OURS) { OUR_COLOUR } else { PEER_COLOUR };
            let width = FULL_WIDTH * value / max;
            let height = ROW_HEIGHT - 6;
            svg += &svg::name(y + 16, name);
            writeln!(
                svg,
                "  <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"{height}\" fill=\"{colour}\"/>"
            )
            .unwrap();
            let value = format_number(*value);
            writeln!(svg, "  <text x=\"{:.0}\" y=\"{}\">{value}</text>", LEFT as f64 + width + 8.0, y + 16).unwrap();
        }
        svg + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::Bars;

    #[test]
    fn the_largest_value_fills_the_width_and_a_negative_one_has_no_bar() {
        let mut bars = Bars::new("title");
        bars.add("DnsTier", 50.0);
        bars.add("unbound", 100.0);
        bars.add("dnsmasq", -5.0);
        let svg = bars.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains(">title<"));
        let bars: Vec<&str> = svg.lines().filter(|line| line.contains("<rect")).collect();
        assert!(bars[0].contains("width=\"180\"") && bars[0].contains("#2b6cb0"), "{}", bars[0]);
        assert!(bars[1].contains("width=\"360\"") && bars[1].contains("#cbd5e0"), "{}", bars[1]);
        assert!(bars[2].contains("width=\"0\"") && svg.contains(">0.00<"), "{}", bars[2]);
    }
}
