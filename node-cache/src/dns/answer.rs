//! The answer to a client's query, and how it becomes a response in wire format.

use std::sync::Arc;
use std::time::Duration;

use crate::dns::codes::ede;
use crate::dns::edns::{ADVERTISED_UDP_SIZE, Edns};
use crate::dns::query::Query;
use crate::dns::ttl::STALE_TTL;
use crate::dns::{Header, MAX_MESSAGE_LEN, Response, flag, truncate};

/// The maximum length of a UDP response to a client without EDNS, in octets (RFC 1035 §2.3.4).
const MIN_UDP_LIMIT: u16 = 512;

/// Rule by which the TTLs of a response are rewritten for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlView {
    /// TTLs as they are in the response.
    Original,
    /// TTLs lowered to `cap` first, and then by `age`.
    Cached {
        /// Seconds since the response was received.
        age: u32,
        /// The maximum TTL in seconds.
        cap: u32,
    },
    /// [`STALE_TTL`] for every record.
    Stale,
}

impl TtlView {
    /// Returns the TTL that a client gets for a TTL of the response, in seconds.
    #[must_use]
    #[inline]
    pub fn apply(self, ttl: u32) -> u32 {
        match self {
            Self::Original => ttl,
            Self::Cached { age, cap } => ttl.min(cap).saturating_sub(age),
            Self::Stale => STALE_TTL,
        }
    }
}

/// Source of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Local data: names that the process itself answers, and rejections.
    Local,
    /// A cache hit.
    Cache,
    /// A stale cache entry (serve-stale, RFC 8767).
    StaleCache,
    /// An upstream's response, received for this query.
    Upstream,
    /// A failure: no upstream answered.
    Failure,
}

/// An answer to a client's query: a response, and how it is adapted to the client.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The response, shared by all clients that get it.
    pub response: Arc<Response>,
    /// How the TTLs of the response are rewritten.
    pub ttl_view: TtlView,
    /// Info-code of the Extended DNS Error (RFC 8914) that explains the answer.
    pub ede: Option<u16>,
    /// Where the response comes from.
    pub source: Source,
}

impl Answer {
    /// Makes an answer of this process itself.
    #[must_use]
    pub fn local(response: Response, ede: Option<u16>) -> Self {
        Self { response: Arc::new(response), ttl_view: TtlView::Original, ede, source: Source::Local }
    }

    /// Writes the UDP response to a query, truncated to the length that the client accepts.
    #[must_use]
    pub fn to_udp_wire(&self, query: &Query) -> Vec<u8> {
        let mut message = Vec::new();
        self.write_udp(query, &mut message);
        message
    }

    /// Writes what [`Self::to_udp_wire`] returns to a buffer in place of its content.
    pub fn write_udp(&self, query: &Query, message: &mut Vec<u8>) {
        self.write(query, udp_limit(query.edns.map(|edns| edns.udp_size)), None, message);
    }

    /// Writes the TCP response to a query, without the two octets of its length. A client that asks for it is told how
    /// long the connection may be idle (RFC 7828).
    #[must_use]
    pub fn to_tcp_wire(&self, query: &Query, idle_timeout: Duration) -> Vec<u8> {
        let keepalive = query.edns.and_then(|edns| edns.keepalive).map(|_| tenths_of_a_second(idle_timeout));
        let mut message = Vec::new();
        self.write(query, MAX_MESSAGE_LEN, keepalive, &mut message);
        message
    }

    /// Writes the response in wire format: with the query's ID, case, RD and CD; a new OPT record if the query has one
    /// (RFC 6891 §6.1.1); AD only if the client asked for it (RFC 6840 §5.8); at most `limit` octets.
    fn write(&self, query: &Query, limit: usize, keepalive: Option<u16>, message: &mut Vec<u8>) {
        message.clear();
        message.reserve(self.response.wire().len() + 17);
        message.extend_from_slice(self.response.wire());
        self.rewrite_ttls(message);
        put_question(message, query);
        if let Some(mut header) = Header::read(message) {
            header.id = query.id;
            let client = ClientFlags::new(query.flags(), query.dnssec_ok());
            header.flags = flag::cacheable(header.flags) & !client.cleared | client.echoed;
            header.write(message);
        }
        let edns = query.edns.map(|query_edns| Edns {
            udp_size: ADVERTISED_UDP_SIZE,
            extended_rcode: u8::try_from(self.response.rcode() >> 4).unwrap_or_default(),
            version: 0,
            dnssec_ok: query_edns.dnssec_ok,
            ede: self.ede.or_else(|| self.response.ede().and_then(ede::public)),
            keepalive,
            cookie: query.reply_cookie,
        });
        truncate::to_limit(message, limit.saturating_sub(edns.map_or(0, |edns| edns.length())));
        if let Some(edns) = edns {
            edns.append(message);
        }
    }

    fn rewrite_ttls(&self, message: &mut [u8]) {
        for offset in self.response.ttl_offsets() {
            let Some(octets) = message.get_mut(usize::from(*offset)..usize::from(*offset) + 4) else { continue };
            let ttl = u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]);
            octets.copy_from_slice(&self.ttl_view.apply(ttl).to_be_bytes());
        }
    }
}

/// Header bits cleared for this client, and bits echoed from its query. Applied to [`flag::cacheable`].
#[derive(Clone, Copy, Debug)]
pub struct ClientFlags {
    /// AD, unless the client asks for it by its own AD or by DO (RFC 6840 §5.8).
    pub cleared: u16,
    /// RD and CD, as in the query.
    pub echoed: u16,
}

impl ClientFlags {
    /// Makes the flags for a client whose query has these flags.
    #[must_use]
    #[inline]
    pub const fn new(query_flags: u16, dnssec_ok: bool) -> Self {
        let cleared = if dnssec_ok { 0 } else { !query_flags & flag::AD };
        Self { cleared, echoed: query_flags & (flag::RD | flag::CD) }
    }
}

fn tenths_of_a_second(time: Duration) -> u16 {
    u16::try_from(time.as_millis() / 100).unwrap_or(u16::MAX)
}

/// Returns the maximum length of a UDP response, in octets, for the size that a client advertises with EDNS: between
/// 512 and [`ADVERTISED_UDP_SIZE`]; 512 without EDNS.
#[must_use]
#[inline]
pub fn udp_limit(advertised: Option<u16>) -> usize {
    usize::from(advertised.map_or(MIN_UDP_LIMIT, |size| size.clamp(MIN_UDP_LIMIT, ADVERTISED_UDP_SIZE)))
}

/// Writes the question exactly as it is in the query. The name has as many octets as the one it replaces: the two
/// differ in case only.
fn put_question(message: &mut [u8], query: &Query) {
    let name = query.name.as_bytes();
    let name_end = Header::LENGTH + name.len();
    let type_and_class = [query.rtype, query.class].map(u16::to_be_bytes);
    if let Some(section) = message.get_mut(Header::LENGTH..name_end + 4) {
        let (name_octets, fixed_octets) = section.split_at_mut(name.len());
        name_octets.copy_from_slice(name);
        fixed_octets.copy_from_slice(type_and_class.as_flattened());
    }
}
