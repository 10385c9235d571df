//! How long what a response says may be believed.

use super::codes::{class, rcode, rtype};
use super::{Header, Record, Section, flag, u32_at};

/// How long a response may be kept, in seconds, before any cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseTtl {
    /// It holds what was asked for.
    Positive(u32),
    /// It says that there is none (RFC 2308 §5).
    Negative(u32),
    /// Not at all.
    Uncacheable,
}

/// What the records of a response tell of how long it may be kept.
pub(super) struct TtlSummary {
    /// The type that was asked for.
    asked: u16,
    shortest: u32,
    soa_minimum: Option<u32>,
    found: bool,
}

impl TtlSummary {
    pub(super) const fn new(asked: u16) -> Self {
        Self { asked, shortest: u32::MAX, soa_minimum: None, found: false }
    }

    pub(super) fn add(&mut self, wire: &[u8], record: &Record) {
        self.shortest = self.shortest.min(seconds(record.ttl));
        self.found |= record.section == Section::Answer && (record.rtype == self.asked || self.asked == rtype::ANY);
        if record.section == Section::Authority && record.rtype == rtype::SOA && record.class == class::IN {
            self.soa_minimum = record.data.end.checked_sub(4).and_then(|minimum| u32_at(wire, minimum)).map(seconds);
        }
    }

    /// RFC 2308 §5 for what is absent, the shortest TTL for what is there. A response to which none applies, or that is
    /// cut off, or that carries a code of failure is not kept.
    pub(super) fn lifetime(&self, header: &Header, code: u16) -> ResponseTtl {
        if header.has(flag::TC) || !matches!(code, rcode::NOERROR | rcode::NXDOMAIN) {
            return ResponseTtl::Uncacheable;
        }
        let shortest = self.shortest;
        match (self.found && code == rcode::NOERROR, self.soa_minimum) {
            (_, _) if shortest == 0 || shortest == u32::MAX => ResponseTtl::Uncacheable,
            (true, _) => ResponseTtl::Positive(shortest),
            (false, Some(0)) => ResponseTtl::Uncacheable,
            (false, Some(minimum)) => ResponseTtl::Negative(shortest.min(minimum)),
            // An alias whose end is not told, or a denial that nobody vouches for (RFC 2308 §5: not to be kept).
            (false, None) => ResponseTtl::Uncacheable,
        }
    }
}

/// A TTL with its highest bit set counts as zero (RFC 2181 §8).
const fn seconds(ttl: u32) -> u32 {
    if ttl > 0x7fff_ffff { 0 } else { ttl }
}
