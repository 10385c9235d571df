//! Trial of the step of one tier: the rounds of its probes, its looks and its verdict.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::v1alpha1::Rollout;
use k8s_openapi::jiff::Timestamp;
use node_cache_config::probes::ProbeName;

use crate::controller::judge::pod_look::PodLook;
use crate::controller::judge::probe_history::ProbeKey;
use crate::controller::judge::trial::{LOOK_INTERVAL, Step as TrialStep, Trial};
use crate::controller::judge::verdict::Verdict;
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::trials::names::TierNames;
use crate::controller::trials::prober::{Answers, MAX_ROUND, ProbedPod, RoundState};
use crate::controller::trials::round::{self, Candidate};

/// Soak from which shares of responses judge, so that their past is waited for.
const MIN_SOAK_FOR_PAST: u32 = 15;
/// Time for which a look waits for its probes. After it, looks are without them until the round ends.
const MAX_PROBE_WAIT: Duration = Duration::from_secs(10);
/// Age of the last look from which a superseded step is no past any more.
const MAX_PAST_AGE: Duration = Duration::from_secs(120);

/// Trial of the step of one tier.
#[derive(Debug)]
pub(super) struct TierTrial {
    pub(super) uid: Option<String>,
    target: String,
    step: Step,
    since: Timestamp,
    pub(super) trial: Trial,
    /// Time of the last look.
    pub(super) last_look: Option<Duration>,
    /// Whether a look had its probes.
    pub(super) was_probed: bool,
    /// Round of probes that is under way.
    round: Option<Round>,
    /// Number of rounds so far, those of the steps before included, so that each name has its turn.
    rounds: usize,
    /// Probes that a pod of the step was asked for since it has the change in force.
    asked: HashSet<(Role, ProbeName)>,
    pub(super) verdict: Option<Verdict>,
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
pub(super) enum Progress {
    /// No look is due, or its probes are waited for.
    Waiting,
    /// A look is due, and no round is under way.
    Idle,
    /// A look is due, and its probes take long.
    Late,
    /// A look is due, and these are the answers, by UID of the pod.
    Answered(HashMap<String, Answers>),
}

impl TierTrial {
    /// Returns the trial of the step of a record, which follows that of the step before.
    pub(super) fn follow(
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
    pub(super) fn progress(&self, now: Duration, state: impl FnOnce() -> RoundState) -> Progress {
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

    /// Begins a round of probes, and returns its pods with their names. `tiers` is the number of tiers with a step.
    pub(super) fn start_round(
        &mut self,
        now: Duration,
        record: &Record,
        candidates: &[Candidate<'_>],
        names: &TierNames,
        tiers: usize,
    ) -> Vec<(ProbedPod, Arc<Vec<ProbeName>>)> {
        let limit = round::max_names(candidates, tiers);
        let turn = self.rounds / names.nodes.looks(limit).max(names.resolvers.looks(limit));
        self.rounds += 1;
        let doubted: Vec<(&str, &ProbeKey)> = self.trial.doubted_probes().collect();
        let of_role = |role: Role| {
            let is_doubted = |probe: &ProbeName| {
                doubted.iter().any(|(_, key)| (&key.name, &key.rtype) == (&probe.name, &probe.rtype))
            };
            let is_missing = |probe: &ProbeName| !self.asked.contains(&(role, probe.clone()));
            Arc::new(names.of_role(role).of_look(self.rounds, limit, is_doubted, is_missing))
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
        self.round = Some(Round { start: now, changed });
        chosen.into_iter().map(|Candidate { pod, probed, .. }| (probed, names_of(pod.role).clone())).collect()
    }

    /// Notes what pods that had the change in force from the start of the round were asked for.
    pub(super) fn end_round(&mut self, answers: &HashMap<String, Answers>) {
        let round = self.round.take();
        for (uid, role) in round.iter().flat_map(|round| &round.changed) {
            let of_pod = answers.get(uid).into_iter().flatten();
            self.asked.extend(of_pod.map(|(probe, _)| (*role, probe.clone())));
        }
    }

    /// Returns how many probes no pod with the change in force was asked for. Where no such pod can be asked, none is
    /// missing.
    pub(super) fn count_missing_probes(
        &self,
        record: &Record,
        candidates: &[Candidate<'_>],
        names: &TierNames,
    ) -> usize {
        let changed = candidates.iter().filter(|candidate| has_change(candidate, record));
        let roles: HashSet<Role> = changed.map(|candidate| candidate.pod.role).collect();
        let is_missing = |role: Role| move |probe: &&ProbeName| !self.asked.contains(&(role, (*probe).clone()));
        roles.into_iter().map(|role| names.of_role(role).required().iter().filter(is_missing(role)).count()).sum()
    }

    /// Looks at pods. Before a look is due only hard signs count.
    pub(super) fn look(&mut self, now: Duration, looks: &[PodLook], is_due: bool) {
        if is_due {
            self.last_look = Some(now);
            self.verdict = Some(self.trial.look(now, looks));
        } else if let Some(verdict) = self.trial.glance(looks) {
            self.verdict = Some(verdict);
        }
    }

    pub(super) fn is_past_known(&self, settings: &Rollout) -> bool {
        let needs_long_past = settings.soak.seconds() >= MIN_SOAK_FOR_PAST && self.step != Step::Moved;
        self.was_probed && (!needs_long_past || self.trial.has_long_past())
    }
}

/// Returns whether a pod is one of the step that has the change in force.
fn has_change(candidate: &Candidate<'_>, record: &Record) -> bool {
    candidate.is_judged && candidate.pod.is_running(record.target.part(candidate.pod.role))
}

#[cfg(test)]
mod tests {
    use node_cache_config::Config;

    use super::*;
    use crate::controller::trials::names::Names;
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
