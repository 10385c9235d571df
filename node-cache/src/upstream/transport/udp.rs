//! One query over UDP, with a random ID and port and 0x20 case (RFC 5452), and its response.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::query_format::{ExchangeOutcome, QueryFormat};
use super::sockets::{PooledSocket, Sockets};
use crate::dns::edns::ADVERTISED_UDP_SIZE;
use crate::dns::query::Transport;
use crate::dns::question::{self, Question};
use crate::dns::{Response, ResponseError};
use crate::dnstap::{Sampled, Side, Tap};

/// Octets that are read of a datagram. Longer than the advertised EDNS size, so that an oversized response is noticed.
const RECEIVE_BUF_LEN: usize = 4096;

/// Event on the socket of a query that was sent.
pub(in crate::upstream) enum SocketEvent {
    /// The exchange is over. No event follows.
    Outcome(ExchangeOutcome),
    /// An ICMP error (port or host unreachable). It can be spoofed, so the socket keeps listening.
    Unreachable,
    /// A near miss: a response from the server's address to the port of this query, with another ID or question. The
    /// socket keeps listening.
    NearMiss,
}

/// A query that was sent in a datagram and waits for its response without a timeout. Packets that do not match its ID,
/// port and question are never taken for the response.
pub(in crate::upstream) struct UdpQuery {
    socket: PooledSocket,
    message: Vec<u8>,
    format: QueryFormat,
    sampled: Option<Box<Sampled>>,
    /// A near miss is to be expected: the network may deliver the response to an earlier query of this port twice.
    tolerates_near_miss: bool,
}

impl UdpQuery {
    /// Sends a query with a random ID from a pooled socket.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// No socket can be opened or connected, or the datagram cannot be sent.
    pub(in crate::upstream) fn send(
        sockets: &Sockets,
        question: &Question,
        format: QueryFormat,
        tap: &Tap,
    ) -> io::Result<Self> {
        let socket = sockets.acquire()?;
        let message = format.encode(question, rand::random());
        let local = || socket.local_addr();
        let sampled = tap.sample_query(Side::Forwarder, Transport::Udp, local, || Ok(sockets.server()), &message);
        socket.send(&message)?;
        let tolerates_near_miss = socket.is_reused();
        Ok(Self { socket, message, format, sampled, tolerates_near_miss })
    }

    /// Polls for the next event. `server`, `question` and `tap` are those of [`Self::send`].
    ///
    /// # Errors
    ///
    /// The runtime shuts down.
    pub(in crate::upstream) fn poll_event(
        &mut self,
        context: &mut Context<'_>,
        server: SocketAddr,
        question: &Question,
        tap: &Tap,
    ) -> Poll<io::Result<SocketEvent>> {
        loop {
            let interest = ready!(self.socket.poll_ready(context))?;
            if let Some(event) = self.receive(interest, server, question, tap) {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// Returns whether the name of the query, which is for this question, has capital letters (0x20).
    pub(in crate::upstream) fn is_mixed_case(&self, question: &Question) -> bool {
        let name = question.name.as_bytes();
        question::question_name(&self.message, name.len()) != name
    }

    /// Ends the query after this outcome and releases its socket for reuse where that is safe.
    pub(in crate::upstream) fn finish(self, sockets: &Sockets, outcome: &ExchangeOutcome) {
        // The other outcomes may be forged, and then the true response is still to come.
        if matches!(outcome, ExchangeOutcome::Response(response) if !response.is_bare_error()) {
            sockets.release(self.socket);
        }
    }

    /// Receives one packet; `None` when there is none or it is ignored. The buffer is on the stack, so that a waiting
    /// query does not hold one.
    fn receive(
        &mut self,
        interest: Interest,
        server: SocketAddr,
        question: &Question,
        tap: &Tap,
    ) -> Option<SocketEvent> {
        let mut buffer = [const { MaybeUninit::uninit() }; RECEIVE_BUF_LEN];
        let packet = match self.socket.recv(interest, &mut buffer) {
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(SocketEvent::Unreachable),
        };
        let Self { message, format, sampled, .. } = self;
        let id = question::message_id(message);
        let name_len = question.name.as_bytes().len();
        let mut response = Response::read(packet, id, question);
        if packet.len() > usize::from(ADVERTISED_UDP_SIZE)
            && let Ok(response) = &mut response
        {
            response.set_truncated();
        }
        if let Err(ResponseError::Incomplete) = response {
            response = Response::read_incomplete(packet, id, question);
        }
        if let (Some(sampled), Ok(_) | Err(ResponseError::BareError(_) | ResponseError::MalformedEdns)) =
            (sampled, &response)
        {
            tap.sample_response(sampled, packet);
        }
        let error = match response {
            Ok(response) if format.case_0x20 && !question::echoes_question(message, name_len, packet) => {
                return Some(SocketEvent::Outcome(ExchangeOutcome::CaseNotEchoed(Box::new(response))));
            }
            Ok(response) if format.is_forged(&response) => {
                tracing::debug!(upstream = %server, "ignored an error about EDNS, which the server supports");
                return None;
            }
            Ok(response) => {
                let response = format.restore_case(response, message, name_len);
                return Some(SocketEvent::Outcome(ExchangeOutcome::Response(response)));
            }
            Err(error) => error,
        };
        self.apply_fault(error, packet, server, question)
    }

    /// Returns the event of a packet that is not the response to the query; `None` when it is ignored.
    #[cold]
    fn apply_fault(
        &mut self,
        error: ResponseError,
        packet: &[u8],
        server: SocketAddr,
        question: &Question,
    ) -> Option<SocketEvent> {
        let Self { socket, message, format, .. } = self;
        let is_bare = matches!(error, ResponseError::BareError(_));
        // Whoever forges a bare error has to guess ID and port, and the case too where there is a question.
        let is_believed = match error {
            ResponseError::BareError(_) => !socket.is_reused(),
            _ => question::echoes_question(message, question.name.as_bytes().len(), packet),
        };
        if is_believed && let Some(response) = format.bare_error(question, error) {
            return Some(SocketEvent::Outcome(ExchangeOutcome::Response(response)));
        }
        tracing::debug!(upstream = %server, %error, "ignored a packet that is no response to the query");
        let is_ignored = !is_bare && (!error.is_near_miss() || std::mem::take(&mut self.tolerates_near_miss));
        if is_ignored { None } else { Some(SocketEvent::NearMiss) }
    }
}

/// Queries a server over UDP and waits for the outcome without a timeout. ICMP errors and near misses are ignored.
///
/// # Errors
///
/// No socket can be opened or connected, or the datagram cannot be sent.
pub(crate) async fn query(
    sockets: &Sockets,
    question: &Question,
    format: QueryFormat,
    tap: &Tap,
) -> io::Result<ExchangeOutcome> {
    query_and_keep(sockets, sockets, question, format, tap).await
}

/// Queries a server like [`query`], from one of `sockets`, which is one of `kept` once the query was answered.
///
/// # Errors
///
/// No socket can be opened or connected, or the datagram cannot be sent.
pub(in crate::upstream) async fn query_and_keep(
    sockets: &Sockets,
    kept: &Sockets,
    question: &Question,
    format: QueryFormat,
    tap: &Tap,
) -> io::Result<ExchangeOutcome> {
    let mut query = UdpQuery::send(sockets, question, format, tap)?;
    loop {
        let event = poll_fn(|context| query.poll_event(context, sockets.server(), question, tap)).await?;
        if let SocketEvent::Outcome(outcome) = event {
            query.finish(kept, &outcome);
            return Ok(outcome);
        }
    }
}
