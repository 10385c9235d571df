//! The one connection to a server (RFC 7766 §6.2): opened when it is needed, used for many questions at once, whose
//! answers may come in any order, and closed when nobody has used it for a while.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::udp as exchange;
use crate::dns::query::Transport;
use crate::dns::question;
use crate::dnstap::Tap;

/// A connection on which nothing comes in for this long is closed: either nobody asks, or nobody answers.
const IDLE: Duration = Duration::from_secs(5);
/// The most questions that wait for their answers on one connection. Those that come beyond fail.
const MOST_WAITING: usize = 1024;
/// Questions that may wait to be written.
const QUEUE: usize = 64;
/// After a message of more octets than this those who waited for it have so many turns before the next one is read: a hundred
/// such messages at once would take 6 MiB, and as much again while they are checked.
const LONG: usize = 4096;
const TURNS: usize = 16;
/// Octets of a header: no message is shorter.
const SHORTEST: usize = 12;

/// Where a server is connected to, if it is at the moment.
#[derive(Debug)]
pub(in crate::upstream) struct Connection {
    server: SocketAddr,
    open: Mutex<Option<Open>>,
}

/// An open connection. Its task ends with it, and when the server closes it.
#[derive(Debug)]
struct Open {
    local: SocketAddr,
    questions: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who waits for which number.
#[derive(Debug, Default)]
struct Waiting(StdMutex<HashMap<u16, oneshot::Sender<Vec<u8>>>>);

impl Waiting {
    fn by_number(&self) -> MutexGuard<'_, HashMap<u16, oneshot::Sender<Vec<u8>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits, until it is dropped.
struct Waiter {
    number: u16,
    waiting: Arc<Waiting>,
    answer: oneshot::Receiver<Vec<u8>>,
}

impl Waiter {
    /// Waits under a random number that nobody else waits under.
    fn new(waiting: &Arc<Waiting>) -> io::Result<Self> {
        let (sender, answer) = oneshot::channel();
        let mut by_number = waiting.by_number();
        if by_number.len() >= MOST_WAITING {
            return Err(io::Error::other("too many questions wait on this connection"));
        }
        let number = std::iter::repeat_with(rand::random).find(|number| !by_number.contains_key(number)).unwrap_or(0);
        by_number.insert(number, sender);
        Ok(Self { number, waiting: waiting.clone(), answer })
    }
}

/// A place on an open connection.
struct Place {
    local: SocketAddr,
    questions: mpsc::Sender<Vec<u8>>,
    waiter: Waiter,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.by_number().remove(&self.number);
    }
}

impl Connection {
    /// A connection to this server, not open yet.
    pub(in crate::upstream) const fn new(server: SocketAddr) -> Self {
        Self { server, open: Mutex::const_new(None) }
    }

    /// Sends a message under a number of its own and gives the message that comes back under it; waits for ever. A
    /// connection that was open already may have been closed by the server at this very moment: then another one is
    /// opened, once.
    ///
    /// # Errors
    ///
    /// The server cannot be connected to, or closes without an answer.
    pub(in crate::upstream) async fn ask(&self, message: &[u8], tap: &Tap) -> io::Result<Vec<u8>> {
        let (place, was_open) = self.place().await?;
        match self.exchange(place, message, tap).await {
            Some(answer) => Ok(answer),
            None if was_open => {
                let (place, _) = self.place().await?;
                self.exchange(place, message, tap).await.ok_or_else(|| io::ErrorKind::ConnectionReset.into())
            }
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// A place on the connection, which is opened if it is not, and whether it was.
    async fn place(&self) -> io::Result<(Place, bool)> {
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_ref().filter(|open| !open.task.is_finished()) {
            let (local, questions, waiter) = (open.local, open.questions.clone(), Waiter::new(&open.waiting)?);
            return Ok((Place { local, questions, waiter }, true));
        }
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let (questions, queue) = mpsc::channel(QUEUE);
        let waiting = Arc::<Waiting>::default();
        let waiter = Waiter::new(&waiting)?;
        let task = tokio::spawn(converse(self.server, stream, queue, waiting.clone()));
        *open = Some(Open { local, questions: questions.clone(), waiting, task });
        Ok((Place { local, questions, waiter }, false))
    }

    /// The answer; none when the connection is closed before it comes.
    async fn exchange(&self, place: Place, message: &[u8], tap: &Tap) -> Option<Vec<u8>> {
        let Place { local, questions, mut waiter } = place;
        let length = u16::try_from(message.len()).ok()?;
        let mut framed = [&length.to_be_bytes()[..], message].concat();
        framed[2..4].copy_from_slice(&waiter.number.to_be_bytes());
        let shown = exchange::show(tap, Transport::Tcp, || Ok(local), self.server, &framed[2..]);
        questions.send(framed).await.ok()?;
        let answer = (&mut waiter.answer).await.ok()?;
        if let Some(shown) = &shown {
            tap.sample_response(shown, &answer);
        }
        Some(answer)
    }
}

async fn converse(server: SocketAddr, stream: TcpStream, queue: mpsc::Receiver<Vec<u8>>, waiting: Arc<Waiting>) {
    let (read, write) = stream.into_split();
    let ended = tokio::select! {
        read = read_all(read, &waiting) => read,
        written = write_all(write, queue) => written,
    };
    if let Err(error) = ended {
        tracing::debug!("{server}: {error}");
    }
    // Those who still wait hear that nothing will come.
    waiting.by_number().clear();
}

async fn read_all(mut read: OwnedReadHalf, waiting: &Waiting) -> io::Result<()> {
    loop {
        if timeout(IDLE, read.readable()).await.is_err() {
            return Ok(());
        }
        let message = timeout(IDLE, async {
            let length = read.read_u16().await?;
            let mut message = vec![0; usize::from(length)];
            read.read_exact(&mut message).await?;
            io::Result::Ok(message)
        });
        let message = message.await.map_err(|_| io::ErrorKind::TimedOut)??;
        if message.len() < SHORTEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let waiter = waiting.by_number().remove(&question::number(&message));
        let is_long = message.len() > LONG;
        if let Some(waiter) = waiter {
            // It may have given up.
            let _ = waiter.send(message);
        }
        for _ in 0..if is_long { TURNS } else { 0 } {
            yield_now().await;
        }
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(message) = queue.recv().await {
        write.write_all(&message).await?;
    }
    Ok(())
}
