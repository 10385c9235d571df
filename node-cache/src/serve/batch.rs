//! Room for a number of datagrams, used again and again: read with one system call, answered in place, and sent with one.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// Longer questions than this are cut off on reading and so malformed: a name, a type and some options fit well.
const LONGEST_QUESTION: usize = 4096;
/// The longest datagram is 1232 octets; before it stands what the cache knows of it.
const LONGEST_ANSWER: usize = 2048;
/// Rows are no power of two apart, or all would fall into the same few lines of the processor's cache.
const STAGGER: usize = 64;

/// Datagrams, their senders, and the answers to them.
pub(super) struct Batch {
    /// For reading over IPv4 and IPv6. The kernel writes the length of an address where it reads its room for the next
    /// one, so that each family has headers of its own, and so has sending, which leaves its addresses in them.
    incoming: [MultiHeaders<SockaddrStorage>; 2],
    outgoing: MultiHeaders<SockaddrStorage>,
    questions: Box<[u8]>,
    answers: Box<[u8]>,
    read: Vec<(usize, Option<SockaddrStorage>)>,
    /// Which answers are sent, in the order of `ready`.
    places: Vec<(usize, Range<usize>)>,
    ready: Vec<Option<SockaddrStorage>>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            incoming: [MultiHeaders::preallocate(SIZE, None), MultiHeaders::preallocate(SIZE, None)],
            outgoing: MultiHeaders::preallocate(SIZE, None),
            questions: vec![0; SIZE * (LONGEST_QUESTION + STAGGER)].into(),
            answers: vec![0; SIZE * (LONGEST_ANSWER + STAGGER)].into(),
            read: Vec::with_capacity(SIZE),
            places: Vec::with_capacity(SIZE),
            ready: Vec::with_capacity(SIZE),
        }
    }

    /// Reads what there is at a socket of this family, at most [`SIZE`] datagrams, without waiting; gives their number.
    ///
    /// # Errors
    /// `EWOULDBLOCK` when there is none; errors of datagrams that were sent before.
    pub(super) fn receive(&mut self, socket: &impl AsRawFd, is_ipv6: bool) -> Result<usize, Errno> {
        self.read.clear();
        self.places.clear();
        self.ready.clear();
        let mut rows = self.questions.chunks_exact_mut(LONGEST_QUESTION + STAGGER);
        let mut slices: [[IoSliceMut<'_>; 1]; SIZE] = std::array::from_fn(|_| {
            let row = rows.next().unwrap_or_default();
            [IoSliceMut::new(&mut row[..LONGEST_QUESTION])]
        });
        let headers = &mut self.incoming[usize::from(is_ipv6)];
        let received = recvmmsg(socket.as_raw_fd(), headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
        self.read.extend(received.map(|message| (message.bytes, message.address)));
        Ok(self.read.len())
    }

    /// A datagram that was read, its sender, and the room for its answer.
    pub(super) fn each(&mut self, index: usize) -> Option<(&[u8], SocketAddr, &mut [u8])> {
        let (length, sender) = self.read.get(index)?;
        let start = index * (LONGEST_QUESTION + STAGGER);
        let answer = index * (LONGEST_ANSWER + STAGGER);
        let question = self.questions.get(start..start + length)?;
        Some((question, address(sender.as_ref()?)?, self.answers.get_mut(answer..answer + LONGEST_ANSWER)?))
    }

    /// Marks a part of a datagram's room as its answer.
    pub(super) fn answer(&mut self, index: usize, place: Range<usize>) {
        let start = index * (LONGEST_ANSWER + STAGGER);
        self.places.push((index, start + place.start..start + place.end));
        self.ready.push(self.read.get(index).and_then(|(_, sender)| *sender));
    }

    /// Sends all answers without waiting. One that cannot be sent is lost, as it would be in any queue on its way.
    pub(super) fn send(&mut self, socket: RawFd) {
        let mut first = 0;
        while first < self.places.len() {
            let answers = &self.answers;
            let slices: [[IoSlice<'_>; 1]; SIZE] = std::array::from_fn(|index| {
                let place = self.places.get(first + index).map(|(_, place)| place.clone());
                [IoSlice::new(place.and_then(|place| answers.get(place)).unwrap_or_default())]
            });
            let count = self.places.len() - first;
            let sent = sendmmsg(
                socket,
                &mut self.outgoing,
                slices.iter().take(count),
                &self.ready[first..],
                [],
                MsgFlags::MSG_DONTWAIT,
            );
            // The kernel stops at the first that it cannot send and says why only if it is the first of all.
            first += match sent.map(Iterator::count) {
                Ok(sent) => sent.max(1),
                Err(error) => {
                    tracing::debug!("an answer cannot be sent: {error}");
                    1
                }
            };
        }
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(four), _) => Some(SocketAddr::V4((*four).into())),
        (_, Some(six)) => Some(SocketAddr::V6((*six).into())),
        _ => None,
    }
}
