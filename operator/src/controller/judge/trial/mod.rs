//! Trial of one step of a rollout: looks at its pods and their controls come in, a verdict on each look goes out.
//!
//! Looks begin before the pods of the step are told, so that their past is known. The judgement of shares counts only
//! when it is bad in two looks running.

mod addresses;
mod probes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::controller::judge::addresses::{AddressHistory, AddressStanding};
use crate::controller::judge::comparison::{Limits, SIGNIFICANCE};
use crate::controller::judge::controls;
use crate::controller::judge::hard_signs;
use crate::controller::judge::pod_look::{InForce, PodLook, PodReport};
use crate::controller::judge::probe_history::ProbeKey;
use crate::controller::judge::rates::{self, RateFinding, RateKey, Weight};
use crate::controller::judge::track::{Baseline, Phase, Track};
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome, Verdict};
use crate::controller::rollout::pods::Role;

/// Time between two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Soak below which shares of responses only warn.
const MIN_SOAK_FOR_RATES: Duration = Duration::from_secs(15);
/// Time by which a look may be early.
const LOOK_TOLERANCE: Duration = Duration::from_millis(500);
/// Age from which the last report of a pod counts as none.
const MAX_REPORT_AGE: Duration = Duration::from_secs(15);
/// Time beyond the soak for which a step waits until chance can be told from change.
const MAX_DOUBT: Duration = Duration::from_secs(30);
/// Time since a change within which only what is far beyond chance counts: traffic comes in bursts.
const EARLY: Duration = Duration::from_secs(20);
/// Probability below which an increase is no chance in that time.
const EARLY_SIGNIFICANCE: f64 = 0.000_01;
/// Most warnings of a verdict.
const MAX_WARNINGS: usize = 4;

/// Step of a rollout, as far as it is judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// Names of the pods that are judged.
    pub(crate) pods: BTreeSet<String>,
    /// Time for which the step is watched once its last pod has the revision in force.
    pub(crate) soak: Duration,
    /// Percentage points above the controls that are tolerated.
    pub(crate) max_error_increase: f64,
    /// Whether a pod with the revision in force has to be ready before the step passes: one that is not ready is asked
    /// for no probes.
    pub(crate) needs_ready: bool,
    /// Begin of the soak, if the caller says when it was: it may have been in an earlier process, and a pod that does
    /// not get the revision in force may be excused. `None`: the judge waits until all pods have it.
    pub(crate) soak_start: Option<Duration>,
}

/// Numbers of the probes of a role that no pod of the step was asked for beside a control, since it has the change in
/// force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MissingProbes {
    /// Number at the last look.
    pub(crate) before: usize,
    /// Number after this look, where it has a control to compare with.
    pub(crate) after: usize,
}

/// Trial of one step.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    step: Step,
    tracks: BTreeMap<String, Track>,
    /// Captured addresses of nodes and resolvers, by the names of their pods.
    addresses: BTreeMap<String, AddressHistory>,
    is_told: bool,
    has_begun: bool,
    last_look: Option<Duration>,
    suspects: BTreeSet<RateKey>,
    /// Probes that no pod of the step was asked for yet, by role.
    missing_probes: BTreeMap<Role, MissingProbes>,
    /// Roles whose probes decide in the last look.
    compared: BTreeSet<Role>,
    /// Times since which pods of a role are asked for probes and no control is, though there are some.
    alone_since: BTreeMap<Role, Duration>,
    verdict: Option<Verdict>,
}

impl Trial {
    /// Starts a trial whose pods are not told yet.
    #[must_use]
    pub(crate) fn new(step: Step) -> Self {
        Self {
            step,
            tracks: BTreeMap::new(),
            addresses: BTreeMap::new(),
            is_told: false,
            has_begun: false,
            last_look: None,
            suspects: BTreeSet::new(),
            missing_probes: BTreeMap::new(),
            compared: BTreeSet::new(),
            alone_since: BTreeMap::new(),
            verdict: None,
        }
    }

    /// Notes that the pods of the step are told of the change now: their past ends.
    pub(crate) fn tell(&mut self) {
        self.is_told = true;
    }

    /// Notes when the soak of the step began.
    pub(crate) fn start_soak(&mut self, start: Duration) {
        self.step.soak_start = Some(start);
    }

    /// Notes how many probes the next look is without. A step does not pass before there are none.
    pub(crate) fn wait_for_probes(&mut self, missing: BTreeMap<Role, MissingProbes>) {
        self.missing_probes = missing;
    }

    /// Returns whether the probes of the pods of a role were compared in the last look.
    #[must_use]
    pub(crate) fn has_compared(&self, role: Role) -> bool {
        self.compared.contains(&role)
    }

    /// Returns the probes that were bad in the last look at them, each with its pod of the step: the next one decides.
    pub(crate) fn doubted_probes(&self) -> impl Iterator<Item = (&str, &ProbeKey)> {
        let tracks = self.tracks.iter().filter(|(name, _)| self.step.pods.contains(*name));
        tracks.flat_map(|(name, track)| {
            let bad = track.probes.standings().filter(|(_, standings)| standings.is_last_bad());
            bad.map(move |(key, _)| (name.as_str(), key))
        })
    }

    /// Judges by other settings from now on, and other pods after a canary was replaced.
    pub(crate) fn update_step(&mut self, step: Step) {
        for (name, track) in &mut self.tracks {
            if step.pods.contains(name) && !self.step.pods.contains(name) {
                // It is told only now.
                track.forget_baseline();
            }
        }
        self.step = step;
    }

    /// Starts the trial of the next step. What its pods and controls counted in this one is their past.
    #[must_use]
    pub(crate) fn advance(mut self, step: Step) -> Self {
        self.tracks.values_mut().for_each(Track::advance);
        Self { tracks: self.tracks, addresses: self.addresses, ..Self::new(step) }
    }

    /// Starts the trial of another change on pods that run this one. Their past is that from before both.
    #[must_use]
    pub(crate) fn supersede(mut self, step: Step) -> Self {
        self.tracks.values_mut().for_each(Track::supersede);
        Self { tracks: self.tracks, addresses: self.addresses, ..Self::new(step) }
    }

    /// Returns whether the past of the pods of the step is long enough for a judgement of shares: that of all which
    /// have reported and are not away, and of one at least. A rollout need not wait for it: without a past, shares
    /// decide nothing.
    #[must_use]
    pub(crate) fn has_long_past(&self) -> bool {
        let is_there = |(name, track): &(&String, &Track)| self.step.pods.contains(*name) && !track.is_returning;
        let mut tracks = self.tracks.iter().filter(is_there).map(|(_, track)| track).peekable();
        tracks.peek().is_some() && tracks.all(Track::has_long_past)
    }

    /// Looks at hard signs alone. Without any the verdict of the last look is returned; `None` before the first.
    pub(crate) fn glance(&mut self, looks: &[PodLook]) -> Option<Verdict> {
        self.forget_others(looks);
        match self.hard_sign(looks) {
            Some((reason, sentence)) => {
                Some(Verdict { outcome: Outcome::Fail(reason), sentence, warnings: Vec::new() })
            }
            None => self.verdict.clone(),
        }
    }

    /// Looks at the pods of the step and at controls. A look that comes early shows only hard signs.
    pub(crate) fn look(&mut self, now: Duration, looks: &[PodLook]) -> Verdict {
        self.forget_others(looks);
        self.compared.clear();
        let present = present(looks);
        let hard_sign = self.hard_sign(looks);
        let is_early = self.last_look.is_some_and(|last| now.saturating_sub(last) + LOOK_TOLERANCE < LOOK_INTERVAL);
        if let Some((reason, sentence)) = hard_sign {
            return Verdict { outcome: Outcome::Fail(reason), sentence, warnings: Vec::new() };
        }
        if let Some(verdict) = self.verdict.as_ref().filter(|_| is_early) {
            return verdict.clone();
        }
        self.last_look = Some(now);
        self.add(now, &present);
        let verdict = self.judge(now, looks, &present);
        self.verdict = Some(verdict.clone());
        verdict
    }

    fn of_step<'a>(&self, looks: &'a [PodLook]) -> impl Iterator<Item = &'a PodLook> {
        looks.iter().filter(|look| self.step.pods.contains(&look.name))
    }

    /// Forgets pods that were made anew or are gone, and notes which are away.
    fn forget_others(&mut self, looks: &[PodLook]) {
        let listed: BTreeMap<&str, &PodLook> = looks.iter().map(|look| (look.name.as_str(), look)).collect();
        self.tracks.retain(|name, track| listed.get(name.as_str()).is_some_and(|look| track.is_of(look)));
        for (name, track) in &mut self.tracks {
            let is_away = listed.get(name.as_str()).is_none_or(|look| look.is_away);
            track.is_control &= !is_away;
            track.is_returning |= is_away;
        }
    }

    /// Returns the first hard sign of a pod of the step that is told.
    fn hard_sign(&self, looks: &[PodLook]) -> Option<(FailReason, String)> {
        let told = self.of_step(looks).filter(|look| self.is_told && look.is_asked && !look.is_away);
        told.into_iter().find_map(|look| {
            let history = self.addresses.get(&look.name);
            let is_sign =
                |address: &IpAddr| history.is_some_and(|history| history.standing(address) == AddressStanding::Failed);
            match self.tracks.get(&look.name).and_then(Track::baseline) {
                Some(baseline) => hard_signs::find(look, baseline, is_sign),
                None => hard_signs::find(look, &Baseline::of(look, look.report.as_ref()?), |_| false),
            }
        })
    }

    fn add(&mut self, now: Duration, present: &[(&PodLook, &PodReport)]) {
        let is_of_step = |look: &PodLook| self.step.pods.contains(&look.name);
        self.has_begun |=
            self.is_told && present.iter().any(|(look, report)| is_of_step(look) && report.in_force == InForce::Target);
        for (look, report) in present {
            let is_judged = is_of_step(look);
            let phase = match is_judged {
                _ if !self.is_told => Phase::Past,
                true if report.in_force == InForce::Target => Phase::Since,
                // The pods of a wave are told one after the other.
                true if !look.is_asked => Phase::Past,
                false if self.has_begun => Phase::Since,
                _ => Phase::Told,
            };
            let is_new = !self.tracks.contains_key(&look.name);
            let track = self.tracks.entry(look.name.clone()).or_insert_with(|| Track::new(look));
            let was_returning = track.is_returning;
            track.add(now, look, report, phase);
            let has_started = is_new || was_returning && !track.is_returning;
            self.addresses.entry(look.name.clone()).or_default().add(now, report, phase, has_started);
            // A pod that will be judged is a control of the pods before it until it is told.
            track.is_control &= !(is_judged && self.is_told);
        }
        // What was counted before the last pod has the change in force belongs to both revisions.
        let in_force = |track: &Track| track.in_force_since == Some(now);
        let comes_in_force = |name: &String| self.tracks.get(name).is_some_and(in_force);
        if self.is_told && self.step.pods.iter().any(comes_in_force) {
            self.tracks.values_mut().for_each(Track::restart_since);
        }
    }

    fn judge(&mut self, now: Duration, looks: &[PodLook], present: &[(&PodLook, &PodReport)]) -> Verdict {
        let of_step: Vec<&PodLook> = self.of_step(looks).collect();
        let judged: &[&PodLook] = &of_step.iter().filter(|look| !look.is_away).copied().collect::<Vec<_>>();
        if judged.is_empty() {
            let is_none = of_step.is_empty();
            let sentence =
                if is_none { "No pod of the step is there" } else { "Every pod of the step is on a node that is away" };
            return self.hold(HoldReason::Away, sentence.to_owned());
        }
        if !self.is_told {
            return self.hold(HoldReason::NotInForce, "No pod of the step is told of the change yet".to_owned());
        }
        let probes = self.judge_probes(now, judged, present);
        let (addresses, unknown_addresses) = self.judge_addresses(judged, present);
        for found in [&probes, &addresses] {
            if let Some((outcome @ Outcome::Fail(_), sentence)) = found {
                return Verdict { outcome: *outcome, sentence: sentence.clone(), warnings: Vec::new() };
            }
        }
        let findings = self.find_rates(now, judged);
        let has_rates = self.step.soak >= MIN_SOAK_FOR_RATES;
        let has_weight = |finding: &RateFinding, weight| finding.weight == weight && has_rates;
        let is_warning = |finding: &&RateFinding| finding.weight == Weight::Warning || !has_rates;
        let of_rates = findings.iter().filter(is_warning).map(|finding| finding.sentence.clone());
        let warnings: Vec<String> = unknown_addresses.into_iter().chain(of_rates).take(MAX_WARNINGS).collect();
        let suspects: Vec<&RateFinding> =
            findings.iter().filter(|finding| has_weight(finding, Weight::Suspicion)).collect();
        if let Some(finding) = suspects.iter().find(|finding| self.suspects.contains(&finding.key)) {
            let outcome = Outcome::Fail(FailReason::JudgedWorse);
            return Verdict { outcome, sentence: finding.sentence.clone(), warnings };
        }
        let first = |weight| findings.iter().find(|finding| has_weight(finding, weight));
        let with = |reason| move |finding: &RateFinding| (reason, finding.sentence.clone());
        let doubt = (first(Weight::Suspicion).map(with(HoldReason::Suspicion)))
            .or_else(|| first(Weight::CommonTrouble).map(with(HoldReason::ControlsFailing)))
            .or_else(|| first(Weight::Doubt).map(with(HoldReason::Doubt)));
        self.suspects = suspects.into_iter().map(|finding| finding.key.clone()).collect();
        let (outcome, sentence) = self.watch(now, judged, probes.or(addresses), doubt);
        Verdict { outcome, sentence, warnings }
    }

    /// Returns the verdict on a step that did not fail. `bad_signs` are those of probes and addresses.
    fn watch(
        &self,
        now: Duration,
        judged: &[&PodLook],
        bad_signs: Option<(Outcome, String)>,
        doubt: Option<(HoldReason, String)>,
    ) -> (Outcome, String) {
        let track = |look: &&PodLook| self.tracks.get(&look.name);
        let behind: Vec<&str> = judged
            .iter()
            .filter(|look| track(look).is_none_or(|track| track.in_force_since.is_none()))
            .map(|look| look.name.as_str())
            .collect();
        let is_excused = self.step.soak_start.is_some() && behind.len() < judged.len();
        if let Some(first) = behind.first().filter(|_| !is_excused) {
            let sentence = format!(
                "{} of {} pods of the step do not have the revision in force yet, {first} among them",
                behind.len(),
                judged.len()
            );
            return (Outcome::Hold(HoldReason::NotInForce), sentence);
        }
        let last = judged.iter().filter_map(track).filter_map(|track| track.in_force_since).max().unwrap_or(now);
        let watched = now.saturating_sub(self.step.soak_start.unwrap_or(last));
        let is_over = watched >= self.step.soak;
        if let Some(sentence) = self.unreadiness(judged) {
            return (Outcome::Hold(HoldReason::NotReady), sentence);
        }
        if let Some((outcome, sentence)) = bad_signs {
            return (outcome, sentence);
        }
        let is_patient = watched < self.step.soak + MAX_DOUBT;
        if let Some((reason, sentence)) = doubt.filter(|(reason, _)| *reason != HoldReason::Doubt || is_patient) {
            return (Outcome::Hold(reason), sentence);
        }
        if let Some(sentence) = self.silence(now, judged) {
            return (Outcome::Hold(HoldReason::NoFigures), sentence);
        }
        let (pods, watched, soak) = (judged.len(), watched.as_secs(), self.step.soak.as_secs());
        let whose = if pods == 1 { "One pod".to_owned() } else { format!("{pods} pods") };
        if is_over && self.waits_for_controls(now) {
            let sentence = format!(
                "{whose} showed nothing worse for {watched} s; no control has answered probes at the same time"
            );
            return (Outcome::Hold(HoldReason::Soak), sentence);
        }
        match self.count_missing_probes() {
            0 if is_over => (Outcome::Pass, format!("{whose} showed nothing worse than the controls for {watched} s")),
            missing if is_over => {
                let sentence =
                    format!("{whose} showed nothing worse for {watched} s; probes still to be asked: {missing}");
                (Outcome::Hold(HoldReason::Soak), sentence)
            }
            _ => (Outcome::Hold(HoldReason::Soak), format!("{whose} showed nothing worse for {watched} of {soak} s")),
        }
    }

    /// Returns a sentence when a step that needs it has no ready pod of a role with the change in force.
    fn unreadiness(&self, judged: &[&PodLook]) -> Option<String> {
        let has_change =
            |look: &PodLook| self.tracks.get(&look.name).is_some_and(|track| track.in_force_since.is_some());
        [Role::Resolver, Role::Node].into_iter().filter(|_| self.step.needs_ready).find_map(|role| {
            let pods: Vec<&PodLook> =
                judged.iter().copied().filter(|look| look.role == role && has_change(look)).collect();
            let first = pods.first().filter(|_| pods.iter().all(|look| !look.is_ready))?;
            Some(match pods.len() {
                1 => format!("{} is not ready", hard_signs::describe(first)),
                count => format!("{count} pods of the step are not ready, {} among them", first.name),
            })
        })
    }

    /// Returns a sentence when more than half of the judged pods of a zone and role report nothing.
    fn silence(&self, now: Duration, judged: &[&PodLook]) -> Option<String> {
        let reports = |look: &PodLook| self.tracks.get(&look.name).is_some_and(|track| has_reported(track, now));
        groups(judged).into_iter().find_map(|((zone, _), pods)| {
            let silent = pods.iter().filter(|look| !reports(look)).count();
            let sentence = || format!("{silent} of {} pods of the step in zone {zone} report nothing", pods.len());
            (silent * 2 > pods.len()).then(sentence)
        })
    }

    fn find_rates(&self, now: Duration, judged: &[&PodLook]) -> Vec<RateFinding> {
        let start = judged.iter().filter_map(|look| self.tracks.get(&look.name)?.in_force_since).max();
        let is_early = start.is_none_or(|start| now.saturating_sub(start) < EARLY);
        let significance = if is_early { EARLY_SIGNIFICANCE } else { SIGNIFICANCE };
        let limits = Limits { max_points: self.step.max_error_increase, significance };
        let mut findings = Vec::new();
        for ((zone, role), looks) in groups(judged) {
            let tracks = looks.iter().filter_map(|look| Some((look.name.as_str(), self.tracks.get(&look.name)?)));
            let pods: Vec<(&str, &Track)> = tracks.filter(|(_, track)| track.in_force_since.is_some()).collect();
            let is_comparable = |_: &str, track: &Track| track.has_past() && has_reported(track, now);
            let controls = controls::choose(&self.tracks, zone, role, is_comparable);
            findings.extend(rates::find(zone, &pods, &controls, limits));
        }
        findings
    }

    fn hold(&self, reason: HoldReason, sentence: String) -> Verdict {
        Verdict { outcome: Outcome::Hold(reason), sentence, warnings: Vec::new() }
    }
}

/// Returns whether a pod has reported lately.
fn has_reported(track: &Track, now: Duration) -> bool {
    track.last_report.is_some_and(|last| now.saturating_sub(last) <= MAX_REPORT_AGE)
}

/// Returns the looks at pods that are there and report.
fn present(looks: &[PodLook]) -> Vec<(&PodLook, &PodReport)> {
    looks.iter().filter(|look| !look.is_away).filter_map(|look| Some((look, look.report.as_ref()?))).collect()
}

/// Returns the pods by zone and role.
fn groups<'a>(looks: &[&'a PodLook]) -> BTreeMap<(&'a str, Role), Vec<&'a PodLook>> {
    let mut groups: BTreeMap<(&str, Role), Vec<&PodLook>> = BTreeMap::new();
    for look in looks {
        groups.entry((&look.zone, look.role)).or_default().push(look);
    }
    groups
}
