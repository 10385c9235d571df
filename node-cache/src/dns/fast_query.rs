//! The shape that nearly every question of a client has: one question, at most an OPT record without options, nothing
//! behind it. It is read in place, without allocating and without a look at the labels: whatever stands between the header
//! and the type is taken for the name. It is one only if it equals a name that was read with care, and what is not a name
//! equals none in memory. Every other packet is for [`super::request`], which knows all shapes and says what is wrong with the
//! rest; nothing is decided here.

use std::num::NonZeroU8;

use super::codes::rtype;
use super::{Header, edns, flag};

/// A question of the plain shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastQuery {
    /// Octets of the name.
    pub name_length: NonZeroU8,
    /// The header's [`flag`]s.
    pub flags: u16,
    /// The type of the records asked for, and in the lower half their class.
    pub type_and_class: u32,
    /// The longest datagram that the client takes and whether it wants DNSSEC records (DO), if it speaks EDNS.
    pub edns: Option<(u16, bool)>,
}

/// The numbers of questions, answers, authorities and additional records, as they are sent: one question.
const ONE_QUESTION: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);
/// The same, and what may be an OPT record.
const AND_ONE_RECORD: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 1]);

impl FastQuery {
    /// Reads a packet; none when it has another shape, whether that is good or bad.
    #[must_use]
    #[inline]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<{ Header::LENGTH }>()?;
        let [_, _, flags @ .., _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, counts @ ..] = *header;
        let flags = u16::from_be_bytes(flags);
        // A response, or another opcode than QUERY.
        if flags & (flag::QR | 0x7800) != 0 {
            return None;
        }
        let (rest, edns) = match u64::from_ne_bytes(counts) {
            ONE_QUESTION => (rest, None),
            AND_ONE_RECORD => {
                let (rest, opt) = rest.split_last_chunk::<{ edns::BARE }>()?;
                (rest, Some(read_opt(opt)?))
            }
            _ => return None,
        };
        let (name, type_and_class) = rest.split_last_chunk()?;
        // No name has more octets (RFC 1035 §2.3.4).
        let name_length = NonZeroU8::new(u8::try_from(name.len()).ok()?)?;
        let type_and_class = u32::from_be_bytes(*type_and_class);
        (name.last() == Some(&0)).then_some(Self { name_length, flags, type_and_class, edns })
    }

    /// The name in the packet that this was read from, in the client's case: what is in its place, whether it is a name or
    /// not.
    #[must_use]
    #[inline]
    pub fn name<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(Header::LENGTH..Header::LENGTH + usize::from(self.name_length.get())).unwrap_or_default()
    }

    /// The type of the records asked for.
    #[must_use]
    pub const fn rtype(&self) -> u16 {
        (self.type_and_class >> 16) as u16
    }

    /// Their class.
    #[must_use]
    pub const fn class(&self) -> u16 {
        self.type_and_class as u16
    }

    /// Octets of the question section.
    #[must_use]
    #[inline]
    pub const fn section_length(&self) -> usize {
        self.name_length.get() as usize + 4
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
#[inline]
fn read_opt(record: &[u8; edns::BARE]) -> Option<(u16, bool)> {
    let [0, high, low, size_high, size_low, 0, 0, flags, _, 0, 0] = *record else { return None };
    (u16::from_be_bytes([high, low]) == rtype::OPT)
        .then(|| (u16::from_be_bytes([size_high, size_low]), flags & 0x80 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::question::Question;
    use crate::dns::{Name, request};

    fn message(name: &str) -> Vec<u8> {
        Question { dnssec_ok: true, ..Question::plain(&Name::from_text(name).unwrap(), rtype::AAAA) }.to_wire(7, true)
    }

    #[test]
    fn what_is_read_in_place_is_what_the_whole_reader_reads() {
        for name in ["www.example", ".", "a", &["x"; 127].join(".")] {
            for with_edns in [false, true] {
                let packet = Question::plain(&Name::from_text(name).unwrap(), rtype::AAAA).to_wire(7, with_edns);
                let (plain, query) = (FastQuery::read(&packet).unwrap(), request::read(&packet).unwrap());
                assert_eq!(plain.name(&packet), query.name.as_bytes());
                assert_eq!((plain.rtype(), plain.class()), (query.rtype, query.class));
                assert_eq!(plain.edns, query.edns.map(|edns| (edns.udp_size, edns.dnssec_ok)));
            }
        }
        assert!(FastQuery::read(&message("www.example")).unwrap().dnssec_ok());
    }

    #[test]
    fn every_other_shape_is_left_to_the_whole_reader() {
        let good = message("www.example");
        assert!(FastQuery::read(&good).is_some());
        for length in 0..good.len() {
            assert!(FastQuery::read(&good[..length]).is_none(), "{length}");
        }
        let with = |offset: usize, value: u8| {
            let mut packet = good.clone();
            packet[offset] = value;
            packet
        };
        // What follows the end of a name makes it no name, and so it equals none: here an OPT record that is not counted.
        let uncounted = with(11, 0);
        let plain = FastQuery::read(&uncounted).unwrap();
        let taken_for_a_name = plain.name(&uncounted);
        assert!(Name::read_plain(taken_for_a_name, 0).is_ok_and(|(_, end)| end < taken_for_a_name.len()));
        let opt = good.len() - edns::BARE;
        let changed = [
            (2, 0x80),     // a response
            (2, 0x28),     // UPDATE
            (5, 2),        // two questions
            (5, 0),        // none
            (7, 1),        // an answer
            (9, 1),        // an authority
            (opt, 1),      // an OPT record with a name
            (opt + 2, 40), // another type
            (opt + 6, 1),  // another version
            (opt + 10, 1), // options that are not there
        ];
        for (offset, value) in changed {
            assert!(FastQuery::read(&with(offset, value)).is_none(), "{offset} {value}");
        }
        assert!(FastQuery::read(&[&good[..], &[0]].concat()).is_none(), "something behind the end");
    }
}
