//! What another server is asked.

use super::edns::{BARE, Edns, UDP_SIZE};
use super::{Header, Name, flag};

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
        Self { name: name.lower(), rtype, class: super::numbers::class::IN, dnssec_ok: false, checking_disabled: false }
    }

    /// The message with this number, with recursion desired, and with EDNS unless the other server cannot bear it.
    #[must_use]
    pub fn to_wire(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = flag::RD | if self.checking_disabled { flag::CD } else { 0 };
        let mut message = Vec::with_capacity(Header::LENGTH + self.name.as_bytes().len() + 4 + BARE);
        message.extend_from_slice(&[0; Header::LENGTH]);
        Header { id, flags, counts: [1, 0, 0, 0] }.write(&mut message);
        put_section(&mut message, &self.name, self.rtype, self.class);
        if with_edns {
            Edns { udp_size: UDP_SIZE, dnssec_ok: self.dnssec_ok, ..Edns::default() }.append(&mut message);
        }
        message
    }

    /// The question section.
    #[must_use]
    pub fn section(&self) -> Vec<u8> {
        section(&self.name, self.rtype, self.class)
    }
}

/// Puts each letter of the name of a message's question, which is not compressed, into the case that a random bit says.
pub fn mix_case(message: &mut [u8], mut random: impl FnMut() -> u64) {
    const UPPER: u8 = 0x20;
    let mut bits = 0;
    // Length octets are below 64 and so never letters; the name ends before the first zero.
    for (index, octet) in message.iter_mut().skip(Header::LENGTH).take_while(|octet| **octet != 0).enumerate() {
        if index % 64 == 0 {
            bits = random();
        }
        if octet.is_ascii_alphabetic() && (bits >> (index % 64)) & 1 == 1 {
            *octet ^= UPPER;
        }
    }
}

/// The number of a message; 0 when it is shorter than that.
#[must_use]
pub fn number(message: &[u8]) -> u16 {
    super::u16_at(message, 0).unwrap_or(0)
}

/// The name in the question of a message, as it is written there, without its final zero.
#[must_use]
pub fn name_in(message: &[u8]) -> &[u8] {
    let question = message.get(Header::LENGTH..).unwrap_or_default();
    question.split(|octet| *octet == 0).next().unwrap_or_default()
}

/// Whether a response repeats the name in the question of a message octet by octet.
#[must_use]
pub fn is_repeated(message: &[u8], response: &[u8]) -> bool {
    response.get(Header::LENGTH..).is_some_and(|question| question.starts_with(name_in(message)))
}

/// A question section: name, type, class.
#[must_use]
pub fn section(name: &Name, rtype: u16, class: u16) -> Vec<u8> {
    let mut section = Vec::with_capacity(name.as_bytes().len() + 4);
    put_section(&mut section, name, rtype, class);
    section
}

fn put_section(out: &mut Vec<u8>, name: &Name, rtype: u16, class: u16) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&class.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::numbers::rtype;

    #[test]
    fn a_question_in_mixed_case_is_the_same_question_and_tells_who_repeats_it() {
        let question = Question::plain(&Name::from_text("www.shop-1.example").unwrap(), rtype::A);
        let plain = question.to_wire(7, true);
        let mut mixed = plain.clone();
        mix_case(&mut mixed, || 0b1101);
        assert_eq!(&mixed[12..19], b"\x03wWW\x06sh");
        assert!(
            mixed.eq_ignore_ascii_case(&plain)
                && mixed[12 + question.name.as_bytes().len()..] == plain[12 + question.name.as_bytes().len()..]
        );
        assert!(is_repeated(&mixed, &mixed) && !is_repeated(&mixed, &plain) && !is_repeated(&mixed, &mixed[..20]));
        let root = Question::plain(&Name::from_text(".").unwrap(), rtype::NS).to_wire(7, false);
        let mut mixed = root.clone();
        mix_case(&mut mixed, || u64::MAX);
        assert!(mixed == root && is_repeated(&mixed, &root));
    }
}
