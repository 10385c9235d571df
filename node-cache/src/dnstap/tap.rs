//! Sampling point of a process, with the buffers of the attached readers.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::frames;
use super::message::{self, Direction, MessageContext, Side, TapIdentity};
use crate::dns::query::Transport;
use crate::identity::Identity;

/// Readers at one time.
pub(super) const MAX_READERS: usize = 4;
/// Bytes that may wait for one reader. As many again may be in the write to its socket.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// Kinds of messages that a reader receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageFilter {
    /// Queries and responses.
    #[default]
    Both,
    /// Queries only.
    Queries,
    /// Responses only.
    Responses,
}

/// Request of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// One of this many queries is sampled at random, and with it its response. 1 samples all of them, and so does 0.
    pub sample_rate: u32,
    /// Which messages of a sampled exchange are sent.
    pub filter: MessageFilter,
}

/// Sampling point of one process, shared by all of its workers.
#[derive(Debug, Default)]
pub struct Tap {
    identity: TapIdentity,
    /// Bit mask of the reader slots that receive samples.
    active: AtomicU8,
    /// Bit mask of the reader slots in use. Taken by readers that attach and detach, never by sampling.
    occupied: Mutex<u8>,
    slots: [ReaderSlot; MAX_READERS],
    frames_written: AtomicU64,
    frames_lost: AtomicU64,
}

#[derive(Debug, Default)]
struct ReaderSlot {
    sample_rate: AtomicU32,
    filter: Mutex<MessageFilter>,
    buffer: Mutex<Vec<u8>>,
    has_frames: Notify,
}

/// A query that at least one reader samples; needed to sample the response to it.
#[derive(Clone, Copy, Debug)]
pub struct Sampled {
    context: MessageContext,
    /// Bit mask of the reader slots that sample the exchange.
    readers: u8,
}

impl Tap {
    /// Creates the tap of the process with this identity. dnstap's `identity` is `node/instance`, or the instance alone
    /// outside a cluster.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let Identity { instance, node, .. } = identity;
        let identity = if node.is_empty() { instance.clone() } else { format!("{node}/{instance}") };
        let identity = TapIdentity { identity, version: concat!("dnstier ", env!("CARGO_PKG_VERSION")) };
        Self { identity, ..Self::default() }
    }

    /// Returns whether any reader is attached: one relaxed load. Callers on the hit path check it once per batch, since
    /// everything else here costs more.
    #[must_use]
    #[inline]
    pub fn has_readers(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    /// Samples a query. Returns what [`Self::sample_response`] needs for the response to it; `None` when no reader
    /// samples the query, or an address is not known.
    ///
    /// `client` is the address that sends the query and `server` the one that it is sent to. Neither is called without
    /// a reader: they may be system calls. `message` is the query in wire form.
    #[must_use]
    #[inline]
    pub fn sample_query(
        &self,
        side: Side,
        transport: Transport,
        client: impl FnOnce() -> io::Result<SocketAddr>,
        server: impl FnOnce() -> io::Result<SocketAddr>,
        message: &[u8],
    ) -> Option<Box<Sampled>> {
        if !self.has_readers() {
            return None;
        }
        let client = client().ok()?;
        let server = server().ok()?;
        let context = MessageContext { side, transport, client, server, query_time: now() };
        self.sample(context, message).map(Box::new)
    }

    /// Writes the response to a sampled query, with the current time, to the readers that sample the query.
    #[cold]
    pub fn sample_response(&self, query: &Sampled, message: &[u8]) {
        self.write(query, Direction::Response, now(), message);
    }

    /// Draws the readers that sample a query and writes it to them.
    #[cold]
    fn sample(&self, context: MessageContext, message: &[u8]) -> Option<Sampled> {
        let active = self.active.load(Ordering::Acquire);
        let is_drawn = |slot: &usize| {
            let sample_rate = self.slots[*slot].sample_rate.load(Ordering::Relaxed).max(1);
            active & 1 << slot != 0 && rand::random::<u32>().is_multiple_of(sample_rate)
        };
        let readers = (0..MAX_READERS).filter(is_drawn).fold(0, |readers, slot| readers | 1 << slot);
        let sampled = Sampled { context, readers };
        self.write(&sampled, Direction::Query, context.query_time, message);
        (readers != 0).then_some(sampled)
    }

    /// Returns the number of frames that were buffered for readers.
    #[must_use]
    pub fn frames_written(&self) -> u64 {
        self.frames_written.load(Ordering::Relaxed)
    }

    /// Returns the number of frames that were dropped because the buffer of a slow reader was full.
    #[must_use]
    pub fn frames_lost(&self) -> u64 {
        self.frames_lost.load(Ordering::Relaxed)
    }

    /// Returns the number of attached readers.
    #[must_use]
    pub fn reader_count(&self) -> u32 {
        self.active.load(Ordering::Relaxed).count_ones()
    }

    fn write(&self, sampled: &Sampled, direction: Direction, response_time: SystemTime, wire: &[u8]) {
        for (slot, reader) in self.slots.iter().enumerate() {
            let filter = *lock(&reader.filter);
            let passes_filter = matches!(
                (filter, direction),
                (MessageFilter::Both, _)
                    | (MessageFilter::Queries, Direction::Query)
                    | (MessageFilter::Responses, Direction::Response)
            );
            if sampled.readers & 1 << slot == 0 || !passes_filter {
                continue;
            }
            let mut buffer = lock(&reader.buffer);
            if buffer.len() + wire.len() > MAX_BUFFERED_BYTES {
                self.frames_lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            frames::append(&mut buffer, |out| {
                message::append(out, &self.identity, &sampled.context, direction, response_time, wire);
            });
            self.frames_written.fetch_add(1, Ordering::Relaxed);
            reader.has_frames.notify_one();
        }
    }

    /// Attaches a reader; `None` when all slots are occupied.
    pub(super) fn attach(self: &Arc<Self>, options: TapOptions) -> Option<ReaderHandle> {
        let mut occupied = lock(&self.occupied);
        let slot = (0..MAX_READERS).find(|slot| *occupied & 1 << slot == 0)?;
        let reader = &self.slots[slot];
        reader.sample_rate.store(options.sample_rate, Ordering::Relaxed);
        *lock(&reader.filter) = options.filter;
        *occupied |= 1 << slot;
        self.active.fetch_or(1 << slot, Ordering::Release);
        Some(ReaderHandle { tap: self.clone(), slot })
    }
}

/// An attached reader. Dropping it detaches the reader and frees its slot.
#[derive(Debug)]
pub(super) struct ReaderHandle {
    tap: Arc<Tap>,
    slot: usize,
}

impl ReaderHandle {
    /// Waits until frames are buffered and takes all of them.
    pub(super) async fn next_frames(&self) -> Vec<u8> {
        let reader = &self.tap.slots[self.slot];
        loop {
            let frames = std::mem::take(&mut *lock(&reader.buffer));
            if !frames.is_empty() {
                return frames;
            }
            reader.has_frames.notified().await;
        }
    }
}

impl Drop for ReaderHandle {
    fn drop(&mut self) {
        let mut occupied = lock(&self.tap.occupied);
        self.tap.active.fetch_and(!(1 << self.slot), Ordering::Release);
        *lock(&self.tap.slots[self.slot].buffer) = Vec::new();
        *occupied &= !(1 << self.slot);
    }
}

/// Returns the wall-clock time that messages carry.
#[expect(clippy::disallowed_methods, reason = "it is shown to people and decides nothing")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Samples a query of a client and, if a reader samples it, the response.
    fn sample_exchange(tap: &Tap, query: &[u8], response: &[u8]) -> Option<Box<Sampled>> {
        let client = || Ok("192.0.2.1:4000".parse().unwrap());
        let server = || Ok("192.0.2.2:53".parse().unwrap());
        let sampled = tap.sample_query(Side::Client, Transport::Udp, client, server, query);
        if let Some(sampled) = &sampled {
            tap.sample_response(sampled, response);
        }
        sampled
    }

    const ALL_MESSAGES: TapOptions = TapOptions { sample_rate: 1, filter: MessageFilter::Both };

    #[test]
    fn without_readers_a_query_costs_one_check_for_readers() {
        let tap = Arc::new(Tap::default());
        assert!(!tap.has_readers());
        assert!(sample_exchange(&tap, b"query", b"response").is_none());
        let unreachable = || unreachable!("no address is looked up");
        assert!(tap.sample_query(Side::Client, Transport::Udp, unreachable, unreachable, b"query").is_none());
        assert_eq!((tap.frames_written(), tap.frames_lost()), (0, 0));
        let reader = tap.attach(ALL_MESSAGES).unwrap();
        assert!(tap.has_readers());
        drop(reader);
        assert!(!tap.has_readers());
    }

    #[test]
    fn readers_are_bounded_and_a_detached_one_frees_its_slot() {
        let tap = Arc::new(Tap::default());
        let mut readers: Vec<ReaderHandle> = (0..MAX_READERS).map(|_| tap.attach(ALL_MESSAGES).unwrap()).collect();
        assert!(tap.attach(ALL_MESSAGES).is_none());
        readers.remove(1);
        assert!(tap.attach(ALL_MESSAGES).is_some());
    }

    #[tokio::test]
    async fn a_reader_gets_responses_to_the_queries_it_samples_and_only_what_it_filters() {
        let tap = Arc::new(Tap::default());
        let both = tap.attach(TapOptions { sample_rate: 4, filter: MessageFilter::Both }).unwrap();
        let responses_only = tap.attach(TapOptions { sample_rate: 1, filter: MessageFilter::Responses }).unwrap();
        for _ in 0..400 {
            sample_exchange(&tap, b"query", b"response");
        }
        let count = async |reader: &ReaderHandle| {
            let frames = reader.next_frames().await;
            let mut stream = &frames[..];
            let mut queries = 0;
            let mut responses = 0;
            while let Some(frames::Frame::Data(frame)) = frames::read(&mut stream).await.unwrap() {
                queries += u32::from(frame.windows(5).any(|part| part == b"query"));
                responses += u32::from(frame.windows(8).any(|part| part == b"response"));
            }
            (queries, responses)
        };
        let (queries, responses) = count(&both).await;
        // 400 × 1/4 is 100 with a standard deviation of 8.7; this is ten of them.
        assert!(queries == responses && (14..=186).contains(&queries), "{queries} and {responses}");
        assert_eq!(count(&responses_only).await, (0, 400));
    }

    #[tokio::test]
    async fn the_buffer_of_a_slow_reader_is_bounded_and_lost_frames_are_counted() {
        let tap = Arc::new(Tap::default());
        let reader = tap.attach(ALL_MESSAGES).unwrap();
        let message = [0; 4096];
        for _ in 0..1000 {
            sample_exchange(&tap, &message, &message);
        }
        let buffered = lock(&tap.slots[reader.slot].buffer).capacity();
        assert!(buffered <= 2 * MAX_BUFFERED_BYTES, "{buffered}");
        assert_eq!(tap.frames_written() + tap.frames_lost(), 2000);
        assert!(tap.frames_lost() > 1000, "{}", tap.frames_lost());
        let frames = tokio::time::timeout(Duration::from_secs(5), reader.next_frames()).await.unwrap();
        assert!(frames.len() <= MAX_BUFFERED_BYTES + 256);
        sample_exchange(&tap, &message, &message);
        assert_eq!(tap.frames_written() + tap.frames_lost(), 2002);
        assert!(!lock(&tap.slots[reader.slot].buffer).is_empty(), "there is room again");
    }
}
