//! Connections (RFC 7766): many questions at once, answered in the order in which the answers come.

mod connection;
mod framing;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::Shared;
use super::query_tasks;
use crate::dns::answer::ReplyTransport;
use crate::dns::query::Transport;
use crate::dns::request::Rejection;
use crate::metrics::Dropped;
use connection::Connection;

/// After an error of accepting (no descriptor left, say), before the next try.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers on the connections that come in at `listener`. Other processes may accept there too.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => accept(&shared, stream, source),
            Err(error) => {
                tracing::debug!("accepting: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, stream: TcpStream, source: SocketAddr) {
    let Ok(own) = stream.local_addr() else { return };
    if !shared.permits(source, own.ip()) {
        return;
    }
    let Ok(share) = shared.connections.take(source) else {
        return shared.metrics().dropped(Dropped::Connections);
    };
    let conversation = Connection::new(shared.clone(), source);
    tokio::spawn(async move {
        if let Err(error) = converse(&conversation, stream).await {
            tracing::debug!("{source}: {error}");
        }
        drop(share);
    });
}

/// Reads questions until the client has no more, and writes answers until the last is written.
async fn converse(conversation: &Arc<Connection>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Both halves stay open until both are done: closing one could reset away what is written.
    let (mut read, write) = stream.split();
    let reading = async {
        let read = read_all(conversation, &mut read).await;
        conversation.stop_reading();
        read
    };
    let (read, written) = tokio::join!(reading, write_all(conversation, write));
    written.and(read)
}

async fn read_all(conversation: &Arc<Connection>, read: &mut ReadHalf<'_>) -> io::Result<()> {
    let limits = &conversation.shared.limits;
    let mut patience = limits.first_byte;
    while conversation.may_read().await {
        let message = tokio::select! {
            message = framing::read(read, patience, limits.whole_message) => message,
            () = conversation.reading_stopped() => return Ok(()),
        };
        let message = message.inspect_err(|_| conversation.shared.metrics().dropped(Dropped::Incomplete))?;
        let Some(message) = message else { return Ok(()) };
        if !take(conversation, &message, read) {
            return Ok(());
        }
        patience = limits.idle;
    }
    Ok(())
}

/// Answers what can be answered at once; what takes longer goes on by itself. False when there will be no answer, so that
/// the client is better off without the connection.
fn take(conversation: &Arc<Connection>, message: &[u8], read: &ReadHalf<'_>) -> bool {
    let Connection { shared, source, .. } = &**conversation;
    let show = || shared.show(message, *source, || read.local_addr(), Transport::Tcp);
    let query = match shared.read(message, *source, Transport::Tcp) {
        Ok(query) => query,
        Err(Rejection::Drop) => return false,
        Err(Rejection::Respond(answer, _)) => {
            conversation.begin();
            conversation.answer(answer, show().as_deref());
            return true;
        }
    };
    let (shown, way) = (show(), ReplyTransport::Tcp { idle: shared.limits.idle });
    let unresolved = match shared.resolver.resolve_from_cache(&query, None) {
        Ok(answer) => {
            conversation.begin();
            conversation.answer(answer.to_wire(&query, way), shown.as_deref());
            return true;
        }
        Err(unresolved) => unresolved,
    };
    let Some(working) = shared.begin(*source) else { return false };
    conversation.begin();
    let conversation = conversation.clone();
    query_tasks::add(async move {
        let (answer, _afterwards) = conversation.shared.resolver.resolve_miss(&query, unresolved).await;
        conversation.answer(answer.to_wire(&query, way), shown.as_deref());
        drop(working);
    });
    query_tasks::go();
    true
}

/// Writes answers until there is none any more, or one that the client does not take.
async fn write_all(conversation: &Connection, mut write: WriteHalf<'_>) -> io::Result<()> {
    let limit = conversation.shared.limits.whole_message;
    while let Some((message, _room)) = conversation.next().await {
        if let Err(error) = framing::write(&mut write, &message, limit).await {
            conversation.abort_writes();
            return Err(error);
        }
        conversation.written();
    }
    Ok(())
}
