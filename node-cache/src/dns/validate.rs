//! Validation of an upstream's response in one pass over its records: removes OPT, which belongs to one hop, and
//! collects from the other records what the cache needs.

use super::codes::rtype;
use super::edns::Edns;
use super::owner_filter::has_other_owner;
use super::rdata;
use super::ttl::{TtlOffsets, TtlSummary};
use super::{Header, MAX_MESSAGE_LEN, Malformed, Name, Record, Records, Section, flag, u16_at};

/// Properties of the records of a message, OPT excluded.
pub(super) struct ValidatedRecords {
    /// Offset of each record's TTL.
    pub(super) ttl_offsets: TtlOffsets,
    pub(super) ttl_summary: TtlSummary,
    /// Whether the records may hold uncompressed names, of which labels may have a hop's random case.
    pub(super) may_hold_names: bool,
    /// Whether there are uncompressed owner names, which compression may make shorter.
    has_uncompressed_owner: bool,
    /// Whether the answer section has an alias (CNAME).
    pub(super) has_alias: bool,
    /// Whether the data of all records fit the layouts of their types.
    pub(super) is_valid: bool,
}

impl ValidatedRecords {
    pub(super) fn new(wire: &[u8], header: &Header, question_end: usize) -> Self {
        let qtype = u16_at(wire, question_end - 4).unwrap_or_default();
        let ttl_offsets = TtlOffsets::with_capacity(max_record_count(wire, header));
        Self {
            ttl_offsets,
            ttl_summary: TtlSummary::new(qtype),
            may_hold_names: false,
            has_uncompressed_owner: false,
            has_alias: false,
            is_valid: true,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, wire: &[u8], record: &Record) {
        self.is_valid = self.is_valid && rdata::is_valid(wire, record);
        // Offsets fit: a message has 65,535 octets at most.
        self.ttl_offsets.push(record.ttl_offset as u16);
        self.ttl_summary.add(wire, record);
        self.has_alias |= record.rtype == rtype::CNAME && record.section == Section::Answer;
        self.has_uncompressed_owner |= has_uncompressed_owner(wire, record);
        self.may_hold_names |= self.has_uncompressed_owner || !has_data_without_names(record.rtype);
    }
}

/// A message with ID 0 and without its OPT record.
pub(super) struct StrippedMessage {
    pub(super) wire: Vec<u8>,
    /// Content of the OPT record.
    pub(super) edns: Option<Edns>,
    /// Whether there are uncompressed owner names, which compression may make shorter.
    pub(super) is_compressible: bool,
    /// Whether the answer section has owners other than a pointer to the question.
    pub(super) has_other_owners: bool,
}

/// Validates the records of a response and removes OPT, in one pass. Returns `None` when records follow OPT, which is
/// rare: [`strip_opt`] is for those.
pub(super) fn validate(
    packet: &[u8],
    header: &Header,
    question_end: usize,
) -> Result<Option<(StrippedMessage, ValidatedRecords)>, Malformed> {
    let [questions, answers, authorities, additional] = header.counts;
    // One of the additional records is most likely OPT.
    let without_one = Header { counts: [questions, answers, authorities, additional.saturating_sub(1)], ..*header };
    let mut records = ValidatedRecords::new(packet, &without_one, question_end);
    let mut edns = None;
    let mut has_other_owners = false;
    let mut end = question_end;
    for record in Records::new(packet, header, question_end) {
        let record = record?;
        if edns.is_some() {
            return Ok(None);
        }
        if record.rtype == rtype::OPT {
            edns = Some(read_opt(packet, &record)?);
            continue;
        }
        records.add(packet, &record);
        has_other_owners |= record.section == Section::Answer && has_other_owner(packet, &record);
        end = record.data.end;
    }
    let mut wire = packet[..end].to_vec();
    let Header { counts, .. } = if edns.is_some() { without_one } else { *header };
    Header { id: 0, flags: flag::cacheable(header.flags), counts }.write(&mut wire);
    let is_compressible = records.has_uncompressed_owner;
    Ok(Some((StrippedMessage { wire, edns, is_compressible, has_other_owners }, records)))
}

/// Reads an OPT record, which must be an additional record of the root (RFC 6891 §6.1.1).
fn read_opt(packet: &[u8], record: &Record) -> Result<Edns, Malformed> {
    if record.section != Section::Additional || packet.get(record.start) != Some(&0) {
        return Err(Malformed);
    }
    Edns::read(packet, record)
}

/// Removes OPT from a response in which records follow it. Those records move, so their owner names are decompressed.
/// From the first record on whose data may hold names, the rest is dropped: it is additional data, on which no client
/// may rely.
pub(super) fn strip_opt(packet: &[u8], header: &Header, question_end: usize) -> Result<StrippedMessage, Malformed> {
    let mut header = Header { id: 0, flags: flag::cacheable(header.flags), ..*header };
    let mut is_compressible = false;
    let mut wire = Vec::with_capacity(packet.len());
    wire.extend_from_slice(&packet[..question_end]);
    let mut edns = None;
    let mut additional = 0;
    for record in Records::new(packet, &header, question_end) {
        let record = record?;
        if record.rtype == rtype::OPT {
            if edns.replace(read_opt(packet, &record)?).is_some() {
                return Err(Malformed);
            }
            continue;
        }
        if edns.is_some() {
            if !has_data_without_names(record.rtype) {
                break;
            }
            let owner = Name::read(packet, record.start)?;
            // Decompressed names may make the message longer than a message can be.
            if wire.len() + owner.as_bytes().len() + record.data.end - record.ttl_offset + 4 > MAX_MESSAGE_LEN {
                break;
            }
            wire.extend_from_slice(owner.as_bytes());
            wire.extend_from_slice(&packet[record.ttl_offset - 4..record.data.end]);
            is_compressible = true;
        } else {
            wire.extend_from_slice(&packet[record.start..record.data.end]);
            is_compressible |= has_uncompressed_owner(packet, &record);
        }
        additional += u16::from(record.section == Section::Additional);
    }
    header.counts[3] = additional;
    header.write(&mut wire);
    // Rare enough for a comparison of all owners.
    Ok(StrippedMessage { wire, edns, is_compressible, has_other_owners: true })
}

/// Returns whether the owner name of a record begins with a label: neither a pointer nor the root.
fn has_uncompressed_owner(wire: &[u8], record: &Record) -> bool {
    matches!(wire.get(record.start), Some(1..=63))
}

/// Returns whether the data of a type are known to hold no names, and so no labels in another hop's random case.
const fn has_data_without_names(rtype: u16) -> bool {
    matches!(rtype, rtype::A | rtype::AAAA | rtype::TXT)
}

/// Returns the number of records that the header announces, or for which the message has space if that is less.
fn max_record_count(wire: &[u8], header: &Header) -> usize {
    /// Octets of the shortest record: the root and the fixed fields.
    const MIN_RECORD_LEN: usize = 11;
    let announced = header.counts[1..].iter().map(|count| usize::from(*count)).sum::<usize>();
    announced.min(wire.len() / MIN_RECORD_LEN)
}
