//! Counts of a pod in a span of time, and the shares that are compared.

use crate::controller::judge::exact_test::Sample;
use crate::controller::judge::figures::{Counts, Figures};
use crate::controller::judge::measure::Measure;
use crate::controller::judge::names::{MeasuredNames, NameWindow};

/// Square of the relative standard error of an estimated number of names.
const ESTIMATE_VARIANCE: f64 = 0.017;

/// Counts of a pod in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    counts: Counts,
    names: Option<Names>,
    /// Names from before the window; those of the look at which it begins where that is `None`.
    names_before: Option<MeasuredNames>,
}

/// Names in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Names {
    servfail: NameWindow,
    slow: Option<NameWindow>,
}

impl Names {
    fn after(names: &MeasuredNames) -> Self {
        Self { servfail: NameWindow::new(&names.servfail), slow: names.slow.as_ref().map(NameWindow::new) }
    }

    fn add(&mut self, names: &MeasuredNames) {
        self.servfail.add(&names.servfail);
        if let (Some(window), Some(slow)) = (&mut self.slow, &names.slow) {
            window.add(slow);
        }
    }
}

impl Window {
    /// Starts a window after these names.
    #[must_use]
    pub(crate) fn after(names: MeasuredNames) -> Self {
        Self { names_before: Some(names), ..Self::default() }
    }

    /// Adds what was counted between two looks. Counters that went back in between add nothing.
    pub(crate) fn add(&mut self, earlier: &Figures, later: &Figures) {
        let before = self.names_before.as_ref().unwrap_or(&earlier.names);
        let names = self.names.get_or_insert_with(|| Names::after(before));
        if let Some(counts) = later.counts.since(&earlier.counts) {
            self.counts.add(&counts);
            names.add(&later.names);
        }
    }

    /// Returns whether nothing was added.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_none()
    }

    /// Returns the scopes with at least that many responses.
    pub(crate) fn scopes(&self, responses: u64) -> impl Iterator<Item = &str> {
        self.counts.scopes.iter().filter(move |(_, row)| row.total() >= responses).map(|(scope, _)| &**scope)
    }

    /// Returns the share of a measure in one scope, or in all of them together.
    #[must_use]
    pub(crate) fn share(&self, measure: Measure, scope: Option<&str>) -> Share {
        let responses = self.counts.responses(scope);
        let total = responses.total();
        let events = match measure {
            Measure::Servfail => responses.servfail,
            Measure::Nxdomain => responses.nxdomain,
            Measure::OtherRcode => responses.other,
            Measure::SlowMisses => self.counts.slow_misses,
            Measure::Stale => self.counts.stale,
            Measure::Timeouts => self.counts.timeouts,
        };
        // One query may wait for several upstreams.
        let events = events.min(total);
        let Some(names) = self.names_of(measure, scope, events) else {
            return Share { events, distinct: events, responses: total, estimate_squares: 0 };
        };
        let distinct = events.min(names);
        Share { events, distinct, responses: total, estimate_squares: distinct.saturating_mul(distinct) }
    }

    /// Returns the estimated number of names behind `events` responses of a scope; `None` where names are not known.
    /// In a scope it is the scope's part of all names, which are not counted by scope.
    fn names_of(&self, measure: Measure, scope: Option<&str>, events: u64) -> Option<u64> {
        let names = match measure {
            Measure::Servfail => self.names.map_or(0, |names| names.servfail.estimate()),
            Measure::SlowMisses => return self.names.map_or(Some(0), |names| Some(names.slow?.estimate())),
            _ => return None,
        };
        if scope.is_none() {
            return Some(names);
        }
        let part = events as f64 / self.counts.responses(None).servfail.max(1) as f64;
        Some((names as f64 * part).round() as u64)
    }
}

/// Share of the responses of a span of time that are of some kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Number of such responses.
    pub(crate) events: u64,
    /// Number of such responses, with repetitions of one name left out where names are known.
    pub(crate) distinct: u64,
    /// Number of all responses.
    pub(crate) responses: u64,
    /// Sum of the squares of such estimates as `distinct` consists of; 0 where it is exact.
    pub(crate) estimate_squares: u64,
}

impl Share {
    /// Returns the share in percent; 0 without responses.
    #[must_use]
    pub(crate) fn percent(&self) -> f64 {
        if self.responses == 0 { 0.0 } else { self.events as f64 * 100.0 / self.responses as f64 }
    }

    /// Returns the sample that an exact test compares: as many fewer events and responses as they vary more than by
    /// chance, because events come in bursts and numbers of names are estimates.
    #[must_use]
    pub(crate) fn thinned(&self, dispersion: f64) -> Sample {
        let of_estimates = ESTIMATE_VARIANCE * self.estimate_squares as f64 / self.distinct.max(1) as f64;
        let thin = |count: u64| (count as f64 / (dispersion + of_estimates)).round() as u64;
        Sample { events: thin(self.distinct), total: thin(self.responses) }
    }

    /// Returns the sum of two shares.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            events: self.events.saturating_add(other.events),
            distinct: self.distinct.saturating_add(other.distinct),
            responses: self.responses.saturating_add(other.responses),
            estimate_squares: self.estimate_squares.saturating_add(other.estimate_squares),
        }
    }
}
