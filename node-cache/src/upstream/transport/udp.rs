//! One question to one server, one answer back.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::sockets::{Opened, Sockets};
use super::tcp::Connection;
use crate::dns::edns::UDP_SIZE;
use crate::dns::query::Transport;
use crate::dns::question::{self, Question};
use crate::dns::{NotAnAnswer, Response};
use crate::dnstap::{self, Asked, Picked, Side, Tap};

/// Room for what is longer than we asked for, so that it is seen to be.
const BUFFER: usize = 4096;

/// How a question is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// With an OPT record.
    pub(crate) edns: bool,
    /// With letters in random case, which the answer has to repeat (draft-vixie-dnsext-dns0x20): whoever forges one has to
    /// guess a bit more for each letter.
    pub(crate) mixed_case: bool,
}

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer.
    Answered(Response),
    /// The answer is longer than a datagram may be.
    Truncated,
    /// An answer that is right but for the case of the name: forged, or from a server that does not keep it.
    CaseLost,
    /// The server could not read the question: it may not know EDNS.
    Unreadable,
}

/// What a socket tells of a question that was sent.
pub(in crate::upstream) enum Told {
    /// It came to this. It was the last that is told.
    Outcome(Outcome),
    /// A report that nobody listens there, which anybody might forge.
    Unreachable,
}

/// A question that was sent in a datagram, with a fresh random number, and is waited for for ever. What is not the answer is
/// ignored.
pub(in crate::upstream) struct Datagram {
    socket: Opened,
    message: Vec<u8>,
    form: Form,
    shown: Option<Box<Picked>>,
}

impl Datagram {
    /// Sends it.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no socket, or it cannot be sent.
    pub(in crate::upstream) fn send(sockets: &Sockets, question: &Question, form: Form, tap: &Tap) -> io::Result<Self> {
        let socket = sockets.lend()?;
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
    ) -> Poll<io::Result<Told>> {
        loop {
            let heard = ready!(self.socket.poll_heard(context))?;
            if let Some(told) = self.hear(heard, server, question, tap) {
                return Poll::Ready(Ok(told));
            }
        }
    }

    /// Gives its socket back after this.
    pub(in crate::upstream) fn end(self, sockets: &Sockets, outcome: &Outcome) {
        // What may have been forged is no reason to believe that nothing more will come.
        if matches!(outcome, Outcome::Answered(_) | Outcome::Truncated) {
            sockets.give_back(self.socket);
        }
    }

    /// Reads a packet. Its buffer is not kept while a question waits.
    fn hear(&self, heard: Interest, server: SocketAddr, question: &Question, tap: &Tap) -> Option<Told> {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let packet = match self.socket.read(heard, &mut buffer) {
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(Told::Unreachable),
        };
        let Self { message, form, shown, .. } = self;
        let (read, name) =
            (Response::read(packet, question::number(message), question), question.name.as_bytes().len());
        if let (Some(shown), Ok(_) | Err(NotAnAnswer::Unreadable)) = (shown, &read) {
            tap.answer(shown, packet);
        }
        Some(Told::Outcome(match read {
            Ok(_) if form.mixed_case && !question::is_repeated(message, name, packet) => Outcome::CaseLost,
            Ok(response) if response.truncated() || packet.len() > usize::from(UDP_SIZE) => Outcome::Truncated,
            Ok(response) => Outcome::Answered(clean(response, message, name, *form)),
            Err(NotAnAnswer::Unreadable) if form.edns => Outcome::Unreadable,
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
pub(crate) async fn udp(sockets: &Sockets, question: &Question, form: Form, tap: &Tap) -> io::Result<Outcome> {
    let mut datagram = Datagram::send(sockets, question, form, tap)?;
    loop {
        let told = poll_fn(|context| datagram.poll_told(context, sockets.server(), question, tap)).await?;
        if let Told::Outcome(outcome) = told {
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
    form: Form,
    tap: &Tap,
) -> io::Result<(Outcome, bool)> {
    let message = written(question, 0, form);
    let answer = connection.ask(&message, tap).await?;
    let (id, name) = (question::number(&answer), question.name.as_bytes().len());
    let kept = question::is_repeated(&message, name, &answer);
    match Response::read(&answer, id, question) {
        Ok(response) => Ok((Outcome::Answered(clean(response, &message, name, form)), kept)),
        Err(NotAnAnswer::Unreadable) if form.edns => Ok((Outcome::Unreadable, true)),
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
) -> Option<Box<Picked>> {
    if !tap.wanted() {
        return None;
    }
    let asked = Asked { side: Side::Forwarder, transport, asker: asker().ok()?, server, at: dnstap::now() };
    tap.question(asked, message).map(Box::new)
}

/// The response to a message, with a name of so many octets, without the case in which that was sent.
fn clean(mut response: Response, message: &[u8], name: usize, form: Form) -> Response {
    if form.mixed_case {
        response.forget_case(question::name_in(message, name));
    }
    response
}

fn written(question: &Question, id: u16, form: Form) -> Vec<u8> {
    let mut message = question.to_wire(id, form.edns);
    if form.mixed_case {
        question::mix_case(&mut message, question.name.as_bytes().len(), rand::random);
    }
    message
}
