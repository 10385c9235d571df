//! Queries of an attempt over TCP, and what they show about whether a server is open over TCP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::dns::question::Question;
use crate::metrics::PacketClass;
use crate::upstream::server::Server;
use crate::upstream::transport::gate::BUDGET_EXHAUSTED;
use crate::upstream::transport::query_format::QueryFormat;
use crate::upstream::transport::tcp::{self, TcpExchange};

/// Timeout of a query over TCP that is repeated over UDP without a response.
const TCP_FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// Time in which a connection to a server has to be open after a truncated response; otherwise TCP counts as closed,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// and while it does.
const CLOSED_CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

/// Boxed future.
pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Queries a server of protocol UDP over TCP; `None` when it does not respond within a second.
pub(super) async fn query_over_tcp_first(
    server: Arc<Server>,
    question: Arc<Question>,
    format: QueryFormat,
    class: PacketClass,
) -> Option<TcpExchange> {
    let query = query_over_tcp(server.clone(), question, format, class);
    match timeout(TCP_FIRST_TIMEOUT, query).await {
        Ok(Ok(exchange)) => {
            // A response over UDP can be forged. One over TCP proves that the server itself does not echo the case.
            if !exchange.case_echoed {
                server.record_case_not_echoed();
            }
            Some(exchange)
        }
        Ok(Err(error)) if is_no_sign_of_closed_tcp(&error) => None,
        // A server that is connected and silent is open over TCP: its silence may be that of the name.
        Ok(Err(_)) | Err(_) => {
            if !server.connections().has_open() {
                server.record_tcp_closed();
            }
            None
        }
    }
}

/// Queries a server of protocol UDP over TCP, and waits for the response as long as a connection is open; `None` when
/// none is open within a second, or the query fails on it.
pub(super) async fn repeat_over_tcp(
    server: Arc<Server>,
    question: Arc<Question>,
    format: QueryFormat,
    class: PacketClass,
) -> Option<TcpExchange> {
    let query = query_over_tcp(server.clone(), question, format, class);
    let exchange = with_connect_timeout(server.clone(), query).await.ok()?;
    if !exchange.case_echoed {
        server.record_case_not_echoed();
    }
    Some(exchange)
}

/// Ends a query over TCP after a truncated response when no connection is open in time: the server is closed over TCP.
pub(super) async fn with_connect_timeout(
    server: Arc<Server>,
    mut query: BoxFuture<io::Result<TcpExchange>>,
) -> io::Result<TcpExchange> {
    let connect_timeout = if server.is_tcp_usable() { CONNECT_TIMEOUT } else { CLOSED_CONNECT_TIMEOUT };
    let result = match timeout(connect_timeout, &mut query).await {
        Ok(result) => result,
        Err(_) if server.connections().has_open() => return query.await,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    if result.as_ref().is_err_and(|error| !is_no_sign_of_closed_tcp(error)) && !server.connections().has_open() {
        server.record_tcp_closed();
    }
    result
}

/// Returns whether an error of a query over TCP says nothing about whether the server is open over TCP.
fn is_no_sign_of_closed_tcp(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | BUDGET_EXHAUSTED)
}

/// Queries a server over TCP.
pub(super) fn query_over_tcp(
    server: Arc<Server>,
    question: Arc<Question>,
    format: QueryFormat,
    class: PacketClass,
) -> BoxFuture<io::Result<TcpExchange>> {
    let late_after = tcp::late_after(server.p95());
    Box::pin(async move {
        let gate = (server.gate(), class);
        tcp::query(server.connections(), &question, format, late_after, server.tap(), gate).await
    })
}
