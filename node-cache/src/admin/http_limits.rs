//! Limits of HTTP connections to the status port. The port is open to the whole cluster, while a process needs its file
//! descriptors for DNS, and no client may keep the kubelet from its probes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::limits::{ClientLimiter, Permit};

/// Connections at one time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 32;
/// Connections of one client address at one time; further ones are closed at once.
const MAX_CONNECTIONS_PER_CLIENT: usize = 4;
/// Longest duration of a connection, busy or idle.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes that are read from one connection. A request has a few hundred, and a connection serves a few requests.
const MAX_READ_BYTES: usize = 16 << 10;
/// Wait after a failed `accept`, such as one for lack of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// TCP listener that bounds the number of connections, in total and per client address, and the duration of each.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    connections: Arc<Semaphore>,
    per_client: Arc<ClientLimiter>,
}

impl LimitedListener {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            per_client: ClientLimiter::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT),
        }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        // Acquiring fails on a closed semaphore only, and this one is never closed.
        let total_permit = Arc::clone(&self.connections).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let Ok(client_permit) = self.per_client.acquire(address) else { continue };
                    let limited = LimitedStream {
                        stream,
                        deadline: Box::pin(sleep(CONNECTION_TIMEOUT)),
                        remaining_bytes: MAX_READ_BYTES,
                        _client_permit: client_permit,
                        _total_permit: total_permit,
                    };
                    return (limited, address);
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
/// past the bound reads fail with `QuotaExceeded`.
#[derive(Debug)]
pub(crate) struct LimitedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// Bytes that may still be read.
    remaining_bytes: usize,
    _client_permit: Permit,
    _total_permit: Option<OwnedSemaphorePermit>,
}

impl LimitedStream {
    /// Returns the stream, or `TimedOut` past the deadline.
    fn before_deadline(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
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
        self.before_deadline(context)?.poll_write(context, bytes)
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

    /// Connects from the client address with this index.
    async fn connect_from(client: usize, server: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 9, 1 + client as u8], 0))).unwrap();
        socket.connect(server).await.unwrap()
    }

    #[tokio::test]
    async fn one_client_address_cannot_take_the_connections_of_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = LimitedListener::new(listener);
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
        let (mut stream, _) = LimitedListener::new(listener).accept().await;
        let sending = tokio::spawn(async move { client.write_all(&vec![b'x'; MAX_READ_BYTES + 1]).await });
        let mut received = Vec::new();
        let error = stream.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        drop(stream);
        // The client may have written everything before the connection was closed.
        let _ = sending.await.unwrap();
    }

    #[tokio::test]
    async fn one_more_connection_waits_until_another_one_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = LimitedListener::new(listener);
        let mut accepted = Vec::new();
        let mut clients = Vec::new();
        for number in 0..MAX_CONNECTIONS {
            clients.push(connect_from(number / MAX_CONNECTIONS_PER_CLIENT, address).await);
            accepted.push(listener.accept().await);
        }
        clients.push(connect_from(MAX_CONNECTIONS, address).await);
        assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
        drop(accepted.pop());
        timeout(Duration::from_secs(3), listener.accept()).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_lasts_too_long_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = LimitedListener::new(listener).accept().await;
        client.write_all(b"G").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'G');
        tokio::time::pause();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
