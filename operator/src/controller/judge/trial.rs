//! Trial of one step of a rollout: looks at its pods and their controls come in, a verdict on each look goes out.
//!
//! Looks begin before the pods of the step are told, so that their past is known. The judgement of shares counts only
//! when it is bad in two looks running.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::controller::judge::comparison::{Limits, SIGNIFICANCE};
use crate::controller::judge::controls;
use crate::controller::judge::hard_signs;
use crate::controller::judge::pod_look::{InForce, PodLook, PodReport, ProbeOutcome};
use crate::controller::judge::probe_history::{ProbeKey, by_key};
use crate::controller::judge::probes::{self, BadLooks, ProbeJudgement};
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
/// Pods of a step up to which two lost probes of one pod are no chance.
const MAX_PODS_WITHOUT_CHANCE: usize = 3;
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
    /// Begin of the soak, if the caller says when it was: it may have been in an earlier process, and a pod that does
    /// not get the revision in force may be excused. `None`: the judge waits until all pods have it.
    pub(crate) soak_start: Option<Duration>,
}

/// Trial of one step.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    step: Step,
    tracks: BTreeMap<String, Track>,
    is_told: bool,
    has_begun: bool,
    last_look: Option<Duration>,
    suspects: BTreeSet<RateKey>,
    /// Number of probes that no pod of the step was asked for since it has the change in force.
    missing_probes: usize,
    verdict: Option<Verdict>,
}

impl Trial {
    /// Starts a trial whose pods are not told yet.
    #[must_use]
    pub(crate) fn new(step: Step) -> Self {
        Self {
            step,
            tracks: BTreeMap::new(),
            is_told: false,
            has_begun: false,
            last_look: None,
            suspects: BTreeSet::new(),
            missing_probes: 0,
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

    /// Notes how many probes no pod of the step was asked for since it has the change in force. A step does not pass
    /// before all were.
    pub(crate) fn wait_for_probes(&mut self, missing: usize) {
        self.missing_probes = missing;
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
        Self { tracks: self.tracks, ..Self::new(step) }
    }

    /// Starts the trial of another change on pods that run this one. Their past is that from before both.
    #[must_use]
    pub(crate) fn supersede(mut self, step: Step) -> Self {
        self.tracks.values_mut().for_each(Track::supersede);
        Self { tracks: self.tracks, ..Self::new(step) }
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
        told.into_iter().find_map(|look| match self.tracks.get(&look.name).and_then(Track::baseline) {
            Some(baseline) => hard_signs::find(look, baseline),
            None => hard_signs::find(look, &Baseline::of(look, look.report.as_ref()?)),
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
            let track = self.tracks.entry(look.name.clone()).or_insert_with(|| Track::new(look));
            track.add(now, look, report, phase);
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
        let probes = self.judge_probes(judged, present);
        if let Some((Outcome::Fail(reason), sentence)) = probes {
            return Verdict { outcome: Outcome::Fail(reason), sentence, warnings: Vec::new() };
        }
        let findings = self.find_rates(now, judged);
        let has_rates = self.step.soak >= MIN_SOAK_FOR_RATES;
        let has_weight = |finding: &RateFinding, weight| finding.weight == weight && has_rates;
        let is_warning = |finding: &&RateFinding| finding.weight == Weight::Warning || !has_rates;
        let warnings: Vec<String> =
            findings.iter().filter(is_warning).map(|finding| finding.sentence.clone()).take(MAX_WARNINGS).collect();
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
        let (outcome, sentence) = self.watch(now, judged, probes, doubt);
        Verdict { outcome, sentence, warnings }
    }

    /// Returns the verdict on a step that did not fail.
    fn watch(
        &self,
        now: Duration,
        judged: &[&PodLook],
        probes: Option<(Outcome, String)>,
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
        if let Some((outcome, sentence)) = probes {
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
        match self.missing_probes {
            0 if is_over => (Outcome::Pass, format!("{whose} showed nothing worse than the controls for {watched} s")),
            missing if is_over => {
                let sentence =
                    format!("{whose} showed nothing worse for {watched} s; probes still to be asked: {missing}");
                (Outcome::Hold(HoldReason::Soak), sentence)
            }
            _ => (Outcome::Hold(HoldReason::Soak), format!("{whose} showed nothing worse for {watched} of {soak} s")),
        }
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

    fn judge_probes(&mut self, judged: &[&PodLook], present: &[(&PodLook, &PodReport)]) -> Option<(Outcome, String)> {
        let results: BTreeMap<&str, BTreeMap<ProbeKey, &ProbeOutcome>> =
            present.iter().map(|(look, report)| (look.name.as_str(), by_key(&report.probes))).collect();
        let mut found: Vec<ProbeFinding> = Vec::new();
        for ((zone, role), looks) in groups(judged) {
            let is_left = !controls::choose(&self.tracks, zone, role, |_, _| true).is_empty();
            let has_results = |name: &str, _: &Track| results.get(name).is_some_and(|results| !results.is_empty());
            let controls = controls::choose(&self.tracks, zone, role, has_results);
            let controls: Vec<&BTreeMap<ProbeKey, &ProbeOutcome>> =
                controls.iter().filter_map(|(name, _)| results.get(*name)).collect();
            for look in looks {
                let (Some(own), Some(track)) = (results.get(look.name.as_str()), self.tracks.get_mut(&look.name))
                else {
                    continue;
                };
                if track.in_force_since.is_none() {
                    continue;
                }
                for (key, outcome) in own {
                    let answers: Vec<&ProbeOutcome> =
                        controls.iter().filter_map(|results| results.get(key)).copied().collect();
                    // Controls that were not asked in this look tell nothing.
                    if is_left && controls.is_empty() {
                        continue;
                    }
                    let standing = probes::compare(outcome, &track.probes, is_left.then_some(&answers));
                    track.probes.add(key, standing);
                    if !outcome.is_failure() {
                        track.probes.note_answer(key);
                    }
                    track.probed_controls = controls.len();
                }
                found.extend(ProbeFinding::describe(&look.name, track));
            }
        }
        let failed = found.iter().filter(|finding| matches!(finding.outcome, Outcome::Fail(_))).count();
        if judged.len() > MAX_PODS_WITHOUT_CHANCE && failed == 1 {
            found.iter_mut().filter(|finding| finding.may_be_chance).for_each(ProbeFinding::doubt);
        }
        let worst = found.into_iter().rev().max_by_key(|finding| finding.severity());
        worst.map(|finding| (finding.outcome, finding.sentence))
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

/// Bad sign that the probes of one pod show.
struct ProbeFinding {
    outcome: Outcome,
    sentence: String,
    /// Whether a look was good among those that are judged.
    may_be_chance: bool,
}

impl ProbeFinding {
    fn describe(pod: &str, track: &Track) -> Option<Self> {
        let others = match track.probed_controls {
            0 => "its own answers just before".to_owned(),
            1 => "one control".to_owned(),
            count => format!("{count} controls"),
        };
        let is_incomplete = |looks: &BadLooks| looks.bad < looks.looks;
        let is_new = |key: &ProbeKey| track.probes.past(key).is_none() && !track.probes.has_answered(key);
        let (outcome, sentence, may_be_chance) = match probes::judge(&track.probes) {
            ProbeJudgement::Fine => return None,
            ProbeJudgement::Suspicion(ProbeKey { name, rtype }) => {
                let sentence = format!("The last probe of {name} {rtype} on {pod} was worse than {others}");
                (Outcome::Hold(HoldReason::Suspicion), sentence, true)
            }
            ProbeJudgement::ControlsFailing(ProbeKey { name, rtype }) => {
                let sentence = format!("Probes of {name} {rtype} get no answer on {pod}, and none on controls");
                (Outcome::Hold(HoldReason::ControlsFailing), sentence, false)
            }
            ProbeJudgement::Unanswered(looks) => {
                // With neither, there is nothing to compare with.
                let is_alone = track.probed_controls == 0 && is_new(&looks.key);
                let contrast = if is_alone { String::new() } else { format!(", unlike {others}") };
                let sentence = format!("{looks} on {pod} got no answer{contrast}");
                (Outcome::Fail(FailReason::JudgedWorse), sentence, is_incomplete(&looks))
            }
            ProbeJudgement::Different(looks) => {
                let sentence = format!("{looks} on {pod} got another answer than {others}");
                (Outcome::Fail(FailReason::WrongAnswers), sentence, is_incomplete(&looks))
            }
        };
        Some(Self { outcome, sentence, may_be_chance })
    }

    /// Turns a failure into a suspicion.
    fn doubt(&mut self) {
        self.outcome = Outcome::Hold(HoldReason::Suspicion);
    }

    fn severity(&self) -> u8 {
        match self.outcome {
            Outcome::Fail(_) => 2,
            Outcome::Hold(HoldReason::ControlsFailing) => 1,
            _ => 0,
        }
    }
}
