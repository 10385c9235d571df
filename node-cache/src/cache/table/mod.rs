//! Hash table from words to words: any number of lock-free readers, one writer at a time, and never more bytes than it
//! was created with. Knows neither DNS nor time.
//!
//! ```text
//! index    buckets of eight slots; a key may be in one of two buckets
//!            slot: tag │ hits │ generation │ offset of the record in the arena
//! arena    three rings of records, each a FIFO queue: a record written at the head evicts those at the tail
//!            record: lengths │ key │ value
//! ```
//!
//! Eviction follows S3-FIFO (Yang et al., SOSP 2023): new keys enter a small ring and reach the main one only if they
//! were hit meanwhile, or come back soon after their eviction. Keys that are looked up once never evict those that are
//! looked up all the time. Negative answers have a ring of their own.
//!
//! A reader takes no lock (as with a seqlock, it validates afterwards): it reads the record word by word and then
//! checks that the slot is still the same. A writer empties the slot before it touches a word of the record.
//! Generations keep a slot from becoming the same again by chance: a reader would have to pause while its ring is
//! written 65,536 times.

mod arena;
mod eviction;
mod ghost;
mod hash;
mod index;

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arena::Arena;
use eviction::Writer;
pub(super) use eviction::{Class, Usage};
pub(super) use hash::Secret;
use index::{Buckets, Index, Slot};
use node_cache_sys::prefetch;

/// Buckets of one sweep. Readers never wait for a sweep, writers at most for one.
const SWEEP_BUCKETS: usize = 512;

/// Slot whose tag matches the hash of a key, so that it may be the slot of that key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    cell: &'a AtomicU64,
    slot: Slot,
}

impl Candidate<'_> {
    /// Last of the four steps of a lookup: passes the value to `visit`, and counts a hit if `visit` returns something.
    /// Writers may overwrite the value meanwhile, so that `visit` may see any words: its result counts only if it is
    /// returned.
    #[inline]
    pub(super) fn visit<R>(&self, value: &[AtomicU64], visit: impl FnOnce(&[AtomicU64]) -> Option<R>) -> Option<R> {
        let result = visit(value)?;
        // The value that was read, and the key before it, are of one record if the slot is still the same afterwards.
        fence(Ordering::Acquire);
        if !self.slot.is_same_record(Slot(self.cell.load(Ordering::Relaxed))) {
            return None;
        }
        self.slot.count_hit(self.cell);
        Some(result)
    }
}

/// First of the four steps of a lookup, for a batch of keys: each step is run for all keys, so that the memory accesses
/// of one key overlap with the work for the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefetcher<'a> {
    secret: Secret,
    buckets: Buckets<'a>,
}

impl Prefetcher<'_> {
    /// Returns the secret that keys are hashed with.
    #[inline]
    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Prefetches the buckets of the key with this hash.
    #[inline]
    pub(super) fn prefetch_buckets(&self, hash: u64) {
        for bucket in self.buckets.of(hash).into_iter().flatten() {
            prefetch::line(bucket);
        }
    }
}

/// Table of bounded size.
#[derive(Debug)]
pub(super) struct Table {
    arena: Arena,
    index: Index,
    secret: Secret,
    writer: Mutex<Writer>,
}

impl Table {
    /// Creates a table that takes at most `bytes` bytes, everything included.
    pub(super) fn new(bytes: usize) -> Self {
        // One slot for each record of usual length, rounded up to a power of two.
        let index = Index::new((bytes / 128).max(8));
        let ghosts = index.slot_count() / 2;
        let fixed = index.bytes() + 4 * ghosts + size_of::<Self>();
        let arena = Arena::new(bytes.saturating_sub(fixed) / 8);
        let secret = Secret::new();
        let writer = Mutex::new(Writer::new(arena.words(), ghosts, secret));
        Self { arena, index, secret, writer }
    }

    /// Returns the secret that keys are hashed with: no client can choose keys that share a bucket.
    #[inline]
    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Returns the hash of a key.
    #[inline]
    pub(super) fn hash(&self, key: &[u64]) -> u64 {
        self.secret.hash(key)
    }

    /// Returns the prefetcher for the first step of the lookups of a batch.
    #[inline]
    pub(super) const fn prefetcher(&self) -> Prefetcher<'_> {
        Prefetcher { secret: self.secret, buckets: self.index.buckets() }
    }

    /// Second step of a lookup: finds the first slot whose tag matches and prefetches its record.
    #[inline]
    pub(super) fn prefetch_entry(&self, hash: u64) -> Option<Candidate<'_>> {
        for bucket in self.index.buckets_of(hash).into_iter().flatten() {
            for cell in &bucket.0 {
                let slot = Slot(cell.load(Ordering::Acquire));
                if slot.has_tag(hash) {
                    self.arena.prefetch_entry(slot.offset());
                    return Some(Candidate { cell, slot });
                }
            }
        }
        None
    }

    /// Third step of a lookup: returns the value of a candidate if it is the record of `key`.
    #[inline]
    pub(super) fn value_of(&self, candidate: &Candidate<'_>, key: &[u64]) -> Option<&[AtomicU64]> {
        self.arena.value_of(candidate.slot.offset(), key)
    }

    /// Looks up a key in one step, over all candidates.
    pub(super) fn visit<R>(
        &self,
        hash: u64,
        key: &[u64],
        mut visit: impl FnMut(&[AtomicU64]) -> Option<R>,
    ) -> Option<R> {
        self.index.tagged(hash).find_map(|(cell, slot)| {
            let candidate = Candidate { cell, slot };
            candidate.visit(self.value_of(&candidate, key)?, &mut visit)
        })
    }

    /// Returns a copy of the value of a key.
    #[cfg(test)]
    pub(super) fn get(&self, hash: u64, key: &[u64]) -> Option<Vec<u64>> {
        self.visit(hash, key, |value| Some(value.iter().map(|word| word.load(Ordering::Relaxed)).collect()))
    }

    /// Inserts or replaces the value of a key. Returns false, and changes nothing, when it is too long.
    pub(super) fn insert(&self, hash: u64, key: &[u64], value: &[u64], class: Class) -> bool {
        self.writer().insert(&self.arena, &self.index, hash, key, value, class)
    }

    /// Removes a key. Returns whether it was there.
    pub(super) fn remove(&self, hash: u64, key: &[u64]) -> bool {
        self.writer().remove(&self.arena, &self.index, hash, key)
    }

    /// Passes the keys and values of 512 buckets, from bucket `from` on, to `visit`, and removes those for which it
    /// returns true. Returns the bucket to continue from; `None` at the end. Holds the writers' lock.
    pub(super) fn sweep(&self, from: usize, mut visit: impl FnMut(&[u64], &[u64]) -> bool) -> Option<usize> {
        let mut writer = self.writer();
        for cell in self.index.cells(from, SWEEP_BUCKETS) {
            let slot = Slot(cell.load(Ordering::Relaxed));
            if slot == Slot::EMPTY {
                continue;
            }
            let lengths = self.arena.lengths(slot.offset());
            let key = self.arena.key(slot.offset(), lengths);
            if visit(&key, &self.arena.value(slot.offset(), lengths)) {
                writer.remove(&self.arena, &self.index, self.hash(&key), &key);
            }
        }
        (from + SWEEP_BUCKETS < self.index.bucket_count()).then_some(from + SWEEP_BUCKETS)
    }

    /// Returns the current usage of all classes together.
    pub(super) fn usage(&self) -> Usage {
        self.writer().usage()
    }

    /// Returns the number of records that were evicted.
    pub(super) fn evictions(&self) -> u64 {
        self.writer().evictions()
    }

    /// Returns the current usage of one class.
    pub(super) fn usage_of(&self, class: Class) -> Usage {
        self.writer().usage_of(class)
    }

    /// Returns the bytes that the table takes, full or empty.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.index.bytes() + 8 * self.arena.words() + self.writer().ghost_bytes()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Words that are copied at a time.
const COPY_GROUP: usize = 8;

/// Copies words to the beginning of `out`. Returns their length in bytes; `None` when `out` is too short.
#[inline]
pub(super) fn copy_words(words: &[AtomicU64], out: &mut [u8]) -> Option<usize> {
    let (out, _) = out.as_chunks_mut::<8>();
    let (out_groups, out_rest) = out.get_mut(..words.len())?.as_chunks_mut::<COPY_GROUP>();
    let (groups, rest) = words.as_chunks::<COPY_GROUP>();
    let copy = |(to, from): (&mut [u8; 8], &AtomicU64)| *to = from.load(Ordering::Relaxed).to_ne_bytes();
    for (to, from) in out_groups.iter_mut().zip(groups) {
        to.iter_mut().zip(from).for_each(copy);
    }
    out_rest.iter_mut().zip(rest).for_each(copy);
    Some(8 * words.len())
}

#[cfg(test)]
mod tests;
