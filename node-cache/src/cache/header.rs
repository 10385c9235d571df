//! Header of a cache entry: what is known of a response beside its records, and the freshness that follows from it.
//!
//! ```text
//! word 0          length of the message │ number of records │ rcode │ EDE
//! word 1          ID of the upstream │ time of storing, in ticks (48 bits)
//! word 2          TTL in seconds │ layout of the records, flags │ number of additional records
//! word 3          as in the header of a message: flags without those of a client │ QDCOUNT (1), ANCOUNT, NSCOUNT
//! next words      the records, in the layout of word 2 (see [`super::entry`])
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::rrset::RecordLayout;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::{Header, Response, ResponseTtl, flag};

/// Words of the header.
pub(super) const HEADER_WORDS: usize = 4;
/// Flags of word 2.
const NEGATIVE: u64 = 1 << 16;
const UNIFORM_TTL: u64 = 1 << 17;
/// Position of the record layout (2 bits) in word 2.
const LAYOUT_SHIFT: u32 = 18;
/// Ticks of a second. The cache counts time in ticks, so that a shift turns it into seconds.
pub(super) const TICKS_PER_SECOND: u64 = 1024;
/// Bits of a time: some thousand years.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Value in the field of the Extended DNS Error when there is none.
const NO_EDE: u16 = u16::MAX;
/// Value in that field of a partial response, which is never sent as it is. The path of cache hits leaves every entry
/// with an Extended DNS Error to the full path.
const PARTIAL: u16 = u16::MAX - 1;

/// Bounds of TTLs and of serve-stale. They are applied on lookup, so that a change also affects the entries that are
/// cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Longest TTL of a positive response, both for expiry and as shown to clients, in seconds.
    pub max_ttl: u32,
    /// Longest TTL of a negative response (RFC 2308), both for expiry and as shown to clients, in seconds.
    pub negative_max_ttl: u32,
    /// Seconds after expiry in which a response may still be served while upstreams fail (serve-stale, RFC 8767); 0:
    /// never.
    pub serve_stale: u32,
}

impl From<&node_cache_config::Cache> for Policy {
    fn from(cache: &node_cache_config::Cache) -> Self {
        let node_cache_config::Cache { max_ttl, negative_max_ttl, serve_stale } = *cache;
        Self { max_ttl, negative_max_ttl, serve_stale }
    }
}

impl Default for Policy {
    /// Returns the policy of a `DnsTier` that names none.
    fn default() -> Self {
        Self::from(&node_cache_config::Cache::default())
    }
}

impl Policy {
    /// Returns the TTL after which a response expires and the cap of the TTLs that it shows, both in seconds.
    #[must_use]
    pub fn ttl_and_cap(&self, response_ttl: ResponseTtl) -> (u32, u32) {
        match response_ttl {
            ResponseTtl::Positive(ttl) => (ttl.min(self.max_ttl), self.max_ttl),
            // The TTL of the SOA record may be longer than that of the denial (RFC 2308 §5).
            ResponseTtl::Negative(ttl) => (ttl.min(self.negative_max_ttl), ttl.min(self.negative_max_ttl)),
            ResponseTtl::Uncacheable => (0, self.max_ttl),
        }
    }

    /// Returns the answer for a response that an upstream has just sent.
    #[must_use]
    pub fn new_answer(&self, response: Arc<Response>) -> Answer {
        let (_, cap) = self.ttl_and_cap(response.ttl());
        Answer { response, ttl_view: TtlView::Cached { age: 0, cap }, ede: None, source: Source::Upstream }
    }
}

/// Freshness of a cache entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Fresh: within its TTL. Shows its TTLs like this.
    Fresh(TtlView),
    /// Fresh, and in the last tenth of its TTL, so that a hit prefetches a new response.
    RefreshDue(TtlView),
    /// Stale: expired, but within the serve-stale window (RFC 8767). Carries the Extended DNS Error that says so.
    Stale(u16),
    /// Expired, and past the serve-stale window.
    Expired,
}

/// Durations, in seconds, in which an entry may be served under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    /// From storing to expiry: the capped TTL.
    pub(super) fresh: u64,
    /// From expiry to the end of serve-stale.
    pub(super) stale: u64,
}

/// Header of a cache entry, as its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader([u64; HEADER_WORDS]);

impl EntryHeader {
    /// Creates the header of a response that is stored at `now`, in ticks; `None` when it is uncacheable.
    pub(super) fn new(response: &Response, now: u64, layout: RecordLayout) -> Option<Self> {
        let (ttl, negative) = match response.ttl() {
            ResponseTtl::Positive(seconds) => (seconds, 0),
            ResponseTtl::Negative(seconds) => (seconds, NEGATIVE),
            ResponseTtl::Uncacheable => return None,
        };
        let length = u16::try_from(response.wire().len()).ok()?;
        let records = u16::try_from(response.ttl_offsets().len()).ok()?;
        let ede = match response.ede() {
            _ if response.is_partial() => PARTIAL,
            Some(ede) if ede != PARTIAL => ede,
            _ => NO_EDE,
        };
        let header = Header::read(response.wire())?;
        let [_, answers, authorities, additional] = header.counts;
        let uniform_ttl = if response.has_uniform_ttl() { UNIFORM_TTL } else { 0 };
        let flags = negative | ((layout as u64) << LAYOUT_SHIFT) | uniform_ttl;
        let pack = |fields: [u16; 4]| fields.iter().fold(0, |word, field| (word << 16) | u64::from(*field));
        Some(Self([
            pack([length, records, response.rcode(), ede]),
            (u64::from(response.upstream_id()) << TIME_BITS) | (now & TIME_MASK),
            (u64::from(ttl) << 32) | flags | u64::from(additional),
            pack([flag::cacheable(header.flags), 1, answers, authorities]),
        ]))
    }

    /// Loads the header of an entry in the table.
    #[inline]
    pub(super) fn load(words: &[AtomicU64]) -> Option<Self> {
        Some(Self(words.first_chunk::<HEADER_WORDS>()?.each_ref().map(|word| word.load(Ordering::Relaxed))))
    }

    /// Reads the header of an entry that was copied out of the table.
    pub(super) fn from_words(words: &[u64]) -> Option<Self> {
        words.first_chunk().map(|header| Self(*header))
    }

    pub(super) const fn as_words(&self) -> &[u64; HEADER_WORDS] {
        &self.0
    }

    /// Returns the length of the message in octets, question included.
    #[must_use]
    #[inline]
    pub const fn message_len(&self) -> usize {
        (self.0[0] >> 48) as usize
    }

    /// Returns the number of records with a TTL.
    #[must_use]
    #[inline]
    pub const fn record_count(&self) -> usize {
        (self.0[0] >> 32) as u16 as usize
    }

    /// Returns the rcode.
    #[must_use]
    #[inline]
    pub const fn rcode(&self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    /// Returns whether the response is partial ([`Response::is_partial`]).
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.0[0] as u16 == PARTIAL
    }

    /// Returns the Extended DNS Error of the response, if it has one; some value for a partial response.
    #[must_use]
    #[inline]
    pub fn ede(&self) -> Option<u16> {
        Some(self.0[0] as u16).filter(|ede| *ede != NO_EDE)
    }

    /// Returns the ID of the upstream that sent the response; 0 for none.
    #[must_use]
    #[inline]
    pub const fn server_id(&self) -> u16 {
        (self.0[1] >> TIME_BITS) as u16
    }

    /// Returns the TTL of the response in seconds, before any cap. It is the TTL of each record if the layout is not
    /// [`RecordLayout::Message`].
    #[must_use]
    #[inline]
    pub const fn ttl(&self) -> u32 {
        (self.0[2] >> 32) as u32
    }

    /// Returns the TTL of the response, positive or negative, before any cap.
    #[must_use]
    #[inline]
    pub const fn response_ttl(&self) -> ResponseTtl {
        if self.0[2] & NEGATIVE == 0 { ResponseTtl::Positive(self.ttl()) } else { ResponseTtl::Negative(self.ttl()) }
    }

    /// Returns whether all records have the same TTL.
    #[must_use]
    #[inline]
    pub const fn has_uniform_ttl(&self) -> bool {
        self.0[2] & UNIFORM_TTL != 0
    }

    /// Returns the layout of the records.
    #[must_use]
    #[inline]
    pub const fn layout(&self) -> RecordLayout {
        RecordLayout::from_bits((self.0[2] >> LAYOUT_SHIFT) as u8)
    }

    /// Returns the number of records in the additional section.
    #[must_use]
    #[inline]
    pub const fn additional_count(&self) -> u16 {
        self.0[2] as u16
    }

    /// Returns flags, QDCOUNT, ANCOUNT and NSCOUNT of the message, 16 bits each, the flags in the highest bits.
    #[must_use]
    #[inline]
    pub const fn flags_and_counts(&self) -> u64 {
        self.0[3]
    }

    /// Returns the ticks since the response was stored.
    pub(super) const fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.0[1] & TIME_MASK)
    }

    /// Returns how long the entry may be served under `policy`.
    pub(super) fn windows(&self, policy: &Policy) -> Windows {
        let (ttl, _) = policy.ttl_and_cap(self.response_ttl());
        Windows { fresh: ttl.into(), stale: policy.serve_stale.into() }
    }

    /// Returns the freshness of the entry at `now`, in ticks.
    #[must_use]
    #[inline]
    pub fn freshness(&self, now: u64, policy: &Policy) -> Freshness {
        let (ttl, cap) = policy.ttl_and_cap(self.response_ttl());
        let age = self.age(now);
        let seconds = age / TICKS_PER_SECOND;
        if seconds < ttl.into() {
            let view = TtlView::Cached { age: seconds as u32, cap };
            let is_due = 10 * age >= 9 * TICKS_PER_SECOND * u64::from(ttl);
            return if is_due { Freshness::RefreshDue(view) } else { Freshness::Fresh(view) };
        }
        if seconds >= u64::from(ttl) + self.windows(policy).stale {
            return Freshness::Expired;
        }
        Freshness::Stale(if self.rcode() == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER })
    }
}
