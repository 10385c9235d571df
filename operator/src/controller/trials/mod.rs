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

mod looks;
mod names;
mod prober;
mod selection;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dnstier_crds::v1alpha1::Rollout;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use node_cache_config::Config;
use node_cache_config::names::revision_key;
use tokio::sync::mpsc;

use crate::controller::judge::pod_look::PodLook;
use crate::controller::judge::trial::{LOOK_INTERVAL, Step as TrialStep, Trial};
use crate::controller::judge::verdict::{self, HoldReason, Outcome};
use crate::controller::observe::Observed;
use crate::controller::observe::pods::TierPod;
use crate::controller::observe::poll::{Class, Evidence, RoleStore};
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::situation::{Situation, role_of};
use crate::controller::rollout::steps::Verdict;
use crate::controller::trials::looks::pod_look;
use crate::controller::trials::prober::{Answers, ProbedPod, Prober, RoundState};
use crate::controller::trials::selection::Selection;

/// Soak from which shares of responses judge, so that their past is waited for.
const MIN_SOAK_FOR_PAST: u32 = 15;
/// Time for which the first look at a step waits for a report of each of its pods.
const MAX_REPORT_WAIT: Duration = Duration::from_secs(10);
/// Time for which a look waits for its probes.
const MAX_ROUND: Duration = Duration::from_secs(60);
/// Age of the last look from which a superseded step is no past any more.
const MAX_PAST_AGE: Duration = Duration::from_secs(120);
/// Warnings of the judge that are told.
const MAX_WARNINGS: usize = 2;

/// Trials of all tiers.
#[derive(Debug)]
pub(crate) struct Trials {
    tiers: Mutex<HashMap<String, TierTrial>>,
    roles: RoleStore,
    prober: Prober,
}

/// Trial of the step of one tier.
#[derive(Debug)]
struct TierTrial {
    uid: Option<String>,
    target: String,
    step: Step,
    since: Timestamp,
    trial: Trial,
    /// Time of the last look.
    last_look: Option<Duration>,
    /// Start of the last round of probes.
    round: Option<Duration>,
    /// Number of rounds so far.
    rounds: usize,
    verdict: Option<verdict::Verdict>,
}

/// Judgement of the step of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Verdict; `None` before the first look and for a step that is not judged.
    pub(crate) verdict: Option<Verdict>,
    /// Whether it is known how the pods of the step were before.
    pub(crate) is_past_known: bool,
}

impl Trials {
    /// Builds trials without any step. `ended` receives an item when probes have been answered.
    pub(crate) fn new(roles: RoleStore, ended: mpsc::Sender<()>) -> Self {
        Self { tiers: Mutex::default(), roles, prober: Prober::new(ended) }
    }

    /// Forgets all steps, because another process may have gone on with them.
    pub(crate) fn clear(&self) {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.roles.clear();
    }

    /// Returns whether probes of a tier are under way.
    #[cfg(test)]
    pub(crate) fn is_probing(&self, tier: &str) -> bool {
        self.prober.is_running(tier)
    }

    /// Looks at the pods of the step of the record that was read, and judges them.
    pub(crate) fn judge(&self, observed: &Observed, situation: &Situation) -> Judgement {
        let name = observed.tier.name_any();
        let mut tiers = self.tiers.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut found = Found::new(observed, &selection);
        self.roles.set(&name, found.roles());
        found.read_evidence(&self.roles);
        let now = since_epoch(situation.now);
        let earlier = tiers.remove(&name).filter(|earlier| earlier.uid == observed.tier.uid());
        let mut tier =
            TierTrial::follow(earlier, observed.tier.uid(), record, &selection.keys, &situation.settings, now);
        if let Some(since) = &record.watched_since {
            tier.trial.start_soak(since_epoch(since.0));
        }
        let answers = self.probe(&name, &mut tier, observed, record, proven, &found, now);
        let looks = found.looks(&record.target, proven, &situation.settings, answers.as_ref());
        let is_waited_for = tier.last_look.is_none()
            && now.saturating_sub(since_epoch(record.since.0)) < MAX_REPORT_WAIT
            && found.is_any_report_missing();
        tier.look(now, &looks, answers.is_some() && !is_waited_for);
        // An earlier process has told some.
        let is_told = |pod: &&RolloutPod| pod.is_asked(record.target.part(pod.role));
        let is_past_known = selection.judged.iter().any(is_told) || tier.is_past_known(&situation.settings);
        if situation.surroundings(is_past_known).may_tell(record) {
            tier.trial.tell();
        }
        let verdict = tier.verdict.clone().map(planner_verdict);
        tiers.insert(name, tier);
        Judgement { verdict, is_past_known }
    }

    /// Returns the answers to the probes when a look is due and they are there, and starts a round when it is not.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one look")]
    fn probe(
        &self,
        name: &str,
        tier: &mut TierTrial,
        observed: &Observed,
        record: &Record,
        proven: &TierRevision,
        found: &Found<'_>,
        now: Duration,
    ) -> Option<HashMap<String, Answers>> {
        let is_due = tier.last_look.is_none_or(|last| now.saturating_sub(last) >= LOOK_INTERVAL || now < last);
        if !is_due {
            return None;
        }
        match self.prober.take(name) {
            RoundState::Ended(answers) if tier.round.is_some() => return Some(answers),
            RoundState::Running if tier.round.is_some_and(|start| now.saturating_sub(start) < MAX_ROUND) => {
                return None;
            }
            _ => {}
        }
        let pods = found.probed();
        if pods.is_empty() {
            return Some(HashMap::new());
        }
        tier.round = Some(now);
        tier.rounds += 1;
        let (target, proven) = (config_of(observed, &record.target.id), config_of(observed, &proven.id));
        let names = |role| Arc::new(names::names(target.as_ref(), proven.as_ref(), role, tier.rounds));
        let of_role = [(Role::Node, names(Role::Node)), (Role::Resolver, names(Role::Resolver))];
        let names_of = |role| of_role.iter().find(|(other, _)| *other == role).map(|(_, names)| names.clone());
        let pods = pods.into_iter().filter_map(|(role, pod)| Some((pod, names_of(role)?))).collect();
        self.prober.start(name, pods);
        None
    }
}

impl TierTrial {
    /// Returns the trial of the step of a record, which follows that of the step before.
    fn follow(
        earlier: Option<Self>,
        uid: Option<String>,
        record: &Record,
        keys: &BTreeSet<String>,
        settings: &Rollout,
        now: Duration,
    ) -> Self {
        let step = TrialStep {
            pods: keys.clone(),
            soak: Duration::from_secs(settings.soak.seconds().into()),
            max_error_increase: f64::from(settings.max_error_increase_percent),
            soak_start: None,
        };
        let is_same = |tier: &Self| {
            (tier.target.as_str(), tier.step, tier.since) == (record.target.id.as_str(), record.step, record.since.0)
        };
        let is_next = |tier: &Self| tier.target == record.target.id;
        let is_recent = |tier: &Self| tier.last_look.is_some_and(|last| now.saturating_sub(last) < MAX_PAST_AGE);
        let start = |trial: Trial| Self {
            uid: uid.clone(),
            target: record.target.id.clone(),
            step: record.step,
            since: record.since.0,
            trial,
            last_look: None,
            round: None,
            rounds: 0,
            verdict: None,
        };
        match earlier {
            Some(mut tier) if is_same(&tier) => {
                tier.trial.update_step(step);
                tier
            }
            Some(tier) if is_next(&tier) => start(tier.trial.advance(step)),
            Some(tier) if record.step == Step::Moved && is_recent(&tier) => start(tier.trial.supersede(step)),
            _ => start(Trial::new(step)),
        }
    }

    /// Looks at pods. Without all that belongs to a look only hard signs count.
    fn look(&mut self, now: Duration, looks: &[PodLook], is_complete: bool) {
        if is_complete {
            self.last_look = Some(now);
            self.verdict = Some(self.trial.look(now, looks));
        } else if let Some(verdict) = self.trial.glance(looks) {
            self.verdict = Some(verdict);
        }
    }

    fn is_past_known(&self, settings: &Rollout) -> bool {
        let needs_long_past = settings.soak.seconds() >= MIN_SOAK_FOR_PAST && self.step != Step::Moved;
        self.last_look.is_some() && (!needs_long_past || self.trial.has_long_past())
    }
}

/// Pods of a selection, as they were found in the cluster.
struct Found<'a> {
    observed: &'a Observed,
    pods: Vec<(&'a RolloutPod, &'a TierPod)>,
    fast: BTreeSet<&'a str>,
    judged: BTreeSet<&'a str>,
    probed: BTreeSet<&'a str>,
    evidence: HashMap<&'a str, Arc<Evidence>>,
}

impl<'a> Found<'a> {
    fn new(observed: &'a Observed, selection: &Selection<'a>) -> Self {
        let by_name: HashMap<(Role, &str), &TierPod> =
            observed.pods.iter().map(|pod| ((role_of(pod), pod.name.as_str()), pod)).collect();
        let find = |pod: &RolloutPod| by_name.get(&(pod.role, pod.name.as_str())).copied();
        let uids = |pods: &[&'a RolloutPod]| pods.iter().filter_map(|pod| Some(find(pod)?.uid.as_str())).collect();
        let fast = selection.pods().filter(|(_, is_fast)| *is_fast).map(|(pod, _)| pod).collect::<Vec<_>>();
        Self {
            observed,
            pods: selection.pods().filter_map(|(pod, _)| Some((pod, find(pod)?))).collect(),
            fast: uids(&fast),
            judged: uids(&selection.judged),
            probed: uids(&selection.probed()),
            evidence: HashMap::new(),
        }
    }

    fn read_evidence(&mut self, roles: &RoleStore) {
        let uids = self.pods.iter().map(|(_, pod)| pod.uid.as_str());
        self.evidence = uids.filter_map(|uid| Some((uid, roles.evidence(uid)?))).collect();
    }

    fn roles(&self) -> impl Iterator<Item = (&'a str, Class)> {
        self.pods.iter().map(|(_, pod)| {
            let uid = pod.uid.as_str();
            (uid, if self.fast.contains(uid) { Class::Canary } else { Class::Control })
        })
    }

    fn is_any_report_missing(&self) -> bool {
        let is_there = |pod: &&(&RolloutPod, &TierPod)| !pod.0.away && self.judged.contains(pod.1.uid.as_str());
        self.pods.iter().filter(is_there).any(|(_, pod)| !self.evidence.contains_key(pod.uid.as_str()))
    }

    /// Returns the pods that are probed and can be.
    fn probed(&self) -> Vec<(Role, ProbedPod)> {
        let can_be_probed = |uid: &str| self.evidence.get(uid).is_some_and(|evidence| evidence.can_be_probed);
        let pods = self.pods.iter();
        pods.filter(|(_, pod)| self.probed.contains(pod.uid.as_str()) && can_be_probed(&pod.uid))
            .filter_map(|(rollout_pod, pod)| {
                let address = SocketAddr::new(pod.address?, pod.metrics_port);
                Some((rollout_pod.role, ProbedPod { uid: pod.uid.clone(), address }))
            })
            .collect()
    }

    fn looks(
        &self,
        target: &TierRevision,
        proven: &TierRevision,
        settings: &Rollout,
        answers: Option<&HashMap<String, Answers>>,
    ) -> Vec<PodLook> {
        let looks = self.pods.iter().map(|(pod, found)| {
            let report = self.observed.reports.get(&found.uid).map(|report| &**report);
            let answers = answers.and_then(|answers| answers.get(&found.uid));
            let answers = answers.into_iter().flatten();
            let probes =
                answers.map(|(probe, result)| names::outcome(probe, result.as_ref(), &settings.probes)).collect();
            let evidence = self.evidence.get(found.uid.as_str()).map(|evidence| &**evidence);
            pod_look(pod, found, report, evidence, target, proven, probes)
        });
        looks.collect()
    }
}

/// Returns a configuration of the ConfigMap.
fn config_of(observed: &Observed, id: &str) -> Option<Config> {
    let data = observed.owned.config_maps.iter().filter_map(|config_map| config_map.data.as_ref());
    let json = data.filter_map(|data| data.get(&revision_key(id))).next();
    Config::from_json(json?.as_bytes()).ok()
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

fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or_default())
}
