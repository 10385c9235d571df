//! Uniform RRsets: records that differ only in their data, as in most responses. The owner is the QNAME, type and class
//! are those of the question, TTL and data length are the same. Only their data are cached, so that a response with
//! four IPv4 addresses takes two words instead of nine. The rest of each record is generated for each client, with the
//! TTL that the client sees, which is less work than copying whole records and patching their TTLs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::copy_words;
use crate::dns::{Header, Response, ResponseTtl};

/// Octets of a record before its data (RFC 1035 §3.2.1), the owner being a compression pointer to the QNAME.
pub(super) const PREFIX_LEN: usize = 12;
/// Offset of the TTL in a record.
pub(super) const TTL_OFFSET: usize = 6;
/// Octets of the data of an A record.
pub(super) const IPV4_LEN: usize = 4;
/// Octets of the data of an AAAA record.
pub(super) const IPV6_LEN: usize = 16;
/// Octets that may be written behind a message: one record, since A records are written in pairs.
pub(super) const WRITE_SLACK: usize = PREFIX_LEN + IPV4_LEN;

/// Layout of the records in a cache entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLayout {
    /// Wire form of the message behind its question.
    Message = 0,
    /// Data of one record.
    Single = 1,
    /// Data of records with four octets each.
    Ipv4 = 2,
    /// Data of records with sixteen octets each.
    Ipv6 = 3,
}

impl RecordLayout {
    /// Returns the layout that the two lowest bits stand for.
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

/// Records of a response that form a uniform RRset.
#[derive(Clone, Copy, Debug)]
pub(super) struct UniformRrset<'a> {
    /// Layout for the cache; never [`RecordLayout::Message`].
    pub(super) layout: RecordLayout,
    records: &'a [u8],
    /// Octets of one record.
    record_len: usize,
}

impl<'a> UniformRrset<'a> {
    /// Returns the uniform RRset of a response; `None` when its records have to be cached in wire form.
    pub(super) fn from_response(response: &'a Response) -> Option<Self> {
        let ResponseTtl::Positive(ttl) = response.ttl() else { return None };
        let wire = response.wire();
        let count = response.ttl_offsets().len();
        let [_, answers, ..] = Header::read(wire)?.counts;
        let (front, records) = wire.split_at_checked(usize::from(response.question_end()))?;
        let record_len = records.len().checked_div(count)?;
        let data_len = record_len.checked_sub(PREFIX_LEN)?;
        let layout = match (count, data_len) {
            (_, IPV4_LEN) => RecordLayout::Ipv4,
            (_, IPV6_LEN) => RecordLayout::Ipv6,
            (1, _) => RecordLayout::Single,
            _ => return None,
        };
        let type_and_class = u32::from_be_bytes(*front.last_chunk()?);
        let prefix = RecordPrefix::new(type_and_class, ttl, u16::try_from(data_len).ok()?);
        let is_uniform = usize::from(answers) == count
            && record_len * count == records.len()
            && records.chunks_exact(record_len).all(|record| prefix.is_prefix_of(record));
        is_uniform.then_some(Self { layout, records, record_len })
    }

    /// Returns the octets of the data of all records.
    pub(super) const fn data_len(&self) -> usize {
        self.records.len() / self.record_len * (self.record_len - PREFIX_LEN)
    }

    /// Copies the data of all records, without gaps, to `out`, which has [`Self::data_len`] octets.
    pub(super) fn copy_data(&self, out: &mut [u8]) {
        match self.layout {
            RecordLayout::Ipv4 => self.copy_data_of_len::<IPV4_LEN>(out),
            RecordLayout::Ipv6 => self.copy_data_of_len::<IPV6_LEN>(out),
            RecordLayout::Single | RecordLayout::Message => {
                if let Some(data) = self.records.get(PREFIX_LEN..).filter(|data| data.len() == out.len()) {
                    out.copy_from_slice(data);
                }
            }
        }
    }

    fn copy_data_of_len<const LENGTH: usize>(&self, out: &mut [u8]) {
        for (record, target) in self.records.chunks_exact(self.record_len).zip(out.as_chunks_mut().0) {
            if let Some(data) = record.last_chunk::<LENGTH>() {
                *target = *data;
            }
        }
    }
}

/// Octets of a record before its data, as two little-endian numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordPrefix {
    owner_type_class_ttl_high: u64,
    ttl_low_data_len: u32,
}

impl RecordPrefix {
    /// Creates the prefix of a record whose owner is the QNAME. `type_and_class` has the type in its upper half and the
    /// class in its lower half.
    #[inline]
    pub(super) const fn new(type_and_class: u32, ttl: u32, data_len: u16) -> Self {
        /// Compression pointer to offset 12, the QNAME.
        const OWNER: u64 = 0xc00c << 48;
        let first = OWNER | ((type_and_class as u64) << 16) | (ttl >> 16) as u64;
        let last = (ttl << 16) | data_len as u32;
        Self { owner_type_class_ttl_high: first.swap_bytes(), ttl_low_data_len: last.swap_bytes() }
    }

    fn is_prefix_of(self, record: &[u8]) -> bool {
        let rest = record.strip_prefix(&self.owner_type_class_ttl_high.to_le_bytes());
        rest.is_some_and(|rest| rest.starts_with(&self.ttl_low_data_len.to_le_bytes()))
    }

    /// Writes a record with four octets of data, given as a little-endian number.
    #[inline]
    fn write_ipv4(self, data: u32, record: &mut [u8; PREFIX_LEN + IPV4_LEN]) {
        let last = u64::from(self.ttl_low_data_len) | (u64::from(data) << 32);
        let halves = record.as_chunks_mut().0.iter_mut();
        halves.zip([self.owner_type_class_ttl_high, last]).for_each(|(half, value)| *half = value.to_le_bytes());
    }

    fn write(self, prefix: &mut [u8; PREFIX_LEN]) {
        prefix[..8].copy_from_slice(&self.owner_type_class_ttl_high.to_le_bytes());
        prefix[8..].copy_from_slice(&self.ttl_low_data_len.to_le_bytes());
    }
}

/// Writes records with four octets of data to the beginning of `out`, two at a time, as far as it has room.
#[inline(always)]
pub(super) fn write_ipv4(prefix: RecordPrefix, data: &[AtomicU64], out: &mut [u8]) {
    const PAIR_LEN: usize = 2 * (PREFIX_LEN + IPV4_LEN);
    for (records, word) in out.as_chunks_mut::<PAIR_LEN>().0.iter_mut().zip(data) {
        let word = u64::from_le(word.load(Ordering::Relaxed));
        let (records, _) = records.as_chunks_mut();
        records.iter_mut().zip([word, word >> 32]).for_each(|(record, data)| prefix.write_ipv4(data as u32, record));
    }
}

/// Writes records with sixteen octets of data to the beginning of `out`, as far as it has room.
pub(super) fn write_ipv6(prefix: RecordPrefix, data: &[AtomicU64], out: &mut [u8]) {
    let octets = |word: &AtomicU64| word.load(Ordering::Relaxed).to_ne_bytes();
    let records = out.as_chunks_mut::<{ PREFIX_LEN + IPV6_LEN }>().0;
    for (record, words) in records.iter_mut().zip(data.as_chunks::<2>().0) {
        let Some((record_prefix, record_data)) = record.split_first_chunk_mut() else { return };
        prefix.write(record_prefix);
        record_data.copy_from_slice(words.each_ref().map(octets).as_flattened());
    }
}

/// Writes one record to the beginning of `out`, its data in whole words; `None` when `out` has no room for them.
pub(super) fn write_single(prefix: RecordPrefix, data: &[AtomicU64], out: &mut [u8]) -> Option<()> {
    let (record_prefix, rest) = out.split_first_chunk_mut()?;
    prefix.write(record_prefix);
    copy_words(data, rest).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    fn layout(rtype: u16, records: &[(u16, u32, Vec<u8>)]) -> RecordLayout {
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype);
        let wire = Response::with_records(&question, rcode::NOERROR, records).wire().to_vec();
        let response = Response::read(&wire, 0, &question).unwrap();
        UniformRrset::from_response(&response).map_or(RecordLayout::Message, |rrset| rrset.layout)
    }

    #[test]
    fn records_that_differ_only_in_their_data_are_a_uniform_rrset() {
        let ipv4 = (rtype::A, 60, vec![192, 0, 2, 1]);
        let ipv6 = (rtype::AAAA, 60, vec![0x20; 16]);
        let text = (rtype::TXT, 60, vec![2, b'o', b'k']);
        assert_eq!(layout(rtype::A, std::slice::from_ref(&ipv4)), RecordLayout::Ipv4);
        assert_eq!(layout(rtype::A, &[ipv4.clone(), ipv4.clone(), ipv4.clone()]), RecordLayout::Ipv4);
        assert_eq!(layout(rtype::AAAA, &[ipv6.clone(), ipv6.clone()]), RecordLayout::Ipv6);
        assert_eq!(layout(rtype::TXT, std::slice::from_ref(&text)), RecordLayout::Single);
        let alias = (rtype::CNAME, 60, vec![0xc0, 12]);
        let not_uniform = [
            (rtype::A, vec![ipv4.clone(), (rtype::A, 61, vec![192, 0, 2, 1])]),
            (rtype::A, vec![alias, ipv4]),
            (rtype::TXT, vec![text.clone(), text]),
            (rtype::AAAA, vec![(rtype::AAAA, 0, vec![0x20; 16])]),
            (rtype::A, Vec::new()),
        ];
        for (rtype, records) in not_uniform {
            assert_eq!(layout(rtype, &records), RecordLayout::Message, "{records:?}");
        }
    }
}
