//! Under what an answer is kept.

use std::num::NonZeroU8;
use std::sync::Arc;

use node_cache_sys::octets::lower_case;

use super::table::Secret;
use crate::dns::Name;
use crate::dns::question::Question;

/// The most words of a key: two, and a name of 255 octets.
const MOST_WORDS: usize = 2 + 32;
/// Octets that are put into lower case at a time.
const CHUNK: usize = 16;
/// Octets in which the longest name has room, in whole chunks.
pub const NAME_BUF_LEN: usize = 256;
/// A chunk of these that begins at octet n keeps all but the last n octets of what it is laid upon.
const MASKS: [u8; 2 * CHUNK] = {
    let mut masks = [0; 2 * CHUNK];
    let mut place = 0;
    while place < CHUNK {
        masks[place] = 0xff;
        place += 1;
    }
    masks
};
/// In the place of a type: what is true of a name whatever is asked (no record has type 0, RFC 6895 §3.1).
const ANY_TYPE: u16 = 0;

/// Scope, name in lower case, type, class, DO and CD: questions that are equal in these have the same answer. As words,
/// which is how the table compares them: the name in wire form, filled up with zeros; the scope; flags, length of the name,
/// type and class. What differs most often for one name comes last, so that its hash goes on from what is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Arc<[u64]>);

impl Key {
    /// The key of a question in a scope. The number of a scope belongs to the servers that answer in it.
    #[must_use]
    pub fn new(scope: u64, question: &Question) -> Self {
        let mut words = KeyBuf::default();
        let Question { rtype, class, dnssec_ok, checking_disabled, .. } = *question;
        let (name, mut room) = (question.name.as_bytes(), [0; NAME_BUF_LEN]);
        room.iter_mut().zip(name).for_each(|(place, octet)| *place = *octet);
        let type_and_class = (u32::from(rtype) << 16) | u32::from(class);
        let last = KeySuffix { type_and_class, dnssec_ok, checking_disabled };
        // No name is longer.
        let length = u8::try_from(name.len()).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX);
        words.write(&Secret::NONE, scope, &room, length, last);
        Self(words.as_slice().into())
    }

    /// The words of the same key whatever the type is.
    pub(super) fn of_any_type(&self) -> TypelessKey {
        let mut any = TypelessKey { words: [0; MOST_WORDS], length: self.0.len() };
        if let Some(words) = any.words.get_mut(..self.0.len()) {
            words.copy_from_slice(&self.0);
            words.iter_mut().last().into_iter().for_each(|last| *last = without_type(*last));
        }
        any
    }

    /// In which of so many classes its name and scope are, whatever the type is. Whoever knows names of one class gains nothing
    /// by it.
    #[must_use]
    pub fn class_of_name<const CLASSES: usize>(&self) -> usize {
        /// Odd, and its bits are spread: that of Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, §6.4).
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        const { assert!(CLASSES.is_power_of_two() && CLASSES > 1) };
        let words = self.0.split_last().map_or(&[][..], |(_, words)| words);
        let mixed = words.iter().fold(0, |mixed: u64, word| (mixed ^ word).wrapping_mul(FACTOR));
        (mixed >> (u64::BITS - CLASSES.ilog2())) as usize
    }

    /// The question section with the name in lower case.
    pub(super) fn section(&self) -> Vec<u8> {
        let [name @ .., _, last] = &*self.0 else { return Vec::new() };
        let octets: &[u8] = bytemuck::cast_slice(name);
        let [rtype, class] = [(last >> 16) as u16, *last as u16];
        [&octets[..name_length(*last).min(octets.len())], &rtype.to_be_bytes(), &class.to_be_bytes()].concat()
    }

    pub(super) fn as_words(&self) -> &[u64] {
        &self.0
    }
}

/// The words of a key for which nothing is allocated.
#[derive(Clone, Copy, Debug)]
pub(super) struct TypelessKey {
    words: [u64; MOST_WORDS],
    length: usize,
}

impl TypelessKey {
    pub(super) fn as_words(&self) -> &[u64] {
        self.words.get(..self.length).unwrap_or_default()
    }
}

/// What a key says, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyParts {
    /// The scope.
    pub scope: u64,
    /// The name, in lower case.
    pub name: Name,
    /// The type; none for what is true of a name whatever is asked.
    pub rtype: Option<u16>,
    /// DO.
    pub dnssec_ok: bool,
    /// CD.
    pub checking_disabled: bool,
}

impl KeyParts {
    pub(super) fn read(words: &[u64]) -> Option<Self> {
        let [name @ .., scope, last] = words else { return None };
        let octets: &[u8] = bytemuck::cast_slice(name);
        let (name, _) = Name::read_plain(octets, 0).ok()?;
        let rtype = (last >> 16) as u16;
        Some(Self {
            scope: *scope,
            name,
            rtype: (rtype != ANY_TYPE).then_some(rtype),
            dnssec_ok: last & (1 << 48) != 0,
            checking_disabled: last & (1 << 49) != 0,
        })
    }
}

/// What a key says beside name and scope.
#[derive(Clone, Copy, Debug)]
pub struct KeySuffix {
    /// The type, and in the lower half the class.
    pub type_and_class: u32,
    /// DO.
    pub dnssec_ok: bool,
    /// CD.
    pub checking_disabled: bool,
}

impl KeySuffix {
    #[inline]
    const fn pack(self, length: usize) -> u64 {
        let flags = self.dnssec_ok as u64 | ((self.checking_disabled as u64) << 1);
        (flags << 48) | ((length as u64 & 0xffff) << 32) | self.type_and_class as u64
    }
}

const fn name_length(last: u64) -> usize {
    ((last >> 32) & 0xffff) as usize
}

/// A key that is written in place, again and again, with its hash.
#[derive(Clone, Debug)]
pub struct KeyBuf {
    words: [u64; MOST_WORDS],
    length: usize,
    pub(super) hash: u64,
}

impl Default for KeyBuf {
    fn default() -> Self {
        Self { words: [0; MOST_WORDS], length: 0, hash: 0 }
    }
}

impl KeyBuf {
    /// Writes a key and takes its hash. The name may have any case. It begins a room of [`NAME_BUF_LEN`] octets, in which
    /// anything may stand behind it.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        secret: &Secret,
        scope: u64,
        room: &[u8; NAME_BUF_LEN],
        length: NonZeroU8,
        last: KeySuffix,
    ) {
        let length = usize::from(length.get());
        let last = last.pack(length);
        let hash = self.write_name(room, length, secret);
        self.end(length.div_ceil(8), scope, last);
        self.hash = secret.end(secret.next(hash, scope, last));
    }

    /// Writes a name in lower case, filled up with zeros, and gives its hash.
    #[inline]
    fn write_name(&mut self, room: &[u8; NAME_BUF_LEN], length: usize, secret: &Secret) -> u64 {
        let (chunks, _) = room.as_chunks::<CHUNK>();
        let (places, _) = bytemuck::cast_slice_mut::<u64, u8>(&mut self.words).as_chunks_mut::<CHUNK>();
        let whole = (length - 1) / CHUNK;
        let mut hash = secret.begin();
        for (place, chunk) in places.iter_mut().zip(chunks).take(whole) {
            hash = put(place, u128::from_le_bytes(*chunk), hash, secret);
        }
        if let (Some(place), Some(chunk)) = (places.get_mut(whole), chunks.get(whole)) {
            // One octet at least is left, and all octets of a chunk at the most.
            let lost = CHUNK - 1 - (length - 1) % CHUNK;
            let mask = MASKS.get(lost..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; CHUNK]);
            hash = put(place, u128::from_le_bytes(*chunk) & u128::from_le_bytes(*mask), hash, secret);
        }
        hash
    }

    #[inline]
    fn end(&mut self, length: usize, scope: u64, last: u64) {
        if let Some(place) = self.words.get_mut(length..length + 2) {
            place.copy_from_slice(&[scope, last]);
        }
        self.length = length + 2;
    }

    /// Empties it.
    pub const fn clear(&mut self) {
        self.length = 0;
    }

    /// Whether it was emptied since it was written.
    #[must_use]
    pub const fn is_cleared(&self) -> bool {
        self.length == 0
    }

    /// The same whatever the type is, from now on.
    pub(super) fn clear_type(&mut self, secret: &Secret) {
        if let Some(words) = self.words.get_mut(..self.length) {
            words.iter_mut().last().into_iter().for_each(|last| *last = without_type(*last));
            self.hash = secret.hash(words);
        }
    }

    pub(super) fn as_slice(&self) -> &[u64] {
        self.words.get(..self.length).unwrap_or_default()
    }
}

const fn without_type(word: u64) -> u64 {
    (word & !(0xffff << 16)) | ((ANY_TYPE as u64) << 16)
}

/// Writes octets in lower case and takes them into the hash.
#[inline]
fn put(place: &mut [u8; CHUNK], octets: u128, hash: u64, secret: &Secret) -> u64 {
    let lower = lower_case(octets);
    *place = lower.to_le_bytes();
    secret.next(hash, lower as u64, (lower >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A room in which something else stands behind the name.
    fn room(name: &[u8]) -> [u8; NAME_BUF_LEN] {
        std::array::from_fn(|place| name.get(place).copied().unwrap_or(b'X'))
    }

    #[test]
    fn names_of_every_length_are_kept_in_lower_case_and_filled_up_with_zeros() {
        for length in 1..=255_u8 {
            let name: Vec<u8> = (0..length).map(|octet| octet.wrapping_mul(37).wrapping_add(length)).collect();
            let mut words = KeyBuf { words: [u64::MAX; MOST_WORDS], ..KeyBuf::default() };
            words.write_name(&room(&name), name.len(), &Secret::NONE);
            let count = name.len().div_ceil(8);
            let mut wanted = name.to_ascii_lowercase();
            wanted.resize(8 * count, 0);
            assert_eq!(bytemuck::cast_slice::<u64, u8>(&words.words[..count]), wanted, "{length}");
        }
    }

    #[test]
    fn a_key_that_is_written_in_place_is_hashed_like_a_key_that_is_made() {
        let (secret, name) = (Secret::new(), Name::from_text("WWW.Some-longer-name.Example").unwrap());
        let question = Question { dnssec_ok: true, ..Question::plain(&name, 28) };
        let key = Key::new(7, &question);
        let mut words = KeyBuf::default();
        let last = KeySuffix { type_and_class: (28 << 16) | 1, dnssec_ok: true, checking_disabled: false };
        let length = NonZeroU8::new(name.as_bytes().len() as u8).unwrap();
        words.write(&secret, 7, &room(name.as_bytes()), length, last);
        assert_eq!((words.as_slice(), words.hash), (key.as_words(), secret.hash(key.as_words())));
        words.clear_type(&secret);
        let any = key.of_any_type();
        assert_eq!((words.as_slice(), words.hash), (any.as_words(), secret.hash(any.as_words())));
        assert_eq!(key.section(), question.section().to_ascii_lowercase());
    }
}
