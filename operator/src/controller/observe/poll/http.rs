//! HTTP GET from a pod, bounded in time and to one mebibyte, without redirects or reuse of connections.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_BODY_BYTES: usize = 1 << 20;

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No response within this time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[source] std::io::Error),
    /// A response that is not valid HTTP, or a connection that was lost.
    #[error("not understood: {0}")]
    Protocol(#[source] hyper::Error),
    /// A request that cannot be built.
    #[error("no request: {0}")]
    BuildRequest(#[source] hyper::http::Error),
    /// A status other than 200.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// A body that is too long or ends early.
    #[error("body not read: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Fetches a path and returns the body.
///
/// # Errors
///
/// [`HttpError`] without a response of status 200 and at most a mebibyte within two seconds.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<Bytes, HttpError> {
    get_within(REQUEST_TIMEOUT, address, path).await
}

/// Fetches a path within a time limit and returns the body.
///
/// # Errors
///
/// [`HttpError`] without a response of status 200 and at most a mebibyte in time.
pub(crate) async fn get_within(limit: Duration, address: SocketAddr, path: &str) -> Result<Bytes, HttpError> {
    tokio::time::timeout(limit, send_request(address, path)).await.unwrap_or(Err(HttpError::Timeout(limit)))
}

async fn send_request(address: SocketAddr, path: &str) -> Result<Bytes, HttpError> {
    let stream = TcpStream::connect(address).await.map_err(HttpError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Protocol)?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(HttpError::BuildRequest)?;
    let response = async {
        let response = sender.send_request(request).await.map_err(HttpError::Protocol)?;
        if response.status() != StatusCode::OK {
            return Err(HttpError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await.map_err(HttpError::Body)?;
        Ok(body.to_bytes())
    };
    // The connection makes progress only while it is polled; it is closed when this future is dropped.
    tokio::pin!(response, connection);
    tokio::select! {
        biased;
        body = &mut response => body,
        closed = &mut connection => match closed {
            Ok(()) => response.await,
            Err(error) => Err(HttpError::Protocol(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn serve_once(response: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            let _ = stream.write_all(&response).await;
        });
        address
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_end() {
        let address = serve_once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec()).await;
        assert_eq!(get(address, "/status").await.unwrap(), "{}");
        let address = serve_once(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}".to_vec()).await;
        assert_eq!(get(address, "/status").await.unwrap(), "{}");
    }

    #[tokio::test]
    async fn a_body_without_end_is_given_up() {
        let mut response = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n".to_vec();
        response.resize(9_000_000, b' ');
        let address = serve_once(response).await;
        assert!(matches!(get(address, "/status").await, Err(HttpError::Body(_))));
    }

    #[tokio::test]
    async fn another_status_is_no_answer() {
        let address = serve_once(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
        assert!(matches!(get(address, "/status").await, Err(HttpError::Status(StatusCode::NOT_FOUND))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_says_nothing_costs_two_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(matches!(get(listener.local_addr().unwrap(), "/status").await, Err(HttpError::Timeout(_))));
        assert_eq!(before.elapsed(), REQUEST_TIMEOUT);
    }
}
