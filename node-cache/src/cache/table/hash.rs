//! Keyed hash of the table's keys: under a secret, so that no client can choose names that share a bucket.
//!
//! One multiplication for each two words, with both halves of the product folded into one word (as wyhash and foldhash
//! do). Keys consist of whole words, so that there is no remainder to handle; that makes it a fraction of the work of a
//! hasher of bytes. Two words are what a vector register holds, in which names are put into lower case. The last two
//! words of a key (in the cache: scope and flags) are mixed in together, whatever the number of words before them.

/// Secret of one table.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) struct Secret {
    seed: u64,
    factor: u64,
    final_factor: u64,
}

impl Secret {
    /// Secret of zeros, for keys that are written and not looked up.
    pub(in crate::cache) const NONE: Self = Self { seed: 0, factor: 0, final_factor: 0 };

    /// Creates a random secret.
    pub(in crate::cache) fn new() -> Self {
        // Multiplication with an odd factor is a bijection modulo 2⁶⁴: it loses nothing.
        Self { seed: rand::random(), factor: rand::random(), final_factor: rand::random::<u64>() | 1 }
    }

    /// Returns the hash of a key.
    #[inline]
    pub(in crate::cache) fn hash(&self, key: &[u64]) -> u64 {
        let (front, last) = key.split_at(key.len().saturating_sub(2));
        let (pairs, odd) = front.as_chunks::<2>();
        let pair = |words: &[u64]| [words.first().copied().unwrap_or(0), words.get(1).copied().unwrap_or(0)];
        let odd = (!odd.is_empty()).then(|| pair(odd));
        let all_pairs = pairs.iter().copied().chain(odd).chain([pair(last)]);
        self.finish(all_pairs.fold(self.begin(), |state, [first, second]| self.mix(state, first, second)))
    }

    /// Returns the initial state of an incremental hash: then [`Self::mix`] for each pair of words, in order, and
    /// [`Self::finish`].
    #[inline]
    pub(in crate::cache) const fn begin(&self) -> u64 {
        self.seed
    }

    /// Mixes two more words into the state. `second` is 0 when the words before the last two are an odd number.
    #[inline]
    pub(in crate::cache) const fn mix(&self, state: u64, first: u64, second: u64) -> u64 {
        fold(state ^ first, self.factor ^ second)
    }

    /// Returns the hash after all words are mixed in.
    #[inline]
    pub(in crate::cache) const fn finish(&self, state: u64) -> u64 {
        fold(state, self.final_factor)
    }
}

/// Returns the exclusive or of both halves of the 128-bit product.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns keys like those of numbered names, which differ in a few bits of one word.
    fn similar_keys() -> impl Iterator<Item = [u64; 4]> {
        (0..100_000_u64).map(|number| [7, 0x0000_0020_0001_0001, number.wrapping_mul(0x0101_0101), number])
    }

    #[test]
    fn similar_keys_are_spread_over_the_buckets_like_random_ones() {
        for shift in [0, 24, 50] {
            let secret = Secret::new();
            let mut buckets = vec![0_u32; 1 << 12];
            for key in similar_keys() {
                buckets[(secret.hash(&key) >> shift) as usize & 0xfff] += 1;
            }
            // On average a bucket has 24.4; by chance alone none has four times as many.
            assert!(buckets.iter().all(|count| *count < 98), "{shift}: {:?}", buckets.iter().max());
            assert!(buckets.iter().filter(|count| **count == 0).count() < 4, "{shift}");
        }
    }

    #[test]
    fn two_secrets_put_a_key_into_different_buckets() {
        let first = Secret::new();
        let second = Secret::new();
        let same = similar_keys().filter(|key| first.hash(key) & 0xfff == second.hash(key) & 0xfff).count();
        assert!(same < 200, "{same} of 100000");
    }
}
