//! Datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::{InWork, Shared};
use crate::answer::{Answer, udp_limit};
use crate::metrics::{Dropped, Transport};
use crate::packet::request::{self, Rejected};
use crate::query::Query;

/// Longer questions than this are cut off on reading and so malformed: a name, a type and some options fit well.
const LONGEST: usize = 4096;

/// Answers what comes in at `socket`. The socket may be read by other processes too, each datagram by one of them.
pub(super) async fn serve(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let own = match socket.local_addr() {
        Ok(address) => address.ip(),
        Err(error) => {
            tracing::error!("a socket without an address: {error}");
            return;
        }
    };
    let mut buffer = [0; LONGEST];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, source)) => take(&shared, &socket, own, &buffer[..length], source),
            // An error of a packet sent before (a client that is gone), or of the moment.
            Err(error) => {
                tracing::debug!("{own}: {error}");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Answers from memory at once; what takes longer goes on by itself.
fn take(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, own: IpAddr, packet: &[u8], source: SocketAddr) {
    // Nothing can be sent to port 0.
    if source.port() == 0 || !shared.permits(source, own) {
        return;
    }
    let query = match request::read(packet) {
        Ok(query) => query,
        Err(Rejected::Silently) => return shared.metrics().dropped(Dropped::NotARequest),
        Err(Rejected::With(answer)) => {
            shared.metrics().question(Transport::Udp);
            return send(socket, &answer, source);
        }
    };
    shared.metrics().question(Transport::Udp);
    if let Some(answer) = shared.resolver.resolve_at_once(&query) {
        return send(socket, &wire(&answer, &query), source);
    }
    let Some(working) = InWork::begin(shared) else { return };
    let (shared, socket) = (shared.clone(), socket.clone());
    tokio::spawn(async move {
        let answer = shared.resolve(&query).await;
        send(&socket, &wire(&answer, &query), source);
        drop(working);
    });
}

fn wire(answer: &Answer, query: &Query) -> Vec<u8> {
    answer.to_wire(query, udp_limit(query))
}

/// Sends without waiting: a full send buffer loses a datagram as any other queue on its way would.
fn send(socket: &UdpSocket, message: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(message, client) {
        tracing::debug!("{client}: {error}");
    }
}
