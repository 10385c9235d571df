//! Server of the part `hits`, which runs alone on its processor.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::own_server::OwnServer;
use super::peers::Peer;
use super::process::ServerProcess;
use crate::host::loopback::free_address;
use crate::host::process;
use crate::load::hit_client::{HitClient, HitReport};

/// Time that a server has to learn all names.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause before queries that no server answers are sent again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Server with its name and version in the table.
pub(crate) struct HitServer {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) process: ServerProcess,
}

impl HitServer {
    /// Starts a server of ours, below a program that runs it where `runner` names one.
    pub(crate) fn own(server: OwnServer, runner: &[&str]) -> Self {
        let version = env!("CARGO_PKG_VERSION").into();
        Self { name: server.name().into(), version, process: server.spawn(runner) }
    }

    /// Starts a peer with its files in a folder, below a program that runs it where `runner` names one.
    pub(crate) fn peer(peer: &Peer, runner: &[&str], folder: &Path, upstream: SocketAddr) -> Self {
        let address = free_address();
        let child = peer.spawn(runner, folder, address, upstream);
        let version = if runner.is_empty() { peer.version() } else { String::new() };
        Self { name: peer.name.into(), version, process: ServerProcess { child, address, metrics: None } }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Queries all names until they are in the cache, which a server that forwards has to learn first: all but one in
    /// ten thousand, for which there may be no place. Returns the octets of a response; `None` where the server ends
    /// or does not learn the names in time.
    pub(crate) fn warm_up(&self, client: &mut HitClient, names: usize) -> Option<usize> {
        let deadline = Instant::now() + WARM_UP_TIMEOUT;
        let is_warm = |report: HitReport| report.answered * 10_000 >= report.sent * 9_999;
        while Instant::now() < deadline && process::is_running(self.process.pid()) {
            let report = client.send_queries(names);
            // Twice: some servers store a response after they have sent it.
            if is_warm(report) && is_warm(client.send_queries(names.min(10_000))) {
                return Some(report.length);
            }
            if report.answered == 0 {
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
        None
    }
}
