//! Steps of a roll-out: when one is over, and which pods are in it.

mod next;

use std::collections::BTreeSet;

use dnstier_crds::v1alpha1::Rollout;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::next::{begin_next, choose_canaries, finish};
use crate::controller::judge::verdict::FailReason;
use crate::controller::owned::labels::CONFIRM_ROLLOUT;
use crate::controller::rollout::pods::{Role, RolloutPod, candidates, is_ahead, sort_by_traffic};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::TierRevision;

/// Time for which a node without a pod stays in its step: the pod that follows takes its place.
const POD_ABSENCE: SignedDuration = SignedDuration::from_mins(5);
/// Age of a step, in soaks, from which a pod that is made again does not begin the soak anew.
const MAX_SOAKS: i32 = 10;
/// Reason of a target that pods do not take over.
pub(super) const NOT_IN_FORCE: &str = "NotInForce";

/// Verdict of the judge on a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is worse than before. The planner believes it at the end of the soak.
    Pass,
    /// Something is worse.
    Fail {
        /// Kind of the failure.
        reason: FailReason,
        /// Sentence with the figures.
        sentence: String,
    },
    /// Nothing can be said yet.
    Hold {
        /// Whether pods that are not changed fail too.
        are_controls_failing: bool,
        /// Sentence with the figures.
        sentence: String,
    },
}

/// Inputs of the steps beside the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// Pods of the tier that are not terminating.
    pub(crate) pods: &'a [RolloutPod],
    /// Nodes that are there and not away.
    pub(crate) nodes: &'a BTreeSet<String>,
    /// Settings of the tier.
    pub(crate) settings: &'a Rollout,
    /// Target for which the status says that it is not rolled out: nobody is told before.
    pub(crate) announced: Option<&'a str>,
    /// Whether the past of the pods of the step is known to the judge, or was waited for long enough. They are told
    /// afterwards.
    pub(crate) is_past_known: bool,
    /// Captured addresses that the target gives up and that are asked: which nodes, how often. `None` without any.
    pub(crate) address_in_use: Option<&'a str>,
    /// Captured addresses that the target gives up while some nodes have not told yet whether they are asked there: how
    /// many nodes. `None` without any.
    pub(crate) address_unknown: Option<&'a str>,
    /// Value of the annotation `dnstier.io/confirm-rollout`.
    pub(crate) confirm: Option<&'a str>,
    /// Value of the annotation `dnstier.io/retry-rollout`.
    pub(crate) retry: Option<&'a str>,
    /// Present time.
    pub(crate) now: Timestamp,
}

impl Surroundings<'_> {
    /// Returns whether the pods of the step may be told: the status says that the target is not rolled out, and the
    /// judge knows how the pods were before.
    #[must_use]
    pub(crate) fn may_tell(&self, record: &Record) -> bool {
        !record.step.is_judged() || self.is_past_known && self.announced == Some(&record.target.id)
    }

    /// Returns the sentences about addresses for which no step begins, because they are in use or because that is not
    /// known yet; `None` once the target is confirmed.
    #[must_use]
    pub(crate) fn obstacle(&self, record: &Record) -> Option<String> {
        let target = &record.target.id;
        if self.confirm == Some(target) {
            return None;
        }
        let confirm = format!("you annotate the DnsTier with {CONFIRM_ROLLOUT}={target} to go on.");
        let other = if record.step == Step::Start { "" } else { " else" };
        let in_use = self.address_in_use.map(|in_use| format!("{in_use} Nobody{other} is told before {confirm}"));
        let unknown = || Some(format!("{} Until then nobody{other} is told, unless {confirm}", self.address_unknown?));
        in_use.or_else(unknown)
    }

    /// Returns the sentences about addresses for which a roll-out stands still: nobody was told yet, no pod of the step
    /// listens, or it is over. `None` while a step is watched.
    #[must_use]
    pub(crate) fn standstill(&self, record: &Record) -> Option<String> {
        let proven = record.proven.as_ref()?;
        let is_over = |since: &Time| self.now.duration_since(since.0) >= soak(self.settings);
        let stands = match record.step {
            Step::Start => true,
            step if step.is_judged() => {
                // One that does not take the target over is replaced by no other meanwhile.
                let does_none_listen = members(record, proven, self).iter().all(|pod| pod.is_silent(self.now));
                record.watched_since.as_ref().is_some_and(is_over) || does_none_listen
            }
            _ => false,
        };
        self.obstacle(record).filter(|_| stands)
    }
}

/// Takes the record as far as it goes without a further look at the pods. Returns whether it changed.
///
/// `verdict` is that on the step of the record as it was read; `None` when it is new. `wants_nodes` tells whether the
/// tier should have node pods: where it has none for a moment, they are waited for.
pub(crate) fn advance(
    record: &mut Record,
    around: &Surroundings<'_>,
    wants_nodes: bool,
    verdict: Option<&Verdict>,
) -> bool {
    let before = record.clone();
    let mut verdict = verdict;
    bring_back_times(record, around.now);
    note_absent(record, around);
    loop {
        let (step, since) = (record.step, record.since.clone());
        let moved = record.moved.clone();
        advance_once(record, around, verdict.take());
        if !wants_nodes {
            end_without_nodes(record, around);
        }
        if (record.step, &record.since, &record.moved) == (step, &since, &moved) {
            return *record != before;
        }
    }
}

/// Replaces times that lie ahead: an operator with another clock has written them, and nobody waits for that clock.
fn bring_back_times(record: &mut Record, now: Timestamp) {
    let absent = record.absent.values_mut();
    let times = [&mut record.started, &mut record.since].into_iter().chain(&mut record.watched_since).chain(absent);
    times.filter(|time| is_ahead(time.0, now)).for_each(|time| *time = Time(now));
}

/// Notes since when nodes of the step, and nodes that go first, have no pod.
fn note_absent(record: &mut Record, around: &Surroundings<'_>) {
    if !record.step.is_judged() {
        record.absent.clear();
        return;
    }
    let keys: BTreeSet<&str> = around.pods.iter().map(RolloutPod::key).collect();
    let is_absent = |key: &&String| around.nodes.contains(*key) && !keys.contains(key.as_str());
    let absent = record.moved.union(&record.canaries).filter(is_absent);
    let since = |key: &String| record.absent.get(key).cloned().unwrap_or(Time(around.now));
    record.absent = absent.map(|key| (key.clone(), since(key))).collect();
}

/// Ends a roll-out that waits for a first node where the tier has none and none is to come. One of which nodes went
/// first waits for others: what these have shown is not known.
fn end_without_nodes(record: &mut Record, around: &Surroundings<'_>) {
    let has_nodes = around.pods.iter().any(|pod| pod.role == Role::Node);
    let may_end = !around.settings.paused && around.obstacle(record).is_none();
    if record.step == Step::Canary && record.canaries.is_empty() && !has_nodes && may_end {
        finish(record, around.now);
    }
}

fn advance_once(record: &mut Record, around: &Surroundings<'_>, verdict: Option<&Verdict>) {
    let Some(proven) = record.proven.clone() else {
        if is_everywhere(&record.target, around) {
            record.proven = Some(record.target.clone());
            record.begin(Step::Done, None, BTreeSet::new(), around.now);
        }
        return;
    };
    let is_paused = around.settings.paused;
    match record.step {
        Step::First | Step::Done | Step::Stopped => {}
        Step::Start => {
            let may_start = around.announced == Some(&record.target.id) && around.obstacle(record).is_none();
            if may_start && !is_paused {
                start(record, &proven, around);
            }
        }
        Step::Finish | Step::RollingBack => {
            if !is_paused && is_settled(record, &proven, around) {
                let is_rejected = record.step == Step::RollingBack && record.target != proven;
                record.superseded.clear();
                record.begin(if is_rejected { Step::Stopped } else { Step::Done }, None, BTreeSet::new(), around.now);
            }
        }
        Step::Moved | Step::Resolver | Step::ResolverZone | Step::Canary | Step::Wave => {
            watch(record, &proven, around, verdict);
        }
    }
}

/// Returns whether the first revision is in force: at least on half of all pods that are there, and on every ready one.
/// One that cannot be told, or that was told often enough and says nothing, holds nothing up.
fn is_everywhere(target: &TierRevision, around: &Surroundings<'_>) -> bool {
    let present: Vec<&RolloutPod> = around.pods.iter().filter(|pod| !pod.away).collect();
    let (running, others): (Vec<&RolloutPod>, Vec<&RolloutPod>) =
        present.iter().filter(|pod| pod.ready).partition(|pod| pod.is_running(target.part(pod.role)));
    let is_mute = |pod: &RolloutPod| pod.in_force.is_none() && pod.is_silent(around.now);
    running.iter().any(|pod| pod.role == Role::Node)
        && running.len() * 2 >= present.len()
        && others.iter().all(|pod| pod.out_of_reach || is_mute(pod))
}

/// Returns whether every pod has the proven revision in force, those apart that are away, are new, do not listen, or
/// cannot be told.
fn is_settled(record: &Record, proven: &TierRevision, around: &Surroundings<'_>) -> bool {
    around.pods.iter().all(|pod| {
        let part = proven.part(pod.role);
        let is_new = pod.created > record.since.0;
        let is_excused = pod.away || is_new || pod.is_silent(around.now);
        pod.is_running(part) || pod.out_of_reach || pod.is_asked(part) && is_excused
    })
}

/// Returns whether a pod runs a revision that was superseded on its way, or the target.
#[must_use]
pub(crate) fn is_moved(record: &Record, proven: &TierRevision, pod: &RolloutPod) -> bool {
    let (target, proven) = (record.target.part(pod.role), proven.part(pod.role));
    let asked = pod.asked.as_deref().filter(|asked| *asked != proven);
    asked.is_some_and(|asked| asked == target || record.superseded.contains(asked))
}

fn start(record: &mut Record, proven: &TierRevision, around: &Surroundings<'_>) {
    if around.pods.iter().any(|pod| pod.is_reachable() && is_moved(record, proven, pod)) {
        record.begin(Step::Moved, None, BTreeSet::new(), around.now);
    } else {
        begin_next(record, proven, around);
    }
}

/// Returns the pods of the step that are within reach.
#[must_use]
pub(crate) fn members<'a>(record: &Record, proven: &TierRevision, around: &Surroundings<'a>) -> Vec<&'a RolloutPod> {
    let is_member = |pod: &&RolloutPod| match record.step {
        Step::Moved => is_moved(record, proven, pod) && record.target.part(pod.role) != proven.part(pod.role),
        Step::Resolver | Step::ResolverZone => pod.role == Role::Resolver && record.moved.contains(pod.key()),
        _ => pod.role == Role::Node && record.moved.contains(pod.key()),
    };
    around.pods.iter().filter(|pod| pod.is_reachable()).filter(is_member).collect()
}

/// Watches the pods of a step.
fn watch(record: &mut Record, proven: &TierRevision, around: &Surroundings<'_>, verdict: Option<&Verdict>) {
    let is_paused = around.settings.paused;
    let now = around.now;
    if let (Some(Verdict::Fail { reason, sentence }), false) = (verdict, is_paused) {
        record.reject(&reason.to_string(), sentence.clone(), around.retry, now);
        return;
    }
    let mut current = members(record, proven, around);
    let do_others_answer = do_others_answer(&current, around);
    let is_given_up = |record: &Record, pod: &RolloutPod| {
        is_target_of(record, pod) && pod.is_silent(now) && (do_others_answer || !pod.is_unanswered)
    };
    let silent = current.iter().filter(|pod| is_given_up(record, pod)).map(|pod| pod.key().to_owned());
    let silent: BTreeSet<String> = silent.collect();
    let is_first = matches!(record.step, Step::Resolver | Step::Canary);
    if !is_paused && !silent.is_empty() {
        let is_too_many =
            if is_first { record.replaced || silent.len() > 1 } else { silent.len() * 2 >= current.len() };
        if is_too_many {
            record.reject(NOT_IN_FORCE, not_in_force(record, &silent, current.len()), around.retry, now);
            return;
        }
    }
    if !is_paused && is_first {
        if !replace_first(record, proven, around, &silent) {
            return;
        }
        current = members(record, proven, around);
    }
    if current.is_empty() {
        let is_waiting = record.step == Step::Resolver && record.moved.is_empty();
        // Pods that are all being made again have shown nothing yet.
        if !is_paused && (!is_first && !is_any_there(record, around) || is_waiting) {
            begin_next(record, proven, around);
        }
        return;
    }
    let is_in_force =
        |pod: &&RolloutPod| pod.is_running(record.target.part(pod.role)) || !is_first && is_given_up(record, pod);
    let is_missing =
        record.moved.iter().any(|key| is_there(record, key, around) && !current.iter().any(|pod| pod.key() == key));
    let behind: Vec<&&RolloutPod> = current.iter().filter(|pod| !is_in_force(pod)).collect();
    if is_missing || is_any_late(record, &behind) {
        restart_soak(record, around);
    }
    if is_missing || !behind.is_empty() {
        return;
    }
    let since = record.watched_since.get_or_insert(Time(now)).0;
    let is_over = verdict == Some(&Verdict::Pass) && now.duration_since(since) >= soak(around.settings);
    if !is_paused && is_over && is_shown(record, &current) {
        record.resolvers_passed |= current.iter().any(|pod| pod.role == Role::Resolver);
        record.nodes_passed |= current.iter().any(|pod| pod.role == Role::Node);
        begin_next(record, proven, around);
    }
}

/// Returns whether a step is over only when a pod with the target in force is ready. One that is not was asked for no
/// probe, and shows nothing.
#[must_use]
pub(crate) const fn needs_ready(step: Step) -> bool {
    matches!(step, Step::Moved | Step::Resolver | Step::Canary)
}

/// Returns whether a step that needs it has a ready pod of each role that has the target in force.
fn is_shown(record: &Record, current: &[&RolloutPod]) -> bool {
    let is_shown_by = |role: Role| {
        let is_running = |pod: &&&RolloutPod| pod.role == role && pod.is_running(record.target.part(role));
        let mut running = current.iter().filter(is_running).peekable();
        running.peek().is_none() || running.any(|pod| pod.ready)
    };
    !needs_ready(record.step) || [Role::Resolver, Role::Node].into_iter().all(is_shown_by)
}

/// Returns whether enough pods beside those of the step answer. Where most of them do not, nobody knows what the pods
/// of the step run.
fn do_others_answer(current: &[&RolloutPod], around: &Surroundings<'_>) -> bool {
    let answers = |pod: &&RolloutPod| !pod.is_unanswered && !pod.unpolled;
    let present = || around.pods.iter().filter(|pod| !pod.away);
    // The pods of the step are among those that are there.
    let others = present().count() - current.len();
    let answered = present().filter(answers).count() - current.iter().copied().filter(answers).count();
    answered > 0 && answered * 2 >= others
}

/// Lets other pods go first in the place of those that are silent or absent. Returns whether the step goes on: it may
/// be rejected, over, or without a pod for now.
fn replace_first(
    record: &mut Record,
    proven: &TierRevision,
    around: &Surroundings<'_>,
    silent: &BTreeSet<String>,
) -> bool {
    let before = record.clone();
    for key in silent {
        record.replaced = true;
        set_aside(record, key);
    }
    let had_some = !record.moved.is_empty();
    replace_absent(record, proven, around);
    if record.moved.is_empty() && !silent.is_empty() {
        let sentence = not_in_force(record, silent, silent.len());
        record.reject(NOT_IN_FORCE, sentence, around.retry, around.now);
        return false;
    }
    if around.obstacle(record).is_some() && !record.moved.is_subset(&before.moved) {
        // No other pod goes first meanwhile.
        *record = before;
        return !members(record, proven, around).is_empty();
    }
    if record.step == Step::Canary && members(record, proven, around).is_empty() {
        // Nobody was asked, so that nothing is known: a wave would be the first to run the target.
        return false;
    }
    if had_some && !is_any_there(record, around) {
        begin_next(record, proven, around);
        return false;
    }
    true
}

/// Returns whether a pod that does not have the target in force came to its step after the others had it: made again,
/// or told later because its node was away.
fn is_any_late(record: &Record, behind: &[&&RolloutPod]) -> bool {
    let is_late = |pod: &&&RolloutPod, since: &Time| {
        pod.created > since.0 || !is_target_of(record, pod) || pod.told.is_some_and(|told| told > since.0)
    };
    record.watched_since.as_ref().is_some_and(|since| behind.iter().any(|pod| is_late(pod, since)))
}

/// Watches all pods of a step anew, unless pods come and go all the time. In a pause, pods that are made again get the
/// proven revision, and no time counts.
fn restart_soak(record: &mut Record, around: &Surroundings<'_>) {
    if around.settings.paused || around.now.duration_since(record.since.0) < soak(around.settings) * MAX_SOAKS {
        record.watched_since = None;
    }
}

/// Returns the time for which a step is watched.
pub(super) fn soak(settings: &Rollout) -> SignedDuration {
    SignedDuration::from_secs(settings.soak.seconds().into())
}

fn is_target_of(record: &Record, pod: &RolloutPod) -> bool {
    pod.is_asked(record.target.part(pod.role))
}

/// Returns whether a pod of the step is there, or the pod that follows on its node is still expected.
fn is_there(record: &Record, key: &str, around: &Surroundings<'_>) -> bool {
    let mut pods = around.pods.iter().filter(|pod| pod.key() == key).peekable();
    if pods.peek().is_some() {
        return pods.any(RolloutPod::is_reachable);
    }
    let is_expected = |since: &Time| around.now.duration_since(since.0) < POD_ABSENCE;
    around.nodes.contains(key) && record.absent.get(key).is_none_or(is_expected)
}

/// Returns whether any pod of the step is there or expected.
fn is_any_there(record: &Record, around: &Surroundings<'_>) -> bool {
    record.moved.iter().any(|key| is_there(record, key, around))
}

fn set_aside(record: &mut Record, key: &str) {
    record.moved.remove(key);
    record.canaries.remove(key);
    record.set_aside.insert(key.to_owned());
}

fn not_in_force(record: &Record, silent: &BTreeSet<String>, of: usize) -> String {
    let names: Vec<&str> = silent.iter().take(3).map(String::as_str).collect();
    format!(
        "{} of {of} pods do not have revision {} in force half a minute after they were told: {}{}.",
        silent.len(),
        record.target.id,
        names.join(", "),
        if silent.len() > names.len() { ", …" } else { "" },
    )
}

/// Replaces the pods that go first and are not there any more, where another one can.
fn replace_absent(record: &mut Record, proven: &TierRevision, around: &Surroundings<'_>) {
    match record.step {
        Step::Canary => {
            let added = choose_canaries(record, proven, around);
            if !added.is_empty() {
                record.moved.extend(added.iter().cloned());
                record.canaries.extend(added);
                record.watched_since = None;
            }
        }
        Step::Resolver => {
            let is_any = is_any_there(record, around);
            let zone = record.zone.clone().unwrap_or_default();
            let mut others = candidates(around.pods, Role::Resolver, &zone, &proven.resolvers, &record.set_aside);
            sort_by_traffic(&mut others);
            if let (false, Some(other)) = (is_any, others.first()) {
                std::mem::take(&mut record.moved).iter().for_each(|key| set_aside(record, key));
                record.moved.insert(other.key().to_owned());
                record.watched_since = None;
            }
        }
        _ => {}
    }
}
