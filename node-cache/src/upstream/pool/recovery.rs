//! Probing of suspected and down servers. A suspected server is down when all probes of its confirmation are silent.
//! Once a second each down server is probed until it responds, so that its recovery is noticed without a query of a
//! client. Probes ask for names that the server has answered before and for the root, so that a silent name says
//! nothing about the server. Expired sockets are closed and retry budgets refilled on the same tick. The servers of the
//! group are judged four times as often.

use std::sync::Weak;
use std::time::Instant;

use tokio::time::interval;

use super::hedge::spawn_probe;
use crate::upstream::server::group::Group;
use crate::upstream::server::outliers::JUDGEMENT_INTERVAL;

/// Judgements of the servers of a group for each check of a second: for due probes, expired sockets and retry budgets.
const JUDGEMENTS_PER_CHECK: u64 = 1_000 / JUDGEMENT_INTERVAL.as_millis() as u64;

/// Probes the down servers of a group, and judges all of them, for as long as it is in use.
pub(in crate::upstream) async fn probe_down_servers(group: Weak<Group>) {
    let mut ticks = interval(JUDGEMENT_INTERVAL);
    for tick in 0_u64.. {
        ticks.tick().await;
        let Some(group) = group.upgrade() else { return };
        let now = Instant::now();
        group.judge(now);
        if tick % JUDGEMENTS_PER_CHECK == 0 {
            check(&group, now);
        }
    }
}

fn check(group: &Group, now: Instant) {
    group.close_expired_sockets(now);
    group.refill_retry_budget(now);
    for (server, question) in group.take_probes(now) {
        spawn_probe(server, question);
    }
}
