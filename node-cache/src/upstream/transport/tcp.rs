//! The one TCP connection to a server (RFC 7766 §6.2): opened on demand, shared by many pipelined queries whose
//! responses may come in any order, and closed when idle.

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

use super::query_format::{ExchangeOutcome, QueryFormat};
use crate::dns::query::Transport;
use crate::dns::question::{self, Question};
use crate::dns::{Response, ResponseError};
use crate::dnstap::{Side, Tap};

/// A connection on which nothing is received for this long is closed: it has no queries, or the server does not
/// respond.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most queries in flight on one connection. Further ones fail.
const MAX_IN_FLIGHT: usize = 1024;
/// Queries that may wait to be written.
const WRITE_QUEUE_LEN: usize = 64;
/// A message of more octets than this is large: after one, the reader yields [`LARGE_MESSAGE_YIELDS`] times, so that
/// the response is used before the next one is read. A hundred such messages at once would take 6 MiB, and as much
/// again while they are validated.
const LARGE_MESSAGE_LEN: usize = 4096;
/// Turns of the runtime that the reader yields after a large message.
const LARGE_MESSAGE_YIELDS: usize = 16;
/// Octets of a DNS header, the shortest message.
const MIN_MESSAGE_LEN: usize = 12;

/// The TCP connection to a server, open or not.
#[derive(Debug)]
pub(in crate::upstream) struct Connection {
    server: SocketAddr,
    open: Mutex<Option<OpenConnection>>,
}

/// An open connection. Its task ends when this is dropped or the connection is closed.
#[derive(Debug)]
struct OpenConnection {
    local: SocketAddr,
    writer: mpsc::Sender<Vec<u8>>,
    in_flight: Arc<InFlight>,
    task: JoinHandle<()>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Queries in flight on a connection, by message ID.
#[derive(Debug, Default)]
struct InFlight(StdMutex<HashMap<u16, oneshot::Sender<Vec<u8>>>>);

impl InFlight {
    fn by_id(&self) -> MutexGuard<'_, HashMap<u16, oneshot::Sender<Vec<u8>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One query in flight. Its ID is free again when this is dropped.
struct PendingQuery {
    id: u16,
    in_flight: Arc<InFlight>,
    response: oneshot::Receiver<Vec<u8>>,
}

impl PendingQuery {
    /// Registers a query under a random ID that no other query in flight has.
    fn register(in_flight: &Arc<InFlight>) -> io::Result<Self> {
        let (sender, response) = oneshot::channel();
        let mut by_id = in_flight.by_id();
        if by_id.len() >= MAX_IN_FLIGHT {
            return Err(io::Error::other("too many queries in flight on this connection"));
        }
        let id = std::iter::repeat_with(rand::random).find(|id| !by_id.contains_key(id)).unwrap_or(0);
        by_id.insert(id, sender);
        Ok(Self { id, in_flight: in_flight.clone(), response })
    }
}

impl Drop for PendingQuery {
    fn drop(&mut self) {
        self.in_flight.by_id().remove(&self.id);
    }
}

/// A query registered on an open connection, and the way to write it.
struct Slot {
    local: SocketAddr,
    writer: mpsc::Sender<Vec<u8>>,
    pending: PendingQuery,
    /// The connection was open before, so that the server may be closing it at this very moment.
    is_reused: bool,
}

impl Connection {
    /// Creates a connection to `server` that is not open yet.
    pub(in crate::upstream) const fn new(server: SocketAddr) -> Self {
        Self { server, open: Mutex::const_new(None) }
    }

    /// Sends `message` under an ID of its own and returns the message that comes back under that ID; waits without a
    /// timeout. When the server closes a reused connection before it responds, the query is retried once on another
    /// one.
    ///
    /// # Errors
    ///
    /// The server cannot be connected to, closes without a response, or too many queries are in flight.
    async fn exchange(&self, message: &[u8], tap: &Tap) -> io::Result<Vec<u8>> {
        let slot = self.slot().await?;
        let is_reused = slot.is_reused;
        match self.exchange_on(slot, message, tap).await {
            Some(response) => Ok(response),
            None if is_reused => {
                let slot = self.slot().await?;
                self.exchange_on(slot, message, tap).await.ok_or_else(|| io::ErrorKind::ConnectionReset.into())
            }
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Registers a query on the connection, which is opened if it is not.
    async fn slot(&self) -> io::Result<Slot> {
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_ref().filter(|open| !open.task.is_finished()) {
            let pending = PendingQuery::register(&open.in_flight)?;
            return Ok(Slot { local: open.local, writer: open.writer.clone(), pending, is_reused: true });
        }
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let (writer, queue) = mpsc::channel(WRITE_QUEUE_LEN);
        let in_flight = Arc::<InFlight>::default();
        let pending = PendingQuery::register(&in_flight)?;
        let task = tokio::spawn(run(self.server, stream, queue, in_flight.clone()));
        *open = Some(OpenConnection { local, writer: writer.clone(), in_flight, task });
        Ok(Slot { local, writer, pending, is_reused: false })
    }

    /// Writes a query and waits for its response; `None` when the connection is closed before.
    async fn exchange_on(&self, slot: Slot, message: &[u8], tap: &Tap) -> Option<Vec<u8>> {
        let Slot { local, writer, mut pending, .. } = slot;
        let length = u16::try_from(message.len()).ok()?;
        let mut framed = [&length.to_be_bytes()[..], message].concat();
        framed[2..4].copy_from_slice(&pending.id.to_be_bytes());
        let sampled = tap.sample_query(Side::Forwarder, Transport::Tcp, || Ok(local), || Ok(self.server), &framed[2..]);
        writer.send(framed).await.ok()?;
        let response = (&mut pending.response).await.ok()?;
        if let Some(sampled) = &sampled {
            tap.sample_response(sampled, &response);
        }
        Some(response)
    }
}

/// Result of a query over TCP.
#[derive(Debug)]
pub(in crate::upstream) struct TcpExchange {
    pub(in crate::upstream) outcome: ExchangeOutcome,
    /// The response echoed the case of the name. Off-path attackers cannot forge a response over TCP, so this is a
    /// property of the server. `true` after a [`ExchangeOutcome::FormatError`], which tells nothing about the case.
    pub(in crate::upstream) case_echoed: bool,
}

/// Queries a server over its TCP connection and waits for the outcome without a timeout.
///
/// # Errors
///
/// The server cannot be connected to, closes without a response, sends an invalid one, or too many queries are in
/// flight.
pub(in crate::upstream) async fn query(
    connection: &Connection,
    question: &Question,
    format: QueryFormat,
    tap: &Tap,
) -> io::Result<TcpExchange> {
    let message = format.encode(question, 0);
    let packet = connection.exchange(&message, tap).await?;
    let id = question::message_id(&packet);
    let name_len = question.name.as_bytes().len();
    let case_echoed = question::echoes_question(&message, name_len, &packet);
    match Response::read(&packet, id, question) {
        Ok(response) => {
            let response = format.restore_case(response, &message, name_len);
            Ok(TcpExchange { outcome: ExchangeOutcome::Response(response), case_echoed })
        }
        Err(ResponseError::FormatError) if format.edns => {
            Ok(TcpExchange { outcome: ExchangeOutcome::FormatError, case_echoed: true })
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Reads and writes an open connection until one side ends, then fails the queries still in flight.
async fn run(server: SocketAddr, stream: TcpStream, queue: mpsc::Receiver<Vec<u8>>, in_flight: Arc<InFlight>) {
    let (reader, writer) = stream.into_split();
    let result = tokio::select! {
        result = read_responses(reader, &in_flight) => result,
        result = write_queries(writer, queue) => result,
    };
    if let Err(error) = result {
        tracing::debug!(upstream = %server, %error, "TCP connection to upstream failed");
    }
    // Dropping the senders wakes the waiting queries.
    in_flight.by_id().clear();
}

async fn read_responses(mut reader: OwnedReadHalf, in_flight: &InFlight) -> io::Result<()> {
    loop {
        if timeout(IDLE_TIMEOUT, reader.readable()).await.is_err() {
            return Ok(());
        }
        let message = timeout(IDLE_TIMEOUT, async {
            let length = reader.read_u16().await?;
            let mut message = vec![0; usize::from(length)];
            reader.read_exact(&mut message).await?;
            io::Result::Ok(message)
        });
        let message = message.await.map_err(|_| io::ErrorKind::TimedOut)??;
        if message.len() < MIN_MESSAGE_LEN {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let sender = in_flight.by_id().remove(&question::message_id(&message));
        let yields = if message.len() > LARGE_MESSAGE_LEN { LARGE_MESSAGE_YIELDS } else { 0 };
        if let Some(sender) = sender {
            // The query may have been dropped meanwhile.
            let _ = sender.send(message);
        }
        for _ in 0..yields {
            yield_now().await;
        }
    }
}

async fn write_queries(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(message) = queue.recv().await {
        writer.write_all(&message).await?;
    }
    Ok(())
}
