//! Which keys were pushed out not long ago.

/// Fingerprints of hashes, each in the one place that it can have; a newer one takes the place of an older one.
#[derive(Debug)]
pub(super) struct Ghosts(Box<[u32]>);

impl Ghosts {
    /// Room for a number of them that is a power of two.
    pub(super) fn new(number: usize) -> Self {
        Self(vec![0; number].into())
    }

    pub(super) fn remember(&mut self, hash: u64) {
        if let Some(place) = self.place(hash) {
            *place = fingerprint(hash);
        }
    }

    /// Whether this one was pushed out not long ago. It is told once.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        self.place(hash).is_some_and(|place| {
            let known = *place == fingerprint(hash);
            if known {
                *place = 0;
            }
            known
        })
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        4 * self.0.len()
    }

    fn place(&mut self, hash: u64) -> Option<&mut u32> {
        let mask = self.0.len().wrapping_sub(1);
        self.0.get_mut(hash as usize & mask)
    }
}

/// Never zero, which means an empty place.
const fn fingerprint(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}
