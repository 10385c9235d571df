//! Answers from memory, counted for a batch of datagrams without touching what others read, and added once a batch.

use std::ptr;

use prometheus_client::metrics::counter::Counter;

use crate::packet::numbers::rcode;

/// Scopes of one batch that are told apart without touching their counters. Answers in further ones cost a little more.
const SCOPES: usize = 4;

/// Counters of one scope's answers from memory in datagrams, found once and then only counted up.
#[derive(Debug)]
pub struct ScopeHits {
    pub(super) hits: Counter,
    pub(super) noerror: Counter,
    pub(super) nxdomain: Counter,
}

impl ScopeHits {
    /// Counts an answer from memory, which is NOERROR or NXDOMAIN.
    #[inline]
    pub fn count(&self, code: u16) {
        let nxdomain = u32::from(code == rcode::NXDOMAIN);
        self.add(1 - nxdomain, nxdomain);
    }

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
    scopes: [InScope<'a>; SCOPES],
}

#[derive(Clone, Copy, Debug, Default)]
struct InScope<'a> {
    scope: Option<&'a ScopeHits>,
    noerror: u32,
    nxdomain: u32,
}

impl<'a> Tally<'a> {
    /// Counts a question in a datagram and its answer from memory, which is NOERROR or NXDOMAIN.
    #[inline]
    pub fn hit(&mut self, scope: &'a ScopeHits, code: u16) {
        self.total += 1;
        let nxdomain = u32::from(code == rcode::NXDOMAIN);
        let place = self.scopes.iter_mut().find(|place| place.scope.is_none_or(|known| ptr::eq(known, scope)));
        match place {
            Some(place) => {
                place.scope = Some(scope);
                place.noerror += 1 - nxdomain;
                place.nxdomain += nxdomain;
            }
            None => scope.add(1 - nxdomain, nxdomain),
        }
    }

    /// How many were counted.
    #[must_use]
    #[inline]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// Adds them to the counters of their scopes.
    #[inline]
    pub(super) fn add_to_scopes(&self) {
        for InScope { scope, noerror, nxdomain } in &self.scopes {
            let Some(scope) = scope else { return };
            scope.add(*noerror, *nxdomain);
        }
    }
}
