//! What a process says of itself.

use std::sync::Arc;
use std::time::Duration;

use node_cache_config::status::Instance;
use tokio::sync::watch;

use crate::admin::{Command, OK, Report};
use crate::metrics::{Gauges, text};
use crate::resolver::Resolver;
use crate::revision::ActiveRevision;
use crate::server::Workers;

/// How long a worker has to show the kubelet that it lives, which waits for 3 s.
const LIVE_LIMIT: Duration = Duration::from_secs(2);
/// How long it has where an agent waits for the status, which it does for 400 ms.
const STATUS_LIMIT: Duration = Duration::from_millis(200);

/// Whether a process can do its work.
pub(super) trait Readiness: Send + Sync + 'static {
    /// What is missing, in one sentence.
    fn missing(&self) -> impl Future<Output = Option<String>> + Send;
}

/// What is needed to say how a process is.
#[derive(Debug)]
pub(super) struct StatusReporter<R> {
    pub(super) resolver: Arc<Resolver>,
    pub(super) in_force: watch::Receiver<Arc<ActiveRevision>>,
    pub(super) readiness: R,
    pub(super) workers: Arc<Workers>,
}

impl<R: Readiness> StatusReporter<R> {
    /// Why this process counts as dead: somebody in it does not read what he should.
    pub(super) async fn dead(&self) -> Option<String> {
        self.workers.check_readers(LIVE_LIMIT).await.err().map(|error| error.to_string())
    }

    /// The status of this process.
    pub(super) async fn instance(&self) -> Instance {
        let snapshot = self.resolver.snapshot();
        let cache = self.resolver.cache();
        Instance {
            name: self.resolver.identity().instance.clone(),
            alive: self.workers.check_readers(STATUS_LIMIT).await.is_ok(),
            revision: self.in_force.borrow().revision.clone(),
            traffic: self.resolver.metrics().traffic(cache.bytes(), cache.entries()),
            upstreams: snapshot.as_ref().map(|snapshot| snapshot.upstreams()).unwrap_or_default(),
            upstream_problem: snapshot.and_then(|snapshot| snapshot.upstream_problem.clone()),
        }
    }

    /// The metrics of this process.
    pub(super) fn metrics(&self) -> String {
        let gauges = Gauges { worker_datagrams: self.workers.datagrams(), ..self.resolver.gauges() };
        text(&self.resolver.identity().instance, self.resolver.metrics(), gauges)
    }
}

impl<R: Readiness> Report for StatusReporter<R> {
    async fn answer(&self, command: Command) -> String {
        match command {
            Command::Status => serde_json::to_string(&self.instance().await).unwrap_or_else(|error| error.to_string()),
            Command::Live => self.dead().await.unwrap_or_else(|| OK.to_owned()),
            Command::Ready => self.readiness.missing().await.unwrap_or_else(|| OK.to_owned()),
            Command::Metrics => self.metrics(),
            Command::Answers(inspection) => self.resolver.inspect(inspection).await,
        }
    }
}
