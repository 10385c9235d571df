//! Client of hits: four sockets, each with a number of queries in flight (closed loop).

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use super::queries::host_question;

const SOCKETS: usize = 4;
/// Queries in flight on each socket.
const WINDOW: usize = 32;
/// Step from one name to the next; a prime that does not divide the number of names, so that every name has its turn.
const STRIDE: usize = 7919;
/// A socket without a response for so long has lost its queries.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);

/// Result of a number of queries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HitReport {
    pub(crate) sent: usize,
    /// Responses with records; a failure does not count.
    pub(crate) answered: usize,
    /// Octets of the last response.
    pub(crate) length: usize,
}

/// Client that queries a number of hosts in a fixed order.
pub(crate) struct HitClient {
    sockets: Vec<UdpSocket>,
    packets: Vec<Vec<u8>>,
    next: usize,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; 1472]>,
}

/// Datagrams of one read from a socket.
struct Received {
    datagrams: usize,
    /// Datagrams with records.
    answers: usize,
    /// Octets of the last datagram.
    length: usize,
}

impl HitClient {
    /// Creates a client of a server that queries this number of names.
    pub(crate) fn new(server: SocketAddr, names: usize) -> Self {
        let sockets = (0..SOCKETS)
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(server).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        // Packets lie in the order in which they are sent, so that the client does not wait for its own memory.
        let order = (0..names).map(|place| place * STRIDE % names);
        let packets = order.map(|number| host_question(number).to_wire(number as u16, false)).collect();
        Self {
            sockets,
            packets,
            next: 0,
            incoming: MultiHeaders::preallocate(WINDOW, None),
            outgoing: MultiHeaders::preallocate(WINDOW, None),
            buffers: vec![[0; 1472]; WINDOW],
        }
    }

    /// Sends this many queries as fast as they are answered, all names equally often.
    pub(crate) fn send_queries(&mut self, queries: usize) -> HitReport {
        let mut report = HitReport::default();
        let mut in_flight = [0; SOCKETS];
        let mut last_response = [Instant::now(); SOCKETS];
        while report.sent < queries || in_flight.iter().any(|count| *count > 0) {
            for socket in 0..SOCKETS {
                let wanted = (WINDOW - in_flight[socket]).min(queries - report.sent);
                // Half a window at a time, as many clients together would.
                if wanted >= WINDOW / 2 || (wanted > 0 && in_flight[socket] == 0) {
                    let sent = self.send(socket, wanted);
                    in_flight[socket] += sent;
                    report.sent += sent;
                    last_response[socket] = Instant::now();
                }
                let Ok(received) = self.receive(socket) else {
                    // The port is closed: queries in flight will have no response.
                    in_flight[socket] = 0;
                    continue;
                };
                if received.datagrams > 0 {
                    in_flight[socket] = in_flight[socket].saturating_sub(received.datagrams);
                    report.answered += received.answers;
                    report.length = received.length;
                    last_response[socket] = Instant::now();
                } else if last_response[socket].elapsed() > RESPONSE_TIMEOUT {
                    in_flight[socket] = 0;
                }
            }
        }
        report
    }

    /// Sends the next packets, at most this many; returns how many the kernel took.
    fn send(&mut self, socket: usize, count: usize) -> usize {
        let slices: Vec<[IoSlice<'_>; 1]> =
            (0..count).map(|index| [IoSlice::new(&self.packets[(self.next + index) % self.packets.len()])]).collect();
        let no_addresses = vec![None::<SockaddrIn>; count];
        let fd = self.sockets[socket].as_raw_fd();
        let sent =
            sendmmsg(fd, &mut self.outgoing, &slices, &no_addresses, [], MsgFlags::empty()).map_or(0, Iterator::count);
        self.next += sent;
        sent
    }

    /// Reads the datagrams that wait at a socket.
    fn receive(&mut self, socket: usize) -> nix::Result<Received> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.sockets[socket].as_raw_fd();
        let (datagrams, length) = match recvmmsg(fd, &mut self.incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
            Ok(received) => received.fold((0, 0), |(count, _), message| (count + 1, message.bytes)),
            Err(Errno::EAGAIN) => (0, 0),
            Err(error) => return Err(error),
        };
        let answers = self.buffers[..datagrams].iter().filter(|buffer| has_records(&buffer[..])).count();
        Ok(Received { datagrams, answers, length })
    }
}

/// Returns whether a response has rcode NOERROR and answer records (RFC 1035 §4.1.1).
fn has_records(response: &[u8]) -> bool {
    response[3] & 0x0f == 0 && response[6..8] != [0, 0]
}
