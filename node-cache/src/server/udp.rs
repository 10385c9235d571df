//! Datagrams.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_sys::datagrams::Family;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::batch::{Batch, Room, SIZE};
use super::query_tasks;
use super::{Shared, allow};
use crate::cache::KeyBuf;
use crate::dns::answer::ReplyTransport;
use crate::dns::query::Transport;
use crate::dns::request::{self, Rejection};
use crate::dnstap::Sampled;
use crate::metrics::{Dropped, Tally};
use crate::resolver::{BatchContext, FastLookup, KnownMiss};
use crate::snapshot::Snapshot;
use crate::snapshot::acl::Acl;

/// Full batches that one socket may read in a row before others have their turn.
const MOST_IN_A_ROW: usize = 4;

thread_local! {
    /// One room for all sockets of a family in a thread: each is done with it before another one begins.
    static IPV4: RefCell<Box<Batch>> = RefCell::new(Batch::new(Family::V4));
    static IPV6: RefCell<Box<Batch>> = RefCell::new(Batch::new(Family::V6));
}

/// A socket that is watched: the runtime says when there is something to read.
type Watched = AsyncFd<Arc<UdpSocket>>;

/// Watches a socket, which must not block.
///
/// # Errors
///
/// It cannot be watched.
#[allow(deprecated, reason = "what is said of it concerns descriptors that may change; a socket keeps its own")]
pub(super) fn watch(socket: Arc<UdpSocket>) -> io::Result<Watched> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Answers what comes in at a socket and counts it. The socket may be read by others too, workers of this process and
/// of other ones, each datagram by one of them.
pub(super) async fn serve(shared: Arc<Shared>, watched: Watched, count: Arc<AtomicU64>) {
    let socket = watched.get_ref().clone();
    if let Err(error) = answer_all(&shared, &socket, watched, &count).await {
        tracing::error!("{:?}: {error}", socket.local_addr());
    }
}

/// Of each datagram that leaves a watched socket the kernel tells the watcher that there is room for another one (`sock_wfree`), asked or
/// not, which is a twentieth of what an answer takes. So a socket that is never empty is not watched: it is read again and again,
/// in turn with all other work, until it is empty.
async fn answer_all(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    watched: Watched,
    count: &AtomicU64,
) -> io::Result<()> {
    let own = socket.local_addr()?.ip();
    let mut watched = Some(watched);
    loop {
        let told = match &watched {
            Some(watched) => Some(watched.readable().await?),
            None => None,
        };
        let emptied = (0..MOST_IN_A_ROW).any(|_| is_emptied(shared, socket, own, count));
        match (told, emptied) {
            (Some(mut told), true) => told.clear_ready(),
            // What has come since is told of.
            (None, true) => watched = Some(watch(socket.clone())?),
            (_, false) => {
                watched = None;
                // An empty socket lets the others have their turn by itself.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Reads a batch and answers it; whether there was no more.
fn is_emptied(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, own: IpAddr, count: &AtomicU64) -> bool {
    let read = match own {
        IpAddr::V4(_) => IPV4.with_borrow_mut(|batch| take_batch(shared, socket, own, batch)),
        IpAddr::V6(_) => IPV6.with_borrow_mut(|batch| take_batch(shared, socket, own, batch)),
    };
    match read {
        Ok(read) => {
            count.fetch_add(read as u64, Ordering::Relaxed);
            // A batch that is not full has emptied the socket; to say so saves the call that would find it empty. (To read
            // again at once after all but small batches costs 3 % more for each answer under full load: the batches become
            // smaller.)
            read < SIZE
        }
        Err(error) => {
            let emptied = error.kind() == ErrorKind::WouldBlock;
            if !emptied {
                // An error of a packet sent before (a client that is gone), or of the moment.
                tracing::debug!("{own}: {error}");
            }
            emptied
        }
    }
}

/// Reads a number of datagrams, answers out of memory what can be, and sets the rest going. The benchmark counts the
/// instructions of this function, by its name.
#[inline(never)]
fn take_batch(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, own: IpAddr, batch: &mut Batch) -> io::Result<usize> {
    let read = batch.datagrams.receive(&**socket)?;
    let (moment, mut room) = (shared.resolver.batch_context(), std::array::from_fn::<_, SIZE, _>(|_| None));
    let sought = room.get_mut(..read).unwrap_or_default();
    let mut left = read_all(shared, own, moment.snapshot(), batch, sought);
    seek(shared, batch, sought);
    prefetch_entry(shared, batch, sought);
    match_key(shared, batch, sought);
    let tally = answer(shared, socket, &moment, batch, sought, &mut left);
    batch.datagrams.send(&**socket, |error| {
        shared.metrics().dropped(Dropped::Unsent);
        tracing::debug!("an answer cannot be sent: {error}");
    });
    shared.metrics().add(&tally, moment.age());
    // What takes longer begins when the answers of the others are under way.
    if !left.is_empty() {
        for (row, is_unknown) in left {
            let (question, source) = (batch.datagrams.question(row), batch.datagrams.source(row));
            take(shared, socket, question, source, is_unknown.then(|| moment.unknown()));
        }
        query_tasks::go();
    }
    Ok(read)
}

// Each step is a function of its own: in one, what each has to remember would not find room in the processor's registers.

/// Rows that go the whole way: a bit for each.
#[derive(Clone, Copy, Debug, Default)]
struct DeferredRows {
    rows: u32,
    /// Those of them of which memory knows nothing.
    unknown: u32,
}

const _: () = assert!(SIZE <= u32::BITS as usize);

impl DeferredRows {
    #[inline]
    const fn add(&mut self, row: usize, is_unknown: bool) {
        self.rows |= 1 << row;
        self.unknown |= (is_unknown as u32) << row;
    }

    #[inline]
    const fn is_empty(self) -> bool {
        self.rows == 0
    }
}

/// Each row, and whether memory knows nothing of it.
impl Iterator for DeferredRows {
    type Item = (usize, bool);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let row = (self.rows != 0).then(|| self.rows.trailing_zeros())?;
        self.rows &= self.rows - 1;
        Some((row as usize, self.unknown & (1 << row) != 0))
    }
}

/// First step: reads usual questions of those who may ask; what is unusual is left.
#[inline(never)]
fn read_all<'a>(
    shared: &Shared,
    own: IpAddr,
    snapshot: Option<&'a Snapshot>,
    batch: &Batch,
    sought: &mut [Option<FastLookup<'a>>],
) -> DeferredRows {
    let (datagrams, allow, mut left) = (&batch.datagrams, allow(snapshot), DeferredRows::default());
    let Some(snapshot) = snapshot else {
        (0..sought.len())
            .filter(|row| may_ask(shared, allow, datagrams, *row, own))
            .for_each(|row| left.add(row, false));
        return left;
    };
    for (row, sought) in sought.iter_mut().enumerate() {
        if !may_ask(shared, allow, datagrams, row, own) {
            continue;
        }
        let (room, length) = datagrams.question_room(row);
        let Some(read) = FastLookup::read(snapshot, room, length) else {
            left.add(row, false);
            continue;
        };
        *sought = Some(read);
    }
    left
}

/// Whether who has sent this datagram gets an answer; counts it when not.
#[inline(always)]
fn may_ask(shared: &Shared, allow: &Acl, datagrams: &Room, row: usize, own: IpAddr) -> bool {
    let (source, port) = datagrams.asker(row);
    // Nothing can be sent to port 0.
    if port == 0 {
        shared.metrics().dropped(Dropped::NoWayBack);
        return false;
    }
    shared.permits_by(allow, source, own)
}

/// Second step: writes their keys.
#[inline(never)]
fn seek(shared: &Shared, batch: &mut Batch, sought: &[Option<FastLookup<'_>>]) {
    let (Batch { datagrams, keys }, key_hasher) = (batch, shared.resolver.key_hasher());
    for (row, (key, sought)) in keys.iter_mut().zip(sought).enumerate() {
        if let Some(sought) = sought {
            key_hasher.seek(sought, datagrams.question_room(row).0, key);
        }
    }
}
/// Third step: finds what may be the answers.
#[inline(never)]
fn prefetch_entry<'a>(shared: &'a Shared, batch: &Batch, sought: &mut [Option<FastLookup<'a>>]) {
    for (key, sought) in batch.keys.iter().zip(sought) {
        if let Some(sought) = sought {
            shared.resolver.prefetch_entry(sought, key);
        }
    }
}

/// Fourth step: sees which of them are.
#[inline(never)]
fn match_key<'a>(shared: &'a Shared, batch: &Batch, sought: &mut [Option<FastLookup<'a>>]) {
    for (key, sought) in batch.keys.iter().zip(sought) {
        if let Some(sought) = sought {
            shared.resolver.match_key(sought, key);
        }
    }
}

/// Last step: makes the answers ready, and counts them; what memory does not know is left.
#[inline(never)]
fn answer<'a>(
    shared: &'a Shared,
    socket: &UdpSocket,
    moment: &BatchContext,
    batch: &mut Batch,
    sought: &[Option<FastLookup<'a>>],
    left: &mut DeferredRows,
) -> Tally<'a> {
    let Batch { datagrams, keys } = batch;
    let (mut tally, shown) = (Tally::default(), shared.resolver.tap().wanted());
    for (row, (key, sought)) in keys.iter_mut().zip(sought).enumerate() {
        let Some(sought) = sought else { continue };
        let mut reply = datagrams.answer(row);
        let (question, room) = reply.rooms();
        if let Some(hit) = shared.resolver.hit(moment, sought, key, question, room) {
            reply.ready(usize::from(hit.length.get()));
            tally.hit(shared.resolver.hits_in(sought), hit.rcode);
            if shown | hit.due {
                beside(shared, socket, row, datagrams, shown, hit.due);
            }
        } else {
            leave(left, row, key);
        }
    }
    tally
}

/// Leaves a row whose key this is. A function of its own, so that its work needs no registers where there are answers.
#[cold]
#[inline(never)]
fn leave(left: &mut DeferredRows, row: usize, key: &KeyBuf) {
    left.add(row, key.is_cleared());
}

/// What else there is to do about an answer that was written: somebody looks, or it is due to be asked for again.
#[cold]
#[inline(never)]
fn beside(shared: &Shared, socket: &UdpSocket, row: usize, datagrams: &Room, shown: bool, due: bool) {
    if shown {
        show(shared, socket, row, datagrams);
    }
    if due {
        refresh(shared, datagrams.question(row));
    }
}

/// Shows a question and its answer, which is the last one that was written, to those who look.
fn show(shared: &Shared, socket: &UdpSocket, row: usize, datagrams: &Room) {
    let (question, source) = (datagrams.question(row), datagrams.source(row));
    let picked = shared.show(question, source, || socket.local_addr(), Transport::Udp);
    shared.show_answer(picked.as_deref(), datagrams.last_answer());
}

/// Sees to it that the answer is there when its time is over.
fn refresh(shared: &Shared, packet: &[u8]) {
    if let Ok(query) = request::read(packet) {
        shared.resolver.refresh(&query);
    }
}

/// Answers what is not a usual question with a usual answer in memory; what takes longer goes on by itself.
fn take(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, packet: &[u8], source: SocketAddr, unknown: Option<KnownMiss>) {
    let show = || shared.show(packet, source, || socket.local_addr(), Transport::Udp);
    let query = match shared.read(packet, source, Transport::Udp) {
        Ok(query) => query,
        Err(Rejection::Drop) => return,
        Err(Rejection::Respond(answer, _)) => return send(shared, socket, &answer, source, show().as_deref()),
    };
    let shown = show();
    let unresolved = match shared.resolver.resolve_from_cache(&query, unknown) {
        Ok(answer) => {
            return send(shared, socket, &answer.to_wire(&query, ReplyTransport::Udp), source, shown.as_deref());
        }
        Err(unresolved) => unresolved,
    };
    let Some(working) = shared.begin(source) else { return };
    let (shared, socket) = (shared.clone(), socket.clone());
    query_tasks::add(async move {
        let (answer, _afterwards) = shared.resolver.resolve_miss(&query, unresolved).await;
        send(&shared, &socket, &answer.to_wire(&query, ReplyTransport::Udp), source, shown.as_deref());
        drop(working);
    });
}

/// Sends without waiting: a full send buffer loses a datagram as any other queue on its way would.
fn send(shared: &Shared, socket: &UdpSocket, message: &[u8], client: SocketAddr, shown: Option<&Sampled>) {
    match socket.send_to(message, client) {
        Ok(_) => shared.show_answer(shown, message),
        Err(error) => {
            shared.metrics().dropped(Dropped::Unsent);
            tracing::debug!("{client}: {error}");
        }
    }
}
