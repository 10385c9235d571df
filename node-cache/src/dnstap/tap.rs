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
mod tests;
