//! Line chart: several percentiles of each server on a logarithmic scale.

use std::fmt::Write as _;

use super::labels::OURS;
use super::svg::{self, LEFT, OUR_COLOUR, ROW_HEIGHT};

/// Length of the whole scale.
const FULL_WIDTH: f64 = 440.0;
const PEER_COLOUR: &str = "#718096";

/// Line chart: for each server a line from its first value over the others to its last one, on a scale of powers of
/// ten.
pub(crate) struct Lines {
    title: &'static str,
    rows: Vec<(String, Vec<f64>)>,
}

impl Lines {
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Adds a line; without a line where the first or the last value is not a number.
    pub(crate) fn add(&mut self, name: &str, values: Vec<f64>) {
        self.rows.push((name.into(), values));
    }

    /// Returns the chart as SVG.
    pub(crate) fn svg(&self) -> String {
        let finite = || self.rows.iter().flat_map(|(_, values)| values).filter(|value| value.is_finite());
        let min = finite().fold(f64::MAX, |min, value| min.min(*value));
        let max = finite().fold(1.0_f64, |max, value| max.max(*value));
        let first_power = min.max(1.0).log10().floor();
        let last_power = max.log10().ceil().max(1.0);
        let powers = (last_power - first_power).max(1.0);
        let x_of = |value: f64| LEFT as f64 + FULL_WIDTH * (value.max(1.0).log10() - first_power) / powers;
        let height = ROW_HEIGHT * (self.rows.len() + 1) + 48;
        let mut svg = svg::begin(height, self.title);
        for power in first_power as i32..=last_power as i32 {
            let label = 10_f64.powi(power);
            let x = x_of(label);
            let bottom = height - 28;
            writeln!(svg, "  <line x1=\"{x:.0}\" y1=\"30\" x2=\"{x:.0}\" y2=\"{bottom}\" stroke=\"#e2e8f0\"/>")
                .unwrap();
            let y = height - 10;
            writeln!(svg, "  <text x=\"{x:.0}\" y=\"{y}\" text-anchor=\"middle\">{label:.0}</text>").unwrap();
        }
        for (row, (name, values)) in self.rows.iter().enumerate() {
            let y = 44 + row * ROW_HEIGHT;
            let colour = if name.starts_with(OURS) { OUR_COLOUR } else { PEER_COLOUR };
            svg += &svg::name(y + 5, name);
            let (Some(first), Some(last)) = (values.first(), values.last()) else { continue };
            if first.is_nan() || last.is_nan() {
                continue;
            }
            let from = x_of(*first);
            let to = x_of(*last);
            writeln!(
                svg,
                "  <line x1=\"{from:.0}\" y1=\"{y}\" x2=\"{to:.0}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            )
            .unwrap();
            for value in values {
                writeln!(svg, "  <circle cx=\"{:.0}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>", x_of(*value)).unwrap();
            }
        }
        svg + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn powers_of_ten_are_evenly_apart() {
        let mut lines = Lines::new("title");
        lines.add("DnsTier", vec![10.0, 100.0, 1000.0]);
        lines.add("unbound", vec![f64::NAN, 1.0, 1.0]);
        let svg = lines.svg();
        // From 10^0, the smallest value, to 10^3: 440 / 3 for each power.
        let places: Vec<&str> = svg.split("cx=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(places, ["447", "593", "740"]);
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 1, "a line without a beginning is not drawn");
        assert!(svg.contains(">unbound<") && svg.contains(">1000<"));
    }
}
