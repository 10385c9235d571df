//! Records that differ in nothing but their data, as those of most answers do: the owner is the name in the question, type
//! and class are those of the question, and TTL and length are the same. Their data alone are kept, so that an answer of
//! four addresses takes two words in the place of nine; the rest is written anew for each client, with the TTL that it shall
//! see, which is less work than to copy whole records and to look for their TTLs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::copy;
use crate::dns::{Header, Response, ResponseTtl};

/// Octets of a record before its data (RFC 1035 §3.2.1), the owner being a pointer to the name in the question.
pub(super) const FRONT: usize = 12;
/// Where in a record its TTL stands.
pub(super) const TTL: usize = 6;
/// The length of an address.
pub(super) const IPV4: usize = 4;
pub(super) const IPV6: usize = 16;
/// Octets that may be written behind a message: a record, where two are written at a time.
pub(super) const SLACK: usize = FRONT + IPV4;

/// How the records of an answer are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLayout {
    /// As they are written in the message.
    Message = 0,
    /// One record: its data.
    Single = 1,
    /// Data of four octets each.
    Ipv4 = 2,
    /// Data of sixteen octets each.
    Ipv6 = 3,
}

impl RecordLayout {
    /// From the two lowest bits.
    #[inline]
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Message,
            1 => Self::Single,
            2 => Self::Ipv4,
            _ => Self::Ipv6,
        }
    }
}

/// The records of a response that can be kept like that.
#[derive(Clone, Copy, Debug)]
pub(super) struct UniformRrset<'a> {
    /// Their form, which is not [`RecordLayout::Message`].
    pub(super) form: RecordLayout,
    records: &'a [u8],
    /// Octets of a record.
    each: usize,
}

impl<'a> UniformRrset<'a> {
    /// None when they have to be kept as they are written.
    pub(super) fn of(response: &'a Response) -> Option<Self> {
        let ResponseTtl::Positive(ttl) = response.lifetime() else { return None };
        let (wire, number) = (response.wire(), response.ttl_offsets().len());
        let [_, answers, ..] = Header::read(wire)?.counts;
        let (before, records) = wire.split_at_checked(usize::from(response.question_end()))?;
        let each = records.len().checked_div(number)?;
        let length = each.checked_sub(FRONT)?;
        let form = match (number, length) {
            (_, IPV4) => RecordLayout::Ipv4,
            (_, IPV6) => RecordLayout::Ipv6,
            (1, _) => RecordLayout::Single,
            _ => return None,
        };
        let front = RecordPrefix::new(u32::from_be_bytes(*before.last_chunk()?), ttl, u16::try_from(length).ok()?);
        let is_set = usize::from(answers) == number
            && each * number == records.len()
            && records.chunks_exact(each).all(|record| front.starts(record));
        is_set.then_some(Self { form, records, each })
    }

    /// Octets of the data of all records.
    pub(super) const fn data_length(&self) -> usize {
        self.records.len() / self.each * (self.each - FRONT)
    }

    /// Copies the data of all records, one behind the other, to where there is as much room.
    pub(super) fn copy_data(&self, mut out: &mut [u8]) {
        for data in self.records.chunks_exact(self.each).filter_map(|record| record.get(FRONT..)) {
            let Some((place, rest)) = out.split_at_mut_checked(data.len()) else { return };
            place.copy_from_slice(data);
            out = rest;
        }
    }
}

/// A record before its data: in two numbers, whose lower octets come first.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordPrefix {
    owner_type_class_and_half_of_ttl: u64,
    half_of_ttl_and_length: u32,
}

impl RecordPrefix {
    /// Of the name in the question. `type_and_class` are the type, and in the lower half the class.
    #[inline]
    pub(super) const fn new(type_and_class: u32, ttl: u32, length: u16) -> Self {
        const OWNER: u64 = 0xc00c << 48;
        let first = OWNER | ((type_and_class as u64) << 16) | (ttl >> 16) as u64;
        let last = (ttl << 16) | length as u32;
        Self { owner_type_class_and_half_of_ttl: first.swap_bytes(), half_of_ttl_and_length: last.swap_bytes() }
    }

    fn starts(self, record: &[u8]) -> bool {
        let first = record.strip_prefix(&self.owner_type_class_and_half_of_ttl.to_le_bytes());
        first.is_some_and(|rest| rest.starts_with(&self.half_of_ttl_and_length.to_le_bytes()))
    }

    /// A record of four octets of data, of which the lower ones come first.
    #[inline]
    fn with_four(self, data: u32, record: &mut [u8; FRONT + IPV4]) {
        let last = u64::from(self.half_of_ttl_and_length) | (u64::from(data) << 32);
        let halves = record.as_chunks_mut().0.iter_mut();
        halves.zip([self.owner_type_class_and_half_of_ttl, last]).for_each(|(half, value)| *half = value.to_le_bytes());
    }

    fn write(self, record: &mut [u8; FRONT]) {
        record[..8].copy_from_slice(&self.owner_type_class_and_half_of_ttl.to_le_bytes());
        record[8..].copy_from_slice(&self.half_of_ttl_and_length.to_le_bytes());
    }
}

/// Writes records of four octets of data, two at a time, to the beginning of `out`, as far as it has room.
#[inline(always)]
pub(super) fn write_fours(front: RecordPrefix, data: &[AtomicU64], out: &mut [u8]) {
    const TWO: usize = 2 * (FRONT + IPV4);
    for (records, word) in out.as_chunks_mut::<TWO>().0.iter_mut().zip(data) {
        let word = u64::from_le(word.load(Ordering::Relaxed));
        let (records, _) = records.as_chunks_mut();
        records.iter_mut().zip([word, word >> 32]).for_each(|(record, data)| front.with_four(data as u32, record));
    }
}

/// The same for records of sixteen octets of data.
pub(super) fn write_sixteens(front: RecordPrefix, data: &[AtomicU64], out: &mut [u8]) {
    let octets = |word: &AtomicU64| word.load(Ordering::Relaxed).to_ne_bytes();
    let records = out.as_chunks_mut::<{ FRONT + IPV6 }>().0;
    for (record, words) in records.iter_mut().zip(data.as_chunks::<2>().0) {
        let Some((place, data)) = record.split_first_chunk_mut() else { return };
        front.write(place);
        data.copy_from_slice(words.each_ref().map(octets).as_flattened());
    }
}

/// The same for one record, of which whole words are written; none when it has no room for them.
pub(super) fn write_one(front: RecordPrefix, data: &[AtomicU64], out: &mut [u8]) -> Option<()> {
    let (place, rest) = out.split_first_chunk_mut()?;
    front.write(place);
    copy(data, rest).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    fn form(rtype: u16, records: &[(u16, u32, Vec<u8>)]) -> RecordLayout {
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype);
        let wire = Response::with_records(&question, rcode::NOERROR, records).wire().to_vec();
        UniformRrset::of(&Response::read(&wire, 0, &question).unwrap()).map_or(RecordLayout::Message, |set| set.form)
    }

    #[test]
    fn records_that_differ_in_nothing_but_their_data_are_a_set() {
        let ipv4 = (rtype::A, 60, vec![192, 0, 2, 1]);
        let ipv6 = (rtype::AAAA, 60, vec![0x20; 16]);
        let text = (rtype::TXT, 60, vec![2, b'o', b'k']);
        assert_eq!(form(rtype::A, std::slice::from_ref(&ipv4)), RecordLayout::Ipv4);
        assert_eq!(form(rtype::A, &[ipv4.clone(), ipv4.clone(), ipv4.clone()]), RecordLayout::Ipv4);
        assert_eq!(form(rtype::AAAA, &[ipv6.clone(), ipv6.clone()]), RecordLayout::Ipv6);
        assert_eq!(form(rtype::TXT, std::slice::from_ref(&text)), RecordLayout::Single);
        let alias = (rtype::CNAME, 60, vec![0xc0, 12]);
        let others = [
            (rtype::A, vec![ipv4.clone(), (rtype::A, 61, vec![192, 0, 2, 1])]),
            (rtype::A, vec![alias, ipv4]),
            (rtype::TXT, vec![text.clone(), text]),
            (rtype::AAAA, vec![(rtype::AAAA, 0, vec![0x20; 16])]),
            (rtype::A, Vec::new()),
        ];
        for (rtype, records) in others {
            assert_eq!(form(rtype, &records), RecordLayout::Message, "{records:?}");
        }
    }
}
