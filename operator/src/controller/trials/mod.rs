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
mod round;
mod selection;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dnstier_crds::v1alpha1::Rollout;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use node_cache_config::Config;
use node_cache_config::names::revision_key;
use node_cache_config::probes::ProbeName;
use tokio::sync::mpsc;

use crate::controller::judge::pod_look::PodLook;
use crate::controller::judge::probe_history::ProbeKey;
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
use crate::controller::trials::names::Names;
use crate::controller::trials::prober::{Answers, MAX_ROUND, ProbedPod, Prober, RoundState};
use crate::controller::trials::round::Candidate;
use crate::controller::trials::selection::Selection;

/// Soak from which shares of responses judge, so that their past is waited for.
const MIN_SOAK_FOR_PAST: u32 = 15;
/// Time for which the first look at a step waits for a report of each of its pods.
const MAX_REPORT_WAIT: Duration = Duration::from_secs(10);
/// Time for which a look waits for its probes. After it, looks are without them until the round ends.
const MAX_PROBE_WAIT: Duration = Duration::from_secs(10);
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
    /// Whether a look had its probes.
    was_probed: bool,
    /// Round of probes that is under way.
    round: Option<Round>,
    /// Number of rounds so far, those of the steps before included, so that each name has its turn.
    rounds: usize,
    /// Probes that a pod of the step was asked for since it has the change in force.
    asked: HashSet<(Role, ProbeName)>,
    verdict: Option<verdict::Verdict>,
}

/// Round of probes of a step.
#[derive(Debug)]
struct Round {
    start: Duration,
    /// Pods of the step that had the change in force at the start, by UID.
    changed: HashMap<String, Role>,
}

/// Progress of the probes of a look.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// No look is due, or its probes are waited for.
    Waiting,
    /// A look is due, and no round is under way.
    Idle,
    /// A look is due, and its probes take long.
    Late,
    /// A look is due, and these are the answers, by UID of the pod.
    Answered(HashMap<String, Answers>),
}

/// Names that pods of each role can be asked for.
#[derive(Debug, Default)]
struct TierNames {
    nodes: Names,
    resolvers: Names,
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
        let mut progress = tier.progress(now, || self.prober.take(&name));
        let mut names = TierNames::default();
        if progress != Progress::Waiting {
            names = TierNames::of(observed, record, proven);
            let candidates = found.candidates();
            if progress == Progress::Idle {
                progress = self.start_round(&name, &mut tier, record, &candidates, &names, tiers.len() + 1, now);
            }
            if let Progress::Answered(answers) = &progress {
                tier.end_round(answers);
            }
            let missing = tier.count_missing_probes(record, &candidates, &names);
            tier.trial.wait_for_probes(missing);
        }
        let answers = match &progress {
            Progress::Answered(answers) => Some(answers),
            _ => None,
        };
        let looks = found.looks(&record.target, proven, &situation.settings, &names, answers);
        let is_waited_for = tier.last_look.is_none()
            && now.saturating_sub(since_epoch(record.since.0)) < MAX_REPORT_WAIT
            && found.is_any_report_missing();
        let is_look = matches!(progress, Progress::Late | Progress::Answered(_)) && !is_waited_for;
        tier.was_probed |= is_look && answers.is_some();
        tier.look(now, &looks, is_look);
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

    /// Starts a round of probes; where nobody can be probed it has ended. `tiers` is the number of tiers with a step.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one round")]
    fn start_round(
        &self,
        name: &str,
        tier: &mut TierTrial,
        record: &Record,
        candidates: &[Candidate<'_>],
        names: &TierNames,
        tiers: usize,
        now: Duration,
    ) -> Progress {
        if candidates.is_empty() {
            return Progress::Answered(HashMap::new());
        }
        let limit = round::max_names(candidates, tiers);
        let turn = tier.rounds / names.nodes.looks(limit).max(names.resolvers.looks(limit));
        tier.rounds += 1;
        let doubted: Vec<(&str, &ProbeKey)> = tier.trial.doubted_probes().collect();
        let of_role = |role: Role| {
            let is_doubted = |probe: &ProbeName| {
                doubted.iter().any(|(_, key)| (&key.name, &key.rtype) == (&probe.name, &probe.rtype))
            };
            let is_missing = |probe: &ProbeName| !tier.asked.contains(&(role, probe.clone()));
            Arc::new(names.of_role(role).of_look(tier.rounds, limit, is_doubted, is_missing))
        };
        let (of_nodes, of_resolvers) = (of_role(Role::Node), of_role(Role::Resolver));
        let names_of = |role: Role| match role {
            Role::Node => &of_nodes,
            Role::Resolver => &of_resolvers,
        };
        let count = candidates.iter().map(|candidate| names_of(candidate.pod.role).len()).max().unwrap_or_default();
        let is_doubted = |pod: &RolloutPod| doubted.iter().any(|(name, _)| *name == pod.key());
        let chosen = round::choose(candidates.to_vec(), count, tiers, turn, is_doubted);
        let changed = chosen.iter().filter(|candidate| has_change(candidate, record));
        let changed = changed.map(|candidate| (candidate.probed.uid.clone(), candidate.pod.role)).collect();
        let pods =
            chosen.into_iter().map(|Candidate { pod, probed, .. }| (probed, names_of(pod.role).clone())).collect();
        tier.round = Some(Round { start: now, changed });
        self.prober.start(name, pods);
        Progress::Waiting
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
        let start = |trial: Trial, rounds: usize| Self {
            uid: uid.clone(),
            target: record.target.id.clone(),
            step: record.step,
            since: record.since.0,
            trial,
            last_look: None,
            was_probed: false,
            round: None,
            rounds,
            asked: HashSet::new(),
            verdict: None,
        };
        match earlier {
            Some(mut tier) if is_same(&tier) => {
                tier.trial.update_step(step);
                tier
            }
            Some(tier) if is_next(&tier) => start(tier.trial.advance(step), tier.rounds),
            Some(tier) if record.step == Step::Moved && is_recent(&tier) => start(tier.trial.supersede(step), 0),
            _ => start(Trial::new(step), 0),
        }
    }

    /// Returns how far the probes of the next look are; `state` takes the answers of a round.
    fn progress(&self, now: Duration, state: impl FnOnce() -> RoundState) -> Progress {
        let is_due = self.last_look.is_none_or(|last| now.saturating_sub(last) >= LOOK_INTERVAL || now < last);
        if !is_due {
            return Progress::Waiting;
        }
        let age = self.round.as_ref().map(|round| now.saturating_sub(round.start));
        match (state(), age) {
            (RoundState::Ended(answers), Some(_)) => Progress::Answered(answers),
            // A round ends by itself.
            (RoundState::Running, Some(age)) if age < MAX_ROUND + LOOK_INTERVAL => {
                if age < MAX_PROBE_WAIT {
                    Progress::Waiting
                } else {
                    Progress::Late
                }
            }
            _ => Progress::Idle,
        }
    }

    /// Notes what pods that had the change in force from the start of the round were asked for.
    fn end_round(&mut self, answers: &HashMap<String, Answers>) {
        let round = self.round.take();
        for (uid, role) in round.iter().flat_map(|round| &round.changed) {
            let of_pod = answers.get(uid).into_iter().flatten();
            self.asked.extend(of_pod.map(|(probe, _)| (*role, probe.clone())));
        }
    }

    /// Returns how many probes no pod with the change in force was asked for. Where no such pod can be asked, none is
    /// missing.
    fn count_missing_probes(&self, record: &Record, candidates: &[Candidate<'_>], names: &TierNames) -> usize {
        let changed = candidates.iter().filter(|candidate| has_change(candidate, record));
        let roles: HashSet<Role> = changed.map(|candidate| candidate.pod.role).collect();
        let is_missing = |role: Role| move |probe: &&ProbeName| !self.asked.contains(&(role, (*probe).clone()));
        roles.into_iter().map(|role| names.of_role(role).required().iter().filter(is_missing(role)).count()).sum()
    }

    /// Looks at pods. Before a look is due only hard signs count.
    fn look(&mut self, now: Duration, looks: &[PodLook], is_due: bool) {
        if is_due {
            self.last_look = Some(now);
            self.verdict = Some(self.trial.look(now, looks));
        } else if let Some(verdict) = self.trial.glance(looks) {
            self.verdict = Some(verdict);
        }
    }

    fn is_past_known(&self, settings: &Rollout) -> bool {
        let needs_long_past = settings.soak.seconds() >= MIN_SOAK_FOR_PAST && self.step != Step::Moved;
        self.was_probed && (!needs_long_past || self.trial.has_long_past())
    }
}

impl TierNames {
    fn of(observed: &Observed, record: &Record, proven: &TierRevision) -> Self {
        let (target, proven) = (config_of(observed, &record.target.id), config_of(observed, &proven.id));
        let of_role = |role| Names::of(target.as_ref(), proven.as_ref(), role);
        Self { nodes: of_role(Role::Node), resolvers: of_role(Role::Resolver) }
    }

    fn of_role(&self, role: Role) -> &Names {
        match role {
            Role::Node => &self.nodes,
            Role::Resolver => &self.resolvers,
        }
    }
}

/// Returns whether a pod is one of the step that has the change in force.
fn has_change(candidate: &Candidate<'_>, record: &Record) -> bool {
    candidate.is_judged && candidate.pod.is_running(record.target.part(candidate.pod.role))
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
    fn candidates(&self) -> Vec<Candidate<'a>> {
        let can_be_probed = |uid: &str| self.evidence.get(uid).is_some_and(|evidence| evidence.can_be_probed);
        let pods = self.pods.iter();
        pods.filter(|(_, found)| self.probed.contains(found.uid.as_str()) && can_be_probed(&found.uid))
            .filter_map(|(pod, found)| {
                let address = SocketAddr::new(found.address?, found.metrics_port);
                let probed = ProbedPod { uid: found.uid.clone(), address };
                Some(Candidate { pod, probed, is_judged: self.judged.contains(found.uid.as_str()) })
            })
            .collect()
    }

    fn looks(
        &self,
        target: &TierRevision,
        proven: &TierRevision,
        settings: &Rollout,
        names: &TierNames,
        answers: Option<&HashMap<String, Answers>>,
    ) -> Vec<PodLook> {
        let looks = self.pods.iter().map(|(pod, found)| {
            let report = self.observed.reports.get(&found.uid).map(|report| &**report);
            let answers = answers.and_then(|answers| answers.get(&found.uid));
            let answers = answers.into_iter().flatten();
            let names = names.of_role(pod.role);
            let outcomes = answers.filter_map(|(probe, answer)| names::outcome(probe, answer, names, &settings.probes));
            let evidence = self.evidence.get(found.uid.as_str()).map(|evidence| &**evidence);
            pod_look(pod, found, report, evidence, target, proven, outcomes.collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::trials::prober::Answer;
    use crate::controller::trials::selection::tests::{pod, revision};

    fn record(step: Step) -> Record {
        Record::new(revision("new"), Some(revision("old")), step, Timestamp::UNIX_EPOCH)
    }

    fn follow(earlier: Option<TierTrial>, record: &Record) -> TierTrial {
        TierTrial::follow(earlier, None, record, &BTreeSet::new(), &Rollout::default(), Duration::ZERO)
    }

    #[test]
    fn a_round_that_takes_long_keeps_no_look_waiting() {
        let mut tier = follow(None, &record(Step::Canary));
        let at = |seconds: u64| Duration::from_secs(seconds);
        assert_eq!(tier.progress(at(100), || RoundState::None), Progress::Idle);
        tier.round = Some(Round { start: at(100), changed: HashMap::new() });
        assert_eq!(tier.progress(at(109), || RoundState::Running), Progress::Waiting);
        for seconds in [110, 160, 172] {
            assert_eq!(tier.progress(at(seconds), || RoundState::Running), Progress::Late, "{seconds}");
        }
        tier.last_look = Some(at(110));
        assert_eq!(tier.progress(at(114), || panic!("nobody takes answers before")), Progress::Waiting);
        assert_eq!(tier.progress(at(115), || RoundState::Running), Progress::Late);
        let ended = || RoundState::Ended(HashMap::new());
        assert_eq!(tier.progress(at(171), ended), Progress::Answered(HashMap::new()));
        assert_eq!(tier.progress(at(171), || RoundState::None), Progress::Idle);
        assert_eq!(tier.progress(at(300), || RoundState::Running), Progress::Idle, "a task that was lost");
        tier.round = None;
        assert_eq!(tier.progress(at(171), ended), Progress::Idle, "a round of the step before");
    }

    #[test]
    fn a_look_without_its_probes_is_no_past_of_them() {
        let mut tier = follow(None, &record(Step::Canary));
        let settings = Rollout { soak: dnstier_crds::v1alpha1::Duration::from_seconds(5), ..Rollout::default() };
        tier.look(Duration::from_secs(10), &[], true);
        assert!(!tier.is_past_known(&settings));
        tier.was_probed = true;
        assert!(tier.is_past_known(&settings));
    }

    #[test]
    fn names_have_their_turn_from_step_to_step_and_are_asked_anew_in_each() {
        let mut tier = follow(None, &record(Step::Canary));
        tier.rounds = 4;
        tier.asked.insert((Role::Node, ProbeName::new(".", "NS")));
        let tier = follow(Some(tier), &record(Step::Canary));
        assert_eq!((tier.rounds, tier.asked.len()), (4, 1));
        let tier = follow(Some(tier), &record(Step::Wave));
        assert_eq!((tier.rounds, tier.asked.len()), (4, 0));
    }

    #[test]
    fn a_step_misses_names_until_a_pod_that_has_the_change_in_force_was_asked() {
        let record = record(Step::Canary);
        let mut tier = follow(None, &record);
        let nodes = Names::of(Some(&Config::example()), Some(&Config::example()), Role::Node);
        let names = TierNames { nodes, ..TierNames::default() };
        let required = names.nodes.required().to_vec();
        assert!(required.len() > 1);
        let (control, mut canary) = (pod("a", 0), pod("a", 1));
        let probed = |uid: &str| ProbedPod { uid: uid.to_owned(), address: "192.0.2.1:9253".parse().unwrap() };
        let missing = |tier: &TierTrial, canary: &RolloutPod| {
            let control = Candidate { pod: &control, probed: probed("control"), is_judged: false };
            let canary = Candidate { pod: canary, probed: probed("canary"), is_judged: true };
            tier.count_missing_probes(&record, &[control, canary], &names)
        };
        assert_eq!(missing(&tier, &canary), 0, "nobody can be asked");
        (canary.asked, canary.in_force) = (Some("new".to_owned()), Some("new".to_owned()));
        assert_eq!(missing(&tier, &canary), required.len());
        let mut ask = |changed: &[&str], asked: &[ProbeName]| {
            let changed = changed.iter().map(|uid| ((*uid).to_owned(), Role::Node)).collect();
            tier.round = Some(Round { start: Duration::ZERO, changed });
            let answers: Answers = asked.iter().map(|probe| (probe.clone(), Answer::Nothing)).collect();
            tier.end_round(&["control", "canary"].map(|uid| (uid.to_owned(), answers.clone())).into());
            missing(&tier, &canary)
        };
        assert_eq!(ask(&[], &required), required.len(), "the round began before");
        assert_eq!(ask(&["canary"], &required[1..]), 1, "one had no turn");
        assert_eq!(ask(&["canary"], &required[..1]), 0, "without an answer, too");
    }
}
