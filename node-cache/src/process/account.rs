//! What a process says of itself.

use std::sync::Arc;

use node_cache_config::status::Instance;
use tokio::sync::watch;

use crate::control::{Command, OK, Report};
use crate::metrics::text;
use crate::resolve::Resolver;
use crate::revision::InForce;

/// Whether a process can do its work.
pub(super) trait Readiness: Send + Sync + 'static {
    /// What is missing, in one sentence.
    fn missing(&self) -> impl Future<Output = Option<String>> + Send;
}

/// What is needed to say how a process is.
#[derive(Debug)]
pub(super) struct Account<R> {
    pub(super) resolver: Arc<Resolver>,
    pub(super) in_force: watch::Receiver<Arc<InForce>>,
    pub(super) readiness: R,
}

impl<R: Readiness> Account<R> {
    /// The status of this process.
    pub(super) fn instance(&self) -> Instance {
        let snapshot = self.resolver.snapshot();
        let cache = self.resolver.cache();
        Instance {
            name: self.resolver.identity().instance.clone(),
            alive: true,
            revision: self.in_force.borrow().revision.clone(),
            traffic: self.resolver.metrics().traffic(cache.bytes(), cache.entries()),
            upstreams: snapshot.as_ref().map(|snapshot| snapshot.upstreams()).unwrap_or_default(),
            upstream_problem: snapshot.and_then(|snapshot| snapshot.upstream_problem.clone()),
        }
    }

    /// The metrics of this process.
    pub(super) fn metrics(&self) -> String {
        text(&self.resolver.identity().instance, self.resolver.metrics(), self.resolver.levels())
    }
}

impl<R: Readiness> Report for Account<R> {
    async fn answer(&self, command: Command) -> String {
        match command {
            Command::Status => serde_json::to_string(&self.instance()).unwrap_or_else(|error| error.to_string()),
            Command::Live => OK.to_owned(),
            Command::Ready => self.readiness.missing().await.unwrap_or_else(|| OK.to_owned()),
            Command::Metrics => self.metrics(),
            Command::Answers(inspection) => self.resolver.inspect(inspection).await,
        }
    }
}
