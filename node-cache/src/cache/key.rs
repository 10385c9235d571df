//! Under what an answer is kept.

use crate::packet::Name;
use crate::packet::question::Question;

/// The most words of a key: two, and a name of 255 octets.
const MOST_WORDS: usize = 2 + 32;
/// In the place of a type: what is true of a name whatever is asked (no record has type 0, RFC 6895 §3.1).
const ANY_TYPE: u16 = 0;

/// Scope, name in lower case, type, class, DO and CD: questions that are equal in these have the same answer. As words,
/// which is how the table compares them: the scope; flags, length of the name, type and class; the name in wire form,
/// filled up with zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Box<[u64]>);

impl Key {
    /// The key of a question in a scope. The number of a scope belongs to the servers that answer in it.
    #[must_use]
    pub fn new(scope: u64, question: &Question) -> Self {
        let mut words = KeyWords::default();
        words.write(
            scope,
            question.name.as_bytes(),
            question.rtype,
            question.class,
            question.dnssec_ok,
            question.checking_disabled,
        );
        Self(words.as_slice().into())
    }

    /// The same whatever the type is.
    pub(super) fn of_any_type(&self) -> Self {
        let mut words = self.0.clone();
        words[1] = without_type(words[1]);
        Self(words)
    }

    pub(super) fn as_words(&self) -> &[u64] {
        &self.0
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
        let [scope, second, name @ ..] = words else { return None };
        let octets: &[u8] = bytemuck::cast_slice(name);
        let (name, _) = Name::read_plain(octets, 0).ok()?;
        let rtype = ((second >> 16) & 0xffff) as u16;
        Some(Self {
            scope: *scope,
            name,
            rtype: (rtype != ANY_TYPE).then_some(rtype),
            dnssec_ok: second & (1 << 48) != 0,
            checking_disabled: second & (1 << 49) != 0,
        })
    }
}

/// A key that is written in place, again and again.
#[derive(Clone, Debug)]
pub struct KeyWords {
    words: [u64; MOST_WORDS],
    length: usize,
}

impl Default for KeyWords {
    fn default() -> Self {
        Self { words: [0; MOST_WORDS], length: 0 }
    }
}

impl KeyWords {
    /// Writes a key. The name may have any case.
    #[inline]
    pub fn write(&mut self, scope: u64, name: &[u8], rtype: u16, class: u16, dnssec_ok: bool, cd: bool) {
        let flags = u64::from(dnssec_ok) | (u64::from(cd) << 1);
        self.words[0] = scope;
        self.words[1] =
            (flags << 48) | ((name.len() as u64 & 0xffff) << 32) | (u64::from(rtype) << 16) | u64::from(class);
        let (whole, rest) = name.as_chunks::<8>();
        let mut length = 2;
        for (word, chunk) in self.words[2..].iter_mut().zip(whole) {
            *word = lower(u64::from_ne_bytes(*chunk));
            length += 1;
        }
        if let (false, Some(word)) = (rest.is_empty(), self.words.get_mut(length)) {
            *word = lower(last_word(name, rest));
            length += 1;
        }
        self.length = length;
    }

    /// The same whatever the type is, from now on.
    pub(super) fn forget_type(&mut self) {
        self.words[1] = without_type(self.words[1]);
    }

    pub(super) fn as_slice(&self) -> &[u64] {
        &self.words[..self.length]
    }
}

/// What is left of a name behind its whole words, filled up with zeros.
#[inline]
fn last_word(name: &[u8], rest: &[u8]) -> u64 {
    // The last eight octets at once, from which those that were in the word before are shifted out.
    let word = match name.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        None => rest.iter().rev().fold(0, |word, octet| (word << 8) | u64::from(*octet)),
    };
    u64::from_ne_bytes(word.to_le_bytes())
}

const fn without_type(word: u64) -> u64 {
    (word & !(0xffff << 16)) | ((ANY_TYPE as u64) << 16)
}

/// Eight octets in lower case at once. Length octets are below 64 and so never letters.
const fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES * 0x80;
    let low_bits = word & !HIGH;
    let from_a = low_bits + ONES * (0x80 - b'A' as u64);
    let beyond_z = low_bits + ONES * (0x7f - b'Z' as u64);
    let upper = (from_a ^ beyond_z) & !word & HIGH;
    word | (upper >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_octets_are_put_into_lower_case_as_one_is() {
        for byte in 0..=u8::MAX {
            let bytes = [byte, b'Q', 0x7f, b'z', byte, 3, byte.wrapping_add(128), b'@'];
            assert_eq!(lower(u64::from_ne_bytes(bytes)).to_ne_bytes().to_vec(), bytes.to_ascii_lowercase(), "{byte}");
        }
    }
}
