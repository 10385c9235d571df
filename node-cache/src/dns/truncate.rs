//! Making a response fit.

use super::{Header, Name, Records, Section, flag};

/// Cuts a response without EDNS down to `limit` octets, at the end of a record. TC says so unless only additional
/// records are missing (RFC 2181 §9). A header and a question always stay.
pub fn to_limit(message: &mut Vec<u8>, limit: usize) {
    if message.len() <= limit {
        return;
    }
    let Some(mut header) = Header::read(message) else { return };
    let Ok((_, name_end)) = Name::read_plain(message, Header::LENGTH) else { return };
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
