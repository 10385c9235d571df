//! Bounds for those who connect over HTTP. The port is open to the whole cluster, and a process needs its file descriptors
//! for other things; nobody may keep the kubelet from asking whether it lives.

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

/// How many are attended to at one time; more of them wait outside.
const AT_ONCE: usize = 32;
/// How many of them may come from one address; more of those are sent away at once.
const AT_ONCE_OF_ONE: usize = 4;
/// How long a connection may last, busy or not.
const STAY: Duration = Duration::from_secs(10);
/// The most octets that are read of one. A request has a few hundred, and a connection serves a few.
const MOST_READ: usize = 16 << 10;

/// A listener that lets in a bounded number, each for a bounded time.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    shares: Arc<ClientLimiter>,
}

impl LimitedListener {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            shares: ClientLimiter::new(AT_ONCE, AT_ONCE_OF_ONE),
        }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let Ok(share) = self.shares.take(address) else { continue };
                    let closing_time = Box::pin(sleep(STAY));
                    return (
                        LimitedStream { stream, closing_time, left: MOST_READ, _place: place, _share: share },
                        address,
                    );
                }
                Err(error) => {
                    tracing::debug!("status and metrics: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over.
#[derive(Debug)]
pub(crate) struct LimitedStream {
    stream: TcpStream,
    closing_time: Pin<Box<Sleep>>,
    left: usize,
    _share: Permit,
    _place: Option<OwnedSemaphorePermit>,
}

impl LimitedStream {
    /// The stream, as long as there is time.
    fn stream(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.closing_time.as_mut().poll(context) {
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
        let read = self.stream(context)?.poll_read(context, buffer);
        match self.left.checked_sub(buffer.filled().len() - before) {
            Some(left) => self.left = left,
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
        self.stream(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_flush(context)
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

    /// A connection from one of many addresses.
    async fn call(number: usize, address: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 9, 1 + number as u8], 0))).unwrap();
        socket.connect(address).await.unwrap()
    }

    #[tokio::test]
    async fn one_address_cannot_take_the_places_of_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut visitors = LimitedListener::new(listener);
        let (mut callers, mut inside) = (Vec::new(), Vec::new());
        for _ in 0..AT_ONCE_OF_ONE {
            callers.push(call(0, address).await);
            inside.push(visitors.accept().await);
        }
        for _ in 0..100 {
            callers.push(call(0, address).await);
        }
        callers.push(call(1, address).await);
        let (_visitor, from) = timeout(Duration::from_secs(5), visitors.accept()).await.unwrap();
        assert_eq!(from.ip(), callers.last().unwrap().local_addr().unwrap().ip());
        let sent_away = &mut callers[AT_ONCE_OF_ONE];
        assert!(timeout(Duration::from_secs(5), sent_away.read_u8()).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_visitor_who_talks_too_much_is_sent_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut visitor, _) = LimitedListener::new(listener).accept().await;
        let talking = tokio::spawn(async move { caller.write_all(&vec![b'x'; MOST_READ + 1]).await });
        let mut heard = Vec::new();
        let error = visitor.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        drop(visitor);
        // It may have written all before it was cut off.
        let _ = talking.await.unwrap();
    }

    #[tokio::test]
    async fn one_more_visitor_waits_until_a_place_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut visitors = LimitedListener::new(listener);
        let mut inside = Vec::new();
        let mut callers = Vec::new();
        for number in 0..AT_ONCE {
            callers.push(call(number / AT_ONCE_OF_ONE, address).await);
            inside.push(visitors.accept().await);
        }
        callers.push(call(AT_ONCE, address).await);
        assert!(timeout(Duration::from_millis(50), visitors.accept()).await.is_err());
        drop(inside.pop());
        timeout(Duration::from_secs(3), visitors.accept()).await.unwrap();
    }

    #[tokio::test]
    async fn a_visitor_who_stays_too_long_is_sent_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut caller = TcpStream::connect(address).await.unwrap();
        let (mut visitor, _) = LimitedListener::new(listener).accept().await;
        caller.write_all(b"G").await.unwrap();
        assert_eq!(visitor.read_u8().await.unwrap(), b'G');
        tokio::time::pause();
        let error = visitor.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
