//! The shape that nearly every question of a client has: one question, at most an OPT record without options, nothing
//! behind it. It is read in place, without allocating. Every other packet is for [`super::request`], which knows all
//! shapes and says what is wrong with the rest; nothing is decided here.

use super::numbers::rtype;
use super::{Header, edns, flag, name, u16_at};

/// A question of the plain shape, still in its packet.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    packet: &'a [u8],
    name_end: usize,
    last_label: usize,
    /// Its number.
    pub id: u16,
    /// The header's [`flag`]s.
    pub flags: u16,
    /// The type of the records asked for.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// The longest datagram that the client takes and whether it wants DNSSEC records (DO), if it speaks EDNS.
    pub edns: Option<(u16, bool)>,
}

impl<'a> Plain<'a> {
    /// Reads a packet; none when it has another shape, whether that is good or bad.
    #[must_use]
    #[inline]
    pub fn read(packet: &'a [u8]) -> Option<Self> {
        let flags = u16_at(packet, 2)?;
        // A response, or another opcode than QUERY.
        if flags & (flag::QR | 0x7800) != 0 || packet.get(4..10)? != [0, 1, 0, 0, 0, 0] {
            return None;
        }
        let (mut at, mut last_label) = (Header::LENGTH, Header::LENGTH);
        loop {
            match *packet.get(at)? {
                0 => break,
                length @ 1..=63 => {
                    last_label = at;
                    at += 1 + usize::from(length);
                }
                _ => return None,
            }
        }
        let name_end = at + 1;
        if name_end - Header::LENGTH > name::LONGEST {
            return None;
        }
        let end = name_end + 4;
        let (rtype, class) = (u16_at(packet, name_end)?, u16_at(packet, name_end + 2)?);
        let edns = match (u16_at(packet, 10)?, packet.len() - end) {
            (0, 0) => None,
            (1, edns::BARE) => Some(read_opt(&packet[end..])?),
            _ => return None,
        };
        Some(Self { packet, name_end, last_label, id: u16_at(packet, 0)?, flags, rtype, class, edns })
    }

    /// The name, in the client's case.
    #[must_use]
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        &self.packet[Header::LENGTH..self.name_end]
    }

    /// The last label of the name with its length octet and the final zero; the final zero alone for the root.
    #[must_use]
    #[inline]
    pub fn top(&self) -> &'a [u8] {
        &self.packet[self.last_label..self.name_end]
    }

    /// The question section, in the client's case.
    #[must_use]
    #[inline]
    pub fn section(&self) -> &'a [u8] {
        &self.packet[Header::LENGTH..self.name_end + 4]
    }

    /// DO: whether the client wants DNSSEC records.
    #[must_use]
    #[inline]
    pub const fn dnssec_ok(&self) -> bool {
        matches!(self.edns, Some((_, true)))
    }

    /// CD: whether validation shall be left to the client.
    #[must_use]
    #[inline]
    pub const fn checking_disabled(&self) -> bool {
        self.flags & flag::CD != 0
    }
}

/// Size and DO of an OPT record of version 0 without options.
fn read_opt(record: &[u8]) -> Option<(u16, bool)> {
    let [0, high, low, size_high, size_low, 0, 0, flags, _, 0, 0] = *record else { return None };
    (u16::from_be_bytes([high, low]) == rtype::OPT)
        .then(|| (u16::from_be_bytes([size_high, size_low]), flags & 0x80 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::question::Question;
    use crate::packet::{Name, request};

    fn message(name: &str) -> Vec<u8> {
        Question { dnssec_ok: true, ..Question::plain(&Name::from_text(name).unwrap(), rtype::AAAA) }.to_wire(7, true)
    }

    #[test]
    fn what_is_read_in_place_is_what_the_whole_reader_reads() {
        for name in ["www.example", ".", "a", &["x"; 127].join(".")] {
            for with_edns in [false, true] {
                let packet = Question::plain(&Name::from_text(name).unwrap(), rtype::AAAA).to_wire(7, with_edns);
                let (plain, query) = (Plain::read(&packet).unwrap(), request::read(&packet).unwrap());
                assert_eq!(plain.name(), query.name.as_bytes());
                assert_eq!((plain.id, plain.rtype, plain.class), (query.id, query.rtype, query.class));
                assert_eq!(plain.edns, query.edns.map(|edns| (edns.udp_size, edns.dnssec_ok)));
            }
        }
        assert_eq!(Plain::read(&message("www.Example")).unwrap().top(), b"\x07example\0");
        assert!(Plain::read(&message("www.example")).unwrap().dnssec_ok());
    }

    #[test]
    fn every_other_shape_is_left_to_the_whole_reader() {
        let good = message("www.example");
        assert!(Plain::read(&good).is_some());
        for length in 0..good.len() {
            assert!(Plain::read(&good[..length]).is_none(), "{length}");
        }
        let with = |offset: usize, value: u8| {
            let mut packet = good.clone();
            packet[offset] = value;
            packet
        };
        let opt = good.len() - edns::BARE;
        let changed = [
            (2, 0x80),     // a response
            (2, 0x28),     // UPDATE
            (5, 2),        // two questions
            (5, 0),        // none
            (7, 1),        // an answer
            (9, 1),        // an authority
            (11, 0),       // OPT is there but not counted
            (12, 0xc0),    // a pointer
            (12, 64),      // a label too long
            (opt, 1),      // an OPT record with a name
            (opt + 2, 40), // another type
            (opt + 6, 1),  // another version
            (opt + 10, 1), // options that are not there
        ];
        for (offset, value) in changed {
            assert!(Plain::read(&with(offset, value)).is_none(), "{offset} {value}");
        }
        assert!(Plain::read(&[&good[..], &[0]].concat()).is_none(), "something behind the end");
    }
}
