//! Annotator: annotates pods at a pace that all tiers share. A pod that cannot be annotated holds up nothing else.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;

use crate::controller::apply::annotate::{PodAnnotations, annotate_pod};
use crate::controller::apply::pod_failures::PodFailures;
use crate::controller::apply::set_backs::SetBacks;
use crate::controller::finding::{Finding, is_missing_grant};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::write_pace::WRITE_INTERVAL;

/// How long one reconciliation annotates pods. What is left is for the next.
const MAX_ANNOTATE_DURATION: Duration = Duration::from_secs(4);
/// Maximum number of pods that are annotated at a time.
const MAX_CONCURRENT_ANNOTATIONS: usize = 16;
/// Number of failures after which one reconciliation leaves the other pods to the next.
const MAX_FAILURES: usize = 3;

/// Annotates pods, and knows those that could not be annotated.
#[derive(Debug)]
pub(super) struct Annotator {
    pace: Pace,
    failures: PodFailures,
    set_backs: SetBacks,
}

impl Default for Annotator {
    fn default() -> Self {
        Self { pace: Pace::new(WRITE_INTERVAL), failures: PodFailures::default(), set_backs: SetBacks::default() }
    }
}

/// Result of the annotations of one reconciliation.
#[derive(Debug, Default)]
pub(super) struct AnnotateResult {
    /// Number of pods that were annotated.
    pub(super) annotated: usize,
    /// Number of pods that are left for the next reconciliation.
    pub(super) left: usize,
    /// Denied permission, which concerns every pod.
    pub(super) denied: Option<Error>,
}

/// Outcome of one annotation.
enum Outcome {
    /// Annotation of a pod that has this version then, if it still exists.
    Annotated(Option<String>),
    Left,
    Failed(Error),
}

impl Annotator {
    /// Annotates the pods of a tier. The failure of a pod is kept for [`Self::finding`]. `now` is the time of the pass.
    pub(super) async fn annotate(
        &self,
        client: &Client,
        metrics: &Metrics,
        tier: &str,
        plan: Vec<PodAnnotations>,
        now: Timestamp,
    ) -> AnnotateResult {
        let until = Instant::now() + MAX_ANNOTATE_DURATION;
        self.failures.keep(tier, &plan, now);
        let failures = AtomicUsize::new(0);
        let may_go_on = || failures.load(Ordering::Relaxed) < MAX_FAILURES;
        let annotate = async |annotations: &PodAnnotations| {
            let slot = if may_go_on() { self.pace.reserve(Instant::now(), until) } else { None };
            let Some(slot) = slot else { return Outcome::Left };
            tokio::time::sleep_until(slot).await;
            if !may_go_on() {
                return Outcome::Left;
            }
            metrics.record_write("Pod", "annotate");
            match annotate_pod(client, annotations).await {
                Ok(version) => Outcome::Annotated(version),
                Err(error) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    Outcome::Failed(error)
                }
            }
        };
        let due = self.failures.due(tier, self.set_backs.select(tier, plan, Instant::now()), now);
        let mut outcomes = stream::iter(due)
            .map(async |annotations| {
                let outcome = annotate(&annotations).await;
                (annotations, outcome)
            })
            .buffer_unordered(MAX_CONCURRENT_ANNOTATIONS);
        let mut result = AnnotateResult::default();
        while let Some((annotations, outcome)) = outcomes.next().await {
            match outcome {
                Outcome::Annotated(version) => {
                    self.failures.record_success(tier, &annotations);
                    if let Some(version) = version {
                        self.set_backs.record(tier, &annotations, version, Instant::now());
                    }
                    result.annotated += 1;
                }
                Outcome::Left => result.left += 1,
                Outcome::Failed(error) if is_missing_grant(&error) => result.denied = Some(error),
                Outcome::Failed(error) => {
                    let PodAnnotations { namespace, pod, .. } = &annotations;
                    tracing::warn!(tier, namespace, pod, %error, "a pod cannot be annotated");
                    self.failures.record_failure(tier, &annotations, &error, now);
                }
            }
        }
        result
    }

    /// Returns the findings that name the pods that could not be annotated, and those whose annotations another writer
    /// takes away.
    pub(super) fn findings(&self, tier: &str) -> impl Iterator<Item = Finding> {
        self.failures.finding(tier).into_iter().chain(self.set_backs.finding(tier, Instant::now()))
    }

    /// Returns the time until the next attempt for a pod that could not be annotated.
    #[must_use]
    pub(super) fn next_retry(&self, tier: &str, now: Timestamp) -> Option<Duration> {
        self.failures.next_retry(tier, now)
    }

    /// Returns the UIDs of the pods that could not be told a revision for half a minute.
    #[must_use]
    pub(super) fn out_of_reach(&self, tier: &str) -> HashSet<String> {
        self.failures.out_of_reach(tier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Limits;
    use crate::fake_api::{FakeApi, Reply};

    fn plan(pods: usize) -> Vec<PodAnnotations> {
        let annotations = |index: usize| PodAnnotations {
            namespace: "dnstier-node".to_owned(),
            pod: format!("pod-{index}"),
            uid: format!("uid-{index}"),
            version: None,
            revision: Some("1a2b".to_owned()),
            zone: None,
            resolvers_on_node: None,
            told: None,
        };
        (0..pods).map(annotations).collect()
    }

    #[tokio::test]
    async fn pods_without_a_slot_are_left_for_the_next_pass_because_all_tiers_share_the_pace() {
        let server = FakeApi::start(|request| Reply::Json(200, request.body.clone())).await;
        let client = server.client(Limits::OPERATOR);
        let (annotator, metrics) = (Annotator::default(), Metrics::default());
        let mut result = annotator.annotate(&client, &metrics, "one", plan(3), Timestamp::UNIX_EPOCH).await;
        assert_eq!((result.annotated, result.left), (3, 0));
        let until = Instant::now() + MAX_ANNOTATE_DURATION * 2;
        while annotator.pace.reserve(Instant::now(), until).is_some() {}
        result = annotator.annotate(&client, &metrics, "other", plan(500), Timestamp::UNIX_EPOCH).await;
        assert_eq!((result.annotated, result.left), (0, 500));
        assert_eq!(server.requests().len(), 3);
    }
}
