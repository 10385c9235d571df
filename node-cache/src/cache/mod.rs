//! Response cache of bounded size. Pure: time is a parameter.
//!
//! A response is cached as a whole under the question that it answers, and under nothing else, so that claims of a
//! response about other names are never believed. The key contains the scope of the route: an upstream of one route
//! cannot plant entries for the names of another route. NXDOMAIN is cached for all types of its name at once (negative
//! caching, RFC 2308 §5).

mod entry;
mod failure_cache;
mod header;
mod inspect;
mod key;
mod rrset;
mod table;

use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::rcode;
use crate::dns::{Response, ResponseTtl};

pub use entry::EntryRef;
pub use failure_cache::CachedFailure;
use failure_cache::FailureCache;
use header::TICKS_PER_SECOND;
pub use header::{EntryHeader, Freshness, Policy};
pub use inspect::{EntryInfo, FlushStep};
pub use key::{Key, KeyBuf, KeyParts, KeySuffix, NAME_BUF_LEN};
pub use rrset::RecordLayout;
use table::{Candidate, Class, Table};

/// The failure cache gets one part in this many of all bytes, at most [`MAX_FAILURE_CACHE_BYTES`].
const FAILURE_CACHE_SHARE: usize = 16;
const MAX_FAILURE_CACHE_BYTES: usize = 1 << 20;

/// Result of a cache lookup.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Cache hit: the answer is within its TTL.
    Fresh(Answer),
    /// Cache hit in the last tenth of the TTL. A query at this time makes another one after expiry likely, so that the
    /// entry is worth a prefetch.
    RefreshDue(Answer),
    /// Expired answer within the serve-stale window (RFC 8767).
    Stale(Answer),
    /// Cache miss.
    Miss,
}

/// State of a lookup between its steps: a candidate, and the words of its entry once the key has matched.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheProbe<'a> {
    candidate: Option<Candidate<'a>>,
    value: &'a [AtomicU64],
}

/// First step of the lookups of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Prefetcher<'a>(table::Prefetcher<'a>);

impl Prefetcher<'_> {
    /// Writes a key and its hash, and prefetches the buckets in which the key may be. The name is the first `length`
    /// octets of `name`, in any case.
    #[inline]
    pub fn hash_and_prefetch(
        &self,
        key: &mut KeyBuf,
        scope: u64,
        name: &[u8; NAME_BUF_LEN],
        length: NonZeroU8,
        suffix: KeySuffix,
    ) {
        key.write(self.0.secret(), scope, name, length, suffix);
        self.0.prefetch_buckets(key.hash);
    }
}

/// Response cache, with the resolution failure cache beside it.
#[derive(Debug)]
pub struct Cache {
    answers: Table,
    failures: FailureCache,
    created_at: Instant,
    /// Bytes that the cache may take.
    limit: u64,
}

impl Cache {
    /// Creates a cache that takes at most `bytes` bytes, bookkeeping included.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let limit = bytes;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let failure_bytes = (bytes / FAILURE_CACHE_SHARE).min(MAX_FAILURE_CACHE_BYTES);
        Self {
            answers: Table::new(bytes - failure_bytes),
            failures: FailureCache::new(failure_bytes),
            created_at: Instant::now(),
            limit,
        }
    }

    /// Returns a time in ticks since the cache was created, 1024 ticks a second.
    fn ticks_at(&self, now: Instant) -> u64 {
        let microseconds = now.saturating_duration_since(self.created_at).as_micros();
        u64::try_from(microseconds).map_or(u64::MAX, Self::ticks_from_micros)
    }

    /// Converts microseconds to ticks of the cache, 1024 a second.
    #[must_use]
    #[inline]
    pub const fn ticks_from_micros(microseconds: u64) -> u64 {
        microseconds.saturating_mul(TICKS_PER_SECOND) / 1_000_000
    }

    /// First of the four steps of a lookup without locks and allocations: hashing and prefetching the buckets. Each
    /// step is run for a batch of keys, so that the memory accesses of one key overlap with the work for the others.
    #[inline]
    #[must_use]
    pub const fn prefetcher(&self) -> Prefetcher<'_> {
        Prefetcher(self.answers.prefetcher())
    }

    /// Second step of a lookup: finds a candidate and prefetches its entry.
    #[inline]
    pub fn prefetch_entry<'a>(&'a self, key: &KeyBuf, probe: &mut CacheProbe<'a>) {
        probe.candidate = self.answers.prefetch_entry(key.hash);
    }

    /// Third step of a lookup: drops the candidate if its entry has another key.
    #[inline]
    pub fn match_key<'a>(&'a self, key: &KeyBuf, probe: &mut CacheProbe<'a>) {
        let Some(candidate) = &probe.candidate else { return };
        match self.answers.value_of(candidate, key.as_words()) {
            Some(value) => probe.value = value,
            None => probe.candidate = None,
        }
    }

    /// Last step of a lookup: passes the entry, fresh or not, to `view`. Writers may overwrite the entry meanwhile, so
    /// that the result of `view` counts only if it is returned. Returns `None` without a candidate, when `view` does,
    /// or when the entry was overwritten.
    #[inline]
    pub fn view<R>(&self, probe: &CacheProbe<'_>, view: impl FnOnce(EntryRef<'_>) -> Option<R>) -> Option<R> {
        let CacheProbe { candidate, value } = probe;
        candidate.as_ref()?.visit(value, |words| view(EntryRef::read(words)?))
    }

    /// Looks up a key in one step when the first candidate was not its entry: over all candidates, then for an entry
    /// that holds for all types of the name. May clear the type in `key`.
    pub fn view_fallback<R>(&self, key: &mut KeyBuf, mut view: impl FnMut(EntryRef<'_>) -> Option<R>) -> Option<R> {
        let mut view = |words: &[AtomicU64]| view(EntryRef::read(words)?);
        self.answers.visit(key.hash, key.as_words(), &mut view).or_else(|| {
            key.clear_type(self.answers.secret());
            self.answers.visit(key.hash, key.as_words(), view)
        })
    }

    /// Looks up a key: its own entry, and NXDOMAIN for its name. A fresh entry wins over a stale one.
    #[must_use]
    pub fn get(&self, key: &Key, now: Instant, policy: &Policy) -> Lookup {
        match self.lookup(key.as_words(), key, now, policy) {
            fresh @ (Lookup::Fresh(_) | Lookup::RefreshDue(_)) => fresh,
            // A fresh NXDOMAIN is newer than a stale answer.
            stale_or_miss => match self.lookup(key.typeless().as_words(), key, now, policy) {
                fresh @ (Lookup::Fresh(_) | Lookup::RefreshDue(_)) => fresh,
                Lookup::Stale(answer) if matches!(stale_or_miss, Lookup::Miss) => Lookup::Stale(answer),
                _ => stale_or_miss,
            },
        }
    }

    /// Looks up the entry under these words and decodes it as an answer to the question of `key`.
    fn lookup(&self, words: &[u64], key: &Key, now: Instant, policy: &Policy) -> Lookup {
        let now = self.ticks_at(now);
        let lookup = self.answers.visit(self.answers.hash(words), words, |words| {
            let entry = EntryRef::read(words)?;
            let answer = |age, ede, origin| {
                let response = Arc::new(entry.decode(&key.question_section())?);
                Some(Answer { response, ttl_view: age, ede, source: origin })
            };
            match entry.header.freshness(now, policy) {
                Freshness::Fresh(view) => answer(view, None, Source::Cache).map(Lookup::Fresh),
                Freshness::RefreshDue(view) => answer(view, None, Source::Cache).map(Lookup::RefreshDue),
                Freshness::Stale(ede) => answer(TtlView::Stale, Some(ede), Source::StaleCache).map(Lookup::Stale),
                Freshness::Expired => None,
            }
        });
        lookup.unwrap_or(Lookup::Miss)
    }

    /// Returns whether exactly this key has an entry, expired or not, that is not NXDOMAIN: the name existed.
    #[must_use]
    pub fn name_known_to_exist(&self, key: &Key) -> bool {
        let words = key.as_words();
        let read_rcode = |words: &[AtomicU64]| EntryRef::read(words).map(|entry| entry.header.rcode());
        let rcode = self.answers.visit(self.answers.hash(words), words, read_rcode);
        rcode.is_some_and(|rcode| rcode != rcode::NXDOMAIN)
    }

    /// Stores a response, NXDOMAIN for all types of its name. A successful response that is uncacheable still replaces
    /// the previous entry: nothing is cached afterwards. A failure changes nothing. A response that is stale at the
    /// upstream is a failure, too, with an answer: the resolution failure cache repeats it for some seconds, and the
    /// previous entry stays.
    pub fn insert(&self, key: &Key, response: &Arc<Response>, now: Instant) {
        // NXDOMAIN with an alias is about the target: the alias itself exists.
        let covers_all_types = response.rcode() == rcode::NXDOMAIN && !response.has_answer();
        self.store(key, response, now, covers_all_types);
    }

    /// Stores a response like [`Self::insert`], but NXDOMAIN for its own type only. For upstreams that deny a name for
    /// one type and have it for another.
    pub fn insert_for_type(&self, key: &Key, response: &Arc<Response>, now: Instant) {
        self.store(key, response, now, false);
    }

    fn store(&self, key: &Key, response: &Arc<Response>, now: Instant, covers_all_types: bool) {
        if response.is_failure() {
            return;
        }
        if response.is_stale() {
            return self.failures.insert(key, Some(response.clone()), now);
        }
        self.failures.clear(key);
        let typeless_key = key.typeless();
        let exact = key.as_words();
        let typeless = typeless_key.as_words();
        let (stored_key, outdated_key) = if covers_all_types { (typeless, exact) } else { (exact, typeless) };
        self.remove(outdated_key);
        let class = match response.ttl() {
            ResponseTtl::Positive(_) => Class::Positive,
            ResponseTtl::Negative(_) | ResponseTtl::Uncacheable => Class::Negative,
        };
        let insert = |words: &[u64]| self.answers.insert(self.answers.hash(stored_key), stored_key, words, class);
        let is_stored = entry::encode(response, self.ticks_at(now), insert);
        if is_stored != Some(true) {
            self.remove(stored_key);
        }
    }

    fn remove(&self, words: &[u64]) {
        self.answers.remove(self.answers.hash(words), words);
    }

    /// Caches a resolution failure (RFC 9520): the failing response, or `None` when no upstream responded.
    pub fn insert_failure(&self, key: &Key, response: Option<Arc<Response>>, now: Instant) {
        self.failures.insert(key, response, now);
    }

    /// Returns the resolution failure that is cached for a key, while its back-off lasts (RFC 9520).
    #[must_use]
    pub fn failure(&self, key: &Key, now: Instant) -> Option<CachedFailure> {
        self.failures.get(key, now)
    }

    /// Clears the resolution failure of a key if it is from before `time`, when an upstream recovered.
    pub fn clear_failure_before(&self, key: &Key, time: Instant) {
        self.failures.clear_before(key, time);
    }

    /// Returns the bytes that the cache may take, bookkeeping included.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the number of entries that left the cache to make room for others, expired or not; without failures.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.answers.evictions()
    }

    /// Returns the bytes in use: entries with their overhead, and failures.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.answers.usage().bytes + self.failures.bytes()) as u64
    }

    /// Returns the number of entries, without failures.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.answers.usage().entries as u64
    }
}

#[cfg(test)]
mod tests;
