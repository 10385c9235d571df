//! What a packet from another server holds, learned in one walk over its records: without OPT, which belongs to one hop, and
//! with what has to be known of each of the others before it is kept.

use super::codes::rtype;
use super::edns::Edns;
use super::lifetime::TtlSummary;
use super::rdata::is_sound;
use super::{Header, Malformed, Name, Record, Records, Section, flag, u16_at};

/// The longest message there can be (RFC 1035 §4.2.2).
pub(super) const LONGEST: usize = u16::MAX as usize;

/// What a walk over the records of a message tells of them.
pub(super) struct ValidatedRecords {
    pub(super) ttl_offsets: Vec<u16>,
    pub(super) lives: TtlSummary,
    /// Whether names may be written out.
    pub(super) names: bool,
    /// Whether their data are what their types say.
    pub(super) sound: bool,
}

impl ValidatedRecords {
    pub(super) fn begin(wire: &[u8], header: &Header, question_end: usize) -> Self {
        let asked = u16_at(wire, question_end - 4).unwrap_or_default();
        let ttl_offsets = Vec::with_capacity(most_records(wire, header));
        Self { ttl_offsets, lives: TtlSummary::new(asked), names: false, sound: true }
    }

    pub(super) fn add(&mut self, wire: &[u8], record: &Record) {
        self.sound = self.sound && is_sound(wire, record);
        // No message is so long that it would not fit.
        self.ttl_offsets.push(record.ttl_offset as u16);
        self.lives.add(wire, record);
        self.names |= owner_is_written_out(wire, record) || !holds_no_name(record.rtype);
    }
}

/// A message with number 0 and without its OPT record.
pub(super) struct WithoutOpt {
    pub(super) wire: Vec<u8>,
    /// What that said.
    pub(super) edns: Option<Edns>,
    /// Whether owners are written out, which may be shorter.
    pub(super) written_out: bool,
}

/// The message without its OPT record, and what there is to know of the others, from one walk; none when others stand behind
/// it, which is rare.
pub(super) fn validate(
    packet: &[u8],
    header: &Header,
    question_end: usize,
) -> Result<Option<(WithoutOpt, ValidatedRecords)>, Malformed> {
    let [questions, answers, authorities, additional] = header.counts;
    // One of the additional ones is most likely OPT.
    let likely = Header { counts: [questions, answers, authorities, additional.saturating_sub(1)], ..*header };
    let mut checked = ValidatedRecords::begin(packet, &likely, question_end);
    let (mut edns, mut written_out, mut end) = (None, false, question_end);
    for record in Records::new(packet, header, question_end) {
        let record = record?;
        if edns.is_some() {
            return Ok(None);
        }
        if record.rtype == rtype::OPT {
            edns = Some(read_opt(packet, &record)?);
            continue;
        }
        checked.add(packet, &record);
        written_out |= owner_is_written_out(packet, &record);
        end = record.data.end;
    }
    let mut wire = packet[..end].to_vec();
    let Header { counts, .. } = if edns.is_some() { likely } else { *header };
    Header { id: 0, flags: flag::kept(header.flags), counts }.write(&mut wire);
    Ok(Some((WithoutOpt { wire, edns, written_out }, checked)))
}

/// What an OPT record says, which stands where it may (RFC 6891 §6.1.1).
fn read_opt(packet: &[u8], record: &Record) -> Result<Edns, Malformed> {
    if record.section != Section::Additional || packet.get(record.start) != Some(&0) {
        return Err(Malformed);
    }
    Edns::read(packet, record)
}

/// The message without its OPT record, and what that said. Records behind OPT are kept; so that names in them still
/// point to the right place, theirs are followed by hand where only the owner can be compressed, and from the first
/// other one on they are left out (they are additional ones, which nobody may rely on).
pub(super) fn without_opt(packet: &[u8], header: &Header, question_end: usize) -> Result<WithoutOpt, Malformed> {
    let mut header = Header { id: 0, flags: flag::kept(header.flags), ..*header };
    let mut written_out = false;
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
            if !holds_no_name(record.rtype) {
                break;
            }
            let owner = Name::read(packet, record.start)?;
            // Names that are written out may make a message longer than there can be.
            if wire.len() + owner.as_bytes().len() + record.data.end - record.ttl_offset + 4 > LONGEST {
                break;
            }
            wire.extend_from_slice(owner.as_bytes());
            wire.extend_from_slice(&packet[record.ttl_offset - 4..record.data.end]);
            written_out = true;
        } else {
            wire.extend_from_slice(&packet[record.start..record.data.end]);
            written_out |= owner_is_written_out(packet, &record);
        }
        additional += u16::from(record.section == Section::Additional);
    }
    header.counts[3] = additional;
    header.write(&mut wire);
    Ok(WithoutOpt { wire, edns, written_out })
}

/// Whether the owner of a record begins with a label: it is no pointer, and not the root.
fn owner_is_written_out(wire: &[u8], record: &Record) -> bool {
    matches!(wire.get(record.start), Some(1..=63))
}

/// Whether the data of a type are known to hold no name in which somebody else's case may stand.
const fn holds_no_name(rtype: u16) -> bool {
    matches!(rtype, rtype::A | rtype::AAAA | rtype::TXT)
}

/// The number of records that a message says it has, or for which it has room if that is less.
fn most_records(wire: &[u8], header: &Header) -> usize {
    /// Octets of the shortest one: a name, four fields.
    const SHORTEST: usize = 11;
    let said = header.counts[1..].iter().map(|count| usize::from(*count)).sum::<usize>();
    said.min(wire.len() / SHORTEST)
}
