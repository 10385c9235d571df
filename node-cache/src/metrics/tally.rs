//! Answers from memory, counted for a batch of datagrams without touching what others read, and added once a batch.

use std::ptr;

use prometheus_client::metrics::counter::Counter;

use crate::dns::codes::rcode;

/// Counters of one scope's usual answers in datagrams, found once and then only counted up.
#[derive(Debug)]
pub struct ScopeAnswers {
    pub(super) hits: Counter,
    pub(super) noerror: Counter,
    pub(super) nxdomain: Counter,
}

impl ScopeAnswers {
    /// The counter of answers with this code; none when it is an unusual one.
    pub(super) const fn of(&self, code: u16) -> Option<&Counter> {
        match code {
            rcode::NOERROR => Some(&self.noerror),
            rcode::NXDOMAIN => Some(&self.nxdomain),
            _ => None,
        }
    }

    /// Adds answers from memory.
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
    scope: Option<&'a ScopeAnswers>,
    hits: u32,
    /// The sum of their codes, each of which is one of two.
    codes: u32,
}

const _: () = assert!(rcode::NOERROR == 0 && rcode::NXDOMAIN > 0);

impl<'a> Tally<'a> {
    /// Counts a question in a datagram and its answer from memory, which is NOERROR or NXDOMAIN.
    #[inline]
    pub fn hit(&mut self, scope: &'a ScopeAnswers, code: u16) {
        if !self.scope.is_some_and(|known| ptr::eq(known, scope)) {
            self.turn_to(scope);
        }
        self.hits += 1;
        self.codes += u32::from(code);
    }

    #[cold]
    fn turn_to(&mut self, scope: &'a ScopeAnswers) {
        self.add_to_scope();
        *self = Self { total: self.total + self.hits, scope: Some(scope), hits: 0, codes: 0 };
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
            let nxdomain = self.codes / u32::from(rcode::NXDOMAIN);
            scope.add(self.hits.saturating_sub(nxdomain), nxdomain);
        }
    }
}
