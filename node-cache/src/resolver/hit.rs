//! Fast path of a cache hit: a common query over UDP whose fresh answer is in the cache. The answer is copied to the
//! buffer from which it is sent, and patched there; nothing is locked, allocated or parsed twice. Everything else (a
//! query of another shape, a stale or too long answer, an Extended DNS Error) takes the slow path,
//! [`Resolver::resolve_from_cache`].
//!
//! The fast path has five steps, [`FastLookup::parse`], [`KeyHasher::hash`], [`Resolver::prefetch_entry`],
//! [`Resolver::match_key`] and [`Resolver::hit`], each for all queries of a batch. Two of them let the processor
//! prefetch what the next step reads, while it works on the other queries. The state of each step fits the processor's
//! registers.

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
use crate::dns::edns::{self, ADVERTISED_UDP_SIZE};
use crate::dns::fast_query::{FastEdns, FastQuery};
use crate::metrics::ScopeCounters;
use crate::snapshot::{Scope, Snapshot};

/// Length of a query buffer, in bytes. A longer query is cut off and so malformed; a name, a type and some options
/// fit.
pub const QUERY_BUF_LEN: usize = 1232;
/// Length of a response buffer, in bytes. Responses have [`ADVERTISED_UDP_SIZE`] bytes at most. The buffer is longer, so that
/// any number of `TTL_OFFSET_BITS` bits, taken for the offset of a TTL, lies inside it.
pub const RESPONSE_BUF_LEN: usize = (1 << TTL_OFFSET_BITS) + 16;
/// Bits of the offset of a TTL in a response.
const TTL_OFFSET_BITS: u32 = 11;

const _: () = assert!(ADVERTISED_UDP_SIZE as usize <= 1 << TTL_OFFSET_BITS);

/// Snapshot and time shared by all queries of one batch.
#[derive(Debug)]
pub struct BatchContext {
    snapshot: Guard<Option<Arc<Snapshot>>>,
    /// Start of the batch, in [`nanoseconds`].
    started: u64,
    /// Start of the batch, in ticks of the cache.
    now: u64,
    /// Generation of upstream queries before the batch's cache lookups.
    generation: u64,
}

impl BatchContext {
    /// Returns the snapshot of the active revision.
    #[must_use]
    #[inline]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// Returns the proof that the cache has no entry for a query of this batch.
    #[must_use]
    #[inline]
    pub const fn known_miss(&self) -> KnownMiss {
        KnownMiss { generation: self.generation }
    }

    /// Returns the time since the start of the batch, in nanoseconds.
    #[must_use]
    #[inline]
    pub fn elapsed_nanoseconds(&self) -> u64 {
        nanoseconds().saturating_sub(self.started)
    }
}

/// Proof that the cache had no entry for a query. Upstream queries that have completed since may have stored one.
#[derive(Clone, Copy, Debug)]
pub struct KnownMiss {
    /// Generation of upstream queries before the lookup.
    pub(super) generation: u64,
}

/// Cache lookup of one common query, on the fast path.
#[derive(Clone, Copy, Debug)]
pub struct FastLookup<'a> {
    query: FastQuery,
    scope: &'a Scope,
    probe: CacheProbe<'a>,
}

impl<'a> FastLookup<'a> {
    /// First step: parses a query, which has the first `length` bytes of the buffer. Returns `None` for a query that
    /// takes the slow path.
    #[must_use]
    #[inline]
    pub fn parse(snapshot: &'a Snapshot, buf: &[u8; QUERY_BUF_LEN], length: usize) -> Option<Self> {
        let query = FastQuery::read(buf.get(..length)?)?;
        let scope = snapshot.routes.find_in_place(query.name(buf));
        Some(Self { query, scope, probe: CacheProbe::default() })
    }
}

/// Second step: writes and hashes the keys of queries, and prefetches where they are in the cache's index.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher<'a>(Prefetcher<'a>);

impl KeyHasher<'_> {
    /// Writes and hashes the key of a query. `buf` is the one that the query was parsed from.
    #[inline]
    pub fn hash(&self, lookup: &FastLookup<'_>, buf: &[u8; QUERY_BUF_LEN], key: &mut KeyBuf) {
        let FastLookup { query, scope, .. } = lookup;
        let dnssec_ok = query.dnssec_ok();
        let checking_disabled = query.checking_disabled();
        let suffix = KeySuffix { type_and_class: query.type_and_class, dnssec_ok, checking_disabled };
        let Some(name) = buf.get(Header::LENGTH..).and_then(<[u8]>::first_chunk) else { return };
        self.0.hash_and_prefetch(key, scope.id, name, query.name_length, suffix);
    }
}

/// Response to a cache hit, in its response buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Bytes of the response, from the start of its buffer.
    pub length: NonZeroU16,
    /// Whether the answer is in the last tenth of its TTL: call [`Resolver::refresh`] with the query (prefetch).
    pub refresh_due: bool,
    /// NOERROR or NXDOMAIN.
    pub rcode: u16,
}

impl Resolver {
    /// Starts a batch of queries.
    #[must_use]
    pub fn batch_context(&self) -> BatchContext {
        let started = nanoseconds();
        let generation = self.in_flight.generation();
        let now = Cache::ticks_from_micros(started.saturating_sub(self.clock_start) / 1000);
        BatchContext { snapshot: self.snapshot.load(), started, now, generation }
    }

    /// Returns the second step, for all queries of a batch.
    #[must_use]
    #[inline]
    pub fn key_hasher(&self) -> KeyHasher<'_> {
        KeyHasher(self.cache.prefetcher())
    }

    /// Third step: finds the cache entry that may have this key, and prefetches it.
    #[inline]
    pub fn prefetch_entry<'a>(&'a self, lookup: &mut FastLookup<'a>, key: &KeyBuf) {
        self.cache.prefetch_entry(key, &mut lookup.probe);
    }

    /// Fourth step: compares the key of that entry.
    #[inline]
    pub fn match_key<'a>(&'a self, lookup: &mut FastLookup<'a>, key: &KeyBuf) {
        self.cache.match_key(key, &mut lookup.probe);
    }

    /// Last step: writes the response from the cache to the start of `response`. Returns `None` for a query that takes
    /// the slow path; its key is cleared when the cache has no entry for it.
    ///
    /// A function of its own, which leaves it all of the processor's registers.
    #[must_use]
    #[inline(never)]
    pub fn hit(
        &self,
        context: &BatchContext,
        lookup: &FastLookup<'_>,
        key: &mut KeyBuf,
        query_buf: &[u8; QUERY_BUF_LEN],
        response: &mut [u8; RESPONSE_BUF_LEN],
    ) -> Option<Hit> {
        let FastLookup { query, probe, .. } = lookup;
        let policy = &context.snapshot.as_deref()?.policy;
        let now = context.now;
        let first =
            self.cache.view(probe, |entry| Some(write_response(entry, policy, now, query, query_buf, response)));
        first.unwrap_or_else(|| self.hit_fallback(policy, now, lookup, key, query_buf, response))
    }

    /// Returns the counters for a hit of this lookup.
    #[must_use]
    #[inline]
    pub fn hit_counters<'a>(&self, lookup: &FastLookup<'a>) -> &'a ScopeCounters {
        self.scope_counters(lookup.scope)
    }

    /// Last step when the first entry with this hash has another key: looks for a later one, and for one of any type
    /// (NXDOMAIN).
    #[cold]
    #[inline(never)]
    fn hit_fallback(
        &self,
        policy: &Policy,
        now: u64,
        lookup: &FastLookup<'_>,
        key: &mut KeyBuf,
        query_buf: &[u8; QUERY_BUF_LEN],
        response: &mut [u8; RESPONSE_BUF_LEN],
    ) -> Option<Hit> {
        let mut is_cached = false;
        let hit = self.cache.view_fallback(key, |entry| {
            is_cached = true;
            Some(write_response(entry, policy, now, &lookup.query, query_buf, response))
        });
        if !is_cached {
            key.clear();
        }
        hit.flatten()
    }
}

/// Writes the response from a cache entry; `None` when that takes the slow path.
#[inline(always)]
fn write_response(
    entry: EntryRef<'_>,
    policy: &Policy,
    now: u64,
    query: &FastQuery,
    query_buf: &[u8; QUERY_BUF_LEN],
    response: &mut [u8; RESPONSE_BUF_LEN],
) -> Option<Hit> {
    let head = &entry.header;
    let (ttls, refresh_due) = match head.freshness(now, policy) {
        Freshness::Fresh(ttls) => (ttls, false),
        Freshness::RefreshDue(ttls) => (ttls, true),
        Freshness::Stale(_) | Freshness::Expired => return None,
    };
    let opt = if query.edns.is_some() { edns::OPT_LEN } else { 0 };
    let length = head.message_len() + opt;
    if head.ede().is_some() || length > udp_limit(query.edns.map(|edns| edns.udp_size)) {
        return None;
    }
    // Each part may write some bytes too many, which the next part overwrites.
    let records = Header::LENGTH + query.section_length();
    copy_question(response, query_buf, records);
    write_header(response, query, head);
    if head.layout() == RecordLayout::Ipv4 {
        entry.write_ipv4(query.type_and_class, ttls.apply(head.ttl()), response.get_mut(records..)?);
    } else {
        let TtlView::Cached { age, cap } = ttls else { return None };
        write_records(response, entry.words(), query.type_and_class, records, age, cap)?;
    }
    if let Some(FastEdns { dnssec_ok, .. }) = query.edns {
        write_opt(response.get_mut(..length)?, dnssec_ok)?;
    }
    Some(Hit { length: NonZeroU16::new(length as u16)?, refresh_due, rcode: head.rcode() })
}

/// Bytes of header and question that are copied in any case: most queries have no more.
const MIN_COPY_LEN: usize = 64;

/// Copies header and question, which have `end` bytes, and maybe some bytes more.
#[inline]
fn copy_question(response: &mut [u8; RESPONSE_BUF_LEN], query_buf: &[u8; QUERY_BUF_LEN], end: usize) {
    response[..MIN_COPY_LEN].copy_from_slice(&query_buf[..MIN_COPY_LEN]);
    if end > MIN_COPY_LEN
        && let (Some(to), Some(from)) = (response.get_mut(MIN_COPY_LEN..end), query_buf.get(MIN_COPY_LEN..end))
    {
        to.copy_from_slice(from);
    }
}

/// Writes the records of an entry in any layout but [`RecordLayout::Ipv4`], from `offset` on.
///
/// A function of its own, which takes values and reads the entry once more, so that the common layout keeps everything
/// in registers.
#[inline(never)]
fn write_records(
    response: &mut [u8; RESPONSE_BUF_LEN],
    words: &[AtomicU64],
    type_and_class: u32,
    offset: usize,
    age: u32,
    cap: u32,
) -> Option<()> {
    let entry = EntryRef::read(words)?;
    let Some(raw) = entry.raw_records() else {
        let ttl = TtlView::Cached { age, cap }.apply(entry.header.ttl());
        return entry.write_uniform(type_and_class, ttl, response, offset);
    };
    raw.copy_records(response.get_mut(offset..)?)?;
    if !entry.header.has_uniform_ttl() {
        return patch_ttls(response, raw.ttl_offsets().flatten().take(entry.header.record_count()), age, cap);
    }
    let mut shown = None;
    for offsets in raw.ttl_offsets() {
        let [first, others @ ..] = offsets.map(|offset| usize::from(offset) % (1 << TTL_OFFSET_BITS));
        let field = response.get_mut(first..)?.first_chunk_mut()?;
        let new = || TtlView::Cached { age, cap }.apply(u32::from_be_bytes(*field)).to_be_bytes();
        let ttl = *shown.get_or_insert_with(new);
        *field = ttl;
        for offset in others {
            *response.get_mut(offset..)?.first_chunk_mut()? = ttl;
        }
    }
    Some(())
}

/// Patches the TTLs of records that do not all have the same one.
fn patch_ttls(
    response: &mut [u8; RESPONSE_BUF_LEN],
    offsets: impl Iterator<Item = u16>,
    age: u32,
    cap: u32,
) -> Option<()> {
    for offset in offsets {
        let field = response.get_mut(usize::from(offset)..)?.first_chunk_mut()?;
        *field = TtlView::Cached { age, cap }.apply(u32::from_be_bytes(*field)).to_be_bytes();
    }
    Some(())
}

/// Writes flags and counts over those of the query's header, whose ID stays.
#[inline]
fn write_header(response: &mut [u8; RESPONSE_BUF_LEN], query: &FastQuery, head: &EntryHeader) {
    const FLAGS_SHIFT: u32 = 48;
    let ClientFlags { cleared, echoed } = ClientFlags::new(query.flags, query.dnssec_ok());
    let flags_and_counts =
        (head.flags_and_counts() & !(u64::from(cleared) << FLAGS_SHIFT)) | (u64::from(echoed) << FLAGS_SHIFT);
    // No message has so many records that one more wraps.
    let additional = head.additional_count().wrapping_add(u16::from(query.edns.is_some()));
    response[2..10].copy_from_slice(&flags_and_counts.to_be_bytes());
    response[10..Header::LENGTH].copy_from_slice(&additional.to_be_bytes());
}

/// Writes an OPT record to the end of a message (RFC 6891 §6.1.2).
#[inline]
fn write_opt(message: &mut [u8], dnssec_ok: bool) -> Option<()> {
    let [high, low] = ADVERTISED_UDP_SIZE.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    *message.last_chunk_mut::<{ edns::OPT_LEN }>()? = [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0];
    Some(())
}
