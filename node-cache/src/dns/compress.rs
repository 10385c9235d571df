//! Owner names that a server writes out in full, made pointers to the question (RFC 1035 §4.1.4): what is kept is shorter.
//!
//! Everything behind a name that got shorter moves, and with it whatever other names point at. So all names of a message
//! are rewritten or none: a message with a record of unknown layout, or with a name that points to anything but a name,
//! stays as it came.

use std::collections::HashMap;

use super::rdata::{Layout, layout};
use super::{Header, Name, Record, Records, put_u16, u16_at};

/// The first two bits of a pointer.
const POINTER: u16 = 0xc000;
/// The first offset that no pointer reaches.
const UNREACHABLE: usize = 0x4000;

/// The message with shorter owner names; none when there is nothing to gain or it has to stay as it is. It has no OPT
/// record, its records can be walked over, and its question ends at `question_end`. Where no owner is written out there is
/// nothing to gain.
pub(super) fn compress(wire: &[u8], question_end: usize) -> Option<Vec<u8>> {
    let header = Header::read(wire)?;
    let records: Vec<Record> = Records::new(wire, &header, question_end).collect::<Result<_, _>>().ok()?;
    let mut shorter = Compressor::begin(wire, question_end)?;
    for record in &records {
        shorter.record(record)?;
    }
    (shorter.out.len() < wire.len()).then_some(shorter.out)
}

struct Compressor<'a> {
    wire: &'a [u8],
    /// The name of the question, in wire form.
    asked: &'a [u8],
    out: Vec<u8>,
    /// Where the labels that pointers may lead to stand now.
    moved: HashMap<usize, usize>,
}

impl<'a> Compressor<'a> {
    fn begin(wire: &'a [u8], question_end: usize) -> Option<Self> {
        let asked = wire.get(Header::LENGTH..question_end.checked_sub(4)?)?;
        let mut out = Vec::with_capacity(wire.len());
        out.extend_from_slice(wire.get(..question_end)?);
        let mut moved = HashMap::new();
        let mut at = Header::LENGTH;
        while let Some(length) = wire.get(at).filter(|_| at < question_end - 4) {
            moved.insert(at, at);
            at += 1 + usize::from(*length);
        }
        Some(Self { wire, asked, out, moved })
    }

    fn record(&mut self, record: &Record) -> Option<()> {
        let Layout { before, names, .. } = layout(record.rtype)?;
        // In addresses there is nothing to look for.
        let before = if names == 0 { 0 } else { before };
        let owner = Name::read(self.wire, record.start).ok()?;
        if self.name(record.start, Some(owner.as_bytes()))? + 4 != record.ttl_offset {
            return None;
        }
        // Type, class, TTL and the length of the data, which is put right when they are written.
        self.out.extend_from_slice(self.wire.get(record.ttl_offset - 4..record.data.start)?);
        let start = self.out.len();
        let mut at = record.data.start + before;
        self.out.extend_from_slice(self.wire.get(record.data.start..at)?);
        for _ in 0..names {
            at = self.name(at, None)?;
        }
        // Nothing when a name did not end with its record.
        self.out.extend_from_slice(self.wire.get(at..record.data.end)?);
        let length = u16::try_from(self.out.len() - start).ok()?;
        put_u16(&mut self.out, start - 2, length);
        Some(())
    }

    /// Copies the name at this offset, with pointers that lead where they should, and gives the offset behind it. Of an
    /// owner, given whole, only what the name of the question does not end with is written out.
    fn name(&mut self, start: usize, owner: Option<&[u8]>) -> Option<usize> {
        let mut at = start;
        // Where in the question the rest of the name stands.
        let mut in_question = None;
        loop {
            let length = usize::from(*self.wire.get(at)?);
            if let (None, Some(owner)) = (in_question, owner)
                && let Some(place) = owner.get(at - start..).and_then(|rest| self.place_in_question(rest))
            {
                in_question = Some(place);
                self.point_to(place);
            }
            match (length, in_question) {
                (64..192, _) => return None,
                (0, None) => self.out.push(0),
                (0, Some(_)) => {}
                (64.., None) => {
                    let target = usize::from(u16_at(self.wire, at)? & !POINTER);
                    let target = *self.moved.get(&target).filter(|target| **target < UNREACHABLE)?;
                    self.point_to(target);
                }
                (64.., Some(_)) => {}
                (_, None) => {
                    self.moved.insert(at, self.out.len());
                    self.out.extend_from_slice(self.wire.get(at..=at + length)?);
                }
                (_, Some(place)) => {
                    self.moved.insert(at, place);
                    in_question = Some(place + 1 + length);
                }
            }
            at += if length >= 64 { 2 } else { 1 + length };
            if length == 0 || length >= 64 {
                return Some(at);
            }
        }
    }

    fn point_to(&mut self, target: usize) {
        // Below 0x4000: it is looked at before.
        self.out.extend_from_slice(&(POINTER | target as u16).to_be_bytes());
    }

    /// Where in the question this end of a name stands, if its name ends like that. The root is nothing to point at.
    fn place_in_question(&self, rest: &[u8]) -> Option<usize> {
        let start = self.asked.len().checked_sub(rest.len())?;
        let place = Header::LENGTH + start;
        let same = rest.len() > 1
            && self.moved.get(&place) == Some(&place)
            && self.asked.get(start..)?.eq_ignore_ascii_case(rest);
        same.then_some(place)
    }
}
