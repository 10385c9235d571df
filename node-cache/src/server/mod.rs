//! Serves DNS over UDP and TCP: reads queries from sockets, writes responses. Queries, connections and waiting times
//! are bounded.
//!
//! Each socket is bound to one address, so that a response leaves from the address that was queried.
//!
//! | behaviour | file |
//! | --- | --- |
//! | workers: one thread and runtime each, every worker reads every socket; faults of workers | `worker` |
//! | state of a worker thread | `worker_context` |
//! | UDP: batches of datagrams, five steps of a cache hit | `udp`, `batch` |
//! | TCP: pipelining, out-of-order responses, timeouts (RFC 7766) | `tcp`, `tcp/connection`, `tcp/framing` |
//! | queries that wait for upstreams | `query_tasks` |
//! | queries by local address | `address_counts` |
//! | ACL, cookies, limits per client, dnstap of clients' messages | `shared` |

mod address_counts;
mod batch;
mod query_tasks;
mod shared;
mod tcp;
mod udp;
mod worker;
mod worker_context;

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::dns::cookie_secret::CookieSecrets;
use crate::handover::HeldSocket;
use crate::resolver::Resolver;
use shared::Shared;
pub use shared::TcpLimits;
pub use worker::{WorkerFault, Workers};

/// The DNS server of one process. Dropping it stops the workers.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
}

impl Server {
    /// Starts `workers` threads, one at least. Each reads every socket of the set and answers what it reads with
    /// `resolver`; responses carry cookies made with these secrets. A socket that leaves the set is closed, one that
    /// stays is not disturbed.
    ///
    /// # Errors
    ///
    /// A thread or its runtime cannot be started.
    pub fn start(
        workers: usize,
        resolver: Arc<Resolver>,
        limits: TcpLimits,
        sockets: watch::Receiver<Vec<HeldSocket>>,
        cookie_secrets: watch::Receiver<CookieSecrets>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(resolver, limits, cookie_secrets));
        let workers = Arc::new(Workers::start(workers, &shared, &sockets)?);
        Ok(Self { shared, workers })
    }

    /// Returns the worker threads.
    #[must_use]
    pub const fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Stops reading, and waits until every query that was read is answered.
    pub async fn drain(&self) {
        self.workers.stop_reading().await;
        self.shared.waiting_queries.wait_idle().await;
        self.shared.waiting_new_queries.wait_idle().await;
    }
}
