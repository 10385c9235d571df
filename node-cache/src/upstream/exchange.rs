//! One question to one server, one answer back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Notify;

use crate::packet::edns::UDP_SIZE;
use crate::packet::question::Question;
use crate::packet::{NotAnAnswer, Response};

/// Room for what is longer than we asked for, so that it is seen to be.
const BUFFER: usize = 4096;

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer.
    Answered(Response),
    /// The answer is longer than a datagram may be.
    Truncated,
    /// The server could not read the question: it may not know EDNS.
    Unreadable,
}

/// Asks over UDP and waits for ever. Each question has a socket of its own, whose port the kernel picks at random, and
/// a fresh random number; the socket is connected, so that nobody else's packets reach it. What is not the answer is
/// ignored, and so is a report that nobody listens there, which anybody might forge: `unreachable` is only told.
pub(crate) async fn udp(
    server: SocketAddr,
    question: &Question,
    with_edns: bool,
    unreachable: &Notify,
) -> io::Result<Outcome> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&question.to_wire(id, with_edns)).await?;
    let mut buffer = [0; BUFFER];
    loop {
        let Ok(length) = socket.recv(&mut buffer).await else {
            unreachable.notify_one();
            continue;
        };
        match Response::read(&buffer[..length], id, question) {
            Ok(response) if response.truncated() || length > usize::from(UDP_SIZE) => return Ok(Outcome::Truncated),
            Ok(response) => return Ok(Outcome::Answered(response)),
            Err(NotAnAnswer::Unreadable) if with_edns => return Ok(Outcome::Unreadable),
            Err(error) => tracing::debug!("{server}: ignored a packet: {error}"),
        }
    }
}

/// Asks over a TCP connection of its own and waits for ever.
pub(super) async fn tcp(server: SocketAddr, question: &Question, with_edns: bool) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let id = rand::random();
    let message = question.to_wire(id, with_edns);
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        match Response::read(&message, id, question) {
            Ok(response) => return Ok(Outcome::Answered(response)),
            Err(NotAnAnswer::Unreadable) if with_edns => return Ok(Outcome::Unreadable),
            Err(error) => tracing::debug!("{server}: ignored a message: {error}"),
        }
    }
}
