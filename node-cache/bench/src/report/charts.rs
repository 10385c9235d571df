//! Pictures of results.

use std::fmt::Write as _;

use crate::servers::subject::OURS;

const ROW: usize = 28;
const LEFT: usize = 300;
const FULL: f64 = 360.0;
const OUR_COLOUR: &str = "#2b6cb0";
const THEIR_COLOUR: &str = "#cbd5e0";

/// A bar for each server.
pub(crate) struct Bars {
    title: &'static str,
    rows: Vec<(String, f64)>,
}

impl Bars {
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.rows.push((name.into(), value.max(0.0)));
    }

    pub(crate) fn picture(&self) -> String {
        let most = self.rows.iter().fold(f64::MIN_POSITIVE, |most, (_, value)| most.max(*value));
        let mut svg = begin(ROW * (self.rows.len() + 1) + 24, self.title);
        for (row, (name, value)) in self.rows.iter().enumerate() {
            let y = 32 + row * ROW;
            let colour = if name.starts_with(OURS) { OUR_COLOUR } else { THEIR_COLOUR };
            let width = FULL * value / most;
            writeln!(svg, "  <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", LEFT - 10, y + 16).unwrap();
            writeln!(
                svg,
                "  <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"{}\" fill=\"{colour}\"/>",
                ROW - 6
            )
            .unwrap();
            let value = crate::report::table::number(*value);
            writeln!(svg, "  <text x=\"{:.0}\" y=\"{}\">{value}</text>", LEFT as f64 + width + 8.0, y + 16).unwrap();
        }
        svg + "</svg>\n"
    }
}

/// For each server a line from one value over others to the last, on a scale of powers of ten.
pub(crate) struct Ranges {
    title: &'static str,
    rows: Vec<(String, Vec<f64>)>,
}

impl Ranges {
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &str, values: Vec<f64>) {
        self.rows.push((name.into(), values));
    }

    pub(crate) fn picture(&self) -> String {
        let values = || self.rows.iter().flat_map(|(_, values)| values).filter(|value| value.is_finite());
        let (least, most) =
            values().fold((f64::MAX, 1.0_f64), |(least, most), value| (least.min(*value), most.max(*value)));
        let (from, to) = (least.max(1.0).log10().floor(), most.log10().ceil().max(1.0));
        let place = |value: f64| LEFT as f64 + (FULL + 80.0) * (value.max(1.0).log10() - from) / (to - from).max(1.0);
        let height = ROW * (self.rows.len() + 1) + 48;
        let mut svg = begin(height, self.title);
        for power in from as i32..=to as i32 {
            let (x, label) = (place(10_f64.powi(power)), 10_f64.powi(power));
            writeln!(svg, "  <line x1=\"{x:.0}\" y1=\"30\" x2=\"{x:.0}\" y2=\"{}\" stroke=\"#e2e8f0\"/>", height - 28)
                .unwrap();
            writeln!(svg, "  <text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\">{label:.0}</text>", height - 10)
                .unwrap();
        }
        for (row, (name, values)) in self.rows.iter().enumerate() {
            let y = 44 + row * ROW;
            let colour = if name.starts_with(OURS) { OUR_COLOUR } else { "#718096" };
            writeln!(svg, "  <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", LEFT - 10, y + 5).unwrap();
            let (Some(first), Some(last)) = (values.first(), values.last()) else { continue };
            if first.is_nan() || last.is_nan() {
                continue;
            }
            let (x1, x2) = (place(*first), place(*last));
            writeln!(
                svg,
                "  <line x1=\"{x1:.0}\" y1=\"{y}\" x2=\"{x2:.0}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            )
            .unwrap();
            for value in values {
                writeln!(svg, "  <circle cx=\"{:.0}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>", place(*value)).unwrap();
            }
        }
        svg + "</svg>\n"
    }
}

fn begin(height: usize, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 780 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n  \
         <text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{title}</text>\n"
    )
}
