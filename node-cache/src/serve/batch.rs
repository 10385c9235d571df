//! Room for a number of datagrams, used again and again: read with one system call, answered in place, and sent with one.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrLike, recvmmsg, sendmmsg};

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// Longer questions than this are cut off on reading and so malformed: a name, a type and some options fit well. Short
/// rows keep all of a batch in few pages.
const LONGEST_QUESTION: usize = 1232;
/// The longest datagram is 1232 octets; before it stands what the cache knows of it. What does not fit goes the whole way.
const LONGEST_ANSWER: usize = 1536;
/// Rows are no power of two apart, or all would fall into the same few lines of the processor's cache.
const STAGGER: usize = 80;

/// Datagrams, their senders, and the answers to them, for sockets of one family of addresses.
pub(super) struct Batch<A> {
    /// The kernel writes the length of an address where it reads the room for the next one: with one family they are the
    /// same. Sending leaves its addresses in its headers, and so has its own.
    incoming: MultiHeaders<A>,
    outgoing: MultiHeaders<A>,
    questions: Box<[u8]>,
    answers: Box<[u8]>,
    read: Vec<(usize, Option<A>)>,
    /// Where the answers are that are sent, in the order of `ready`, which is to whom.
    places: Vec<Range<usize>>,
    ready: Vec<Option<A>>,
}

impl<A: SockaddrLike + Copy> Batch<A> {
    pub(super) fn new() -> Self {
        Self {
            incoming: MultiHeaders::preallocate(SIZE, None),
            outgoing: MultiHeaders::preallocate(SIZE, None),
            questions: vec![0; SIZE * (LONGEST_QUESTION + STAGGER)].into(),
            answers: vec![0; SIZE * (LONGEST_ANSWER + STAGGER)].into(),
            read: Vec::with_capacity(SIZE),
            places: Vec::with_capacity(SIZE),
            ready: Vec::with_capacity(SIZE),
        }
    }

    /// Reads what there is at a socket, at most [`SIZE`] datagrams, without waiting; gives their number.
    ///
    /// # Errors
    /// `EWOULDBLOCK` when there is none; errors of datagrams that were sent before.
    pub(super) fn receive(&mut self, socket: &impl AsRawFd) -> Result<usize, Errno> {
        self.read.clear();
        self.places.clear();
        self.ready.clear();
        let mut rows = self.questions.chunks_exact_mut(LONGEST_QUESTION + STAGGER);
        let mut slices: [[IoSliceMut<'_>; 1]; SIZE] = std::array::from_fn(|_| {
            let row = rows.next().unwrap_or_default();
            [IoSliceMut::new(&mut row[..LONGEST_QUESTION])]
        });
        let received = recvmmsg(socket.as_raw_fd(), &mut self.incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
        self.read.extend(received.map(|message| (message.bytes, message.address)));
        Ok(self.read.len())
    }

    /// Gives each datagram that was read with its sender and the room for its answer; what comes back is where in that
    /// room the answer lies, if there is one.
    #[inline]
    pub(super) fn answer_each(&mut self, mut answer: impl FnMut(&[u8], A, &mut [u8]) -> Option<Range<usize>>) {
        let questions = self.questions.chunks_exact(LONGEST_QUESTION + STAGGER);
        let rooms = self.answers.chunks_exact_mut(LONGEST_ANSWER + STAGGER);
        for (row, ((read, question), room)) in self.read.iter().zip(questions).zip(rooms).enumerate() {
            let (length, Some(sender)) = *read else { continue };
            let Some(question) = question.get(..length) else { continue };
            if let Some(place) = answer(question, sender, room) {
                let start = row * (LONGEST_ANSWER + STAGGER);
                self.places.push(start + place.start..start + place.end);
                self.ready.push(Some(sender));
            }
        }
    }

    /// Sends all answers without waiting. One that cannot be sent is lost, as it would be in any queue on its way.
    pub(super) fn send(&mut self, socket: RawFd) {
        let mut first = 0;
        while first < self.places.len() {
            let answers = &self.answers;
            let slices: [[IoSlice<'_>; 1]; SIZE] = std::array::from_fn(|index| {
                let place = self.places.get(first + index).cloned();
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
