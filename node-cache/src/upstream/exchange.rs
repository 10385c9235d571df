//! One question to one server, one answer back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::connection::Connection;
use crate::packet::edns::UDP_SIZE;
use crate::packet::question::{self, Question};
use crate::packet::{NotAnAnswer, Response};

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

/// Asks over UDP and waits for ever. Each question has a socket of its own, whose port the kernel picks at random, and
/// a fresh random number; the socket is connected, so that nobody else's packets reach it. What is not the answer is
/// ignored, and so is a report that nobody listens there, which anybody might forge: `unreachable` is only told.
pub(crate) async fn udp(
    server: SocketAddr,
    question: &Question,
    form: Form,
    unreachable: &Notify,
) -> io::Result<Outcome> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let message = written(question, rand::random(), form);
    socket.send(&message).await?;
    loop {
        let heard = socket.async_io(Interest::READABLE | Interest::ERROR, || {
            // There only while it is read: thousands of questions may be waiting.
            let mut buffer = [0; BUFFER];
            let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            Ok(heard(&buffer[..length], server, question, &message, form))
        });
        match heard.await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => {}
            Err(_) => unreachable.notify_one(),
        }
    }
}

/// What a packet means to who has sent this message; none when it is not the answer.
fn heard(packet: &[u8], server: SocketAddr, question: &Question, message: &[u8], form: Form) -> Option<Outcome> {
    let id = u16::from_be_bytes([message[0], message[1]]);
    match Response::read(packet, id, question) {
        Ok(_) if form.mixed_case && !question::is_repeated(message, packet) => Some(Outcome::CaseLost),
        Ok(response) if response.truncated() || packet.len() > usize::from(UDP_SIZE) => Some(Outcome::Truncated),
        Ok(response) => Some(Outcome::Answered(clean(response, message, form))),
        Err(NotAnAnswer::Unreadable) if form.edns => Some(Outcome::Unreadable),
        Err(error) => {
            tracing::debug!("{server}: ignored a packet: {error}");
            None
        }
    }
}

/// Asks over the server's connection. Whether the case of the name was kept is given beside what came of it: over a
/// connection nobody can forge it, so that it tells what kind of server this is.
pub(super) async fn tcp(connection: &Connection, question: &Question, form: Form) -> io::Result<(Outcome, bool)> {
    let message = written(question, 0, form);
    let answer = connection.ask(&message).await?;
    let id = u16::from_be_bytes([answer[0], answer[1]]);
    let kept = question::is_repeated(&message, &answer);
    match Response::read(&answer, id, question) {
        Ok(response) => Ok((Outcome::Answered(clean(response, &message, form)), kept)),
        Err(NotAnAnswer::Unreadable) if form.edns => Ok((Outcome::Unreadable, true)),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
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
