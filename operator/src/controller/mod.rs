//! Reconciliation of a tier in five steps: observe, validate, desired, apply, status.
//!
//! Validate and desired are pure functions; only the other steps have a client.

pub(crate) mod apply;
mod backoff;
mod claim;
pub(crate) mod desired;
pub(crate) mod finding;
#[cfg(test)]
pub(crate) mod fixtures;
mod judge;
pub(crate) mod observe;
pub(crate) mod owned;
pub(crate) mod placement;
pub(crate) mod rollout;
pub(crate) mod schedule;
mod status;
mod text;
mod trials;
pub(crate) mod validate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

pub(crate) use apply::Applier;
pub(crate) use backoff::Backoff;
pub(crate) use claim::Claims;
pub(crate) use observe::Observer;
pub(crate) use status::{StatusWriter, UnreadableReporter};
pub(crate) use trials::Trials;

use crate::controller::apply::{ApplyResult, RolloutState, RolloutWrites};
use crate::controller::claim::Settled;
use crate::controller::desired::{Desired, RenderedRevision};
use crate::controller::finding::Finding;
use crate::controller::observe::poll::AddressUses;
use crate::controller::observe::{Observed, WatchedTier};
use crate::controller::owned::{labels, names};
use crate::controller::rollout::PodStarts;
use crate::controller::rollout::leaving::{Leaving, plan_leaving};
use crate::controller::rollout::plan::RolledOut;
use crate::controller::rollout::record::Step;
use crate::controller::rollout::situation::Situation;
use crate::controller::schedule::{Schedule, TierVersion, Turn};
use crate::controller::trials::Judgement;
use crate::controller::validate::tier::ValidatedTier;
use crate::controller::validate::validate;
use crate::error::Error;
use crate::leader::{Leadership, Term};
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Time between two looks at a tier that is gone, until its watch tells so.
const GONE_TIER_INTERVAL: Duration = Duration::from_secs(5);

/// Shared state of all reconciliations.
pub(crate) struct Context {
    /// Settings of the operator.
    pub(crate) settings: Arc<Settings>,
    /// Reads the cluster.
    pub(crate) observer: Observer,
    /// Claims of tiers, which keep two releases from acting on one.
    pub(crate) claims: Claims,
    /// Writes the objects of tiers.
    pub(crate) applier: Applier,
    /// Uses of captured addresses.
    pub(crate) address_uses: AddressUses,
    /// Trials of the steps of roll-outs.
    pub(crate) trials: Arc<Trials>,
    /// Writes the status of tiers.
    pub(crate) status_writer: StatusWriter,
    /// Warns of tiers that cannot be deserialized.
    pub(crate) unreadable_reporter: UnreadableReporter,
    /// Start of the next reconciliation of each tier.
    pub(crate) schedule: Arc<Schedule>,
    /// Delays of the retries of failed tiers.
    pub(crate) backoff: Backoff,
    /// Leadership of this process, which alone lets it reconcile.
    pub(crate) leadership: Leadership,
    /// Term in which tiers are reconciled: that of the leadership, once the pods have been polled.
    pub(crate) active_term: watch::Receiver<Option<Term>>,
    /// Reconciliations that are running.
    pub(crate) liveness: Arc<Liveness>,
    /// Metrics of the reconciliations.
    pub(crate) metrics: Arc<Metrics>,
}

/// Reconciles one tier while this process is the leader. A reconciliation is dropped with the term, and with it the
/// requests that are in flight.
///
/// # Errors
///
/// The first failure of the observe, apply or status step. [`error_policy`] retries the tier.
pub(crate) async fn reconcile(tier: Arc<WatchedTier>, context: Arc<Context>) -> Result<Action, Error> {
    let active = *context.active_term.borrow();
    let Some(term) = context.leadership.term(tokio::time::Instant::now()).filter(|term| Some(*term) == active) else {
        // All tiers are woken when a term begins.
        return Ok(Action::await_change());
    };
    let result = context.leadership.run_in(term, reconcile_as_leader(tier, &context)).await;
    match result {
        Some(result) if result.is_ok() || context.leadership.term(tokio::time::Instant::now()) == Some(term) => result,
        _ => Ok(Action::await_change()),
    }
}

/// Reconciles one tier, if it is due, can be deserialized and is not being deleted.
async fn reconcile_as_leader(tier: Arc<WatchedTier>, context: &Arc<Context>) -> Result<Action, Error> {
    if tier.meta().deletion_timestamp.is_some() {
        // Garbage collection follows the owner references; node pods clean up their nodes when they terminate.
        context.schedule.forget(&tier.name_any());
        context.unreadable_reporter.forget(&tier.name_any());
        context.trials.forget(&tier.name_any());
        return Ok(Action::await_change());
    }
    let tier = match &tier.0 {
        Ok(tier) => Arc::new(tier.clone()),
        Err(invalid) => {
            context.schedule.forget(invalid.metadata.name.as_deref().unwrap_or_default());
            let retry_after = context.unreadable_reporter.report(invalid, Instant::now()).await;
            return Ok(retry_after.map_or_else(Action::await_change, Action::requeue));
        }
    };
    let name = tier.name_any();
    context.unreadable_reporter.forget(&name);
    let started = Instant::now();
    let version =
        TierVersion { uid: tier.uid(), generation: tier.meta().generation, resource_version: tier.resource_version() };
    let is_retry = match context.schedule.start(&name, version, started) {
        Turn::Start { is_retry, is_new_spec } => {
            if is_new_spec {
                context.backoff.reset(&name);
            }
            is_retry
        }
        Turn::Wait(delay) => return Ok(Action::requeue(delay)),
    };
    let _running = context.liveness.start(&name, started);
    let result = reconcile_tier(tier, is_retry, context).await;
    context.metrics.record_reconcile(started.elapsed());
    let requeue_after = result?;
    context.backoff.reset(&name);
    Ok(Action::requeue(context.schedule.finish(&name, requeue_after, Instant::now())))
}

/// Reconciles one tier and returns the delay before its next reconciliation.
pub(crate) async fn reconcile_tier(tier: Arc<DnsTier>, is_retry: bool, context: &Context) -> Result<Duration, Error> {
    let Context { settings, observer, claims, applier, status_writer, .. } = context;
    let term = context.active_term.borrow().unwrap_or_default();
    match claims.settle(&tier, term, tokio::time::Instant::now()).await? {
        Settled::Own => {}
        Settled::TakenOver => observer.forget_record(&tier.name_any()),
        Settled::Elsewhere(next_look) => return Ok(next_look),
    }
    let tier = status_writer.with_last_status(tier);
    let observed = match observer.observe(tier.clone()).await {
        Ok(observed) => observed,
        Err(error) => {
            // A denied permission lasts until an administrator grants it. Other errors are retried before the status
            // reports them.
            if error.is_forbidden() {
                let status = status::compute_unreadable(&tier, &Finding::from(&error), observe::now());
                context.metrics.set_conditions(&tier.name_any(), &status);
                status_writer.write(&tier, &status, false).await?;
            }
            return Err(error);
        }
    };
    let set_next_look = |rollout: Option<&RolloutWrites>| {
        let next_look = rollout.and_then(|writes| writes.next_look);
        context.backoff.set_next_look(&observed.tier.name_any(), next_look);
    };
    let applied = match build_desired(&observed, settings) {
        Err(findings) => {
            let (stable, rollout) = plan_rollout(&observed, None, context).unzip();
            set_next_look(rollout.as_ref());
            let stable = stable.map(|stable| desired::stable_patches(&observed.owned, &stable)).unwrap_or_default();
            applier.on_invalid(&observed, rollout, &stable, findings).await
        }
        // Objects go with their tier: what is missing of a tier that is gone is not created again.
        Ok((_, desired)) if !observed.owned.has_all(&desired.objects) && observer.is_gone(&observed.tier).await? => {
            return Ok(GONE_TIER_INTERVAL);
        }
        Ok((tier, mut desired)) => {
            let rollout = desired.revision.as_ref().and_then(|newest| plan_rollout(&observed, Some(newest), context));
            let mut too_many = None;
            let rollout = rollout.map(|(stable, mut writes)| {
                desired::set_stable(&mut desired, &observed.owned, &stable);
                too_many = plan_departure(&observed, settings, &mut desired, &mut writes);
                writes
            });
            set_next_look(rollout.as_ref());
            let applied = applier.on_valid(&observed, &tier, &desired, rollout, is_retry).await;
            ApplyResult { outcome: applied.outcome.with_warning(too_many), ..applied }
        }
    };
    if let Err(error @ Error::OutdatedRecord { .. }) = applied.requeue_after {
        // The roll-out is somewhere else than was read, and so is what its conditions have to say.
        return Err(error);
    }
    if applied.leaves_pods {
        context.schedule.leave_work(&observed.tier.name_any());
    }
    let outcome = applied.outcome.with_warning(status_writer.finding(&observed.tier));
    let status = status::compute(&observed, settings, &outcome);
    let next_deadline = PodStarts::collect(&observed, settings).next;
    let resolvers = status::resolver_counts(&observed, settings, &outcome);
    context.metrics.set_tier(&observed.tier.name_any(), &status, resolvers);
    let next_write = status_writer.write(&observed.tier, &status, status::is_starting(&observed)).await?;
    let delay = applied.requeue_after?;
    Ok(next_deadline.into_iter().chain(next_write).fold(delay, Duration::min))
}

/// Validates the tier and builds its desired state.
fn build_desired(observed: &Observed, settings: &Settings) -> Result<(ValidatedTier, Desired), Vec<Finding>> {
    let tier = validate(observed, settings)?;
    let desired = desired::build(&tier, settings, &observed.owned, &observed.revisions_in_use());
    desired.map(|desired| (tier, desired)).map_err(|finding| vec![finding])
}

/// Judges the step of the roll-out and plans the next; `None` before the first revision. Returns the name of the
/// revision with which pods start that are not told any, and what is to be written.
fn plan_rollout(
    observed: &Observed,
    newest: Option<&RenderedRevision>,
    context: &Context,
) -> Option<(String, RolloutWrites)> {
    let Context { settings, trials, address_uses, applier, .. } = context;
    let out_of_reach = applier.out_of_reach(&observed.tier.name_any());
    if let Some(problem) = &observed.record.problem {
        tracing::warn!(tier = observed.tier.name_any(), problem, "the record of a roll-out is lost");
    }
    let situation = Situation::collect(observed, settings, newest, address_uses, &out_of_reach)?;
    let Judgement { verdict, is_past_known } = trials.judge(observed, &situation);
    // Another term is another writer, also of the same process: others may have led in between.
    let writer = format!("{}#{}", settings.identity, context.active_term.borrow().unwrap_or_default());
    let plan = situation.plan(verdict.as_ref(), is_past_known, &writer);
    let tier = &observed.tier;
    let record = plan.is_changed.then(|| {
        let labels = labels::component_labels(&tier.name_any(), labels::COMPONENT_ROLLOUT);
        let metadata = ObjectMeta {
            name: Some(names::rollout(&tier.name_any())),
            namespace: Some(settings.namespace.clone()),
            labels: Some(labels),
            owner_references: tier.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        };
        observed.record.replaced_by(&plan.record, metadata)
    });
    let stable = plan.record.proven.as_ref().unwrap_or(&plan.record.target).id.clone();
    let is_going_back = plan.record.step.is_going_back();
    let state = RolloutState { desired: situation.desired, rolled_out: plan.rolled_out, status: plan.status };
    Some((stable, RolloutWrites { record, asks: plan.asks, is_going_back, state, next_look: plan.next_look }))
}

/// Plans which nodes leave that the desired placement excludes, and lets the others stay for now. Before a
/// configuration was proven, nodes leave at once. Returns a finding when more are to leave than can.
fn plan_departure(
    observed: &Observed,
    settings: &Settings,
    desired: &mut Desired,
    writes: &mut RolloutWrites,
) -> Option<Finding> {
    let name = names::node_cache(&observed.tier.name_any());
    let current = observed.owned.daemon_set(&settings.node_namespace, &name)?;
    let daemon_set = desired.objects.daemon_sets.iter_mut().find(|daemon_set| daemon_set.name_any() == name)?;
    let RolloutWrites { state, next_look, .. } = writes;
    if state.status.step == Step::First.name() {
        return None;
    }
    let is_at_rest = state.rolled_out.is_true() || state.rolled_out.is_stalled();
    let leaving = plan_leaving(observed, current, daemon_set, is_at_rest);
    desired::set_leaving(daemon_set, current, &leaving, &observed.nodes);
    match leaving {
        Leaving::Nobody => None,
        Leaving::Steps(plan) => {
            state.rolled_out = plan.rolled_out(state.rolled_out.clone(), observed.tier.spec.rollout.paused);
            if is_at_rest {
                state.status = plan.status(&state.status.target);
            }
            *next_look = next_look.iter().chain(&plan.next_look).min().copied();
            None
        }
        Leaving::TooMany(number) => {
            let sentence = format!(
                "The placement excludes {number} nodes, more than can leave in steps: none leaves. Exclude fewer at a \
                 time with spec.nodeCache.nodeSelector, affinity and tolerations."
            );
            if state.rolled_out.is_true() {
                state.rolled_out = RolledOut { reason: Reason::Wave, sentence: sentence.clone() };
            }
            Some(Finding::new(Reason::Wave, sentence))
        }
    }
}

/// Requeues a failed tier with backoff.
pub(crate) fn error_policy(tier: Arc<WatchedTier>, error: &Error, context: Arc<Context>) -> Action {
    let tier = tier.name_any();
    let kind = error.kind();
    context.metrics.record_failure(kind);
    let retry_after = context.backoff.record_failure(&tier, error.is_conflict());
    let requeue_after = context.schedule.fail(&tier, retry_after, Instant::now());
    if error.is_conflict() {
        tracing::info!(tier, %error, kind, ?requeue_after, "a reconciliation conflicted with another writer");
    } else {
        tracing::warn!(tier, %error, kind, ?requeue_after, "a reconciliation failed");
    }
    Action::requeue(requeue_after)
}
