//! Counters of a flood.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use super::Report;
use crate::dns::rcode_name;

/// Counters of a running flood.
pub(super) struct Tally {
    start: Instant,
    last_response: Instant,
    max_gap: Duration,
    rcodes: BTreeMap<u16, u64>,
    report: Report,
}

impl Tally {
    pub(super) fn new(start: Instant) -> Self {
        let report = Report::default();
        Self { start, last_response: start, max_gap: Duration::ZERO, rcodes: BTreeMap::new(), report }
    }

    pub(super) fn sent(&mut self) {
        self.report.sent += 1;
    }

    pub(super) fn answered(&mut self, rcode: ResponseCode) {
        self.report.answered += 1;
        *self.rcodes.entry(rcode.into()).or_default() += 1;
        let now = Instant::now();
        self.max_gap = self.max_gap.max(now - self.last_response);
        self.last_response = now;
    }

    pub(super) fn refused(&mut self) {
        self.report.refused += 1;
    }

    pub(super) fn unexpected(&mut self) {
        self.report.unexpected += 1;
    }

    pub(super) fn lost(&mut self, sent_at: Instant) {
        self.report.lost += 1;
        let offset = milliseconds(sent_at - self.start);
        self.report.first_lost_ms.get_or_insert(offset);
        self.report.last_lost_ms = Some(offset);
    }

    pub(super) fn report(self) -> Report {
        let rcodes = self.rcodes.into_iter().map(|(code, count)| (rcode_name(code.into()), count));
        Report { rcodes: rcodes.collect(), max_gap_ms: milliseconds(self.max_gap), ..self.report }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
