//! One bounded HTTP request: two seconds, one mebibyte, no redirect, no reuse of connections.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(2);
const MOST_BYTES: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// It took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Late,
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[source] std::io::Error),
    /// The other side does not speak HTTP as it should.
    #[error("not understood: {0}")]
    Protocol(#[source] hyper::Error),
    /// The request cannot be written.
    #[error("no request: {0}")]
    Request(#[source] hyper::http::Error),
    /// Another status than 200.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// The body is too long or ends early.
    #[error("body not read: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Fetches a path.
///
/// # Errors
///
/// [`HttpError`] when there is no answer with status 200 of at most a mebibyte within two seconds.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<Bytes, HttpError> {
    tokio::time::timeout(TIMEOUT, exchange(address, path)).await.unwrap_or(Err(HttpError::Late))
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Bytes, HttpError> {
    let stream = TcpStream::connect(address).await.map_err(HttpError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Protocol)?;
    let request =
        Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new()).map_err(HttpError::Request)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(HttpError::Protocol)?;
        if response.status() != StatusCode::OK {
            return Err(HttpError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(HttpError::Body)?;
        Ok(body.to_bytes())
    };
    // The connection has to be driven, and goes away with this future.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(HttpError::Protocol(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn serving(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            let _ = stream.write_all(&answer).await;
        });
        address
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_end() {
        let address = serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec()).await;
        assert_eq!(get(address, "/status").await.unwrap(), "{}");
        let address = serving(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}".to_vec()).await;
        assert_eq!(get(address, "/status").await.unwrap(), "{}");
    }

    #[tokio::test]
    async fn a_body_without_end_is_given_up() {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n".to_vec();
        answer.resize(9_000_000, b' ');
        let address = serving(answer).await;
        assert!(matches!(get(address, "/status").await, Err(HttpError::Body(_))));
    }

    #[tokio::test]
    async fn another_status_is_no_answer() {
        let address = serving(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
        assert!(matches!(get(address, "/status").await, Err(HttpError::Status(StatusCode::NOT_FOUND))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_says_nothing_costs_two_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(matches!(get(listener.local_addr().unwrap(), "/status").await, Err(HttpError::Late)));
        assert_eq!(before.elapsed(), TIMEOUT);
    }
}
