//! Answers from memory, counted for a batch of datagrams without touching what others read, and added once a batch.

use std::ptr;

use prometheus_client::metrics::counter::Counter;

use crate::packet::numbers::rcode;

/// Counters of one scope's answers from memory in datagrams, found once and then only counted up.
#[derive(Debug)]
pub struct ScopeHits {
    pub(super) hits: Counter,
    pub(super) noerror: Counter,
    pub(super) nxdomain: Counter,
}

impl ScopeHits {
    #[inline]
    fn add(&self, noerror: u32, nxdomain: u32) {
        self.hits.inc_by(u64::from(noerror) + u64::from(nxdomain));
        for (counter, number) in [(&self.noerror, noerror), (&self.nxdomain, nxdomain)] {
            if number > 0 {
                counter.inc_by(number.into());
            }
        }
    }
}

/// The answers from memory of one batch of datagrams. What is not added with [`super::Metrics::add`] was never counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally<'a> {
    total: u32,
    /// The scope of the last ones, which are counted here until another one comes: most batches have only one.
    scope: Option<&'a ScopeHits>,
    hits: u32,
    nxdomain: u32,
}

impl<'a> Tally<'a> {
    /// Counts a question in a datagram and its answer from memory, which is NOERROR or NXDOMAIN.
    #[inline]
    pub fn hit(&mut self, scope: &'a ScopeHits, code: u16) {
        if !self.scope.is_some_and(|known| ptr::eq(known, scope)) {
            self.turn_to(scope);
        }
        self.hits += 1;
        if code == rcode::NXDOMAIN {
            self.nxdomain += 1;
        }
    }

    #[cold]
    fn turn_to(&mut self, scope: &'a ScopeHits) {
        self.add_to_scope();
        *self = Self { total: self.total + self.hits, scope: Some(scope), hits: 0, nxdomain: 0 };
    }

    /// How many were counted.
    #[must_use]
    #[inline]
    pub const fn total(&self) -> u32 {
        self.total + self.hits
    }

    /// Adds those of the last scope to its counters.
    pub(super) fn add_to_scope(&self) {
        if let Some(scope) = self.scope {
            scope.add(self.hits - self.nxdomain, self.nxdomain);
        }
    }
}
