//! Parser for client packets of every shape, and the responses to packets that are not resolved.

use super::codes::{ede, rcode, rtype};
use super::edns::ADVERTISED_UDP_SIZE;
use super::{Cookie, Edns, Header, Malformed, Name, Records, Response, Section, flag, u16_at};
use crate::dns::answer::Answer;
use crate::dns::cookie_secret::CookieReply;
use crate::dns::query::{Query, Transport};

/// Rejection of a client packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No response: the packet is a response itself, or shorter than a header.
    Drop,
    /// An immediate response.
    Respond {
        /// The response in wire format.
        message: Vec<u8>,
        /// Rcode of the message.
        rcode: u16,
    },
}

/// Parses a client packet as a UDP query.
///
/// # Errors
///
/// * [`Rejection::Drop`] for responses, so that two servers never answer each other.
/// * NOTIMP for opcodes other than QUERY (UPDATE and NOTIFY are never forwarded).
/// * FORMERR unless there is exactly one question (RFC 9619), and for packets that are malformed or have a malformed
///   cookie.
/// * BADVERS for an unknown version of EDNS.
/// * REFUSED for zone transfers.
pub fn read(packet: &[u8]) -> Result<Query, Rejection> {
    let header = Header::read(packet).filter(|header| !header.has(flag::QR)).ok_or(Rejection::Drop)?;
    if header.opcode() != 0 {
        return Err(header_only_rejection(&header, rcode::NOTIMP));
    }
    if header.counts[0] != 1 {
        return Err(header_only_rejection(&header, rcode::FORMERR));
    }
    let query = parse(packet, &header).map_err(|Malformed| header_only_rejection(&header, rcode::FORMERR))?;
    let reject = |rcode, ede| {
        let answer = Answer::local(Response::empty(&query.question(), rcode), Some(ede));
        Err(Rejection::Respond { message: answer.to_udp_wire(&query), rcode })
    };
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return reject(rcode::BADVERS, ede::NOT_SUPPORTED);
    }
    match query.rtype {
        rtype::AXFR | rtype::IXFR | rtype::MAILA | rtype::MAILB => reject(rcode::REFUSED, ede::NOT_SUPPORTED),
        rtype::OPT => Err(header_only_rejection(&header, rcode::FORMERR)),
        _ => Ok(query),
    }
}

fn parse(packet: &[u8], header: &Header) -> Result<Query, Malformed> {
    let (name, end) = Name::read_uncompressed(packet, Header::LENGTH)?;
    let rtype = u16_at(packet, end).ok_or(Malformed)?;
    let class = u16_at(packet, end + 2).ok_or(Malformed)?;
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
        reply_cookie: None,
        client: None,
    })
}

/// Reads the OPT record, if there is one, among the records from `start` on.
fn read_edns(packet: &[u8], header: &Header, start: usize) -> Result<Option<Edns>, Malformed> {
    let mut edns = None;
    for record in Records::new(packet, header, start) {
        let record = record?;
        if record.rtype != rtype::OPT {
            continue;
        }
        let is_well_placed = record.section == Section::Additional && packet.get(record.start) == Some(&0);
        if edns.is_some() || !is_well_placed {
            return Err(Malformed);
        }
        let opt = Edns::read(packet, &record)?;
        if opt.cookie.is_some_and(|cookie| !cookie.is_well_formed()) {
            return Err(Malformed);
        }
        edns = Some(opt);
    }
    Ok(edns)
}

/// A query without a question, by which a client asks for a server cookie or checks the one it has (RFC 7873 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieOnlyQuery {
    header: Header,
    edns: Edns,
    /// Cookie of the query.
    pub cookie: Cookie,
}

impl CookieOnlyQuery {
    /// Parses a packet; `None` when it is any other query.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let header = Header::read(packet).filter(|header| !header.has(flag::QR) && header.opcode() == 0)?;
        if header.counts[0] != 0 {
            return None;
        }
        let edns = read_edns(packet, &header, Header::LENGTH).ok()?.filter(|edns| edns.version == 0)?;
        Some(Self { header, edns, cookie: edns.cookie? })
    }

    /// Writes the response and returns it with its rcode: NOERROR when the cookie was valid, else BADCOOKIE.
    #[must_use]
    pub fn respond(&self, reply: &CookieReply) -> (Vec<u8>, u16) {
        let rcode = if reply.is_valid { rcode::NOERROR } else { rcode::BADCOOKIE };
        let mut message = header_only(&self.header, rcode & 0x000f);
        let edns = Edns {
            udp_size: ADVERTISED_UDP_SIZE,
            extended_rcode: (rcode >> 4) as u8,
            dnssec_ok: self.edns.dnssec_ok,
            cookie: Some(reply.cookie),
            ..Edns::default()
        };
        edns.append(&mut message);
        (message, rcode)
    }
}

fn header_only_rejection(header: &Header, rcode: u16) -> Rejection {
    Rejection::Respond { message: header_only(header, rcode), rcode }
}

/// Writes a response that consists of a header only, for a query that cannot be parsed.
fn header_only(header: &Header, rcode: u16) -> Vec<u8> {
    let opcode_and_rd = header.flags & (0x7800 | flag::RD);
    let mut message = vec![0; Header::LENGTH];
    Header { id: header.id, flags: flag::QR | opcode_and_rd | rcode, counts: [0; 4] }.write(&mut message);
    message
}
