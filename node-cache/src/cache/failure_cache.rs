//! Resolution failure cache (RFC 9520): a query that no upstream could answer is not sent again at once, with
//! exponential back-off while failures repeat.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::key::Key;
use crate::dns::Response;

/// How long the first failure of a key is cached. Each further one in a row doubles the duration, up to
/// [`MAX_BACKOFF`].
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Far below the five minutes that RFC 9520 §3.2 allows, so that an upstream that recovers is soon queried again.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Failures further apart than this are not in a row: the back-off starts anew.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(15);
/// Bytes of an entry beside its key, which is there twice, and its response: slots of the map and of the queue,
/// overhead of the allocations. Rounded up.
const ENTRY_OVERHEAD: usize = 256;

/// Cached resolution failure.
#[derive(Clone, Debug)]
pub struct CachedFailure {
    /// Failing response of an upstream, such as SERVFAIL; `None` when no upstream responded.
    pub response: Option<Arc<Response>>,
}

#[derive(Clone, Debug)]
struct Entry {
    response: Option<Arc<Response>>,
    failed_at: Instant,
    backoff: Duration,
    bytes: usize,
}

impl Entry {
    /// Ends the back-off. The entry stays in the queue, and its bytes count, until it is the oldest: removing it here
    /// would take a search of the queue.
    fn clear(&mut self) {
        self.backoff = Duration::ZERO;
        self.response = None;
    }
}

/// Failure cache of bounded size; evicts the oldest entries first.
#[derive(Debug)]
pub(super) struct FailureCache {
    max_bytes: usize,
    entries: Mutex<Entries>,
    /// Whether a failure was ever inserted: without one, lookups take no lock.
    is_used: AtomicBool,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Key, Entry, RandomState>,
    /// Keys in the order of their first insertion.
    queue: VecDeque<Key>,
    bytes: usize,
}

impl FailureCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, entries: Mutex::default(), is_used: AtomicBool::new(false) }
    }

    /// Returns the failure of a key while its back-off lasts.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<CachedFailure> {
        if !self.is_used.load(Ordering::Acquire) {
            return None;
        }
        let entries = self.entries();
        let entry = entries.by_key.get(key)?;
        let is_backing_off = now.saturating_duration_since(entry.failed_at) < entry.backoff;
        is_backing_off.then(|| CachedFailure { response: entry.response.clone() })
    }

    /// Inserts a failure of a key at `now`. The back-off doubles if the key failed less than 15 s ago.
    pub(super) fn insert(&self, key: &Key, response: Option<Arc<Response>>, now: Instant) {
        let response_bytes =
            response.as_ref().map_or(0, |response| response.wire().len() + 2 * response.ttl_offsets().len());
        let bytes = ENTRY_OVERHEAD + 2 * size_of_val(key.as_words()) + response_bytes;
        self.is_used.store(true, Ordering::Release);
        let mut entries = self.entries();
        let is_in_row = |entry: &&Entry| now.saturating_duration_since(entry.failed_at) < BACKOFF_RESET_AFTER;
        let previous = entries.by_key.get(key).filter(is_in_row);
        let backoff = previous.map_or(INITIAL_BACKOFF, |entry| (entry.backoff * 2).clamp(INITIAL_BACKOFF, MAX_BACKOFF));
        match entries.by_key.insert(key.clone(), Entry { response, failed_at: now, backoff, bytes }) {
            Some(replaced) => entries.bytes -= replaced.bytes,
            None => entries.queue.push_back(key.clone()),
        }
        entries.bytes += bytes;
        while entries.bytes > self.max_bytes {
            let Some(oldest) = entries.queue.pop_front() else { break };
            entries.bytes -= entries.by_key.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }

    /// Clears the failure of a key, so that the next one starts with the initial back-off.
    pub(super) fn clear(&self, key: &Key) {
        if !self.is_used.load(Ordering::Acquire) {
            return;
        }
        if let Some(entry) = self.entries().by_key.get_mut(key) {
            entry.clear();
        }
    }

    /// Clears the failure of a key if it is from before `time`.
    pub(super) fn clear_before(&self, key: &Key, time: Instant) {
        if let Some(entry) = self.entries().by_key.get_mut(key).filter(|entry| entry.failed_at < time) {
            entry.clear();
        }
    }

    /// Clears the failures of the keys for which `predicate` returns true.
    pub(super) fn clear_where(&self, mut predicate: impl FnMut(&[u64]) -> bool) {
        for (key, entry) in &mut self.entries().by_key {
            if predicate(key.as_words()) {
                entry.clear();
            }
        }
    }

    /// Returns the bytes of all entries, cleared and expired ones included.
    pub(super) fn bytes(&self) -> usize {
        self.entries().bytes
    }

    /// Returns the number of entries, cleared and expired ones included.
    pub(super) fn entry_count(&self) -> usize {
        self.entries().by_key.len()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
