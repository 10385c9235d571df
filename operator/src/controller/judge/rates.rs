//! Judgement by shares of responses: which shares of which pods are in excess.

use crate::controller::judge::comparison::{
    Change, Comparison, Contrast, Limits, MIN_RESPONSES, compare, compare_with_past,
};
use crate::controller::judge::measure::Measure;
use crate::controller::judge::track::Track;

/// Pods of a zone up to which each one is judged by itself, beside all of them together.
const MAX_SINGLE_PODS: usize = 10;

/// Share that is compared from look to look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RateKey {
    /// Name of the pod; `None` for all pods of the step in a zone.
    pub(crate) pod: Option<String>,
    /// Zone.
    pub(crate) zone: String,
    /// Scope; `None` for all of them together.
    pub(crate) scope: Option<String>,
    /// Measure.
    pub(crate) measure: Measure,
}

/// Share that is in excess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateFinding {
    /// Share that is compared.
    pub(crate) key: RateKey,
    /// One sentence with the figures.
    pub(crate) sentence: String,
    /// Consequence of the finding.
    pub(crate) weight: Weight,
}

/// Consequence of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A reason to roll back, when the next look finds it again.
    Suspicion,
    /// A reason to wait for a while: it may be chance.
    Doubt,
    /// A reason to wait: the controls are in trouble, too.
    CommonTrouble,
    /// Nothing but a warning.
    Warning,
}

/// Returns what is in excess on the pods of the step in one zone. Without controls everything is a warning.
#[must_use]
pub(crate) fn find(
    zone: &str,
    pods: &[(&str, &Track)],
    controls: &[(&str, &Track)],
    limits: Limits,
) -> Vec<RateFinding> {
    let mut findings = Vec::new();
    if pods.len() <= MAX_SINGLE_PODS {
        for pod in pods {
            find_in_unit(Some(pod.0), zone, std::slice::from_ref(pod), controls, limits, &mut findings);
        }
    }
    if pods.len() > 1 {
        find_in_unit(None, zone, pods, controls, limits, &mut findings);
    }
    findings
}

fn find_in_unit(
    name: Option<&str>,
    zone: &str,
    pods: &[(&str, &Track)],
    controls: &[(&str, &Track)],
    limits: Limits,
    findings: &mut Vec<RateFinding>,
) {
    let change = |pods: &[(&str, &Track)], measure, scope| {
        pods.iter().map(|(_, track)| track.change(measure, scope)).fold(Change::default(), Change::plus)
    };
    let share = MIN_RESPONSES.div_ceil(pods.len().max(1) as u64);
    let mut scopes: Vec<&str> = pods.iter().flat_map(|(_, track)| track.scopes(share)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    for measure in Measure::ALL {
        let of_measure = scopes.iter().copied().map(Some).filter(|_| measure.has_scopes());
        for scope in std::iter::once(None).chain(of_measure) {
            let judged = change(pods, measure, scope);
            let of_controls = || controls.iter().map(|(_, track)| track.change(measure, scope)).collect();
            let comparison = if controls.is_empty() {
                compare_with_past(judged, limits)
            } else {
                compare(measure, judged, of_controls, limits)
            };
            let decides = measure.decides() && !controls.is_empty();
            let (contrast, weight) = match comparison {
                Comparison::Excess(contrast) if decides => (contrast, Weight::Suspicion),
                Comparison::Excess(contrast) => (contrast, Weight::Warning),
                Comparison::CommonTrouble(contrast) if decides => (contrast, Weight::CommonTrouble),
                Comparison::Doubt(contrast) if decides => (contrast, Weight::Doubt),
                Comparison::Doubt(_) | Comparison::CommonTrouble(_) | Comparison::Unsuspicious => continue,
            };
            let key = RateKey {
                pod: name.map(str::to_owned),
                zone: zone.to_owned(),
                scope: scope.map(str::to_owned),
                measure,
            };
            let sentence = describe(&key, pods.len(), &contrast);
            findings.push(RateFinding { key, sentence, weight });
        }
    }
}

fn describe(key: &RateKey, pods: usize, contrast: &Contrast) -> String {
    let Contrast { judged, median, controls } = contrast;
    let whose = match &key.pod {
        Some(pod) => format!("from {pod} in zone {}", key.zone),
        None => format!("from {pods} pods in zone {}", key.zone),
    };
    let scope = key.scope.as_ref().map(|scope| format!(" in scope {scope}")).unwrap_or_default();
    let others = match controls {
        0 => "no pod is left to compare with".to_owned(),
        1 => format!("that of the one control changed by {median:+.1} points"),
        count => format!("the median of {count} controls changed by {median:+.1} points"),
    };
    format!(
        "{:.1} % of {} responses {whose}{scope} {}, {:.1} % before the change; {others}",
        judged.now.percent(),
        judged.now.responses,
        key.measure.predicate(),
        judged.past.percent(),
    )
}
