//! A message as dnstap describes it: protocol buffers after `dnstap.proto` (github.com/dnstap/dnstap.pb), of which few
//! fields are needed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::dns::query::Transport;

/// Whose question it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client's, and this process answers it.
    Client,
    /// This process's own, and another server answers it.
    Forwarder,
}

/// Which of the two messages of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Query,
    Response,
}

/// A question on its way.
#[derive(Clone, Copy, Debug)]
pub struct MessageContext {
    /// Whose it is.
    pub side: Side,
    /// How it went. What comes from the process itself is on no way and is not shown.
    pub transport: Transport,
    /// Who asks.
    pub asker: SocketAddr,
    /// Who is asked.
    pub server: SocketAddr,
    /// When it came or was sent.
    pub at: SystemTime,
}

/// Who tells it.
#[derive(Clone, Debug, Default)]
pub(super) struct TapIdentity {
    pub(super) identity: String,
    pub(super) version: &'static str,
}

/// Kinds of fields on the wire.
const VARINT: u32 = 0;
const OCTETS: u32 = 2;
const FIXED32: u32 = 5;

/// Appends a `Dnstap` that holds one of the messages of an exchange. An answer has the time of its question beside its own.
pub(super) fn append(
    out: &mut Vec<u8>,
    teller: &TapIdentity,
    asked: &MessageContext,
    part: Part,
    answered: SystemTime,
    wire: &[u8],
) {
    put_octets(out, 1, teller.identity.as_bytes());
    put_octets(out, 2, teller.version.as_bytes());
    let mut message = Vec::with_capacity(wire.len() + 96);
    put_message(&mut message, asked, part, answered, wire);
    put_octets(out, 14, &message);
    // MESSAGE, the only type that there is.
    put_number(out, 15, 1);
}

fn put_message(out: &mut Vec<u8>, asked: &MessageContext, part: Part, answered: SystemTime, wire: &[u8]) {
    put_number(out, 1, kind(asked.side, part));
    let (asker, server) = (asked.asker.ip().to_canonical(), asked.server.ip().to_canonical());
    put_number(out, 2, if asker.is_ipv4() { 1 } else { 2 });
    put_number(out, 3, if asked.transport == Transport::Tcp { 2 } else { 1 });
    put_address(out, 4, asker);
    put_address(out, 5, server);
    put_number(out, 6, asked.asker.port().into());
    put_number(out, 7, asked.server.port().into());
    put_time(out, 8, asked.at);
    match part {
        Part::Query => put_octets(out, 10, wire),
        Part::Response => {
            put_time(out, 12, answered);
            put_octets(out, 14, wire);
        }
    }
}

const fn kind(side: Side, part: Part) -> u64 {
    match (side, part) {
        (Side::Client, Part::Query) => 5,
        (Side::Client, Part::Response) => 6,
        (Side::Forwarder, Part::Query) => 7,
        (Side::Forwarder, Part::Response) => 8,
    }
}

fn put_address(out: &mut Vec<u8>, field: u32, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put_octets(out, field, &address.octets()),
        IpAddr::V6(address) => put_octets(out, field, &address.octets()),
    }
}

/// Seconds in one field and nanoseconds in the next one.
fn put_time(out: &mut Vec<u8>, field: u32, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    put_number(out, field, since.as_secs());
    put_varint(out, u64::from((field + 1) << 3 | FIXED32));
    out.extend_from_slice(&since.subsec_nanos().to_le_bytes());
}

fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    put_varint(out, u64::from(field << 3 | VARINT));
    put_varint(out, number);
}

fn put_octets(out: &mut Vec<u8>, field: u32, octets: &[u8]) {
    put_varint(out, u64::from(field << 3 | OCTETS));
    put_varint(out, octets.len() as u64);
    out.extend_from_slice(octets);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out by hand after the schema.
    #[test]
    fn a_message_has_the_fields_of_the_schema() {
        let teller = TapIdentity { identity: "c".into(), version: "v" };
        let at = UNIX_EPOCH + Duration::new(300, 7);
        let asked = MessageContext {
            side: Side::Client,
            transport: Transport::Udp,
            asker: "10.0.0.1:4000".parse().unwrap(),
            server: "[::ffff:10.0.0.2]:53".parse().unwrap(),
            at,
        };
        let mut out = Vec::new();
        append(&mut out, &teller, &asked, Part::Response, at + Duration::from_secs(1), b"wire");
        let message = [
            &[0x08, 6, 0x10, 1, 0x18, 1][..],
            &[0x22, 4, 10, 0, 0, 1, 0x2a, 4, 10, 0, 0, 2],
            &[0x30, 0xa0, 0x1f, 0x38, 53],
            &[0x40, 0xac, 0x02, 0x4d, 7, 0, 0, 0],
            &[0x60, 0xad, 0x02, 0x6d, 7, 0, 0, 0],
            &[0x72, 4, b'w', b'i', b'r', b'e'],
        ]
        .concat();
        let expected = [&[0x0a, 1, b'c', 0x12, 1, b'v', 0x72, message.len() as u8], &message[..], &[0x78, 1]].concat();
        assert_eq!(out, expected);
    }
}
