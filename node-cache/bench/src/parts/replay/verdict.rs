//! Figures of each limited phase, and the goals that DnsTier has to reach.

use super::cast::Cast;
use super::conduct::{CastRun, PhaseRun};
use super::limits::Packets;
use super::measure::{Counts, count, interruption, percent, provider_share, return_time, worst_second};
use super::schedule::{Form, Limiter, Span};

const SECOND: u32 = 1_000;

/// Figures of a phase in which something was limited.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) limiter: Limiter,
    pub(super) seconds: f64,
    pub(super) counts: Counts,
    pub(super) worst_second: f64,
    /// Milliseconds from the first drop until queries are answered again; 0 without a drop.
    pub(super) interruption: Option<u32>,
    /// Interruption where stale answers count as right ones, too.
    interruption_with_stale: Option<u32>,
    pub(super) packets: Packets,
}

impl Figures {
    /// Computes the figures of a phase of a cast.
    pub(super) fn of(run: &CastRun, limited: &PhaseRun, limiter: Limiter) -> Self {
        let (from, to) = (limited.phase.start * SECOND, limited.phase.end * SECOND);
        let (packets, seconds) = limited.packets();
        let until_good = |share: fn(&Counts) -> f64| {
            limited.first_drop.map_or(Some(0), |drop| interruption(&run.queries, drop, to, share))
        };
        Self {
            limiter,
            seconds,
            counts: count(&run.queries, from, to),
            worst_second: worst_second(&run.queries, from, to),
            interruption: until_good(Counts::right_share),
            interruption_with_stale: until_good(Counts::right_or_stale_share),
            packets,
        }
    }
}

/// Values that DnsTier has to reach where it is not told the limit.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Longest time in milliseconds from the first drop until queries are answered again; `None`: as long as it takes.
    interruption: Option<u32>,
    /// Smallest share of right answers in a second.
    worst_second: f64,
    /// Smallest share of right answers in a second after the limit.
    worst_second_after: f64,
}

/// Goals of the full form.
const FULL: Wanted = Wanted { interruption: Some(2_000), worst_second: 0.95, worst_second_after: 0.98 };
/// Goals of the short form, which runs programs without optimization beside other tests, with caches that are cold.
/// Without the fallback less than half is right.
const SHORT: Wanted = Wanted { interruption: None, worst_second: 0.95, worst_second_after: 0.9 };
/// Time in milliseconds after a limit within which the provider has the load back.
const RETURN_WITHIN: u32 = 60_000;

/// Goal with what was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) subject: String,
    pub(super) measured: String,
    pub(super) is_reached: bool,
}

/// Goals of a replay: of DnsTier told the limit, and not told.
#[derive(Clone, Debug, Default)]
pub(super) struct Goals {
    pub(super) told: Vec<Goal>,
    pub(super) not_told: Vec<Goal>,
    form_has_told: bool,
}

impl Goals {
    /// Computes the goals of those casts that were run.
    pub(super) fn of(form: Form, runs: &[CastRun]) -> Self {
        let valid = |cast| runs.iter().find(|run| run.cast == cast && run.fault().is_none());
        let is_void = |cast| runs.iter().any(|run| run.cast == cast && run.fault().is_some());
        let void = |cast| {
            let goal = || Goal { subject: "the cast".to_owned(), measured: "void".to_owned(), is_reached: false };
            is_void(cast).then(goal)
        };
        let wanted = if form == Form::Full { FULL } else { SHORT };
        let told = valid(Cast::Told).map(told_goals).unwrap_or_default();
        let not_told = valid(Cast::NotTold).map(|run| not_told_goals(run, wanted)).unwrap_or_default();
        Self {
            told: told.into_iter().chain(void(Cast::Told)).collect(),
            not_told: not_told.into_iter().chain(void(Cast::NotTold)).collect(),
            form_has_told: Cast::of(form).contains(&Cast::Told),
        }
    }

    pub(super) fn are_reached(&self) -> bool {
        self.told.iter().chain(&self.not_told).all(|goal| goal.is_reached)
    }

    /// Returns the verdict: a line for each of DnsTier's casts.
    pub(super) fn lines(&self) -> Vec<String> {
        let told = self.form_has_told.then(|| line("DnsTier, told the limit", &self.told));
        told.into_iter().chain([line("DnsTier, not told", &self.not_told)]).collect()
    }
}

/// Returns a verdict in words: what was missed, or that nothing was.
fn line(subject: &str, goals: &[Goal]) -> String {
    let text = |goals: Vec<&Goal>| {
        goals.iter().map(|goal| format!("{} {}", goal.subject, goal.measured)).collect::<Vec<_>>().join("; ")
    };
    let missed: Vec<&Goal> = goals.iter().filter(|goal| !goal.is_reached).collect();
    match (goals.is_empty(), missed.is_empty()) {
        (true, _) => format!("{subject}: not run."),
        (false, true) => format!("{subject}: every goal is reached: {}.", text(goals.iter().collect())),
        (false, false) => format!("{subject}: missed: {}.", text(missed)),
    }
}

fn told_goals(run: &CastRun) -> Vec<Goal> {
    let goal = |(limited, limiter)| {
        let dropped = Figures::of(run, limited, limiter).packets.provider_dropped;
        let subject = format!("packets dropped by the limit of {}", limiter.name());
        Goal { subject, measured: dropped.to_string(), is_reached: dropped == 0 }
    };
    run.limited().map(goal).collect()
}

fn not_told_goals(run: &CastRun, wanted: Wanted) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (limited, limiter) in run.limited() {
        let figures = Figures::of(run, limited, limiter);
        let within = |limit: u32| figures.interruption.is_some_and(|time| time <= limit);
        goals.push(Goal {
            subject: format!("{}, time to 99.9 %:", limiter.name()),
            measured: interruption_in_words(&figures),
            is_reached: wanted.interruption.is_none_or(within),
        });
        goals.push(Goal {
            subject: format!("{}, worst second:", limiter.name()),
            measured: percent(figures.worst_second),
            is_reached: figures.worst_second >= wanted.worst_second,
        });
    }
    goals.extend(return_goals(run, wanted));
    goals
}

/// Formats an interruption, and what it is where stale answers count, if that is something else.
fn interruption_in_words(figures: &Figures) -> String {
    let [strict, with_stale] = [figures.interruption, figures.interruption_with_stale].map(seconds);
    if strict == with_stale { strict } else { format!("{strict} ({with_stale} where stale answers count)") }
}

/// Returns the goals of the first time after a limit.
fn return_goals(run: &CastRun, wanted: Wanted) -> Vec<Goal> {
    let (Some(control), Some(rest)) = (run.span(Span::Control), run.span(Span::Rest)) else { return Vec::new() };
    let control_share = provider_share(&run.samples, control.start * SECOND, control.end * SECOND);
    let (from, to) = (rest.start * SECOND, rest.end * SECOND);
    let time = return_time(&run.samples, from, to, control_share);
    let worst = worst_second(&run.queries, from, to);
    let is_in_time = time.is_some_and(|time| time <= RETURN_WITHIN);
    vec![
        Goal {
            subject: "limit gone, time until the provider has the load back:".to_owned(),
            measured: seconds(time),
            is_reached: is_in_time || wanted.interruption.is_none(),
        },
        Goal {
            subject: "limit gone, worst second:".to_owned(),
            measured: percent(worst),
            is_reached: worst >= wanted.worst_second_after,
        },
    ]
}

/// Formats milliseconds as seconds; "never" where there are none.
pub(super) fn seconds(milliseconds: Option<u32>) -> String {
    milliseconds.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", f64::from(time) / f64::from(SECOND)))
}

#[cfg(test)]
mod tests {
    use super::{Cast, CastRun, Form, Goal, Goals, Limiter, line, percent, seconds};
    use crate::parts::replay::conduct::PhaseRun;
    use crate::parts::replay::limits::Packets;
    use crate::parts::replay::measure::Sample;
    use crate::parts::replay::outcome::{Outcome, Query};
    use crate::parts::replay::schedule::{Phase, Scale, Span};

    /// Returns a cast of 100 queries a second, of which those in a span of milliseconds fail; a limit drops packets.
    fn run(cast: Cast, bad: std::ops::Range<u32>, dropped: u64) -> CastRun {
        let phases = cast.phases(Form::Full);
        let end = phases.last().unwrap().end;
        let outcome = |ms| if bad.contains(&ms) { Outcome::Failure } else { Outcome::Right };
        let query = |number: u32| Query { planned_ms: number * 10, is_answerable: true, outcome: outcome(number * 10) };
        let is_limited = |second| {
            phases.iter().any(|phase| {
                phase.start < second && second <= phase.end && phase.span == Span::Limited(Limiter::PerSource)
            })
        };
        let mut packets = Packets::default();
        let sample = |second: u32| {
            packets.provider += 80;
            packets.provider_dropped += if is_limited(second) { dropped } else { 0 };
            Sample { at: second * 1_000, packets }
        };
        let samples: Vec<Sample> = (0..=end).map(sample).collect();
        let first_drop = |limited: bool, start: u32| (limited && dropped > 0).then_some(start * 1_000);
        let at = |second: u32| -> Sample { samples[second as usize] };
        let phase = |phase: &Phase| PhaseRun {
            first_drop: first_drop(matches!(phase.span, Span::Limited(_)), phase.start),
            began: at(phase.start),
            ended: at(phase.end),
            ..PhaseRun::new(*phase)
        };
        CastRun {
            cast,
            scale: Scale::FULL,
            phases: phases.iter().map(phase).collect(),
            queries: (0..end * 100).map(query).collect(),
            sent_late: 0,
            samples,
            unready: None,
        }
    }

    #[test]
    fn told_of_the_limit_it_loses_no_packet() {
        let told = |dropped| Goals::of(Form::Full, &[run(Cast::Told, 0..0, dropped)]);
        assert!(told(0).are_reached() && !told(1).are_reached());
        assert_eq!(told(1).told[0].measured, "25");
    }

    #[test]
    fn not_told_it_is_back_in_two_seconds_and_never_below_95_percent() {
        // The first limit begins at 20 s.
        let not_told = |bad| Goals::of(Form::Full, &[run(Cast::NotTold, bad, 7)]);
        assert!(not_told(20_000..20_050).are_reached(), "{:?}", not_told(20_000..20_050));
        assert!(!not_told(20_000..20_060).are_reached(), "six of a hundred in one second");
        let late = not_told(22_500..22_550).not_told;
        assert_eq!((late[0].measured.as_str(), late[0].is_reached), ("2.6 s", false));
        assert!(!not_told(50_000..50_030).are_reached(), "a dip after the limit");
    }

    #[test]
    fn a_cast_whose_control_window_is_bad_is_void() {
        let goals = Goals::of(Form::Full, &[run(Cast::NotTold, 15_000..15_100, 0)]);
        assert_eq!((goals.not_told[0].measured.as_str(), goals.are_reached()), ("void", false));
        assert_eq!(goals.lines()[0], "DnsTier, told the limit: not run.");
    }

    #[test]
    fn a_verdict_names_what_was_missed() {
        let goal = |subject: &str, is_reached| Goal { subject: subject.into(), measured: "7".into(), is_reached };
        assert_eq!(line("x", &[goal("a", true), goal("b", false)]), "x: missed: b 7.");
        assert_eq!(line("x", &[goal("a", true)]), "x: every goal is reached: a 7.");
        assert_eq!(
            (seconds(Some(1_500)), seconds(None), percent(0.999_49)),
            ("1.5 s".into(), "never".into(), "99.94 %".into())
        );
    }
}
