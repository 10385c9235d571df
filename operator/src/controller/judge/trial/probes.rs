//! Judgement of probes in a trial: which of them decide, and how long controls are waited for that are not asked.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{MAX_DOUBT, Trial, groups};
use crate::controller::judge::controls;
use crate::controller::judge::pod_look::{PodLook, PodReport, ProbeOutcome};
use crate::controller::judge::probe_history::{ProbeKey, by_key};
use crate::controller::judge::probes::{self, BadLooks, ProbeJudgement};
use crate::controller::judge::track::Track;
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};
use crate::controller::rollout::pods::Role;

/// Part of the soak for which controls are waited for that are asked for no probes, at most.
const MAX_PATIENT_SOAK: Duration = Duration::from_secs(30);
/// Time in which a round of probes has surely ended.
const MAX_ROUND: Duration = Duration::from_secs(90);
/// Pods of a step up to which two lost probes of one pod are no chance.
const MAX_PODS_WITHOUT_CHANCE: usize = 3;

impl Trial {
    /// Returns how many probes no pod of the step was asked for beside a control.
    pub(super) fn count_missing_probes(&self) -> usize {
        let missing = self.missing_probes.iter();
        missing.map(|(role, missing)| if self.compared.contains(role) { missing.after } else { missing.before }).sum()
    }

    /// Returns the time for which a step waits for controls that are asked for no probes.
    fn patience(&self) -> Duration {
        self.step.soak.min(MAX_PATIENT_SOAK) + MAX_DOUBT
    }

    /// Returns whether the probes of some pods of the step are compared with nobody's for now.
    pub(super) fn waits_for_controls(&self, now: Duration) -> bool {
        let mut alone = self.alone_since.iter().filter(|(role, _)| !self.compared.contains(*role));
        // A pod that is not asked any more, either, is not waited for.
        alone.any(|(_, since)| now.saturating_sub(*since) < self.patience() + MAX_ROUND)
    }

    /// Returns whether the probes of the pods of a role decide in this look, and notes since when no control was asked
    /// beside them. After a long time without, they are compared with their own answers just before.
    fn may_compare(&mut self, now: Duration, role: Role, is_asked: bool, is_control_asked: bool) -> bool {
        if is_control_asked {
            self.alone_since.remove(&role);
        } else if is_asked {
            self.alone_since.entry(role).or_insert(now);
        }
        let patience = self.patience();
        let is_waiting = self.alone_since.get(&role).is_some_and(|since| now.saturating_sub(*since) < patience);
        let may_compare = is_asked && !is_waiting;
        if may_compare {
            self.compared.insert(role);
        }
        may_compare
    }

    pub(super) fn judge_probes(
        &mut self,
        now: Duration,
        judged: &[&PodLook],
        present: &[(&PodLook, &PodReport)],
    ) -> Option<(Outcome, String)> {
        let results: BTreeMap<&str, BTreeMap<ProbeKey, &ProbeOutcome>> =
            present.iter().map(|(look, report)| (look.name.as_str(), by_key(&report.probes))).collect();
        let mut found: Vec<ProbeFinding> = Vec::new();
        for ((zone, role), looks) in groups(judged) {
            let is_left = !controls::choose(&self.tracks, zone, role, |_, _| true).is_empty();
            let has_results = |name: &str, _: &Track| results.get(name).is_some_and(|results| !results.is_empty());
            let controls = controls::choose(&self.tracks, zone, role, has_results);
            let controls: Vec<&BTreeMap<ProbeKey, &ProbeOutcome>> =
                controls.iter().filter_map(|(name, _)| results.get(*name)).collect();
            let is_asked = looks.iter().any(|look| {
                let track = self.tracks.get(&look.name).filter(|track| track.in_force_since.is_some());
                track.is_some_and(|track| has_results(&look.name, track))
            });
            // Where no control is left, nobody waits for one.
            let may_compare = self.may_compare(now, role, is_asked, !is_left || !controls.is_empty());
            for look in looks {
                let (Some(own), Some(track)) = (results.get(look.name.as_str()), self.tracks.get_mut(&look.name))
                else {
                    continue;
                };
                if track.in_force_since.is_none() {
                    continue;
                }
                for (key, outcome) in own.iter().filter(|_| may_compare) {
                    let answers: Vec<&ProbeOutcome> =
                        controls.iter().filter_map(|results| results.get(key)).copied().collect();
                    let references = (!controls.is_empty()).then_some(answers.as_slice());
                    let standing = probes::compare(outcome, &track.probes, references);
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
