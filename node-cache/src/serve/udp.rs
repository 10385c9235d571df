//! Datagrams.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_machine::datagrams::Family;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Shared;
use super::batch::{Batch, SIZE};
use crate::answer::Way;
use crate::metrics::{Dropped, Transport};
use crate::packet::request::{self, Rejected};

/// Full batches that one socket may read in a row before others have their turn.
const MOST_IN_A_ROW: usize = 4;

thread_local! {
    /// One room for all sockets of a family in a thread: each is done with it before another one begins.
    static IPV4: RefCell<Box<Batch>> = RefCell::new(Batch::new(Family::V4));
    static IPV6: RefCell<Box<Batch>> = RefCell::new(Batch::new(Family::V6));
}

/// Answers what comes in at `socket` and counts it. The socket may be read by others too, workers of this process and
/// of other ones, each datagram by one of them.
pub(super) async fn serve(shared: Arc<Shared>, socket: Arc<UdpSocket>, count: Arc<AtomicU64>) {
    let own = match socket.local_addr() {
        Ok(address) => address.ip(),
        Err(error) => {
            tracing::error!("a socket without an address: {error}");
            return;
        }
    };
    loop {
        if let Err(error) = socket.readable().await {
            tracing::error!("{own}: {error}");
            return;
        }
        let emptied = (0..MOST_IN_A_ROW).any(|_| is_emptied(&shared, &socket, own, &count));
        // An empty socket lets the others have their turn by itself.
        if !emptied {
            tokio::task::yield_now().await;
        }
    }
}

/// Reads a batch and answers it; whether there was no more.
fn is_emptied(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, own: IpAddr, count: &AtomicU64) -> bool {
    // A batch that is not full has emptied the socket; to say so saves the call that would find it empty.
    let read = socket.try_io(Interest::READABLE, || {
        let read = match own {
            IpAddr::V4(_) => IPV4.with_borrow_mut(|batch| take_batch(shared, socket, own, batch)),
            IpAddr::V6(_) => IPV6.with_borrow_mut(|batch| take_batch(shared, socket, own, batch)),
        };
        count.fetch_add(read.as_ref().map_or(0, |read| *read as u64), Ordering::Relaxed);
        match read {
            Ok(SIZE) => Ok(()),
            Ok(_) => Err(ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        }
    });
    let Err(error) = read else { return false };
    let emptied = error.kind() == ErrorKind::WouldBlock;
    if !emptied {
        // An error of a packet sent before (a client that is gone), or of the moment.
        tracing::debug!("{own}: {error}");
    }
    emptied
}

/// Reads a number of datagrams, answers out of memory what can be, and sets the rest going. The benchmark counts the
/// instructions of this function, by its name.
#[inline(never)]
fn take_batch(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, own: IpAddr, batch: &mut Batch) -> io::Result<usize> {
    let Batch { datagrams, keys } = batch;
    let read = datagrams.receive(&**socket)?;
    let resolver = &shared.resolver;
    let moment = resolver.moment();
    let mut sought = [const { None }; SIZE];
    for (row, (key, sought)) in keys.iter_mut().zip(&mut sought).take(read).enumerate() {
        let (packet, source) = (datagrams.question(row), datagrams.source(row));
        // Nothing can be sent to port 0.
        if source.port() == 0 || !shared.permits_in(moment.snapshot(), source, own) {
            continue;
        }
        *sought = resolver.seek(&moment, packet, key);
        if sought.is_none() {
            take(shared, socket, packet, source);
        }
    }
    for (key, sought) in keys.iter().zip(&mut sought).take(read) {
        if let Some(sought) = sought {
            resolver.approach(sought, key);
        }
    }
    let mut questions = 0;
    for (row, (key, sought)) in keys.iter_mut().zip(&sought).take(read).enumerate() {
        let Some(sought) = sought else { continue };
        let (packet, room) = datagrams.question_and_answer(row);
        let Some(hit) = resolver.hit(&moment, sought, key, packet, room) else {
            take(shared, socket, datagrams.question(row), datagrams.source(row));
            continue;
        };
        questions += 1;
        if hit.due {
            refresh(shared, packet);
        }
        datagrams.ready(row, hit.place);
    }
    shared.metrics().questions_in_udp(questions);
    datagrams.send(&**socket, |error| tracing::debug!("an answer cannot be sent: {error}"));
    Ok(read)
}

/// Sees to it that the answer is there when its time is over.
#[cold]
fn refresh(shared: &Shared, packet: &[u8]) {
    if let Ok(query) = request::read(packet) {
        shared.resolver.refresh(&query);
    }
}

/// Answers what is not a usual question with a usual answer in memory; what takes longer goes on by itself.
fn take(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, packet: &[u8], source: SocketAddr) {
    let query = match shared.read(packet, source) {
        Ok(query) => query,
        Err(Rejected::Silently) => return shared.metrics().dropped(Dropped::NotARequest),
        Err(Rejected::With(answer)) => {
            shared.metrics().question(Transport::Udp);
            return send(socket, &answer, source);
        }
    };
    shared.metrics().question(Transport::Udp);
    if let Some(answer) = shared.resolver.resolve_at_once(&query) {
        return send(socket, &answer.to_wire(&query, Way::Udp), source);
    }
    let Some(working) = shared.begin(source) else { return };
    let (shared, socket) = (shared.clone(), socket.clone());
    tokio::spawn(async move {
        let answer = shared.resolve(&query).await;
        send(&socket, &answer.to_wire(&query, Way::Udp), source);
        drop(working);
    });
}

/// Sends without waiting: a full send buffer loses a datagram as any other queue on its way would.
fn send(socket: &UdpSocket, message: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(message, client) {
        tracing::debug!("{client}: {error}");
    }
}
