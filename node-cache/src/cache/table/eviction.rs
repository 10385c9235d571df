//! Writing side of the table: insertion, and eviction after S3-FIFO.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::arena::{Arena, Words, record_words};
use super::ghost::Ghosts;
use super::hash::Secret;
use super::index::{Index, Slot};

/// The negative ring has one part in this many of the arena.
const NEGATIVE_RING_SHARE: usize = 4;
/// The small ring has one part in this many of the arena. The main ring has the rest.
const SMALL_RING_SHARE: usize = 10;
/// A record may take one part in this many of its ring.
const MAX_RECORD_SHARE: usize = 4;
/// Most records that one insertion may promote instead of evicting them; after them records are evicted whatever their
/// hits. Bounds the work of an insertion.
const MAX_PROMOTIONS: usize = 16;

/// Class of a value. Each class has its own part of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Class {
    /// Positive answer: records exist.
    Positive,
    /// Negative answer: NXDOMAIN or NODATA (RFC 2308).
    Negative,
}

/// Bytes and number of records in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cache) struct Usage {
    /// Bytes of the records that can be found.
    pub(in crate::cache) bytes: usize,
    /// Number of records that can be found.
    pub(in crate::cache) entries: usize,
}

/// Ring buffer of records, a FIFO queue in a part of the arena. Positions are in words.
#[derive(Debug)]
struct Ring {
    /// Offset of the ring in the arena.
    start: usize,
    /// Length of the ring.
    words: usize,
    /// Position of the next record.
    head: usize,
    /// Position of the oldest record.
    tail: usize,
    /// Words between tail and head, gaps included.
    used: usize,
    /// Number of times that the head has wrapped, modulo 2¹⁶.
    generation: u16,
}

/// Position that a ring gives to a new record.
struct Allocation {
    /// Offset in the arena.
    offset: usize,
    /// Generation of the ring, which tells the record from all earlier ones at this offset.
    generation: u16,
}

impl Ring {
    const fn new(start: usize, words: usize) -> Self {
        Self { start, words, head: 0, tail: 0, used: 0, generation: 0 }
    }

    /// Returns the number of words at the end of the ring that stay unused so that a record of `words` words is
    /// contiguous.
    const fn gap(&self, words: usize) -> usize {
        if self.head + words > self.words { self.words - self.head } else { 0 }
    }

    /// Returns whether a record of `words` words fits without an eviction.
    const fn has_room(&self, words: usize) -> bool {
        self.used + self.gap(words) + words <= self.words
    }

    /// Returns whether the ring accepts records of `words` words at all.
    const fn accepts(&self, words: usize) -> bool {
        words <= self.words / MAX_RECORD_SHARE
    }

    /// Allocates a record of `words` words at the head.
    fn push(&mut self, arena: &Arena, words: usize) -> Allocation {
        let gap = self.gap(words);
        if gap > 0 {
            arena.write_gap(self.start + self.head, gap);
            self.used += gap;
            self.wrap();
        }
        let allocation = Allocation { offset: self.start + self.head, generation: self.generation };
        self.head += words;
        self.used += words;
        if self.head == self.words {
            self.wrap();
        }
        allocation
    }

    /// Moves the head to the start of the ring.
    const fn wrap(&mut self) {
        self.head = 0;
        self.generation = self.generation.wrapping_add(1);
    }

    /// Frees the record of `words` words at the tail.
    const fn pop(&mut self, words: usize) {
        self.used -= words;
        self.tail += words;
        if self.tail == self.words {
            self.tail = 0;
        }
    }
}

/// Indices of the rings.
const SMALL: usize = 0;
const MAIN: usize = 1;
const NEGATIVE: usize = 2;

/// Record to be written into a ring.
struct Record<'a> {
    ring: usize,
    hits: u8,
    hash: u64,
    key: &'a [u64],
    value: &'a [u64],
}

/// Copy of a record that left the tail of a ring and is written again: from the small ring into the main ring, or once
/// more into its own ring.
struct Promotion {
    ring: usize,
    hits: u8,
    hash: u64,
    key: Words,
    value: Words,
}

impl Promotion {
    fn as_record(&self) -> Record<'_> {
        Record { ring: self.ring, hits: self.hits, hash: self.hash, key: &self.key, value: &self.value }
    }
}

/// State of the writing side, under the writers' lock.
#[derive(Debug)]
pub(super) struct Writer {
    rings: [Ring; 3],
    ghosts: Ghosts,
    secret: Secret,
    /// Usage by [`Class`].
    usage: [Usage; 2],
    /// Records that could be found and were evicted.
    evictions: u64,
}

impl Writer {
    /// Creates the writer of an arena of `words` words, with `ghosts` ghost entries.
    pub(super) fn new(words: usize, ghosts: usize, secret: Secret) -> Self {
        // Offset 0 is in no ring: it marks an empty slot.
        let words = words.saturating_sub(1);
        let small = words / SMALL_RING_SHARE;
        let negative = words / NEGATIVE_RING_SHARE;
        let main = words - small - negative;
        let rings = [Ring::new(1, small), Ring::new(1 + small, main), Ring::new(1 + small + main, negative)];
        Self { rings, ghosts: Ghosts::new(ghosts), secret, usage: Default::default(), evictions: 0 }
    }

    /// Returns the number of records that could be found and were evicted: to make room in their ring, or because all
    /// slots for the hash of a new record were taken.
    pub(super) const fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Returns the usage of all classes together.
    pub(super) fn usage(&self) -> Usage {
        let [positive, negative] = [Class::Positive, Class::Negative].map(|class| self.usage_of(class));
        Usage { bytes: positive.bytes + negative.bytes, entries: positive.entries + negative.entries }
    }

    /// Returns the usage of one class.
    pub(super) const fn usage_of(&self, class: Class) -> Usage {
        self.usage[class as usize]
    }

    /// Returns the class of the record at `offset`, which follows from its ring.
    const fn class_at(&self, offset: usize) -> Class {
        if offset < self.rings[NEGATIVE].start { Class::Positive } else { Class::Negative }
    }

    #[cfg(test)]
    pub(super) const fn ghost_bytes(&self) -> usize {
        self.ghosts.bytes()
    }

    /// Inserts or replaces the record of a key. Returns false, and changes nothing, when the record is too long.
    pub(super) fn insert(
        &mut self,
        arena: &Arena,
        index: &Index,
        hash: u64,
        key: &[u64],
        value: &[u64],
        class: Class,
    ) -> bool {
        let words = record_words(key, value);
        let own = index.find(arena, hash, key);
        let hits = own.map_or(0, |cell| Slot(cell.load(Ordering::Relaxed)).hits());
        // The ring of the record, and the longest ring that its class may use.
        let (ring, longest_ring) = match class {
            Class::Negative => (NEGATIVE, NEGATIVE),
            // A key with hits stays where scans cannot evict it. So does a record that is too long for the small ring.
            Class::Positive if hits > 1 || !self.rings[SMALL].accepts(words) => (MAIN, MAIN),
            Class::Positive if self.ghosts.take(hash) => (MAIN, MAIN),
            Class::Positive => (SMALL, MAIN),
        };
        if !self.rings[longest_ring].accepts(words) {
            return false;
        }
        // Allocates only if a record is promoted.
        let mut promotions = VecDeque::new();
        let mut promoted = 0;
        self.append(arena, index, &Record { ring, hits, hash, key, value }, own, &mut promotions, &mut promoted);
        while let Some(promotion) = promotions.pop_front() {
            let own = index.find(arena, promotion.hash, &promotion.key);
            self.append(arena, index, &promotion.as_record(), own, &mut promotions, &mut promoted);
        }
        true
    }

    /// Removes a key. Returns whether it was there.
    pub(super) fn remove(&mut self, arena: &Arena, index: &Index, hash: u64, key: &[u64]) -> bool {
        let Some(cell) = index.find(arena, hash, key) else { return false };
        let slot = Slot(cell.swap(Slot::EMPTY.0, Ordering::Relaxed));
        self.subtract_usage(arena, slot);
        true
    }

    /// Writes a record at the head of its ring. `own` is the cell of its key, which an eviction may empty. Records that
    /// leave the tail and are to stay are appended to `promotions` and counted in `promoted`.
    fn append(
        &mut self,
        arena: &Arena,
        index: &Index,
        new: &Record<'_>,
        own: Option<&AtomicU64>,
        promotions: &mut VecDeque<Promotion>,
        promoted: &mut usize,
    ) {
        let words = record_words(new.key, new.value);
        while !self.rings[new.ring].has_room(words) {
            let promotion = self.evict_one(arena, index, new.ring, *promoted < MAX_PROMOTIONS);
            // An older record of the same key must not be written again behind the new one.
            if let Some(promotion) = promotion.filter(|promotion| promotion.hash != new.hash) {
                *promoted += 1;
                promotions.push_back(promotion);
            }
        }
        // No slot refers to these words any more. Concurrent readers see that before they see the words of the new
        // record.
        fence(Ordering::Release);
        let Allocation { offset, generation } = self.rings[new.ring].push(arena, words);
        arena.write(offset, new.key, new.value);
        let Some(cell) = own.or_else(|| index.cell_for(new.hash)) else { return };
        let replaced = Slot(cell.swap(Slot::new(new.hash, new.hits, generation, offset).0, Ordering::Release));
        self.subtract_usage(arena, replaced);
        self.evictions += u64::from(own.is_none() && replaced != Slot::EMPTY);
        let usage = &mut self.usage[self.class_at(offset) as usize];
        usage.entries += 1;
        usage.bytes += 8 * words;
    }

    /// Subtracts the record of a slot that was taken out of the index from the usage.
    fn subtract_usage(&mut self, arena: &Arena, slot: Slot) {
        if slot != Slot::EMPTY {
            let usage = &mut self.usage[self.class_at(slot.offset()) as usize];
            usage.entries -= 1;
            usage.bytes -= 8 * arena.lengths(slot.offset()).record;
        }
    }

    /// Evicts the record at the tail of a ring. Returns a copy of it if `may_promote` and its hits say that it stays.
    fn evict_one(&mut self, arena: &Arena, index: &Index, ring: usize, may_promote: bool) -> Option<Promotion> {
        let entries = self.usage().entries;
        let promotion = self.take_tail(arena, index, ring, may_promote);
        let was_there = self.usage().entries < entries;
        self.evictions += u64::from(was_there && promotion.is_none());
        promotion
    }

    /// Takes the record at the tail of a ring out of the ring and the index, and returns what [`Self::evict_one`] does.
    fn take_tail(&mut self, arena: &Arena, index: &Index, ring: usize, may_promote: bool) -> Option<Promotion> {
        let offset = self.rings[ring].start + self.rings[ring].tail;
        let lengths = arena.lengths(offset);
        self.rings[ring].pop(lengths.record);
        let key = arena.key(offset, lengths);
        let hash = self.secret.hash(&key);
        let slot = index.find_offset(hash, offset).map(|cell| Slot(cell.swap(Slot::EMPTY.0, Ordering::Relaxed)))?;
        self.subtract_usage(arena, slot);
        let hits = slot.hits();
        let (ring, hits) = match ring {
            // While the main ring has room, nothing needs to be lost.
            SMALL if hits > 1 || self.rings[MAIN].has_room(lengths.record) => (MAIN, 0),
            SMALL => {
                self.ghosts.insert(hash);
                return None;
            }
            _ if hits > 0 => (ring, hits - 1),
            _ => return None,
        };
        may_promote.then(|| Promotion { ring, hits, hash, key, value: arena.value(offset, lengths) })
    }
}
