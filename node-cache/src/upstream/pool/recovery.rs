//! Probing of suspected and down servers. A suspected server is down when all probes of its confirmation are silent.
//! Once a second each down server is probed until it responds, so that its recovery is noticed without a query of a
//! client. Probes ask for names that the server has answered before and for the root, so that a silent name says
//! nothing about the server. Expired sockets are closed on the same tick.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::interval;

use super::hedge::HedgedQuery;
use crate::dns::question::Question;
use crate::upstream::server::Server;
use crate::upstream::server::group::Group;

/// Interval at which the servers of a group are checked for due probes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of a probe, after which it counts as a failure.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Time from the start of a probe for which its response is awaited: longer than the timeout, which would not count
/// otherwise.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Probes the down servers of a group for as long as it is in use.
pub(in crate::upstream) async fn probe_down_servers(group: Weak<Group>) {
    let mut ticks = interval(CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(group) = group.upgrade() else { return };
        let now = Instant::now();
        group.close_expired_sockets(now);
        for (server, question) in group.take_probes(now) {
            spawn_probe(server, question);
        }
    }
}

/// Probes a server if its silence is to be confirmed.
///
/// Must be called inside a Tokio runtime.
pub(super) fn confirm_silence(server: &Arc<Server>) {
    for question in server.take_confirmation() {
        spawn_probe(server.clone(), question);
    }
}

fn spawn_probe(server: Arc<Server>, question: Arc<Question>) {
    let deadline = tokio::time::Instant::now() + PROBE_DEADLINE;
    tokio::spawn(HedgedQuery::probe(server, question, PROBE_TIMEOUT, deadline));
}
