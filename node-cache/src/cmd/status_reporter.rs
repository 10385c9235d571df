//! Status, metrics and probes of a resolving process, for its control socket and its HTTP server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use node_cache_config::figures::{CAPABILITIES, Figures};
use node_cache_config::metrics_page::ProcessUsage;
use node_cache_config::probes::ProbeName;
use node_cache_config::status::{Instance, ResolverStatus};
use tokio::sync::watch;

use super::prober::Prober;
use super::readiness::Readiness;
use super::status_http::StatusPages;
use crate::admin::bounded_status::{self, MAX_STATUS_LEN};
use crate::admin::probe_budget::MAX_IN_FLIGHT;
use crate::admin::{Command, CommandHandler, OK};
use crate::identity::process_start;
use crate::metrics::{Gauges, render};
use crate::resolver::Resolver;
use crate::revision::ActiveRevision;
use crate::server::Workers;

/// Time that each worker has to prove that it reads, when the kubelet probes, which waits for 3 s.
const LIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that each worker has where an agent waits for the status, which it does for 400 ms.
const STATUS_TIMEOUT: Duration = Duration::from_millis(200);

/// Reporter of one process.
#[derive(Debug)]
pub(super) struct StatusReporter<R> {
    pub(super) resolver: Arc<Resolver>,
    pub(super) revision: watch::Receiver<Arc<ActiveRevision>>,
    pub(super) readiness: R,
    pub(super) workers: Arc<Workers>,
    pub(super) prober: Prober,
}

impl<R: Readiness> StatusReporter<R> {
    /// Returns why this process is not live: a worker that does not read its sockets.
    pub(super) async fn not_live(&self) -> Option<String> {
        self.workers.check_readers(LIVE_TIMEOUT).await.err().map(|error| error.to_string())
    }

    /// Returns the status of this process, with as much detail as may be read of it.
    async fn instance(&self) -> Instance {
        let snapshot = self.resolver.snapshot();
        let cache = self.resolver.cache();
        let active = self.revision.borrow().clone();
        let zone_queries =
            snapshot.as_ref().and_then(|snapshot| snapshot.context.zone_queries.from_zone(active.zone.as_deref()));
        let figures = self.resolver.metrics().figures(self.workers.queries_by_address());
        let mut instance = Instance {
            name: self.resolver.identity().instance.clone(),
            alive: self.workers.check_readers(STATUS_TIMEOUT).await.is_ok(),
            revision: active.revision.clone(),
            traffic: self.resolver.metrics().traffic(cache.bytes(), cache.entries()),
            upstreams: snapshot.as_ref().map(|snapshot| snapshot.upstreams()).unwrap_or_default(),
            upstream_problem: snapshot.and_then(|snapshot| snapshot.upstream_problem.clone()),
            started: process_start(),
            restarts: None,
            figures: Some(Box::new(Figures { zone_queries, ..figures })),
        };
        bounded_status::fit(&mut instance, MAX_STATUS_LEN);
        instance
    }

    /// Returns the metrics of this process in OpenMetrics.
    fn metrics_text(&self) -> String {
        let worker_datagrams = self.workers.datagrams();
        let gauges = Gauges { worker_datagrams, process: ProcessUsage::read(), ..self.resolver.gauges() };
        render(&self.resolver.identity().instance, self.resolver.metrics(), gauges)
    }
}

impl<R: Readiness> CommandHandler for StatusReporter<R> {
    /// Connections of the agent, which asks for probes, and beside them for status and metrics.
    const MAX_OTHER_USERS: usize = MAX_IN_FLIGHT + 8;

    async fn handle(&self, command: Command) -> String {
        match command {
            Command::Status => serde_json::to_string(&self.instance().await).unwrap_or_else(|error| error.to_string()),
            Command::Live => self.not_live().await.unwrap_or_else(|| OK.to_owned()),
            Command::Ready => self.readiness.missing().await.unwrap_or_else(|| OK.to_owned()),
            Command::Metrics => self.metrics_text(),
            // The agent has divided the room among its clients.
            Command::Probe(ProbeName { name, rtype }) => match self.prober.probe(&name, Some(&rtype), None).await {
                Ok(result) => serde_json::to_string(&result).unwrap_or_else(|error| error.to_string()),
                Err(refusal) => refusal.to_string(),
            },
            Command::Inspect(inspection) => self.resolver.inspect(inspection).await,
        }
    }
}

impl<R: Readiness> StatusPages for StatusReporter<R> {
    async fn status(&self) -> Bytes {
        let identity = self.resolver.identity();
        let zone = self.revision.borrow().zone.clone();
        let mut instance = self.instance().await;
        let status = ResolverStatus {
            pod_uid: identity.pod_uid.clone(),
            node: identity.node.clone(),
            zone,
            ready: self.readiness.missing().await.is_none(),
            figures: instance.figures.take().map(|figures| *figures).unwrap_or_default(),
            instance,
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        };
        serde_json::to_vec(&status).unwrap_or_default().into()
    }

    async fn metrics(&self) -> String {
        self.metrics_text()
    }
}
