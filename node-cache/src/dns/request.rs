//! What a client sent.

use super::codes::{ede, rcode, rtype};
use super::edns::UDP_SIZE;
use super::{Cookie, Edns, Header, Malformed, Name, Records, Response, Section, flag, u16_at};
use crate::dns::answer::{Answer, ReplyTransport};
use crate::dns::cookie_secret::CookieReply;
use crate::dns::query::{Query, Transport};

/// Why a packet does not get as far as being a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It gets no answer: it is no request, or too short to be one.
    Drop,
    /// It gets this answer at once, whose code is the second.
    Respond(Vec<u8>, u16),
}

/// Reads a packet of a client, as if it came in a datagram.
///
/// # Errors
///
/// [`Rejection::Drop`] for responses, so that two servers never answer each other. [`Rejection::Respond`] NOTIMP for
/// everything but ordinary questions (UPDATE and NOTIFY go nowhere), FORMERR for a number of questions other than one
/// (RFC 9619) and for what breaks off or carries a broken cookie, BADVERS for an unknown version of EDNS, REFUSED for zone transfers.
pub fn read(packet: &[u8]) -> Result<Query, Rejection> {
    let header = Header::read(packet).filter(|header| !header.has(flag::QR)).ok_or(Rejection::Drop)?;
    if header.opcode() != 0 {
        return Err(bare_rejection(&header, rcode::NOTIMP));
    }
    if header.counts[0] != 1 {
        return Err(bare_rejection(&header, rcode::FORMERR));
    }
    let query = parse(packet, &header).map_err(|Malformed| bare_rejection(&header, rcode::FORMERR))?;
    let refuse = |code, ede| {
        let answer = Answer::local(Response::empty(&query.question(), code), Some(ede));
        Err(Rejection::Respond(answer.to_wire(&query, ReplyTransport::Udp), code))
    };
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return refuse(rcode::BADVERS, ede::NOT_SUPPORTED);
    }
    match query.rtype {
        rtype::AXFR | rtype::IXFR | rtype::MAILA | rtype::MAILB => refuse(rcode::REFUSED, ede::NOT_SUPPORTED),
        rtype::OPT => Err(bare_rejection(&header, rcode::FORMERR)),
        _ => Ok(query),
    }
}

fn parse(packet: &[u8], header: &Header) -> Result<Query, Malformed> {
    let (name, end) = Name::read_plain(packet, Header::LENGTH)?;
    let (rtype, class) = (u16_at(packet, end).ok_or(Malformed)?, u16_at(packet, end + 2).ok_or(Malformed)?);
    let edns = read_edns(packet, header, end + 4)?;
    Ok(Query {
        id: header.id,
        name,
        rtype,
        class,
        recursion_desired: header.has(flag::RD),
        authentic_data: header.has(flag::AD),
        checking_disabled: header.has(flag::CD),
        edns,
        transport: Transport::Udp,
        told_cookie: None,
    })
}

/// The OPT record among the records from `start` on.
fn read_edns(packet: &[u8], header: &Header, start: usize) -> Result<Option<Edns>, Malformed> {
    let mut edns = None;
    for record in Records::new(packet, header, start) {
        let record = record?;
        if record.rtype != rtype::OPT {
            continue;
        }
        let well_placed = record.section == Section::Additional && packet.get(record.start) == Some(&0);
        if edns.is_some() || !well_placed {
            return Err(Malformed);
        }
        let read = Edns::read(packet, &record)?;
        if read.cookie.is_some_and(|cookie| !cookie.is_well_formed()) {
            return Err(Malformed);
        }
        edns = Some(read);
    }
    Ok(edns)
}

/// A packet without a question, whose client wants to know a cookie or whether one still stands (RFC 7873 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieOnlyQuery {
    header: Header,
    edns: Edns,
    /// What it sent.
    pub cookie: Cookie,
}

impl CookieOnlyQuery {
    /// Reads one; none when the packet is anything else.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let header = Header::read(packet).filter(|header| !header.has(flag::QR) && header.opcode() == 0)?;
        if header.counts[0] != 0 {
            return None;
        }
        let edns = read_edns(packet, &header, Header::LENGTH).ok()?.filter(|edns| edns.version == 0)?;
        Some(Self { header, edns, cookie: edns.cookie? })
    }

    /// The answer and its code: what is told, and whether what was sent could stand.
    #[must_use]
    pub fn answer(&self, told: &CookieReply) -> (Vec<u8>, u16) {
        let code = if told.is_good { rcode::NOERROR } else { rcode::BADCOOKIE };
        let mut message = bare(&self.header, code & 0x000f);
        let edns = Edns {
            udp_size: UDP_SIZE,
            extended_rcode: (code >> 4) as u8,
            dnssec_ok: self.edns.dnssec_ok,
            cookie: Some(told.cookie),
            ..Edns::default()
        };
        edns.append(&mut message);
        (message, code)
    }
}

fn bare_rejection(header: &Header, code: u16) -> Rejection {
    Rejection::Respond(bare(header, code), code)
}

/// A header alone: the answer to what could not be read.
fn bare(header: &Header, code: u16) -> Vec<u8> {
    let opcode_and_rd = header.flags & (0x7800 | flag::RD);
    let mut message = vec![0; Header::LENGTH];
    Header { id: header.id, flags: flag::QR | opcode_and_rd | code, counts: [0; 4] }.write(&mut message);
    message
}
