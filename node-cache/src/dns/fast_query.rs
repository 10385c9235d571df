//! Parser for the usual shape of a client's query: one question, at most an OPT record without options, nothing behind.
//!
//! The packet is parsed in place, without allocating and without validating labels: all octets between header and type
//! are taken for the name. That is safe because the name is only compared with names in the cache, which were
//! validated; an invalid name equals none of them. Every other packet is left to [`super::request`], which parses all
//! shapes and rejects malformed ones; no packet is rejected here.

use std::num::NonZeroU8;

use super::codes::rtype;
use super::{Header, edns, flag};

/// A query of the usual shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastQuery {
    /// Length of the name in octets.
    pub name_length: NonZeroU8,
    /// [`flag`]s of the header.
    pub flags: u16,
    /// Type of the question in the upper half, class in the lower half.
    pub type_and_class: u32,
    /// EDNS; `None` without an OPT record.
    pub edns: Option<FastEdns>,
}

/// Content of an OPT record of version 0 without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastEdns {
    /// UDP payload size that the client accepts, in octets.
    pub udp_size: u16,
    /// DO: whether the client wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// The four counts of the header, as they are on the wire: one question and no records.
const ONE_QUESTION: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);
/// The four counts of the header, as they are on the wire: one question and one additional record.
const ONE_QUESTION_ONE_RECORD: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 1]);

impl FastQuery {
    /// Parses a packet; `None` when it has another shape, be it well formed or not.
    #[must_use]
    #[inline]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<{ Header::LENGTH }>()?;
        let [_, _, flags @ .., _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, counts @ ..] = *header;
        let flags = u16::from_be_bytes(flags);
        // A response, or an opcode other than QUERY.
        if flags & (flag::QR | 0x7800) != 0 {
            return None;
        }
        let (rest, edns) = match u64::from_ne_bytes(counts) {
            ONE_QUESTION => (rest, None),
            ONE_QUESTION_ONE_RECORD => {
                let (rest, opt) = rest.split_last_chunk::<{ edns::OPT_LEN }>()?;
                (rest, Some(read_opt(opt)?))
            }
            _ => return None,
        };
        let (name, type_and_class) = rest.split_last_chunk()?;
        // A name has 255 octets at most (RFC 1035 §2.3.4).
        let name_length = NonZeroU8::new(u8::try_from(name.len()).ok()?)?;
        let type_and_class = u32::from_be_bytes(*type_and_class);
        (name.last() == Some(&0)).then_some(Self { name_length, flags, type_and_class, edns })
    }

    /// Returns the name in the packet that this query was parsed from, in the client's case. Not validated: the octets
    /// may be no name.
    #[must_use]
    #[inline]
    pub fn name<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(Header::LENGTH..Header::LENGTH + usize::from(self.name_length.get())).unwrap_or_default()
    }

    /// Returns the type of the question.
    #[must_use]
    pub const fn rtype(&self) -> u16 {
        (self.type_and_class >> 16) as u16
    }

    /// Returns the class of the question.
    #[must_use]
    pub const fn class(&self) -> u16 {
        self.type_and_class as u16
    }

    /// Returns the length of the question section in octets.
    #[must_use]
    #[inline]
    pub const fn section_length(&self) -> usize {
        self.name_length.get() as usize + 4
    }

    /// Returns whether DO is set: the client wants DNSSEC records.
    #[must_use]
    #[inline]
    pub const fn dnssec_ok(&self) -> bool {
        matches!(self.edns, Some(FastEdns { dnssec_ok: true, .. }))
    }

    /// Returns whether CD is set: the upstream shall not validate.
    #[must_use]
    #[inline]
    pub const fn checking_disabled(&self) -> bool {
        self.flags & flag::CD != 0
    }
}

/// Reads an OPT record; `None` unless it has version 0 and no options.
#[inline]
fn read_opt(record: &[u8; edns::OPT_LEN]) -> Option<FastEdns> {
    let [0, high, low, size_high, size_low, 0, 0, flags, _, 0, 0] = *record else { return None };
    (u16::from_be_bytes([high, low]) == rtype::OPT)
        .then(|| FastEdns { udp_size: u16::from_be_bytes([size_high, size_low]), dnssec_ok: flags & 0x80 != 0 })
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
    fn a_query_parsed_in_place_equals_the_same_query_parsed_in_full() {
        for name in ["www.example", ".", "a", &["x"; 127].join(".")] {
            for with_edns in [false, true] {
                let packet = Question::plain(&Name::from_text(name).unwrap(), rtype::AAAA).to_wire(7, with_edns);
                let fast_query = FastQuery::read(&packet).unwrap();
                let query = request::read(&packet).unwrap();
                assert_eq!(fast_query.name(&packet), query.name.as_bytes());
                assert_eq!((fast_query.rtype(), fast_query.class()), (query.rtype, query.class));
                assert_eq!(
                    fast_query.edns,
                    query.edns.map(|edns| FastEdns { udp_size: edns.udp_size, dnssec_ok: edns.dnssec_ok })
                );
            }
        }
        assert!(FastQuery::read(&message("www.example")).unwrap().dnssec_ok());
    }

    #[test]
    fn every_other_shape_is_left_to_the_full_parser() {
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
        // Octets behind the end of a name make it an invalid name, which equals none: here an OPT record not counted in
        // the header.
        let uncounted = with(11, 0);
        let fast_query = FastQuery::read(&uncounted).unwrap();
        let taken_for_a_name = fast_query.name(&uncounted);
        assert!(Name::read_uncompressed(taken_for_a_name, 0).is_ok_and(|(_, end)| end < taken_for_a_name.len()));
        let opt = good.len() - edns::OPT_LEN;
        let changed = [
            (2, 0x80),     // a response
            (2, 0x28),     // UPDATE
            (5, 2),        // two questions
            (5, 0),        // no question
            (7, 1),        // a record in the answer section
            (9, 1),        // a record in the authority section
            (opt, 1),      // an OPT record with a name
            (opt + 2, 40), // another type
            (opt + 6, 1),  // another version
            (opt + 10, 1), // options that are missing
        ];
        for (offset, value) in changed {
            assert!(FastQuery::read(&with(offset, value)).is_none(), "{offset} {value}");
        }
        assert!(FastQuery::read(&[&good[..], &[0]].concat()).is_none(), "an octet behind the end");
    }
}
