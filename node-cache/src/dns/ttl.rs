//! How long a response may be cached: TTLs, and negative caching (RFC 2308).

use super::codes::{class, rcode, rtype};
use super::{Header, Record, Section, flag, u32_at};

/// How long a response may be cached, in seconds, before any cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseTtl {
    /// A positive response: the lowest TTL of its records.
    Positive(u32),
    /// A negative response, NXDOMAIN or no data: its negative TTL (RFC 2308 §5).
    Negative(u32),
    /// A response that must not be cached.
    Uncacheable,
}

/// Properties of all records of a response from which its [`ResponseTtl`] follows.
pub(super) struct TtlSummary {
    /// The type in the question.
    qtype: u16,
    /// The lowest TTL; `u32::MAX` without records.
    min_ttl: u32,
    /// MINIMUM field of the SOA record in the authority section.
    soa_minimum: Option<u32>,
    /// Whether the answer section has a record of the type in the question.
    has_answer: bool,
}

impl TtlSummary {
    pub(super) const fn new(qtype: u16) -> Self {
        Self { qtype, min_ttl: u32::MAX, soa_minimum: None, has_answer: false }
    }

    pub(super) fn add(&mut self, wire: &[u8], record: &Record) {
        self.min_ttl = self.min_ttl.min(seconds(record.ttl));
        self.has_answer |=
            record.section == Section::Answer && (record.rtype == self.qtype || self.qtype == rtype::ANY);
        if record.section == Section::Authority && record.rtype == rtype::SOA && record.class == class::IN {
            self.soa_minimum = record.data.end.checked_sub(4).and_then(|minimum| u32_at(wire, minimum)).map(seconds);
        }
    }

    /// Returns the TTL of the response: the lowest TTL of a positive one, the negative TTL of RFC 2308 §5 of a negative
    /// one. A response that is neither, is truncated or has a failure rcode is not cached.
    pub(super) fn ttl(&self, header: &Header, rcode: u16) -> ResponseTtl {
        if header.has(flag::TC) || !matches!(rcode, rcode::NOERROR | rcode::NXDOMAIN) {
            return ResponseTtl::Uncacheable;
        }
        let min_ttl = self.min_ttl;
        match (self.has_answer && rcode == rcode::NOERROR, self.soa_minimum) {
            (_, _) if min_ttl == 0 || min_ttl == u32::MAX => ResponseTtl::Uncacheable,
            (true, _) => ResponseTtl::Positive(min_ttl),
            (false, Some(0)) => ResponseTtl::Uncacheable,
            (false, Some(minimum)) => ResponseTtl::Negative(min_ttl.min(minimum)),
            // A CNAME chain whose end is missing, or a negative response without an SOA record (RFC 2308 §5: not
            // cached).
            (false, None) => ResponseTtl::Uncacheable,
        }
    }
}

/// Returns a TTL in seconds: 0 when its highest bit is set (RFC 2181 §8).
const fn seconds(ttl: u32) -> u32 {
    if ttl > 0x7fff_ffff { 0 } else { ttl }
}
