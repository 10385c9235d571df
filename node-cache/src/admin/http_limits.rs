//! Limits of HTTP connections to the status port. The port is open to the whole cluster, while a process needs its file
//! descriptors for DNS, and no client may keep the kubelet from its probes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

use crate::connection_table::{ConnectionLimits, ConnectionPermit, ConnectionTable, Eviction};

/// Connections at one time, but for those of the node.
const MAX_CONNECTIONS: usize = 32;
/// Connections of one client address at one time.
const MAX_CONNECTIONS_PER_CLIENT: usize = 4;
/// Connections of the node's own addresses at one time. No other client takes one of these places.
const MAX_NODE_CONNECTIONS: usize = 8;
/// Time without a byte of a response after which a connection may be closed for any new one.
const MIN_EVICTION_IDLE_TIME: Duration = Duration::from_secs(1);
/// Longest duration of a connection, busy or idle.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes that are read from one connection. A request has a few hundred, and a connection serves a few requests.
const MAX_READ_BYTES: usize = 16 << 10;
/// Wait after a failed `accept`, such as one for lack of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// TCP listener that bounds the number of connections, in total and per client address, and the duration of each.
///
/// Connections are accepted at once and never wait for a place: a new one is admitted, in place of an open one if need
/// be, or closed. A connection counts as idle since its last byte of a response, or since it was accepted.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    /// Addresses from which the kubelet may connect.
    node_addresses: Vec<IpAddr>,
    node_connections: Arc<ConnectionTable>,
    other_connections: Arc<ConnectionTable>,
}

impl LimitedListener {
    /// Limits the connections of `listener`. Connections from `node_addresses` have places of their own.
    pub(crate) fn new(listener: TcpListener, node_addresses: Vec<IpAddr>) -> Self {
        let table = |max_total, max_per_client| {
            let min_idle = MIN_EVICTION_IDLE_TIME;
            ConnectionTable::new(ConnectionLimits { max_total, max_per_client, min_share: 1, min_idle })
        };
        Self {
            listener,
            node_addresses,
            node_connections: table(MAX_NODE_CONNECTIONS, MAX_NODE_CONNECTIONS),
            other_connections: table(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT),
        }
    }

    /// Returns the table that has the places of a client's connections.
    fn table_of(&self, client: SocketAddr) -> &Arc<ConnectionTable> {
        if self.node_addresses.contains(&client.ip().to_canonical()) {
            &self.node_connections
        } else {
            &self.other_connections
        }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    let Some((permit, eviction)) = self.table_of(client).admit(client, Instant::now()) else {
                        continue;
                    };
                    let limited = LimitedStream {
                        stream,
                        deadline: Box::pin(sleep(CONNECTION_TIMEOUT)),
                        remaining_bytes: MAX_READ_BYTES,
                        permit,
                        eviction: Some(eviction),
                    };
                    return (limited, client);
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an HTTP connection to the status port");
                    sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// TCP stream with a deadline and a bound on the bytes read. Past the deadline every operation fails with `TimedOut`,
/// past the bound reads fail with `QuotaExceeded`, and once the connection has lost its place to another one, all
/// operations fail with `ConnectionAborted`.
#[derive(Debug)]
pub(crate) struct LimitedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// Bytes that may still be read.
    remaining_bytes: usize,
    permit: ConnectionPermit,
    /// `None` after it has completed.
    eviction: Option<Eviction>,
}

impl LimitedStream {
    /// Returns the stream, `TimedOut` past the deadline, or `ConnectionAborted` after an eviction.
    fn before_deadline(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if let Some(eviction) = &mut self.eviction
            && Pin::new(eviction).poll(context).is_ready()
        {
            self.eviction = None;
        }
        if self.eviction.is_none() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.before_deadline(context)?.poll_read(context, buffer);
        match self.remaining_bytes.checked_sub(buffer.filled().len() - before) {
            Some(remaining) => self.remaining_bytes = remaining,
            None => {
                buffer.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
            }
        }
        read
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.before_deadline(context)?.poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.permit.set_idle(Instant::now());
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.before_deadline(context)?.poll_write_vectored(context, buffers);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.permit.set_idle(Instant::now());
        }
        written
    }

    /// Returns true: connections share the text of a page instead of a copy for each.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.before_deadline(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio::time::timeout;

    use super::*;

    /// Address of the kubelet in these tests.
    const KUBELET: usize = 250;

    fn client_address(client: usize) -> IpAddr {
        IpAddr::from([127, 0, 9, 1 + client as u8])
    }

    fn limited(listener: TcpListener) -> LimitedListener {
        LimitedListener::new(listener, vec![client_address(KUBELET)])
    }

    /// Connects from the client address with this index.
    async fn connect_from(client: usize, server: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client_address(client), 0)).unwrap();
        socket.connect(server).await.unwrap()
    }

    #[tokio::test]
    async fn one_client_address_cannot_take_the_connections_of_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = limited(listener);
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..MAX_CONNECTIONS_PER_CLIENT {
            clients.push(connect_from(0, address).await);
            accepted.push(listener.accept().await);
        }
        for _ in 0..100 {
            clients.push(connect_from(0, address).await);
        }
        clients.push(connect_from(1, address).await);
        let (_stream, from) = timeout(Duration::from_secs(5), listener.accept()).await.unwrap();
        assert_eq!(from.ip(), clients.last().unwrap().local_addr().unwrap().ip());
        let rejected = &mut clients[MAX_CONNECTIONS_PER_CLIENT];
        assert!(timeout(Duration::from_secs(5), rejected.read_u8()).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_connection_that_sends_too_much_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = limited(listener).accept().await;
        let sending = tokio::spawn(async move { client.write_all(&vec![b'x'; MAX_READ_BYTES + 1]).await });
        let mut received = Vec::new();
        let error = stream.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        drop(stream);
        // The client may have written everything before the connection was closed.
        let _ = sending.await.unwrap();
    }

    /// Accepts connections in the background and echoes each byte; returns the address.
    async fn serve_echo() -> SocketAddr {
        let mut listener = limited(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await;
                tokio::spawn(async move {
                    let mut first = [0];
                    while stream.read_exact(&mut first).await.is_ok() {
                        let _ = stream.write_all(&first).await;
                    }
                });
            }
        });
        address
    }

    /// Returns whether the server echoes a byte on this connection.
    async fn is_served(stream: &mut TcpStream) -> bool {
        let echo = async {
            stream.write_all(b"x").await?;
            stream.read_u8().await
        };
        timeout(Duration::from_secs(5), echo).await.is_ok_and(|echoed| echoed.is_ok())
    }

    #[tokio::test]
    async fn the_kubelet_has_a_place_while_all_others_are_taken() {
        let address = serve_echo().await;
        let mut clients = Vec::new();
        for number in 0..MAX_CONNECTIONS * 4 {
            clients.push(connect_from(number % MAX_CONNECTIONS, address).await);
        }
        let mut probes = Vec::new();
        for _ in 0..MAX_NODE_CONNECTIONS / 2 {
            let mut probe = connect_from(KUBELET, address).await;
            assert!(is_served(&mut probe).await);
            probes.push(probe);
        }
    }

    #[tokio::test]
    async fn a_client_without_a_connection_takes_the_place_of_a_silent_one_of_the_client_with_the_most() {
        let address = serve_echo().await;
        let mut silent = Vec::new();
        for number in 0..MAX_CONNECTIONS {
            silent.push(connect_from(number / MAX_CONNECTIONS_PER_CLIENT, address).await);
        }
        for number in 0..4 {
            let mut other = connect_from(100 + number, address).await;
            assert!(is_served(&mut other).await, "client {number}");
        }
    }

    #[tokio::test]
    async fn a_client_alone_keeps_its_connection_while_others_come_and_go() {
        let address = serve_echo().await;
        let mut alone = connect_from(100, address).await;
        assert!(is_served(&mut alone).await);
        let mut silent = Vec::new();
        for number in 0..MAX_CONNECTIONS * 4 {
            silent.push(connect_from(number % 8, address).await);
        }
        assert!(is_served(&mut alone).await);
    }

    #[tokio::test]
    async fn a_connection_that_lasts_too_long_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = limited(listener).accept().await;
        client.write_all(b"G").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'G');
        tokio::time::pause();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
