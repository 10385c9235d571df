//! Questions that nobody could answer a moment ago (RFC 9520): they are not asked again at once.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::dns::Response;

use super::Key;

/// How long the first failure of a question is remembered. Each further one in a row doubles it up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// Far below the five minutes that RFC 9520 §3.2 allows: a server that comes back is soon asked again.
const LONGEST: Duration = Duration::from_secs(5);
/// Failures further apart than this are not in a row.
const ROW: Duration = Duration::from_secs(15);
/// Bytes of a failure beside its key, which is there twice, and its response: the slots of the map and of the queue,
/// and the allocations' own. A generous sum of their sizes.
const OVERHEAD: usize = 256;

#[derive(Clone, Debug)]
struct Failure {
    response: Option<Arc<Response>>,
    at: Instant,
    lasts: Duration,
    bytes: usize,
}

/// Failures, the oldest forgotten first when there are too many.
#[derive(Debug)]
pub(super) struct Failures {
    most_bytes: usize,
    known: Mutex<Known>,
    /// Whether there ever was one.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    failures: HashMap<Key, Failure, RandomState>,
    /// In the order in which they became known first. One that was cleared leaves its place until it is the oldest.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Failures {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, known: Mutex::default(), any: AtomicBool::new(false) }
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Option<Arc<Response>>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let known = self.known();
        let failure = known.failures.get(key)?;
        (now.saturating_duration_since(failure.at) < failure.lasts).then(|| failure.response.clone())
    }

    pub(super) fn insert(&self, key: &Key, response: Option<Arc<Response>>, now: Instant) {
        let answer = response.as_ref().map_or(0, |response| response.wire().len() + 2 * response.ttl_offsets().len());
        let bytes = OVERHEAD + 2 * size_of_val(key.as_words()) + answer;
        self.any.store(true, Ordering::Release);
        let mut known = self.known();
        let before = known.failures.get(key).filter(|failure| now.saturating_duration_since(failure.at) < ROW);
        let lasts = before.map_or(FIRST, |failure| (failure.lasts * 2).clamp(FIRST, LONGEST));
        match known.failures.insert(key.clone(), Failure { response, at: now, lasts, bytes }) {
            Some(old) => known.bytes -= old.bytes,
            None => known.order.push_back(key.clone()),
        }
        known.bytes += bytes;
        while known.bytes > self.most_bytes {
            let Some(oldest) = known.order.pop_front() else { break };
            known.bytes -= known.failures.remove(&oldest).map_or(0, |failure| failure.bytes);
        }
    }

    /// Forgets a failure: it lasts no longer, and the next one is the first.
    pub(super) fn clear(&self, key: &Key) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known();
        if let Some(failure) = known.failures.get_mut(key) {
            // It keeps its place and its bytes until it is the oldest, so that nothing has to be searched for.
            failure.lasts = Duration::ZERO;
            failure.response = None;
        }
    }

    /// The same if it was remembered before this time.
    pub(super) fn clear_before(&self, key: &Key, time: Instant) {
        let mut known = self.known();
        if let Some(failure) = known.failures.get_mut(key).filter(|failure| failure.at < time) {
            (failure.lasts, failure.response) = (Duration::ZERO, None);
        }
    }

    /// Forgets the failures of these keys.
    pub(super) fn clear_where(&self, mut meant: impl FnMut(&[u64]) -> bool) {
        for (key, failure) in &mut self.known().failures {
            if meant(key.as_words()) {
                (failure.lasts, failure.response) = (Duration::ZERO, None);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.known().bytes
    }

    /// How many there are, those included that last no longer and still have their place.
    pub(super) fn entries(&self) -> usize {
        self.known().failures.len()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
