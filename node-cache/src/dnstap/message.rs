//! dnstap encoding of one DNS message: protocol buffers after `dnstap.proto` (github.com/dnstap/dnstap.pb), with the
//! few fields that are needed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::dns::query::Transport;

/// Side of this process on which a message passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Between a client and this process, which responds (`CLIENT_QUERY`, `CLIENT_RESPONSE`).
    Client,
    /// Between this process and an upstream, which responds (`FORWARDER_QUERY`, `FORWARDER_RESPONSE`).
    Forwarder,
}

/// Direction of a message within its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Query,
    Response,
}

/// Addresses, transport and time of a sampled query.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageContext {
    pub(super) side: Side,
    /// Transport of the exchange. [`Transport::Internal`] queries are not sampled.
    pub(super) transport: Transport,
    /// Address that sends the query.
    pub(super) client: SocketAddr,
    /// Address that the query is sent to.
    pub(super) server: SocketAddr,
    /// Time at which the query was received or sent.
    pub(super) query_time: SystemTime,
}

/// Identity and version of this process, as each `Dnstap` message carries them.
#[derive(Clone, Debug, Default)]
pub(super) struct TapIdentity {
    pub(super) identity: String,
    pub(super) version: &'static str,
}

/// Protocol buffers wire types.
const WIRE_VARINT: u32 = 0;
const WIRE_BYTES: u32 = 2;
const WIRE_FIXED32: u32 = 5;

/// Appends a `Dnstap` with one message of an exchange. A response carries the time of its query beside its own.
pub(super) fn append(
    out: &mut Vec<u8>,
    identity: &TapIdentity,
    context: &MessageContext,
    direction: Direction,
    response_time: SystemTime,
    wire: &[u8],
) {
    put_bytes(out, 1, identity.identity.as_bytes());
    put_bytes(out, 2, identity.version.as_bytes());
    let mut message = Vec::with_capacity(wire.len() + 96);
    put_message(&mut message, context, direction, response_time, wire);
    put_bytes(out, 14, &message);
    // MESSAGE, the only `Dnstap.Type`.
    put_uint(out, 15, 1);
}

fn put_message(
    out: &mut Vec<u8>,
    context: &MessageContext,
    direction: Direction,
    response_time: SystemTime,
    wire: &[u8],
) {
    put_uint(out, 1, message_type(context.side, direction));
    let client = context.client.ip().to_canonical();
    let server = context.server.ip().to_canonical();
    put_uint(out, 2, if client.is_ipv4() { 1 } else { 2 });
    put_uint(out, 3, if context.transport == Transport::Tcp { 2 } else { 1 });
    put_address(out, 4, client);
    put_address(out, 5, server);
    put_uint(out, 6, context.client.port().into());
    put_uint(out, 7, context.server.port().into());
    put_time(out, 8, context.query_time);
    match direction {
        Direction::Query => put_bytes(out, 10, wire),
        Direction::Response => {
            put_time(out, 12, response_time);
            put_bytes(out, 14, wire);
        }
    }
}

/// Returns the `Message.Type` of the schema.
const fn message_type(side: Side, direction: Direction) -> u64 {
    match (side, direction) {
        (Side::Client, Direction::Query) => 5,
        (Side::Client, Direction::Response) => 6,
        (Side::Forwarder, Direction::Query) => 7,
        (Side::Forwarder, Direction::Response) => 8,
    }
}

fn put_address(out: &mut Vec<u8>, field: u32, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put_bytes(out, field, &address.octets()),
        IpAddr::V6(address) => put_bytes(out, field, &address.octets()),
    }
}

/// Appends a time: seconds in `field`, nanoseconds as fixed32 in the field after it.
fn put_time(out: &mut Vec<u8>, field: u32, time: SystemTime) {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    put_uint(out, field, since_epoch.as_secs());
    put_varint(out, u64::from((field + 1) << 3 | WIRE_FIXED32));
    out.extend_from_slice(&since_epoch.subsec_nanos().to_le_bytes());
}

fn put_uint(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field << 3 | WIRE_VARINT));
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field << 3 | WIRE_BYTES));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected bytes are written by hand after the schema.
    #[test]
    fn a_message_has_the_fields_of_the_schema() {
        let identity = TapIdentity { identity: "c".into(), version: "v" };
        let query_time = UNIX_EPOCH + Duration::new(300, 7);
        let context = MessageContext {
            side: Side::Client,
            transport: Transport::Udp,
            client: "10.0.0.1:4000".parse().unwrap(),
            server: "[::ffff:10.0.0.2]:53".parse().unwrap(),
            query_time,
        };
        let mut out = Vec::new();
        let response_time = query_time + Duration::from_secs(1);
        append(&mut out, &identity, &context, Direction::Response, response_time, b"wire");
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
