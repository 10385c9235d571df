//! Keys of the cache.

use std::num::NonZeroU8;
use std::sync::Arc;

use node_cache_sys::ascii::to_lowercase;
use smallvec::SmallVec;

use super::table::Secret;
use crate::dns::Name;
use crate::dns::question::Question;

/// Most words of a key: two, and those of a name of 255 octets.
const MAX_WORDS: usize = 2 + 32;
/// Octets that are put into lower case at a time.
const CHUNK_LEN: usize = 16;
/// Length of a buffer for the longest name, in whole chunks.
pub const NAME_BUF_LEN: usize = 256;
/// Masks of a chunk: the sixteen octets from index n on keep a chunk but for its last n octets, which they clear.
const MASKS: [u8; 2 * CHUNK_LEN] = {
    let mut masks = [0; 2 * CHUNK_LEN];
    let mut index = 0;
    while index < CHUNK_LEN {
        masks[index] = 0xff;
        index += 1;
    }
    masks
};
/// Type of the keys of entries that hold for all types of a name, such as NXDOMAIN (no record has type 0, RFC 6895
/// §3.1).
const NO_TYPE: u16 = 0;

/// Key of the cache: scope, name in lower case, type, class, DO and CD. Queries with equal keys have the same response.
///
/// Consists of words, which is how the table compares keys: the name in wire form, padded with zeros; the scope; flags,
/// length of the name, type and class. What differs most often for one name comes last, so that its hash continues from
/// that of the name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Arc<[u64]>);

impl Key {
    /// Creates the key of a question in a scope. Each scope has its own upstreams, and its own ID.
    #[must_use]
    pub fn new(scope: u64, question: &Question) -> Self {
        let mut buf = KeyBuf::default();
        let Question { rtype, class, dnssec_ok, checking_disabled, .. } = *question;
        let name = question.name.as_bytes();
        let mut name_buf = [0; NAME_BUF_LEN];
        name_buf.iter_mut().zip(name).for_each(|(target, octet)| *target = *octet);
        let type_and_class = (u32::from(rtype) << 16) | u32::from(class);
        let suffix = KeySuffix { type_and_class, dnssec_ok, checking_disabled };
        // No name is longer than 255 octets or empty.
        let length = u8::try_from(name.len()).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX);
        buf.write(&Secret::NONE, scope, &name_buf, length, suffix);
        Self(buf.as_words().into())
    }

    /// Returns the key of entries that hold for all types of this key's name.
    pub(super) fn typeless(&self) -> TypelessKey {
        let mut words = SmallVec::from_slice(&self.0);
        if let Some(last) = words.last_mut() {
            *last = without_type(*last);
        }
        TypelessKey(words)
    }

    /// Returns the shard of this key's name and scope, the type left out: a number below `SHARDS`, a power of two. The
    /// hash has no secret: use it only where a client that chooses names of one shard gains nothing.
    #[must_use]
    pub fn name_shard<const SHARDS: usize>(&self) -> usize {
        /// Odd, with its bits spread: the factor of Fibonacci hashing (Knuth, The Art of Computer Programming, volume
        /// 3, §6.4).
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        const { assert!(SHARDS.is_power_of_two() && SHARDS > 1) };
        let words = self.0.split_last().map_or(&[][..], |(_, words)| words);
        let hash = words.iter().fold(0, |hash: u64, word| (hash ^ word).wrapping_mul(FACTOR));
        (hash >> (u64::BITS - SHARDS.ilog2())) as usize
    }

    /// Returns the question section with the name in lower case.
    pub(super) fn question_section(&self) -> Vec<u8> {
        let [name @ .., _, last] = &*self.0 else { return Vec::new() };
        let octets: &[u8] = bytemuck::cast_slice(name);
        let [rtype, class] = [(last >> 16) as u16, *last as u16];
        [&octets[..name_length(*last).min(octets.len())], &rtype.to_be_bytes(), &class.to_be_bytes()].concat()
    }

    pub(super) fn as_words(&self) -> &[u64] {
        &self.0
    }
}

/// Key without a type. That of a name of up to 80 octets takes no allocation.
#[derive(Clone, Debug)]
pub(super) struct TypelessKey(SmallVec<[u64; 12]>);

impl TypelessKey {
    pub(super) fn as_words(&self) -> &[u64] {
        &self.0
    }
}

/// Parts of a key, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyParts {
    /// ID of the scope.
    pub scope: u64,
    /// Name, in lower case.
    pub name: Name,
    /// Type; `None` for an entry that holds for all types of the name.
    pub rtype: Option<u16>,
    /// DO bit.
    pub dnssec_ok: bool,
    /// CD bit.
    pub checking_disabled: bool,
}

impl KeyParts {
    /// Decodes the words of a key.
    pub(super) fn read(words: &[u64]) -> Option<Self> {
        let [name @ .., scope, last] = words else { return None };
        let octets: &[u8] = bytemuck::cast_slice(name);
        let (name, _) = Name::read_uncompressed(octets, 0).ok()?;
        let rtype = (last >> 16) as u16;
        Some(Self {
            scope: *scope,
            name,
            rtype: (rtype != NO_TYPE).then_some(rtype),
            dnssec_ok: last & (1 << 48) != 0,
            checking_disabled: last & (1 << 49) != 0,
        })
    }
}

/// Parts of a key beside name and scope.
#[derive(Clone, Copy, Debug)]
pub struct KeySuffix {
    /// Type in the upper half, class in the lower half.
    pub type_and_class: u32,
    /// DO bit.
    pub dnssec_ok: bool,
    /// CD bit.
    pub checking_disabled: bool,
}

impl KeySuffix {
    /// Returns the last word of a key: flags, length of the name, type and class, 16 bits each.
    #[inline]
    const fn pack(self, name_length: usize) -> u64 {
        let flags = self.dnssec_ok as u64 | ((self.checking_disabled as u64) << 1);
        (flags << 48) | ((name_length as u64 & 0xffff) << 32) | self.type_and_class as u64
    }
}

/// Returns the length of the name from the last word of a key.
const fn name_length(last: u64) -> usize {
    ((last >> 32) & 0xffff) as usize
}

/// Reusable buffer for a key and its hash, which needs no allocation.
#[derive(Clone, Debug)]
pub struct KeyBuf {
    words: [u64; MAX_WORDS],
    length: usize,
    pub(super) hash: u64,
}

impl Default for KeyBuf {
    fn default() -> Self {
        Self { words: [0; MAX_WORDS], length: 0, hash: 0 }
    }
}

impl KeyBuf {
    /// Writes a key and its hash. The name is the first `length` octets of `name`, in any case; the octets behind it
    /// may be anything.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        secret: &Secret,
        scope: u64,
        name: &[u8; NAME_BUF_LEN],
        length: NonZeroU8,
        suffix: KeySuffix,
    ) {
        let length = usize::from(length.get());
        let last = suffix.pack(length);
        let hash = self.write_name(name, length, secret);
        self.write_last_words(length.div_ceil(8), scope, last);
        self.hash = secret.finish(secret.mix(hash, scope, last));
    }

    /// Writes a name in lower case, padded with zeros, and returns the state of the hash behind it.
    #[inline]
    fn write_name(&mut self, name: &[u8; NAME_BUF_LEN], length: usize, secret: &Secret) -> u64 {
        let (chunks, _) = name.as_chunks::<CHUNK_LEN>();
        let (targets, _) = bytemuck::cast_slice_mut::<u64, u8>(&mut self.words).as_chunks_mut::<CHUNK_LEN>();
        let full_chunks = (length - 1) / CHUNK_LEN;
        let mut hash = secret.begin();
        for (target, chunk) in targets.iter_mut().zip(chunks).take(full_chunks) {
            hash = put_lower_case(target, u128::from_le_bytes(*chunk), hash, secret);
        }
        if let (Some(target), Some(chunk)) = (targets.get_mut(full_chunks), chunks.get(full_chunks)) {
            // The last chunk has between one octet and all octets of the name.
            let masked_octets = CHUNK_LEN - 1 - (length - 1) % CHUNK_LEN;
            let mask = MASKS.get(masked_octets..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; CHUNK_LEN]);
            hash = put_lower_case(target, u128::from_le_bytes(*chunk) & u128::from_le_bytes(*mask), hash, secret);
        }
        hash
    }

    #[inline]
    fn write_last_words(&mut self, name_words: usize, scope: u64, last: u64) {
        if let Some(target) = self.words.get_mut(name_words..name_words + 2) {
            target.copy_from_slice(&[scope, last]);
        }
        self.length = name_words + 2;
    }

    /// Clears the buffer.
    pub const fn clear(&mut self) {
        self.length = 0;
    }

    /// Returns whether the buffer holds no key: it was cleared after the last key was written, or never written.
    #[must_use]
    pub const fn is_cleared(&self) -> bool {
        self.length == 0
    }

    /// Turns the key into that of entries that hold for all types of its name, and updates the hash.
    pub(super) fn clear_type(&mut self, secret: &Secret) {
        if let Some(words) = self.words.get_mut(..self.length) {
            words.iter_mut().last().into_iter().for_each(|last| *last = without_type(*last));
            self.hash = secret.hash(words);
        }
    }

    pub(super) fn as_words(&self) -> &[u64] {
        self.words.get(..self.length).unwrap_or_default()
    }
}

/// Returns the last word of a key with its type cleared.
const fn without_type(word: u64) -> u64 {
    (word & !(0xffff << 16)) | ((NO_TYPE as u64) << 16)
}

/// Writes a chunk in lower case and returns the state of the hash behind it.
#[inline]
fn put_lower_case(target: &mut [u8; CHUNK_LEN], octets: u128, hash: u64, secret: &Secret) -> u64 {
    let lower = to_lowercase(octets);
    *target = lower.to_le_bytes();
    secret.mix(hash, lower as u64, (lower >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a buffer with the name and other octets behind it.
    fn name_buf(name: &[u8]) -> [u8; NAME_BUF_LEN] {
        std::array::from_fn(|index| name.get(index).copied().unwrap_or(b'X'))
    }

    #[test]
    fn names_of_every_length_are_lower_case_and_padded_with_zeros() {
        for length in 1..=255_u8 {
            let name: Vec<u8> = (0..length).map(|octet| octet.wrapping_mul(37).wrapping_add(length)).collect();
            let mut buf = KeyBuf { words: [u64::MAX; MAX_WORDS], ..KeyBuf::default() };
            buf.write_name(&name_buf(&name), name.len(), &Secret::NONE);
            let count = name.len().div_ceil(8);
            let mut expected = name.to_ascii_lowercase();
            expected.resize(8 * count, 0);
            assert_eq!(bytemuck::cast_slice::<u64, u8>(&buf.words[..count]), expected, "{length}");
        }
    }

    #[test]
    fn a_key_written_in_place_equals_an_allocated_key_and_has_its_hash() {
        let secret = Secret::new();
        let name = Name::from_text("WWW.Some-longer-name.Example").unwrap();
        let question = Question { dnssec_ok: true, ..Question::plain(&name, 28) };
        let key = Key::new(7, &question);
        let mut buf = KeyBuf::default();
        let suffix = KeySuffix { type_and_class: (28 << 16) | 1, dnssec_ok: true, checking_disabled: false };
        let length = NonZeroU8::new(name.as_bytes().len() as u8).unwrap();
        buf.write(&secret, 7, &name_buf(name.as_bytes()), length, suffix);
        assert_eq!((buf.as_words(), buf.hash), (key.as_words(), secret.hash(key.as_words())));
        buf.clear_type(&secret);
        let typeless = key.typeless();
        assert_eq!((buf.as_words(), buf.hash), (typeless.as_words(), secret.hash(typeless.as_words())));
        assert_eq!(key.question_section(), question.section().to_ascii_lowercase());
    }
}
