//! What is known of an answer as it lies in the table, and how long it lives.
//!
//! ```text
//! word 0          length of the message │ number of records │ code │ EDE
//! word 1          number of the server that it came from │ when it came in, in ticks (48 bits)
//! word 2          life in seconds │ form of the records, kind │ number of additional records
//! word 3          as in the header of a message: flags but for those of a client │ number of questions (1), of answers, of authorities
//! next words      the records, as their form says (see [`super::entry`])
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::rrset::RecordLayout;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::{Header, Response, ResponseTtl, flag};

/// Words before the records.
pub(super) const HEAD: usize = 4;
/// Kinds of answers, bits of their word.
const NEGATIVE: u64 = 1 << 16;
const ONE_TTL: u64 = 1 << 17;
/// Where the form of the records stands in it.
const FORM: u32 = 18;
/// Ticks of a second: the time of the cache, so that seconds are told by a shift.
pub(super) const SECOND: u64 = 1024;
/// Bits of a time: some thousand years.
const TIME: u32 = 48;
const MOST_TICKS: u64 = (1 << TIME) - 1;
/// In the place of an Extended DNS Error: there is none.
const NO_EDE: u16 = u16::MAX;

/// Bounds on how long answers live. They are applied on reading, so that a change has its effect on what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest life of an answer, and the longest TTL that is shown, in seconds.
    pub max_ttl: u32,
    /// The same for answers that say there is nothing.
    pub negative_max_ttl: u32,
    /// Seconds after that life in which the answer may still serve while others fail; 0: never.
    pub serve_stale: u32,
}

impl Policy {
    /// The life of an answer in seconds, and the longest TTL that it shows.
    #[must_use]
    pub fn ttl_and_cap(&self, lifetime: ResponseTtl) -> (u32, u32) {
        match lifetime {
            ResponseTtl::Positive(ttl) => (ttl.min(self.max_ttl), self.max_ttl),
            // The SOA record's TTL would outlive what it denies (RFC 2308 §5).
            ResponseTtl::Negative(ttl) => (ttl.min(self.negative_max_ttl), ttl.min(self.negative_max_ttl)),
            ResponseTtl::Uncacheable => (0, self.max_ttl),
        }
    }

    /// An answer that has just come in.
    #[must_use]
    pub fn new_answer(&self, response: Arc<Response>) -> Answer {
        let (_, cap) = self.ttl_and_cap(response.lifetime());
        Answer { response, age: TtlView::Cached { age: 0, cap }, ede: None, origin: Source::Upstream }
    }
}

/// Whether an answer may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is in its time and shows its TTLs like this.
    Fresh(TtlView),
    /// The same, but its time is nearly over: it is time to ask again.
    RefreshDue(TtlView),
    /// It is past its time but inside the window of RFC 8767, with the Extended DNS Error that says so.
    Stale(u16),
    /// It is not.
    Expired,
}

/// What is known of an answer beside its bytes: its first words, read where that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader([u64; HEAD]);

impl EntryHeader {
    /// The head of an answer that came in at this time, in ticks; none when it is not to be kept.
    pub(super) fn of(response: &Response, now: u64, form: RecordLayout) -> Option<Self> {
        let (life, kind) = match response.lifetime() {
            ResponseTtl::Positive(seconds) => (seconds, 0),
            ResponseTtl::Negative(seconds) => (seconds, NEGATIVE),
            ResponseTtl::Uncacheable => return None,
        };
        let length = u16::try_from(response.wire().len()).ok()?;
        let records = u16::try_from(response.ttl_offsets().len()).ok()?;
        let ede = response.ede().unwrap_or(NO_EDE);
        let header = Header::read(response.wire())?;
        let [_, answers, authorities, additional] = header.counts;
        let kind = kind | ((form as u64) << FORM) | if response.has_one_ttl() { ONE_TTL } else { 0 };
        let sixteen = |parts: [u16; 4]| parts.iter().fold(0, |word, part| (word << 16) | u64::from(*part));
        Some(Self([
            sixteen([length, records, response.rcode(), ede]),
            (u64::from(response.from()) << TIME) | (now & MOST_TICKS),
            (u64::from(life) << 32) | kind | u64::from(additional),
            sixteen([flag::kept(header.flags), 1, answers, authorities]),
        ]))
    }

    /// Reads the head of an answer where it lies.
    #[inline]
    pub(super) fn read(words: &[AtomicU64]) -> Option<Self> {
        Some(Self(words.first_chunk::<HEAD>()?.each_ref().map(|word| word.load(Ordering::Relaxed))))
    }

    /// The same of one that was copied out of the table.
    pub(super) fn of_copy(words: &[u64]) -> Option<Self> {
        words.first_chunk().map(|head| Self(*head))
    }

    pub(super) const fn as_words(&self) -> &[u64; HEAD] {
        &self.0
    }

    /// Octets of the message, its question included.
    #[must_use]
    #[inline]
    pub const fn length(&self) -> usize {
        (self.0[0] >> 48) as usize
    }

    /// Number of its records, each of which has a TTL.
    #[must_use]
    #[inline]
    pub const fn records(&self) -> usize {
        (self.0[0] >> 32) as u16 as usize
    }

    /// Its code.
    #[must_use]
    #[inline]
    pub const fn rcode(&self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    /// The Extended DNS Error that came with it.
    #[must_use]
    #[inline]
    pub fn ede(&self) -> Option<u16> {
        Some(self.0[0] as u16).filter(|ede| *ede != NO_EDE)
    }

    /// The number of the server that it came from; 0 for none.
    #[must_use]
    #[inline]
    pub const fn from(&self) -> u16 {
        (self.0[1] >> TIME) as u16
    }

    /// How long it says that it lives, in seconds. Where its records are kept as a set, it is the TTL of all of them.
    #[must_use]
    #[inline]
    pub const fn life(&self) -> u32 {
        (self.0[2] >> 32) as u32
    }

    /// The same, and whether it is a denial.
    #[must_use]
    #[inline]
    pub const fn lifetime(&self) -> ResponseTtl {
        if self.0[2] & NEGATIVE == 0 { ResponseTtl::Positive(self.life()) } else { ResponseTtl::Negative(self.life()) }
    }

    /// Whether all of its TTLs are the same.
    #[must_use]
    #[inline]
    pub const fn has_one_ttl(&self) -> bool {
        self.0[2] & ONE_TTL != 0
    }

    /// How its records are kept.
    #[must_use]
    #[inline]
    pub const fn form(&self) -> RecordLayout {
        RecordLayout::from_bits((self.0[2] >> FORM) as u8)
    }

    /// Number of its additional records.
    #[must_use]
    #[inline]
    pub const fn additional(&self) -> u16 {
        self.0[2] as u16
    }

    /// Its header from the flags to the number of authorities, the flags in the highest bits.
    #[must_use]
    #[inline]
    pub const fn front(&self) -> u64 {
        self.0[3]
    }

    /// Ticks since the answer came in.
    pub(super) const fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.0[1] & MOST_TICKS)
    }

    /// Seconds in which the answer is in its time, and seconds after them in which it may serve while others fail.
    pub(super) fn windows(&self, policy: &Policy) -> (u64, u64) {
        let (life, _) = policy.ttl_and_cap(self.lifetime());
        // What was stale already where it came from has no second window here.
        let second_hand = matches!(self.ede(), Some(ede::STALE_ANSWER | ede::STALE_NXDOMAIN));
        (life.into(), if second_hand { 0 } else { policy.serve_stale.into() })
    }

    /// Whether the answer may be said at this time, in ticks.
    #[must_use]
    #[inline]
    pub fn at(&self, now: u64, policy: &Policy) -> Freshness {
        let (life, cap) = policy.ttl_and_cap(self.lifetime());
        let age = self.age(now);
        let seconds = age / SECOND;
        if seconds < life.into() {
            let shown = TtlView::Cached { age: seconds as u32, cap };
            let is_due = 10 * age >= 9 * SECOND * u64::from(life);
            return if is_due { Freshness::RefreshDue(shown) } else { Freshness::Fresh(shown) };
        }
        if seconds >= u64::from(life) + self.windows(policy).1 {
            return Freshness::Expired;
        }
        Freshness::Stale(if self.rcode() == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER })
    }
}
