//! One question to one server, one answer back.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::sockets::{PooledSocket, Sockets};
use super::tcp::Connection;
use crate::dns::edns::UDP_SIZE;
use crate::dns::query::Transport;
use crate::dns::question::{self, Question};
use crate::dns::{Response, ResponseError};
use crate::dnstap::{Sampled, Side, Tap};

/// Room for what is longer than we asked for, so that it is seen to be.
const BUFFER: usize = 4096;

/// How a question is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueryFormat {
    /// With an OPT record.
    pub(crate) edns: bool,
    /// With letters in random case, which the answer has to repeat (draft-vixie-dnsext-dns0x20): whoever forges one has to
    /// guess a bit more for each letter.
    pub(crate) case_0x20: bool,
}

/// What came of a question.
#[derive(Debug)]
pub(crate) enum ExchangeOutcome {
    /// The answer.
    Response(Response),
    /// The answer is longer than a datagram may be.
    Truncated,
    /// An answer that is right but for the case of the name: forged, or from a server that does not keep it.
    CaseNotEchoed,
    /// The server could not read the question: it may not know EDNS.
    FormatError,
}

/// What a socket tells of a question that was sent.
pub(in crate::upstream) enum SocketEvent {
    /// It came to this. It was the last that is told.
    ExchangeOutcome(ExchangeOutcome),
    /// A report that nobody listens there, which anybody might forge.
    Unreachable,
}

/// A question that was sent in a datagram, with a fresh random number, and is waited for for ever. What is not the answer is
/// ignored.
pub(in crate::upstream) struct UdpQuery {
    socket: PooledSocket,
    message: Vec<u8>,
    form: QueryFormat,
    shown: Option<Box<Sampled>>,
}

impl UdpQuery {
    /// Sends it.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no socket, or it cannot be sent.
    pub(in crate::upstream) fn send(
        sockets: &Sockets,
        question: &Question,
        form: QueryFormat,
        tap: &Tap,
    ) -> io::Result<Self> {
        let socket = sockets.acquire()?;
        let message = written(question, rand::random(), form);
        let shown = show(tap, Transport::Udp, || socket.local_addr(), sockets.server(), &message);
        socket.send(&message)?;
        Ok(Self { socket, message, form, shown })
    }

    /// Waits for what is told. The question and the rest are those that it was sent with.
    ///
    /// # Errors
    ///
    /// The runtime ends.
    pub(in crate::upstream) fn poll_told(
        &mut self,
        context: &mut Context<'_>,
        server: SocketAddr,
        question: &Question,
        tap: &Tap,
    ) -> Poll<io::Result<SocketEvent>> {
        loop {
            let heard = ready!(self.socket.poll_heard(context))?;
            if let Some(told) = self.hear(heard, server, question, tap) {
                return Poll::Ready(Ok(told));
            }
        }
    }

    /// Gives its socket back after this.
    pub(in crate::upstream) fn end(self, sockets: &Sockets, outcome: &ExchangeOutcome) {
        // What may have been forged is no reason to believe that nothing more will come.
        if matches!(outcome, ExchangeOutcome::Response(_) | ExchangeOutcome::Truncated) {
            sockets.release(self.socket);
        }
    }

    /// Reads a packet. Its buffer is not kept while a question waits.
    fn hear(&self, heard: Interest, server: SocketAddr, question: &Question, tap: &Tap) -> Option<SocketEvent> {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let packet = match self.socket.read(heard, &mut buffer) {
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(SocketEvent::Unreachable),
        };
        let Self { message, form, shown, .. } = self;
        let (read, name) =
            (Response::read(packet, question::number(message), question), question.name.as_bytes().len());
        if let (Some(shown), Ok(_) | Err(ResponseError::Unreadable)) = (shown, &read) {
            tap.sample_response(shown, packet);
        }
        Some(SocketEvent::ExchangeOutcome(match read {
            Ok(_) if form.case_0x20 && !question::echoes_question(message, name, packet) => {
                ExchangeOutcome::CaseNotEchoed
            }
            Ok(response) if response.truncated() || packet.len() > usize::from(UDP_SIZE) => ExchangeOutcome::Truncated,
            Ok(response) => ExchangeOutcome::Response(clean(response, message, name, *form)),
            Err(ResponseError::Unreadable) if form.edns => ExchangeOutcome::FormatError,
            Err(error) => {
                tracing::debug!("{server}: ignored a packet: {error}");
                return None;
            }
        }))
    }
}

/// Asks over UDP and waits for ever.
///
/// # Errors
///
/// It cannot be sent.
pub(crate) async fn udp(
    sockets: &Sockets,
    question: &Question,
    form: QueryFormat,
    tap: &Tap,
) -> io::Result<ExchangeOutcome> {
    let mut datagram = UdpQuery::send(sockets, question, form, tap)?;
    loop {
        let told = poll_fn(|context| datagram.poll_told(context, sockets.server(), question, tap)).await?;
        if let SocketEvent::ExchangeOutcome(outcome) = told {
            datagram.end(sockets, &outcome);
            return Ok(outcome);
        }
    }
}

/// Asks over the server's connection. Whether the case of the name was kept is given beside what came of it: over a
/// connection nobody can forge it, so that it tells what kind of server this is.
pub(in crate::upstream) async fn tcp(
    connection: &Connection,
    question: &Question,
    form: QueryFormat,
    tap: &Tap,
) -> io::Result<(ExchangeOutcome, bool)> {
    let message = written(question, 0, form);
    let answer = connection.ask(&message, tap).await?;
    let (id, name) = (question::number(&answer), question.name.as_bytes().len());
    let kept = question::echoes_question(&message, name, &answer);
    match Response::read(&answer, id, question) {
        Ok(response) => Ok((ExchangeOutcome::Response(clean(response, &message, name, form)), kept)),
        Err(ResponseError::Unreadable) if form.edns => Ok((ExchangeOutcome::FormatError, true)),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Shows a question that is sent now to whoever looks and for whom it is picked.
pub(in crate::upstream) fn show(
    tap: &Tap,
    transport: Transport,
    asker: impl FnOnce() -> io::Result<SocketAddr>,
    server: SocketAddr,
    message: &[u8],
) -> Option<Box<Sampled>> {
    tap.sample_query(Side::Forwarder, transport, asker, || Ok(server), message)
}

/// The response to a message, with a name of so many octets, without the case in which that was sent.
fn clean(mut response: Response, message: &[u8], name: usize, form: QueryFormat) -> Response {
    if form.case_0x20 {
        response.restore_case(question::question_name(message, name));
    }
    response
}

fn written(question: &Question, id: u16, form: QueryFormat) -> Vec<u8> {
    let mut message = question.to_wire(id, form.edns);
    if form.case_0x20 {
        question::randomize_case(&mut message, question.name.as_bytes().len(), rand::random);
    }
    message
}
