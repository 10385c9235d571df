//! Judgement over the servers of a group: their outcomes are collected, and each gets its standing.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use node_cache_config::status::UpstreamState;

use super::Server;
use super::health::Health;
use super::outliers::{OutlierRecord, Sample, judge};
use super::standing::Standing;
use super::timestamp::Timestamp;

/// Judges the servers of a group at `now`.
pub(super) fn judge_servers(servers: &[Arc<Server>], now: Instant) {
    let now = Timestamp::of(now);
    let samples: Vec<Sample> = servers.iter().map(|server| server.take_sample(now)).collect();
    let mut records: Vec<MutexGuard<'_, OutlierRecord>> =
        servers.iter().map(|server| server.selection.outlier()).collect();
    let before: Vec<Standing> = records.iter().map(|record| record.standing()).collect();
    judge(&mut records.iter_mut().map(|record| &mut **record).collect::<Vec<_>>(), &samples, now);
    let usual_in_group = records.iter().filter_map(|record| record.usual_latency()).min();
    for ((server, record), before) in servers.iter().zip(&records).zip(before) {
        server.state().outcomes().set_slow_above(record.slow_above(usual_in_group));
        server.apply_standing(record, before, now);
    }
}

impl Server {
    fn take_sample(&self, now: Timestamp) -> Sample {
        let is_down = self.selection.health(now) != Health::Up;
        let mut state = self.state();
        Sample { counts: state.outcomes().take(), median: state.breaker().median(), is_down }
    }

    fn apply_standing(&self, record: &OutlierRecord, before: Standing, now: Timestamp) {
        let standing = record.standing();
        if standing == before {
            return;
        }
        self.selection.standing.set(standing);
        if let Some((reason, time)) = record.ejection(now) {
            self.forget_lame_domains(now);
            let (upstream, seconds, reason) = (self.address, time.as_secs(), reason.text());
            tracing::warn!(%upstream, seconds, reason, "upstream is left while others do better");
        } else if before == Standing::Ejected {
            tracing::info!(upstream = %self.address, "upstream gets queries again, by slow start");
        }
    }

    /// Lets the share of a server that is up again rise slowly, where there are others.
    pub(super) fn start_return(&self, now: Timestamp) {
        let mut record = self.selection.outlier();
        record.start_return(now);
        self.selection.standing.set(record.standing());
        drop(record);
        self.forget_lame_domains(now);
    }

    /// Returns the state in which the server is now.
    #[must_use]
    pub fn upstream_state(&self) -> UpstreamState {
        let now = Timestamp::of(Instant::now());
        match self.selection.outlier().standing() {
            _ if self.selection.health(now) != Health::Up => UpstreamState::Down,
            Standing::Ejected => UpstreamState::Ejected,
            Standing::Returning(_) => UpstreamState::Returning,
            Standing::Suspected => UpstreamState::Suspected,
            Standing::Full => UpstreamState::Up,
        }
    }

    /// Returns why the server is left for a while, in words, and for how long; `None` while it is not.
    #[must_use]
    pub fn ejection(&self) -> Option<(&'static str, Duration)> {
        let (reason, time) = self.selection.outlier().ejection(Timestamp::of(Instant::now()))?;
        Some((reason.text(), time))
    }
}
