//! One question to one server, one answer back.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;

use super::connection::Connection;
use super::sockets::{Lent, Sockets};
use crate::packet::edns::UDP_SIZE;
use crate::packet::question::{self, Question};
use crate::packet::{NotAnAnswer, Response};
use crate::query::Transport;
use crate::tap::{self, Asked, Picked, Side, Tap};

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

/// Asks over UDP and waits for ever, with a fresh random number. What is not the answer is ignored, and so is a report that
/// nobody listens there, which anybody might forge: it is only noted in `unreachable`.
pub(crate) async fn udp(
    sockets: &Sockets,
    question: &Question,
    form: Form,
    unreachable: &AtomicBool,
    tap: &Tap,
) -> io::Result<Outcome> {
    let socket = sockets.lend()?;
    let id = rand::random();
    let message = written(question, id, form);
    let shown = show(tap, Transport::Udp, || socket.local_addr(), socket.server(), &message);
    let waiting = Waiting { question, id, form, tap, shown };
    socket.send(&message)?;
    loop {
        let heard = socket.heard().await?;
        match waiting.hear(&socket, heard, &message) {
            Heard::Answer(outcome) => {
                // What may have been forged is no reason to believe that nothing more will come.
                if matches!(outcome, Outcome::Answered(_) | Outcome::Truncated) {
                    socket.give_back();
                }
                return Ok(outcome);
            }
            Heard::Nothing => {}
            Heard::Unreachable => unreachable.store(true, Ordering::Relaxed),
        }
    }
}

/// What was asked, and how, and who sees the answer.
struct Waiting<'a> {
    question: &'a Question,
    id: u16,
    form: Form,
    tap: &'a Tap,
    shown: Option<Box<Picked>>,
}

/// What was read at a socket.
enum Heard {
    Answer(Outcome),
    Nothing,
    Unreachable,
}

impl Waiting<'_> {
    /// Reads a packet. Its buffer is not kept while a question waits.
    fn hear(&self, socket: &Lent<'_>, heard: Interest, message: &[u8]) -> Heard {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let packet = match socket.read(heard, &mut buffer) {
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
            Err(_) => return Heard::Unreachable,
        };
        let Self { question, id, form, tap, shown } = self;
        let read = Response::read(packet, *id, question);
        if let (Some(shown), Ok(_) | Err(NotAnAnswer::Unreadable)) = (shown, &read) {
            tap.answer(shown, packet);
        }
        Heard::Answer(match read {
            Ok(_) if form.mixed_case && !question::is_repeated(message, packet) => Outcome::CaseLost,
            Ok(response) if response.truncated() || packet.len() > usize::from(UDP_SIZE) => Outcome::Truncated,
            Ok(response) => Outcome::Answered(clean(response, message, *form)),
            Err(NotAnAnswer::Unreadable) if form.edns => Outcome::Unreadable,
            Err(error) => {
                tracing::debug!("{}: ignored a packet: {error}", socket.server());
                return Heard::Nothing;
            }
        })
    }
}

/// Asks over the server's connection. Whether the case of the name was kept is given beside what came of it: over a
/// connection nobody can forge it, so that it tells what kind of server this is.
pub(super) async fn tcp(
    connection: &Connection,
    question: &Question,
    form: Form,
    tap: &Tap,
) -> io::Result<(Outcome, bool)> {
    let message = written(question, 0, form);
    let answer = connection.ask(&message, tap).await?;
    let id = u16::from_be_bytes([answer[0], answer[1]]);
    let kept = question::is_repeated(&message, &answer);
    match Response::read(&answer, id, question) {
        Ok(response) => Ok((Outcome::Answered(clean(response, &message, form)), kept)),
        Err(NotAnAnswer::Unreadable) if form.edns => Ok((Outcome::Unreadable, true)),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Shows a question that is sent now to whoever looks and for whom it is picked.
pub(super) fn show(
    tap: &Tap,
    transport: Transport,
    asker: impl FnOnce() -> io::Result<SocketAddr>,
    server: SocketAddr,
    message: &[u8],
) -> Option<Box<Picked>> {
    if !tap.wanted() {
        return None;
    }
    let asked = Asked { side: Side::Forwarder, transport, asker: asker().ok()?, server, at: tap::now() };
    tap.question(asked, message).map(Box::new)
}

/// The response to a message without the case in which that was sent.
fn clean(mut response: Response, message: &[u8], form: Form) -> Response {
    if form.mixed_case {
        response.forget_case(question::name_in(message));
    }
    response
}

fn written(question: &Question, id: u16, form: Form) -> Vec<u8> {
    let mut message = question.to_wire(id, form.edns);
    if form.mixed_case {
        question::mix_case(&mut message, rand::random);
    }
    message
}
