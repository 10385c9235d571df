//! Cache hits of one batch of datagrams, counted without touching shared counters and added to them once a batch.

use std::ptr;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use super::responses::RcodeCounters;
use crate::dns::codes::rcode;

/// Counters of one scope's responses, looked up once.
#[derive(Debug)]
pub struct ScopeCounters {
    hits: Counter,
    noerror: Counter,
    nxdomain: Counter,
    /// Counters of all rcodes, those above among them.
    responses: Arc<RcodeCounters>,
}

impl ScopeCounters {
    pub(super) fn new(hits: Counter, responses: Arc<RcodeCounters>) -> Self {
        Self { hits, noerror: responses.noerror.clone(), nxdomain: responses.nxdomain.clone(), responses }
    }

    /// Returns the counter of responses with an rcode.
    pub(super) fn for_rcode(&self, rcode: u16) -> &Counter {
        self.responses.for_rcode(rcode)
    }

    /// Adds cache hits.
    #[inline]
    fn add_hits(&self, noerror: u32, nxdomain: u32) {
        self.hits.inc_by(u64::from(noerror) + u64::from(nxdomain));
        for (counter, hits) in [(&self.noerror, noerror), (&self.nxdomain, nxdomain)] {
            if hits > 0 {
                counter.inc_by(hits.into());
            }
        }
    }
}

/// Cache hits of one batch of datagrams. They count only after [`super::Metrics::add_batch`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally<'a> {
    /// Hits in earlier scopes, which are added to their counters already.
    added: u32,
    /// Scope of the latest hits. They are counted here until a hit in another scope follows: most batches have one
    /// scope.
    scope: Option<&'a ScopeCounters>,
    hits: u32,
    /// Sum of the hits' rcodes, each of which is NOERROR (0) or NXDOMAIN.
    rcode_sum: u32,
}

const _: () = assert!(rcode::NOERROR == 0 && rcode::NXDOMAIN > 0);

impl<'a> Tally<'a> {
    /// Counts a cache hit over UDP; `rcode` must be NOERROR or NXDOMAIN.
    #[inline]
    pub fn count_hit(&mut self, scope: &'a ScopeCounters, rcode: u16) {
        if !self.scope.is_some_and(|current| ptr::eq(current, scope)) {
            self.change_scope(scope);
        }
        self.hits += 1;
        self.rcode_sum += u32::from(rcode);
    }

    #[cold]
    fn change_scope(&mut self, scope: &'a ScopeCounters) {
        self.add_to_scope();
        *self = Self { added: self.added + self.hits, scope: Some(scope), hits: 0, rcode_sum: 0 };
    }

    /// Returns the number of hits counted.
    #[must_use]
    #[inline]
    pub const fn total(&self) -> u32 {
        self.added + self.hits
    }

    /// Adds the hits in the current scope to its counters.
    pub(super) fn add_to_scope(&self) {
        if let Some(scope) = self.scope {
            let nxdomain = self.rcode_sum / u32::from(rcode::NXDOMAIN);
            scope.add_hits(self.hits.saturating_sub(nxdomain), nxdomain);
        }
    }
}
