//! How long a response may be cached: TTLs, and negative caching (RFC 2308). TTLs that no later hop may take at their
//! face value are lowered on entry: those of 2³¹ and more (RFC 2181 §8), and those of stale responses (RFC 8767).

use smallvec::SmallVec;

use super::codes::{class, rcode, rtype};
use super::{Header, Record, Records, Section, flag, u32_at};

/// TTL in seconds of every record in a stale response (RFC 8767 §4).
pub(super) const STALE_TTL: u32 = 30;
/// The maximum TTL in seconds. A greater one counts as 0 (RFC 2181 §8).
const MAX_TTL: u32 = 0x7fff_ffff;

/// Offsets of the TTLs of a response's records. Those of most responses take no allocation.
pub(crate) type TtlOffsets = SmallVec<[u16; 8]>;

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
    /// Whether a record has a TTL, or an SOA record a MINIMUM, above [`MAX_TTL`].
    has_excessive_ttl: bool,
}

impl TtlSummary {
    pub(super) const fn new(qtype: u16) -> Self {
        Self { qtype, min_ttl: u32::MAX, soa_minimum: None, has_answer: false, has_excessive_ttl: false }
    }

    pub(super) fn add(&mut self, wire: &[u8], record: &Record) {
        self.min_ttl = self.min_ttl.min(seconds(record.ttl));
        self.has_excessive_ttl |= record.ttl > MAX_TTL;
        self.has_answer |=
            record.section == Section::Answer && (record.rtype == self.qtype || self.qtype == rtype::ANY);
        if let Some(minimum) = soa_minimum(wire, record) {
            self.soa_minimum = Some(seconds(minimum));
            if minimum > MAX_TTL {
                self.has_excessive_ttl = true;
                // [`lower_ttls`] gives the record this TTL.
                self.min_ttl = 0;
            }
        }
    }

    /// Returns whether [`lower_ttls`] has something to do in a response that is not stale.
    pub(super) const fn has_excessive_ttl(&self) -> bool {
        self.has_excessive_ttl
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
    if ttl > MAX_TTL { 0 } else { ttl }
}

/// Returns MINIMUM of an SOA record in the authority section, the TTL of a denial (RFC 2308 §4); `None` for every other
/// record.
fn soa_minimum(wire: &[u8], record: &Record) -> Option<u32> {
    if record.section != Section::Authority || record.rtype != rtype::SOA || record.class != class::IN {
        return None;
    }
    u32_at(wire, record.data.end.checked_sub(4)?)
}

/// Lowers TTLs so that the next hop and the client see what counts here: 0 in place of 2³¹ and more, and at most
/// [`STALE_TTL`] in a stale response. An SOA record whose MINIMUM is 2³¹ or more gets a TTL of 0: the TTL of its denial
/// is the lower one of the two (RFC 2308 §5), and signatures cover MINIMUM.
pub(super) fn lower_ttls(wire: &mut [u8], header: &Header, question_end: usize, is_stale: bool) {
    let max_ttl = if is_stale { STALE_TTL } else { MAX_TTL };
    let records: Vec<Record> = Records::new(wire, header, question_end).filter_map(Result::ok).collect();
    for record in records {
        let is_excessive = soa_minimum(wire, &record).is_some_and(|minimum| minimum > MAX_TTL);
        let ttl = if is_excessive { 0 } else { seconds(record.ttl).min(max_ttl) };
        wire[record.ttl_offset..record.ttl_offset + 4].copy_from_slice(&ttl.to_be_bytes());
    }
}
