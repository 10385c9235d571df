//! `observe → validate → build → apply → status`: only the first step and the last two see a client.

pub mod apply;
pub mod backoff;
pub mod desired;
pub mod finding;
#[cfg(test)]
mod fixtures;
pub mod observe;
pub mod owned;
pub mod status;
pub mod validate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dnstier_crds::DnsTier;
use dnstier_crds::v1alpha1::DnsTierStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::{Notify, watch};

use crate::controller::apply::Writer;
use crate::controller::apply::annotate::{self, Annotation};
use crate::controller::backoff::Backoff;
use crate::controller::desired::revision_in_force;
use crate::controller::finding::Finding;
use crate::controller::observe::poll::Reports;
use crate::controller::observe::{Observed, observe};
use crate::controller::owned::names;
use crate::controller::status::Outcome;
use crate::controller::status::events;
use crate::controller::validate::validate;
use crate::controller::validate::zones::NodeMeta;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Time after which a tier is looked at again although nothing was seen to change.
const AT_REST: Duration = Duration::from_secs(30);
/// The same while it is on its way to somewhere, or waits for something that nobody announces.
const ON_THE_WAY: Duration = Duration::from_secs(5);
/// The same when addresses were asked for that are given at once.
const AT_ONCE: Duration = Duration::from_millis(200);

/// A tier as the watch delivers it: one that cannot be read does not keep the others from being seen.
pub type WatchedTier = DeserializeGuard<DnsTier>;

/// What every pass has at hand.
pub struct Context {
    /// The client.
    pub client: Client,
    /// What the operator was started with.
    pub settings: Settings,
    /// All tiers.
    pub tiers: Store<WatchedTier>,
    /// All Nodes.
    pub nodes: Store<NodeMeta>,
    /// All pods of tiers, one store for each namespace.
    pub pods: Vec<Store<Pod>>,
    /// What the pods said last.
    pub reports: watch::Receiver<Arc<Reports>>,
    /// Wakes the poller.
    pub wake_poller: Arc<Notify>,
    /// Publishes events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// When failed tiers are tried again.
    pub backoff: Backoff,
}

impl Context {
    /// All tiers that can be read.
    fn tiers(&self) -> Vec<DnsTier> {
        self.tiers.state().iter().filter_map(|tier| tier.0.as_ref().ok().cloned()).collect()
    }

    fn writer(&self) -> Writer<'_> {
        Writer { client: &self.client, metrics: &self.metrics }
    }
}

/// One pass over one tier.
pub(crate) async fn reconcile(tier: Arc<WatchedTier>, context: Arc<Context>) -> Result<Action, Error> {
    if tier.meta().deletion_timestamp.is_some() {
        // Garbage collection follows the owner references; node pods put their nodes in order when they are stopped.
        return Ok(Action::await_change());
    }
    let tier = match &tier.0 {
        Ok(tier) => Arc::new(tier.clone()),
        Err(invalid) => {
            tracing::warn!(tier = invalid.metadata.name, error = invalid.error, "a DnsTier cannot be read");
            return Ok(Action::await_change());
        }
    };
    let started = Instant::now();
    let result = pass(tier.clone(), &context).await;
    context.metrics.reconciled(started.elapsed());
    if result.is_ok() {
        context.backoff.succeeded(&tier.name_any());
    }
    result
}

async fn pass(tier: Arc<DnsTier>, context: &Context) -> Result<Action, Error> {
    let observed = match observe(tier.clone(), context).await {
        Ok(observed) => observed,
        Err(error) => {
            // Only a refusal lasts until somebody changes something; anything else is tried again before it is told.
            if error.is_forbidden() {
                tell_status(&tier, &status::unreadable(&tier, &error.finding(), now()), context).await?;
            }
            return Err(error);
        }
    };
    let validated = validate(&observed, &context.settings);
    let (outcome, again, failure) = match &validated {
        Err(findings) => refused(&observed, findings.clone(), context).await,
        Ok(validated) => {
            let named: Vec<String> = observed.pods.iter().filter_map(|pod| pod.revision.clone()).collect();
            match desired::build(&validated.tier, &context.settings, &observed.children, &named) {
                Err(finding) => refused(&observed, vec![finding], context).await,
                Ok(desired) => {
                    let (outcome, again, failure) = applied(&observed, &validated.tier, desired, context).await;
                    (outcome, validated.next_prune.map_or(again, |prune| again.min(prune)), failure)
                }
            }
        }
    };
    let status = status::assess(&observed, &context.settings, &outcome);
    tell_status(&observed.tier, &status, context).await?;
    failure.map_or_else(|| Ok(Action::requeue(again)), Err)
}

async fn tell_status(tier: &DnsTier, status: &DnsTierStatus, context: &Context) -> Result<(), Error> {
    events::publish(&context.recorder, tier, status).await;
    status::write(&context.client, tier, status, &context.metrics).await
}

/// The time in whole seconds, as the API writes it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Nothing that stands is touched, but new pods still learn what holds.
async fn refused(observed: &Observed, findings: Vec<Finding>, context: &Context) -> (Outcome, Duration, Option<Error>) {
    let name = names::revisions(&observed.tier.name_any());
    let in_force = observed.children.config_map(&context.settings.node_namespace, &name).and_then(revision_in_force);
    let annotations = annotate::plan(&observed.pods, &observed.nodes, in_force.as_deref());
    let failure = tell(annotations, context).await.err();
    (Outcome::Refused { findings, in_force }, AT_REST, failure)
}

async fn tell(annotations: Vec<Annotation>, context: &Context) -> Result<usize, Error> {
    let told = context.writer().annotate(annotations).await?;
    if told > 0 {
        context.wake_poller.notify_one();
    }
    Ok(told)
}

async fn applied(
    observed: &Observed,
    tier: &validate::tier::ValidatedTier,
    desired: desired::Desired,
    context: &Context,
) -> (Outcome, Duration, Option<Error>) {
    let revision = desired.revision.as_ref().map(|revision| revision.revision.clone());
    let annotations = match &revision {
        Some(revision) => annotate::plan(&observed.pods, &observed.nodes, Some(revision)),
        None => Vec::new(),
    };
    let result = context.writer().apply(&desired, &observed.children, annotations).await;
    let (written, failure) = match result {
        Ok(written) => (written, None),
        Err(error) => (apply::Applied::default(), Some(error)),
    };
    if written.annotated > 0 {
        context.wake_poller.notify_one();
    }
    let again = match (&revision, written.objects + written.annotated) {
        (None, 1..) => AT_ONCE,
        (None, 0) | (Some(_), 1..) => ON_THE_WAY,
        (Some(_), 0) => AT_REST,
    };
    let outcome = Outcome::Built {
        tier: Box::new(tier.clone()),
        revision,
        written: written.objects + written.annotated,
        failure: failure.as_ref().filter(|error| !error.is_conflict()).map(Error::finding),
    };
    (outcome, again, failure)
}

pub(crate) fn error_policy(tier: Arc<WatchedTier>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed(error.kind());
    let again = context.backoff.failed(&tier.name_any());
    if error.is_conflict() {
        tracing::info!(tier = tier.name_any(), %error, "somebody else wrote in between");
    } else {
        tracing::warn!(tier = tier.name_any(), %error, again_in = ?again, "a pass failed");
    }
    Action::requeue(again)
}
