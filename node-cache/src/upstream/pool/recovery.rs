//! Dead servers are asked again what they did not answer, once a second, until they answer: a server that is well again
//! is known to be so although nobody has a question for it. Sockets that have become old are closed on the way.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::interval;

use super::hedge::HedgedQuery;
use crate::upstream::server::Group;

/// How often dead servers are looked for.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one of them has to answer.
const PATIENCE: Duration = Duration::from_millis(900);

/// Keeps at it for as long as the group is in use.
pub(in crate::upstream) async fn follow(group: Weak<Group>) {
    let mut ticks = interval(PAUSE);
    loop {
        ticks.tick().await;
        let Some(group) = group.upgrade() else { return };
        let now = Instant::now();
        group.close_old_sockets(now);
        for (server, question) in group.due(now) {
            tokio::spawn(HedgedQuery::probe(server, question, PATIENCE, tokio::time::Instant::now() + PATIENCE));
        }
    }
}
