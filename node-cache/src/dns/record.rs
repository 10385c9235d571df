//! Walking over the records of a message (RFC 1035 §4.1.3).

use std::ops::Range;

use super::{Header, Malformed, Name, u16_at, u32_at};

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who is in charge.
    Authority,
    /// What may be useful too.
    Additional,
}

/// One record. Offsets count from the start of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub section: Section,
    /// Where its owner name begins.
    pub start: usize,
    /// Its type.
    pub rtype: u16,
    /// Its class.
    pub class: u16,
    /// Its time to live in seconds, as written.
    pub ttl: u32,
    /// Where its time to live stands.
    pub ttl_offset: usize,
    /// Its data. Their end is the end of the record.
    pub data: Range<usize>,
}

/// The records of a message in order. After the first [`Malformed`] there are no more.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: [u16; 3],
}

impl<'a> Records<'a> {
    /// The records of a message that begin at `offset`, which is behind its questions.
    #[must_use]
    pub const fn new(message: &'a [u8], header: &Header, offset: usize) -> Self {
        let [_, answer, authority, additional] = header.counts;
        Self { message, at: offset, left: [answer, authority, additional] }
    }

    /// The offset behind the last record that was given.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }

    fn read(&self, section: Section) -> Result<Record, Malformed> {
        let fixed = Name::skip(self.message, self.at)?;
        let field = |offset| u16_at(self.message, offset).ok_or(Malformed);
        let (rtype, class) = (field(fixed)?, field(fixed + 2)?);
        let ttl = u32_at(self.message, fixed + 4).ok_or(Malformed)?;
        let data = fixed + 10..fixed + 10 + usize::from(field(fixed + 8)?);
        if data.end > self.message.len() {
            return Err(Malformed);
        }
        Ok(Record { section, start: self.at, rtype, class, ttl, ttl_offset: fixed + 4, data })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let index = self.left.iter().position(|left| *left > 0)?;
        self.left[index] -= 1;
        let record = self.read(sections[index]);
        match &record {
            Ok(record) => self.at = record.data.end,
            Err(Malformed) => self.left = [0; 3],
        }
        Some(record)
    }
}
