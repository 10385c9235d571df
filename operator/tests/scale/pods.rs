//! Data plane of all pods: one process answers `/status` and `/probe` on the address of each of them. A revision is in
//! force some time after a pod was told.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use node_cache_config::figures::{AddressQueries, Figures, ScopeResponses};
use node_cache_config::names::{REVISION_ANNOTATION, ZONE_ANNOTATION};
use node_cache_config::status::{DetectionStatus, UpstreamState, UpstreamStatus};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::page::{self, Page};
use crate::seconds::now;

const COMPONENT: &str = "app.kubernetes.io/component";
/// Address that every node captures.
const CAPTURED: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));
/// Address of the cluster DNS, which pods ask.
const CLUSTER_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
const METRICS_PORT: &str = "dnstier.io/metrics-port";
/// Bounds of the time from an annotation to its effect, in milliseconds: kubelet and agent look for changes.
const DELAY: (u64, u64) = (200, 2_000);
/// Time after which a pod in the dark looks for the light.
const DARK_INTERVAL: Duration = Duration::from_millis(100);

/// Pod that runs.
struct Running {
    page: Page,
    /// Revision that it is asked to run, and since when it is in force.
    next: (Option<String>, f64),
    /// Times at which it answered `/status`.
    answered: Vec<f64>,
    server: Option<JoinHandle<()>>,
}

impl Running {
    fn look(&mut self, now: f64) {
        if self.next.1 <= now {
            self.page.revision.in_force.clone_from(&self.next.0);
        }
    }
}

#[derive(Default)]
struct State {
    pods: HashMap<String, Running>,
    /// Times at which `/status` of any pod was asked for.
    polls: Vec<f64>,
    dark_zone: Option<String>,
}

/// Returns the figures of a pod: responses of the usual scopes and of six routes, and queries by captured address.
fn figures(started: u64) -> Figures {
    let of_scope = |scope: String| ScopeResponses { scope, ..page::responses(started, 0) };
    let routes = (0..6).map(|number| format!("route/r{number}.corp.test"));
    let scopes = ["cluster", "outside"].map(str::to_owned).into_iter().chain(routes);
    let queries =
        [CAPTURED, CLUSTER_DNS].map(|address| AddressQueries { address, queries: page::now().saturating_sub(started) });
    Figures { responses: scopes.map(of_scope).collect(), queries: queries.to_vec(), ..Figures::default() }
}

/// Returns the upstreams of a cache: the resolvers of three zones, the pods of the cluster DNS and six routes.
fn upstreams_of_node() -> Vec<UpstreamStatus> {
    let of_zones = ["a", "b", "c"].into_iter().flat_map(|zone| [1, 2].map(|host| (format!("zone/{zone}"), host)));
    let of_cluster = [3, 4].map(|host| ("cluster".to_owned(), host));
    let of_routes = (0..6).flat_map(|number| [5, 6].map(|host| (format!("route/r{number}.corp.test"), host)));
    of_zones.chain(of_cluster).chain(of_routes).map(|(scope, host)| upstream(scope, host)).collect()
}

/// Returns the upstreams of a resolver.
fn upstreams_of_resolver() -> Vec<UpstreamStatus> {
    [53, 54].map(|host| upstream("forward".to_owned(), host)).to_vec()
}

fn upstream(scope: String, host: u8) -> UpstreamStatus {
    let sent = page::now();
    let detection =
        DetectionStatus { state: "well".to_owned(), has_enough_traffic: true, ..DetectionStatus::default() };
    UpstreamStatus {
        scope,
        address: SocketAddr::from(([192, 0, 2, host], 53)),
        healthy: true,
        state: UpstreamState::default(),
        responded: true,
        sent,
        timeouts: sent / 1_000,
        in_flight: 1,
        near_misses: 0,
        detection: Some(detection),
    }
}

/// All pods of the tier.
#[derive(Clone, Default)]
pub(crate) struct Pods(Arc<Mutex<State>>);

impl Pods {
    /// Plays the pods until the cluster ends.
    pub(crate) async fn run(self, client: Client) {
        let config = watcher::Config::default().labels("app.kubernetes.io/managed-by=dnstier-operator");
        let mut events = watcher(Api::<Pod>::all(client), config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => self.put(&pod).await,
                Ok(watcher::Event::Delete(pod)) => self.remove(&pod.uid().unwrap_or_default()),
                // The watch goes on by itself.
                Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
            }
        }
    }

    async fn put(&self, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        let annotation = |name: &str| pod.annotations().get(name).cloned();
        let zone = annotation(ZONE_ANNOTATION);
        let asked = annotation(REVISION_ANNOTATION);
        {
            let mut state = self.lock();
            let running = state.pods.entry(uid.clone()).or_insert_with(|| Running {
                page: Page {
                    pod_uid: uid.clone(),
                    is_resolver: pod.labels().get(COMPONENT).is_some_and(|component| component == "zone-resolver"),
                    captured: vec![CAPTURED],
                    caches: ["cache-0", "cache-1"].map(str::to_owned).to_vec(),
                    started: page::now(),
                    ..Page::default()
                },
                next: (None, 0.0),
                answered: Vec::new(),
                server: None,
            });
            running.page.node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            running.page.zone = zone;
            running.look(now());
            if running.next.0 != asked {
                running.next = (asked.clone(), now() + delay(&uid, asked.as_deref()));
                running.page.revision.asked = asked;
            }
            if running.server.is_some() {
                return;
            }
        }
        let Some(address) = address_of(pod) else { return };
        let Ok(listener) = TcpListener::bind(address).await else {
            eprintln!("nobody can listen on {address}");
            return;
        };
        let server = tokio::spawn(self.clone().serve(uid.clone(), listener));
        if let Some(running) = self.lock().pods.get_mut(&uid) {
            running.server = Some(server);
        }
    }

    fn remove(&self, uid: &str) {
        if let Some(server) = self.lock().pods.remove(uid).and_then(|pod| pod.server) {
            server.abort();
        }
    }

    async fn serve(self, uid: String, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let (pods, uid) = (self.clone(), uid.clone());
            let answer = move |request: Request<_>| {
                let (pods, uid) = (pods.clone(), uid.clone());
                async move {
                    let page = pods.answer(&uid, request.uri()).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(page.to_string()))))
                }
            };
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                drop(connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
            });
        }
    }

    async fn answer(&self, uid: &str, uri: &hyper::Uri) -> Value {
        let is_status = uri.path() == "/status";
        if is_status {
            self.lock().polls.push(now());
        }
        while self.is_dark(uid) {
            tokio::time::sleep(DARK_INTERVAL).await;
        }
        if !is_status {
            return page::probe_result(uri.query().unwrap_or_default(), 0, "right");
        }
        let now = now();
        let mut state = self.lock();
        let Some(pod) = state.pods.get_mut(uid) else { return Value::Null };
        pod.look(now);
        pod.answered.push(now);
        let upstreams = if pod.page.is_resolver { upstreams_of_resolver() } else { upstreams_of_node() };
        let figures = figures(pod.page.started);
        Page { figures, upstreams, ..pod.page.clone() }.into_json()
    }

    /// Keeps the pods of a zone from answering, and those of all others answer.
    pub(crate) fn darken(&self, zone: Option<&str>) {
        self.lock().dark_zone = zone.map(str::to_owned);
    }

    fn is_dark(&self, uid: &str) -> bool {
        let state = self.lock();
        state.dark_zone.is_some() && state.pods.get(uid).is_some_and(|pod| pod.page.zone == state.dark_zone)
    }

    /// Returns the number of pods that are asked to run each revision, and the number that runs it.
    pub(crate) fn revisions(&self) -> BTreeMap<String, (usize, usize)> {
        let mut revisions = BTreeMap::<String, (usize, usize)>::new();
        let now = now();
        for pod in self.lock().pods.values_mut() {
            pod.look(now);
            revisions.entry(pod.page.revision.asked.clone().unwrap_or_default()).or_default().0 += 1;
            revisions.entry(pod.page.revision.in_force.clone().unwrap_or_default()).or_default().1 += 1;
        }
        revisions
    }

    /// Returns the longest time between two answers of one of these nodes since a time, and from the last one to now.
    pub(crate) fn longest_gap(&self, nodes: &[String], since: f64) -> f64 {
        let state = self.lock();
        let pods = state.pods.values().filter(|pod| !pod.page.is_resolver && nodes.contains(&pod.page.node));
        let gaps = pods.map(|pod| {
            let times: Vec<f64> = [since]
                .into_iter()
                .chain(pod.answered.iter().copied().filter(|time| *time >= since))
                .chain([now()])
                .collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
        });
        gaps.fold(0.0, f64::max)
    }

    /// Returns the time at which each pod had answered `/status` since one.
    pub(crate) fn first_round(&self, since: f64) -> f64 {
        let state = self.lock();
        let first = state.pods.values().filter_map(|pod| pod.answered.iter().find(|time| **time >= since));
        first.copied().fold(since, f64::max)
    }

    /// Returns the number of pods that have not answered `/status` since a time.
    pub(crate) fn silent_since(&self, since: f64) -> usize {
        let is_silent = |pod: &&Running| pod.answered.last().is_none_or(|last| *last < since);
        self.lock().pods.values().filter(is_silent).count()
    }

    /// Returns the times since one at which `/status` was asked for.
    pub(crate) fn polls_since(&self, since: f64) -> Vec<f64> {
        self.lock().polls.iter().copied().filter(|time| *time >= since).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time until a pod runs what it is asked to run, in seconds.
fn delay(uid: &str, revision: Option<&str>) -> f64 {
    let mut hasher = DefaultHasher::new();
    (uid, revision).hash(&mut hasher);
    let (from, to) = DELAY;
    (from + hasher.finish() % (to - from)) as f64 / 1_000.0
}

/// Returns the address of the pages of a pod; `None` before it has one.
fn address_of(pod: &Pod) -> Option<SocketAddr> {
    let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let port = pod.annotations().get(METRICS_PORT)?.parse().ok()?;
    Some(SocketAddr::new(address, port))
}
