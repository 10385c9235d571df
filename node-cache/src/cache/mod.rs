//! Answers kept in memory, within a number of bytes. Pure: the time is a parameter.
//!
//! Whole answers are kept under the question that brought them and under nothing else, so that what an answer claims
//! beside the question is never believed. Each route has its own scope in the key: one server cannot plant what another
//! one is asked for. That a name does not exist is kept for every type at once (RFC 2308 §5).

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
use failure_cache::Failures;
use header::SECOND;
pub use header::{EntryHeader, Freshness, Policy};
pub use inspect::EntryInfo;
pub use key::{Key, KeyBuf, KeyParts, KeySuffix, NAME_BUF_LEN};
pub use rrset::RecordLayout;
use table::{Candidate, Class, Table};

/// The failure cache gets this share of all bytes, and no more than [`MOST_FAILURE_BYTES`].
const FAILURE_SHARE: usize = 16;
const MOST_FAILURE_BYTES: usize = 1 << 20;

/// What is in memory for a question.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// An answer in its time.
    Fresh(Answer),
    /// The same, in the last tenth of its time: if somebody asks for it now, somebody will when it is over.
    RefreshDue(Answer),
    /// An answer past its time but inside the window of RFC 8767.
    Stale(Answer),
    /// Nothing that may be said.
    Miss,
}

/// What may be the answer to a key, and, once it is known to be, its words.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheProbe<'a> {
    candidate: Option<Candidate<'a>>,
    value: &'a [AtomicU64],
}

/// The first step of a look-up.
#[derive(Clone, Copy, Debug)]
pub struct Prefetcher<'a>(table::Prefetcher<'a>);

impl Prefetcher<'_> {
    /// Writes a key, of a name of this length that begins a room, in any case.
    #[inline]
    pub fn prepare(&self, key: &mut KeyBuf, scope: u64, room: &[u8; NAME_BUF_LEN], length: NonZeroU8, last: KeySuffix) {
        key.write(self.0.secret(), scope, room, length, last);
        self.0.prepare(key.hash);
    }
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    answers: Table,
    failures: Failures,
    began: Instant,
}

impl Cache {
    /// A cache that holds this many bytes at the most, its bookkeeping included.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let failure_bytes = (bytes / FAILURE_SHARE).min(MOST_FAILURE_BYTES);
        Self {
            answers: Table::new(bytes - failure_bytes),
            failures: Failures::new(failure_bytes),
            began: Instant::now(),
        }
    }

    /// A time as the cache counts it: ticks since it was made, 1024 in a second.
    #[must_use]
    pub fn clock(&self, now: Instant) -> u64 {
        let microseconds = now.saturating_duration_since(self.began).as_micros();
        u64::try_from(microseconds).map_or(u64::MAX, Self::ticks)
    }

    /// So many microseconds in ticks.
    #[must_use]
    #[inline]
    pub const fn ticks(microseconds: u64) -> u64 {
        microseconds.saturating_mul(SECOND) / 1_000_000
    }

    /// First of the four steps of a look-up that locks and allocates nothing. Each step is for a number of keys, so that
    /// one waits for memory while others work.
    #[inline]
    #[must_use]
    pub const fn prefetcher(&self) -> Prefetcher<'_> {
        Prefetcher(self.answers.prefetcher())
    }

    /// Second step: finds what may be the answer.
    #[inline]
    pub fn prefetch_entry<'a>(&'a self, key: &KeyBuf, approached: &mut CacheProbe<'a>) {
        approached.candidate = self.answers.prefetch_entry(key.hash);
    }

    /// Third step: sees whether it is.
    #[inline]
    pub fn match_key<'a>(&'a self, key: &KeyBuf, approached: &mut CacheProbe<'a>) {
        let Some(candidate) = &approached.candidate else { return };
        match self.answers.value_of(candidate, key.as_slice()) {
            Some(value) => approached.value = value,
            None => approached.candidate = None,
        }
    }

    /// Last step: shows the answer, whether it is in its time or not. While it is shown others may write there, so that
    /// what `view` makes of it counts only if it is given back; none when there is no answer, or nothing is made of it.
    #[inline]
    pub fn view<R>(&self, recognised: &CacheProbe<'_>, view: impl FnOnce(EntryRef<'_>) -> Option<R>) -> Option<R> {
        let CacheProbe { candidate, value } = recognised;
        candidate.as_ref()?.visit(value, |words| view(EntryRef::read(words)?))
    }

    /// The same when the first that looked like the answer is not: for one behind it, or one of any type. The key may be
    /// changed.
    pub fn view_fallback<R>(&self, key: &mut KeyBuf, mut view: impl FnMut(EntryRef<'_>) -> Option<R>) -> Option<R> {
        let mut view = |words: &[AtomicU64]| view(EntryRef::read(words)?);
        self.answers.visit(key.hash, key.as_slice(), &mut view).or_else(|| {
            key.clear_type(self.answers.secret());
            self.answers.visit(key.hash, key.as_slice(), view)
        })
    }

    /// What is there for this key now.
    #[must_use]
    pub fn get(&self, key: &Key, now: Instant, policy: &Policy) -> Lookup {
        match self.find(key.as_words(), key, now, policy) {
            fresh @ (Lookup::Fresh(_) | Lookup::RefreshDue(_)) => fresh,
            // That the name does not exist is news to an answer past its time.
            past => match self.find(key.of_any_type().as_words(), key, now, policy) {
                fresh @ (Lookup::Fresh(_) | Lookup::RefreshDue(_)) => fresh,
                Lookup::Stale(answer) if matches!(past, Lookup::Miss) => Lookup::Stale(answer),
                _ => past,
            },
        }
    }

    /// What is there under these words, said to the question of this key.
    fn find(&self, words: &[u64], key: &Key, now: Instant, policy: &Policy) -> Lookup {
        let now = self.clock(now);
        let found = self.answers.visit(self.answers.hash(words), words, |words| {
            let kept = EntryRef::read(words)?;
            let answer = |age, ede, origin| {
                let response = Arc::new(kept.response(&key.section())?);
                Some(Answer { response, age, ede, origin })
            };
            match kept.head.at(now, policy) {
                Freshness::Fresh(age) => answer(age, None, Source::Cache).map(Lookup::Fresh),
                Freshness::RefreshDue(age) => answer(age, None, Source::Cache).map(Lookup::RefreshDue),
                Freshness::Stale(ede) => answer(TtlView::Stale, Some(ede), Source::StaleCache).map(Lookup::Stale),
                Freshness::Expired => None,
            }
        });
        found.unwrap_or(Lookup::Miss)
    }

    /// Whether an answer is kept under exactly this key, in its time or not, that does not deny the name: it was there.
    #[must_use]
    pub fn name_known_to_exist(&self, key: &Key) -> bool {
        let (words, rcode) = (key.as_words(), |kept: EntryRef<'_>| kept.head.rcode());
        let said = self.answers.visit(self.answers.hash(words), words, |words| EntryRef::read(words).map(rcode));
        said.is_some_and(|rcode| rcode != rcode::NXDOMAIN)
    }

    /// Keeps an answer for as long as it says. A good one that must not be kept still ends what was known before.
    pub fn insert(&self, key: &Key, response: &Arc<Response>, now: Instant) {
        // An alias whose end does not exist is itself there.
        let covers_all = response.rcode() == rcode::NXDOMAIN && !response.has_answer();
        self.insert_covering(key, response, now, covers_all);
    }

    /// The same where servers deny a name for one type and have it for another: a denial is one of this type alone.
    pub fn insert_for_type(&self, key: &Key, response: &Arc<Response>, now: Instant) {
        self.insert_covering(key, response, now, false);
    }

    fn insert_covering(&self, key: &Key, response: &Arc<Response>, now: Instant, covers_all: bool) {
        if response.is_failure() {
            return;
        }
        self.failures.clear(key);
        let any_type = key.of_any_type();
        let (exact, any_type) = (key.as_words(), any_type.as_words());
        let (kept, ended) = if covers_all { (any_type, exact) } else { (exact, any_type) };
        self.remove(ended);
        let class = match response.lifetime() {
            ResponseTtl::Positive(_) => Class::Positive,
            ResponseTtl::Negative(_) | ResponseTtl::Uncacheable => Class::Negative,
        };
        let stored = entry::words(response, self.clock(now))
            .is_some_and(|words| self.answers.insert(self.answers.hash(kept), kept, &words, class));
        if !stored {
            self.remove(kept);
        }
    }

    fn remove(&self, words: &[u64]) {
        self.answers.remove(self.answers.hash(words), words);
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

    /// Forgets a failure that became known before this time, since when somebody answers again.
    pub fn forget_failure_before(&self, key: &Key, time: Instant) {
        self.failures.clear_before(key, time);
    }

    /// Bytes that hold something: answers with what is kept for each, and failures.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.answers.usage().bytes + self.failures.bytes()) as u64
    }

    /// Number of answers held.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.answers.usage().entries as u64
    }
}

#[cfg(test)]
mod tests;
