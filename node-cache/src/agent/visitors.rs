//! Bounds for those who connect over HTTP. The port is open to the whole cluster, and the agent needs its file
//! descriptors for the addresses.

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

/// How many are attended to at one time; more of them wait outside.
const AT_ONCE: usize = 32;
/// How long a connection may last, busy or not.
const STAY: Duration = Duration::from_secs(30);

/// A listener that lets in a bounded number, each for a bounded time.
#[derive(Debug)]
pub(super) struct Visitors {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Visitors {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Listener for Visitors {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    return (Visitor { stream, closing_time: Box::pin(sleep(STAY)), _place: place }, address);
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
pub(super) struct Visitor {
    stream: TcpStream,
    closing_time: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Visitor {
    /// The stream, as long as there is time.
    fn stream(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.closing_time.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Visitor {
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
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_more_visitor_waits_until_a_place_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut visitors = Visitors::new(listener);
        let mut inside = Vec::new();
        let mut callers = Vec::new();
        for _ in 0..AT_ONCE {
            callers.push(TcpStream::connect(address).await.unwrap());
            inside.push(visitors.accept().await);
        }
        callers.push(TcpStream::connect(address).await.unwrap());
        assert!(timeout(Duration::from_millis(50), visitors.accept()).await.is_err());
        drop(inside.pop());
        timeout(Duration::from_secs(3), visitors.accept()).await.unwrap();
    }

    #[tokio::test]
    async fn a_visitor_who_stays_too_long_is_sent_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut caller = TcpStream::connect(address).await.unwrap();
        let (mut visitor, _) = Visitors::new(listener).accept().await;
        caller.write_all(b"G").await.unwrap();
        assert_eq!(visitor.read_u8().await.unwrap(), b'G');
        tokio::time::pause();
        let error = visitor.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
