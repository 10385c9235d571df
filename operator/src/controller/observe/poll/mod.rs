//! Asks all pods how they are, a few at a time, and keeps the last answer of each.

mod http;
mod traffic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use node_cache_config::status::{Instance, NodeStatus, ResolverStatus};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};

pub use traffic::Flow;

use crate::controller::observe::pods::{Component, TierPod};
use crate::metrics::Metrics;
use traffic::Window;

/// How many pods are asked at a time.
const AT_ONCE: usize = 32;
/// How soon pods are asked again while one of them has not put in force what it was asked to, or was just told.
const SOON: Duration = Duration::from_secs(1);

/// What the pods said last, by their UIDs.
pub type Reports = HashMap<String, Report>;

/// What one pod said last.
#[derive(Clone, Debug)]
pub struct Report {
    /// The last answer that there was. A pod that falls silent has not changed by that.
    pub known: Option<Answer>,
    /// In words why there was no answer the last time; none when there was one.
    pub silence: Option<String>,
    /// How many times in sequence there was no answer.
    pub failures: u32,
    /// Its traffic of the last minute; none until it answered twice.
    pub flow: Option<Flow>,
    window: Window,
}

/// What a pod says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The agent of a node.
    Node(NodeStatus),
    /// A zone resolver.
    Resolver(ResolverStatus),
}

/// Asks all pods how they are.
pub struct Poller {
    /// The pods of all tiers, one store for each namespace.
    pub pods: Vec<Store<Pod>>,
    /// Time between two rounds.
    pub interval: Duration,
    /// Where the answers go.
    pub reports: watch::Sender<Arc<Reports>>,
    /// Told when something else than a counter has changed.
    pub changed: mpsc::Sender<()>,
    /// Wakes the poller before its time, because pods were told something.
    pub wake: Arc<Notify>,
    /// Counts what is asked.
    pub metrics: Arc<Metrics>,
}

impl Poller {
    /// Asks for ever.
    pub async fn run(self) {
        loop {
            let before = self.reports.borrow().clone();
            let pods: Vec<TierPod> =
                self.pods.iter().flat_map(Store::state).filter_map(|pod| TierPod::read(&pod)).collect();
            let after: Reports = stream::iter(pods.into_iter().filter(|pod| !pod.leaving))
                .map(|pod| self.ask(pod, &before))
                .buffer_unordered(AT_ONCE)
                .filter_map(|report| async { report })
                .collect()
                .await;
            let changed = differ(&before, &after);
            let pause = if after.values().any(Report::is_behind) { SOON.min(self.interval) } else { self.interval };
            self.reports.send_replace(Arc::new(after));
            if changed {
                // A full channel holds a wake-up already.
                let _ = self.changed.try_send(());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => tokio::time::sleep(SOON).await,
            }
        }
    }

    async fn ask(&self, pod: TierPod, before: &Reports) -> Option<(String, Report)> {
        let address = SocketAddr::new(pod.address?, pod.metrics_port);
        let answer = match pod.component {
            Component::NodeCache => fetch(address, &pod, |status: &NodeStatus| &status.pod_uid).await.map(Answer::Node),
            Component::ZoneResolver => {
                fetch(address, &pod, |status: &ResolverStatus| &status.pod_uid).await.map(Answer::Resolver)
            }
        };
        self.metrics.polled(answer.is_ok());
        let last = before.get(&pod.uid);
        let mut window = last.map(|report| report.window.clone()).unwrap_or_default();
        let flow =
            answer.as_ref().ok().and_then(|answer| window.add(Instant::now(), traffic::total(answer.instances())));
        let failures = if answer.is_ok() { 0 } else { last.map_or(0, |report| report.failures).saturating_add(1) };
        let (known, silence) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(silence) => (last.and_then(|report| report.known.clone()), Some(silence)),
        };
        Some((pod.uid, Report { known, silence, failures, flow, window }))
    }
}

impl Report {
    /// A report as it is after one answer.
    #[must_use]
    pub fn first(answer: Answer) -> Self {
        Self { known: Some(answer), silence: None, failures: 0, flow: None, window: Window::default() }
    }

    /// What the pod says now; none while it is silent.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        self.known.as_ref().filter(|_| self.silence.is_none())
    }

    /// Whether the pod does not answer or has not put in force what it was asked to.
    fn is_behind(&self) -> bool {
        self.answer().map_or(self.failures < 3, |answer| !answer.follows())
    }
}

impl Answer {
    /// The processes that answer questions.
    #[must_use]
    pub fn instances(&self) -> &[Instance] {
        match self {
            Self::Node(status) => &status.instances,
            Self::Resolver(status) => std::slice::from_ref(&status.instance),
        }
    }

    /// Whether every process has this revision in force.
    #[must_use]
    pub fn is_on(&self, revision: &str) -> bool {
        let on = |in_force: &Option<String>| in_force.as_deref() == Some(revision);
        let agent = match self {
            Self::Node(status) => on(&status.revision.in_force),
            Self::Resolver(_) => true,
        };
        let instances = self.instances();
        agent && !instances.is_empty() && instances.iter().all(|instance| on(&instance.revision.in_force))
    }

    fn follows(&self) -> bool {
        let agent = match self {
            Self::Node(status) => status.revision.asked == status.revision.in_force,
            Self::Resolver(_) => true,
        };
        agent && self.instances().iter().all(|instance| instance.revision.asked == instance.revision.in_force)
    }

    /// The same without everything that counts.
    fn outline(&self) -> Self {
        let mut outline = self.clone();
        let instances = match &mut outline {
            Self::Node(status) => &mut status.instances[..],
            Self::Resolver(status) => std::slice::from_mut(&mut status.instance),
        };
        for instance in instances {
            instance.traffic = Default::default();
            for upstream in &mut instance.upstreams {
                (upstream.sent, upstream.timeouts) = (0, 0);
            }
        }
        outline
    }
}

/// Whether anything but counters differs.
fn differ(before: &Reports, after: &Reports) -> bool {
    let outline = |report: &Report| (report.answer().map(Answer::outline), report.failures.min(2));
    before.len() != after.len()
        || after.iter().any(|(uid, report)| before.get(uid).map(outline) != Some(outline(report)))
}

/// Asks one pod. An answer of another pod, which has the address by now, is none.
async fn fetch<S: DeserializeOwned>(
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
    use node_cache_config::status::{Revision, Traffic};

    fn node(queries: u64, in_force: &str) -> Report {
        let revision = Revision { asked: Some("new".to_owned()), in_force: Some(in_force.to_owned()), refusal: None };
        let instance = Instance {
            name: "cache-0".to_owned(),
            alive: true,
            revision: revision.clone(),
            traffic: Traffic { queries, ..Traffic::default() },
            ..Instance::default()
        };
        Report::first(Answer::Node(NodeStatus { revision, instances: vec![instance], ..NodeStatus::default() }))
    }

    fn reports(report: Report) -> Reports {
        HashMap::from([("uid".to_owned(), report)])
    }

    #[test]
    fn counters_alone_wake_nobody() {
        assert!(!differ(&reports(node(1, "old")), &reports(node(1_000, "old"))));
        assert!(differ(&reports(node(1, "old")), &reports(node(1, "new"))));
        assert!(differ(&reports(node(1, "old")), &Reports::new()));
    }

    #[test]
    fn a_pod_that_stays_silent_wakes_twice_and_then_no_more() {
        let silent = |failures| Report { failures, silence: Some("refused".to_owned()), ..node(0, "new") };
        assert!(differ(&reports(silent(1)), &reports(silent(2))));
        assert!(!differ(&reports(silent(2)), &reports(silent(3))));
    }

    #[test]
    fn a_node_is_on_a_revision_only_with_all_of_its_processes() {
        let Some(answer) = node(0, "new").known else { panic!("an answer") };
        assert!(answer.is_on("new") && answer.follows());
        let Some(mut answer) = node(0, "new").known else { panic!("an answer") };
        if let Answer::Node(status) = &mut answer {
            status.instances[0].revision.in_force = None;
        }
        assert!(!answer.is_on("new") && !answer.follows());
    }
}
