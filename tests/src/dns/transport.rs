//! One try over UDP or TCP.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;

use super::{Query, encode, is_response_to};

/// Response to a query, and its size in bytes.
pub(crate) struct Exchange {
    pub(crate) message: Message,
    pub(crate) size: usize,
}

/// Opens a UDP socket that receives from this server alone.
pub(crate) fn udp_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket)
}

/// Sends a query and waits for its response; all other packets are ignored.
pub(crate) fn exchange_over_udp(query: &Query, server: SocketAddr, deadline: Instant) -> io::Result<Exchange> {
    let socket = udp_socket(server)?;
    let id = rand::random();
    socket.send(&encode(query, id)?)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        socket.set_read_timeout(Some(remaining(deadline)?))?;
        let size = match socket.recv(&mut buffer) {
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        };
        if let Ok(message) = Message::from_vec(&buffer[..size])
            && is_response_to(&message, query, id)
        {
            return Ok(Exchange { message, size });
        }
    }
}

/// Opens a connection, sends a query, waits for its response and closes.
pub(crate) fn exchange_over_tcp(query: &Query, server: SocketAddr, deadline: Instant) -> io::Result<Exchange> {
    let mut stream = TcpStream::connect_timeout(&server, remaining(deadline)?)?;
    stream.set_nodelay(true)?;
    let id = rand::random();
    let packet = encode(query, id)?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet.as_slice()].concat())?;

    let mut length = [0; 2];
    read_before(&mut stream, &mut length, deadline)?;
    let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
    read_before(&mut stream, &mut response, deadline)?;
    let message = Message::from_vec(&response).map_err(io::Error::other)?;
    if !is_response_to(&message, query, id) {
        return Err(io::Error::other("an answer to another question"));
    }
    Ok(Exchange { message, size: response.len() })
}

fn read_before(stream: &mut TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(size) => buffer = &mut buffer[size..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        remaining => Ok(remaining),
    }
}
