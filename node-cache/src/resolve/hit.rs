//! The shortest way of a question: a usual packet whose answer is in memory. The answer is copied to where it will be
//! sent from and patched there; nothing is locked, allocated or parsed twice. Whatever is unusual (another shape of
//! packet, an answer past its time, too long, or with an Extended DNS Error) goes the whole way.
//!
//! It has three steps, [`Resolver::seek`], [`Resolver::approach`] and [`Resolver::hit`], each for all packets of a batch: the first
//! two have the processor fetch what the next one reads, and meanwhile work for the other packets.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;

use super::Resolver;
use crate::answer::{Age, shown_flags, udp_limit};
use crate::cache::{Approached, Head, KeyWords, LastWord, State};
use crate::packet::edns::{self, UDP_SIZE};
use crate::packet::plain::Plain;
use crate::packet::{Header, flag, name};
use crate::snapshot::{Scope, Snapshot};

/// Octets before the copy of an entry, a number of whole words: header and question of the message end where its records
/// begin, and may be longer than what the entry has before them.
const FRONT: usize = (Header::LENGTH + name::LONGEST + 4).next_multiple_of(8);

/// Offsets of TTLs that are looked at together.
const OFFSETS: usize = 8;

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
    /// Where it lies in the room that it was given.
    pub place: Range<usize>,
    /// Whether its time is nearly over, so that [`Resolver::refresh`] should be called for its question.
    pub due: bool,
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

    /// Third step: the answer out of memory; none when it takes more than memory.
    #[must_use]
    #[inline]
    pub fn hit(
        &self,
        moment: &Moment,
        sought: &Sought<'_>,
        key: &mut KeyWords,
        packet: &[u8],
        out: &mut [u8],
    ) -> Option<Hit> {
        let Sought { plain, scope, approached } = sought;
        let policy = &moment.snapshot.as_deref()?.policy;
        let entry = out.get_mut(FRONT..)?;
        let head = self.cache.copy(key, approached, entry)?;
        let (age, due) = match head.at(moment.now, policy) {
            State::Fresh(age) => (age, false),
            State::Due(age) => (age, true),
            State::Stale(_) | State::Over => return None,
        };
        let section = plain.section(packet);
        let start = (FRONT + head.records()).checked_sub(Header::LENGTH + section.len())?;
        let opt = if plain.edns.is_some() { edns::BARE } else { 0 };
        let length = head.length() + opt;
        if head.ede.is_some() || length > udp_limit(plain.edns.map(|(size, _)| size)) {
            return None;
        }
        // Ahead of what they are written over: header and question.
        show_ttls(out, start, &head, age)?;
        let message = out.get_mut(start..start + length)?;
        put_header(message, packet, plain, &head)?;
        message.get_mut(Header::LENGTH..)?.get_mut(..section.len())?.copy_from_slice(section);
        if let Some((_, dnssec_ok)) = plain.edns {
            put_opt(message, dnssec_ok)?;
        }
        scope.hits.get_or_init(|| self.metrics.scope_hits(&scope.name)).count(head.rcode);
        Some(Hit { place: start..start + length, due })
    }
}

/// Writes the TTLs of the message that begins at `start` as its client shall see them.
#[inline]
fn show_ttls(out: &mut [u8], start: usize, head: &Head, age: Age) -> Option<()> {
    // So that the loop need not ask.
    let age @ Age::Kept { .. } = age else { return None };
    let place = head.ttls();
    let (mut at, mut left) = (FRONT + place.start, place.len() / 2);
    while left > 0 {
        // Copied, because they may lie where the message begins.
        let some: [u8; 2 * OFFSETS] = *out.get(at..)?.first_chunk()?;
        for offset in some.as_chunks::<2>().0.iter().take(left) {
            let offset = start + usize::from(u16::from_le_bytes(*offset));
            let ttl = out.get_mut(offset..)?.first_chunk_mut::<4>()?;
            *ttl = age.shown(u32::from_be_bytes(*ttl)).to_be_bytes();
        }
        at += 2 * OFFSETS;
        left = left.saturating_sub(OFFSETS);
    }
    Some(())
}

/// The client's number and flags, the counts of the answer.
#[inline]
fn put_header(message: &mut [u8], packet: &[u8], plain: &Plain, head: &Head) -> Option<()> {
    let [id_high, id_low] = *packet.first_chunk()?;
    let wants_ad = plain.flags & flag::AD != 0 || plain.dnssec_ok();
    let flags = shown_flags(head.flags, plain.flags & flag::RD != 0, plain.checking_disabled(), wants_ad);
    let [answers, authorities, additional] = head.counts;
    let additional = additional.saturating_add(u16::from(plain.edns.is_some()));
    let [flags, answers] = [flags, answers].map(u16::to_be_bytes);
    let [authorities, additional] = [authorities, additional].map(u16::to_be_bytes);
    *message.first_chunk_mut()? = [
        id_high,
        id_low,
        flags[0],
        flags[1],
        0,
        1,
        answers[0],
        answers[1],
        authorities[0],
        authorities[1],
        additional[0],
        additional[1],
    ];
    Some(())
}

/// An OPT record at the end of a message (RFC 6891 §6.1.2).
#[inline]
fn put_opt(message: &mut [u8], dnssec_ok: bool) -> Option<()> {
    let [high, low] = UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    *message.last_chunk_mut::<{ edns::BARE }>()? = [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0];
    Some(())
}
