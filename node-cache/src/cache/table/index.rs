//! Index of the table: from the hash of a key to the offset of its record in the arena.

use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_sys::cache_line::{self, Line};

use super::arena::Arena;

/// Slots of a bucket: as many as a cache line of the processor holds.
const BUCKET_SLOTS: usize = cache_line::WORDS_PER_LINE;

/// Slot of the index, packed into one word: tag (14 bits of the hash), number of hits up to 3 (2 bits), generation of
/// the ring (16 bits), offset of the record in the arena (32 bits). Zero is an empty slot, since no record is at offset
/// 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

impl Slot {
    pub(super) const EMPTY: Self = Self(0);
    const HITS_MASK: u64 = 3 << 48;

    pub(super) const fn new(hash: u64, hits: u8, generation: u16, offset: usize) -> Self {
        let hits = (hits as u64 & 3) << 48;
        Self((hash & (0x3fff << 50)) | hits | ((generation as u64) << 32) | (offset as u64 & 0xffff_ffff))
    }

    /// Returns whether the slot may be that of a key with this hash. An empty slot may match too: no record is at
    /// offset 0.
    #[inline]
    pub(super) const fn has_tag(self, hash: u64) -> bool {
        (self.0 ^ hash) >> 50 == 0
    }

    /// Returns the offset of the record in the arena, in words.
    #[inline]
    pub(super) const fn offset(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// Returns the number of hits since the record was written, up to 3.
    pub(super) const fn hits(self) -> u8 {
        ((self.0 >> 48) & 3) as u8
    }

    /// Returns whether both slots are equal but for their hits.
    #[inline]
    pub(super) const fn is_same_record(self, other: Self) -> bool {
        (self.0 | Self::HITS_MASK) == (other.0 | Self::HITS_MASK)
    }

    /// Counts a hit, unless the counter is full or the slot is changed concurrently. Slots of hot keys are never
    /// written, so that their cache lines stay shared.
    #[inline]
    pub(super) fn count_hit(self, cell: &AtomicU64) {
        if self.0 & Self::HITS_MASK != Self::HITS_MASK {
            let counted = self.0 + (1 << 48);
            let _ = cell.compare_exchange(self.0, counted, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Buckets of slots: a power of two of them, each a cache line. A key may be in either of two buckets.
#[derive(Debug)]
pub(super) struct Index(Box<[Line]>);

impl Index {
    /// Creates an index of at least `slots` slots.
    pub(super) fn new(slots: usize) -> Self {
        Self(cache_line::zeroed(slots.div_ceil(BUCKET_SLOTS).next_power_of_two()))
    }

    pub(super) const fn slot_count(&self) -> usize {
        self.bucket_count() * BUCKET_SLOTS
    }

    pub(super) const fn bucket_count(&self) -> usize {
        self.0.len()
    }

    /// Returns the cells of `count` buckets from bucket `from` on.
    pub(super) fn cells(&self, from: usize, count: usize) -> impl Iterator<Item = &AtomicU64> {
        self.0.iter().skip(from).take(count).flat_map(|bucket| &bucket.0)
    }

    pub(super) const fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Returns the cells in which a key of this hash may be.
    #[inline]
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        self.buckets_of(hash).into_iter().flatten().flat_map(|bucket| &bucket.0)
    }

    /// Returns the slots that have the tag of this hash, each with its cell.
    #[inline]
    pub(super) fn tagged(&self, hash: u64) -> Tagged<'_> {
        let [first, second] = self.buckets_of(hash);
        Tagged { cells: cells_with_tag(first, hash).iter(), second, hash }
    }

    /// Returns the two buckets in which a key of this hash may be.
    #[inline]
    pub(super) fn buckets_of(&self, hash: u64) -> [Option<&Line>; 2] {
        self.buckets().of(hash)
    }

    /// Returns all buckets as a value that can be kept in registers for a batch of keys.
    #[inline]
    pub(super) const fn buckets(&self) -> Buckets<'_> {
        Buckets(&self.0)
    }

    /// Returns the cell of a key. The caller holds the writers' lock.
    pub(super) fn find(&self, arena: &Arena, hash: u64, key: &[u64]) -> Option<&AtomicU64> {
        let (cell, _) = self.tagged(hash).find(|(_, slot)| arena.value_of(slot.offset(), key).is_some())?;
        Some(cell)
    }

    /// Returns the cell of the record at `offset`, whose key has this hash; `None` when no slot refers to it any more.
    pub(super) fn find_offset(&self, hash: u64, offset: usize) -> Option<&AtomicU64> {
        self.candidates(hash).find(|cell| {
            let slot = Slot(cell.load(Ordering::Relaxed));
            slot != Slot::EMPTY && slot.offset() == offset
        })
    }

    /// Returns an empty cell for a hash, else the one with the fewest hits.
    pub(super) fn cell_for(&self, hash: u64) -> Option<&AtomicU64> {
        let slot = |cell: &AtomicU64| Slot(cell.load(Ordering::Relaxed));
        let empty = self.candidates(hash).find(|cell| slot(cell) == Slot::EMPTY);
        empty.or_else(|| self.candidates(hash).min_by_key(|cell| slot(cell).hits()))
    }
}

/// All buckets of an index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets<'a>(&'a [Line]);

impl<'a> Buckets<'a> {
    /// Returns the two buckets in which a key of this hash may be.
    #[inline]
    pub(super) fn of(self, hash: u64) -> [Option<&'a Line>; 2] {
        let mask = self.0.len().wrapping_sub(1);
        [hash, hash >> 24].map(|bits| self.0.get(bits as usize & mask))
    }
}

/// Returns the cells of a bucket if a slot in it has the tag of this hash, and none otherwise. Nearly always there is
/// none, and to look at all slots together takes half of what it takes to look at one after the other.
#[inline]
fn cells_with_tag(bucket: Option<&Line>, hash: u64) -> &[AtomicU64] {
    let Some(bucket) = bucket else { return &[] };
    // Tags are the highest bits: where one is equal, the difference is the smallest.
    let difference = bucket.0.iter().map(|cell| cell.load(Ordering::Acquire) ^ hash).fold(u64::MAX, u64::min);
    if Slot(difference).has_tag(0) { &bucket.0 } else { &[] }
}

/// Iterator over the slots of two buckets that have the tag of a hash; nearly always none or one.
#[derive(Clone, Debug)]
pub(super) struct Tagged<'a> {
    /// Remaining cells of the current bucket.
    cells: std::slice::Iter<'a, AtomicU64>,
    /// Second bucket, until the iterator gets to it.
    second: Option<&'a Line>,
    hash: u64,
}

impl<'a> Iterator for Tagged<'a> {
    type Item = (&'a AtomicU64, Slot);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for cell in self.cells.by_ref() {
                let slot = Slot(cell.load(Ordering::Acquire));
                if slot.has_tag(self.hash) {
                    return Some((cell, slot));
                }
            }
            self.cells = cells_with_tag(Some(self.second.take()?), self.hash).iter();
        }
    }
}
