//! Apply: writes the desired state to the cluster, and returns the outcome for the status and the requeue.

mod annotate;
mod drift;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use kube::{Client, ResourceExt};
use tokio::sync::Notify;

use crate::controller::apply::annotate::plan_annotations;
use crate::controller::apply::writer::{WriteCounts, Writer};
use crate::controller::desired::{Desired, active_revision};
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::owned::names;
use crate::controller::validate::tier::ValidatedTier;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Requeue of a tier whose desired state is in force.
const REQUEUE_STEADY: Duration = Duration::from_secs(30);
/// Requeue of a tier that is progressing, or that waits for a change without a watch event.
const REQUEUE_PROGRESSING: Duration = Duration::from_secs(5);
/// Requeue after new Services were applied: the API server allocates their ClusterIPs at once.
const REQUEUE_SOON: Duration = Duration::from_millis(200);

/// Result of the apply step.
pub(crate) struct ApplyResult {
    /// Outcome, for the status.
    pub(crate) outcome: ApplyOutcome,
    /// Delay before the next reconciliation, or the error that fails this one.
    pub(crate) requeue_after: Result<Duration, Error>,
}

/// Outcome of the apply step, from which the status is computed.
#[derive(Clone, Debug)]
pub(crate) enum ApplyOutcome {
    /// The spec is invalid: the objects stay as they are.
    Invalid {
        /// Findings that keep the spec from being applied; never empty.
        findings: Vec<Finding>,
        /// Revision that stays in force; `None` before the first.
        active_revision: Option<String>,
    },
    /// The spec is valid: its objects were written, up to the first failure.
    Valid {
        /// Problems of the spec that do not keep it from being applied.
        warnings: Vec<Finding>,
        /// Revision for every pod; `None` until the required ClusterIPs are allocated.
        revision: Option<String>,
        /// Number of objects and pods that were not up to date.
        writes: usize,
        /// First failure; `None` also for a conflict, which a retry resolves.
        failure: Option<Finding>,
    },
}

/// Writes the objects of tiers and the annotations of their pods.
pub(crate) struct Applier {
    /// Client of the API server.
    pub(crate) client: Client,
    /// Settings of the operator.
    pub(crate) settings: Arc<Settings>,
    /// Metrics of the writes.
    pub(crate) metrics: Arc<Metrics>,
    /// Triggers an early status poll.
    pub(crate) wake_poller: Arc<Notify>,
}

impl Applier {
    /// Leaves the objects of an invalid tier as they are, but annotates new pods with the revision in force.
    pub(crate) async fn on_invalid(&self, observed: &Observed, findings: Vec<Finding>) -> ApplyResult {
        let name = names::revisions(&observed.tier.name_any());
        let config_map = observed.owned.config_map(&self.settings.node_namespace, &name);
        let active_revision = config_map.and_then(active_revision);
        let annotations = plan_annotations(&observed.pods, &observed.nodes, active_revision.as_deref());
        let result = self.writer().annotate(annotations).await;
        if let Ok(pods) = result {
            self.wake_poller_after(pods);
        }
        ApplyResult {
            outcome: ApplyOutcome::Invalid { findings, active_revision },
            requeue_after: result.map(|_| REQUEUE_STEADY),
        }
    }

    /// Writes the desired state of a valid tier.
    pub(crate) async fn on_valid(&self, observed: &Observed, tier: &ValidatedTier, desired: &Desired) -> ApplyResult {
        let revision = desired.revision.as_ref().map(|revision| revision.id.clone());
        let annotations = match &revision {
            Some(revision) => plan_annotations(&observed.pods, &observed.nodes, Some(revision)),
            None => Vec::new(),
        };
        let result = self.writer().apply(desired, &observed.owned, annotations).await;
        let counts = result.as_ref().map_or_else(|_| WriteCounts::default(), Clone::clone);
        self.wake_poller_after(counts.pods);
        if counts.total() > 0 {
            let WriteCounts { objects, pods } = counts;
            tracing::info!(tier = tier.name, revision, objects, pods, "the desired state was applied");
        }
        ApplyResult {
            outcome: ApplyOutcome::Valid {
                warnings: tier.warnings.clone(),
                revision,
                writes: counts.total(),
                failure: result.as_ref().err().filter(|error| !error.is_conflict()).map(Finding::from),
            },
            requeue_after: result.map(|counts| requeue_after(tier, desired, counts)),
        }
    }

    fn writer(&self) -> Writer<'_> {
        Writer { client: &self.client, metrics: &self.metrics }
    }

    fn wake_poller_after(&self, annotated_pods: usize) {
        if annotated_pods > 0 {
            self.wake_poller.notify_one();
        }
    }
}

/// Returns the delay before the next reconciliation, which is due no later than the next zone is pruned.
fn requeue_after(tier: &ValidatedTier, desired: &Desired, counts: WriteCounts) -> Duration {
    let delay = match (&desired.revision, counts.total()) {
        (None, 1..) => REQUEUE_SOON,
        (None, 0) | (Some(_), 1..) => REQUEUE_PROGRESSING,
        (Some(_), 0) => REQUEUE_STEADY,
    };
    tier.next_prune.map_or(delay, |prune| delay.min(prune))
}
