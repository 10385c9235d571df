//! Responses by scope and rcode. The metrics page shows them by kind of scope, the status page by scope. Counters are
//! looked up once for a scope, so that a hit finds its own without a lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_cache_config::figures::{MAX_SCOPES, OTHER_SCOPES, ScopeResponses};
use prometheus_client::metrics::counter::Counter;

use super::labels::{rcode_label, scope_kind};
use crate::dns::codes::rcode;

/// Counters of the responses in one scope, or in some scopes of one kind.
#[derive(Debug, Default)]
pub(super) struct RcodeCounters {
    pub(super) noerror: Counter,
    pub(super) nxdomain: Counter,
    servfail: Counter,
    refused: Counter,
    other: Counter,
}

impl RcodeCounters {
    /// Returns the counter of responses with an rcode.
    pub(super) const fn for_rcode(&self, rcode: u16) -> &Counter {
        match rcode {
            rcode::NOERROR => &self.noerror,
            rcode::NXDOMAIN => &self.nxdomain,
            rcode::SERVFAIL => &self.servfail,
            rcode::REFUSED => &self.refused,
            _ => &self.other,
        }
    }

    /// Returns the counts with NOERROR, NXDOMAIN, SERVFAIL, REFUSED and other rcodes.
    fn counts(&self) -> [u64; 5] {
        [&self.noerror, &self.nxdomain, &self.servfail, &self.refused, &self.other].map(Counter::get)
    }
}

/// Rcodes of [`RcodeCounters::counts`] as values of a label.
const LABELS: [&str; 5] = ["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", "other"];

/// Responses of one process.
#[derive(Debug, Default)]
pub(super) struct Responses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Counters of scopes that have their own; one fewer than [`MAX_SCOPES`].
    scopes: BTreeMap<String, Arc<RcodeCounters>>,
    /// Counters that all other scopes share, by kind.
    others: BTreeMap<String, Arc<RcodeCounters>>,
    /// Responses in scopes of earlier revisions, by kind: sums never decrease.
    ended: BTreeMap<String, [u64; 5]>,
    /// Responses outside of all scopes, by the labels `scope` and `rcode`.
    unscoped: BTreeMap<(&'static str, &'static str), u64>,
}

impl Responses {
    /// Returns the counters of a scope. As long as they are held they stay those of this scope. Scopes that find no
    /// room share the counters of their kind.
    pub(super) fn of_scope(&self, scope: &str) -> Arc<RcodeCounters> {
        let mut state = self.state();
        if let Some(counters) = state.scopes.get(scope) {
            return counters.clone();
        }
        if state.scopes.len() + 1 >= MAX_SCOPES {
            state.end_unused();
        }
        let has_room = state.scopes.len() + 1 < MAX_SCOPES;
        let (map, key) = if has_room { (&mut state.scopes, scope) } else { (&mut state.others, scope_kind(scope)) };
        map.entry(key.to_owned()).or_default().clone()
    }

    /// Counts a response outside of all scopes.
    pub(super) fn count_unscoped(&self, scope: &'static str, rcode: u16) {
        *self.state().unscoped.entry((scope, rcode_label(scope, rcode))).or_default() += 1;
    }

    /// Returns the number of responses by kind of scope and rcode, for the metrics page.
    pub(super) fn by_kind(&self) -> BTreeMap<(String, &'static str), u64> {
        let state = self.state();
        let mut kinds: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
        let counted = state.scopes.iter().chain(&state.others).map(|(scope, counters)| (scope, counters.counts()));
        for (scope, counts) in counted.chain(state.ended.iter().map(|(kind, counts)| (kind, *counts))) {
            add(kinds.entry(scope_kind(scope)).or_default(), counts);
        }
        let mut responses: BTreeMap<_, _> =
            state.unscoped.iter().map(|((scope, rcode), count)| (((*scope).to_owned(), *rcode), *count)).collect();
        for (kind, counts) in kinds.into_iter().filter(|(_, counts)| *counts != [0; 5]) {
            for (index, (label, count)) in LABELS.into_iter().zip(counts).enumerate() {
                // Usual rcodes have their series from the first response on.
                if count > 0 || index < 2 {
                    responses.insert((kind.to_owned(), label), count);
                }
            }
        }
        responses
    }

    /// Returns the number of responses by scope, for the status page: of scopes that have any.
    pub(super) fn by_scope(&self) -> Vec<ScopeResponses> {
        let state = self.state();
        let mut others = [0; 5];
        state.others.values().for_each(|counters| add(&mut others, counters.counts()));
        let scopes = state.scopes.iter().map(|(scope, counters)| (scope.as_str(), counters.counts()));
        let rows = scopes.chain([(OTHER_SCOPES, others)]).filter(|(_, counts)| *counts != [0; 5]);
        rows.map(|(scope, [noerror, nxdomain, servfail, refused, other])| ScopeResponses {
            noerror,
            nxdomain,
            servfail,
            other: refused + other,
            ..ScopeResponses::new(scope)
        })
        .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes room: ends the scopes that no revision in use has.
    fn end_unused(&mut self) {
        let Self { scopes, ended, .. } = self;
        scopes.retain(|scope, counters| {
            let is_used = Arc::strong_count(counters) > 1;
            if !is_used {
                add(ended.entry(scope_kind(scope).to_owned()).or_default(), counters.counts());
            }
            is_used
        });
    }
}

fn add(sums: &mut [u64; 5], counts: [u64; 5]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_beyond_the_bound_are_one_entry_and_lose_no_response() {
        let responses = Responses::default();
        let held: Vec<_> = (0..40).map(|number| responses.of_scope(&format!("route/{number:02}.example"))).collect();
        for counters in &held {
            counters.for_rcode(rcode::NOERROR).inc_by(2);
            counters.for_rcode(rcode::REFUSED).inc();
        }
        let rows = responses.by_scope();
        assert_eq!(rows.len(), MAX_SCOPES);
        let others = rows.iter().find(|row| row.scope == OTHER_SCOPES).unwrap();
        assert_eq!((others.noerror, others.other), (18, 9));
        assert_eq!(responses.by_kind()[&("route".to_owned(), "NOERROR")], 80);
    }

    #[test]
    fn scopes_of_earlier_revisions_make_room_and_no_sum_of_a_kind_decreases() {
        let responses = Responses::default();
        for revision in 0..5 {
            let name = |number| format!("route/{number}.revision-{revision}.example");
            let held: Vec<_> = (0..20).map(|number| responses.of_scope(&name(number))).collect();
            held.iter().for_each(|counters| {
                counters.for_rcode(rcode::NXDOMAIN).inc();
            });
            let rows = responses.by_scope();
            let of_revision = rows.iter().filter(|row| row.nxdomain == 1 && row.scope != OTHER_SCOPES).count();
            assert!(rows.len() <= MAX_SCOPES && of_revision >= 20, "{rows:?}");
            assert_eq!(responses.by_kind()[&("route".to_owned(), "NXDOMAIN")], 20 * (revision + 1));
        }
    }
}
