//! Probes past the cache: what the upstreams of a name say now. Neither the cache nor its failures are read, no query
//! in flight is joined, and nothing is stored: a probe changes no client's response.

use std::sync::Arc;

use tokio::time::Instant;

use super::Resolver;
use super::local_names;
use super::single_flight::FlightEvent;
use crate::dns::answer_digest::answer_digest;
use crate::dns::codes::rcode;
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dns::{Edns, Name, Response, alias};
use crate::snapshot::Snapshot;
use crate::upstream::QueryPurpose;

/// Scopes in which a chain of aliases is followed, at most.
const MAX_PARTS: usize = 8;

/// Answer of the upstreams of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamAnswer {
    /// Response code; SERVFAIL where no upstream responds.
    pub rcode: u16,
    /// Digest of the rcode and of the answer section, aliases into other scopes included.
    pub digest: String,
}

impl UpstreamAnswer {
    /// Returns the answer where no upstream responds in time.
    #[must_use]
    pub fn none() -> Self {
        Self { rcode: rcode::SERVFAIL, digest: answer_digest(rcode::SERVFAIL, &[]) }
    }
}

impl Resolver {
    /// Asks the upstreams of a name past the cache. `None` before the first snapshot. Takes as long as the deadlines of
    /// the scopes allow.
    pub async fn ask_upstreams(&self, name: &Name, rtype: u16) -> Option<UpstreamAnswer> {
        let snapshot = self.snapshot()?;
        let mut parts: Vec<Arc<Response>> = Vec::new();
        let mut next = Some(name.lower());
        let mut code = rcode::SERVFAIL;
        while let Some(target) = next.take().filter(|_| parts.len() < MAX_PARTS) {
            let query = Query { edns: Some(Edns::default()), ..Query::plain(target, rtype) };
            let Some(response) = self.ask_scope(&snapshot, query.question()).await else {
                code = rcode::SERVFAIL;
                break;
            };
            code = response.rcode();
            next = alias::continuation(&response);
            parts.push(response);
        }
        let parts: Vec<&Response> = parts.iter().map(|part| &**part).collect();
        Some(UpstreamAnswer { rcode: code, digest: answer_digest(code, &parts) })
    }

    /// Asks the upstreams of a question's scope; `None` where none responds.
    async fn ask_scope(&self, snapshot: &Arc<Snapshot>, question: Question) -> Option<Arc<Response>> {
        let local = local_names::answer(&question, &self.identity).or_else(|| snapshot.empty_zones.answer(&question));
        if let Some(answer) = local {
            return Some(answer.response);
        }
        let scope = snapshot.routes.find(&question.name).clone();
        let question = Arc::new(question);
        // Clients would be asked to wait for it as well, so that a packet budget has the same room for it.
        let (query, _) = self.start_query(snapshot, &scope, question, QueryPurpose::Client);
        match query.await {
            FlightEvent::End(result) | FlightEvent::Deadline(result) => result.ok(),
        }
    }
}

/// Bounds the probes of one process, so that nobody loads its upstreams with them.
#[derive(Clone, Copy, Debug)]
pub struct ProbeBudget {
    /// Probes that may start now.
    tokens: f64,
    refilled: Instant,
}

impl ProbeBudget {
    /// Probes that may start in one second, on average.
    pub const PER_SECOND: f64 = 4.0;
    /// Probes that may start at once: those of one look.
    pub const BURST: f64 = 20.0;

    /// Returns a full budget.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { tokens: Self::BURST, refilled: now }
    }

    /// Takes the room of one probe; returns whether there was any.
    pub fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = seconds.mul_add(Self::PER_SECOND, self.tokens).min(Self::BURST);
        self.refilled = now;
        let has_room = self.tokens >= 1.0;
        if has_room {
            self.tokens -= 1.0;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn probes_are_bounded_however_many_are_asked_for() {
        let start = Instant::now();
        let mut budget = ProbeBudget::new(start);
        let taken = |budget: &mut ProbeBudget, at: Duration| (0..1_000).filter(|_| budget.take(start + at)).count();
        assert_eq!(taken(&mut budget, Duration::ZERO), 20);
        assert_eq!(taken(&mut budget, Duration::from_millis(250)), 1);
        assert_eq!(taken(&mut budget, Duration::from_millis(2250)), 8);
        let in_a_minute: usize = (9..249).map(|quarter| taken(&mut budget, Duration::from_millis(250 * quarter))).sum();
        assert!((239..=241).contains(&in_a_minute), "{in_a_minute}");
        assert_eq!(taken(&mut budget, Duration::from_secs(3600)), 20);
    }
}
