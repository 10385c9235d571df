//! The shortest way of a question: a usual packet whose answer is in memory. The answer is copied to where it will be
//! sent from and patched there; nothing is locked, allocated or parsed twice. Whatever is unusual (another shape of
//! packet, an answer past its time, too long, or with an Extended DNS Error) goes the whole way.
//!
//! It has three steps, [`Resolver::seek`], [`Resolver::approach`] and [`Resolver::hit`], each for all packets of a batch: the first
//! two have the processor fetch what the next one reads, and meanwhile work for the other packets.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;

use super::Resolver;
use crate::answer::{Age, shown_flags, udp_limit};
use crate::cache::{Approached, Head, Kept, KeyWords, LastWord, Policy, State};
use crate::packet::edns::{self, UDP_SIZE};
use crate::packet::plain::Plain;
use crate::packet::{Header, flag};
use crate::snapshot::{Scope, Snapshot};

/// The room that an answer takes here: the longest datagram, and some octets more since whole words are copied.
pub const ROOM: usize = UDP_SIZE as usize + 16;

/// What is in force and how late it is, looked up once for a number of packets.
#[derive(Debug)]
pub struct Moment {
    snapshot: Guard<Option<Arc<Snapshot>>>,
    now: u64,
}

impl Moment {
    /// The revision in force.
    #[must_use]
    #[inline]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
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
        Moment { snapshot: self.snapshot.load(), now: self.cache.clock(Instant::now()) }
    }

    /// First step: reads a packet and writes its key. None when it is not of the plain shape.
    #[must_use]
    #[inline]
    pub fn seek<'a>(&'a self, moment: &'a Moment, packet: &[u8], key: &mut KeyWords) -> Option<Sought<'a>> {
        let plain = Plain::read(packet)?;
        let snapshot = moment.snapshot.as_deref()?;
        let name = plain.name(packet);
        let scope = snapshot.routes.find_in_place(name);
        let Plain { rtype, class, .. } = plain;
        let (dnssec_ok, checking_disabled) = (plain.dnssec_ok(), plain.checking_disabled());
        self.cache.prepare(key, scope.id, name, LastWord { rtype, class, dnssec_ok, checking_disabled });
        Some(Sought { plain, scope, approached: Approached::default() })
    }

    /// Second step: finds what may be the answer.
    #[inline]
    pub fn approach<'a>(&'a self, sought: &mut Sought<'a>, key: &KeyWords) {
        sought.approached = self.cache.approach(key);
    }

    /// Third step: the answer out of memory, at the beginning of `out` (whose length the compiler knows, so that it need not be
    /// looked at again and again); none when it takes more than memory.
    #[must_use]
    #[inline]
    pub fn hit(
        &self,
        moment: &Moment,
        sought: &Sought<'_>,
        key: &mut KeyWords,
        packet: &[u8],
        out: &mut [u8; ROOM],
    ) -> Option<Hit> {
        let Sought { plain, scope, approached } = sought;
        let policy = &moment.snapshot.as_deref()?.policy;
        let now = moment.now;
        let first = self.cache.view(key, approached, |kept| Some(answer(kept, policy, now, plain, packet, out)));
        let hit = first.unwrap_or_else(|| self.hit_otherwise(policy, now, sought, key, packet, out))?;
        scope.hits.get_or_init(|| self.metrics.scope_hits(&scope.name)).count(hit.rcode);
        Some(hit)
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
        packet: &[u8],
        out: &mut [u8; ROOM],
    ) -> Option<Hit> {
        self.cache.view_otherwise(key, |kept| Some(answer(kept, policy, now, &sought.plain, packet, out))).flatten()
    }
}

/// Makes the message that is said out of what is kept; none when that takes more.
#[inline(always)]
fn answer(
    kept: Kept<'_>,
    policy: &Policy,
    now: u64,
    plain: &Plain,
    packet: &[u8],
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
    let section = plain.section(packet);
    let (front, records) = out.split_at_mut_checked(Header::LENGTH + section.len())?;
    let (header, question) = front.split_first_chunk_mut()?;
    put_header(header, packet, plain, head);
    question.copy_from_slice(section);
    kept.copy_records(records)?;
    show_ttls(out, &kept, age)?;
    if let Some((_, dnssec_ok)) = plain.edns {
        put_opt(out.get_mut(..length)?, dnssec_ok)?;
    }
    Some(Hit { length, due, rcode: head.rcode })
}

/// Writes the TTLs of a message as its client shall see them.
#[inline]
fn show_ttls(message: &mut [u8; ROOM], kept: &Kept<'_>, age: Age) -> Option<()> {
    // So that the loop need not ask.
    let age @ Age::Kept { .. } = age else { return None };
    let mut left = kept.ttls();
    for mut offsets in kept.ttl_offsets() {
        for _ in 0..left.min(4) {
            let offset = usize::from(offsets as u16);
            let ttl = message.get_mut(offset..)?.first_chunk_mut::<4>()?;
            *ttl = age.shown(u32::from_be_bytes(*ttl)).to_be_bytes();
            offsets >>= 16;
        }
        left = left.saturating_sub(4);
    }
    Some(())
}

/// The client's number and flags, the counts of the answer.
#[inline]
fn put_header(header: &mut [u8; Header::LENGTH], packet: &[u8], plain: &Plain, head: &Head) {
    let id = packet.first_chunk().copied().map_or(0, u16::from_be_bytes);
    let wants_ad = plain.flags & flag::AD != 0 || plain.dnssec_ok();
    let flags = shown_flags(head.flags, plain.flags & flag::RD != 0, plain.checking_disabled(), wants_ad);
    let [answers, authorities, additional] = head.counts;
    let additional = additional.saturating_add(u16::from(plain.edns.is_some()));
    let first = [id, flags, 1, answers].iter().fold(0, |all, part| (all << 16) | u64::from(*part));
    let rest = (u32::from(authorities) << 16) | u32::from(additional);
    let (front, back) = header.split_at_mut(8);
    front.copy_from_slice(&first.to_be_bytes());
    back.copy_from_slice(&rest.to_be_bytes());
}

/// An OPT record at the end of a message (RFC 6891 §6.1.2).
#[inline]
fn put_opt(message: &mut [u8], dnssec_ok: bool) -> Option<()> {
    let [high, low] = UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    *message.last_chunk_mut::<{ edns::BARE }>()? = [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0];
    Some(())
}
