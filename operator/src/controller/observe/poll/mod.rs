//! Status poller: fetches `/status` of each pod on the pod's own schedule, and keeps a summary of its last page.

mod address_uses;
mod evidence;
pub(crate) mod http;
mod report;
mod roles;
mod schedule;
#[cfg(test)]
mod simulation;
mod summary;
mod target;
mod texts;
mod traffic;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use node_cache_config::status::Instance;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use address_uses::AddressUses;
pub(crate) use evidence::Evidence;
pub(crate) use report::{PodReport, PodReports, ReportStore};
pub(crate) use roles::RoleStore;
pub(crate) use schedule::{Class, takes_no_longer};
pub(crate) use summary::{PodPage, PodSummary, ProblemKind, Throttle, ThrottleState};
pub(crate) use traffic::TrafficRates;

use crate::controller::observe::pods::Component;
use crate::controller::observe::{self, nodes};
use crate::controller::schedule::{Concern, Waker};
use crate::metrics::Metrics;
use address_uses::NEW_FOR;
use report::PodKey;
use schedule::Schedule;
use target::Target;
use texts::Texts;

/// Time between two looks at which pods there are, and what they are asked to run.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time from an annotation to the next look: the watch has to deliver it.
const WAKE_DELAY: Duration = Duration::from_millis(200);
/// Longest time of the first round, in milliseconds: 5,000 pods that answer need a minute.
const MAX_FIRST_ROUND: u64 = 90_000;
/// Number of looks after which texts that no report has are forgotten.
const LOOKS_PER_CLEANUP: u32 = 60;

/// Polls the status of all pods.
#[derive(Clone)]
pub(crate) struct Poller {
    /// Pods of all tiers, one store for each namespace.
    pub(crate) pods: Vec<Store<Pod>>,
    /// All Nodes: the pods of those that are not ready are not polled.
    pub(crate) nodes: Store<Node>,
    /// Time between two polls of a zone resolver, and of all pods while they are few. Controls of a roll-out are polled
    /// each five seconds at least.
    pub(crate) interval: Duration,
    /// Reports of the pods.
    pub(crate) reports: ReportStore,
    /// Wakes the tier of a pod when more than counters has changed, and all tiers at the end of the first round.
    pub(crate) waker: Waker,
    /// Roles of pods in roll-outs.
    pub(crate) roles: RoleStore,
    /// Uses of captured addresses.
    pub(crate) address_uses: AddressUses,
    /// Triggers an early look, because pods were annotated.
    pub(crate) wake: Arc<Notify>,
    /// Becomes `true` once each pod that was there at the start has been polled.
    pub(crate) first_round: watch::Sender<bool>,
    /// Metrics of the polls.
    pub(crate) metrics: Arc<Metrics>,
}

/// Poll that has ended.
struct Ended {
    key: PodKey,
    result: Result<PodPage, String>,
}

/// Poller at work.
struct Polling {
    poller: Poller,
    schedule: Schedule<PodKey, Arc<Pod>>,
    texts: Texts,
    begin: Instant,
    looks: u32,
}

impl Poller {
    /// Polls without end.
    pub(crate) async fn run(self) {
        let schedule = Schedule::new(self.interval);
        let begin = Instant::now();
        let mut polling = Polling { poller: self, schedule, texts: Texts::default(), begin, looks: 0 };
        let wake = polling.poller.wake.clone();
        let mut in_flight = FuturesUnordered::new();
        let mut next_look = begin;
        loop {
            let now = Instant::now();
            if now >= next_look {
                polling.look();
                next_look = now + LOOK_INTERVAL;
            }
            while let Some((key, pod)) = polling.schedule.start(polling.now()) {
                in_flight.push(poll(key, pod).boxed());
            }
            let next_start = polling.schedule.next_start(polling.now());
            let next_start = next_start.map(|time| begin + Duration::from_millis(time));
            tokio::select! {
                Some(ended) = in_flight.next() => polling.finish(ended),
                () = tokio::time::sleep_until(next_start.unwrap_or(next_look).min(next_look)) => {}
                () = wake.notified() => next_look = next_look.min(Instant::now() + WAKE_DELAY),
            }
        }
    }
}

impl Polling {
    /// Returns the time of the schedule.
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks at which pods there are, and what they are asked to run.
    fn look(&mut self) {
        let Self { poller, schedule, .. } = self;
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let all_nodes = poller.nodes.state();
        let away: HashSet<String> =
            all_nodes.iter().filter(|node| nodes::is_away(node)).map(|node| node.name_any()).collect();
        let (mut known, mut polled) = (HashSet::new(), HashSet::new());
        for pod in poller.pods.iter().flat_map(Store::state) {
            let Some(target) = Target::of(&pod) else { continue };
            let key = PodKey::of(target.uid);
            let is_polled = target.node.is_none_or(|node| !away.contains(node));
            known.insert(key);
            if self.looks == 0 {
                poller.reports.set(key, PodReport::unpolled(is_polled));
            }
            if is_polled {
                polled.insert(key);
                let standing = target.standing(poller.reports.get(key).as_deref(), poller.roles.get(key));
                let has_changed = schedule.target(&key).is_some_and(|before| !Arc::ptr_eq(before, &pod));
                schedule.put(key, pod.clone(), standing, now);
                if has_changed {
                    schedule.hasten(key, now);
                }
            }
        }
        schedule.retain(|key| polled.contains(key));
        poller.reports.retain(|key| known.contains(key));
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_CLEANUP) {
            let nodes: HashSet<PodKey> = all_nodes.iter().map(|node| PodKey::of(&node.name_any())).collect();
            self.poller.address_uses.retain(|key| nodes.contains(key));
            self.texts.forget_unused();
        }
        self.check_first_round();
        let ages = self.schedule.ages(now);
        let by_class = Class::ALL.into_iter().zip(ages.by_class).map(|(class, age)| (class.name(), age));
        self.poller.metrics.set_figure_ages(by_class.chain([("silent", ages.silent)]));
    }

    /// Keeps the result of a poll, unless the pod is gone.
    fn finish(&mut self, ended: Ended) {
        let Ended { key, result } = ended;
        let now = self.now();
        self.poller.metrics.record_poll(result.is_ok());
        // The pod may have been asked to run another revision since its poll began.
        let Some(pod) = self.schedule.target(&key).cloned() else { return };
        let Some(target) = Target::of(&pod) else { return };
        let before = self.poller.reports.get(key).unwrap_or_default();
        let role = self.poller.roles.get(key);
        let after = match &result {
            // The clock of the rates may wrap around.
            Ok(page) => {
                self.poller.roles.keep(key, page);
                self.poller.count_uses(&target, &pod, page, u32::try_from(now / 1_000).unwrap_or(u32::MAX));
                before.after_answer(page, now as u32, &mut self.texts)
            }
            Err(error) => before.after_failure(error, &mut self.texts),
        };
        self.schedule.finish(key, result.is_ok(), target.standing(Some(&after), role), now);
        let has_changed = after.differs_from(&before) && !before.is_awaited();
        let was_awaited = before.is_awaited();
        self.poller.reports.set(key, after);
        if has_changed {
            self.poller.waker.wake(&Concern::Tier(target.tier.to_owned()));
        }
        if was_awaited {
            self.check_first_round();
        }
    }

    /// Ends the first round once every pod that was there at the start has been polled. Before, each pod would be a
    /// change.
    fn check_first_round(&self) {
        if *self.poller.first_round.borrow() {
            return;
        }
        let is_late = self.now() >= MAX_FIRST_ROUND;
        if self.poller.reports.count_awaited(|key| !is_late && self.schedule.has(key)) == 0 {
            self.poller.first_round.send_replace(true);
            self.poller.waker.wake(&Concern::All);
        }
    }
}

impl Poller {
    /// Counts the uses of the captured addresses of a node. A pod that is going may report beside the one that follows.
    fn count_uses(&self, target: &Target<'_>, pod: &Pod, page: &PodPage, now: u32) {
        if let (Some(node), None) = (target.node, &pod.metadata.deletion_timestamp) {
            let new_since = u64::try_from(observe::now().as_second()).unwrap_or_default().saturating_sub(NEW_FOR);
            let is_new = |instance: &Instance| instance.started.is_some_and(|started| started >= new_since);
            let are_all_new = page.instances().iter().all(is_new);
            self.address_uses.add(node, page.address_queries(), are_all_new, now);
        }
    }
}

#[cfg(test)]
impl Poller {
    /// Polls every pod once, at a time in milliseconds.
    pub(crate) async fn poll_all(&self, now: u32) {
        let pods: Vec<Arc<Pod>> = self.pods.iter().flat_map(Store::state).collect();
        let mut texts = Texts::default();
        let targets = pods.iter().filter_map(|pod| Some((pod, Target::of(pod)?)));
        let polls = targets.map(async |(pod, target)| {
            let result = fetch_page(&target).await;
            (pod, target, result)
        });
        for (pod, target, result) in futures::future::join_all(polls).await {
            let key = PodKey::of(target.uid);
            let before = self.reports.get(key).unwrap_or_default();
            let after = match &result {
                Ok(page) => {
                    self.roles.keep(key, page);
                    self.count_uses(&target, pod, page, now / 1_000);
                    before.after_answer(page, now, &mut texts)
                }
                Err(error) => before.after_failure(error, &mut texts),
            };
            self.reports.set(key, after);
        }
    }
}

/// Polls one pod.
async fn poll(key: PodKey, pod: Arc<Pod>) -> Ended {
    let result = match Target::of(&pod) {
        Some(target) => fetch_page(&target).await,
        None => Err("the pod has no address".to_owned()),
    };
    Ended { key, result }
}

/// Fetches the status of one pod. A response with another pod's UID is an error: the address was reassigned.
async fn fetch_page(target: &Target<'_>) -> Result<PodPage, String> {
    let body = http::get(target.address, "/status").await.map_err(|error| error.to_string())?;
    let page = match target.component {
        Component::NodeCache => serde_json::from_slice(&body).map(PodPage::Node),
        Component::ZoneResolver => serde_json::from_slice(&body).map(PodPage::Resolver),
    };
    let page = page.map_err(|error| format!("it answers no status: {error}"))?;
    if page.pod_uid() != target.uid {
        return Err("another pod answers at its address".to_owned());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::owned::labels;
    use crate::controller::schedule::{self, TierVersion, Turn};
    use kube::runtime::{reflector, watcher};
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    /// Serves the status of a pod with this UID without end; returns the port and the number of requests.
    async fn serve(uid: &'static str) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, requests) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let counter = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 1024]).await;
                let revision = json!({"asked": "new", "inForce": "new"});
                let instance = json!({"name": "cache-0", "alive": true, "revision": revision});
                let body = json!({"podUid": uid, "revision": revision, "instances": [instance]}).to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        (port, requests)
    }

    fn pod(uid: &str, port: u16, node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": uid, "namespace": "dnstier-node", "uid": uid,
                "labels": {labels::INSTANCE: "default", labels::COMPONENT: labels::COMPONENT_NODE_CACHE},
                "annotations": {labels::METRICS_PORT: port.to_string(), "dnstier.io/revision": "new"},
            },
            "spec": {"containers": [], "nodeName": node},
            "status": {"podIP": "127.0.0.1"},
        }))
        .unwrap()
    }

    fn node(name: &str, ready: &str) -> Node {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": conditions}})).unwrap()
    }

    fn store<K>(objects: Vec<K>) -> (Store<K>, reflector::store::Writer<K>)
    where
        K: kube::Resource<DynamicType = ()> + Clone + 'static,
    {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Init);
        for object in objects {
            writer.apply_watcher_event(&watcher::Event::InitApply(object));
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        (store, writer)
    }

    /// Returns a waker of these tiers, which were just reconciled, and its notifications.
    fn waker(tiers: &[&str]) -> (Waker, mpsc::Receiver<()>) {
        let (schedule, (changed, changes)) = (Arc::new(schedule::Schedule::default()), mpsc::channel(1));
        let now = time::Instant::now();
        for tier in tiers {
            schedule.start(tier, TierVersion::default(), now);
            schedule.finish(tier, Duration::from_hours(1), now);
        }
        (Waker { schedule, changed }, changes)
    }

    /// Returns whether something has woken a tier, and lets it rest again.
    fn was_woken(waker: &Waker, tier: &str) -> bool {
        let now = time::Instant::now() + Duration::from_mins(1);
        let turn = waker.schedule.start(tier, TierVersion::default(), now);
        waker.schedule.finish(tier, Duration::from_hours(1), time::Instant::now());
        matches!(turn, Turn::Start { .. })
    }

    #[tokio::test]
    async fn pods_are_polled_but_for_those_of_nodes_that_are_not_ready() {
        let ((ready_port, _), (away_port, away_requests)) = (serve("ready").await, serve("away").await);
        let (pods, _pods) = store(vec![pod("ready", ready_port, "node-a"), pod("away", away_port, "node-b")]);
        let (nodes, mut nodes_writer) = store(vec![node("node-a", "True"), node("node-b", "Unknown")]);
        let (waker, mut changes) = waker(&["default", "other"]);
        let (first_round, mut is_over) = watch::channel(false);
        let reports = ReportStore::default();
        let poller = Poller {
            pods: vec![pods],
            nodes,
            interval: Duration::from_secs(1),
            reports: reports.clone(),
            roles: RoleStore::default(),
            address_uses: AddressUses::default(),
            waker: waker.clone(),
            wake: Arc::default(),
            first_round,
            metrics: Arc::default(),
        };
        tokio::spawn(poller.run());
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, is_over.wait_for(|over| *over)).await.unwrap().unwrap();
        changes.recv().await.unwrap();
        let of = |uid: &str| reports.of([uid].into_iter()).remove(uid).unwrap();
        assert!(of("ready").current_status().unwrap().has_in_force("new"));
        assert!(of("away").is_unknown() && !of("away").is_awaited(), "nobody waits for it");
        assert_eq!(away_requests.load(Ordering::SeqCst), 0);
        assert!(was_woken(&waker, "default") && was_woken(&waker, "other"), "the first round is over");

        nodes_writer.apply_watcher_event(&watcher::Event::Apply(node("node-b", "True")));
        tokio::time::timeout(patience, changes.recv()).await.unwrap().unwrap();
        assert!(of("away").current_status().is_some());
        assert!(was_woken(&waker, "default") && !was_woken(&waker, "other"), "the report of a pod is of one tier");
    }
}
