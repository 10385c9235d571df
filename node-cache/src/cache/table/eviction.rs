//! What comes in and what goes out.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use super::arena::{Arena, Words, record_words};
use super::ghost::Ghosts;
use super::hash::Secret;
use super::index::{Index, Slot};
use super::{Class, Usage};

/// Shares of the arena. What is neither small nor negative is the main ring.
const NEGATIVE_SHARE: usize = 4;
const SMALL_SHARE: usize = 10;
/// A record may take this share of its ring.
const LONGEST_SHARE: usize = 4;
/// Records that one insertion may keep from going; all further ones go whatever their hits.
const MOST_KEPT: usize = 16;

/// A queue of records, end to end in a part of the arena.
#[derive(Debug)]
struct Ring {
    start: usize,
    words: usize,
    head: usize,
    tail: usize,
    used: usize,
    lap: u16,
}

impl Ring {
    const fn new(start: usize, words: usize) -> Self {
        Self { start, words, head: 0, tail: 0, used: 0, lap: 0 }
    }

    /// Words that stay empty at the end of the ring so that the next record of this length is in one piece.
    const fn gap(&self, words: usize) -> usize {
        if self.head + words > self.words { self.words - self.head } else { 0 }
    }

    const fn has_room(&self, words: usize) -> bool {
        self.used + self.gap(words) + words <= self.words
    }

    const fn takes(&self, words: usize) -> bool {
        words <= self.words / LONGEST_SHARE
    }

    /// Moves the head behind a new record; gives its place, and the lap that makes it unlike all earlier ones there.
    fn push(&mut self, arena: &Arena, words: usize) -> (usize, u16) {
        let gap = self.gap(words);
        if gap > 0 {
            arena.write_gap(self.start + self.head, gap);
            self.used += gap;
            self.turn();
        }
        let (place, lap) = (self.start + self.head, self.lap);
        self.head += words;
        self.used += words;
        if self.head == self.words {
            self.turn();
        }
        (place, lap)
    }

    const fn turn(&mut self) {
        self.head = 0;
        self.lap = self.lap.wrapping_add(1);
    }

    /// Moves the tail over the record there.
    const fn pop(&mut self, words: usize) {
        self.used -= words;
        self.tail += words;
        if self.tail == self.words {
            self.tail = 0;
        }
    }
}

/// The rings by their numbers.
const SMALL: usize = 0;
const MAIN: usize = 1;
const NEGATIVE: usize = 2;

/// A record on its way into a ring.
struct Record<'a> {
    ring: usize,
    hits: u8,
    hash: u64,
    key: &'a [u64],
    value: &'a [u64],
}

/// One that comes from another ring.
struct Coming {
    ring: usize,
    hits: u8,
    hash: u64,
    key: Words,
    value: Words,
}

impl Coming {
    fn as_record(&self) -> Record<'_> {
        Record { ring: self.ring, hits: self.hits, hash: self.hash, key: &self.key, value: &self.value }
    }
}

/// The state of whoever writes.
#[derive(Debug)]
pub(super) struct Writer {
    rings: [Ring; 3],
    ghosts: Ghosts,
    secret: Secret,
    /// Of positive and of negative answers.
    usage: [Usage; 2],
}

impl Writer {
    pub(super) fn new(words: usize, ghosts: usize, secret: Secret) -> Self {
        // Place 0 is no place of a record.
        let words = words.saturating_sub(1);
        let (small, negative) = (words / SMALL_SHARE, words / NEGATIVE_SHARE);
        let main = words - small - negative;
        let rings = [Ring::new(1, small), Ring::new(1 + small, main), Ring::new(1 + small + main, negative)];
        Self { rings, ghosts: Ghosts::new(ghosts), secret, usage: Default::default() }
    }

    pub(super) fn usage(&self) -> Usage {
        let [positive, negative] = [Class::Positive, Class::Negative].map(|class| self.usage_of(class));
        Usage { bytes: positive.bytes + negative.bytes, entries: positive.entries + negative.entries }
    }

    pub(super) const fn usage_of(&self, class: Class) -> Usage {
        self.usage[class as usize]
    }

    /// The class of the record at this place, which tells its ring.
    const fn class_at(&self, place: usize) -> Class {
        if place < self.rings[NEGATIVE].start { Class::Positive } else { Class::Negative }
    }

    #[cfg(test)]
    pub(super) const fn ghost_bytes(&self) -> usize {
        self.ghosts.bytes()
    }

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
        let hits = index.find(arena, hash, key).map_or(0, |cell| Slot(cell.load(Ordering::Relaxed)).hits());
        let (ring, longest) = match class {
            Class::Negative => (NEGATIVE, NEGATIVE),
            // What is asked for again and again stays where it is safe, and what is too long for the small ring goes
            // there at once.
            Class::Positive if hits > 1 || !self.rings[SMALL].takes(words) => (MAIN, MAIN),
            Class::Positive if self.ghosts.take(hash) => (MAIN, MAIN),
            Class::Positive => (SMALL, MAIN),
        };
        if !self.rings[longest].takes(words) {
            return false;
        }
        // Nothing is allocated unless something is pushed out that shall stay.
        let (mut coming, mut kept) = (VecDeque::new(), 0);
        self.append(arena, index, &Record { ring, hits, hash, key, value }, &mut coming, &mut kept);
        while let Some(next) = coming.pop_front() {
            self.append(arena, index, &next.as_record(), &mut coming, &mut kept);
        }
        true
    }

    pub(super) fn remove(&mut self, arena: &Arena, index: &Index, hash: u64, key: &[u64]) -> bool {
        let Some(cell) = index.find(arena, hash, key) else { return false };
        let slot = Slot(cell.swap(Slot::EMPTY.0, Ordering::Relaxed));
        self.forget(arena, slot);
        true
    }

    /// Writes a record at the head of its ring. What is pushed out at the tail and shall stay is `coming` in turn.
    fn append(
        &mut self,
        arena: &Arena,
        index: &Index,
        new: &Record<'_>,
        coming: &mut VecDeque<Coming>,
        kept: &mut usize,
    ) {
        let words = record_words(new.key, new.value);
        while !self.rings[new.ring].has_room(words) {
            let stays = self.push_out(arena, index, new.ring, *kept < MOST_KEPT);
            // What the key had before must not come back behind what it has now.
            if let Some(stays) = stays.filter(|stays| stays.hash != new.hash) {
                *kept += 1;
                coming.push_back(stays);
            }
        }
        // No slot leads to these words any more; readers who are on their way will see that before what is new here.
        fence(Ordering::Release);
        let (place, lap) = self.rings[new.ring].push(arena, words);
        arena.write(place, new.key, new.value);
        let cell = index.find(arena, new.hash, new.key).or_else(|| index.cell_for(new.hash));
        let Some(cell) = cell else { return };
        let before = Slot(cell.swap(Slot::new(new.hash, new.hits, lap, place).0, Ordering::Release));
        self.forget(arena, before);
        let usage = &mut self.usage[self.class_at(place) as usize];
        usage.entries += 1;
        usage.bytes += 8 * words;
    }

    /// Counts a record out to which no slot leads any more.
    fn forget(&mut self, arena: &Arena, slot: Slot) {
        if slot != Slot::EMPTY {
            let usage = &mut self.usage[self.class_at(slot.place()) as usize];
            usage.entries -= 1;
            usage.bytes -= 8 * arena.lengths(slot.place()).whole;
        }
    }

    /// Takes what is at the tail of a ring out of the table; gives it back if it shall stay.
    fn push_out(&mut self, arena: &Arena, index: &Index, ring: usize, may_stay: bool) -> Option<Coming> {
        let place = self.rings[ring].start + self.rings[ring].tail;
        let lengths = arena.lengths(place);
        self.rings[ring].pop(lengths.whole);
        let key = arena.key(place, lengths);
        let hash = self.secret.hash(&key);
        let slot = index.find_place(hash, place).map(|cell| Slot(cell.swap(Slot::EMPTY.0, Ordering::Relaxed)))?;
        self.forget(arena, slot);
        let hits = slot.hits();
        let (ring, hits) = match ring {
            // While the main ring is not full, nothing need go.
            SMALL if hits > 1 || self.rings[MAIN].has_room(lengths.whole) => (MAIN, 0),
            SMALL => {
                self.ghosts.remember(hash);
                return None;
            }
            _ if hits > 0 => (ring, hits - 1),
            _ => return None,
        };
        may_stay.then(|| Coming { ring, hits, hash, key, value: arena.value(place, lengths) })
    }
}
