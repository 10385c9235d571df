//! The question of a query, and the query to an upstream in wire format, in random case (0x20).

use super::edns::{ADVERTISED_UDP_SIZE, Edns, OPT_LEN};
use super::{Header, Name, flag};

use node_cache_sys::ascii::lowercase_mask;

/// A question for an upstream, without anything that belongs to one hop. Its clients share one query (single-flight)
/// and one cache entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Name, in lower case.
    pub name: Name,
    /// Type.
    pub rtype: u16,
    /// Class.
    pub class: u16,
    /// DO: whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// CD: whether the upstream shall not validate.
    pub checking_disabled: bool,
}

impl Question {
    /// Makes a question of class IN, without DNSSEC.
    #[must_use]
    pub fn plain(name: &Name, rtype: u16) -> Self {
        Self { name: name.lower(), rtype, class: super::codes::class::IN, dnssec_ok: false, checking_disabled: false }
    }

    /// Writes the query in wire format, with recursion desired. `with_edns` is false for an upstream that does not
    /// support EDNS.
    #[must_use]
    pub fn to_wire(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = flag::RD | if self.checking_disabled { flag::CD } else { 0 };
        let mut message = Vec::with_capacity(Header::LENGTH + self.name.as_bytes().len() + 4 + OPT_LEN);
        message.extend_from_slice(&[0; Header::LENGTH]);
        Header { id, flags, counts: [1, 0, 0, 0] }.write(&mut message);
        self.append_section(&mut message);
        if with_edns {
            Edns { udp_size: ADVERTISED_UDP_SIZE, dnssec_ok: self.dnssec_ok, ..Edns::default() }.append(&mut message);
        }
        message
    }

    /// Returns the question section in wire format.
    #[must_use]
    pub fn section(&self) -> Vec<u8> {
        let mut section = Vec::with_capacity(self.name.as_bytes().len() + 4);
        self.append_section(&mut section);
        section
    }

    fn append_section(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&self.rtype.to_be_bytes());
        out.extend_from_slice(&self.class.to_be_bytes());
    }
}

/// Randomizes the case of the name in a query's question (0x20), one random bit for each letter. The name has
/// `name_len` octets and is in lower case.
pub fn randomize_case(message: &mut [u8], name_len: usize, mut random: impl FnMut() -> u128) {
    const CHUNK_LEN: usize = 16;
    let end = (Header::LENGTH + name_len).min(message.len());
    let name = message.get_mut(Header::LENGTH..end).unwrap_or_default();
    let mut bits = 0;
    // Length octets are below 64, and so are never letters.
    let mut randomize = |index: usize, octets: [u8; CHUNK_LEN]| {
        // One bit of each octet is used: a number serves eight chunks, rotated by one bit for each.
        bits = if index.is_multiple_of(8) { random() } else { bits.rotate_right(1) };
        let octets = u128::from_le_bytes(octets);
        (octets ^ (lowercase_mask(octets) & bits)).to_le_bytes()
    };
    let (chunks, rest) = name.as_chunks_mut();
    for (index, chunk) in chunks.iter_mut().enumerate() {
        *chunk = randomize(index, *chunk);
    }
    let mut last = [0; CHUNK_LEN];
    last[..rest.len()].copy_from_slice(rest);
    rest.copy_from_slice(&randomize(chunks.len(), last)[..rest.len()]);
}

/// Returns the ID of a message; 0 when the message is too short to have one.
#[must_use]
pub fn message_id(message: &[u8]) -> u16 {
    super::u16_at(message, 0).unwrap_or(0)
}

/// Returns the name of `name_len` octets in the question of a message, in its case there.
#[must_use]
pub fn question_name(message: &[u8], name_len: usize) -> &[u8] {
    message.get(Header::LENGTH..Header::LENGTH + name_len).unwrap_or_default()
}

/// Returns whether a response echoes the name in the question of its query octet by octet, case included (0x20).
#[must_use]
pub fn echoes_question(message: &[u8], name_len: usize, response: &[u8]) -> bool {
    question_name(message, name_len) == question_name(response, name_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::rtype;

    #[test]
    fn a_question_in_random_case_stays_the_same_and_its_echo_is_recognized() {
        let question = Question::plain(&Name::from_text("www.shop-1.example").unwrap(), rtype::A);
        let plain = question.to_wire(7, true);
        let mut mixed = plain.clone();
        let name_len = question.name.as_bytes().len();
        randomize_case(&mut mixed, name_len, || 0x2000_2020_2020_2020);
        assert_eq!(&mixed[12..19], b"\x03WWW\x06Sh");
        assert!(mixed.eq_ignore_ascii_case(&plain) && mixed[12 + name_len..] == plain[12 + name_len..]);
        assert!(echoes_question(&mixed, name_len, &mixed) && !echoes_question(&mixed, name_len, &plain));
        assert!(!echoes_question(&mixed, name_len, &mixed[..20]));
        let root = Question::plain(&Name::from_text(".").unwrap(), rtype::NS).to_wire(7, false);
        let mut mixed = root.clone();
        randomize_case(&mut mixed, 1, || u128::MAX);
        assert!(mixed == root && echoes_question(&mixed, 1, &root));
    }

    #[test]
    fn each_letter_of_the_longest_name_has_a_bit_of_its_own() {
        let question = Question::plain(&Name::from_text(&["a"; 127].join(".")).unwrap(), rtype::A);
        let name_len = question.name.as_bytes().len();
        let mut calls = 0_u128;
        let mut mixed = question.to_wire(7, false);
        // The second random number differs from the first.
        randomize_case(&mut mixed, name_len, || {
            calls += 1;
            if calls == 1 { 0 } else { u128::MAX }
        });
        assert_eq!(calls, 2);
        assert_eq!(mixed[13..].iter().filter(|octet| **octet == b'A').count(), 127 - 64);
        for bit in 0..128 {
            let mut mixed = question.to_wire(7, false);
            randomize_case(&mut mixed, name_len, || 1 << bit);
            let changed = question_name(&mixed, name_len).iter().filter(|octet| **octet == b'A').count();
            assert!(changed <= 2, "{bit}: {changed} letters");
        }
    }
}
