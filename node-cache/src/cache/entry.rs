//! An answer as it lies in the table, and how long it lives.
//!
//! ```text
//! word 0          length of the message │ number of TTLs │ code │ EDE
//! word 1          number of the server that it came from │ when it came in, in ticks (48 bits)
//! word 2          life in seconds │ kind │ number of additional records
//! word 3          as in the header of a message: flags but for those of a client │ number of questions (1), of answers, of authorities
//! next words      offsets of the TTLs in the message, four in a word; behind the last one it is repeated
//! next words      the message behind its question, filled up with zeros
//! ```
//!
//! The question is not kept: it is in the key, and a client gets its own back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::table::copy;
use crate::answer::{Age, Answer, Origin};
use crate::packet::numbers::{ede, rcode};
use crate::packet::{Header, Lifetime, Response, flag};

/// Words before the offsets.
const HEAD: usize = 4;
/// Kinds of answers, bits of their word.
const NEGATIVE: u64 = 1 << 16;
const ONE_TTL: u64 = 1 << 17;
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
    pub fn life_and_cap(&self, lifetime: Lifetime) -> (u32, u32) {
        match lifetime {
            Lifetime::Positive(ttl) => (ttl.min(self.max_ttl), self.max_ttl),
            // The SOA record's TTL would outlive what it denies (RFC 2308 §5).
            Lifetime::Negative(ttl) => (ttl.min(self.negative_max_ttl), ttl.min(self.negative_max_ttl)),
            Lifetime::None => (0, self.max_ttl),
        }
    }

    /// An answer that has just come in.
    #[must_use]
    pub fn new_answer(&self, response: Arc<Response>) -> Answer {
        let (_, cap) = self.life_and_cap(response.lifetime());
        Answer { response, age: Age::Kept { age: 0, cap }, ede: None, origin: Origin::Upstream }
    }
}

/// Whether an answer may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is in its time and shows its TTLs like this.
    Fresh(Age),
    /// The same, but its time is nearly over: it is time to ask again.
    Due(Age),
    /// It is past its time but inside the window of RFC 8767, with the Extended DNS Error that says so.
    Stale(u16),
    /// It is not.
    Over,
}

/// What is known of an answer beside its bytes: its first words, read where that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head([u64; HEAD]);

impl Head {
    /// Reads the head of an answer that was copied out of the table; none when it is not one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        Some(Self(words.first_chunk::<HEAD>()?.map(u64::from_ne_bytes)))
    }

    /// Octets of the message, its question included.
    #[must_use]
    #[inline]
    pub const fn length(&self) -> usize {
        (self.0[0] >> 48) as usize
    }

    /// Number of TTLs.
    #[inline]
    const fn number_of_ttls(&self) -> usize {
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

    /// How long it says that it lives.
    #[must_use]
    #[inline]
    pub const fn lifetime(&self) -> Lifetime {
        let seconds = (self.0[2] >> 32) as u32;
        if self.0[2] & NEGATIVE == 0 { Lifetime::Positive(seconds) } else { Lifetime::Negative(seconds) }
    }

    /// Whether all of its TTLs are the same.
    #[must_use]
    #[inline]
    pub const fn has_one_ttl(&self) -> bool {
        self.0[2] & ONE_TTL != 0
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

    /// Where among the copied bytes the offsets of the TTLs in the message are: two octets each, the lower one first.
    pub(super) fn ttls(&self) -> Range<usize> {
        8 * HEAD..8 * HEAD + 2 * self.number_of_ttls()
    }

    /// Where among the copied bytes begins what stands in the message behind its question.
    pub(super) fn records(&self) -> usize {
        8 * (HEAD + self.number_of_ttls().div_ceil(4))
    }

    /// Ticks since the answer came in.
    pub(super) const fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.0[1] & MOST_TICKS)
    }

    /// Seconds in which the answer is in its time, and seconds after them in which it may serve while others fail.
    pub(super) fn windows(&self, policy: &Policy) -> (u64, u64) {
        let (life, _) = policy.life_and_cap(self.lifetime());
        // What was stale already where it came from has no second window here.
        let second_hand = matches!(self.ede(), Some(ede::STALE_ANSWER | ede::STALE_NXDOMAIN));
        (life.into(), if second_hand { 0 } else { policy.serve_stale.into() })
    }

    /// Whether the answer may be said at this time, in ticks.
    #[must_use]
    #[inline]
    pub fn at(&self, now: u64, policy: &Policy) -> State {
        let (life, cap) = policy.life_and_cap(self.lifetime());
        let age = self.age(now);
        let seconds = age / SECOND;
        if seconds < life.into() {
            let shown = Age::Kept { age: seconds as u32, cap };
            let is_due = 10 * age >= 9 * SECOND * u64::from(life);
            return if is_due { State::Due(shown) } else { State::Fresh(shown) };
        }
        if seconds >= u64::from(life) + self.windows(policy).1 {
            return State::Over;
        }
        State::Stale(if self.rcode() == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER })
    }
}

/// An answer where it lies in the table. Others may write there at any time: what is read makes an answer only together with
/// the table's word that it was still the same afterwards, and until then may be anything.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// What is known of it.
    pub head: Head,
    offsets: &'a [AtomicU64],
    records: &'a [AtomicU64],
}

impl<'a> Kept<'a> {
    #[inline]
    pub(super) fn read(words: &'a [AtomicU64]) -> Option<Self> {
        let (head, rest) = words.split_first_chunk::<HEAD>()?;
        let head = Head(head.each_ref().map(|word| word.load(Ordering::Relaxed)));
        let (offsets, records) = rest.split_at_checked(head.number_of_ttls().div_ceil(4))?;
        Some(Self { head, offsets, records })
    }

    /// Copies its records to `out`, which has to have room for some octets more: whole words are written.
    #[inline]
    pub fn copy_records(&self, out: &mut [u8]) -> Option<usize> {
        copy(self.records, out)
    }

    /// Where in the message the TTLs are, four at a time; behind the last one it is repeated.
    #[inline]
    pub fn ttl_offsets(&self) -> impl Iterator<Item = [u16; 4]> {
        let four = |word: u64| [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16];
        self.offsets.iter().map(move |word| four(u64::from_le(word.load(Ordering::Relaxed))))
    }

    /// How many TTLs there are.
    #[must_use]
    #[inline]
    pub const fn ttls(&self) -> usize {
        self.head.number_of_ttls()
    }
}

/// The words of an answer that came in at this time, in ticks; none when it is not to be kept.
pub(super) fn words(response: &Response, now: u64) -> Option<Vec<u64>> {
    let (life, kind) = match response.lifetime() {
        Lifetime::Positive(seconds) => (seconds, 0),
        Lifetime::Negative(seconds) => (seconds, NEGATIVE),
        Lifetime::None => return None,
    };
    let length = u16::try_from(response.wire().len()).ok()?;
    let ttls = u16::try_from(response.ttl_offsets().len()).ok()?;
    let ede = response.ede().unwrap_or(NO_EDE);
    let header = Header::read(response.wire())?;
    let [_, answers, authorities, additional] = header.counts;
    let mut written = response.ttl_offsets().iter().map(|offset| ttl_at(response.wire(), *offset));
    let first = written.next();
    let one_ttl = if written.all(|ttl| Some(ttl) == first) { ONE_TTL } else { 0 };
    let sixteen = |parts: [u16; 4]| parts.iter().fold(0, |word, part| (word << 16) | u64::from(*part));
    let records = response.wire().get(usize::from(response.question_end())..)?;
    let mut words = Vec::with_capacity(HEAD + response.ttl_offsets().len().div_ceil(4) + records.len().div_ceil(8));
    let head: [u64; HEAD] = [
        sixteen([length, ttls, response.rcode(), ede]),
        (u64::from(response.from()) << TIME) | (now & MOST_TICKS),
        (u64::from(life) << 32) | kind | one_ttl | u64::from(additional),
        sixteen([flag::kept(header.flags), 1, answers, authorities]),
    ];
    words.extend(head);
    words.extend(response.ttl_offsets().chunks(4).map(|offsets| u64::from_le(four(offsets))));
    let (whole, rest) = records.as_chunks::<8>();
    words.extend(whole.iter().map(|bytes| u64::from_ne_bytes(*bytes)));
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u64::from_ne_bytes(last));
    }
    Some(words)
}

/// Four offsets in a word, the first one in the lowest bits. The last one is repeated where there are fewer.
fn four(offsets: &[u16]) -> u64 {
    let last = offsets.last().copied().unwrap_or_default();
    (0..4).rev().fold(0, |word, place| (word << 16) | u64::from(offsets.get(place).copied().unwrap_or(last)))
}

fn ttl_at(wire: &[u8], offset: u16) -> Option<[u8; 4]> {
    wire.get(usize::from(offset)..)?.first_chunk().copied()
}

/// The answer whose head this is, out of the copied bytes, to the question in this section.
pub(super) fn response(head: &Head, bytes: &[u8], section: &[u8]) -> Option<Response> {
    let (offsets, _) = bytes.get(head.ttls())?.as_chunks::<2>();
    let offsets = offsets.iter().map(|offset| u16::from_le_bytes(*offset)).collect();
    let question_end = Header::LENGTH + section.len();
    let records = bytes.get(head.records()..)?.get(..head.length().checked_sub(question_end)?)?;
    let [flags, questions, answers, authorities] = [48, 32, 16, 0].map(|shift| (head.front() >> shift) as u16);
    let mut wire = Vec::with_capacity(head.length());
    wire.extend_from_slice(&[0; Header::LENGTH]);
    Header { id: 0, flags, counts: [questions, answers, authorities, head.additional()] }.write(&mut wire);
    wire.extend_from_slice(section);
    wire.extend_from_slice(records);
    let question_end = u16::try_from(question_end).ok()?;
    Some(Response::kept(wire, offsets, question_end, head.rcode(), head.lifetime(), head.ede()))
}
