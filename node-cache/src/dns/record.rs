//! Iterator over the records of a message (RFC 1035 §4.1.3).

use std::ops::Range;

use super::{Header, Malformed, Name, u16_at, u32_at};

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

    fn read(&self, section: Section) -> Result<Record, Malformed> {
        let fixed = Name::skip(self.message, self.offset)?;
        let field = |offset| u16_at(self.message, offset).ok_or(Malformed);
        let rtype = field(fixed)?;
        let class = field(fixed + 2)?;
        let ttl = u32_at(self.message, fixed + 4).ok_or(Malformed)?;
        let data = fixed + 10..fixed + 10 + usize::from(field(fixed + 8)?);
        if data.end > self.message.len() {
            return Err(Malformed);
        }
        Ok(Record { section, start: self.offset, rtype, class, ttl, ttl_offset: fixed + 4, data })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

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
