//! Name compression (RFC 1035 §4.1.4) of owner names that an upstream writes out in full: they become pointers to the
//! question, so that the cache entry is smaller.
//!
//! Everything behind a name that becomes shorter moves, and with it the targets of other pointers. So either all names
//! of a message are rewritten or none: a message with a record of unknown layout, or with a pointer to anything but a
//! name, stays as it is.

use std::collections::HashMap;

use super::rdata::{RdataLayout, rdata_layout};
use super::{Header, Name, Record, Records, put_u16, u16_at};

/// The two upper bits of a pointer.
const POINTER_BITS: u16 = 0xc000;
/// Pointers reach offsets below this one only.
const MAX_POINTER_TARGET: usize = 0x4000;

/// Returns the message with compressed owner names; `None` when it would not become shorter or has to stay as it is.
/// The message must have no OPT record, all its records must be readable, and its question must end at `question_end`.
/// A message without an owner name written out cannot become shorter.
pub(super) fn compress(wire: &[u8], question_end: usize) -> Option<Vec<u8>> {
    let header = Header::read(wire)?;
    let records: Vec<Record> = Records::new(wire, &header, question_end).collect::<Result<_, _>>().ok()?;
    let mut compressor = Compressor::new(wire, question_end)?;
    for record in &records {
        compressor.write_record(record)?;
    }
    (compressor.out.len() < wire.len()).then_some(compressor.out)
}

struct Compressor<'a> {
    wire: &'a [u8],
    /// The name in the question, in wire format.
    qname: &'a [u8],
    out: Vec<u8>,
    /// Offsets of labels in `wire`, each with its offset in `out`.
    label_offsets: HashMap<usize, usize>,
}

impl<'a> Compressor<'a> {
    fn new(wire: &'a [u8], question_end: usize) -> Option<Self> {
        let qname = wire.get(Header::LENGTH..question_end.checked_sub(4)?)?;
        let mut out = Vec::with_capacity(wire.len());
        out.extend_from_slice(wire.get(..question_end)?);
        let mut label_offsets = HashMap::new();
        let mut offset = Header::LENGTH;
        while let Some(length) = wire.get(offset).filter(|_| offset < question_end - 4) {
            label_offsets.insert(offset, offset);
            offset += 1 + usize::from(*length);
        }
        Some(Self { wire, qname, out, label_offsets })
    }

    fn write_record(&mut self, record: &Record) -> Option<()> {
        let RdataLayout { prefix_len, name_count, .. } = rdata_layout(record.rtype)?;
        // Data without names are copied whole.
        let prefix_len = if name_count == 0 { 0 } else { prefix_len };
        let owner = Name::read(self.wire, record.start).ok()?;
        if self.write_name(record.start, Some(owner.as_bytes()))? + 4 != record.ttl_offset {
            return None;
        }
        // Type, class, TTL and the length of the data, which is corrected below.
        self.out.extend_from_slice(self.wire.get(record.ttl_offset - 4..record.data.start)?);
        let data_start = self.out.len();
        let mut offset = record.data.start + prefix_len;
        self.out.extend_from_slice(self.wire.get(record.data.start..offset)?);
        for _ in 0..name_count {
            offset = self.write_name(offset, None)?;
        }
        // Fails when a name did not end within its record.
        self.out.extend_from_slice(self.wire.get(offset..record.data.end)?);
        let length = u16::try_from(self.out.len() - data_start).ok()?;
        put_u16(&mut self.out, data_start - 2, length);
        Some(())
    }

    /// Copies the name at an offset, with its pointer corrected, and returns the offset behind it. An owner name,
    /// passed decompressed, becomes a pointer from its longest suffix of the question's name on.
    fn write_name(&mut self, start: usize, owner: Option<&[u8]>) -> Option<usize> {
        let mut offset = start;
        // Offset in the question of the rest of the name.
        let mut in_question = None;
        loop {
            let length = usize::from(*self.wire.get(offset)?);
            if let (None, Some(owner)) = (in_question, owner)
                && let Some(target) = owner.get(offset - start..).and_then(|rest| self.offset_in_question(rest))
            {
                in_question = Some(target);
                self.write_pointer(target);
            }
            match (length, in_question) {
                (64..192, _) => return None,
                (0, None) => self.out.push(0),
                (0, Some(_)) => {}
                (64.., None) => {
                    let target = usize::from(u16_at(self.wire, offset)? & !POINTER_BITS);
                    let target = *self.label_offsets.get(&target).filter(|target| **target < MAX_POINTER_TARGET)?;
                    self.write_pointer(target);
                }
                (64.., Some(_)) => {}
                (_, None) => {
                    self.label_offsets.insert(offset, self.out.len());
                    self.out.extend_from_slice(self.wire.get(offset..=offset + length)?);
                }
                (_, Some(target)) => {
                    self.label_offsets.insert(offset, target);
                    in_question = Some(target + 1 + length);
                }
            }
            offset += if length >= 64 { 2 } else { 1 + length };
            if length == 0 || length >= 64 {
                return Some(offset);
            }
        }
    }

    /// Writes a pointer; `target` must be below [`MAX_POINTER_TARGET`].
    fn write_pointer(&mut self, target: usize) {
        self.out.extend_from_slice(&(POINTER_BITS | target as u16).to_be_bytes());
    }

    /// Returns the offset of a suffix in the question's name; `None` when the name has no such suffix, or for the root,
    /// for which a pointer would be longer.
    fn offset_in_question(&self, suffix: &[u8]) -> Option<usize> {
        let start = self.qname.len().checked_sub(suffix.len())?;
        let offset = Header::LENGTH + start;
        let is_suffix = suffix.len() > 1
            && self.label_offsets.get(&offset) == Some(&offset)
            && self.qname.get(start..)?.eq_ignore_ascii_case(suffix);
        is_suffix.then_some(offset)
    }
}
