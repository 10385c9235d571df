//! Truncation of a response to the length that a client accepts.

use super::{Header, Name, Records, Section, flag};

/// Truncates a response without EDNS to `limit` octets, at the end of a record. Sets TC unless only additional records
/// are dropped (RFC 2181 §9). The header and the question are always kept.
pub(crate) fn to_limit(message: &mut Vec<u8>, limit: usize) {
    if message.len() <= limit {
        return;
    }
    let Some(mut header) = Header::read(message) else { return };
    let Ok((_, name_end)) = Name::read_uncompressed(message, Header::LENGTH) else { return };
    let mut end = name_end + 4;
    let mut counts = [header.counts[0], 0, 0, 0];
    for record in Records::new(message, &header, end) {
        match record {
            Ok(record) if record.data.end <= limit => {
                end = record.data.end;
                counts[1 + record.section as usize] += 1;
            }
            Ok(record) if record.section == Section::Additional => break,
            _ => {
                header.flags |= flag::TC;
                break;
            }
        }
    }
    header.counts = counts;
    message.truncate(end);
    header.write(message);
}
