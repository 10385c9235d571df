//! The shortest way of a question: a usual packet whose answer is in memory. The answer is copied to where it will be
//! sent from and patched there; nothing is locked, allocated or parsed twice. Whatever is unusual (another shape of
//! packet, an answer past its time, too long, or with an Extended DNS Error) goes the whole way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;

use super::Resolver;
use crate::answer::{Age, shown_flags, udp_limit};
use crate::cache::{KeyWords, State};
use crate::packet::edns::{self, UDP_SIZE};
use crate::packet::flag;
use crate::packet::plain::Plain;
use crate::snapshot::Snapshot;

/// What is in force and how late it is, looked up once for a number of packets.
#[derive(Debug)]
pub struct Moment {
    snapshot: Guard<Option<Arc<Snapshot>>>,
    now: u64,
    key: KeyWords,
}

impl Moment {
    /// The revision in force.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }
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
        Moment { snapshot: self.snapshot.load(), now: self.cache.clock(Instant::now()), key: KeyWords::default() }
    }

    /// The answer to a packet out of memory; none when it takes more than memory.
    #[must_use]
    #[inline]
    pub fn hit(&self, moment: &mut Moment, packet: &[u8], out: &mut [u8]) -> Option<Hit> {
        let plain = Plain::read(packet)?;
        let snapshot = moment.snapshot.as_deref()?;
        let scope = snapshot.routes.find_in_place(plain.name(), plain.top());
        let (dnssec_ok, cd) = (plain.dnssec_ok(), plain.checking_disabled());
        moment.key.write(scope.id, plain.name(), plain.rtype, plain.class, dnssec_ok, cd);
        let head = self.cache.copy(&mut moment.key, out)?;
        let (age, due) = match head.at(moment.now, &snapshot.policy) {
            State::Fresh(age) => (age, false),
            State::Due(age) => (age, true),
            State::Stale(_) | State::Over => return None,
        };
        let place = head.message();
        let limit = udp_limit(plain.edns.map(|(size, _)| size));
        let opt = if plain.edns.is_some() { edns::BARE } else { 0 };
        if head.ede.is_some() || place.len() + opt > limit || place.end + opt > out.len() {
            return None;
        }
        let (before, message) = out.split_at_mut(place.start);
        let (offsets, _) = before[head.ttls()].as_chunks::<2>();
        // So that the loop need not ask.
        let age @ Age::Kept { .. } = age else { return None };
        for offset in offsets {
            let ttl = message.get_mut(usize::from(u16::from_ne_bytes(*offset))..)?.first_chunk_mut::<4>()?;
            *ttl = age.shown(u32::from_be_bytes(*ttl)).to_be_bytes();
        }
        put_question_and_header(message, &plain)?;
        if let Some((_, dnssec_ok)) = plain.edns {
            put_opt(message, place.len(), dnssec_ok)?;
        }
        scope.hits.get_or_init(|| self.metrics.scope_hits(&scope.name)).count(head.rcode);
        Some(Hit { place: place.start..place.end + opt, due })
    }
}

/// The client's number, flags and case. Its name is as long as the one in the message: both are the same name.
#[inline]
fn put_question_and_header(message: &mut [u8], plain: &Plain<'_>) -> Option<()> {
    let kept = u16::from_be_bytes([*message.get(2)?, *message.get(3)?]);
    let wants_ad = plain.flags & flag::AD != 0 || plain.dnssec_ok();
    let flags = shown_flags(kept, plain.flags & flag::RD != 0, plain.checking_disabled(), wants_ad);
    message[..2].copy_from_slice(&plain.id.to_be_bytes());
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    let section = plain.section();
    message.get_mut(12..12 + section.len())?.copy_from_slice(section);
    Some(())
}

/// An OPT record at the end of a message of this length (RFC 6891 §6.1.2); the message's additional records are one
/// more.
#[inline]
fn put_opt(message: &mut [u8], length: usize, dnssec_ok: bool) -> Option<()> {
    let [high, low] = UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    message.get_mut(length..length + edns::BARE)?.copy_from_slice(&[0, 0, 41, high, low, 0, 0, flags, 0, 0, 0]);
    let additional = message.get_mut(10..12)?.first_chunk_mut::<2>()?;
    *additional = u16::from_be_bytes(*additional).saturating_add(1).to_be_bytes();
    Some(())
}
