//! The words of all records.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_sys::prefetch;
use smallvec::SmallVec;

/// Words of a record before its key: lengths.
const HEAD: usize = 1;
/// Lines that are fetched ahead: what follows them the processor fetches by itself.
const LINES: usize = 2;

/// Words that were copied out of a record. Most keys have no more.
pub(super) type Words = SmallVec<[u64; 12]>;

/// All records, in one piece of memory. Pages that nothing was written to take no memory yet.
#[derive(Debug)]
pub(super) struct Arena(Box<[AtomicU64]>);

/// Lengths of a record: of the whole, and of its key, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) whole: usize,
    pub(super) key: usize,
}

impl Lengths {
    const fn pack(self) -> u64 {
        ((self.whole as u64) << 32) | self.key as u64
    }

    const fn unpack(word: u64) -> Self {
        Self { whole: (word >> 32) as usize, key: (word & 0xffff_ffff) as usize }
    }
}

/// Words that a record with such a key and value takes.
pub(super) const fn record_words(key: &[u64], value: &[u64]) -> usize {
    HEAD + key.len() + value.len()
}

/// Words that are compared at a time.
const GROUP: usize = 4;

/// Whether words of a record are these, which are as many. Nearly always they are, so that nothing is won by stopping early.
#[inline]
fn is_same(ours: &[AtomicU64], theirs: &[u64]) -> bool {
    let difference = |(ours, theirs): (&AtomicU64, &u64)| ours.load(Ordering::Relaxed) ^ theirs;
    let of_group = |ours: &[AtomicU64; GROUP], theirs: &[u64; GROUP]| {
        ours.iter().zip(theirs).map(difference).fold(0, std::ops::BitOr::bitor)
    };
    // The last group overlaps the one before it, in the place of single words.
    let (Some(our_last), Some(their_last)) = (ours.last_chunk(), theirs.last_chunk()) else {
        return ours.iter().zip(theirs).all(|words| difference(words) == 0);
    };
    let groups = ours.as_chunks().0.iter().zip(theirs.as_chunks().0);
    groups.fold(of_group(our_last, their_last), |all, (ours, theirs)| all | of_group(ours, theirs)) == 0
}

impl Arena {
    pub(super) fn new(words: usize) -> Self {
        Self(bytemuck::allocation::zeroed_slice_box(words))
    }

    pub(super) const fn words(&self) -> usize {
        self.0.len()
    }

    /// Has the beginning of the record at this place fetched: as much as most take.
    #[inline]
    pub(super) fn prefetch_entry(&self, place: usize) {
        prefetch::lines_ahead(&self.0, place, LINES);
    }

    /// The value of the record at this place if its key is this one. Whoever has no lock may find a place where
    /// anything is being written: whatever is there, nothing outside the arena is read.
    #[inline]
    pub(super) fn value_of(&self, place: usize, key: &[u64]) -> Option<&[AtomicU64]> {
        let rest = self.0.get(place..)?;
        let lengths = Lengths::unpack(rest.first()?.load(Ordering::Relaxed));
        if lengths.key != key.len() {
            return None;
        }
        let (record_key, value) = rest.get(HEAD..lengths.whole)?.split_at_checked(key.len())?;
        is_same(record_key, key).then_some(value)
    }

    /// Lengths of the record at this place. For the writer, who knows that one is there.
    pub(super) fn lengths(&self, place: usize) -> Lengths {
        Lengths::unpack(self.0.get(place).map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Key of the record at this place, copied.
    pub(super) fn key(&self, place: usize, lengths: Lengths) -> Words {
        self.copy(place + HEAD..place + HEAD + lengths.key)
    }

    /// Its value, copied.
    pub(super) fn value(&self, place: usize, lengths: Lengths) -> Words {
        self.copy(place + HEAD + lengths.key..place + lengths.whole)
    }

    fn copy(&self, words: Range<usize>) -> Words {
        self.0.get(words).unwrap_or_default().iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    pub(super) fn write(&self, place: usize, key: &[u64], value: &[u64]) {
        let lengths = Lengths { whole: record_words(key, value), key: key.len() };
        let content = [lengths.pack()].into_iter().chain(key.iter().copied()).chain(value.iter().copied());
        for (word, content) in self.0.iter().skip(place).zip(content) {
            word.store(content, Ordering::Relaxed);
        }
    }

    /// Says that nothing is in these words.
    pub(super) fn write_gap(&self, place: usize, words: usize) {
        // No key has as many words, so that no reader takes it for a record.
        let lengths = Lengths { whole: words, key: 0xffff_ffff };
        if let Some(word) = self.0.get(place) {
            word.store(lengths.pack(), Ordering::Relaxed);
        }
    }
}
