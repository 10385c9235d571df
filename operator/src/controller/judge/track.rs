//! History of one pod in a trial: its past, what it counted since, and how it was when it was told of the change.

use std::time::Duration;

use crate::controller::judge::comparison::Change;
use crate::controller::judge::figures::Figures;
use crate::controller::judge::measure::Measure;
use crate::controller::judge::names::MeasuredNames;
use crate::controller::judge::pod_look::{InForce, PodLook, PodReport};
use crate::controller::judge::probe_history::ProbeHistory;
use crate::controller::judge::window::{Share, Window};
use crate::controller::rollout::pods::Role;

/// Past that is kept: this much, up to twice as much.
const PAST_SPAN: Duration = Duration::from_secs(60);
/// Past that is wanted before a change.
const MIN_PAST: Duration = Duration::from_secs(30);
/// Time since a change from which only its later half is looked at.
const WHOLE_SPAN: Duration = Duration::from_secs(240);

/// Pod as it was before it was told of the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// Start of its last process.
    pub(crate) started: u64,
    /// Number of its restarts.
    pub(crate) restarts: u32,
    /// Number of restarts of its containers.
    pub(crate) container_restarts: u32,
}

impl Baseline {
    /// Returns the state of a pod at a look with a report.
    #[must_use]
    pub(crate) fn of(look: &PodLook, report: &PodReport) -> Self {
        Self { started: report.started, restarts: report.restarts, container_restarts: look.container_restarts }
    }

    /// Returns whether a process has restarted since.
    #[must_use]
    pub(crate) fn is_before_restart(&self, report: &PodReport) -> bool {
        report.started > self.started || report.restarts > self.restarts
    }
}

/// Part of a trial to which a look at a pod belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Time before anybody is told of the change.
    Past,
    /// Time in which pods of the step are told, and this one does not have the change in force.
    Told,
    /// Time in which the change is in force: on this pod of the step, or for a control on any pod of the step.
    Since,
}

/// History of one pod.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    /// Zone of the pod.
    pub(crate) zone: String,
    /// Role of the pod.
    pub(crate) role: Role,
    /// Whether its node was away and the pod has not been seen ready since. Its processes may have been started anew.
    pub(crate) is_returning: bool,
    /// Time at which the pod was first seen with the change in force.
    pub(crate) in_force_since: Option<Duration>,
    /// Time of the last report.
    pub(crate) last_report: Option<Duration>,
    /// Whether the pod, when it last reported, ran the proven revision and could be compared with.
    pub(crate) is_control: bool,
    /// Probes of the pod.
    pub(crate) probes: ProbeHistory,
    /// Number of controls that were asked beside the pod the last time.
    pub(crate) probed_controls: usize,
    /// Pod as it was before.
    baseline: Option<Baseline>,
    uid: String,
    last: Option<Figures>,
    /// Names at the look before the last one.
    names_before_last: Option<MeasuredNames>,
    past: [Window; 2],
    past_start: Option<Duration>,
    past_turn: Duration,
    since: Window,
    later_half: Window,
    since_start: Option<Duration>,
    half: Duration,
}

impl Track {
    /// Starts the history of a pod.
    #[must_use]
    pub(crate) fn new(look: &PodLook) -> Self {
        Self {
            zone: look.zone.clone(),
            role: look.role,
            is_returning: false,
            in_force_since: None,
            last_report: None,
            is_control: false,
            probes: ProbeHistory::default(),
            probed_controls: 0,
            baseline: None,
            uid: look.uid.clone(),
            last: None,
            names_before_last: None,
            past: Default::default(),
            past_start: None,
            past_turn: Duration::ZERO,
            since: Window::default(),
            later_half: Window::default(),
            since_start: None,
            half: Duration::ZERO,
        }
    }

    /// Returns whether the history is that of this pod, and not of one before it on the same node.
    #[must_use]
    pub(crate) fn is_of(&self, look: &PodLook) -> bool {
        self.uid == look.uid
    }

    /// Returns the pod as it was before; `None` while that is not known.
    #[must_use]
    pub(crate) fn baseline(&self) -> Option<&Baseline> {
        self.baseline.as_ref().filter(|_| !self.is_returning)
    }

    /// Forgets how the pod was before, because it is told only now.
    pub(crate) fn forget_baseline(&mut self) {
        self.baseline = None;
    }

    /// Adds a look with a report.
    pub(crate) fn add(&mut self, now: Duration, look: &PodLook, report: &PodReport, phase: Phase) {
        let has_restarted = self.baseline.as_ref().is_some_and(|baseline| baseline.is_before_restart(report));
        let is_back = self.is_returning && look.is_ready;
        let is_before = phase == Phase::Past || is_back;
        if is_before && has_restarted {
            // Its memory was emptied: what it counted before is another past.
            (self.past, self.past_start, self.last) = (Default::default(), None, None);
        }
        if is_before || self.baseline.is_none() {
            self.baseline = Some(Baseline::of(look, report));
        }
        self.is_returning &= !is_back;
        // What a pod answers with a revision that is superseded is no past: that one may be bad, too.
        if phase == Phase::Past && report.in_force == InForce::Proven {
            self.probes.add_past(&report.probes);
        }
        if report.in_force == InForce::Target && self.in_force_since.is_none() {
            self.in_force_since = Some(now);
        }
        self.is_control = report.in_force == InForce::Proven && !(phase != Phase::Past && has_restarted);
        self.names_before_last = self.last.as_ref().map(|last| last.names);
        if let Some(last) = self.last.take() {
            match phase {
                Phase::Since => self.add_since(now, &last, &report.figures),
                Phase::Past | Phase::Told if report.in_force == InForce::Proven => {
                    self.add_past(now, &last, &report.figures);
                }
                Phase::Past | Phase::Told => {}
            }
        }
        self.last = Some(report.figures.clone());
        self.last_report = Some(now);
    }

    fn add_past(&mut self, now: Duration, earlier: &Figures, later: &Figures) {
        let start = *self.past_start.get_or_insert_with(|| self.last_report.unwrap_or(now));
        if now.saturating_sub(self.past_turn.max(start)) >= PAST_SPAN {
            self.past.swap(0, 1);
            self.past[1] = Window::default();
            self.past_turn = now;
        }
        self.past[1].add(earlier, later);
    }

    /// Adds to what was counted since the change. A trouble that begins late in a long soak must not drown in the good
    /// hours before it, so the window is the later half of a long time.
    fn add_since(&mut self, now: Duration, earlier: &Figures, later: &Figures) {
        let start = *self.since_start.get_or_insert_with(|| self.last_report.unwrap_or(now));
        let half = self.half.max(start);
        if now.saturating_sub(start) >= WHOLE_SPAN && now.saturating_sub(half) >= half.saturating_sub(start) {
            self.since = std::mem::take(&mut self.later_half);
            self.half = now;
        }
        self.since.add(earlier, later);
        self.later_half.add(earlier, later);
    }

    /// Forgets what was counted since the change, so that all pods are compared over the same time. Names count from
    /// the look before: popular ones fail before anybody sees that the change is in force, and are no news after that.
    pub(crate) fn restart_since(&mut self) {
        self.forget_since();
        self.since = self.names_before_last.map(Window::after).unwrap_or_default();
    }

    fn forget_since(&mut self) {
        (self.since, self.later_half) = (Window::default(), Window::default());
        (self.since_start, self.half) = (None, Duration::ZERO);
    }

    /// Turns what was counted in a step into the past of the next one.
    pub(crate) fn advance(&mut self) {
        if self.in_force_since.is_some() {
            return;
        }
        self.baseline = None;
        if !self.since.is_empty() {
            self.past = [Window::default(), std::mem::take(&mut self.since)];
            self.past_turn = self.last_report.unwrap_or_default();
            self.forget_since();
        }
    }

    /// Turns to another change that replaces this one. The past stays: it is that of the proven revision.
    pub(crate) fn supersede(&mut self) {
        self.baseline = None;
        self.in_force_since = None;
        self.probes.forget_standings();
        self.forget_since();
    }

    /// Returns whether the figures from before the change are known.
    #[must_use]
    pub(crate) fn has_past(&self) -> bool {
        self.past.iter().any(|window| !window.is_empty())
    }

    /// Returns whether the past is as long as it should be.
    #[must_use]
    pub(crate) fn has_long_past(&self) -> bool {
        let since = self.past_start.zip(self.last_report);
        since.is_some_and(|(start, last)| last.saturating_sub(start) >= MIN_PAST)
    }

    /// Returns the change of a measure.
    #[must_use]
    pub(crate) fn change(&self, measure: Measure, scope: Option<&str>) -> Change {
        let past = self.past.iter().map(|window| window.share(measure, scope)).fold(Share::default(), Share::plus);
        Change { past, now: self.since.share(measure, scope) }
    }

    /// Returns the scopes with at least that many responses since the change.
    pub(crate) fn scopes(&self, responses: u64) -> impl Iterator<Item = &str> {
        self.since.scopes(responses)
    }
}
