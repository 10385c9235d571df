//! Ghost queue of S3-FIFO: keys that were evicted from the small ring not long ago.

/// Fingerprints of hashes in a direct-mapped table: each has one position, and a newer fingerprint overwrites an older
/// one.
#[derive(Debug)]
pub(super) struct Ghosts(Box<[u32]>);

impl Ghosts {
    /// Creates a table for `capacity` fingerprints, a power of two or 0.
    pub(super) fn new(capacity: usize) -> Self {
        Self(vec![0; capacity].into())
    }

    /// Records the eviction of the key with this hash.
    pub(super) fn insert(&mut self, hash: u64) {
        if let Some(entry) = self.entry(hash) {
            *entry = fingerprint(hash);
        }
    }

    /// Removes the key with this hash and returns whether it was there.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        self.entry(hash).is_some_and(|entry| {
            let is_known = *entry == fingerprint(hash);
            if is_known {
                *entry = 0;
            }
            is_known
        })
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        4 * self.0.len()
    }

    fn entry(&mut self, hash: u64) -> Option<&mut u32> {
        let mask = self.0.len().wrapping_sub(1);
        self.0.get_mut(hash as usize & mask)
    }
}

/// Returns the fingerprint of a hash. Zero marks an empty position, so that a fingerprint never is zero.
const fn fingerprint(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}
