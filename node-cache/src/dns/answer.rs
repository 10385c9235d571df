//! What is said to a question, as a plain value, and how it becomes bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::dns::edns::{Edns, UDP_SIZE};
use crate::dns::query::Query;
use crate::dns::{Header, Response, flag, truncate};

/// The TTL of every record in an answer past its time (RFC 8767 §4).
pub const STALE_TTL: u32 = 30;
/// The longest datagram that a client without EDNS takes (RFC 1035 §2.3.4).
const SMALLEST_UDP: u16 = 512;

/// The longest message over a connection (RFC 1035 §4.2.2).
const LONGEST: usize = u16::MAX as usize;

/// Which TTLs an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlView {
    /// As they are written.
    Original,
    /// Lowered to `cap` first and then by the seconds since the answer came in.
    Cached {
        /// Seconds since it came in.
        age: u32,
        /// The longest TTL to start from.
        cap: u32,
    },
    /// [`STALE_TTL`].
    Stale,
}

impl TtlView {
    /// The TTL that is shown for one that is written.
    #[must_use]
    #[inline]
    pub fn shown(self, written: u32) -> u32 {
        match self {
            Self::Original => written,
            Self::Cached { age, cap } => written.min(cap).saturating_sub(age),
            Self::Stale => STALE_TTL,
        }
    }
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Out of the process itself.
    Local,
    /// From memory.
    Cache,
    /// From memory, past its time.
    StaleCache,
    /// From another server, just now.
    Upstream,
    /// From nowhere: nobody answered.
    Failure,
}

/// How an answer goes to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTransport {
    /// In a datagram, which is as long as the client says that it may be.
    Udp,
    /// Over a connection, which is kept open for so long without a question (RFC 7828); a client that asks hears of it.
    Tcp {
        /// That time.
        idle: Duration,
    },
}

/// An answer to a question.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What is said.
    pub response: Arc<Response>,
    /// Which TTLs it shows.
    pub age: TtlView,
    /// An Extended DNS Error that explains it.
    pub ede: Option<u16>,
    /// Where it comes from.
    pub origin: Source,
}

impl Answer {
    /// An answer out of the process itself.
    #[must_use]
    pub fn local(response: Response, ede: Option<u16>) -> Self {
        Self { response: Arc::new(response), age: TtlView::Original, ede, origin: Source::Local }
    }

    /// The bytes for this client: its number, its case, RD and CD; a fresh OPT if it sent one (RFC 6891 §6.1.1); AD
    /// only if it asked (RFC 6840 §5.8); no longer than its way allows.
    #[must_use]
    pub fn to_wire(&self, query: &Query, way: ReplyTransport) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.response.wire().len() + 17);
        message.extend_from_slice(self.response.wire());
        self.put_ttls(&mut message);
        put_question(&mut message, query);
        if let Some(mut header) = Header::read(&message) {
            header.id = query.id;
            let shown = ClientFlags::to(query.flags(), query.dnssec_ok());
            header.flags = flag::kept(header.flags) & !shown.hidden | shown.echoed;
            header.write(&mut message);
        }
        let edns = query.edns.map(|asked| Edns {
            udp_size: UDP_SIZE,
            extended_rcode: u8::try_from(self.response.rcode() >> 4).unwrap_or_default(),
            version: 0,
            dnssec_ok: asked.dnssec_ok,
            ede: self.ede.or_else(|| self.response.ede()),
            keepalive: match way {
                ReplyTransport::Udp => None,
                ReplyTransport::Tcp { idle } => asked.keepalive.map(|_| tenths(idle)),
            },
            cookie: query.told_cookie,
        });
        let limit = match way {
            ReplyTransport::Udp => udp_limit(query.edns.map(|edns| edns.udp_size)),
            ReplyTransport::Tcp { .. } => LONGEST,
        };
        truncate::to_limit(&mut message, limit.saturating_sub(edns.map_or(0, |edns| edns.length())));
        if let Some(edns) = edns {
            edns.append(&mut message);
        }
        message
    }

    fn put_ttls(&self, message: &mut [u8]) {
        for offset in self.response.ttl_offsets() {
            let Some(bytes) = message.get_mut(usize::from(*offset)..usize::from(*offset) + 4) else { continue };
            let written = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&self.age.shown(written).to_be_bytes());
        }
    }
}

/// What a client does not get to see of [`flag::kept`], and what it gets back of its own.
#[derive(Clone, Copy, Debug)]
pub struct ClientFlags {
    /// AD, unless it wants to know it: by its own AD or by DO (RFC 6840 §5.8).
    pub hidden: u16,
    /// RD and CD, as it sent them.
    pub echoed: u16,
}

impl ClientFlags {
    /// To a client that sent these flags.
    #[must_use]
    #[inline]
    pub const fn to(asked: u16, dnssec_ok: bool) -> Self {
        let hidden = if dnssec_ok { 0 } else { !asked & flag::AD };
        Self { hidden, echoed: asked & (flag::RD | flag::CD) }
    }
}

fn tenths(time: Duration) -> u16 {
    u16::try_from(time.as_millis() / 100).unwrap_or(u16::MAX)
}

/// The longest datagram for a client that says it takes this much, or says nothing.
#[must_use]
#[inline]
pub fn udp_limit(advertised: Option<u16>) -> usize {
    usize::from(advertised.map_or(SMALLEST_UDP, |size| size.clamp(SMALLEST_UDP, UDP_SIZE)))
}

/// The question exactly as the client wrote it. Its name has as many octets as the one that is replaced: both are the
/// same name, save for its case.
fn put_question(message: &mut [u8], query: &Query) {
    let name = query.name.as_bytes();
    let (name_end, fixed) = (Header::LENGTH + name.len(), [query.rtype, query.class].map(u16::to_be_bytes));
    if let Some(section) = message.get_mut(Header::LENGTH..name_end + 4) {
        let (place, fixed_place) = section.split_at_mut(name.len());
        place.copy_from_slice(name);
        fixed_place.copy_from_slice(fixed.as_flattened());
    }
}
