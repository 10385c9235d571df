//! The shortest way of a question: a usual packet whose answer is in memory. The answer is copied to where it will be
//! sent from and patched there; nothing is locked, allocated or parsed twice. Whatever is unusual (another shape of
//! packet, an answer past its time, too long, or with an Extended DNS Error) goes the whole way.
//!
//! It has five steps, [`FastLookup::read`], [`KeyHasher::seek`], [`Resolver::prefetch_entry`], [`Resolver::match_key`] and [`Resolver::hit`],
//! each for all packets of a batch: two of them have the processor fetch what the next one reads, and meanwhile work for the other
//! packets. What each step remembers finds room in the processor's registers.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::Guard;
use node_cache_sys::clock::nanoseconds;

use super::Resolver;
use crate::cache::{
    Cache, CacheProbe, EntryHeader, EntryRef, Freshness, KeyBuf, KeySuffix, Policy, Prefetcher, RecordLayout,
};
use crate::dns::Header;
use crate::dns::answer::{ClientFlags, TtlView, udp_limit};
use crate::dns::edns::{self, UDP_SIZE};
use crate::dns::fast_query::FastQuery;
use crate::metrics::ScopeAnswers;
use crate::snapshot::{Scope, Snapshot};

/// The room of a packet: longer ones are cut off and so malformed. A name, a type and some options fit well.
pub const QUERY_BUF_LEN: usize = 1232;
/// The room that an answer takes here. All that is sent lies in [`UDP_SIZE`]; whatever a number of [`OFFSET`] bits is taken
/// for the place of a TTL, it lies in the room.
pub const RESPONSE_BUF_LEN: usize = (1 << OFFSET) + 16;
/// Bits of the place of a TTL.
const OFFSET: u32 = 11;

const _: () = assert!(UDP_SIZE as usize <= 1 << OFFSET);

/// What is in force and how late it is, looked up once for a number of packets.
#[derive(Debug)]
pub struct BatchContext {
    snapshot: Guard<Option<Arc<Snapshot>>>,
    /// As [`nanoseconds`] tells.
    began: u64,
    /// As the cache counts.
    now: u64,
    /// How many flights had landed.
    landed: u64,
}

impl BatchContext {
    /// The revision in force.
    #[must_use]
    #[inline]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// What is known of a question of which memory knows nothing.
    #[must_use]
    #[inline]
    pub const fn unknown(&self) -> KnownMiss {
        KnownMiss { landed: self.landed }
    }

    /// How long ago it was, in nanoseconds.
    #[must_use]
    #[inline]
    pub fn age(&self) -> u64 {
        nanoseconds().saturating_sub(self.began)
    }
}

/// Memory knew nothing of a question. It may know what flights have brought that landed since.
#[derive(Clone, Copy, Debug)]
pub struct KnownMiss {
    /// How many flights had landed before.
    pub(super) landed: u64,
}

/// A question of the plain shape on its way to its answer.
#[derive(Clone, Copy, Debug)]
pub struct FastLookup<'a> {
    plain: FastQuery,
    scope: &'a Scope,
    approached: CacheProbe<'a>,
}

impl<'a> FastLookup<'a> {
    /// First step: reads a packet, of which so many octets of a room were read. None when it is not of the plain shape.
    #[must_use]
    #[inline]
    pub fn read(snapshot: &'a Snapshot, room: &[u8; QUERY_BUF_LEN], length: usize) -> Option<Self> {
        let plain = FastQuery::read(room.get(..length)?)?;
        let scope = snapshot.routes.find_in_place(plain.name(room));
        Some(Self { plain, scope, approached: CacheProbe::default() })
    }
}

/// The second step.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher<'a>(Prefetcher<'a>);

impl KeyHasher<'_> {
    /// Writes the key of a question, whose packet this is.
    #[inline]
    pub fn seek(&self, sought: &FastLookup<'_>, room: &[u8; QUERY_BUF_LEN], key: &mut KeyBuf) {
        let FastLookup { plain, scope, .. } = sought;
        let (dnssec_ok, checking_disabled) = (plain.dnssec_ok(), plain.checking_disabled());
        let last = KeySuffix { type_and_class: plain.type_and_class, dnssec_ok, checking_disabled };
        let Some(name) = room.get(Header::LENGTH..).and_then(<[u8]>::first_chunk) else { return };
        self.0.prepare(key, scope.id, name, plain.name_length, last);
    }
}

/// An answer out of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its octets, at the beginning of the room that it was given.
    pub length: NonZeroU16,
    /// Whether its time is nearly over, so that [`Resolver::refresh`] should be called for its question.
    pub due: bool,
    /// What it says: NOERROR or NXDOMAIN.
    pub rcode: u16,
}

impl Resolver {
    /// Begins a number of packets.
    #[must_use]
    pub fn batch_context(&self) -> BatchContext {
        let (began, landed) = (nanoseconds(), self.flights.landed());
        let now = Cache::ticks(began.saturating_sub(self.began) / 1000);
        BatchContext { snapshot: self.snapshot.load(), began, now, landed }
    }

    /// Second step, for a number of packets.
    #[must_use]
    #[inline]
    pub fn key_hasher(&self) -> KeyHasher<'_> {
        KeyHasher(self.cache.prefetcher())
    }

    /// Third step: finds what may be the answer.
    #[inline]
    pub fn prefetch_entry<'a>(&'a self, sought: &mut FastLookup<'a>, key: &KeyBuf) {
        self.cache.prefetch_entry(key, &mut sought.approached);
    }

    /// Fourth step: sees whether it is.
    #[inline]
    pub fn match_key<'a>(&'a self, sought: &mut FastLookup<'a>, key: &KeyBuf) {
        self.cache.match_key(key, &mut sought.approached);
    }

    /// Last step: the answer out of memory, at the beginning of `out`; none when it takes more than memory. The key is forgotten
    /// when memory knows nothing of it. `question` is the room of the packet. A function of its own, so that nothing else needs
    /// the processor's registers meanwhile.
    #[must_use]
    #[inline(never)]
    pub fn hit(
        &self,
        moment: &BatchContext,
        sought: &FastLookup<'_>,
        key: &mut KeyBuf,
        question: &[u8; QUERY_BUF_LEN],
        out: &mut [u8; RESPONSE_BUF_LEN],
    ) -> Option<Hit> {
        let FastLookup { plain, approached, .. } = sought;
        let policy = &moment.snapshot.as_deref()?.policy;
        let now = moment.now;
        let first = self.cache.view(approached, |kept| Some(answer(kept, policy, now, plain, question, out)));
        first.unwrap_or_else(|| self.hit_fallback(policy, now, sought, key, question, out))
    }

    /// Where a hit of this question is counted.
    #[must_use]
    #[inline]
    pub fn hits_in<'a>(&self, sought: &FastLookup<'a>) -> &'a ScopeAnswers {
        self.answers_in(sought.scope)
    }

    /// What is there when the first that looked like the answer is not it: one behind it, or one of any type.
    #[cold]
    #[inline(never)]
    fn hit_fallback(
        &self,
        policy: &Policy,
        now: u64,
        sought: &FastLookup<'_>,
        key: &mut KeyBuf,
        question: &[u8; QUERY_BUF_LEN],
        out: &mut [u8; RESPONSE_BUF_LEN],
    ) -> Option<Hit> {
        let mut is_known = false;
        let hit = self.cache.view_fallback(key, |kept| {
            is_known = true;
            Some(answer(kept, policy, now, &sought.plain, question, out))
        });
        if !is_known {
            key.clear();
        }
        hit.flatten()
    }
}

/// Makes the message that is said out of what is kept; none when that takes more.
#[inline(always)]
fn answer(
    kept: EntryRef<'_>,
    policy: &Policy,
    now: u64,
    plain: &FastQuery,
    question: &[u8; QUERY_BUF_LEN],
    out: &mut [u8; RESPONSE_BUF_LEN],
) -> Option<Hit> {
    let head = &kept.head;
    let (age, due) = match head.at(now, policy) {
        Freshness::Fresh(age) => (age, false),
        Freshness::RefreshDue(age) => (age, true),
        Freshness::Stale(_) | Freshness::Expired => return None,
    };
    let opt = if plain.edns.is_some() { edns::BARE } else { 0 };
    let length = head.length() + opt;
    if head.ede().is_some() || length > udp_limit(plain.edns.map(|(size, _)| size)) {
        return None;
    }
    // Each part may write some octets too many, over which the next one goes.
    let records = Header::LENGTH + plain.section_length();
    put_question(out, question, records);
    put_header(out, plain, head);
    if head.form() == RecordLayout::Ipv4 {
        kept.write_fours(plain.type_and_class, age.shown(head.life()), out.get_mut(records..)?);
    } else {
        let TtlView::Cached { age, cap } = age else { return None };
        put_others(out, kept.words(), plain.type_and_class, records, age, cap)?;
    }
    if let Some((_, dnssec_ok)) = plain.edns {
        put_opt(out.get_mut(..length)?, dnssec_ok)?;
    }
    Some(Hit { length: NonZeroU16::new(length as u16)?, due, rcode: head.rcode() })
}

/// Octets of header and question that are copied in any case: most have no more.
const MOST_COPIED: usize = 64;

/// Copies header and question, and maybe some octets more.
#[inline]
fn put_question(out: &mut [u8; RESPONSE_BUF_LEN], question: &[u8; QUERY_BUF_LEN], end: usize) {
    out[..MOST_COPIED].copy_from_slice(&question[..MOST_COPIED]);
    if end > MOST_COPIED
        && let (Some(out), Some(question)) = (out.get_mut(MOST_COPIED..end), question.get(MOST_COPIED..end))
    {
        out.copy_from_slice(question);
    }
}

/// Writes records that are not a set of four octets each. A function of its own, which is given values and reads the answer once
/// more, so that nothing has to be in memory on the usual way.
#[inline(never)]
fn put_others(
    message: &mut [u8; RESPONSE_BUF_LEN],
    words: &[AtomicU64],
    type_and_class: u32,
    place: usize,
    age: u32,
    cap: u32,
) -> Option<()> {
    let kept = EntryRef::read(words)?;
    let Some(written) = kept.written() else {
        let shown = TtlView::Cached { age, cap }.shown(kept.head.life());
        return kept.write_set(type_and_class, shown, message, place);
    };
    written.copy_records(message.get_mut(place..)?)?;
    if !kept.head.has_one_ttl() {
        return show_each_ttl(message, written.ttl_offsets().flatten().take(kept.head.records()), age, cap);
    }
    let mut shown = None;
    for offsets in written.ttl_offsets() {
        let [first, others @ ..] = offsets.map(|offset| usize::from(offset) % (1 << OFFSET));
        let place = message.get_mut(first..)?.first_chunk_mut()?;
        let new = || TtlView::Cached { age, cap }.shown(u32::from_be_bytes(*place)).to_be_bytes();
        let ttl = *shown.get_or_insert_with(new);
        *place = ttl;
        for offset in others {
            *message.get_mut(offset..)?.first_chunk_mut()? = ttl;
        }
    }
    Some(())
}

/// The same where they differ.
fn show_each_ttl(
    message: &mut [u8; RESPONSE_BUF_LEN],
    offsets: impl Iterator<Item = u16>,
    age: u32,
    cap: u32,
) -> Option<()> {
    for offset in offsets {
        let place = message.get_mut(usize::from(offset)..)?.first_chunk_mut()?;
        *place = TtlView::Cached { age, cap }.shown(u32::from_be_bytes(*place)).to_be_bytes();
    }
    Some(())
}

/// The client's number and flags, the counts of the answer: in the place of the header of the question, which is there already.
#[inline]
fn put_header(out: &mut [u8; RESPONSE_BUF_LEN], plain: &FastQuery, head: &EntryHeader) {
    const FLAGS: u32 = 48;
    let ClientFlags { hidden, echoed } = ClientFlags::to(plain.flags, plain.dnssec_ok());
    let front = (head.front() & !(u64::from(hidden) << FLAGS)) | (u64::from(echoed) << FLAGS);
    // No message has room for so many that one more is too much.
    let additional = head.additional().wrapping_add(u16::from(plain.edns.is_some()));
    out[2..10].copy_from_slice(&front.to_be_bytes());
    out[10..Header::LENGTH].copy_from_slice(&additional.to_be_bytes());
}

/// An OPT record at the end of a message (RFC 6891 §6.1.2).
#[inline]
fn put_opt(message: &mut [u8], dnssec_ok: bool) -> Option<()> {
    let [high, low] = UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    *message.last_chunk_mut::<{ edns::BARE }>()? = [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0];
    Some(())
}
