//! Arena of the table: the words of all records.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_sys::prefetch;
use smallvec::SmallVec;

/// Words of a record before its key: its lengths.
const HEADER_WORDS: usize = 1;
/// Cache lines of a record that are prefetched; the processor's own prefetcher fetches what follows them.
const PREFETCH_LINES: usize = 2;

/// Words copied out of a record. Most keys have no more than the inline capacity.
pub(super) type Words = SmallVec<[u64; 12]>;

/// All records, in one allocation. Pages that were never written take no memory.
#[derive(Debug)]
pub(super) struct Arena(Box<[AtomicU64]>);

/// Lengths of a record in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    /// Whole record, these lengths included.
    pub(super) record: usize,
    /// Key.
    pub(super) key: usize,
}

impl Lengths {
    const fn pack(self) -> u64 {
        ((self.record as u64) << 32) | self.key as u64
    }

    const fn unpack(word: u64) -> Self {
        Self { record: (word >> 32) as usize, key: (word & 0xffff_ffff) as usize }
    }
}

/// Returns the number of words of a record with this key and value.
pub(super) const fn record_words(key: &[u64], value: &[u64]) -> usize {
    HEADER_WORDS + key.len() + value.len()
}

/// Words that are compared at a time.
const COMPARE_GROUP: usize = 4;

/// Returns whether two slices of equal length have equal words. Compares all of them: nearly always they are equal, so
/// that stopping early would gain nothing.
#[inline]
fn words_equal(ours: &[AtomicU64], theirs: &[u64]) -> bool {
    let difference = |(ours, theirs): (&AtomicU64, &u64)| ours.load(Ordering::Relaxed) ^ theirs;
    let group_difference = |ours: &[AtomicU64; COMPARE_GROUP], theirs: &[u64; COMPARE_GROUP]| {
        ours.iter().zip(theirs).map(difference).fold(0, std::ops::BitOr::bitor)
    };
    // The last group overlaps the one before it, so that no single words are left over.
    let (Some(our_last), Some(their_last)) = (ours.last_chunk(), theirs.last_chunk()) else {
        return ours.iter().zip(theirs).all(|words| difference(words) == 0);
    };
    let groups = ours.as_chunks().0.iter().zip(theirs.as_chunks().0);
    let last = group_difference(our_last, their_last);
    groups.fold(last, |all, (ours, theirs)| all | group_difference(ours, theirs)) == 0
}

impl Arena {
    /// Creates an arena of `words` zero words.
    pub(super) fn new(words: usize) -> Self {
        Self(bytemuck::allocation::zeroed_slice_box(words))
    }

    pub(super) const fn words(&self) -> usize {
        self.0.len()
    }

    /// Prefetches the first cache lines of the record at `offset`: most records have no more.
    #[inline]
    pub(super) fn prefetch_entry(&self, offset: usize) {
        prefetch::lines(&self.0, offset, PREFETCH_LINES);
    }

    /// Returns the value of the record at `offset` if its key is `key`. Readers without the lock may read an offset at
    /// which a record is being written: whatever the words are, nothing outside the arena is read.
    #[inline]
    pub(super) fn value_of(&self, offset: usize, key: &[u64]) -> Option<&[AtomicU64]> {
        let rest = self.0.get(offset..)?;
        let lengths = Lengths::unpack(rest.first()?.load(Ordering::Relaxed));
        if lengths.key != key.len() {
            return None;
        }
        let (record_key, value) = rest.get(HEADER_WORDS..lengths.record)?.split_at_checked(key.len())?;
        words_equal(record_key, key).then_some(value)
    }

    /// Returns the lengths of the record at `offset`. For the writer, which knows that a record is there.
    pub(super) fn lengths(&self, offset: usize) -> Lengths {
        Lengths::unpack(self.0.get(offset).map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Returns a copy of the key of the record at `offset`.
    pub(super) fn key(&self, offset: usize, lengths: Lengths) -> Words {
        self.copy(offset + HEADER_WORDS..offset + HEADER_WORDS + lengths.key)
    }

    /// Returns a copy of the value of the record at `offset`.
    pub(super) fn value(&self, offset: usize, lengths: Lengths) -> Words {
        self.copy(offset + HEADER_WORDS + lengths.key..offset + lengths.record)
    }

    fn copy(&self, words: Range<usize>) -> Words {
        self.0.get(words).unwrap_or_default().iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Writes a record at `offset`.
    pub(super) fn write(&self, offset: usize, key: &[u64], value: &[u64]) {
        let lengths = Lengths { record: record_words(key, value), key: key.len() };
        let content = [lengths.pack()].into_iter().chain(key.iter().copied()).chain(value.iter().copied());
        for (word, content) in self.0.iter().skip(offset).zip(content) {
            word.store(content, Ordering::Relaxed);
        }
    }

    /// Marks `words` words at `offset` as a gap, which is skipped like an evicted record.
    pub(super) fn write_gap(&self, offset: usize, words: usize) {
        // No key has as many words, so that no reader takes the gap for a record.
        let lengths = Lengths { record: words, key: 0xffff_ffff };
        if let Some(word) = self.0.get(offset) {
            word.store(lengths.pack(), Ordering::Relaxed);
        }
    }
}
