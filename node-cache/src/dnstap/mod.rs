//! A look at the messages themselves, for as long as somebody looks: samples of questions and answers, of clients and to
//! other servers, as a stream of dnstap messages.
//!
//! ```text
//! serve, upstream ──► Tap (is anybody there? is it picked?) ──► a bounded buffer for each reader ──► a socket of the pod
//!                                                                                  `tap` of the program ◄──┘ ──► stdout
//! ```
//!
//! A reader says what it wants in one line and gets Frame Streams. One that does not read loses frames, which are counted;
//! nobody waits for it.

mod client;
mod frames;
mod message;
mod server;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::dns::query::Transport;
use crate::identity::Identity;
pub use client::{TapError, TapSource, copy};
pub use message::{MessageContext, Side};
use message::{Part, TapIdentity};
pub use server::serve;

/// Readers at one time.
const READERS: usize = 4;
/// Octets that wait for one reader. As many may be on their way to it.
const MOST_WAITING: usize = 1 << 20;

/// Which messages a reader wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageFilter {
    /// All of them.
    #[default]
    Both,
    /// Questions.
    Queries,
    /// Answers.
    Responses,
}

/// What a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// One question of so many, picked at random, with its answer; 1 for all, and so does 0.
    pub sample_rate: u32,
    /// Which messages of it.
    pub what: MessageFilter,
}

/// Where samples are taken.
#[derive(Debug, Default)]
pub struct Tap {
    teller: TapIdentity,
    /// A bit for each reader that is there.
    present: AtomicU8,
    /// The same, for those who come and go.
    taken: Mutex<u8>,
    readers: [Reader; READERS],
    told: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Reader {
    sample_rate: AtomicU32,
    what: Mutex<MessageFilter>,
    waiting: Mutex<Vec<u8>>,
    more: Notify,
}

/// A question that was picked for some of the readers, whose answer they want to see too.
#[derive(Clone, Copy, Debug)]
pub struct Sampled {
    asked: MessageContext,
    readers: u8,
}

impl Tap {
    /// A tap of the process with this identity.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let Identity { instance, node, .. } = identity;
        let identity = if node.is_empty() { instance.clone() } else { format!("{node}/{instance}") };
        let teller = TapIdentity { identity, version: concat!("dnstier ", env!("CARGO_PKG_VERSION")) };
        Self { teller, ..Self::default() }
    }

    /// Whether anybody looks. Ask this first, once for as many questions as can be: everything else here costs more.
    #[must_use]
    #[inline]
    pub fn wanted(&self) -> bool {
        self.present.load(Ordering::Relaxed) != 0
    }

    /// Shows a question to the readers for whom it is picked; gives what its answer is shown with.
    #[cold]
    #[must_use]
    pub fn question(&self, asked: MessageContext, query: &[u8]) -> Option<Sampled> {
        let present = self.present.load(Ordering::Acquire);
        let is_picked = |number: &usize| {
            let sample_rate = self.readers[*number].sample_rate.load(Ordering::Relaxed).max(1);
            present & 1 << number != 0 && rand::random::<u32>().is_multiple_of(sample_rate)
        };
        let readers = (0..READERS).filter(is_picked).fold(0, |readers, number| readers | 1 << number);
        let picked = Sampled { asked, readers };
        self.show(&picked, Part::Query, asked.at, query);
        (readers != 0).then_some(picked)
    }

    /// Samples a query that is sent now for the connected readers; returns the handle its response is shown with.
    ///
    /// `None` without a reader, when none of them samples the query, or when an address is unknown. The addresses are
    /// only looked up while a reader is connected.
    pub fn sample_query(
        &self,
        side: Side,
        transport: Transport,
        client: impl FnOnce() -> io::Result<SocketAddr>,
        server: impl FnOnce() -> io::Result<SocketAddr>,
        message: &[u8],
    ) -> Option<Box<Sampled>> {
        if !self.wanted() {
            return None;
        }
        let context = MessageContext { side, transport, asker: client().ok()?, server: server().ok()?, at: now() };
        self.question(context, message).map(Box::new)
    }

    /// Shows the answer, of now, to those who saw its question.
    #[cold]
    pub fn answer(&self, picked: &Sampled, response: &[u8]) {
        self.show(picked, Part::Response, now(), response);
    }

    /// Shows a question that has its answer already.
    #[cold]
    pub fn offer(&self, asked: MessageContext, query: &[u8], response: &[u8]) {
        if let Some(picked) = self.question(asked, query) {
            self.answer(&picked, response);
        }
    }

    /// Frames that readers were given.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Frames for which a reader had no room, because it did not read.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many readers there are.
    #[must_use]
    pub fn readers(&self) -> u32 {
        self.present.load(Ordering::Relaxed).count_ones()
    }

    fn show(&self, picked: &Sampled, part: Part, answered: SystemTime, wire: &[u8]) {
        for (number, reader) in self.readers.iter().enumerate() {
            let what = *locked(&reader.what);
            let wants = matches!(
                (what, part),
                (MessageFilter::Both, _)
                    | (MessageFilter::Queries, Part::Query)
                    | (MessageFilter::Responses, Part::Response)
            );
            if picked.readers & 1 << number == 0 || !wants {
                continue;
            }
            let mut waiting = locked(&reader.waiting);
            if waiting.len() + wire.len() > MOST_WAITING {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            frames::append(&mut waiting, |out| {
                message::append(out, &self.teller, &picked.asked, part, answered, wire);
            });
            self.told.fetch_add(1, Ordering::Relaxed);
            reader.more.notify_one();
        }
    }

    /// Takes a place as reader; none when all are taken.
    fn sit_down(self: &Arc<Self>, wanted: TapOptions) -> Option<ReaderHandle> {
        let mut taken = locked(&self.taken);
        let number = (0..READERS).find(|number| *taken & 1 << number == 0)?;
        let reader = &self.readers[number];
        reader.sample_rate.store(wanted.sample_rate, Ordering::Relaxed);
        *locked(&reader.what) = wanted.what;
        *taken |= 1 << number;
        self.present.fetch_or(1 << number, Ordering::Release);
        Some(ReaderHandle { tap: self.clone(), number })
    }
}

/// The place of a reader, until it is dropped.
#[derive(Debug)]
struct ReaderHandle {
    tap: Arc<Tap>,
    number: usize,
}

impl ReaderHandle {
    /// Waits for frames and takes them.
    async fn frames(&self) -> Vec<u8> {
        let reader = &self.tap.readers[self.number];
        loop {
            let frames = std::mem::take(&mut *locked(&reader.waiting));
            if !frames.is_empty() {
                return frames;
            }
            reader.more.notified().await;
        }
    }
}

impl Drop for ReaderHandle {
    fn drop(&mut self) {
        let mut taken = locked(&self.tap.taken);
        self.tap.present.fetch_and(!(1 << self.number), Ordering::Release);
        *locked(&self.tap.readers[self.number].waiting) = Vec::new();
        *taken &= !(1 << self.number);
    }
}

/// Where the process of this name (`cache-0`, `zone-resolver`, …) lets readers in.
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.tap.sock"))
}

/// The time on the wall, as messages show it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it is shown to people and decides nothing")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
