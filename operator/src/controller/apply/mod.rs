//! Apply: writes the desired state to the cluster, and returns the outcome for the status and the requeue.

mod annotate;
mod annotator;
mod contest;
mod drift;
mod field_managers;
pub(crate) mod plan;
mod pod_failures;
mod set_backs;
mod writer;
mod young_lists;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::v1alpha1::RolloutStatus;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::controller::apply::annotate::plan_annotations;
use crate::controller::apply::annotator::Annotator;
use crate::controller::apply::contest::Contests;
use crate::controller::apply::writer::{Writer, Writes};
use crate::controller::apply::young_lists::Wait;
use crate::controller::desired::Desired;
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::rollout::asks::Ask;
use crate::controller::rollout::plan::RolledOut;
use crate::controller::rollout::revision::TierRevision;
use crate::controller::validate::tier::ValidatedTier;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pace::Pace;

/// Requeue of a tier whose desired state is in force.
const REQUEUE_STEADY: Duration = Duration::from_secs(30);
/// Requeue of a tier that is progressing, or that waits for a change without a watch event.
const REQUEUE_PROGRESSING: Duration = Duration::from_secs(5);
/// Requeue while pods are left to annotate, and after new Services were applied: the API server allocates their
/// ClusterIPs at once.
const REQUEUE_SOON: Duration = Duration::from_secs(1);
/// Time between two writes of objects of a tier that failed before: with its status, at most five each second.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Result of the apply step.
pub(crate) struct ApplyResult {
    /// Outcome, for the status.
    pub(crate) outcome: ApplyOutcome,
    /// Whether pods are left to annotate.
    pub(crate) leaves_pods: bool,
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
        /// Roll-out of what was valid before; `None` before the first revision.
        rollout: Option<RolloutState>,
    },
    /// The spec is valid: its objects were written, up to the first failure.
    Valid {
        /// Problems that do not keep the spec from being applied: those of the spec, and pods without annotations.
        warnings: Vec<Finding>,
        /// Roll-out of the revision of the spec; `None` until the required ClusterIPs are allocated.
        rollout: Option<RolloutState>,
        /// Number of objects and pods that were not up to date.
        writes: usize,
        /// First failure; `None` also for a conflict, which a retry resolves.
        failure: Option<Finding>,
    },
}

impl ApplyOutcome {
    /// Returns the state of the roll-out.
    #[must_use]
    pub(crate) const fn rollout(&self) -> Option<&RolloutState> {
        match self {
            Self::Invalid { rollout, .. } | Self::Valid { rollout, .. } => rollout.as_ref(),
        }
    }

    /// Returns the outcome with a further problem that does not keep a valid spec from being applied.
    #[must_use]
    pub(crate) fn with_warning(mut self, finding: Option<Finding>) -> Self {
        if let Self::Valid { warnings, .. } = &mut self {
            warnings.extend(finding);
        }
        self
    }
}

/// State of a roll-out, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolloutState {
    /// Revision that the spec results in; of an invalid spec that of the last valid one.
    pub(crate) desired: TierRevision,
    /// State of the condition `RolledOut`.
    pub(crate) rolled_out: RolledOut,
    /// The roll-out as the status shows it.
    pub(crate) status: RolloutStatus,
}

/// Writes of a roll-out in one reconciliation.
#[derive(Clone, Debug)]
pub(crate) struct RolloutWrites {
    /// ConfigMap of the record, when it differs from the one that was read.
    pub(crate) record: Option<ConfigMap>,
    /// Pods to tell, in this order, once the record is written.
    pub(crate) asks: Vec<Ask>,
    /// Whether pods go back, to a revision that was proven before.
    pub(crate) is_going_back: bool,
    /// State, for the status.
    pub(crate) state: RolloutState,
    /// Time until the next look at the roll-out; `None` while only an event changes anything.
    pub(crate) next_look: Option<Duration>,
}

/// Writes the objects of tiers and the annotations of their pods.
pub(crate) struct Applier {
    client: Client,
    metrics: Arc<Metrics>,
    /// Triggers an early status poll.
    wake_poller: Arc<Notify>,
    /// Receives the writes, which the watches deliver later.
    own_writes: Arc<OwnWrites>,
    annotator: Annotator,
    contests: Contests,
}

impl Applier {
    /// Builds an applier.
    pub(crate) fn new(
        client: Client,
        metrics: Arc<Metrics>,
        wake_poller: Arc<Notify>,
        own_writes: Arc<OwnWrites>,
    ) -> Self {
        Self {
            client,
            metrics,
            wake_poller,
            own_writes,
            annotator: Annotator::default(),
            contests: Contests::default(),
        }
    }

    /// Leaves the objects of an invalid tier as they are. What was rolled out before goes on: `stable` are the patches
    /// of ConfigMaps with which pods start that are not told any revision.
    pub(crate) async fn on_invalid(
        &self,
        observed: &Observed,
        rollout: Option<RolloutWrites>,
        stable: &[ConfigMap],
        mut findings: Vec<Finding>,
    ) -> ApplyResult {
        let tier = observed.tier.name_any();
        let (record, asks, state, next_look) = parts(rollout);
        let annotations = plan_annotations(&observed.pods, &observed.nodes, &asks, observed.now);
        let Writes { pods, failure, .. } =
            self.writer(observed.now).apply_rollout(&tier, record.as_ref(), stable, annotations).await;
        self.wake_poller_after(pods.annotated);
        findings.extend(self.annotator.findings(&tier));
        // Conflicts end by themselves.
        findings.extend(failure.iter().filter(|error| !error.is_conflict()).map(Finding::from));
        let leaves_pods = pods.left > 0 && pods.denied.is_none();
        let requeue_after = match failure.or(pods.denied) {
            Some(error) => Err(error),
            None if pods.left > 0 => Ok(REQUEUE_SOON),
            None => Ok(self.no_later_than_retries(&tier, observed.now, soonest(REQUEUE_STEADY, next_look))),
        };
        ApplyResult { outcome: ApplyOutcome::Invalid { findings, rollout: state }, leaves_pods, requeue_after }
    }

    /// Writes the desired state of a valid tier; slowly in the retry of one that failed. Pods are told what `rollout`
    /// says; nobody is told before the first configuration.
    pub(crate) async fn on_valid(
        &self,
        observed: &Observed,
        tier: &ValidatedTier,
        desired: &Desired,
        rollout: Option<RolloutWrites>,
        is_retry: bool,
    ) -> ApplyResult {
        let is_going_back = rollout.as_ref().is_some_and(|writes| writes.is_going_back);
        let (record, asks, state, next_look) = parts(rollout);
        let warnings = || tier.warnings.iter().cloned().chain(self.findings(&tier.name)).collect();
        let tier_age = observed.tier.creation_timestamp().map(|Time(created)| observed.now.duration_since(created));
        let tier_age = tier_age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
        if let Some(Wait { objects, remaining }) =
            young_lists::wait(desired, &observed.owned, observed.lists_age, tier_age)
        {
            tracing::info!(tier = tier.name, objects, ?remaining, "objects wait for lists that were read just now");
            return ApplyResult {
                outcome: ApplyOutcome::Valid { warnings: warnings(), rollout: state, writes: objects, failure: None },
                leaves_pods: false,
                requeue_after: Ok(remaining),
            };
        }
        let annotations = match &desired.revision {
            Some(_) => plan_annotations(&observed.pods, &observed.nodes, &asks, observed.now),
            None => Vec::new(),
        };
        let pace = is_retry.then(|| Pace::new(RETRY_INTERVAL));
        let writer = Writer { pace: pace.as_ref(), is_going_back, ..self.writer(observed.now) };
        let mut writes = writer.apply(&tier.name, desired, &observed.owned, record.as_ref(), annotations).await;
        self.wake_poller_after(writes.pods.annotated);
        if writes.total() > 0 {
            let Writes { objects, pods, .. } = &writes;
            let (pods, left) = (pods.annotated, pods.left);
            let step = state.as_ref().map(|state| state.status.step.as_str());
            tracing::info!(tier = tier.name, step, objects, pods, left, "the desired state was applied");
        }
        let leaves_pods = writes.pods.left > 0 && writes.pods.denied.is_none();
        let failure = writes.failure.take().or_else(|| writes.pods.denied.take());
        let requeue_after = match &failure {
            Some(_) => None,
            None => Some(soonest(requeue_after(tier, desired, &writes), next_look)),
        };
        ApplyResult {
            outcome: ApplyOutcome::Valid {
                warnings: warnings(),
                rollout: state,
                writes: writes.total(),
                failure: failure.as_ref().filter(|error| !error.is_conflict()).map(Finding::from),
            },
            leaves_pods,
            requeue_after: match (failure, requeue_after) {
                (Some(error), _) => Err(error),
                (None, delay) => {
                    Ok(self.no_later_than_retries(&tier.name, observed.now, delay.unwrap_or(REQUEUE_STEADY)))
                }
            },
        }
    }

    /// Returns the UIDs of the pods of a tier that could not be told a revision for half a minute.
    #[must_use]
    pub(crate) fn out_of_reach(&self, tier: &str) -> HashSet<String> {
        self.annotator.out_of_reach(tier)
    }

    fn writer(&self, now: Timestamp) -> Writer<'_> {
        let Self { client, metrics, own_writes, annotator, contests, .. } = self;
        Writer { client, metrics, annotator, own_writes, contests, pace: None, is_going_back: false, now }
    }

    /// Returns the findings about pods and objects of a tier that do not become what they should be.
    fn findings(&self, tier: &str) -> impl Iterator<Item = Finding> {
        self.annotator.findings(tier).chain(self.contests.finding(tier, Instant::now()))
    }

    /// Returns the delay, or the time until a pod that could not be annotated is tried again, if that is sooner.
    fn no_later_than_retries(&self, tier: &str, now: Timestamp, delay: Duration) -> Duration {
        self.annotator.next_retry(tier, now).map_or(delay, |retry| retry.min(delay))
    }

    fn wake_poller_after(&self, annotated_pods: usize) {
        if annotated_pods > 0 {
            self.wake_poller.notify_one();
        }
    }
}

fn parts(rollout: Option<RolloutWrites>) -> (Option<ConfigMap>, Vec<Ask>, Option<RolloutState>, Option<Duration>) {
    match rollout {
        Some(RolloutWrites { record, asks, state, next_look, .. }) => (record, asks, Some(state), next_look),
        None => (None, Vec::new(), None, None),
    }
}

fn soonest(delay: Duration, next_look: Option<Duration>) -> Duration {
    next_look.map_or(delay, |next_look| delay.min(next_look))
}

/// Returns the delay before the next reconciliation, which is due no later than the next zone is pruned.
fn requeue_after(tier: &ValidatedTier, desired: &Desired, writes: &Writes) -> Duration {
    let delay = match (&desired.revision, writes.total()) {
        _ if writes.pods.left > 0 => REQUEUE_SOON,
        (None, 1..) => REQUEUE_SOON,
        (None, 0) | (Some(_), 1..) => REQUEUE_PROGRESSING,
        (Some(_), 0) => REQUEUE_STEADY,
    };
    tier.next_prune.map_or(delay, |prune| delay.min(prune))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Limits;
    use crate::controller::desired;
    use crate::controller::fixtures::{build_desired, serving, settings};
    use crate::controller::observe::poll::AddressUses;
    use crate::controller::rollout::situation::Situation;
    use crate::controller::validate::validate;
    use crate::fake_api::{FakeApi, FakeRequest, Reply};
    use dnstier_crds::conditions::Reason;
    use serde_json::json;

    /// Applies the desired state of a tier all of whose pods are behind, to this server.
    async fn apply_where_pods_are_behind(server: &FakeApi, is_retry: bool) -> ApplyResult {
        apply_and_measure(server, is_retry, Arc::default()).await
    }

    async fn apply_and_measure(server: &FakeApi, is_retry: bool, metrics: Arc<Metrics>) -> ApplyResult {
        let mut observed = serving("{}");
        for pod in &mut observed.pods {
            pod.annotated_revision = Some("old".to_owned());
        }
        let mut orphan = observed.owned.deployments[0].clone();
        orphan.metadata.name = Some("dnstier-default-orphan".to_owned());
        observed.owned.deployments = vec![orphan];
        observed.owned.network_policies.clear();
        let settings = settings();
        let tier = validate(&observed, &settings).unwrap();
        let desired = desired::build(&tier, &settings, &observed.owned, &observed.revisions_in_use()).unwrap();
        let (uses, out_of_reach) = (AddressUses::default(), HashSet::new());
        let situation = Situation::collect(&observed, &settings, desired.revision.as_ref(), &uses, &out_of_reach);
        let situation = situation.unwrap();
        // All pods are told of the first revision, and of the one before while another one is on its way.
        let plan = situation.plan(None, false, "test");
        let state = RolloutState {
            desired: situation.desired.clone(),
            rolled_out: plan.rolled_out.clone(),
            status: plan.status.clone(),
        };
        let is_going_back = plan.record.step.is_going_back();
        let rollout = RolloutWrites { record: None, asks: plan.asks, is_going_back, state, next_look: None };
        assert_eq!(desired.objects.deployments.len(), build_desired(&serving("{}")).objects.deployments.len());
        let client = server.client(Limits::OPERATOR);
        let applier = Applier::new(client, metrics, Arc::default(), Arc::default());
        applier.on_valid(&observed, &tier, &desired, Some(rollout), is_retry).await
    }

    fn count(requests: &[FakeRequest], method: &str, part: &str) -> usize {
        requests.iter().filter(|request| request.method == method && request.uri.contains(part)).count()
    }

    /// Returns what the API server answers to a write that it admits.
    fn admit(request: &FakeRequest) -> Reply {
        let name = request.path().trim_end_matches("/status").rsplit('/').next().unwrap_or_default();
        let mut object = if request.body.is_object() { request.body.clone() } else { json!({}) };
        object["metadata"]["name"] = json!(name);
        Reply::Json(200, object)
    }

    #[tokio::test]
    async fn a_pod_that_cannot_be_annotated_is_named_and_holds_up_nothing_else() {
        let server = FakeApi::start(|request| {
            if request.path().ends_with("/pods/node-pod-a/status") {
                return Reply::refusal(500, "failed calling webhook \"pods.example\"");
            }
            admit(request)
        })
        .await;
        let metrics = Arc::new(Metrics::default());
        let result = apply_and_measure(&server, false, metrics.clone()).await;
        assert_eq!(metrics.queue().annotations("default"), Some(1));
        let requests = server.requests();
        assert_eq!(count(&requests, "PATCH", "/status"), 9, "every pod is tried");
        assert_eq!(count(&requests, "PATCH", "/daemonsets/"), 1);
        assert_eq!(count(&requests, "PATCH", "/deployments/"), 3);
        assert_eq!(count(&requests, "DELETE", "/deployments/dnstier-default-orphan"), 1);
        let ApplyOutcome::Valid { warnings, failure, .. } = result.outcome else { panic!("the tier is valid") };
        assert_eq!(failure, None);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].reason, Reason::ApplyFailed);
        let message = &warnings[0].message;
        assert!(message.starts_with("Pod dnstier-node/node-pod-a does not get its annotations: "), "{message}");
        assert!(message.contains("failed calling webhook"), "{message}");
        assert!(result.requeue_after.unwrap() <= Duration::from_secs(2), "the pod is tried again");
    }

    /// Asserts that every pod is told its revision, and the failure, although the API server refuses objects of a
    /// collection.
    async fn assert_pods_are_told_without(collection: &'static str) {
        let server = FakeApi::start(move |request| {
            if request.path().contains(collection) {
                return Reply::refusal(422, "denied by policy.example");
            }
            admit(request)
        })
        .await;
        let result = apply_where_pods_are_behind(&server, false).await;
        let requests = server.requests();
        assert_eq!(count(&requests, "PATCH", "/status"), 9, "every pod is told");
        assert_eq!(count(&requests, "PATCH", "/daemonsets/") + count(&requests, "DELETE", ""), 0);
        let ApplyOutcome::Valid { failure, .. } = result.outcome else { panic!("the tier is valid") };
        assert!(failure.unwrap().message.contains("denied by policy.example"));
        assert!(result.requeue_after.is_err());
    }

    #[tokio::test]
    async fn an_object_that_is_refused_keeps_no_pod_from_its_revision() {
        assert_pods_are_told_without("/networkpolicies/").await;
    }

    #[tokio::test]
    async fn revisions_that_are_refused_keep_no_pod_from_going_back_to_one_that_is_there() {
        assert_pods_are_told_without("/configmaps/").await;
    }

    #[tokio::test]
    async fn a_permission_that_every_pod_needs_stalls_the_tier_but_workloads_are_applied() {
        let server = FakeApi::start(|request| {
            if request.path().contains("/pods/") {
                return Reply::refusal(
                    403,
                    "pods \"x\" is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"pods/status\" \
                     in API group \"\" in the namespace \"dnstier-node\"",
                );
            }
            admit(request)
        })
        .await;
        let result = apply_where_pods_are_behind(&server, false).await;
        let requests = server.requests();
        assert!(count(&requests, "PATCH", "/status") < 9, "the others are left alone after a few refusals");
        assert_eq!(count(&requests, "PATCH", "/daemonsets/"), 1);
        let ApplyOutcome::Valid { failure, .. } = result.outcome else { panic!("the tier is valid") };
        let failure = failure.unwrap();
        assert_eq!(failure.reason, Reason::Forbidden);
        assert!(failure.message.contains("--resource=pods/status"), "{}", failure.message);
        assert!(result.requeue_after.unwrap_err().is_forbidden());
    }

    #[tokio::test]
    async fn the_retry_of_a_failed_tier_stops_at_the_first_refusal() {
        let server = FakeApi::start(|request| {
            if request.path().contains("/deployments/") {
                return Reply::refusal(422, "no");
            }
            admit(request)
        })
        .await;
        let result = apply_where_pods_are_behind(&server, true).await;
        assert_eq!(result.requeue_after.unwrap_err().kind(), "invalid");
        let requests = server.requests();
        assert_eq!(count(&requests, "PATCH", "/deployments/"), 1, "the other two are not tried");
        assert_eq!(count(&requests, "DELETE", ""), 0);
    }
}
