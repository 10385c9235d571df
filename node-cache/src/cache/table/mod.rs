//! A table from words to words: any number of readers without a lock, one writer at a time, and never more bytes than it
//! was made with. It knows neither DNS nor time.
//!
//! ```text
//! index    buckets of eight slots; a key may be in one of two buckets
//!            slot: tag │ hits │ lap │ place of the record in the arena
//! arena    three rings of records, each a queue: what comes in at the head pushes out what is at the tail
//!            record: lengths │ key │ value
//! ```
//!
//! Which record goes follows S3-FIFO (Yang et al., SOSP 2023): new keys pass through a small queue and reach the main one only
//! if they were asked for meanwhile, or come back soon after they were pushed out. Keys that are asked for once never
//! push out what is asked for all the time. Negative answers have a ring of their own.
//!
//! A reader takes no lock. It copies a record word by word and then looks whether the slot is still the same; a writer
//! takes the slot away before it touches a word of the record. Laps keep a slot from ever being the same again by
//! chance: a reader would have to stand still while its ring is written 65,536 times.

mod arena;
mod eviction;
mod ghost;
mod hash;
mod index;

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arena::Arena;
use eviction::Writer;
pub(super) use hash::Secret;
use index::{Buckets, Index, Slot};
use node_cache_sys::prefetch;

/// Buckets of one sweep: readers never wait for it, writers no longer than this takes.
const SWEEP: usize = 512;

/// What kind of answer a value is. Each kind has its own part of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It says what there is.
    Positive,
    /// It says that there is nothing.
    Negative,
}

/// What is in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of records that can be found.
    pub(super) bytes: usize,
    /// Records that can be found.
    pub(super) entries: usize,
}

/// What may be the record of a key: its tag is the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    cell: &'a AtomicU64,
    slot: Slot,
}

impl Candidate<'_> {
    /// Last step: shows its value, and counts a hit if there is something to be said about it. While it is shown others may
    /// write there, so that any words may be seen: what `visit` makes of them counts only if it is given back.
    #[inline]
    pub(super) fn visit<R>(&self, value: &[AtomicU64], visit: impl FnOnce(&[AtomicU64]) -> Option<R>) -> Option<R> {
        let made = visit(value)?;
        // What was seen, and the key before it, is whole if the record was still in the table afterwards.
        fence(Ordering::Acquire);
        if !self.slot.is_same_record(Slot(self.cell.load(Ordering::Relaxed))) {
            return None;
        }
        self.slot.count_hit(self.cell);
        Some(made)
    }
}

/// The first of the four steps of a look-up, for a number of keys at a time so that each waits for memory while the others work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefetcher<'a> {
    secret: Secret,
    buckets: Buckets<'a>,
}

impl Prefetcher<'_> {
    /// What keys are hashed with.
    #[inline]
    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Has the buckets of a key fetched.
    #[inline]
    pub(super) fn prepare(&self, hash: u64) {
        for bucket in self.buckets.of(hash).into_iter().flatten() {
            prefetch::ahead(bucket);
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    arena: Arena,
    index: Index,
    secret: Secret,
    writer: Mutex<Writer>,
}

impl Table {
    /// A table that takes at most this many bytes, everything included.
    pub(super) fn new(bytes: usize) -> Self {
        // One for each entry of a usual length, as a power of two.
        let index = Index::new((bytes / 128).max(8));
        let ghosts = index.slots() / 2;
        let fixed = index.bytes() + 4 * ghosts + size_of::<Self>();
        let arena = Arena::new(bytes.saturating_sub(fixed) / 8);
        let secret = Secret::new();
        let writer = Mutex::new(Writer::new(arena.words(), ghosts, secret));
        Self { arena, index, secret, writer }
    }

    /// What keys are hashed with: nobody outside can choose keys that share a bucket.
    #[inline]
    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The hash of a key.
    #[inline]
    pub(super) fn hash(&self, key: &[u64]) -> u64 {
        self.secret.hash(key)
    }

    /// What the first of the four steps of a look-up needs, at hand for a number of keys.
    #[inline]
    pub(super) const fn prefetcher(&self) -> Prefetcher<'_> {
        Prefetcher { secret: self.secret, buckets: self.index.buckets_at_hand() }
    }

    /// Second step: finds what may be the record and has it fetched.
    #[inline]
    pub(super) fn prefetch_entry(&self, hash: u64) -> Option<Candidate<'_>> {
        for bucket in self.index.buckets_of(hash).into_iter().flatten() {
            for cell in &bucket.0 {
                let slot = Slot(cell.load(Ordering::Acquire));
                if slot.has_tag(hash) {
                    self.arena.prefetch_entry(slot.place());
                    return Some(Candidate { cell, slot });
                }
            }
        }
        None
    }

    /// Third step: its value, if it is the record of this key.
    #[inline]
    pub(super) fn value_of(&self, candidate: &Candidate<'_>, key: &[u64]) -> Option<&[AtomicU64]> {
        self.arena.value_of(candidate.slot.place(), key)
    }

    /// All steps at once.
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

    /// A copy of a key's value.
    #[cfg(test)]
    pub(super) fn get(&self, hash: u64, key: &[u64]) -> Option<Vec<u64>> {
        self.visit(hash, key, |value| Some(value.iter().map(|word| word.load(Ordering::Relaxed)).collect()))
    }

    /// Puts a value in the place of whatever the key had; false, and nothing changes, when it is too long.
    pub(super) fn insert(&self, hash: u64, key: &[u64], value: &[u64], class: Class) -> bool {
        self.writer().insert(&self.arena, &self.index, hash, key, value, class)
    }

    /// Forgets a key; whether it was there.
    pub(super) fn remove(&self, hash: u64, key: &[u64]) -> bool {
        self.writer().remove(&self.arena, &self.index, hash, key)
    }

    /// Shows the keys and values of some buckets, from this one on, and forgets those for which `visit` says so. Gives the
    /// bucket to go on from, until all were seen. Nobody can write meanwhile.
    pub(super) fn sweep(&self, from: usize, mut visit: impl FnMut(&[u64], &[u64]) -> bool) -> Option<usize> {
        let mut writer = self.writer();
        for cell in self.index.cells(from, SWEEP) {
            let slot = Slot(cell.load(Ordering::Relaxed));
            if slot == Slot::EMPTY {
                continue;
            }
            let lengths = self.arena.lengths(slot.place());
            let key = self.arena.key(slot.place(), lengths);
            if visit(&key, &self.arena.value(slot.place(), lengths)) {
                writer.remove(&self.arena, &self.index, self.hash(&key), &key);
            }
        }
        (from + SWEEP < self.index.buckets()).then_some(from + SWEEP)
    }

    /// What is in it now.
    pub(super) fn usage(&self) -> Usage {
        self.writer().usage()
    }

    /// What of one class is in it now.
    pub(super) fn usage_of(&self, class: Class) -> Usage {
        self.writer().usage_of(class)
    }

    /// Bytes that it takes, full or not.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.index.bytes() + 8 * self.arena.words() + self.writer().ghost_bytes()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Words that are copied at a time.
const GROUP: usize = 8;

/// Copies words to the beginning of `out`; gives their length in bytes, none when `out` is too short.
#[inline]
pub(super) fn copy(words: &[AtomicU64], out: &mut [u8]) -> Option<usize> {
    let (out, _) = out.as_chunks_mut::<8>();
    let (out_groups, out_rest) = out.get_mut(..words.len())?.as_chunks_mut::<GROUP>();
    let (groups, rest) = words.as_chunks::<GROUP>();
    let copy = |(to, from): (&mut [u8; 8], &AtomicU64)| *to = from.load(Ordering::Relaxed).to_ne_bytes();
    for (to, from) in out_groups.iter_mut().zip(groups) {
        to.iter_mut().zip(from).for_each(copy);
    }
    out_rest.iter_mut().zip(rest).for_each(copy);
    Some(8 * words.len())
}

#[cfg(test)]
mod tests;
