//! Iterator over the records of a message (RFC 1035 §4.1.3).

use std::ops::Range;

use super::{Header, Malformed, Name};

/// Octets between the owner of a record and its data: type, class, TTL and length of the data.
const FIXED_LEN: usize = 10;

/// Section of a message that holds records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Records that answer the question.
    Answer,
    /// Records about the authority of the zone: NS, and SOA in a negative response.
    Authority,
    /// Additional records, OPT among them.
    Additional,
}

/// A resource record. Offsets are in octets from the start of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Section of the record.
    pub section: Section,
    /// Offset of the owner name, which is the start of the record.
    pub start: usize,
    /// Type.
    pub rtype: u16,
    /// Class.
    pub class: u16,
    /// TTL in seconds, as in the message.
    pub ttl: u32,
    /// Offset of the TTL.
    pub ttl_offset: usize,
    /// Offsets of the data (RDATA). Their end is the end of the record.
    pub data: Range<usize>,
}

/// Iterator over the records of a message, in order. Ends after the first [`Malformed`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    offset: usize,
    /// Records that remain in the answer, authority and additional sections.
    remaining: [u16; 3],
}

impl<'a> Records<'a> {
    /// Makes an iterator over the records of a message that begin at `offset`, the end of the question section.
    #[must_use]
    pub const fn new(message: &'a [u8], header: &Header, offset: usize) -> Self {
        let [_, answer, authority, additional] = header.counts;
        Self { message, offset, remaining: [answer, authority, additional] }
    }

    /// Returns the offset behind the record returned last.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    #[inline]
    fn read(&self, section: Section) -> Result<Record, Malformed> {
        let fixed = Name::skip(self.message, self.offset)?;
        let fields = self.message.get(fixed..).and_then(<[u8]>::first_chunk::<FIXED_LEN>).ok_or(Malformed)?;
        let [type_0, type_1, class_0, class_1, ttl_0, ttl_1, ttl_2, ttl_3, length_0, length_1] = *fields;
        let (rtype, class) = (u16::from_be_bytes([type_0, type_1]), u16::from_be_bytes([class_0, class_1]));
        let ttl = u32::from_be_bytes([ttl_0, ttl_1, ttl_2, ttl_3]);
        let start = fixed + FIXED_LEN;
        let data = start..start + usize::from(u16::from_be_bytes([length_0, length_1]));
        if data.end > self.message.len() {
            return Err(Malformed);
        }
        Ok(Record { section, start: self.offset, rtype, class, ttl, ttl_offset: fixed + 4, data })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let index = self.remaining.iter().position(|remaining| *remaining > 0)?;
        self.remaining[index] -= 1;
        let record = self.read(sections[index]);
        match &record {
            Ok(record) => self.offset = record.data.end,
            Err(Malformed) => self.remaining = [0; 3],
        }
        Some(record)
    }
}
