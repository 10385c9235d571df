//! Cache entry: encoding of a response into the words of the table, and decoding.
//!
//! ```text
//! header            what is known of the response (see [`super::header`])
//! layout Message    offsets of the TTLs in the message, four in a word, the last one repeated to fill the word
//!                   the message behind its question, padded with zeros
//! other layouts     the data of the records, without gaps, padded with zeros (see [`super::rrset`])
//! ```
//!
//! The question is not stored: it is in the key, and a client gets its own back.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::{SmallVec, smallvec};

use super::header::{EntryHeader, HEADER_WORDS};
use super::rrset::{self, RecordLayout, RecordPrefix, UniformRrset};
use super::table::copy_words;
use crate::dns::{Header, Response};

/// Entry in the table, with its header loaded. Writers may overwrite its words at any time, so that what is read may be
/// anything: it counts only after the table has confirmed that the slot was still the same afterwards.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// Header of the entry.
    pub header: EntryHeader,
    words: &'a [AtomicU64],
}

/// Records of an entry with [`RecordLayout::Message`], in wire form.
#[derive(Clone, Copy, Debug)]
pub struct RawRecords<'a> {
    offsets: &'a [AtomicU64],
    records: &'a [AtomicU64],
}

impl<'a> EntryRef<'a> {
    /// Reads the entry in these words; `None` when they are too few for a header.
    #[inline]
    pub fn read(words: &'a [AtomicU64]) -> Option<Self> {
        Some(Self { header: EntryHeader::load(words)?, words })
    }

    /// Returns the words of the entry, header included.
    #[must_use]
    #[inline]
    pub const fn words(&self) -> &'a [AtomicU64] {
        self.words
    }

    /// Returns the words behind the header.
    #[inline]
    fn payload(&self) -> &'a [AtomicU64] {
        self.words.get(HEADER_WORDS..).unwrap_or_default()
    }

    /// Returns the records in wire form; `None` for any layout but [`RecordLayout::Message`].
    #[inline]
    pub fn raw_records(&self) -> Option<RawRecords<'a>> {
        if self.header.layout() != RecordLayout::Message {
            return None;
        }
        let (offsets, records) = self.payload().split_at_checked(self.header.record_count().div_ceil(4))?;
        Some(RawRecords { offsets, records })
    }

    /// Writes the records of an entry with [`RecordLayout::Ipv4`] to the beginning of `out`, with this type, class and
    /// TTL.
    #[inline(always)]
    pub fn write_ipv4(&self, type_and_class: u32, ttl: u32, out: &mut [u8]) {
        let prefix = RecordPrefix::new(type_and_class, ttl, rrset::IPV4_LEN as u16);
        rrset::write_ipv4(prefix, self.payload(), out);
    }

    /// Writes the records of an entry with any layout but [`RecordLayout::Message`] to `out` from `offset` on, with
    /// this type, class and TTL. Needs some octets more room than the message is long. Returns `None` when `out` is too
    /// short.
    pub fn write_uniform(&self, type_and_class: u32, ttl: u32, out: &mut [u8], offset: usize) -> Option<()> {
        let prefix = |data_len| RecordPrefix::new(type_and_class, ttl, data_len);
        let room = out.get_mut(offset..)?;
        match self.header.layout() {
            RecordLayout::Message => return None,
            RecordLayout::Ipv4 => self.write_ipv4(type_and_class, ttl, room),
            RecordLayout::Ipv6 => rrset::write_ipv6(prefix(rrset::IPV6_LEN as u16), self.payload(), room),
            RecordLayout::Single => {
                let data_len = self.header.message_len().checked_sub(offset + rrset::PREFIX_LEN)?;
                rrset::write_single(prefix(u16::try_from(data_len).ok()?), self.payload(), room)?;
            }
        }
        Some(())
    }

    /// Decodes the response to the question in this section, with the TTLs as the upstream sent them.
    pub(super) fn decode(&self, question_section: &[u8]) -> Option<Response> {
        let Self { header, .. } = self;
        let length = header.message_len();
        let question_end = Header::LENGTH + question_section.len();
        let [flags, questions, answers, authorities] =
            [48, 32, 16, 0].map(|shift| (header.flags_and_counts() >> shift) as u16);
        // Room for whole words and one more record.
        let mut wire = vec![0; length + rrset::WRITE_SLACK];
        Header { id: 0, flags, counts: [questions, answers, authorities, header.additional_count()] }.write(&mut wire);
        wire.get_mut(Header::LENGTH..question_end)?.copy_from_slice(question_section);
        let ttl_offsets = if let Some(records) = self.raw_records() {
            records.copy_records(wire.get_mut(question_end..)?)?;
            records.ttl_offsets().flatten().take(header.record_count()).collect()
        } else {
            let type_and_class = u32::from_be_bytes(*question_section.last_chunk()?);
            self.write_uniform(type_and_class, header.ttl(), &mut wire, question_end)?;
            let record_len = length.checked_sub(question_end)?.checked_div(header.record_count())?;
            let ttl_offset = |record: usize| u16::try_from(question_end + record * record_len + rrset::TTL_OFFSET).ok();
            (0..header.record_count()).map(ttl_offset).collect::<Option<_>>()?
        };
        wire.truncate(length);
        let question_end = u16::try_from(question_end).ok()?;
        let (rcode, ttl) = (header.rcode(), header.response_ttl());
        let ede = header.ede().filter(|_| !header.is_partial());
        let mut response = Response::from_parts(wire, ttl_offsets, question_end, rcode, ttl, ede);
        response.set_upstream_id(header.server_id());
        Some(if header.is_partial() { response.into_partial(header.server_id()) } else { response })
    }
}

impl RawRecords<'_> {
    /// Copies the records to `out`, which needs some octets more room: whole words are written.
    #[inline]
    pub fn copy_records(&self, out: &mut [u8]) -> Option<usize> {
        copy_words(self.records, out)
    }

    /// Returns the offsets of the TTLs in the message, four at a time. The last one is repeated to fill its group.
    #[inline]
    pub fn ttl_offsets(&self) -> impl Iterator<Item = [u16; 4]> {
        let unpack = |word: u64| [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16];
        self.offsets.iter().map(move |word| unpack(word.load(Ordering::Relaxed)))
    }
}

/// Encodes a response stored at `now`, in ticks, and passes the words to `store`; `None` when it is uncacheable.
pub(super) fn encode<R>(response: &Response, now: u64, store: impl FnOnce(&[u64]) -> R) -> Option<R> {
    let rrset = UniformRrset::from_response(response);
    let header = EntryHeader::new(response, now, rrset.map_or(RecordLayout::Message, |rrset| rrset.layout))?;
    let records = response.wire().get(usize::from(response.question_end())..)?;
    let (offsets, octets) = match rrset {
        Some(rrset) => (&[][..], rrset.data_len()),
        None => (response.ttl_offsets(), records.len()),
    };
    let offset_words = offsets.len().div_ceil(4);
    // The words of most responses take no allocation.
    let mut words: SmallVec<[u64; 16]> = smallvec![0; HEADER_WORDS + offset_words + octets.div_ceil(8)];
    let (header_words, payload) = words.split_first_chunk_mut()?;
    *header_words = *header.as_words();
    let (packed_offsets, data) = payload.split_at_mut_checked(offset_words)?;
    packed_offsets.iter_mut().zip(offsets.chunks(4)).for_each(|(word, offsets)| *word = pack_offsets(offsets));
    let data = bytemuck::cast_slice_mut(data).get_mut(..octets)?;
    match rrset {
        Some(rrset) => rrset.copy_data(data),
        None => data.copy_from_slice(records),
    }
    Some(store(&words))
}

/// Packs up to four offsets into a word, the first one in the lowest bits. The last one is repeated to fill the word.
fn pack_offsets(offsets: &[u16]) -> u64 {
    let last = offsets.last().copied().unwrap_or_default();
    (0..4).rev().fold(0, |word, index| (word << 16) | u64::from(offsets.get(index).copied().unwrap_or(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    #[test]
    fn a_response_of_every_layout_is_the_same_after_encoding_and_decoding() {
        // Type, octets of data, and the difference between the TTLs of neighbouring records.
        let cases = [(rtype::A, 4, 0), (rtype::AAAA, 16, 0), (rtype::TXT, 0, 0), (rtype::TXT, 13, 1), (rtype::A, 4, 1)];
        let mut layouts = Vec::new();
        for (rtype, length, ttl_step) in cases {
            for count in 1..40_u8 {
                let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype);
                let record =
                    |index: u8| (rtype, 60 + u32::from(index) * ttl_step, vec![count.wrapping_add(index); length]);
                let records: Vec<_> = (0..count).map(record).collect();
                let sent = Response::with_records(&question, rcode::NOERROR, &records);
                let response = Response::read(sent.wire(), 0, &question).unwrap();
                let words = encode(&response, 7, <[u64]>::to_vec).unwrap();
                let words: Vec<_> = words.into_iter().map(AtomicU64::new).collect();
                let entry = EntryRef::read(&words).unwrap();
                assert_eq!(entry.decode(&question.section()).unwrap().wire(), response.wire(), "{rtype} {count}");
                assert_eq!(entry.decode(&question.section()).unwrap().ttl_offsets(), response.ttl_offsets());
                layouts.push(entry.header.layout());
            }
        }
        for layout in [RecordLayout::Message, RecordLayout::Single, RecordLayout::Ipv4, RecordLayout::Ipv6] {
            assert!(layouts.contains(&layout), "{layout:?}");
        }
    }
}
