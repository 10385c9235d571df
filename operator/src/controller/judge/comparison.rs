//! Comparison of one share: a pod's change against its own past minus the same of the controls.

use crate::controller::judge::exact_test::{Sample, p_value};
use crate::controller::judge::measure::Measure;
use crate::controller::judge::window::Share;

/// Responses below which nothing is compared: with no error among n responses, the share may still be 3/n.
pub(crate) const MIN_RESPONSES: u64 = 300;
/// Responses from which a control's own change is more than chance.
const MIN_CONTROL_RESPONSES: u64 = 100;
/// Distinct names from which errors are more than those of one client.
const MIN_NAMES: u64 = 5;
/// Probability below which an increase is no chance.
pub(crate) const SIGNIFICANCE: f64 = 0.001;
/// Probability below which an increase may be no chance.
const DOUBT: f64 = 0.05;
/// Controls from which their own variation is known.
const MIN_CONTROLS_FOR_DISPERSION: usize = 3;
/// Controls from which their own variation is known well.
const MANY_CONTROLS: usize = 10;
/// Variation beyond chance that is assumed where a few controls show less.
const MIN_DISPERSION_OF_FEW: f64 = 1.25;
/// Variation beyond chance that is believed at the most.
const MAX_DISPERSION: f64 = 4.0;

/// Share before a change and since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Share before the change.
    pub(crate) past: Share,
    /// Share since the change.
    pub(crate) now: Share,
}

impl Change {
    /// Returns the increase in percentage points.
    #[must_use]
    pub(crate) fn points(&self) -> f64 {
        self.now.percent() - self.past.percent()
    }

    /// Returns the increase in percentage points without repetitions of one name.
    fn distinct_points(&self) -> f64 {
        let percent = |share: &Share| share.distinct as f64 * 100.0 / share.responses.max(1) as f64;
        percent(&self.now) - percent(&self.past)
    }

    /// Returns the sum of two changes.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { past: self.past.plus(other.past), now: self.now.plus(other.now) }
    }

    fn has_responses(&self, responses: u64) -> bool {
        self.past.responses >= responses && self.now.responses >= responses
    }

    /// Returns by which factor the share has grown, at least 1. Some more events on both sides keep chance out of it.
    fn growth(&self) -> f64 {
        let rate = |share: &Share| (share.events + 3) as f64 / share.responses.max(1) as f64;
        (rate(&self.now) / rate(&self.past)).max(1.0)
    }

    /// Returns the probability that chance makes an increase like this one out of no change, repetitions included.
    fn chance_of_events(&self) -> f64 {
        let sample = |share: &Share| Sample { events: share.events, total: share.responses };
        p_value(sample(&self.now), sample(&self.past))
    }

    /// Returns the change of distinct events in its own standard deviations, as chance alone makes it.
    fn deviation(&self) -> f64 {
        let (now, past) = (self.now.thinned(1.0), self.past.thinned(1.0));
        let share = |sample: Sample| sample.events as f64 / sample.total.max(1) as f64;
        let both = (now.events + past.events + 1) as f64 / (now.total + past.total).max(1) as f64;
        let variance = both * (1.0 - both).max(0.0) * (1.0 / now.total.max(1) as f64 + 1.0 / past.total.max(1) as f64);
        (share(now) - share(past)) / variance.sqrt()
    }
}

/// Change of what is judged beside that of the controls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Contrast {
    /// Change of what is judged.
    pub(crate) judged: Change,
    /// Median change of the controls, in percentage points.
    pub(crate) median: f64,
    /// Number of controls that were compared with.
    pub(crate) controls: usize,
}

/// Limits of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Percentage points above the controls that are tolerated.
    pub(crate) max_points: f64,
    /// Probability below which an increase is no chance.
    pub(crate) significance: f64,
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Comparison {
    /// There is no increase above the limit, or too little to say so.
    Unsuspicious,
    /// There is an increase above the limit, and it is not clear yet whether it is chance.
    Doubt(Contrast),
    /// There is an increase that no chance and no control explains.
    Excess(Contrast),
    /// There is an increase, and one on the controls, so that nobody can tell what the change does.
    CommonTrouble(Contrast),
}

/// Compares a change with those of the controls. An excess is larger than the limit, beyond chance against the own
/// past and against the controls, and beyond every control's own change.
#[must_use]
pub(crate) fn compare(
    measure: Measure,
    judged: Change,
    controls: impl FnOnce() -> Vec<Change>,
    limits: Limits,
) -> Comparison {
    let Limits { max_points, significance } = limits;
    let has_names = !measure.has_names() || judged.now.distinct >= MIN_NAMES;
    if !judged.has_responses(MIN_RESPONSES) || !has_names || judged.points() <= max_points {
        return Comparison::Unsuspicious;
    }
    let controls = controls();
    let pooled = controls.iter().copied().fold(Change::default(), Change::plus);
    if !pooled.has_responses(MIN_RESPONSES) {
        return Comparison::Unsuspicious;
    }
    let comparable: Vec<&Change> =
        controls.iter().filter(|control| control.has_responses(MIN_CONTROL_RESPONSES)).collect();
    let mut changes: Vec<f64> = comparable.iter().map(|control| control.points()).collect();
    changes.sort_by(f64::total_cmp);
    let median_change = median(&changes).unwrap_or_else(|| pooled.points());
    let is_largest = comparable.iter().all(|control| judged.distinct_points() > control.distinct_points());
    let contrast = Contrast { judged, median: median_change, controls: controls.len() };
    // Traffic comes in bursts. How much more than chance that is, the controls tell.
    let dispersion = dispersion(&comparable);
    let p_value = |first: Share, second: Share| p_value(first.thinned(dispersion), second.thinned(dispersion));
    let against_past = p_value(judged.now, judged.past);
    if against_past >= DOUBT {
        return Comparison::Unsuspicious;
    }
    // Trouble that all pods share is never the same for all of them.
    let is_common = median_change > max_points && pooled.chance_of_events() < SIGNIFICANCE;
    if is_common && judged.points() - 2.0 * median_change <= max_points {
        return Comparison::CommonTrouble(contrast);
    }
    // Few controls answer few queries, so their past counts, too, unless they do worse by now themselves.
    let has_changed = pooled.chance_of_events() < DOUBT;
    let reference = if has_changed { pooled.now } else { pooled.now.plus(pooled.past) };
    // Trouble multiplies the errors of a pod that always has more of them.
    let mut growths: Vec<f64> = comparable.iter().map(|control| control.growth()).collect();
    growths.sort_by(f64::total_cmp);
    let growth = median(&growths).filter(|_| has_changed).unwrap_or(1.0);
    let multiplied = judged.now.percent() - judged.past.percent() * growth;
    let is_above = (judged.points() - median_change).min(multiplied) > max_points && is_largest;
    let chance = against_past.max(p_value(judged.now, reference));
    match is_above {
        true if chance < significance => Comparison::Excess(contrast),
        true if chance < DOUBT => Comparison::Doubt(contrast),
        _ => Comparison::Unsuspicious,
    }
}

/// Returns by how much the changes of controls vary more than by chance, [`MAX_DISPERSION`] at the most. It follows
/// from medians, so that trouble of a few controls is not in it.
fn dispersion(controls: &[&Change]) -> f64 {
    /// Median of the square of a number with the standard normal distribution.
    const MEDIAN_OF_SQUARES: f64 = 0.455;
    if controls.len() < MIN_CONTROLS_FOR_DISPERSION {
        return 1.0;
    }
    let mut deviations: Vec<f64> = controls.iter().map(|control| control.deviation()).collect();
    deviations.sort_by(f64::total_cmp);
    let middle = median(&deviations).unwrap_or_default();
    let mut squares: Vec<f64> = deviations.iter().map(|deviation| (deviation - middle).powi(2)).collect();
    squares.sort_by(f64::total_cmp);
    let min = if controls.len() < MANY_CONTROLS { MIN_DISPERSION_OF_FEW } else { 1.0 };
    (median(&squares).unwrap_or_default() / MEDIAN_OF_SQUARES).clamp(min, MAX_DISPERSION)
}

/// Compares a change with the own past alone, where no control is left.
#[must_use]
pub(crate) fn compare_with_past(judged: Change, limits: Limits) -> Comparison {
    let is_excess = judged.has_responses(MIN_RESPONSES)
        && judged.points() > limits.max_points
        && p_value(judged.now.thinned(1.0), judged.past.thinned(1.0)) < limits.significance;
    let contrast = Contrast { judged, median: 0.0, controls: 0 };
    if is_excess { Comparison::Excess(contrast) } else { Comparison::Unsuspicious }
}

/// Returns the median of ordered numbers; `None` without any.
fn median(ordered: &[f64]) -> Option<f64> {
    let upper = *ordered.get(ordered.len() / 2)?;
    let lower = *ordered.get((ordered.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_points: 1.0, significance: SIGNIFICANCE };

    fn share(events: u64, responses: u64) -> Share {
        Share { events, distinct: events, responses, estimate_squares: 0 }
    }

    fn change(past: Share, now: Share) -> Change {
        Change { past, now }
    }

    fn calm() -> Change {
        change(share(6, 1_200), share(3, 600))
    }

    fn is_excess(judged: Change, controls: &[Change]) -> bool {
        matches!(compare(Measure::Servfail, judged, || controls.to_vec(), LIMITS), Comparison::Excess(_))
    }

    #[test]
    fn an_increase_beyond_chance_and_controls_is_an_excess() {
        let judged = change(share(6, 1_200), share(33, 600));
        let contrast = Contrast { judged, median: 0.0, controls: 3 };
        assert_eq!(compare(Measure::Servfail, judged, || vec![calm(); 3], LIMITS), Comparison::Excess(contrast));
        assert!((judged.points() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn fewer_than_300_responses_show_nothing() {
        assert!(is_excess(change(share(0, 300), share(30, 300)), &[calm()]));
        assert!(!is_excess(change(share(0, 300), share(30, 299)), &[calm()]));
        assert!(!is_excess(change(share(0, 299), share(30, 300)), &[calm()]), "nor as a past");
        assert!(!is_excess(change(share(0, 300), share(30, 300)), &[change(share(0, 400), share(0, 299))]));
        assert!(!is_excess(change(share(0, 300), share(30, 300)), &[]), "nor without controls");
    }

    #[test]
    fn a_pod_that_always_was_the_odd_one_is_not_judged_by_the_others() {
        assert!(!is_excess(change(share(96, 1_200), share(50, 600)), &[calm(); 3]));
    }

    #[test]
    fn trouble_that_the_controls_share_is_no_excess() {
        let trouble = change(share(6, 1_200), share(60, 600));
        assert!(!is_excess(trouble, &[trouble; 3]));
        let more = change(share(6, 1_200), share(90, 600));
        let comparison = compare(Measure::Servfail, more, || vec![trouble; 3], LIMITS);
        assert!(matches!(comparison, Comparison::CommonTrouble(_)), "{comparison:?}");
        assert!(is_excess(change(share(6, 1_200), share(180, 600)), &[trouble; 3]), "more than twice as much");
        let odd = change(share(48, 1_200), share(48, 600));
        let twice = change(share(60, 6_000), share(60, 3_000));
        assert!(!is_excess(odd, &[twice; 3]), "a pod with more errors has more of the trouble");
    }

    #[test]
    fn an_increase_within_the_limit_is_tolerated_and_with_limit_zero_any_significant_one_counts() {
        let small = change(share(60, 12_000), share(160, 12_000));
        assert!(!is_excess(small, &[calm(); 3]), "0.8 points");
        let with_limit_zero =
            |judged| compare(Measure::Servfail, judged, || vec![calm(); 30], Limits { max_points: 0.0, ..LIMITS });
        assert!(matches!(with_limit_zero(small), Comparison::Excess(_)));
        assert_eq!(with_limit_zero(change(share(60, 12_000), share(70, 12_000))), Comparison::Unsuspicious);
    }

    #[test]
    fn failures_of_four_names_are_those_of_one_client() {
        let of_names =
            |distinct| Share { events: 200, distinct, responses: 600, estimate_squares: distinct * distinct };
        // Four names are beyond chance here: the rule alone tells them from five.
        let of_pod = |distinct| change(share(0, 60_000), of_names(distinct));
        let quiet = change(share(0, 60_000), share(0, 60_000));
        assert!(!is_excess(of_pod(4), &[quiet; 30]));
        assert!(is_excess(of_pod(5), &[quiet; 30]));
    }

    #[test]
    fn the_largest_change_of_a_control_is_the_bound() {
        let judged = change(share(6, 1_200), share(33, 600));
        let with = |other: Change| -> Vec<Change> { std::iter::repeat_n(calm(), 18).chain([other]).collect() };
        assert!(is_excess(judged, &with(calm())));
        assert!(!is_excess(judged, &with(change(share(6, 1_200), share(36, 600)))));
        let storm = Share { events: 300, distinct: 6, responses: 900, estimate_squares: 36 };
        assert!(is_excess(judged, &with(change(share(6, 1_200), storm))), "one client of a control hides nothing");
        let idle = change(share(1, 99), share(50, 99));
        assert!(is_excess(judged, &with(idle)), "a control without traffic bounds nothing");
    }
}
