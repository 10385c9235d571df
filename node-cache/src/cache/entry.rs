//! An answer where it lies in the table, how it is laid there, and how it is made a message again.
//!
//! ```text
//! head            what is known of it (see [`super::header`])
//! as written      offsets of the TTLs in the message, four in a word; behind the last one it is repeated
//!                 the message behind its question, filled up with zeros
//! or as a set     the data of its records, one behind the other, filled up with zeros (see [`super::rrset`])
//! ```
//!
//! The question is not kept: it is in the key, and a client gets its own back.

use std::sync::atomic::{AtomicU64, Ordering};

use super::header::{EntryHeader, HEAD};
use super::rrset::{self, RecordLayout, RecordPrefix, UniformRrset};
use super::table::copy;
use crate::dns::{Header, Response};

/// An answer where it lies in the table. Others may write there at any time: what is read makes an answer only together with
/// the table's word that it was still the same afterwards, and until then may be anything.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// What is known of it.
    pub head: EntryHeader,
    words: &'a [AtomicU64],
}

/// Records as they are written in the message.
#[derive(Clone, Copy, Debug)]
pub struct RawRecords<'a> {
    offsets: &'a [AtomicU64],
    records: &'a [AtomicU64],
}

impl<'a> EntryRef<'a> {
    /// Reads the answer that these words are; none when they are too few.
    #[inline]
    pub fn read(words: &'a [AtomicU64]) -> Option<Self> {
        Some(Self { head: EntryHeader::read(words)?, words })
    }

    /// The words that it was read from.
    #[must_use]
    #[inline]
    pub const fn words(&self) -> &'a [AtomicU64] {
        self.words
    }

    /// What follows the head.
    #[inline]
    fn rest(&self) -> &'a [AtomicU64] {
        self.words.get(HEAD..).unwrap_or_default()
    }

    /// Its records, when they are kept as they are written.
    #[inline]
    pub fn written(&self) -> Option<RawRecords<'a>> {
        if self.head.form() != RecordLayout::Message {
            return None;
        }
        let (offsets, records) = self.rest().split_at_checked(self.head.records().div_ceil(4))?;
        Some(RawRecords { offsets, records })
    }

    /// Writes its records, which are [`RecordLayout::Ipv4`], to the beginning of `out`. They are of this type and class and show this
    /// TTL.
    #[inline(always)]
    pub fn write_fours(&self, type_and_class: u32, ttl: u32, out: &mut [u8]) {
        rrset::write_fours(RecordPrefix::new(type_and_class, ttl, rrset::IPV4 as u16), self.rest(), out);
    }

    /// The same for any form but [`RecordLayout::Message`], to this place in `out`, which has to have room for some octets more.
    pub fn write_set(&self, type_and_class: u32, ttl: u32, out: &mut [u8], place: usize) -> Option<()> {
        let (front, room) = (|length| RecordPrefix::new(type_and_class, ttl, length), out.get_mut(place..)?);
        match self.head.form() {
            RecordLayout::Message => return None,
            RecordLayout::Ipv4 => self.write_fours(type_and_class, ttl, room),
            RecordLayout::Ipv6 => rrset::write_sixteens(front(rrset::IPV6 as u16), self.rest(), room),
            RecordLayout::Single => {
                let length = self.head.length().checked_sub(place + rrset::FRONT)?;
                rrset::write_one(front(u16::try_from(length).ok()?), self.rest(), room)?;
            }
        }
        Some(())
    }

    /// The response to the question in this section, with its TTLs as they were written.
    pub(super) fn response(&self, section: &[u8]) -> Option<Response> {
        let Self { head, .. } = self;
        let (length, question_end) = (head.length(), Header::LENGTH + section.len());
        let [flags, questions, answers, authorities] = [48, 32, 16, 0].map(|shift| (head.front() >> shift) as u16);
        // For whole words, and one more record.
        let mut wire = vec![0; length + rrset::SLACK];
        Header { id: 0, flags, counts: [questions, answers, authorities, head.additional()] }.write(&mut wire);
        wire.get_mut(Header::LENGTH..question_end)?.copy_from_slice(section);
        let offsets = if let Some(written) = self.written() {
            written.copy_records(wire.get_mut(question_end..)?)?;
            written.ttl_offsets().flatten().take(head.records()).collect()
        } else {
            self.write_set(u32::from_be_bytes(*section.last_chunk()?), head.life(), &mut wire, question_end)?;
            let each = length.checked_sub(question_end)?.checked_div(head.records())?;
            let ttls = (0..head.records()).map(|record| u16::try_from(question_end + record * each + rrset::TTL).ok());
            ttls.collect::<Option<_>>()?
        };
        wire.truncate(length);
        let question_end = u16::try_from(question_end).ok()?;
        Some(Response::kept(wire, offsets, question_end, head.rcode(), head.lifetime(), head.ede()))
    }
}

impl RawRecords<'_> {
    /// Copies the records to `out`, which has to have room for some octets more: whole words are written.
    #[inline]
    pub fn copy_records(&self, out: &mut [u8]) -> Option<usize> {
        copy(self.records, out)
    }

    /// Where in the message the TTLs are, four at a time; behind the last one it is repeated.
    #[inline]
    pub fn ttl_offsets(&self) -> impl Iterator<Item = [u16; 4]> {
        let four = |word: u64| [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16];
        self.offsets.iter().map(move |word| four(word.load(Ordering::Relaxed)))
    }
}

/// The words of an answer that came in at this time, in ticks; none when it is not to be kept.
pub(super) fn words(response: &Response, now: u64) -> Option<Vec<u64>> {
    let set = UniformRrset::of(response);
    let head = EntryHeader::of(response, now, set.map_or(RecordLayout::Message, |set| set.form))?;
    let records = response.wire().get(usize::from(response.question_end())..)?;
    let (offsets, octets) = match set {
        Some(set) => (&[][..], set.data_length()),
        None => (response.ttl_offsets(), records.len()),
    };
    let offset_words = offsets.len().div_ceil(4);
    let mut words = vec![0; HEAD + offset_words + octets.div_ceil(8)];
    let (place, rest) = words.split_first_chunk_mut()?;
    *place = *head.as_words();
    let (place, rest) = rest.split_at_mut_checked(offset_words)?;
    place.iter_mut().zip(offsets.chunks(4)).for_each(|(word, offsets)| *word = four(offsets));
    let place = bytemuck::cast_slice_mut(rest).get_mut(..octets)?;
    match set {
        Some(set) => set.copy_data(place),
        None => place.copy_from_slice(records),
    }
    Some(words)
}

/// Four offsets in a word, the first one in the lowest bits. The last one is repeated where there are fewer.
fn four(offsets: &[u16]) -> u64 {
    let last = offsets.last().copied().unwrap_or_default();
    (0..4).rev().fold(0, |word, place| (word << 16) | u64::from(offsets.get(place).copied().unwrap_or(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    #[test]
    fn an_answer_of_every_form_is_the_same_when_it_was_kept() {
        let kinds = [(rtype::A, 4, 0), (rtype::AAAA, 16, 0), (rtype::TXT, 0, 0), (rtype::TXT, 13, 1), (rtype::A, 4, 1)];
        let mut forms = Vec::new();
        for (rtype, length, step) in kinds {
            for number in 1..40_u8 {
                let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype);
                let record =
                    |place: u8| (rtype, 60 + u32::from(place) * step, vec![number.wrapping_add(place); length]);
                let records: Vec<_> = (0..number).map(record).collect();
                let sent = Response::with_records(&question, rcode::NOERROR, &records);
                let response = Response::read(sent.wire(), 0, &question).unwrap();
                let words: Vec<_> = words(&response, 7).unwrap().into_iter().map(AtomicU64::new).collect();
                let kept = EntryRef::read(&words).unwrap();
                assert_eq!(kept.response(&question.section()).unwrap().wire(), response.wire(), "{rtype} {number}");
                assert_eq!(kept.response(&question.section()).unwrap().ttl_offsets(), response.ttl_offsets());
                forms.push(kept.head.form());
            }
        }
        for form in [RecordLayout::Message, RecordLayout::Single, RecordLayout::Ipv4, RecordLayout::Ipv6] {
            assert!(forms.contains(&form), "{form:?}");
        }
    }
}
