//! Trial of the step of one tier: the rounds of its probes, its looks and its verdict.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::v1alpha1::Rollout;
use k8s_openapi::jiff::Timestamp;
use node_cache_config::probes::ProbeName;

use crate::controller::judge::pod_look::PodLook;
use crate::controller::judge::probe_history::ProbeKey;
use crate::controller::judge::trial::{LOOK_INTERVAL, MissingProbes, Step as TrialStep, Trial};
use crate::controller::judge::verdict::Verdict;
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::steps::needs_ready;
use crate::controller::trials::clock::Clock;
use crate::controller::trials::names::TierNames;
use crate::controller::trials::prober::{Answers, MAX_ROUND, ProbedPod, RoundState};
use crate::controller::trials::round::{self, Candidate};

/// Time for which the first look at a step waits for a report of each of its pods.
const MAX_REPORT_WAIT: Duration = Duration::from_secs(10);
/// Time for which a step waits until the past of its pods is known.
const MAX_PAST_WAIT: Duration = Duration::from_secs(40);
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
    /// Clock of all times here and in the trial.
    clock: Clock,
    /// Time at which this process first saw the step in its term as the leader: what it waits for counts from here. The
    /// record may be from long before.
    start: Duration,
    /// Begin of the soak, as the record has it and by the clock.
    soak_start: Option<(Timestamp, Duration)>,
    /// Time of the last look.
    pub(super) last_look: Option<Duration>,
    /// Whether a look had its probes.
    pub(super) was_probed: bool,
    /// Round of probes that is under way.
    round: Option<Round>,
    /// Number of rounds so far, those of the steps before included, so that each name has its turn.
    rounds: usize,
    /// Probes that a pod of the step was asked for beside a control since it has the change in force.
    asked: HashSet<(Role, ProbeName)>,
    /// Probes that such a pod was asked for in the round before this look.
    asked_now: HashSet<(Role, ProbeName)>,
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
    /// Returns the trial of the step of a record, which follows that of the step before. `wall` is the present time by
    /// the wall clock, which may be set.
    pub(super) fn follow(
        earlier: Option<Self>,
        uid: Option<String>,
        record: &Record,
        keys: &BTreeSet<String>,
        settings: &Rollout,
        wall: Timestamp,
    ) -> Self {
        let mut clock = earlier.as_ref().map_or_else(|| Clock::new(wall), |tier| tier.clock);
        clock.go_on(wall);
        let now = clock.now();
        let step = TrialStep {
            pods: keys.clone(),
            soak: Duration::from_secs(settings.soak.seconds().into()),
            max_error_increase: f64::from(settings.max_error_increase_percent),
            needs_ready: needs_ready(record.step),
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
            clock,
            start: now,
            soak_start: None,
            last_look: None,
            was_probed: false,
            round: None,
            rounds,
            asked: HashSet::new(),
            asked_now: HashSet::new(),
            verdict: None,
        };
        let mut tier = match earlier {
            Some(mut tier) if is_same(&tier) => {
                tier.clock = clock;
                tier.trial.update_step(step);
                tier
            }
            Some(tier) if is_next(&tier) => start(tier.trial.advance(step), tier.rounds),
            Some(tier) if record.step == Step::Moved && is_recent(&tier) => start(tier.trial.supersede(step), 0),
            _ => start(Trial::new(step), 0),
        };
        tier.note_soak_start(record.watched_since.as_ref().map(|since| since.0));
        tier
    }

    /// Notes when the soak began, as the record has it. That time is read once: the wall clock may be set later.
    fn note_soak_start(&mut self, since: Option<Timestamp>) {
        let known = self.soak_start.filter(|(known, _)| Some(*known) == since);
        self.soak_start = known.or_else(|| since.map(|since| (since, self.clock.time_of(since))));
        if let Some((_, start)) = self.soak_start {
            self.trial.start_soak(start);
        }
    }

    /// Returns whether the first look at the step waits for pods that have not reported yet.
    pub(super) fn waits_for_reports(&self) -> bool {
        self.last_look.is_none() && self.age() < MAX_REPORT_WAIT
    }

    /// Returns the time since the step was first seen.
    fn age(&self) -> Duration {
        self.clock.now().saturating_sub(self.start)
    }

    /// Returns how far the probes of the next look are; `state` takes the answers of a round.
    pub(super) fn progress(&self, state: impl FnOnce() -> RoundState) -> Progress {
        let now = self.clock.now();
        let is_due = self.last_look.is_none_or(|last| now.saturating_sub(last) >= LOOK_INTERVAL);
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
        self.round = Some(Round { start: self.clock.now(), changed });
        chosen.into_iter().map(|Candidate { pod, probed, .. }| (probed, names_of(pod.role).clone())).collect()
    }

    /// Notes what pods that had the change in force from the start of the round were asked for.
    pub(super) fn end_round(&mut self, answers: &HashMap<String, Answers>) {
        let round = self.round.take();
        self.asked_now.clear();
        for (uid, role) in round.iter().flat_map(|round| &round.changed) {
            let of_pod = answers.get(uid).into_iter().flatten();
            self.asked_now.extend(of_pod.map(|(probe, _)| (*role, probe.clone())));
        }
    }

    /// Returns how many probes no pod with the change in force was asked for beside a control, by role. Where none of
    /// these can be asked, none is missing: they are not ready, or of an earlier release.
    pub(super) fn missing_probes(
        &self,
        record: &Record,
        candidates: &[Candidate<'_>],
        names: &TierNames,
    ) -> BTreeMap<Role, MissingProbes> {
        let changed = candidates.iter().filter(|candidate| has_change(candidate, record));
        let roles: BTreeSet<Role> = changed.map(|candidate| candidate.pod.role).collect();
        let missing = |role: Role| {
            let required = names.of_role(role).required().iter().map(|probe| (role, probe.clone()));
            let before: Vec<(Role, ProbeName)> = required.filter(|probe| !self.asked.contains(probe)).collect();
            let after = before.iter().filter(|probe| !self.asked_now.contains(*probe)).count();
            MissingProbes { before: before.len(), after }
        };
        roles.into_iter().map(|role| (role, missing(role))).collect()
    }

    /// Looks at pods. Before a look is due only hard signs count.
    pub(super) fn look(&mut self, looks: &[PodLook], is_due: bool) {
        let asked_now = std::mem::take(&mut self.asked_now);
        if is_due {
            let now = self.clock.now();
            self.last_look = Some(now);
            self.verdict = Some(self.trial.look(now, looks));
            self.asked.extend(asked_now.into_iter().filter(|(role, _)| self.trial.has_compared(*role)));
        } else if let Some(verdict) = self.trial.glance(looks) {
            self.verdict = Some(verdict);
        }
    }

    /// Returns whether it is known how the pods of the step were, or has been waited for long enough: they may be away,
    /// or report nothing.
    pub(super) fn is_past_known(&self, settings: &Rollout) -> bool {
        let needs_long_past = settings.soak.seconds() >= MIN_SOAK_FOR_PAST && self.step != Step::Moved;
        let is_known = self.was_probed && (!needs_long_past || self.trial.has_long_past());
        is_known || self.age() >= MAX_PAST_WAIT
    }
}

/// Returns whether a pod is one of the step that has the change in force.
fn has_change(candidate: &Candidate<'_>, record: &Record) -> bool {
    candidate.is_judged && candidate.pod.is_running(record.target.part(candidate.pod.role))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use node_cache_config::Config;

    use super::*;
    use crate::controller::judge::figures::Figures;
    use crate::controller::judge::pod_look::{Compare, InForce, PodReport, ProbeOutcome};
    use crate::controller::judge::verdict::Outcome;
    use crate::controller::trials::names::Names;
    use crate::controller::trials::prober::Answer;
    use crate::controller::trials::selection::tests::{pod, revision};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn record(step: Step) -> Record {
        Record::new(revision("new"), Some(revision("old")), step, at(0))
    }

    fn follow(earlier: Option<TierTrial>, record: &Record) -> TierTrial {
        TierTrial::follow(earlier, None, record, &BTreeSet::new(), &Rollout::default(), at(0))
    }

    /// Returns the trial of a step of one node at a time of the wall clock.
    fn follow_at(earlier: Option<TierTrial>, record: &Record, second: i64) -> TierTrial {
        TierTrial::follow(earlier, None, record, &BTreeSet::from(["a-000".to_owned()]), &Rollout::default(), at(second))
    }

    /// Returns the look at that node, which has the change in force.
    fn canary(is_away: bool) -> PodLook {
        PodLook {
            name: "a-000".to_owned(),
            uid: "uid".to_owned(),
            zone: "a".to_owned(),
            role: Role::Node,
            is_asked: true,
            is_away,
            is_ready: true,
            container_restarts: 0,
            report: Some(PodReport {
                in_force: InForce::Target,
                started: 0,
                restarts: 0,
                refusal: None,
                self_query_failures: BTreeMap::new(),
                figures: Figures::default(),
                probes: Vec::new(),
            }),
        }
    }

    #[test]
    fn a_round_that_takes_long_keeps_no_look_waiting() {
        let mut tier = follow(None, &record(Step::Canary));
        let progress = |tier: &mut TierTrial, second, state: &dyn Fn() -> RoundState| {
            tier.clock = Clock::new(at(second));
            tier.progress(state)
        };
        let (none, running) = (|| RoundState::None, || RoundState::Running);
        let ended = || RoundState::Ended(HashMap::new());
        assert_eq!(progress(&mut tier, 100, &none), Progress::Idle);
        tier.round = Some(Round { start: tier.clock.now(), changed: HashMap::new() });
        assert_eq!(progress(&mut tier, 109, &running), Progress::Waiting);
        for second in [160, 172, 110] {
            assert_eq!(progress(&mut tier, second, &running), Progress::Late, "{second}");
        }
        tier.last_look = Some(tier.clock.now());
        assert_eq!(progress(&mut tier, 114, &|| panic!("nobody takes answers before")), Progress::Waiting);
        assert_eq!(progress(&mut tier, 115, &running), Progress::Late);
        assert_eq!(progress(&mut tier, 171, &ended), Progress::Answered(HashMap::new()));
        assert_eq!(progress(&mut tier, 171, &none), Progress::Idle);
        assert_eq!(progress(&mut tier, 300, &running), Progress::Idle, "a task that was lost");
        tier.round = None;
        assert_eq!(progress(&mut tier, 171, &ended), Progress::Idle, "a round of the step before");
    }

    #[test]
    fn a_look_without_its_probes_is_no_past_of_them() {
        let mut tier = follow(None, &record(Step::Canary));
        let settings = Rollout { soak: dnstier_crds::v1alpha1::Duration::from_seconds(5), ..Rollout::default() };
        tier.look(&[], true);
        assert!(!tier.is_past_known(&settings));
        tier.was_probed = true;
        assert!(tier.is_past_known(&settings));
    }

    #[test]
    fn a_step_waits_for_the_past_of_its_pods_from_when_this_process_has_seen_it() {
        let (record, settings) = (record(Step::Canary), Rollout::default());
        let mut tier = None;
        let mut see = |second| {
            let seen = TierTrial::follow(tier.take(), None, &record, &BTreeSet::new(), &settings, at(second));
            let waits = (seen.waits_for_reports(), !seen.is_past_known(&settings));
            tier = Some(seen);
            waits
        };
        assert_eq!(
            [5_000, 5_009, 5_010, 5_039].map(&mut see),
            [(true, true), (true, true), (false, true), (false, true)]
        );
        assert_eq!(see(5_040), (false, false), "nobody waits for ever");
    }

    #[test]
    fn a_wall_clock_that_is_set_back_holds_neither_looks_nor_their_verdicts_up() {
        let record = record(Step::Canary);
        let mut tier = None;
        let mut look = |second, is_away| {
            let mut seen = follow_at(tier.take(), &record, second);
            let is_due = seen.progress(|| RoundState::None) != Progress::Waiting;
            seen.look(&[canary(is_away)], is_due);
            let verdict = seen.verdict.clone().unwrap();
            tier = Some(seen);
            verdict.sentence
        };
        let away = look(5_000, true);
        let later: Vec<String> = (1_000..=1_005).map(|second| look(second, false)).collect();
        assert!(later[..5].iter().all(|sentence| *sentence == away), "{later:#?}");
        assert_ne!(later[5], away, "a look after five seconds");
    }

    #[test]
    fn a_soak_goes_on_when_the_wall_clock_is_set_back_and_has_no_start_in_the_future() {
        for watched_since in [5_000, 9_000] {
            let mut record = record(Step::Canary);
            record.watched_since = Some(Time(at(watched_since)));
            let mut tier = None;
            let mut look = |second| {
                let mut seen = follow_at(tier.take(), &record, second);
                seen.trial.tell();
                seen.look(&[canary(false)], seen.progress(|| RoundState::None) != Progress::Waiting);
                let outcome = seen.verdict.clone().unwrap().outcome;
                tier = Some(seen);
                outcome
            };
            let mut seconds = (5_000..=5_010).chain(1_000..=1_050);
            let passed = seconds.position(|second| look(second) == Outcome::Pass);
            assert!(passed.is_some_and(|passed| (30..=36).contains(&passed)), "{watched_since}: {passed:?}");
        }
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

    /// Returns a probe of a look, which was answered.
    fn root_probe() -> ProbeOutcome {
        ProbeOutcome {
            name: ".".to_owned(),
            rtype: "NS".to_owned(),
            compare: Compare::Rcode,
            is_unchanged_route: false,
            rcode: Some(0),
            digest: String::new(),
            microseconds: 700,
        }
    }

    #[test]
    fn a_step_misses_names_until_a_pod_that_has_the_change_in_force_was_asked_beside_a_control() {
        let record = record(Step::Canary);
        let mut tier = follow_at(None, &record, 0);
        tier.trial.tell();
        let nodes = Names::of(Some(&Config::example()), Some(&Config::example()), Role::Node);
        let names = TierNames { nodes, ..TierNames::default() };
        let required = names.nodes.required().to_vec();
        assert!(required.len() > 1);
        let (control, mut changed) = (pod("a", 1), pod("a", 0));
        let probed = |uid: &str| ProbedPod { uid: uid.to_owned(), address: "192.0.2.1:9253".parse().unwrap() };
        let missing = |tier: &TierTrial, changed: &RolloutPod| {
            let control = Candidate { pod: &control, probed: probed("control"), is_judged: false };
            let changed = Candidate { pod: changed, probed: probed("canary"), is_judged: true };
            let missing = tier.missing_probes(&record, &[control, changed], &names);
            missing.get(&Role::Node).map_or((0, 0), |missing| (missing.before, missing.after))
        };
        assert_eq!(missing(&tier, &changed), (0, 0), "nobody can be asked");
        (changed.asked, changed.in_force) = (Some("new".to_owned()), Some("new".to_owned()));
        let all = required.len();
        assert_eq!(missing(&tier, &changed), (all, all));
        let mut second = 0;
        let mut ask = |uids: &[&str], asked: &[ProbeName], is_control_asked: bool| {
            let uids = uids.iter().map(|uid| ((*uid).to_owned(), Role::Node)).collect();
            tier.round = Some(Round { start: Duration::ZERO, changed: uids });
            let answers: Answers = asked.iter().map(|probe| (probe.clone(), Answer::Nothing)).collect();
            tier.end_round(&["control", "canary"].map(|uid| (uid.to_owned(), answers.clone())).into());
            let number = missing(&tier, &changed);
            second += 5;
            tier.clock = Clock::new(at(second));
            let (mut canary, mut control) = (canary(false), canary(false));
            (control.name, control.is_asked) = ("a-001".to_owned(), false);
            if let (Some(report), Some(of_control)) = (&mut canary.report, &mut control.report) {
                report.probes.push(root_probe());
                of_control.in_force = InForce::Proven;
                of_control.probes.extend(is_control_asked.then(root_probe));
            }
            tier.look(&[canary, control], true);
            number
        };
        assert_eq!(ask(&[], &required, true), (all, all), "the round began before");
        assert_eq!(ask(&["canary"], &required, false), (all, 0), "nobody was asked beside it");
        assert_eq!(ask(&["canary"], &required[1..], true), (all, 1), "one had no turn");
        assert_eq!(ask(&["canary"], &required[..1], true), (1, 0), "without an answer, too");
        assert_eq!(ask(&["canary"], &[], true), (0, 0));
    }
}
