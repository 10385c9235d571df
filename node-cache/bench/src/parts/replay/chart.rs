//! Chart of the replay: for each cast the share of right answers in each second, and that of packets dropped.

use std::fmt::Write as _;

use super::conduct::CastRun;
use super::measure::{count, dropped_share};
use super::schedule::{Span, total_seconds};

/// Left edge of the plots, width of a second, height of a plot and distance between two.
const LEFT: u32 = 60;
const SECOND_WIDTH: u32 = 4;
const HEIGHT: u32 = 100;
const DISTANCE: u32 = 150;
const TOP: u32 = 56;
const OUR_COLOUR: &str = "#2b6cb0";
const PEER_COLOUR: &str = "#4a5568";
const DROP_COLOUR: &str = "#e53e3e";
const LIMIT_COLOUR: &str = "#fefcbf";

/// Returns the chart of all casts, one below the other on one scale of time.
pub(super) fn svg(runs: &[CastRun]) -> String {
    let seconds = |run: &CastRun| total_seconds(&run.phases.iter().map(|phase| phase.phase).collect::<Vec<_>>());
    let longest = runs.iter().map(seconds).max().unwrap_or_default();
    let width = LEFT + longest * SECOND_WIDTH + 20;
    let height = TOP + DISTANCE * runs.len() as u32;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n  <text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\" font-size=\"14\">right answers in each \
         second, % (line); packets to the provider that were dropped, % (red)</text>\n"
    );
    for (number, run) in runs.iter().enumerate() {
        svg += &plot(run, TOP + DISTANCE * number as u32);
    }
    svg + "</svg>\n"
}

/// Returns the plot of a cast whose upper edge is here.
fn plot(run: &CastRun, top: u32) -> String {
    let mut svg = String::new();
    let x_of = |second: u32| LEFT + second * SECOND_WIDTH;
    let bottom = top + HEIGHT;
    for limited in &run.phases {
        let phase = limited.phase;
        let (x, width) = (x_of(phase.start), (phase.end - phase.start) * SECOND_WIDTH);
        if let Span::Limited(limiter) = phase.span {
            let name = limiter.name();
            writeln!(
                svg,
                "  <rect x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"{LIMIT_COLOUR}\"/>\n  \
                 <text x=\"{x}\" y=\"{}\" font-size=\"10\">{name}</text>",
                bottom + 12
            )
            .unwrap();
        }
    }
    let end = run.phases.last().map_or(0, |limited| limited.phase.end);
    for (percent, y) in [(100, top), (50, top + HEIGHT / 2), (0, bottom)] {
        let (right, label) = (x_of(end), y + 4);
        writeln!(svg, "  <line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" stroke=\"#e2e8f0\"/>").unwrap();
        writeln!(svg, "  <text x=\"{}\" y=\"{label}\" text-anchor=\"end\">{percent}</text>", LEFT - 6).unwrap();
    }
    let colour = if run.cast.is_ours() { OUR_COLOUR } else { PEER_COLOUR };
    let void = if run.fault().is_some() { ": void" } else { "" };
    let title = format!("({}) {}, {} queries/s{void}", run.cast.letter(), run.cast.name(), run.scale.rate);
    writeln!(svg, "  <text x=\"{LEFT}\" y=\"{}\" fill=\"{colour}\">{title}</text>", top - 8).unwrap();
    let right = |second: u32| count(&run.queries, second * 1_000, second * 1_000 + 1_000).right_share();
    let dropped = |second: u32| dropped_share(&run.samples, second);
    // A void cast ends early.
    let queried = run.queries.last().map_or(0, |query| query.planned_ms / 1_000 + 1);
    for (colour, share) in [(DROP_COLOUR, &dropped as &dyn Fn(u32) -> f64), (colour, &right)] {
        let point = |second: u32| {
            let y = f64::from(bottom) - f64::from(HEIGHT) * share(second).clamp(0.0, 1.0);
            format!("{},{y:.1}", x_of(second) + SECOND_WIDTH / 2)
        };
        let points: Vec<String> = (0..end.min(queried)).map(point).collect();
        let points = points.join(" ");
        writeln!(svg, "  <polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>")
            .unwrap();
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::{HEIGHT, TOP, svg};
    use crate::parts::replay::cast::Cast;
    use crate::parts::replay::conduct::{CastRun, PhaseRun};
    use crate::parts::replay::outcome::{Outcome, Query};
    use crate::parts::replay::schedule::{Form, Scale};

    #[test]
    fn a_second_without_a_right_answer_is_at_the_bottom() {
        let phases = Cast::Told.phases(Form::Full);
        let query = |second: u32| Query { planned_ms: second * 1_000, is_answerable: true, outcome: Outcome::Right };
        let mut queries: Vec<Query> = (0..45).map(query).collect();
        queries[44].outcome = Outcome::Silent;
        let run = CastRun {
            cast: Cast::Told,
            scale: Scale::FULL,
            phases: phases.into_iter().map(PhaseRun::new).collect(),
            queries,
            sent_late: 0,
            samples: Vec::new(),
            unready: None,
        };
        let svg = svg(&[run]);
        let line = svg.lines().find(|line| line.contains("polyline") && line.contains("#2b6cb0")).unwrap();
        assert!(line.contains(&format!("\"62,{TOP}.0 ")), "{line}");
        assert!(line.contains(&format!("238,{}.0\"", TOP + HEIGHT)), "{line}");
        assert_eq!(svg.matches("<rect").count(), 1);
    }
}
