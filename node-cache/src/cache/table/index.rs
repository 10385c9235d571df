//! Where records are.

use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_sys::cache_line::{self, Line};

use super::arena::Arena;

/// Slots of a bucket: what a line of the processor's cache holds.
const BUCKET: usize = cache_line::WORDS;

/// Tag (14 bits of the hash), number of hits up to 3 (2 bits), lap of the ring (16 bits), place (32 bits). Zero is empty:
/// no record is at place 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

impl Slot {
    pub(super) const EMPTY: Self = Self(0);
    const HITS: u64 = 3 << 48;

    pub(super) const fn new(hash: u64, hits: u8, lap: u16, place: usize) -> Self {
        Self((hash & (0x3fff << 50)) | ((hits as u64 & 3) << 48) | ((lap as u64) << 32) | (place as u64 & 0xffff_ffff))
    }

    /// Whether a record of this hash may be there. Empty slots may say so too: nothing is at the place to which they lead.
    #[inline]
    pub(super) const fn has_tag(self, hash: u64) -> bool {
        (self.0 ^ hash) >> 50 == 0
    }

    #[inline]
    pub(super) const fn place(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    pub(super) const fn hits(self) -> u8 {
        ((self.0 >> 48) & 3) as u8
    }

    /// Whether both say the same, whatever was counted meanwhile.
    #[inline]
    pub(super) const fn is_same_record(self, other: Self) -> bool {
        (self.0 | Self::HITS) == (other.0 | Self::HITS)
    }

    /// Counts a hit, unless there were enough or somebody else changes the slot just now. Hot slots are never written.
    #[inline]
    pub(super) fn count_hit(self, cell: &AtomicU64) {
        if self.0 & Self::HITS != Self::HITS {
            let counted = self.0 + (1 << 48);
            let _ = cell.compare_exchange(self.0, counted, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Buckets of slots, a power of two of them, each of them a line of the processor's cache.
#[derive(Debug)]
pub(super) struct Index(Box<[Line]>);

impl Index {
    /// An index of at least so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self(cache_line::zeroed(slots.div_ceil(BUCKET).next_power_of_two()))
    }

    pub(super) const fn slots(&self) -> usize {
        self.buckets() * BUCKET
    }

    pub(super) const fn buckets(&self) -> usize {
        self.0.len()
    }

    /// The cells of some buckets, from this one on.
    pub(super) fn cells(&self, from: usize, buckets: usize) -> impl Iterator<Item = &AtomicU64> {
        self.0.iter().skip(from).take(buckets).flat_map(|bucket| &bucket.0)
    }

    pub(super) const fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// The cells in which a key of this hash may be.
    #[inline]
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        self.buckets_of(hash).into_iter().flatten().flat_map(|bucket| &bucket.0)
    }

    /// The slots that have the tag of this hash, each with its cell.
    #[inline]
    pub(super) fn tagged(&self, hash: u64) -> Tagged<'_> {
        let [first, second] = self.buckets_of(hash);
        Tagged { cells: first.map_or(&[][..], |bucket| &bucket.0).iter(), second, hash }
    }

    /// The two buckets in which a key of this hash may be.
    #[inline]
    pub(super) fn buckets_of(&self, hash: u64) -> [Option<&Line>; 2] {
        self.buckets_at_hand().of(hash)
    }

    /// The buckets, for who asks for many.
    #[inline]
    pub(super) const fn buckets_at_hand(&self) -> Buckets<'_> {
        Buckets(&self.0)
    }

    /// The cell of a key. Whoever calls holds the writers' lock.
    pub(super) fn find(&self, arena: &Arena, hash: u64, key: &[u64]) -> Option<&AtomicU64> {
        let (cell, _) = self.tagged(hash).find(|(_, slot)| arena.value_of(slot.place(), key).is_some())?;
        Some(cell)
    }

    /// The cell of the record at this place, which has this hash; none when nothing points to it any more.
    pub(super) fn find_place(&self, hash: u64, place: usize) -> Option<&AtomicU64> {
        self.candidates(hash).find(|cell| {
            let slot = Slot(cell.load(Ordering::Relaxed));
            slot != Slot::EMPTY && slot.place() == place
        })
    }

    /// An empty cell for a hash, else the one with the fewest hits.
    pub(super) fn cell_for(&self, hash: u64) -> Option<&AtomicU64> {
        self.candidates(hash).min_by_key(|cell| {
            let slot = Slot(cell.load(Ordering::Relaxed));
            if slot == Slot::EMPTY { 0 } else { 1 + slot.hits() }
        })
    }
}

/// All buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets<'a>(&'a [Line]);

impl<'a> Buckets<'a> {
    /// The two in which a key of this hash may be.
    #[inline]
    pub(super) fn of(self, hash: u64) -> [Option<&'a Line>; 2] {
        let mask = self.0.len().wrapping_sub(1);
        [hash, hash >> 24].map(|number| self.0.get(number as usize & mask))
    }
}

/// Slots of two buckets that may be those of a key, nearly always none or one.
#[derive(Clone, Debug)]
pub(super) struct Tagged<'a> {
    /// What is left of the first bucket, or of the second one, which is none then.
    cells: std::slice::Iter<'a, AtomicU64>,
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
            self.cells = self.second.take()?.0.iter();
        }
    }
}
