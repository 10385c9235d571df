//! Status poller: fetches `/status` of all pods, a bounded number at a time, and keeps the last report of each.

mod http;
mod traffic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use node_cache_config::status::{DetectionStatus, Instance, NodeStatus, ResolverStatus, ThrottleStatus};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};

pub(crate) use traffic::TrafficRates;

use crate::controller::observe::pods::{Component, TierPod};
use crate::metrics::Metrics;
use traffic::TrafficWindow;

/// Maximum number of pods that are polled at a time.
const MAX_CONCURRENT_POLLS: usize = 32;
/// Time to the next poll while a pod has not put its revision in force, and after an annotation.
const FAST_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Consecutive failures of a pod after which the poller returns to its normal interval.
const MAX_FAST_POLL_FAILURES: u32 = 3;
/// Consecutive failures of a pod up to which its last status counts as recent: half a minute of them.
const MAX_RECENT_FAILURES: u32 = 6;

/// Reports of all pods by UID.
pub(crate) type PodReports = HashMap<String, PodReport>;

/// Result of the status polls of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodReport {
    /// Status from the last successful poll. A failed poll does not clear it: the pod may be unchanged.
    pub(crate) last_status: Option<PodStatus>,
    /// Error of the last poll; `None` after a successful one.
    pub(crate) poll_error: Option<String>,
    /// Number of consecutive failed polls.
    pub(crate) failures: u32,
    /// Traffic of the last minute; `None` before the second successful poll.
    pub(crate) rates: Option<TrafficRates>,
    window: TrafficWindow,
}

/// Status that a pod reports of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodStatus {
    /// Status of a node's agent.
    Node(NodeStatus),
    /// Status of a zone resolver.
    Resolver(ResolverStatus),
}

/// Polls the status of all pods.
pub(crate) struct Poller {
    /// Pods of all tiers, one store for each namespace.
    pub(crate) pods: Vec<Store<Pod>>,
    /// Time between two polls.
    pub(crate) interval: Duration,
    /// Receives the reports of each poll.
    pub(crate) reports: watch::Sender<Arc<PodReports>>,
    /// Receives an item when more than counters has changed.
    pub(crate) changed: mpsc::Sender<()>,
    /// Triggers an early poll, because pods were annotated.
    pub(crate) wake: Arc<Notify>,
    /// Metrics of the polls.
    pub(crate) metrics: Arc<Metrics>,
}

impl Poller {
    /// Polls without end.
    pub(crate) async fn run(self) {
        loop {
            let previous = self.reports.borrow().clone();
            let pods: Vec<TierPod> =
                self.pods.iter().flat_map(Store::state).filter_map(|pod| TierPod::from_pod(&pod)).collect();
            let current: PodReports = stream::iter(pods.into_iter().filter(|pod| !pod.terminating))
                .map(|pod| self.poll_pod(pod, &previous))
                .buffer_unordered(MAX_CONCURRENT_POLLS)
                .filter_map(|report| async { report })
                .collect()
                .await;
            let changed = has_changed(&previous, &current);
            let fast = current.values().any(PodReport::needs_fast_poll);
            let interval = if fast { FAST_POLL_INTERVAL.min(self.interval) } else { self.interval };
            self.reports.send_replace(Arc::new(current));
            if changed {
                // A full channel holds a notification already.
                let _ = self.changed.try_send(());
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.wake.notified() => tokio::time::sleep(FAST_POLL_INTERVAL).await,
            }
        }
    }

    /// Polls one pod and returns its UID and its report; `None` for a pod without an address.
    async fn poll_pod(&self, pod: TierPod, previous: &PodReports) -> Option<(String, PodReport)> {
        let address = SocketAddr::new(pod.address?, pod.metrics_port);
        let result = match pod.component {
            Component::NodeCache => {
                fetch_status(address, &pod, |status: &NodeStatus| &status.pod_uid).await.map(PodStatus::Node)
            }
            Component::ZoneResolver => {
                fetch_status(address, &pod, |status: &ResolverStatus| &status.pod_uid).await.map(PodStatus::Resolver)
            }
        };
        self.metrics.record_poll(result.is_ok());
        let previous = previous.get(&pod.uid);
        let mut window = previous.map(|report| report.window.clone()).unwrap_or_default();
        let report = match result {
            Ok(status) => PodReport {
                rates: window.add(Instant::now(), traffic::sum_counters(status.instances())),
                last_status: Some(status.without_episodes()),
                poll_error: None,
                failures: 0,
                window,
            },
            Err(error) => PodReport {
                rates: None,
                last_status: previous.and_then(|report| report.last_status.clone()),
                poll_error: Some(error),
                failures: previous.map_or(0, |report| report.failures).saturating_add(1),
                window,
            },
        };
        Some((pod.uid, report))
    }
}

impl PodReport {
    /// Returns the status of the last poll; `None` when that poll failed.
    #[must_use]
    pub(crate) fn current_status(&self) -> Option<&PodStatus> {
        self.last_status.as_ref().filter(|_| self.poll_error.is_none())
    }

    /// Returns the status of the last successful poll, unless half a minute of polls has failed since. A resolver whose
    /// upstream drops packets may be too busy to answer one.
    #[must_use]
    pub(crate) fn recent_status(&self) -> Option<&PodStatus> {
        self.last_status.as_ref().filter(|_| self.failures <= MAX_RECENT_FAILURES)
    }

    /// Returns whether the pod has not put its revision in force, or has failed a few polls.
    fn needs_fast_poll(&self) -> bool {
        match self.current_status() {
            Some(status) => !status.has_converged(),
            None => self.failures < MAX_FAST_POLL_FAILURES,
        }
    }
}

#[cfg(test)]
impl PodReport {
    /// Builds the report after one successful poll.
    pub(crate) fn with_status(status: PodStatus) -> Self {
        Self { last_status: Some(status), poll_error: None, failures: 0, rates: None, window: TrafficWindow::default() }
    }
}

impl PodStatus {
    /// Returns the processes that answer queries.
    #[must_use]
    pub(crate) fn instances(&self) -> &[Instance] {
        match self {
            Self::Node(status) => &status.instances,
            Self::Resolver(status) => std::slice::from_ref(&status.instance),
        }
    }

    /// Returns whether every process has this revision in force.
    #[must_use]
    pub(crate) fn has_in_force(&self, revision: &str) -> bool {
        let is_active = |in_force: &Option<String>| in_force.as_deref() == Some(revision);
        let agent_is_active = match self {
            Self::Node(status) => is_active(&status.revision.in_force),
            Self::Resolver(_) => true,
        };
        let instances = self.instances();
        agent_is_active
            && !instances.is_empty()
            && instances.iter().all(|instance| is_active(&instance.revision.in_force))
    }

    /// Returns the revisions that processes of the pod have in force.
    pub(crate) fn revisions_in_force(&self) -> impl Iterator<Item = &str> {
        let agent = match self {
            Self::Node(status) => status.revision.in_force.as_deref(),
            Self::Resolver(_) => None,
        };
        self.instances().iter().filter_map(|instance| instance.revision.in_force.as_deref()).chain(agent)
    }

    /// Returns whether every process has the revision in force that its pod's annotation names.
    fn has_converged(&self) -> bool {
        let agent_has_converged = match self {
            Self::Node(status) => status.revision.asked == status.revision.in_force,
            Self::Resolver(_) => true,
        };
        agent_has_converged
            && self.instances().iter().all(|instance| instance.revision.asked == instance.revision.in_force)
    }

    fn instances_mut(&mut self) -> &mut [Instance] {
        match self {
            Self::Node(status) => &mut status.instances,
            Self::Resolver(status) => std::slice::from_mut(&mut status.instance),
        }
    }

    /// Returns the status without the episodes of upstreams: no condition has them, and with a day of them 5,000 nodes
    /// would take more memory than the operator may.
    fn without_episodes(mut self) -> Self {
        let upstreams = self.instances_mut().iter_mut().flat_map(|instance| &mut instance.upstreams);
        for detection in upstreams.filter_map(|upstream| upstream.detection.as_mut()) {
            detection.episodes = Vec::new();
        }
        self
    }

    /// Returns a copy with all counters set to zero, and without what detection reports of each second. The begin of a
    /// limit, which pods compute from two clocks, may differ by a second.
    fn without_counters(&self) -> Self {
        let mut status = self.clone();
        for instance in status.instances_mut() {
            instance.traffic = Default::default();
            for upstream in &mut instance.upstreams {
                upstream.sent = 0;
                upstream.timeouts = 0;
                upstream.near_misses = 0;
                upstream.in_flight = 0;
                if let Some(detection) = upstream.detection.take() {
                    let throttle = detection.throttle.map(|throttle| ThrottleStatus { since: 0, ..throttle });
                    let has_enough_traffic = detection.has_enough_traffic;
                    upstream.detection =
                        Some(DetectionStatus { has_enough_traffic, throttle, ..DetectionStatus::default() });
                }
            }
        }
        status
    }
}

/// Returns whether anything but counters differs. Failures count up to the second in sequence.
fn has_changed(previous: &PodReports, current: &PodReports) -> bool {
    let relevant =
        |report: &PodReport| (report.current_status().map(PodStatus::without_counters), report.failures.min(2));
    previous.len() != current.len()
        || current.iter().any(|(uid, report)| previous.get(uid).map(relevant) != Some(relevant(report)))
}

/// Fetches the status of one pod. A response with another pod's UID is an error: the address was reassigned.
async fn fetch_status<S: DeserializeOwned>(
    address: SocketAddr,
    pod: &TierPod,
    pod_uid: fn(&S) -> &String,
) -> Result<S, String> {
    let body = http::get(address, "/status").await.map_err(|error| error.to_string())?;
    let status: S = serde_json::from_slice(&body).map_err(|error| format!("it answers no status: {error}"))?;
    if *pod_uid(&status) != pod.uid {
        return Err("another pod answers at its address".to_owned());
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_cache_config::status::{EpisodeStatus, Revision, SecondStatus, Traffic, UpstreamState, UpstreamStatus};

    fn node_report(queries: u64, in_force: &str) -> PodReport {
        let revision = Revision { asked: Some("new".to_owned()), in_force: Some(in_force.to_owned()), refusal: None };
        let instance = Instance {
            name: "cache-0".to_owned(),
            alive: true,
            revision: revision.clone(),
            traffic: Traffic { queries, ..Traffic::default() },
            ..Instance::default()
        };
        let status = NodeStatus { revision, instances: vec![instance], ..NodeStatus::default() };
        PodReport::with_status(PodStatus::Node(status))
    }

    fn reports(report: PodReport) -> PodReports {
        HashMap::from([("uid".to_owned(), report)])
    }

    /// Returns the reports of a node whose cache detects this of an upstream.
    fn with_detection(detection: DetectionStatus) -> PodReports {
        let mut report = node_report(1, "new");
        if let Some(PodStatus::Node(status)) = &mut report.last_status {
            status.instances[0].upstreams = vec![UpstreamStatus {
                scope: "route/corp.example".to_owned(),
                address: "192.0.2.53:53".parse().unwrap(),
                healthy: true,
                state: UpstreamState::default(),
                responded: true,
                sent: 1 + detection.refused,
                timeouts: 0,
                in_flight: detection.refused as u32,
                near_misses: 0,
                detection: Some(detection),
            }];
        }
        reports(report)
    }

    #[test]
    fn counters_alone_trigger_no_reconciliation() {
        assert!(!has_changed(&reports(node_report(1, "old")), &reports(node_report(1_000, "old"))));
        assert!(has_changed(&reports(node_report(1, "old")), &reports(node_report(1, "new"))));
        assert!(has_changed(&reports(node_report(1, "old")), &PodReports::new()));
    }

    #[test]
    fn the_seconds_of_an_episode_trigger_no_reconciliation_and_a_limit_does() {
        let throttle = ThrottleStatus { state: "limited".to_owned(), since: 100, offered: 100, answered: 40 };
        let before = DetectionStatus { throttle: Some(throttle.clone()), ..DetectionStatus::default() };
        let later = DetectionStatus {
            state: "limited".to_owned(),
            ceiling: Some(36),
            refused: 7,
            throttle: Some(ThrottleStatus { since: 101, ..throttle.clone() }),
            episodes: vec![EpisodeStatus {
                started: 100,
                seconds: vec![SecondStatus::default()],
                ..EpisodeStatus::default()
            }],
            ..DetectionStatus::default()
        };
        let other = DetectionStatus {
            throttle: Some(ThrottleStatus { answered: 41, ..throttle }),
            ..DetectionStatus::default()
        };
        let before = with_detection(before);
        assert!(!has_changed(&before, &with_detection(later)));
        assert!(has_changed(&before, &with_detection(other)));
        assert!(has_changed(&before, &with_detection(DetectionStatus::default())));
    }

    #[test]
    fn no_episode_is_kept() {
        let detection = DetectionStatus {
            has_enough_traffic: true,
            episodes: vec![EpisodeStatus { seconds: vec![SecondStatus::default(); 60], ..EpisodeStatus::default() }; 8],
            ..DetectionStatus::default()
        };
        let report = with_detection(detection).remove("uid").unwrap();
        let kept = report.last_status.unwrap().without_episodes();
        let kept = kept.instances()[0].upstreams[0].detection.clone().unwrap();
        assert!(kept.episodes.is_empty() && kept.has_enough_traffic);
    }

    #[test]
    fn the_last_status_of_a_pod_is_recent_for_six_failed_polls() {
        let failed = |failures| PodReport { failures, poll_error: Some("refused".to_owned()), ..node_report(0, "new") };
        assert!(failed(6).current_status().is_none() && failed(6).recent_status().is_some());
        assert!(failed(7).recent_status().is_none());
    }

    #[test]
    fn an_unreachable_pod_triggers_two_reconciliations_and_then_no_more() {
        let failed = |failures| PodReport { failures, poll_error: Some("refused".to_owned()), ..node_report(0, "new") };
        assert!(has_changed(&reports(failed(1)), &reports(failed(2))));
        assert!(!has_changed(&reports(failed(2)), &reports(failed(3))));
    }

    #[test]
    fn a_node_is_on_a_revision_only_with_all_of_its_processes() {
        let Some(status) = node_report(0, "new").last_status else { panic!("a status") };
        assert!(status.has_in_force("new") && status.has_converged());
        let Some(mut status) = node_report(0, "new").last_status else { panic!("a status") };
        if let PodStatus::Node(status) = &mut status {
            status.instances[0].revision.in_force = None;
        }
        assert!(!status.has_in_force("new") && !status.has_converged());
    }
}
