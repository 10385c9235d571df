//! Trials: what is kept in memory of the step of each tier's roll-out while it is judged.
//!
//! ```text
//! record, pods ──► selection ─┬─► roles of the pods, for the poller
//!                             ├─► prober ──► answers ─┐
//! status polls ───────────────┴──────────────► looks ─┴─► judge ──► verdict, for the planner
//! ```
//!
//! Nothing here has to survive a restart: another process judges the step anew. Pods that were told before have no past
//! there, so that shares of responses decide nothing about them: probes and hard signs do.

mod clock;
mod looks;
mod names;
mod prober;
mod round;
mod selected_pods;
mod selection;
#[cfg(test)]
mod tests;
mod tier_trial;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use tokio::sync::mpsc;

use crate::controller::judge::verdict::{self, HoldReason, Outcome};
use crate::controller::observe::Observed;
use crate::controller::observe::poll::RoleStore;
use crate::controller::rollout::pods::RolloutPod;
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::situation::Situation;
use crate::controller::rollout::steps::Verdict;
use crate::controller::trials::names::TierNames;
use crate::controller::trials::prober::Prober;
use crate::controller::trials::selected_pods::SelectedPods;
use crate::controller::trials::selection::Selection;
use crate::controller::trials::tier_trial::{Progress, TierTrial};

/// Warnings of the judge that are told.
const MAX_WARNINGS: usize = 2;

/// Trials of all tiers.
#[derive(Debug)]
pub(crate) struct Trials {
    tiers: Mutex<HashMap<String, TierTrial>>,
    roles: RoleStore,
    prober: Prober,
}

/// Judgement of the step of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Verdict; `None` before the first look and for a step that is not judged.
    pub(crate) verdict: Option<Verdict>,
    /// Whether it is known how the pods of the step were before, or this process has waited for that long enough.
    pub(crate) is_past_known: bool,
}

impl Trials {
    /// Builds trials without any step. `ended` receives an item when probes have been answered.
    pub(crate) fn new(roles: RoleStore, ended: mpsc::Sender<()>) -> Self {
        Self { tiers: Mutex::default(), roles, prober: Prober::new(ended) }
    }

    /// Forgets all steps, because another process may have gone on with them.
    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.roles.clear();
    }

    /// Forgets the step of a tier that is gone.
    pub(crate) fn forget(&self, tier: &str) {
        self.remove(&mut self.lock(), tier);
    }

    /// Returns whether probes of a tier are under way.
    #[cfg(test)]
    pub(crate) fn is_probing(&self, tier: &str) -> bool {
        self.prober.is_running(tier)
    }

    /// Looks at the pods of the step of the record that was read, and judges them.
    pub(crate) fn judge(&self, observed: &Observed, situation: &Situation) -> Judgement {
        let name = observed.tier.name_any();
        let mut tiers = self.lock();
        self.forget_gone(&mut tiers, observed);
        let step = situation.record.as_ref().filter(|record| record.step.is_judged());
        let Some((record, proven)) = step.and_then(|record| Some((record, record.proven.as_ref()?))) else {
            // What is known of the pods that are to get another target stays for the next step.
            if situation.record.as_ref().is_none_or(|record| record.step != Step::Start) {
                tiers.remove(&name);
            }
            self.roles.set(&name, []);
            self.prober.forget(&name);
            return Judgement::default();
        };
        let around = situation.surroundings(false);
        let selection = Selection::of(record, proven, &around);
        let mut pods = SelectedPods::new(observed, &selection);
        self.roles.set(&name, pods.roles());
        pods.read_evidence(&self.roles);
        let earlier = tiers.remove(&name).filter(|earlier| earlier.uid == observed.tier.uid());
        let (settings, uid) = (&situation.settings, observed.tier.uid());
        let mut tier = TierTrial::follow(earlier, uid, record, &selection.keys, settings, situation.now);
        let (progress, names) = self.probe(&mut tier, observed, (record, proven), &pods, tiers.len() + 1);
        let answers = match &progress {
            Progress::Answered(answers) => Some(answers),
            _ => None,
        };
        let looks = pods.looks(&record.target, proven, settings, &names, answers);
        let is_waited_for = tier.waits_for_reports() && pods.is_any_report_missing();
        let is_look = matches!(progress, Progress::Late | Progress::Answered(_)) && !is_waited_for;
        tier.was_probed |= is_look && answers.is_some();
        tier.look(&looks, is_look);
        // An earlier process has told some.
        let is_told = |pod: &&RolloutPod| pod.is_asked(record.target.part(pod.role));
        let is_past_known = selection.judged.iter().any(is_told) || tier.is_past_known(settings);
        if situation.surroundings(is_past_known).may_tell(record) {
            tier.trial.tell();
        }
        let verdict = tier.verdict.clone().map(planner_verdict);
        tiers.insert(name, tier);
        Judgement { verdict, is_past_known }
    }

    /// Goes on with the probes of a step, and returns their progress and the names of the revisions. No names are read
    /// while no look is due. `tiers` is the number of tiers with a step.
    fn probe(
        &self,
        tier: &mut TierTrial,
        observed: &Observed,
        (record, proven): (&Record, &TierRevision),
        pods: &SelectedPods<'_>,
        tiers: usize,
    ) -> (Progress, TierNames) {
        let name = observed.tier.name_any();
        let mut progress = tier.progress(|| self.prober.take(&name));
        if progress == Progress::Waiting {
            return (progress, TierNames::default());
        }
        let names = TierNames::of(observed, record, proven);
        let candidates = pods.candidates();
        if progress == Progress::Idle {
            progress = if candidates.is_empty() {
                Progress::Answered(HashMap::new())
            } else {
                self.prober.start(&name, tier.start_round(record, &candidates, &names, tiers));
                Progress::Waiting
            };
        }
        if let Progress::Answered(answers) = &progress {
            tier.end_round(answers);
        }
        let missing = tier.missing_probes(record, &candidates, &names);
        tier.trial.wait_for_probes(missing);
        (progress, names)
    }

    /// Forgets the steps of tiers that do not exist any more: of one that is deleted at once no reconciliation tells.
    fn forget_gone(&self, tiers: &mut HashMap<String, TierTrial>, observed: &Observed) {
        let is_there = |name: &str| {
            observed.tier.name_any() == name
                || observed.other_tiers.iter().any(|tier| tier.name_any() == name)
                || observed.unreadable_tiers.iter().any(|tier| tier.name == name)
        };
        let gone: Vec<String> = tiers.keys().filter(|name| !is_there(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(tiers, name));
    }

    fn remove(&self, tiers: &mut HashMap<String, TierTrial>, tier: &str) {
        tiers.remove(tier);
        self.roles.set(tier, []);
        self.prober.forget(tier);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, TierTrial>> {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the verdict as the planner reads it.
fn planner_verdict(verdict: verdict::Verdict) -> Verdict {
    let warnings = verdict.warnings.iter().take(MAX_WARNINGS).map(|warning| format!(" {warning}."));
    let sentence = format!("{}.{}", verdict.sentence, warnings.collect::<String>());
    match verdict.outcome {
        Outcome::Pass => Verdict::Pass,
        Outcome::Fail(reason) => Verdict::Fail { reason, sentence },
        Outcome::Hold(reason) => {
            Verdict::Hold { are_controls_failing: reason == HoldReason::ControlsFailing, sentence }
        }
    }
}
