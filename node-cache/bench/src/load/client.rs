//! Who asks: four sockets, each with a number of questions under way.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use crate::servers::resolver::question;

const SOCKETS: usize = 4;
/// Questions under way at each socket.
const WINDOW: usize = 32;
/// From one name to the next: it has no factor in common with the number of names.
const STRIDE: usize = 7919;
/// An answer that has not come by then is lost.
const PATIENCE: Duration = Duration::from_millis(300);

/// What came of a number of questions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: usize,
    /// With records: a failure is no answer.
    pub(crate) answered: usize,
    /// Octets of the last answer.
    pub(crate) length: usize,
}

pub(crate) struct Client {
    sockets: Vec<UdpSocket>,
    packets: Vec<Vec<u8>>,
    next: usize,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; 1472]>,
}

impl Client {
    /// Asks about this many names at this address.
    pub(crate) fn new(server: SocketAddr, names: usize) -> Self {
        let sockets = (0..SOCKETS)
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(server).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        // They lie in the order in which they are asked, so that the client does not wait for its memory.
        let order = (0..names).map(|place| place * STRIDE % names);
        let packets = order.map(|number| question(number).to_wire(number as u16, false)).collect();
        Self {
            sockets,
            packets,
            next: 0,
            incoming: MultiHeaders::preallocate(WINDOW, None),
            outgoing: MultiHeaders::preallocate(WINDOW, None),
            buffers: vec![[0; 1472]; WINDOW],
        }
    }

    /// Asks this many questions, in an order that hits every name alike.
    pub(crate) fn ask(&mut self, questions: usize) -> Report {
        let mut report = Report::default();
        let mut under_way = [0; SOCKETS];
        let mut heard = [Instant::now(); SOCKETS];
        while report.sent < questions || under_way.iter().any(|number| *number > 0) {
            for socket in 0..SOCKETS {
                let wanted = (WINDOW - under_way[socket]).min(questions - report.sent);
                // Half a window at a time, as many clients together would.
                if wanted >= WINDOW / 2 || (wanted > 0 && under_way[socket] == 0) {
                    let sent = self.send(socket, wanted);
                    under_way[socket] += sent;
                    report.sent += sent;
                    heard[socket] = Instant::now();
                }
                let Ok((came, answers, length)) = self.receive(socket) else {
                    // Nobody is there, and so nobody will answer what is under way.
                    under_way[socket] = 0;
                    continue;
                };
                if came > 0 {
                    under_way[socket] = under_way[socket].saturating_sub(came);
                    report.answered += answers;
                    report.length = length;
                    heard[socket] = Instant::now();
                } else if heard[socket].elapsed() > PATIENCE {
                    under_way[socket] = 0;
                }
            }
        }
        report
    }

    fn send(&mut self, socket: usize, number: usize) -> usize {
        let slices: Vec<[IoSlice<'_>; 1]> =
            (0..number).map(|index| [IoSlice::new(&self.packets[(self.next + index) % self.packets.len()])]).collect();
        let nobody = vec![None::<SockaddrIn>; number];
        let fd = self.sockets[socket].as_raw_fd();
        let sent = sendmmsg(fd, &mut self.outgoing, &slices, &nobody, [], MsgFlags::empty()).map_or(0, Iterator::count);
        self.next += sent;
        sent
    }

    /// How many datagrams came, how many of them hold records, and the length of the last.
    fn receive(&mut self, socket: usize) -> nix::Result<(usize, usize, usize)> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.sockets[socket].as_raw_fd();
        let (came, length) = match recvmmsg(fd, &mut self.incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
            Ok(received) => received.fold((0, 0), |(count, _), message| (count + 1, message.bytes)),
            Err(Errno::EAGAIN) => (0, 0),
            Err(error) => return Err(error),
        };
        let answers = self.buffers[..came].iter().filter(|buffer| has_records(&buffer[..])).count();
        Ok((came, answers, length))
    }
}

/// Whether an answer says NOERROR and holds records (RFC 1035 §4.1.1).
fn has_records(answer: &[u8]) -> bool {
    answer[3] & 0x0f == 0 && answer[6..8] != [0, 0]
}
