//! What another server is asked.

use super::edns::{BARE, Edns, UDP_SIZE};
use super::{Header, Name, flag};

use node_cache_sys::octets::case_of_small_letters;

/// A question as it goes on the wire, without what belongs to one hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case.
    pub name: Name,
    /// The type of the records asked for.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// Whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Whether the other server shall not validate.
    pub checking_disabled: bool,
}

impl Question {
    /// A question for records of the internet, without DNSSEC.
    #[must_use]
    pub fn plain(name: &Name, rtype: u16) -> Self {
        Self { name: name.lower(), rtype, class: super::codes::class::IN, dnssec_ok: false, checking_disabled: false }
    }

    /// The same about the name with this label below it, as [`Name::with_label`] makes it.
    #[must_use]
    pub fn below(&self, label: &str) -> Option<Self> {
        let name = self.name.with_label(label)?;
        Some(Self { name, ..self.clone() })
    }

    /// The message with this number, with recursion desired, and with EDNS unless the other server cannot bear it.
    #[must_use]
    pub fn to_wire(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = flag::RD | if self.checking_disabled { flag::CD } else { 0 };
        let mut message = Vec::with_capacity(Header::LENGTH + self.name.as_bytes().len() + 4 + BARE);
        message.extend_from_slice(&[0; Header::LENGTH]);
        Header { id, flags, counts: [1, 0, 0, 0] }.write(&mut message);
        self.put_section(&mut message);
        if with_edns {
            Edns { udp_size: UDP_SIZE, dnssec_ok: self.dnssec_ok, ..Edns::default() }.append(&mut message);
        }
        message
    }

    /// The question section.
    #[must_use]
    pub fn section(&self) -> Vec<u8> {
        let mut section = Vec::with_capacity(self.name.as_bytes().len() + 4);
        self.put_section(&mut section);
        section
    }

    fn put_section(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&self.rtype.to_be_bytes());
        out.extend_from_slice(&self.class.to_be_bytes());
    }
}

/// Puts each letter of the name of a message's question, which has so many octets and is in lower case, into the case that a
/// random bit says.
pub fn randomize_case(message: &mut [u8], name: usize, mut random: impl FnMut() -> u128) {
    const CHUNK: usize = 16;
    let end = (Header::LENGTH + name).min(message.len());
    let name = message.get_mut(Header::LENGTH..end).unwrap_or_default();
    let mut bits = 0;
    // Length octets are below 64 and so never letters.
    let mut mix = |index: usize, octets: [u8; CHUNK]| {
        // One bit of each octet counts: turned by one, they are others.
        bits = if index.is_multiple_of(8) { random() } else { bits.rotate_right(1) };
        let octets = u128::from_le_bytes(octets);
        (octets ^ (case_of_small_letters(octets) & bits)).to_le_bytes()
    };
    let (chunks, rest) = name.as_chunks_mut();
    for (index, chunk) in chunks.iter_mut().enumerate() {
        *chunk = mix(index, *chunk);
    }
    let mut last = [0; CHUNK];
    last[..rest.len()].copy_from_slice(rest);
    rest.copy_from_slice(&mix(chunks.len(), last)[..rest.len()]);
}

/// The number of a message; 0 when it is shorter than that.
#[must_use]
pub fn number(message: &[u8]) -> u16 {
    super::u16_at(message, 0).unwrap_or(0)
}

/// The name in the question of a message, which has so many octets, as it is written there.
#[must_use]
pub fn question_name(message: &[u8], length: usize) -> &[u8] {
    message.get(Header::LENGTH..Header::LENGTH + length).unwrap_or_default()
}

/// Whether a response repeats the name in the question of a message, which has so many octets, octet by octet.
#[must_use]
pub fn echoes_question(message: &[u8], name: usize, response: &[u8]) -> bool {
    question_name(message, name) == question_name(response, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::rtype;

    #[test]
    fn a_question_in_mixed_case_is_the_same_question_and_tells_who_repeats_it() {
        let question = Question::plain(&Name::from_text("www.shop-1.example").unwrap(), rtype::A);
        let plain = question.to_wire(7, true);
        let (mut mixed, name) = (plain.clone(), question.name.as_bytes().len());
        randomize_case(&mut mixed, name, || 0x2000_2020_2020_2020);
        assert_eq!(&mixed[12..19], b"\x03WWW\x06Sh");
        assert!(mixed.eq_ignore_ascii_case(&plain) && mixed[12 + name..] == plain[12 + name..]);
        assert!(echoes_question(&mixed, name, &mixed) && !echoes_question(&mixed, name, &plain));
        assert!(!echoes_question(&mixed, name, &mixed[..20]));
        let root = Question::plain(&Name::from_text(".").unwrap(), rtype::NS).to_wire(7, false);
        let mut mixed = root.clone();
        randomize_case(&mut mixed, 1, || u128::MAX);
        assert!(mixed == root && echoes_question(&mixed, 1, &root));
    }

    #[test]
    fn each_letter_of_the_longest_name_has_a_bit_of_its_own() {
        let question = Question::plain(&Name::from_text(&["a"; 127].join(".")).unwrap(), rtype::A);
        let name = question.name.as_bytes().len();
        let mut asked = 0_u128;
        let mut mixed = question.to_wire(7, false);
        // The second number is another one.
        randomize_case(&mut mixed, name, || {
            asked += 1;
            if asked == 1 { 0 } else { u128::MAX }
        });
        assert_eq!(asked, 2);
        assert_eq!(mixed[13..].iter().filter(|octet| **octet == b'A').count(), 127 - 64);
        for bit in 0..128 {
            let mut mixed = question.to_wire(7, false);
            randomize_case(&mut mixed, name, || 1 << bit);
            let changed = question_name(&mixed, name).iter().filter(|octet| **octet == b'A').count();
            assert!(changed <= 2, "{bit}: {changed} letters");
        }
    }
}
