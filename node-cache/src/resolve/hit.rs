//! The shortest way of a question: a usual packet whose answer is in memory. The answer is copied to where it will be
//! sent from and patched there; nothing is locked, allocated or parsed twice. Whatever is unusual (another shape of
//! packet, an answer past its time, too long, or with an Extended DNS Error) goes the whole way.
//!
//! It has four steps, [`Resolver::seek`], [`Resolver::approach`], [`Resolver::recognise`] and [`Resolver::hit`], each for all packets
//! of a batch: the first two have the processor fetch what the next one reads, and meanwhile work for the other packets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;

use super::Resolver;
use crate::answer::{Age, shown_flags, udp_limit};
use crate::cache::{Approached, Head, Kept, KeyWords, LastWord, Policy, State};
use crate::metrics::ScopeHits;
use crate::packet::edns::{self, UDP_SIZE};
use crate::packet::plain::Plain;
use crate::packet::{Header, flag};
use crate::snapshot::{Scope, Snapshot};

/// The room of a packet: longer ones are cut off and so malformed. A name, a type and some options fit well.
pub const QUESTION_ROOM: usize = 1232;
/// The room that an answer takes here: the longest datagram, and some octets more since whole words are copied.
pub const ROOM: usize = UDP_SIZE as usize + 16;

/// What is in force and how late it is, looked up once for a number of packets.
#[derive(Debug)]
pub struct Moment {
    snapshot: Guard<Option<Arc<Snapshot>>>,
    began: Instant,
    now: u64,
}

impl Moment {
    /// The revision in force.
    #[must_use]
    #[inline]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// How long ago it was.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A question of the plain shape on its way to its answer.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    plain: Plain,
    scope: &'a Scope,
    approached: Approached<'a>,
}

/// An answer out of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its octets, at the beginning of the room that it was given.
    pub length: usize,
    /// Whether its time is nearly over, so that [`Resolver::refresh`] should be called for its question.
    pub due: bool,
    /// What it says: NOERROR or NXDOMAIN.
    pub rcode: u16,
}

impl Resolver {
    /// Begins a number of packets.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let began = Instant::now();
        Moment { snapshot: self.snapshot.load(), began, now: self.cache.clock(began) }
    }

    /// First step: reads a packet, of which so many octets of a room were read, and writes its key. None when it is not of the
    /// plain shape.
    #[must_use]
    #[inline]
    pub fn seek<'a>(
        &'a self,
        moment: &'a Moment,
        room: &[u8; QUESTION_ROOM],
        length: usize,
        key: &mut KeyWords,
    ) -> Option<Sought<'a>> {
        let plain = Plain::read(room.get(..length)?)?;
        let snapshot = moment.snapshot.as_deref()?;
        let scope = snapshot.routes.find_in_place(plain.name(room));
        let Plain { rtype, class, .. } = plain;
        let (dnssec_ok, checking_disabled) = (plain.dnssec_ok(), plain.checking_disabled());
        let name = room.get(Header::LENGTH..)?.first_chunk()?;
        let last = LastWord { rtype, class, dnssec_ok, checking_disabled };
        self.cache.prepare(key, scope.id, name, plain.name_length(), last);
        Some(Sought { plain, scope, approached: Approached::default() })
    }

    /// Second step: finds what may be the answer.
    #[inline]
    pub fn approach<'a>(&'a self, sought: &mut Sought<'a>, key: &KeyWords) {
        sought.approached = self.cache.approach(key);
    }

    /// Third step: sees whether it is.
    #[inline]
    pub fn recognise<'a>(&'a self, sought: &mut Sought<'a>, key: &KeyWords) {
        self.cache.recognise(key, &mut sought.approached);
    }

    /// Last step: the answer out of memory, at the beginning of `out`; none when it takes more than memory. `question` is
    /// the room of the packet.
    #[must_use]
    #[inline]
    pub fn hit(
        &self,
        moment: &Moment,
        sought: &Sought<'_>,
        key: &mut KeyWords,
        question: &[u8; QUESTION_ROOM],
        out: &mut [u8; ROOM],
    ) -> Option<Hit> {
        let Sought { plain, approached, .. } = sought;
        let policy = &moment.snapshot.as_deref()?.policy;
        let now = moment.now;
        let first = self.cache.view(approached, |kept| Some(answer(kept, policy, now, plain, question, out)));
        first.unwrap_or_else(|| self.hit_otherwise(policy, now, sought, key, question, out))
    }

    /// Where a hit of this question is counted.
    #[must_use]
    #[inline]
    pub fn hits_in<'a>(&self, sought: &Sought<'a>) -> &'a ScopeHits {
        let scope = sought.scope;
        scope.hits.get_or_init(|| self.metrics.scope_hits(&scope.name))
    }

    /// What is there when the first that looked like the answer is not it: one behind it, or one of any type.
    #[cold]
    #[inline(never)]
    fn hit_otherwise(
        &self,
        policy: &Policy,
        now: u64,
        sought: &Sought<'_>,
        key: &mut KeyWords,
        question: &[u8; QUESTION_ROOM],
        out: &mut [u8; ROOM],
    ) -> Option<Hit> {
        self.cache.view_otherwise(key, |kept| Some(answer(kept, policy, now, &sought.plain, question, out))).flatten()
    }
}

/// Makes the message that is said out of what is kept; none when that takes more.
#[inline(always)]
fn answer(
    kept: Kept<'_>,
    policy: &Policy,
    now: u64,
    plain: &Plain,
    question: &[u8; QUESTION_ROOM],
    out: &mut [u8; ROOM],
) -> Option<Hit> {
    let head = &kept.head;
    let (age, due) = match head.at(now, policy) {
        State::Fresh(age) => (age, false),
        State::Due(age) => (age, true),
        State::Stale(_) | State::Over => return None,
    };
    let opt = if plain.edns.is_some() { edns::BARE } else { 0 };
    let length = head.length() + opt;
    if head.ede.is_some() || length > udp_limit(plain.edns.map(|(size, _)| size)) {
        return None;
    }
    // Each part may write some octets too many, over which the next one goes.
    let records = Header::LENGTH + plain.section_length();
    put_question(out, question, records);
    put_header(out, question, plain, head);
    kept.copy_records(out.get_mut(records..)?)?;
    show_ttls(out, &kept, age)?;
    if let Some((_, dnssec_ok)) = plain.edns {
        put_opt(out.get_mut(..length)?, dnssec_ok)?;
    }
    Some(Hit { length, due, rcode: head.rcode })
}

/// Copies header and question, a number of octets at a time.
#[inline]
fn put_question(out: &mut [u8; ROOM], question: &[u8; QUESTION_ROOM], end: usize) {
    let (to, from) = (out.as_chunks_mut::<16>().0, question.as_chunks::<16>().0);
    for (to, from) in to.iter_mut().zip(from).take(end.div_ceil(16)) {
        *to = *from;
    }
}

/// Writes the TTLs of a message as its client shall see them.
#[inline]
fn show_ttls(message: &mut [u8; ROOM], kept: &Kept<'_>, age: Age) -> Option<()> {
    // So that the loop need not ask.
    let age @ Age::Kept { .. } = age else { return None };
    let mut left = kept.ttls();
    let mut one = None;
    for mut offsets in kept.ttl_offsets() {
        for _ in 0..left.min(4) {
            let ttl = message.get_mut(usize::from(offsets as u16)..)?.first_chunk_mut::<4>()?;
            let shown = match one {
                Some(shown) => shown,
                None => age.shown(u32::from_be_bytes(*ttl)).to_be_bytes(),
            };
            *ttl = shown;
            one = kept.head.one_ttl.then_some(shown);
            offsets >>= 16;
        }
        left = left.saturating_sub(4);
    }
    Some(())
}

/// The client's number and flags, the counts of the answer: in the place of the header of the question.
#[inline]
fn put_header(out: &mut [u8; ROOM], question: &[u8; QUESTION_ROOM], plain: &Plain, head: &Head) {
    const FLAGS: u32 = 48;
    let wants_ad = plain.flags & flag::AD != 0 || plain.dnssec_ok();
    let kept = (head.front >> FLAGS) as u16;
    let flags = shown_flags(kept, plain.flags & flag::RD != 0, plain.checking_disabled(), wants_ad);
    let front = (head.front & !(0xffff << FLAGS)) | (u64::from(flags) << FLAGS);
    let additional = head.additional.saturating_add(u16::from(plain.edns.is_some()));
    let header = &mut out[..Header::LENGTH];
    header[..2].copy_from_slice(&question[..2]);
    header[2..10].copy_from_slice(&front.to_be_bytes());
    header[10..].copy_from_slice(&additional.to_be_bytes());
}

/// An OPT record at the end of a message (RFC 6891 §6.1.2).
#[inline]
fn put_opt(message: &mut [u8], dnssec_ok: bool) -> Option<()> {
    let [high, low] = UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    *message.last_chunk_mut::<{ edns::BARE }>()? = [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0];
    Some(())
}
