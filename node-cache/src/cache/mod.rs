//! Answers kept in memory, within a number of bytes. Pure: the time is a parameter.
//!
//! Whole answers are kept under the question that brought them and under nothing else, so that what an answer claims
//! beside the question is never believed. Each route has its own scope in the key: one server cannot plant what another
//! one is asked for.

mod entry;
mod failures;
mod key;

use std::sync::Arc;
use std::time::Instant;

use crate::answer::Answer;
use crate::packet::numbers::rcode;
use crate::packet::{Lifetime, Response};

use entry::Entry;
pub use entry::Policy;
use failures::Failures;
pub use key::Key;

/// Bytes of an entry beside its key and its answer: our two allocations with their counts, and what the map keeps for
/// it (slot of the hash table, nodes of its queues, counters). Measured as growth of the resident set from 20,000 to
/// 120,000 entries: 530 each; a little more because the table grows by doubling.
const OVERHEAD: usize = 560;
/// The failure cache gets this share of all bytes, and no more than [`MOST_FAILURE_BYTES`].
const FAILURE_SHARE: u64 = 16;
const MOST_FAILURE_BYTES: u64 = 1 << 20;

/// What is in memory for a question.
#[derive(Clone, Debug)]
pub enum Found {
    /// An answer in its time.
    Fresh(Answer),
    /// An answer past its time but inside the window of RFC 8767.
    Stale(Answer),
    /// Nothing that may be said.
    Nothing,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    answers: moka::sync::Cache<Key, Arc<Entry>>,
    failures: Failures,
}

impl Cache {
    /// A cache that holds this many bytes at the most, its bookkeeping included.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let failure_bytes = (bytes / FAILURE_SHARE).min(MOST_FAILURE_BYTES);
        let answers = moka::sync::Cache::builder()
            .max_capacity(bytes - failure_bytes)
            .weigher(|key: &Key, entry: &Arc<Entry>| weight(key, &entry.response))
            .build();
        Self { answers, failures: Failures::new(failure_bytes) }
    }

    /// What is there for this key now.
    #[must_use]
    pub fn get(&self, key: &Key, now: Instant, policy: &Policy) -> Found {
        self.answers.get(key).map_or(Found::Nothing, |entry| entry.at(now, policy))
    }

    /// Keeps an answer for as long as it says. A good one that must not be kept still ends what was known before.
    pub fn insert(&self, key: &Key, response: &Arc<Response>, now: Instant) {
        match response.lifetime() {
            Lifetime::Positive(_) | Lifetime::Negative(_) => {
                self.failures.clear(key);
                self.answers.insert(key.clone(), Arc::new(Entry { response: response.clone(), stored: now }));
            }
            Lifetime::None if matches!(response.rcode(), rcode::NOERROR | rcode::NXDOMAIN) => {
                self.failures.clear(key);
                self.answers.invalidate(key);
            }
            Lifetime::None => {}
        }
    }

    /// Remembers for a moment that nobody could answer (RFC 9520): the failing response, or none when all were silent.
    pub fn insert_failure(&self, key: &Key, response: Option<Arc<Response>>, now: Instant) {
        self.failures.insert(key, response, now);
    }

    /// The failure that is remembered for this key: the failing response, or none inside when all were silent.
    #[must_use]
    pub fn failure(&self, key: &Key, now: Instant) -> Option<Option<Arc<Response>>> {
        self.failures.get(key, now)
    }

    /// Bytes held, after everything that waits to be evicted is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.answers.run_pending_tasks();
        self.answers.weighted_size() + self.failures.bytes()
    }

    /// Number of answers held.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.answers.entry_count()
    }
}

/// Bytes that an answer takes under a key.
fn weight(key: &Key, response: &Response) -> u32 {
    let bytes = OVERHEAD + key.len() + response.wire().len() + 2 * response.ttl_offsets().len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
