//! Connections (RFC 7766): many questions at once, answered in the order in which the answers come.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

use super::Shared;
use super::shares::Share;
use crate::answer::Way;
use crate::metrics::{Dropped, Transport};
use crate::packet::request::Rejected;
use crate::query::Query;

/// After an error of accepting (no descriptor left, say), before the next try.
const PAUSE: Duration = Duration::from_millis(50);

/// No question needs more octets, with all options that it may carry. What is longer is read and forgotten behind this many
/// and is malformed, so that a client cannot make us hold what it says that it will send.
const LONGEST_QUESTION: usize = 4096;

/// An answer that waits to be written, with its share of all that may wait.
type Unwritten = (Vec<u8>, Share);

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
async fn converse(shared: &Arc<Shared>, stream: TcpStream, source: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, write) = stream.into_split();
    let (answers, written) = mpsc::channel(shared.limits.pipelined);
    let writing = tokio::spawn(write_all(write, written, shared.limits.whole_message));
    let result = read_all(shared, source, &mut read, answers).await;
    // The half that reads stays open for as long as answers are written: closing it now could reset them away.
    writing.await.map_err(io::Error::other)??;
    result
}

async fn read_all(
    shared: &Arc<Shared>,
    source: SocketAddr,
    read: &mut OwnedReadHalf,
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
            Ok(read_message(read, patience, limits.whole_message).await?.map(|message| (slot, message)))
        };
        let next: io::Result<_> = tokio::select! {
            next = next => next,
            () = full.notified() => Ok(None),
        };
        let Some((slot, message)) = next? else { return Ok(()) };
        patience = limits.idle;
        let query = match shared.read(&message, source) {
            Ok(query) => query,
            Err(Rejected::Silently) => {
                shared.metrics().dropped(Dropped::NotARequest);
                return Ok(());
            }
            Err(Rejected::With(answer)) => {
                shared.metrics().question(Transport::Tcp);
                let Some(room) = shared.room(source, answer.len()) else { return Ok(()) };
                if answers.send((answer, room)).await.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        shared.metrics().question(Transport::Tcp);
        let Some(working) = shared.begin(source) else { return Ok(()) };
        let (shared, answers, full) = (shared.clone(), answers.clone(), full.clone());
        tokio::spawn(async move {
            let message = answer(&shared, &query).await;
            match shared.room(source, message.len()) {
                // The client may be gone.
                Some(room) => drop(answers.send((message, room)).await),
                None => full.notify_one(),
            }
            drop((slot, working));
        });
    }
}

async fn answer(shared: &Shared, query: &Query) -> Vec<u8> {
    shared.resolve(query).await.to_wire(query, Way::Tcp { idle: shared.limits.idle })
}

/// One message; none when the client has closed or was silent for too long.
async fn read_message(read: &mut OwnedReadHalf, first: Duration, whole: Duration) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match timeout(first, read.read(&mut length[..1])).await {
        Err(_) | Ok(Ok(0)) => return Ok(None),
        Ok(read) => read?,
    };
    let rest = async {
        read.read_exact(&mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        let mut message = vec![0; length.min(LONGEST_QUESTION)];
        read.read_exact(&mut message).await?;
        let mut left = length - message.len();
        while left > 0 {
            let mut forgotten = [0; 512];
            let some = left.min(forgotten.len());
            left -= read.read_exact(&mut forgotten[..some]).await?;
        }
        Ok(message)
    };
    timeout(whole, rest).await.map_err(|_| io::ErrorKind::TimedOut)?.map(Some)
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Unwritten>,
    limit: Duration,
) -> io::Result<()> {
    while let Some((message, _room)) = answers.recv().await {
        let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let framed = [&length.to_be_bytes()[..], &message].concat();
        drop(message);
        timeout(limit, write.write_all(&framed)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}
