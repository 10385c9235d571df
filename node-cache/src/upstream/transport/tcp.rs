//! TCP connections to a server (RFC 7766 §6.2): opened on demand, shared by many pipelined queries whose responses may
//! come in any order, and closed when idle. One is enough until a response is late; then [`choice`] decides. A server
//! that closes connections with queries in flight is sent them again on others, and [`capacity`] learns how many it
//! answers on each.

mod capacity;
mod choice;
mod in_flight;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OnceCell, mpsc, oneshot};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::gate::PacketGate;
use super::query_format::{ExchangeOutcome, QueryFormat};
use crate::dns::query::Transport;
use crate::dns::question::{self, Question};
use crate::dns::{Name, Response, ResponseError};
use crate::dnstap::{Side, Tap};
use crate::metrics::PacketClass;
use capacity::LearnedCapacity;
pub(in crate::upstream) use choice::late_after;
use choice::{ConnectionChoice, LearnedOrder, choose};
use in_flight::InFlightQueries;

/// A connection on which nothing is received for this long is closed: it has no queries, or the server does not
/// respond.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Queries that may wait to be written on one connection.
const WRITE_QUEUE_LEN: usize = 64;
/// A message of more octets than this is large: after one, the reader yields [`LARGE_MESSAGE_YIELDS`] times, so that
/// the response is used before the next one is read. A hundred such messages at once would take 6 MiB, and as much
/// again while they are validated.
const LARGE_MESSAGE_LEN: usize = 4096;
/// Turns of the runtime that the reader yields after a large message.
const LARGE_MESSAGE_YIELDS: usize = 16;
/// Connections on which one query may be sent, each closed before its response.
const MAX_CONNECTIONS_OF_QUERY: usize = 16;
/// Most of them that may be closed without a response to any query.
const MAX_FRUITLESS_CONNECTIONS: usize = 3;
/// Octets of a DNS header, the shortest message.
const MIN_MESSAGE_LEN: usize = 12;

/// The TCP connections to a server, and what it does with them.
#[derive(Debug)]
pub(in crate::upstream) struct Connections {
    server: SocketAddr,
    open: Mutex<Vec<Arc<Connection>>>,
    habits: Arc<Habits>,
}

/// Habits of a server with connections, as far as they are known.
#[derive(Debug, Default)]
struct Habits {
    order: Mutex<LearnedOrder>,
    capacity: Mutex<LearnedCapacity>,
    /// Notified when a connection has fewer queries in flight, or none any more.
    room: Notify,
}

/// One connection, which its first query opens.
#[derive(Debug)]
struct Connection {
    stream: OnceCell<OpenStream>,
    queries: Arc<ConnectionQueries>,
}

/// Stream of an open connection. Its task ends when this is dropped or the connection is closed.
#[derive(Debug)]
struct OpenStream {
    local: SocketAddr,
    writer: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Queries in flight on a connection, shared with the task that reads and writes it.
#[derive(Debug)]
struct ConnectionQueries {
    in_flight: Mutex<InFlightQueries<oneshot::Sender<Vec<u8>>>>,
    is_closed: AtomicBool,
    habits: Arc<Habits>,
}

impl ConnectionQueries {
    fn in_flight(&self) -> MutexGuard<'_, InFlightQueries<oneshot::Sender<Vec<u8>>>> {
        lock(&self.in_flight)
    }

    /// Hands a response to the query that waits for it.
    fn receive(&self, message: Vec<u8>) {
        let now = Instant::now();
        let Some(response) = self.in_flight().receive(question::message_id(&message), now) else { return };
        if let Some(order) = response.order {
            lock(&self.habits.order).record(order, now);
        }
        self.habits.room.notify_waiters();
        if let Some(receiver) = response.receiver {
            // The query may have been dropped meanwhile.
            let _ = receiver.send(message);
        }
    }

    /// Closes the connection for further queries.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Fails the queries in flight of a connection that has ended, which send themselves on another one.
    fn end(&self) {
        self.close();
        let now = Instant::now();
        // What it shows is known before they look for another one.
        let mut in_flight = self.in_flight();
        lock(&self.habits.capacity).record(in_flight.closed(), now);
        in_flight.clear();
        drop(in_flight);
        self.habits.room.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One query in flight. Its ID is free again when the response comes, or soon after this is dropped.
struct PendingQuery {
    connection: Arc<Connection>,
    id: u16,
    response: oneshot::Receiver<Vec<u8>>,
    /// Whether the server is sent the query, if not now then later.
    is_sent: bool,
}

impl PendingQuery {
    /// Registers a query on a connection.
    fn register(connection: Arc<Connection>, domain: Name, late_after: Duration, now: Instant) -> io::Result<Self> {
        let (sender, response) = oneshot::channel();
        let id = connection.queries.in_flight().register(domain, late_after, sender, now);
        let id = id.ok_or_else(|| io::Error::other("too many queries in flight on this connection"))?;
        Ok(Self { connection, id, response, is_sent: false })
    }
}

impl Drop for PendingQuery {
    fn drop(&mut self) {
        let mut in_flight = self.connection.queries.in_flight();
        if self.is_sent {
            in_flight.abandon(self.id);
        } else {
            in_flight.remove(self.id);
            drop(in_flight);
            self.connection.queries.habits.room.notify_waiters();
        }
    }
}

impl Connections {
    /// Creates the connections to `server`, none of them open.
    pub(in crate::upstream) fn new(server: SocketAddr) -> Self {
        Self { server, open: Mutex::default(), habits: Arc::default() }
    }

    /// Returns whether a connection is open: the server can be reached over TCP, whatever it responds.
    pub(in crate::upstream) fn has_open(&self) -> bool {
        let is_open = |connection: &Arc<Connection>| {
            connection.stream.initialized() && !connection.queries.is_closed.load(Ordering::Acquire)
        };
        lock(&self.open).iter().any(is_open)
    }

    /// Returns the number of responses after which the server closes a connection; `None` while no limit is known.
    pub(in crate::upstream) fn capacity(&self, now: Instant) -> Option<usize> {
        lock(&self.habits.capacity).get(now)
    }

    /// Sends `message`, for a name of this registered domain, under an ID of its own and returns the message that comes
    /// back under that ID; waits without a timeout. When the server closes a connection before it responds, the query
    /// goes on another one, as long as connections give any response. Packets are taken at `gate`, for this class.
    ///
    /// # Errors
    ///
    /// The server cannot be connected to, closes connections without a response, too many queries are in flight, or the
    /// budget has no room.
    async fn exchange(
        &self,
        message: &[u8],
        domain: Name,
        late_after: Duration,
        tap: &Tap,
        (gate, class): (&PacketGate, PacketClass),
    ) -> io::Result<Vec<u8>> {
        let mut fruitless = 0;
        for _ in 0..MAX_CONNECTIONS_OF_QUERY {
            let query = self.register(&domain, late_after).await?;
            let connection = query.connection.clone();
            let sent_at = Instant::now();
            if let Some(response) = self.exchange_on(query, message, tap, (gate, class)).await? {
                return Ok(response);
            }
            if sent_at.elapsed() >= IDLE_TIMEOUT {
                // It was closed here, as the server is silent.
                break;
            }
            fruitless += usize::from(!connection.queries.in_flight().has_response());
            if fruitless == MAX_FRUITLESS_CONNECTIONS {
                break;
            }
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }

    /// Registers a query on a connection, and waits for one where all are used up.
    async fn register(&self, domain: &Name, late_after: Duration) -> io::Result<PendingQuery> {
        loop {
            let mut room = pin!(self.habits.room.notified());
            // What happens from here on is not missed.
            room.as_mut().enable();
            if let Some(query) = self.try_register(domain, late_after)? {
                return Ok(query);
            }
            room.await;
        }
    }

    /// Registers a query on the connection that [`choose`] returns; `None` while it has to wait.
    fn try_register(&self, domain: &Name, late_after: Duration) -> io::Result<Option<PendingQuery>> {
        let now = Instant::now();
        let order = lock(&self.habits.order).get(now);
        let capacity = self.capacity(now);
        let mut open = lock(&self.open);
        open.retain(|connection| connection.is_usable(capacity));
        let loads: Vec<_> =
            open.iter().map(|connection| connection.queries.in_flight().load(domain, capacity, now)).collect();
        let connection = match choose(&loads, order) {
            ConnectionChoice::Existing(index) => open.get(index).cloned(),
            ConnectionChoice::New => None,
            ConnectionChoice::Wait => return Ok(None),
        };
        let connection = connection.unwrap_or_else(|| {
            let connection = Arc::new(Connection::new(self.habits.clone()));
            open.push(connection.clone());
            connection
        });
        PendingQuery::register(connection, domain.clone(), late_after, now).map(Some)
    }

    /// Writes a query and waits for its response; `None` when the connection is closed before.
    async fn exchange_on(
        &self,
        mut query: PendingQuery,
        message: &[u8],
        tap: &Tap,
        (gate, class): (&PacketGate, PacketClass),
    ) -> io::Result<Option<Vec<u8>>> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut framed = [&length.to_be_bytes()[..], message].concat();
        framed[2..4].copy_from_slice(&query.id.to_be_bytes());
        let connection = query.connection.clone();
        let OpenStream { local, writer, .. } = match connection.open(self.server, gate, class).await {
            Ok(stream) => stream,
            // The server reset it before this side knew that it was open.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        };
        let sampled =
            tap.sample_query(Side::Forwarder, Transport::Tcp, || Ok(*local), || Ok(self.server), &framed[2..]);
        let slot = gate.pass_query_over_tcp(class).await?;
        if writer.send(framed).await.is_err() {
            return Ok(None);
        }
        query.is_sent = true;
        let response = (&mut query.response).await.ok();
        gate.release(slot);
        if let (Some(sampled), Some(response)) = (&sampled, &response) {
            tap.sample_response(sampled, response);
        }
        Ok(response)
    }
}

impl Connection {
    /// Creates a connection that is not open.
    fn new(habits: Arc<Habits>) -> Self {
        let queries = ConnectionQueries { in_flight: Mutex::default(), is_closed: AtomicBool::new(false), habits };
        Self { stream: OnceCell::new(), queries: Arc::new(queries) }
    }

    /// Returns whether the connection is open, or about to be, and is not used up.
    fn is_usable(&self, capacity: Option<usize>) -> bool {
        !self.queries.is_closed.load(Ordering::Acquire) && !self.queries.in_flight().is_used_up(capacity)
    }

    /// Opens the connection to `server` if it is not open. Several queries wait for the same connection.
    async fn open(&self, server: SocketAddr, gate: &PacketGate, class: PacketClass) -> io::Result<&OpenStream> {
        let connect = || async {
            gate.pass_connection(class).await.inspect_err(|_| self.queries.close())?;
            let stream = TcpStream::connect(server).await.inspect_err(|_| self.queries.close())?;
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?;
            let (writer, queue) = mpsc::channel(WRITE_QUEUE_LEN);
            let task = tokio::spawn(run(server, stream, queue, self.queries.clone()));
            Ok(OpenStream { local, writer, task })
        };
        self.stream.get_or_try_init(connect).await
    }
}

/// Result of a query over TCP.
#[derive(Debug)]
pub(in crate::upstream) struct TcpExchange {
    pub(in crate::upstream) outcome: ExchangeOutcome,
    /// The response echoed the case of the name. Off-path attackers cannot forge a response over TCP, so this is a
    /// property of the server. `true` after an error without a question, which tells nothing about the case.
    pub(in crate::upstream) case_echoed: bool,
    /// The name of the query had capital letters (0x20).
    pub(in crate::upstream) is_mixed_case: bool,
}

/// Queries a server over TCP and waits for the outcome without a timeout. A response that takes longer than
/// `late_after` is late: queries that could be held up by it go to another connection. Packets are taken at the gate,
/// for this class.
///
/// # Errors
///
/// The server cannot be connected to, closes without a response, sends an invalid one, too many queries are in flight,
/// or the budget has no room.
pub(in crate::upstream) async fn query(
    connections: &Connections,
    question: &Question,
    format: QueryFormat,
    late_after: Duration,
    tap: &Tap,
    gate: (&PacketGate, PacketClass),
) -> io::Result<TcpExchange> {
    let message = format.encode(question, 0);
    let packet = connections.exchange(&message, question.name.registered_domain(), late_after, tap, gate).await?;
    let id = question::message_id(&packet);
    let name_len = question.name.as_bytes().len();
    let case_echoed = question::echoes_question(&message, name_len, &packet);
    let is_mixed_case = question::question_name(&message, name_len) != question.name.as_bytes();
    let invalid = |error: ResponseError| io::Error::new(io::ErrorKind::InvalidData, error);
    match Response::read(&packet, id, question) {
        Ok(response) if format.is_forged(&response) => Err(invalid(ResponseError::Malformed)),
        Ok(response) => {
            let response = format.restore_case(response, &message, name_len);
            Ok(TcpExchange { outcome: ExchangeOutcome::Response(response), case_echoed, is_mixed_case })
        }
        Err(error) => {
            let response = format.bare_error(question, error).ok_or_else(|| invalid(error))?;
            Ok(TcpExchange { outcome: ExchangeOutcome::Response(response), case_echoed: true, is_mixed_case })
        }
    }
}

/// Reads and writes an open connection until one side ends, then fails the queries still in flight.
async fn run(server: SocketAddr, stream: TcpStream, queue: mpsc::Receiver<Vec<u8>>, queries: Arc<ConnectionQueries>) {
    let (reader, writer) = stream.into_split();
    let mut reading = pin!(read_responses(reader, &queries));
    let result = tokio::select! {
        result = &mut reading => result,
        result = write_queries(writer, queue, &queries) => match result {
            Ok(()) => Ok(()),
            Err(error) => {
                queries.close();
                // The server sent responses before it closed the connection.
                reading.await.and(Err(error))
            }
        },
    };
    if let Err(error) = result {
        tracing::debug!(upstream = %server, %error, "TCP connection to upstream failed");
    }
    queries.end();
}

async fn read_responses(mut reader: OwnedReadHalf, queries: &ConnectionQueries) -> io::Result<()> {
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
        let yields = if message.len() > LARGE_MESSAGE_LEN { LARGE_MESSAGE_YIELDS } else { 0 };
        queries.receive(message);
        for _ in 0..yields {
            yield_now().await;
        }
    }
}

async fn write_queries(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    queries: &ConnectionQueries,
) -> io::Result<()> {
    while let Some(message) = queue.recv().await {
        queries.in_flight().record_written(question::message_id(message.get(2..).unwrap_or_default()));
        writer.write_all(&message).await?;
    }
    Ok(())
}
