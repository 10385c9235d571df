//! Room for a number of datagrams, made once and used again and again: read with one system call, answered in place, and
//! sent with one.
//!
//! The headers that `recvmmsg(2)` and `sendmmsg(2)` want lead to memory that never moves, and so are written once. To build
//! them for each call, as safe wrappers must, takes some 130 instructions for each datagram.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{NonNull, null_mut};

use libc::{c_uint, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t};

/// Which addresses a socket has. The kernel writes the length of a source where it reads the room for the next one: with
/// one family for all they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Octets between two rows. With rows that are a power of two apart, all would fall into the same few lines of the processor's
/// cache.
const STAGGER: usize = 80;

/// Datagrams, their sources, and the answers to them: `ROWS` for one call, of which the first `QUESTION` octets are read (of
/// longer ones the rest is cut off), and room for answers of `ANSWER` octets.
#[derive(Debug)]
pub struct Datagrams<const ROWS: usize, const QUESTION: usize, const ANSWER: usize> {
    family: Family,
    questions: Memory<u8>,
    answers: Memory<u8>,
    /// Long enough for both families.
    sources: Memory<sockaddr_in6>,
    incoming: Memory<mmsghdr>,
    /// One for each header, which leads to it.
    _into: Memory<iovec>,
    outgoing: Memory<mmsghdr>,
    from: Memory<iovec>,
    read: usize,
    ready: usize,
}

impl<const ROWS: usize, const QUESTION: usize, const ANSWER: usize> Datagrams<ROWS, QUESTION, ANSWER> {
    /// Room for sockets of a family.
    #[must_use]
    pub fn new(family: Family) -> Self {
        let questions = Memory::new(vec![0; ROWS * (QUESTION + STAGGER)]);
        let answers = Memory::new(vec![0; ROWS * (ANSWER + STAGGER)]);
        let sources = Memory::new((0..ROWS).map(|_| no_address()).collect());
        let slice = |row: usize| iovec { iov_base: questions.at(row * (QUESTION + STAGGER)).cast(), iov_len: QUESTION };
        let into = Memory::new((0..ROWS).map(slice).collect());
        let from = Memory::new((0..ROWS).map(|_| iovec { iov_base: null_mut(), iov_len: 0 }).collect());
        let length = match family {
            Family::V4 => size_of::<sockaddr_in>(),
            Family::V6 => size_of::<sockaddr_in6>(),
        };
        let headers = |slices: &Memory<iovec>| {
            let header = |row| header(sources.at(row), length as socklen_t, slices.at(row));
            Memory::new((0..ROWS).map(header).collect())
        };
        let (incoming, outgoing) = (headers(&into), headers(&from));
        Self { family, questions, answers, sources, incoming, _into: into, outgoing, from, read: 0, ready: 0 }
    }

    /// Reads what there is at a socket of this family, without waiting; gives the number of datagrams. Answers that were
    /// ready are forgotten.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; errors of datagrams that were sent before.
    #[allow(unsafe_code)]
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        (self.read, self.ready) = (0, 0);
        let socket = socket.as_fd().as_raw_fd();
        let (headers, rows) = (self.incoming.at(0), ROWS as c_uint);
        // SAFETY: there are so many headers, and each leads to one slice and one source of its own row, with their
        // true lengths; nothing else refers to them during the call.
        let read = unsafe { libc::recvmmsg(socket, headers, rows, libc::MSG_DONTWAIT, null_mut()) };
        self.read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?.min(ROWS);
        Ok(self.read)
    }

    /// A datagram that was read; nothing where none was.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn question(&self, row: usize) -> &[u8] {
        if row >= self.read {
            return &[];
        }
        let start = self.questions.at(row * (QUESTION + STAGGER));
        // SAFETY: a row of so many octets begins there, all of it was written when it was made,
        // and nobody writes to it while this borrow lasts.
        unsafe {
            let length = (*self.incoming.at(row)).msg_len as usize;
            std::slice::from_raw_parts(start, length.min(QUESTION))
        }
    }

    /// Who sent it.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn source(&self, row: usize) -> SocketAddr {
        assert!(row < ROWS, "row {row} of {ROWS}");
        let source = self.sources.at(row);
        match self.family {
            Family::V4 => {
                // SAFETY: an address of one family lies there, or zeros; the room is long enough for either, and
                // aligned as the stricter wants it, which is the same for both.
                let source = unsafe { source.cast::<sockaddr_in>().read() };
                let address = Ipv4Addr::from(u32::from_be(source.sin_addr.s_addr));
                SocketAddr::V4(SocketAddrV4::new(address, u16::from_be(source.sin_port)))
            }
            Family::V6 => {
                // SAFETY: as above.
                let source = unsafe { source.read() };
                let (address, port) = (Ipv6Addr::from(source.sin6_addr.s6_addr), u16::from_be(source.sin6_port));
                SocketAddr::V6(SocketAddrV6::new(address, port, source.sin6_flowinfo, source.sin6_scope_id))
            }
        }
    }

    /// The room for the answer to it.
    #[must_use]
    #[inline]
    pub fn answer(&mut self, row: usize) -> &mut [u8; ANSWER] {
        self.question_and_answer(row).1
    }

    /// A datagram and the room for its answer.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn question_and_answer(&mut self, row: usize) -> (&[u8], &mut [u8; ANSWER]) {
        assert!(row < ROWS, "row {row} of {ROWS}");
        let start = self.answers.at(row * (ANSWER + STAGGER));
        // SAFETY: a row of so many octets begins there, all of it was written when it was made, and
        // nobody else reads or writes it while this borrow lasts: questions are elsewhere.
        let answer = unsafe { &mut *start.cast::<[u8; ANSWER]>() };
        (self.question(row), answer)
    }

    /// Says that the answer to a datagram has so many octets, from the beginning of its room on.
    #[inline]
    #[allow(unsafe_code)]
    pub fn ready(&mut self, row: usize, length: usize) {
        if length > ANSWER || row >= ROWS || self.ready >= ROWS {
            return;
        }
        let start = self.answers.at(row * (ANSWER + STAGGER));
        // SAFETY: both are there and nothing else refers to them; what they lead to lies inside of its row.
        unsafe {
            *self.from.at(self.ready) = iovec { iov_base: start.cast(), iov_len: length };
            (*self.outgoing.at(self.ready)).msg_hdr.msg_name = self.sources.at(row).cast();
        }
        self.ready += 1;
    }

    /// Sends all answers that are ready, without waiting. What cannot be sent is lost, as it would be in any queue on its
    /// way, and told to `failed`.
    #[allow(unsafe_code)]
    pub fn send(&mut self, socket: &impl AsFd, mut failed: impl FnMut(io::Error)) {
        let socket = socket.as_fd().as_raw_fd();
        let mut first = 0;
        while first < self.ready {
            let (headers, count) = (self.outgoing.at(first), (self.ready - first) as c_uint);
            // SAFETY: so many headers from this one on were made ready: each leads to one slice inside of a row and to one
            // source. The kernel writes to the headers alone.
            let sent = unsafe { libc::sendmmsg(socket, headers, count, libc::MSG_DONTWAIT) };
            // The kernel stops at the first that it cannot send, and says why only if it is the first of all.
            first += match usize::try_from(sent) {
                Ok(sent) => sent.max(1),
                Err(_) => {
                    failed(io::Error::last_os_error());
                    1
                }
            };
        }
        self.ready = 0;
    }
}

#[allow(unsafe_code)]
const fn no_address() -> sockaddr_in6 {
    // SAFETY: numbers only, for which all zeros are a value.
    unsafe { std::mem::zeroed() }
}

#[allow(unsafe_code)]
fn header(source: *mut sockaddr_in6, length: socklen_t, slice: *mut iovec) -> mmsghdr {
    // SAFETY: numbers and pointers only, for which all zeros are a value.
    let mut header: mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = source.cast();
    header.msg_hdr.msg_namelen = length;
    header.msg_hdr.msg_iov = slice;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Values that never move and that the kernel may have pointers to: they are reached through one pointer only.
#[derive(Debug)]
struct Memory<T> {
    first: NonNull<T>,
    length: usize,
}

impl<T> Memory<T> {
    fn new(values: Vec<T>) -> Self {
        let values = Box::leak(values.into_boxed_slice());
        let length = values.len();
        Self { first: NonNull::from(values).cast(), length }
    }

    /// Where a value is. Whoever reads or writes there has to know that there is one.
    #[inline]
    fn at(&self, index: usize) -> *mut T {
        debug_assert!(index < self.length, "{index} of {}", self.length);
        self.first.as_ptr().wrapping_add(index)
    }
}

impl<T> Drop for Memory<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: this is what was leaked in `new`, and nothing else frees it.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.length)) });
    }
}

#[cfg(test)]
mod tests;
