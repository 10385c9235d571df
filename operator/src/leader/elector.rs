//! Elector: carries out what the election asks for at the API server.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

use crate::error::request_failure;
use crate::leader::election::{Election, Request, Response, Timing};
use crate::leader::leadership::Leadership;
use crate::leader::lease;
use crate::liveness::Liveness;

/// Name of the Lease of the operator, in each namespace that has one.
pub(crate) const LEASE_NAME: &str = "dnstier-operator";
/// Number of consecutive failures between two log lines about them.
const FAILURES_BETWEEN_LOGS: u32 = 30;

/// Takes part in the election.
pub(crate) struct Elector {
    leases: Api<Lease>,
    timing: Timing,
    election: Election,
    leadership: Leadership,
    liveness: Arc<Liveness>,
    /// Metadata of the Lease as last read, which a replacement keeps.
    metadata: ObjectMeta,
    /// Number of consecutive failures.
    failures: u32,
}

/// Returns a new identity for a process in the pod of this name: a container that is restarted is another process.
pub(crate) fn new_identity(pod: &str) -> String {
    format!("{pod}_{:016x}", RandomState::new().hash_one(std::process::id()))
}

impl Elector {
    /// Builds the elector of the process of this identity. The client must not be fenced.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        identity: &str,
        leadership: Leadership,
        liveness: Arc<Liveness>,
        timing: Timing,
    ) -> Self {
        let election = Election::new(identity.to_owned(), timing, Instant::now());
        let leases = Api::namespaced(client, namespace);
        Self { leases, timing, election, leadership, liveness, metadata: ObjectMeta::default(), failures: 0 }
    }

    /// Takes part in the election until `stop` resolves, and releases the Lease then.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut stands = false;
        self.liveness.record_look(Instant::now().into_std());
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = self.leadership.standing(), if !stands => {
                    stands = true;
                    self.election.stand(Instant::now());
                    continue;
                }
                () = tokio::time::sleep_until(self.election.next_start()) => {}
            }
            self.take_turn().await;
            self.liveness.record_look(Instant::now().into_std());
        }
        self.release().await;
    }

    /// Makes the next request and tells its result.
    async fn take_turn(&mut self) {
        let (start, request) = (Instant::now(), self.election.request(wall_clock()));
        let was_leader = self.leadership.term(start).is_some();
        let holder = self.election.holder().map(str::to_owned);
        let response = self.send(&request).await;
        if matches!(response, Response::Failed | Response::Conflict) && self.election.renewal().is_some() {
            self.leadership.record_renew_failure();
        }
        let now = Instant::now();
        self.election.finish(&request, response, start, now);
        self.leadership.update(self.election.write_end(), self.election.last_change(), now);
        let is_leader = self.leadership.term(now).is_some();
        let new_holder = self.election.holder();
        if is_leader != was_leader {
            let role = if is_leader { "leader" } else { "standby" };
            tracing::info!(role, holder = new_holder, "the role of this process has changed");
        } else if new_holder != holder.as_deref() {
            tracing::info!(holder = new_holder, "the Lease has another holder");
        }
    }

    /// Ends the term: what is being written is finished, then the Lease is released. With a write that does not end,
    /// the Lease is left to expire, because that write may still be carried out.
    async fn release(mut self) {
        self.leadership.close();
        let is_quiet = self.leadership.writes_end(self.timing.close_limit).await;
        let now = Instant::now();
        self.leadership.update(None, self.election.last_change(), now);
        let Some(request) = self.election.release(wall_clock()) else { return };
        if !is_quiet {
            tracing::warn!("a write has no response, so that the Lease is not released but expires");
            return;
        }
        if matches!(self.send(&request).await, Response::Lease(_)) {
            tracing::info!("the Lease is released");
        }
    }

    /// Sends a request, within its limit.
    async fn send(&mut self, request: &Request) -> Response {
        let params = PostParams::default();
        let response = timeout(self.timing.request_limit, async {
            match request {
                Request::Read => self.leases.get(LEASE_NAME).await,
                Request::Create(record) => {
                    let metadata = ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() };
                    self.leases.create(&params, &lease::build(record, metadata)).await
                }
                Request::Replace { record, resource_version } => {
                    let metadata =
                        ObjectMeta { resource_version: Some(resource_version.clone()), ..self.metadata.clone() };
                    self.leases.replace(LEASE_NAME, &params, &lease::build(record, metadata)).await
                }
            }
        })
        .await;
        let is_creation = matches!(request, Request::Create(_));
        let reason = match response {
            Ok(Ok(lease)) => {
                self.metadata = lease.metadata.clone();
                self.failures = 0;
                return Response::Lease(lease::read(&lease));
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => return Response::Conflict,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && !is_creation => return Response::Missing,
            Ok(Err(error)) => request_failure(&error),
            Err(_) => format!("the API server did not answer within {} s", self.timing.request_limit.as_secs_f32()),
        };
        if self.failures.is_multiple_of(FAILURES_BETWEEN_LOGS) {
            tracing::warn!(
                lease = LEASE_NAME,
                reason,
                failures = self.failures + 1,
                "the Lease cannot be read or written"
            );
        }
        self.failures = self.failures.saturating_add(1);
        Response::Failed
    }
}

/// Returns the wall-clock time in the precision of a Lease.
fn wall_clock() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Limits;
    use crate::fake_api::FakeApi;
    use crate::leader::fake_lease::{FakeLease, TIMING};
    use serde_json::json;
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// Process that takes part in an election.
    struct Process {
        leadership: Leadership,
        stop: Option<oneshot::Sender<()>>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Process {
        fn start(server: &FakeApi, pod: &str) -> Self {
            let leadership = Leadership::default();
            let client = server.client(Limits::OPERATOR);
            let (leader, live) = (leadership.clone(), Arc::default());
            let elector = Elector::new(client, "dnstier-system", &new_identity(pod), leader, live, TIMING);
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(elector.run(async move { drop(stopped.await) }));
            leadership.stand();
            Self { leadership, stop: Some(stop), task }
        }

        fn is_leader(&self) -> bool {
            self.leadership.term(Instant::now()).is_some()
        }

        async fn gained(&self) {
            timeout(Duration::from_secs(60), self.leadership.gained()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_leads_and_the_other_follows_when_it_stops() {
        let lease = FakeLease::default();
        let server = lease.serve().await;
        let mut one = Process::start(&server, "pod-a");
        one.gained().await;
        assert!(lease.get("holderIdentity").as_str().unwrap().starts_with("pod-a_"));
        assert_eq!((lease.get("leaseTransitions"), lease.get("leaseDurationSeconds")), (json!(0), json!(4)));
        let other = Process::start(&server, "pod-b");
        let before = server.requests().len();
        server.wait_for_requests(before + 20).await;
        assert!(!other.is_leader());
        let write = one.leadership.begin_write().unwrap();
        one.stop.take().unwrap().send(()).unwrap();
        tokio::time::sleep(TIMING.look_interval * 2).await;
        assert!(one.leadership.begin_write().is_err() && !other.is_leader(), "the write is waited for");
        drop(write);
        other.gained().await;
        assert_eq!(lease.get("leaseTransitions"), json!(1));
        assert!(lease.get("holderIdentity").as_str().unwrap().starts_with("pod-b_"));
        let paths: Vec<String> = server.requests().iter().map(|request| request.path().to_owned()).collect();
        let allowed = "/apis/coordination.k8s.io/v1/namespaces/dnstier-system/leases";
        assert!(
            paths.iter().all(|path| path == allowed || *path == format!("{allowed}/dnstier-operator")),
            "{paths:?}"
        );
    }

    #[tokio::test]
    async fn the_other_takes_over_from_one_that_is_killed() {
        let lease = FakeLease::default();
        let server = lease.serve().await;
        let one = Process::start(&server, "pod-a");
        one.gained().await;
        let other = Process::start(&server, "pod-b");
        one.task.abort();
        other.gained().await;
        assert!(!one.is_leader(), "two leaders");
        assert_eq!(lease.get("leaseTransitions"), json!(1));
    }

    #[tokio::test]
    async fn a_leader_without_an_api_server_writes_nothing_and_leads_on_afterwards() {
        let lease = FakeLease::default();
        let server = lease.serve().await;
        let process = Process::start(&server, "pod-a");
        process.gained().await;
        let term = process.leadership.term(Instant::now()).unwrap();
        lease.is_silent.store(true, Ordering::Relaxed);
        timeout(Duration::from_secs(60), process.leadership.lost(term)).await.unwrap();
        assert!(process.leadership.begin_write().is_err());
        assert!(process.leadership.renew_failures() > 0);
        lease.is_silent.store(false, Ordering::Relaxed);
        process.gained().await;
        assert_eq!(lease.get("leaseTransitions"), json!(0));
    }

    #[tokio::test]
    async fn a_write_without_a_response_keeps_the_lease_from_being_released() {
        let lease = FakeLease::default();
        let server = lease.serve().await;
        let mut process = Process::start(&server, "pod-a");
        process.gained().await;
        let _write = process.leadership.begin_write().unwrap();
        process.stop.take().unwrap().send(()).unwrap();
        process.task.await.unwrap();
        assert!(lease.get("holderIdentity").as_str().unwrap().starts_with("pod-a_"));
    }

    #[tokio::test]
    async fn labels_of_the_lease_survive_a_renewal() {
        let lease = FakeLease::default();
        let server = lease.serve().await;
        let process = Process::start(&server, "pod-a");
        process.gained().await;
        let labels = json!({"team": "dns"});
        {
            let mut lease = lease.lease.lock().unwrap();
            let lease = lease.as_mut().unwrap();
            lease["metadata"]["labels"] = labels.clone();
            lease["metadata"]["resourceVersion"] = json!("100");
        }
        let before = server.requests().len();
        server.wait_for_requests(before + 10).await;
        let lease = lease.lease.lock().unwrap().clone().unwrap();
        assert_eq!(lease["metadata"]["labels"], labels);
        assert_ne!(lease["metadata"]["resourceVersion"], json!("100"));
        assert!(process.is_leader());
    }
}
