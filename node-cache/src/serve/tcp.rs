//! Connections (RFC 7766): many questions at once, answered in the order in which the answers come.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

use super::Shared;
use super::in_work;
use super::shares::Share;
use crate::answer::Way;
use crate::metrics::Dropped;
use crate::packet::request::Rejected;
use crate::query::{Query, Transport};
use crate::resolve::QUESTION_ROOM;
use crate::tap::Picked;

/// After an error of accepting (no descriptor left, say), before the next try.
const PAUSE: Duration = Duration::from_millis(50);

/// No question needs more octets, with all options that it may carry, here as in a datagram. What is longer is read and
/// forgotten behind this many and is malformed, so that a client cannot make us hold what it says that it will send.
const LONGEST_QUESTION: usize = QUESTION_ROOM;

/// An answer that waits to be written, with its share of all that may wait. A channel has room for many of them in advance.
type Unwritten = Box<(Vec<u8>, Share)>;

/// Answers on the connections that come in at `listener`. Other processes may accept there too.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => accept(&shared, stream, source),
            Err(error) => {
                tracing::debug!("accepting: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, stream: TcpStream, source: SocketAddr) {
    let Ok(own) = stream.local_addr() else { return };
    if !shared.permits(source, own.ip()) {
        return;
    }
    let Ok(share) = shared.connections.take(source) else {
        return shared.metrics().dropped(Dropped::Connections);
    };
    let shared = shared.clone();
    tokio::spawn(async move {
        if let Err(error) = converse(&shared, stream, source).await {
            tracing::debug!("{source}: {error}");
        }
        drop(share);
    });
}

/// Reads questions until the client has no more, and writes answers until the last is written.
async fn converse(shared: &Arc<Shared>, mut stream: TcpStream, source: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Both halves stay open until both are done: closing one could reset away what is written.
    let (mut read, write) = stream.split();
    let (answers, written) = mpsc::channel(shared.limits.pipelined);
    let (read, written) = tokio::join!(read_all(shared, source, &mut read, answers), write_all(shared, write, written));
    written.and(read)
}

async fn read_all(
    shared: &Arc<Shared>,
    source: SocketAddr,
    read: &mut ReadHalf<'_>,
    answers: mpsc::Sender<Unwritten>,
) -> io::Result<()> {
    let limits = &shared.limits;
    let slots = Arc::new(Semaphore::new(limits.pipelined));
    let mut patience = limits.first_byte;
    // Told when there was no room for an answer: a client that does not read what it asked for is left.
    let full = Arc::new(Notify::new());
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            let message = read_message(read, patience, limits.whole_message).await;
            let message = message.inspect_err(|_| shared.metrics().dropped(Dropped::Incomplete))?;
            Ok(message.map(|message| (slot, message)))
        };
        let next: io::Result<_> = tokio::select! {
            next = next => next,
            () = full.notified() => Ok(None),
        };
        let Some((slot, message)) = next? else { return Ok(()) };
        patience = limits.idle;
        let show = || shared.show(&message, source, || read.local_addr(), Transport::Tcp);
        let query = match shared.read(&message, source, Transport::Tcp) {
            Ok(query) => query,
            Err(Rejected::Silently) => return Ok(()),
            Err(Rejected::With(answer, _)) => {
                let Some(room) = shared.room(source, answer.len()) else { return Ok(()) };
                if hand_on(shared, &answers, Box::new((answer, room)), show().as_deref()).await.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        let shown = show();
        let Some(working) = shared.begin(source) else { return Ok(()) };
        let (shared, answers, full) = (shared.clone(), answers.clone(), full.clone());
        in_work::begin(async move {
            let message = answer(&shared, &query).await;
            match shared.room(source, message.len()) {
                // The client may be gone.
                Some(room) => drop(hand_on(&shared, &answers, Box::new((message, room)), shown.as_deref()).await),
                None => full.notify_one(),
            }
            drop((slot, working));
        });
    }
}

/// Gives an answer to be written; an error when nothing can be written any more.
async fn hand_on(
    shared: &Shared,
    answers: &mpsc::Sender<Unwritten>,
    unwritten: Unwritten,
    shown: Option<&Picked>,
) -> Result<(), ()> {
    match answers.reserve().await {
        Ok(place) => {
            shared.show_answer(shown, &unwritten.0);
            place.send(unwritten);
            Ok(())
        }
        Err(_) => {
            shared.metrics().dropped(Dropped::Unsent);
            Err(())
        }
    }
}

async fn answer(shared: &Shared, query: &Query) -> Vec<u8> {
    shared.resolver.resolve(query).await.to_wire(query, Way::Tcp { idle: shared.limits.idle })
}

/// One message; none when the client has closed or was silent for too long. An error when it breaks off.
async fn read_message(read: &mut ReadHalf<'_>, first: Duration, whole: Duration) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match timeout(first, read.read(&mut length[..1])).await {
        Ok(Ok(1)) => {}
        Err(_) | Ok(_) => return Ok(None),
    }
    let rest = async {
        read.read_exact(&mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        let mut message = vec![0; length.min(LONGEST_QUESTION)];
        read.read_exact(&mut message).await?;
        let mut left = length - message.len();
        // On the heap, since hardly anybody needs it.
        let mut forgotten = vec![0; left.min(512)];
        while left > 0 {
            let some = left.min(forgotten.len());
            left -= read.read_exact(&mut forgotten[..some]).await?;
        }
        Ok(message)
    };
    timeout(whole, rest).await.map_err(|_| io::ErrorKind::TimedOut)?.map(Some)
}

/// Writes answers until there is none any more, or one that the client does not take.
async fn write_all(
    shared: &Shared,
    mut write: WriteHalf<'_>,
    mut answers: mpsc::Receiver<Unwritten>,
) -> io::Result<()> {
    while let Some(unwritten) = answers.recv().await {
        if let Err(error) = write_message(&mut write, &unwritten.0, shared.limits.whole_message).await {
            shared.metrics().dropped(Dropped::Unsent);
            answers.close();
            while answers.recv().await.is_some() {
                shared.metrics().dropped(Dropped::Unsent);
            }
            return Err(error);
        }
    }
    Ok(())
}

async fn write_message(write: &mut WriteHalf<'_>, message: &[u8], limit: Duration) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?.to_be_bytes();
    // Both in one packet (RFC 7766 §8).
    let mut framed = Buf::chain(&length[..], message);
    timeout(limit, write.write_all_buf(&mut framed)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
