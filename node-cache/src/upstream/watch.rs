//! Watch of a process's upstreams: one task, which alone knows the clock, takes the step of each detector every tick
//! and sends its control queries.

mod starvation;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::Metrics;
use crate::upstream::detection::cells::TICK;
use crate::upstream::server::Server;
use starvation::Starvation;

/// Time after a tick was due at which the process counts as starved.
const LATE_TICK: Duration = Duration::from_millis(20);
/// Ticks between two readings of what the kernel counts.
const READING_TICKS: u32 = 10;
/// Shortest time between two control queries.
const MIN_CONTROL_GAP: Duration = Duration::from_millis(10);

/// Servers that are watched.
#[derive(Debug, Default)]
pub(in crate::upstream) struct WatchedServers(Mutex<Vec<Weak<Server>>>);

impl WatchedServers {
    /// Adds servers. Returns whether they are the first ones.
    pub(in crate::upstream) fn add(&self, added: &[Arc<Server>]) -> bool {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = servers.is_empty();
        servers.extend(added.iter().map(Arc::downgrade));
        is_first
    }

    /// Returns one server for each address, and forgets those that are not in use any more.
    fn by_address(&self) -> Vec<Arc<Server>> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One stays, so that the task that is running is known.
        let last = servers.last().cloned();
        servers.retain(|server| server.strong_count() > 0);
        if servers.is_empty() {
            servers.extend(last);
        }
        let mut found: Vec<Arc<Server>> = Vec::with_capacity(servers.len());
        for server in servers.iter().filter_map(Weak::upgrade) {
            if !found.iter().any(|other| other.address() == server.address()) {
                found.push(server);
            }
        }
        found
    }
}

/// Watches the upstreams of a process, with these metrics, for as long as its registry is in use.
pub(in crate::upstream) async fn watch_upstreams(watched: Weak<WatchedServers>, metrics: Arc<Metrics>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut starvation = Starvation::default();
    let mut number: u32 = 0;
    let mut stale_before = metrics.stale();
    loop {
        let due = ticks.tick().await;
        let Some(servers) = watched.upgrade().map(|watched| watched.by_address()) else { return };
        if servers.is_empty() {
            continue;
        }
        let now = Instant::now();
        let is_late = now.saturating_duration_since(due.into_std()) > LATE_TICK;
        number = number.wrapping_add(1);
        let is_short = number.is_multiple_of(READING_TICKS) && starvation.has_grown();
        let stale = metrics.stale();
        let new_stale = u32::try_from(stale - std::mem::replace(&mut stale_before, stale)).unwrap_or(u32::MAX);
        for server in servers {
            let questions = server.take_step(is_late || is_short, new_stale, now);
            if let Some(question) = server.take_port_query(now) {
                server.keep_port(question);
            }
            // At even times they would fall into step with the tokens of a policer.
            let gap = TICK / (questions.len().max(1) as u32);
            for (index, question) in questions.into_iter().enumerate() {
                let jitter = gap.saturating_sub(MIN_CONTROL_GAP).mul_f64(rand::random_range(0.0..1.0));
                server.send_control(question, gap * index as u32 + jitter);
            }
        }
    }
}
