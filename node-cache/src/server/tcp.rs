//! DNS over TCP (RFC 7766): pipelined queries, answered out of order, as soon as each response is there.

mod connection;
mod framing;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::shared::Shared;
use super::worker_context;

use crate::dns::codes::class;
use crate::dns::query::Transport;
use crate::dns::request::Rejection;
use crate::metrics::DropReason;
use connection::{Connection, UnwrittenResponse};

/// Time between an error of accepting (no descriptor left, say) and the next try.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Serves the connections of a listener. Other workers, and other processes, may accept there too.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => accept(&shared, stream, client),
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, stream: TcpStream, client: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    if !shared.permits(client, local.ip()) {
        return;
    }
    let Some((permit, eviction)) = shared.connections.admit(client, Instant::now()) else {
        return shared.metrics().count_drop(DropReason::ConnectionLimit);
    };
    let connection = Connection::new(shared.clone(), client, permit);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = eviction => {
                connection.shared.metrics().count_drop(DropReason::ConnectionLimit);
                connection.close();
            }
            result = serve_connection(&connection, stream) => {
                if let Err(error) = result {
                    tracing::debug!(%client, %error, "connection failed");
                }
            }
        }
        // Queries in flight may keep the connection's state for longer.
        connection.permit.release();
    });
}

/// Reads queries until the client sends no more, and writes responses until the last one is written.
async fn serve_connection(connection: &Arc<Connection>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Both halves stay open until both are done: closing one could reset the connection before all is delivered.
    let (mut read_half, write_half) = stream.split();
    let read = async {
        let result = read_queries(connection, &mut read_half).await;
        connection.stop_reading();
        result
    };
    let (read_result, write_result) = tokio::join!(read, write_responses(connection, write_half));
    write_result.and(read_result)
}

async fn read_queries(connection: &Arc<Connection>, read_half: &mut ReadHalf<'_>) -> io::Result<()> {
    let limits = &connection.shared.limits;
    let mut first_byte_timeout = limits.first_byte_timeout;
    while connection.wait_until_readable().await {
        let message = tokio::select! {
            message = framing::read_message(read_half, first_byte_timeout, limits.message_timeout) => message,
            () = connection.reading_stopped() => return Ok(()),
        };
        let message = message.inspect_err(|_| connection.shared.metrics().count_drop(DropReason::Incomplete))?;
        let Some(message) = message else { return Ok(()) };
        if !handle_query(connection, &message, read_half) {
            return Ok(());
        }
        first_byte_timeout = limits.idle_timeout;
    }
    Ok(())
}

/// Handles a query. Adds a query task when it has to wait for upstreams. Returns `false` when it gets no response: the
/// connection is closed then, so that the client does not wait for one.
fn handle_query(connection: &Arc<Connection>, message: &[u8], read_half: &ReadHalf<'_>) -> bool {
    let Connection { shared, client, .. } = &**connection;
    let sample = || shared.tap_query(message, *client, || read_half.local_addr(), Transport::Tcp);
    let query = match shared.parse(message, *client, Transport::Tcp) {
        Ok(query) => query,
        Err(Rejection::Drop) => return false,
        Err(Rejection::Respond { message: response, .. }) => {
            connection.query_started();
            connection.queue_response(response, sample().as_deref());
            return true;
        }
    };
    if let Ok(local) = read_half.local_addr() {
        shared.tcp_queries.count(local.ip());
        if query.class == class::CH {
            shared.health_checks.count(local.ip());
        }
    }
    let sampled = sample();
    let transport = shared.limits.idle_timeout;
    let miss = match shared.resolver.resolve_from_cache(&query, None) {
        Ok(answer) => {
            connection.query_started();
            connection.queue_response(answer.to_tcp_wire(&query, transport), sampled.as_deref());
            return true;
        }
        Err(miss) => miss,
    };
    let permit = match shared.acquire_waiting_query(*client, &query, &miss) {
        Ok(permit) => permit,
        Err(None) => return false,
        Err(Some(answer)) => {
            connection.query_started();
            connection.queue_response(answer.to_tcp_wire(&query, transport), sampled.as_deref());
            return true;
        }
    };
    connection.query_started();
    let connection = connection.clone();
    worker_context::spawn_query_task(async move {
        let (answer, _deferred_store) = connection.shared.resolver.resolve_miss(&query, miss).await;
        connection.queue_response(answer.to_tcp_wire(&query, transport), sampled.as_deref());
        drop(permit);
    });
    worker_context::drive_query_tasks();
    true
}

/// Writes responses until there will be no more, or until the client does not take one in time.
async fn write_responses(connection: &Connection, mut write_half: WriteHalf<'_>) -> io::Result<()> {
    let timeout = connection.shared.limits.message_timeout;
    while let Some(UnwrittenResponse { message, permit }) = connection.next_unwritten().await {
        if let Err(error) = framing::write_message(&mut write_half, &message, timeout).await {
            connection.abort_writes();
            return Err(error);
        }
        connection.response_written();
        drop(permit);
    }
    Ok(())
}
