//! One set of servers that know the same: the resolvers of a zone, the pods of the cluster DNS, the upstreams of a route.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use node_cache_config::status::UpstreamStatus;
use node_cache_config::{Protocol, Upstream};
use tokio::sync::Notify;

use super::health::Health;
use super::{Server, UpstreamContext};
use crate::dns::question::Question;
use crate::upstream::transport::sockets::PortPolicy;

/// A set of servers. Those that are discovered are pods of ours and of the cluster DNS, and are asked from sockets that serve
/// again; bootstrap servers may be anybody's, or stand for several pods. While none were discovered, or all of those are
/// dead, the bootstrap servers stand in.
#[derive(Debug)]
pub struct Group {
    scope: String,
    discovered: ArcSwap<Vec<Arc<Server>>>,
    bootstrap: Vec<Arc<Server>>,
    went_down: Arc<Notify>,
    context: Arc<UpstreamContext>,
}

impl Group {
    /// A group of these servers, with these discovered ones to begin with. `scope` is what it is called in status and
    /// metrics.
    pub(in crate::upstream) fn new(
        scope: &str,
        bootstrap: &[Upstream],
        discovered: &[SocketAddr],
        context: &Arc<UpstreamContext>,
    ) -> Self {
        let went_down = Arc::new(Notify::new());
        let server =
            |address, protocol, usage| Server::new(address, protocol, usage, went_down.clone(), context.clone());
        let bootstrap =
            bootstrap.iter().map(|each| server(each.address, each.protocol, PortPolicy::Fresh)).map(Arc::new).collect();
        let discovered =
            discovered.iter().map(|address| server(*address, Protocol::Udp, PortPolicy::Reuse)).map(Arc::new);
        Self {
            scope: scope.to_owned(),
            discovered: ArcSwap::from_pointee(discovered.collect()),
            bootstrap,
            went_down,
            context: context.clone(),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Shows the servers to choose from now, and what is to be thought of each.
    pub(in crate::upstream) fn each_candidate(&self, now: Instant, mut show: impl FnMut(&Arc<Server>, Health)) {
        let mut anybody = false;
        for server in self.discovered.load().iter() {
            let state = server.state(now);
            anybody |= state == Health::Up;
            show(server, state);
        }
        if !anybody {
            self.bootstrap.iter().for_each(|server| show(server, server.state(now)));
        }
    }

    /// When a server last answered again after it counted as dead.
    pub(in crate::upstream) fn recovered_at(&self) -> Option<Instant> {
        self.discovered.load().iter().chain(&self.bootstrap).filter_map(|server| server.recovered_at()).max()
    }

    /// Closes sockets that have become old, also those of servers that nobody asks any more.
    pub(in crate::upstream) fn close_old_sockets(&self, now: Instant) {
        self.discovered.load().iter().chain(&self.bootstrap).for_each(|server| server.sockets().close_old(now));
    }

    /// The dead servers that it is time to look after, each with what to ask it.
    pub(in crate::upstream) fn due(&self, now: Instant) -> Vec<(Arc<Server>, Arc<Question>)> {
        let servers = self.discovered.load();
        let all = servers.iter().chain(&self.bootstrap);
        all.filter_map(|server| Some((server.clone(), server.due(now)?))).collect()
    }

    /// The discovered servers' addresses.
    #[must_use]
    pub fn discovered(&self) -> Vec<SocketAddr> {
        self.discovered.load().iter().map(|server| server.address()).collect()
    }

    /// Puts a newly discovered set in force. Servers that are still there keep what is known of them. An empty set is
    /// no news: rather ask those that were there last than nobody.
    pub fn learn(&self, addresses: &[SocketAddr]) {
        if addresses.is_empty() {
            return;
        }
        let known = self.discovered.load();
        let servers: Vec<Arc<Server>> = addresses
            .iter()
            .map(|address| {
                let same = known.iter().find(|server| server.address() == *address);
                let new = || {
                    let (went_down, context) = (self.went_down.clone(), self.context.clone());
                    Server::new(*address, Protocol::Udp, PortPolicy::Reuse, went_down, context)
                };
                same.map_or_else(|| Arc::new(new()), Arc::clone)
            })
            .collect();
        let changed =
            servers.len() != known.len() || !servers.iter().all(|new| known.iter().any(|old| Arc::ptr_eq(old, new)));
        if changed {
            tracing::info!("{}: {} servers", self.scope, servers.len());
            self.discovered.store(Arc::new(servers));
        }
    }

    /// Waits until a server of this group begins to count as dead.
    pub async fn went_down(&self) {
        self.went_down.notified().await;
    }

    /// How its servers do.
    #[must_use]
    pub fn status(&self) -> Vec<UpstreamStatus> {
        let describe = |server: Arc<Server>| UpstreamStatus {
            scope: self.scope.clone(),
            address: server.address(),
            healthy: server.healthy(),
            sent: server.sent(),
            timeouts: server.timeouts(),
        };
        self.servers().into_iter().map(describe).collect()
    }

    /// Its servers, each address once. Bootstrap servers that nobody needed are not among them.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let discovered = self.discovered.load();
        let is_discovered = |server: &Server| discovered.iter().any(|other| other.address() == server.address());
        let bootstrap = self.bootstrap.iter().filter(|server| discovered.is_empty() || server.sent() > 0);
        discovered.iter().chain(bootstrap.filter(|server| !is_discovered(server))).cloned().collect()
    }
}
