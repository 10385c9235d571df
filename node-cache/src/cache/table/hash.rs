//! Where in the index a key is: a hash under a secret, so that nobody outside can choose names that share a bucket.
//!
//! One multiplication for each two words, whose halves are folded into one (as wyhash and foldhash do). The words are all of a
//! key, so that there is no remainder to be cared for; that is why this is a fraction of what a hasher of bytes takes. Two words
//! at a time are what a vector register holds, in which names are put into lower case. The last two words of a key (in the
//! cache: scope and flags) are taken in together, whatever the number of those before them.

/// The secret of one table.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) struct Secret {
    begin: u64,
    factor: u64,
    end: u64,
}

impl Secret {
    /// No secret, for keys that are written and not looked up.
    pub(in crate::cache) const NONE: Self = Self { begin: 0, factor: 0, end: 0 };

    pub(in crate::cache) fn new() -> Self {
        // An odd factor loses nothing.
        Self { begin: rand::random(), factor: rand::random(), end: rand::random::<u64>() | 1 }
    }

    /// The hash of a key.
    #[inline]
    pub(in crate::cache) fn hash(&self, key: &[u64]) -> u64 {
        let (front, last) = key.split_at(key.len().saturating_sub(2));
        let (pairs, odd) = front.as_chunks::<2>();
        let pair = |words: &[u64]| [words.first().copied().unwrap_or(0), words.get(1).copied().unwrap_or(0)];
        let odd = (!odd.is_empty()).then(|| pair(odd));
        let all = pairs.iter().copied().chain(odd).chain([pair(last)]);
        self.end(all.fold(self.begin(), |hash, [one, other]| self.next(hash, one, other)))
    }

    /// The hash of a key by pairs of words, from the first to the last: this, [`Self::next`] for each, [`Self::end`].
    #[inline]
    pub(in crate::cache) const fn begin(&self) -> u64 {
        self.begin
    }

    /// Takes two more words in; the second one is 0 where there is none.
    #[inline]
    pub(in crate::cache) const fn next(&self, hash: u64, one: u64, other: u64) -> u64 {
        fold(hash ^ one, self.factor ^ other)
    }

    /// The hash, when all words are in.
    #[inline]
    pub(in crate::cache) const fn end(&self, hash: u64) -> u64 {
        fold(hash, self.end)
    }
}

/// Both halves of a product.
#[inline]
const fn fold(one: u64, other: u64) -> u64 {
    let product = one as u128 * other as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys like those of names that are counted up: they differ in a few bits of one word.
    fn keys() -> impl Iterator<Item = [u64; 4]> {
        (0..100_000_u64).map(|number| [7, 0x0000_0020_0001_0001, number.wrapping_mul(0x0101_0101), number])
    }

    #[test]
    fn keys_that_differ_little_are_spread_like_chance_would() {
        for shift in [0, 24, 50] {
            let secret = Secret::new();
            let mut buckets = vec![0_u32; 1 << 12];
            for key in keys() {
                buckets[(secret.hash(&key) >> shift) as usize & 0xfff] += 1;
            }
            // 24.4 in each on average; chance alone leaves none that has four times as many.
            assert!(buckets.iter().all(|number| *number < 98), "{shift}: {:?}", buckets.iter().max());
            assert!(buckets.iter().filter(|number| **number == 0).count() < 4, "{shift}");
        }
    }

    #[test]
    fn two_tables_put_a_key_into_different_places() {
        let (one, other) = (Secret::new(), Secret::new());
        let same = keys().filter(|key| one.hash(key) & 0xfff == other.hash(key) & 0xfff).count();
        assert!(same < 200, "{same} of 100000");
    }
}
