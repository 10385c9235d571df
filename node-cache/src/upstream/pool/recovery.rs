//! Probing of suspected and down servers. A suspected server is down when all probes of its confirmation are silent.
//! Once a second each down server is probed until it responds, so that its recovery is noticed without a query of a
//! client. Probes ask for names that the server has answered before and for the root, so that a silent name says
//! nothing about the server. Expired sockets are closed and retry budgets refilled on the same tick.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::interval;

use super::hedge::spawn_probe;
use crate::upstream::server::group::Group;

/// Interval at which the servers of a group are checked for due probes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Probes the down servers of a group for as long as it is in use.
pub(in crate::upstream) async fn probe_down_servers(group: Weak<Group>) {
    let mut ticks = interval(CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(group) = group.upgrade() else { return };
        let now = Instant::now();
        group.close_expired_sockets(now);
        group.refill_retry_budget(now);
        for (server, question) in group.take_probes(now) {
            spawn_probe(server, question);
        }
    }
}
