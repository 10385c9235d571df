//! Reasons for which a packet is not the response to a query. Some tell how to repeat it: a response that breaks off is
//! longer than its datagram, and an OPT record where none may be comes from a server that does not know EDNS.

use super::codes::{rcode, rtype};
use super::edns::Edns;
use super::{Header, Malformed, Record, Records, Section, flag, u16_at};

/// The two upper bits of a compression pointer (RFC 1035 §4.1.4).
const POINTER_BITS: u8 = 0xc0;
/// Octets of a record between its owner and its data: type, class, TTL and length.
const FIXED_LEN: usize = 10;

/// Reason for which a packet is not the response to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The packet is a response with another ID: that of an earlier query, or forged by somebody who guesses.
    #[error("a response with another ID")]
    WrongId,
    /// The packet is a response with the ID of the query and another question.
    #[error("a response to another question")]
    WrongQuestion,
    /// The packet is no response, or a response with a fault.
    #[error("no valid response")]
    Malformed,
    /// The packet is the response to the query up to where it breaks off: it was longer than its datagram.
    #[error("a response that breaks off")]
    Incomplete,
    /// The packet is the response to the query, with an OPT record where none may be, or one that cannot be read.
    #[error("a response with a malformed OPT record")]
    MalformedEdns,
    /// The packet is an error with the ID of the query and without its question, such as a bare header with this rcode.
    #[error("an error without the question: rcode {0}")]
    BareError(u16),
}

impl From<Malformed> for ResponseError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl ResponseError {
    /// Returns whether the packet is a near miss: a response whose sender did not know the ID or the question.
    #[must_use]
    pub const fn is_near_miss(self) -> bool {
        matches!(self, Self::WrongId | Self::WrongQuestion)
    }
}

/// Returns the fault of a response to the right question that cannot be read. Its question ends at `question_end`.
#[cold]
pub(super) fn fault(packet: &[u8], header: &Header, question_end: usize) -> ResponseError {
    let mut records = Records::new(packet, header, question_end);
    let mut has_opt = false;
    let mut has_malformed_opt = false;
    while let Some(record) = records.next() {
        let Ok(record) = record else {
            let is_cut = breaks_off(packet, records.offset());
            return if is_cut { ResponseError::Incomplete } else { ResponseError::Malformed };
        };
        if record.rtype == rtype::OPT {
            has_malformed_opt |= std::mem::replace(&mut has_opt, true) || is_malformed_opt(packet, &record);
        }
    }
    if has_malformed_opt { ResponseError::MalformedEdns } else { ResponseError::Malformed }
}

/// Returns whether an OPT record is anything but an additional record of the root with whole options (RFC 6891 §6.1.1).
fn is_malformed_opt(packet: &[u8], record: &Record) -> bool {
    record.section != Section::Additional || packet.get(record.start) != Some(&0) || Edns::read(packet, record).is_err()
}

/// Returns whether the record that begins at `start` and cannot be read lacks octets at the end of the packet.
fn breaks_off(packet: &[u8], start: usize) -> bool {
    let mut at = start;
    let owner_end = loop {
        match packet.get(at) {
            None => return true,
            Some(0) => break at + 1,
            Some(length @ 1..=63) => at += 1 + usize::from(*length),
            Some(length) if length & POINTER_BITS == POINTER_BITS => break at + 2,
            Some(_) => return false,
        }
    };
    let data = owner_end + FIXED_LEN;
    match u16_at(packet, data - 2) {
        None => true,
        Some(length) => data + usize::from(length) > packet.len(),
    }
}

/// Returns the part of a response that breaks off which can be read: its whole records, counted, with TC set.
#[cold]
pub(super) fn whole_records(packet: &[u8], header: &Header, question_end: usize) -> Vec<u8> {
    let mut counts = [header.counts[0], 0, 0, 0];
    let mut end = question_end;
    for record in Records::new(packet, header, question_end).map_while(Result::ok) {
        counts[1 + record.section as usize] += 1;
        end = record.data.end;
    }
    let mut message = packet.get(..end).unwrap_or_default().to_vec();
    if message.len() >= Header::LENGTH {
        Header { flags: header.flags | flag::TC, counts, ..*header }.write(&mut message);
    }
    message
}

/// Returns the rcode of an error that came without its question: as a bare header, whatever its counts say, or with an
/// OPT record at the most. `None` for every other packet, and for NOERROR and NXDOMAIN, which say something of a name.
pub(super) fn bare_error(packet: &[u8], header: &Header) -> Option<u16> {
    let is_bare = packet.len() == Header::LENGTH || header.counts[..3] == [0; 3];
    (is_bare && rcode::is_failure(header.rcode())).then(|| header.rcode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::rcode;
    use crate::dns::question::Question;
    use crate::dns::{Name, Response};

    const WWW: &str = "www.example";

    fn question(rtype: u16) -> Question {
        Question::plain(&Name::from_text(WWW).unwrap(), rtype)
    }

    /// Returns a response with five records of this type and data, and an OPT record.
    fn long_response(rtype: u16, data: &[u8]) -> Vec<u8> {
        let records: Vec<_> = (0..5).map(|_| (rtype, 300, data.to_vec())).collect();
        let mut packet = Response::with_records(&question(rtype), rcode::NOERROR, &records).wire().to_vec();
        Edns::default().append(&mut packet);
        packet
    }

    #[test]
    fn a_response_is_incomplete_wherever_it_breaks_off_behind_its_question() {
        let service = b"\0\0\0\x64\0\x35\x02ns\x07example\0";
        for (rtype, data) in [(1, &[192, 0, 2, 1][..]), (28, &[0; 16]), (16, b"\x05hello"), (33, service)] {
            let packet = long_response(rtype, data);
            let question_end = Header::LENGTH + question(rtype).section().len();
            for length in question_end..packet.len() {
                let cut = &packet[..length];
                assert_eq!(
                    Response::read(cut, 0, &question(rtype)),
                    Err(ResponseError::Incomplete),
                    "{rtype} {length}"
                );
                let part = Response::read_incomplete(cut, 0, &question(rtype)).unwrap();
                assert!(part.is_truncated() && !part.is_conclusive(), "{rtype} {length}");
                assert_eq!(part.ttl(), crate::dns::ResponseTtl::Uncacheable);
                let record_len = 12 + data.len();
                assert_eq!(part.records().len(), ((length - question_end) / record_len).min(5), "{rtype} {length}");
            }
            for length in Header::LENGTH + 1..question_end {
                assert_eq!(Response::read(&packet[..length], 0, &question(rtype)), Err(ResponseError::WrongQuestion));
            }
            assert_eq!(Response::read(&packet, 0, &question(rtype)).unwrap().records().len(), 5);
        }
    }

    #[test]
    fn a_name_that_breaks_off_is_incomplete_and_one_that_no_octets_could_complete_is_malformed() {
        let packet = Response::with_records(&question(1), rcode::NOERROR, &[(1, 300, vec![192, 0, 2, 1])]);
        let question_end = usize::from(packet.question_end());
        let with_owner = |owner: &[u8]| [&packet.wire()[..question_end], owner].concat();
        for owner in [&[0xc0][..], &[0xc0, 12], &[3, b'a'], &[3, b'a', b'b', b'c'], &[0, 0, 1]] {
            assert_eq!(
                Response::read(&with_owner(owner), 0, &question(1)),
                Err(ResponseError::Incomplete),
                "{owner:?}"
            );
        }
        let rest = [0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1];
        for owner in [[0xc0, 4], [0xc0, 200], [0x41, b'a'], [0x81, b'a']] {
            let packet = with_owner(&[&owner[..], &rest].concat());
            assert_eq!(Response::read(&packet, 0, &question(1)), Err(ResponseError::Malformed), "{owner:?}");
        }
    }
}
