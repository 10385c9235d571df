//! Probing of down servers: once a second each of them is probed until it responds, so that its recovery is noticed
//! without a query of a client. Expired sockets are closed on the same tick.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::interval;

use super::hedge::HedgedQuery;
use crate::upstream::server::group::Group;

/// Interval at which the servers of a group are checked for due probes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);

/// Probes the down servers of a group for as long as it is in use.
pub(in crate::upstream) async fn probe_down_servers(group: Weak<Group>) {
    let mut ticks = interval(CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(group) = group.upgrade() else { return };
        let now = Instant::now();
        group.close_expired_sockets(now);
        for (server, question) in group.take_probes(now) {
            let deadline = tokio::time::Instant::now() + PROBE_TIMEOUT;
            tokio::spawn(HedgedQuery::probe(server, question, PROBE_TIMEOUT, deadline));
        }
    }
}
