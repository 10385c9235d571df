//! Room for a number of datagrams, made once and used again and again: read with one system call, answered in place, and
//! sent with one.
//!
//! The headers that `recvmmsg(2)` and `sendmmsg(2)` want lead to memory that never moves, and so are written once. To build
//! them for each call, as safe wrappers must, takes some 130 instructions for each datagram. The calls go to the kernel
//! directly: where the C library makes them, it looks before and after whether the thread shall end.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{NonNull, null_mut};

use libc::{
    MSG_DONTWAIT, SYS_recvmmsg, SYS_sendmmsg, c_uint, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t, syscall,
    timespec,
};

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
    /// What the kernel has pointers to: it never moves, and is reached through this pointer only.
    rows: NonNull<Rows<ROWS, QUESTION, ANSWER>>,
    read: usize,
    ready: usize,
}

/// A row of octets, and the distance to the next one.
#[repr(C)]
struct Row<const LENGTH: usize> {
    octets: [u8; LENGTH],
    _stagger: [u8; STAGGER],
}

/// An address, long enough for both families, where a shift finds it.
#[repr(C, align(32))]
struct Source(sockaddr_in6);

/// All in one piece, so that one pointer leads to everything.
#[repr(C)]
struct Rows<const ROWS: usize, const QUESTION: usize, const ANSWER: usize> {
    incoming: [mmsghdr; ROWS],
    outgoing: [mmsghdr; ROWS],
    into: [iovec; ROWS],
    from: [iovec; ROWS],
    sources: [Source; ROWS],
    questions: [Row<QUESTION>; ROWS],
    answers: [Row<ANSWER>; ROWS],
}

impl<const ROWS: usize, const QUESTION: usize, const ANSWER: usize> Datagrams<ROWS, QUESTION, ANSWER> {
    /// Room for sockets of a family.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn new(family: Family) -> Self {
        let layout = Layout::new::<Rows<ROWS, QUESTION, ANSWER>>();
        // SAFETY: the layout is not empty: a row holds at least what lies between two.
        let rows = unsafe { alloc_zeroed(layout) }.cast::<Rows<ROWS, QUESTION, ANSWER>>();
        let Some(rows) = NonNull::new(rows) else { handle_alloc_error(layout) };
        let length = match family {
            Family::V4 => size_of::<sockaddr_in>(),
            Family::V6 => size_of::<sockaddr_in6>(),
        };
        let this = Self { family, rows, read: 0, ready: 0 };
        for row in 0..ROWS {
            let rows = this.rows.as_ptr();
            // SAFETY: numbers and pointers only, for which zeros are a value; each is written in its own row.
            unsafe {
                let (into, from) = (&raw mut (*rows).into[row], &raw mut (*rows).from[row]);
                *into = iovec { iov_base: (&raw mut (*rows).questions[row]).cast(), iov_len: QUESTION };
                *from = iovec { iov_base: (&raw mut (*rows).answers[row]).cast(), iov_len: 0 };
                for (header, slice) in [(&raw mut (*rows).incoming[row], into), (&raw mut (*rows).outgoing[row], from)]
                {
                    (*header).msg_hdr.msg_name = (&raw mut (*rows).sources[row].0).cast();
                    (*header).msg_hdr.msg_namelen = length as socklen_t;
                    (*header).msg_hdr.msg_iov = slice;
                    (*header).msg_hdr.msg_iovlen = 1;
                }
            }
        }
        this
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
        // SAFETY: there are so many headers, and each leads to one slice and one source of its own row, with their
        // true lengths; nothing else refers to them during the call.
        let read = unsafe {
            let headers = (&raw mut (*self.rows.as_ptr()).incoming).cast::<mmsghdr>();
            syscall(SYS_recvmmsg, socket, headers, ROWS as c_uint, MSG_DONTWAIT, null_mut::<timespec>())
        };
        self.read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?.min(ROWS);
        Ok(self.read)
    }

    /// A datagram that was read; nothing where none was.
    #[must_use]
    #[inline]
    pub fn question(&self, row: usize) -> &[u8] {
        if row >= self.read {
            return &[];
        }
        let (room, length) = self.question_room(row);
        room.get(..length).unwrap_or_default()
    }

    /// The room of a datagram, and how many octets of it were read. Behind them is what was read there before.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn question_room(&self, row: usize) -> (&[u8; QUESTION], usize) {
        assert!(row < ROWS, "row {row} of {ROWS}");
        // SAFETY: there is such a row, all octets are written from the beginning, and nobody writes to it while this borrow
        // lasts: the kernel does so in `receive` alone.
        unsafe {
            let rows = self.rows.as_ptr();
            let length = (*rows).incoming[row].msg_len as usize;
            (&(*rows).questions[row].octets, length.min(QUESTION))
        }
    }

    /// Address and port of who sent it.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn asker(&self, row: usize) -> (IpAddr, u16) {
        assert!(row < ROWS, "row {row} of {ROWS}");
        // SAFETY: there is such a row. An address of one family lies there, or zeros; the room is long enough for either, and
        // aligned as the stricter wants it, which is the same for both.
        unsafe {
            let source = &raw const (*self.rows.as_ptr()).sources[row].0;
            match self.family {
                Family::V4 => {
                    let source = source.cast::<sockaddr_in>();
                    let address = Ipv4Addr::from_bits(u32::from_be((*source).sin_addr.s_addr));
                    (IpAddr::V4(address), u16::from_be((*source).sin_port))
                }
                Family::V6 => {
                    let address = Ipv6Addr::from((*source).sin6_addr.s6_addr);
                    (IpAddr::V6(address), u16::from_be((*source).sin6_port))
                }
            }
        }
    }

    /// Who sent it, with what an IPv6 address says beside address and port.
    ///
    /// # Panics
    /// There is no such row.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn source(&self, row: usize) -> SocketAddr {
        match self.asker(row) {
            (IpAddr::V4(address), port) => SocketAddr::V4(SocketAddrV4::new(address, port)),
            (IpAddr::V6(address), port) => {
                // SAFETY: there is such a row, in which an address of this family lies.
                let (flow, scope) = unsafe {
                    let source = &raw const (*self.rows.as_ptr()).sources[row].0;
                    ((*source).sin6_flowinfo, (*source).sin6_scope_id)
                };
                SocketAddr::V6(SocketAddrV6::new(address, port, flow, scope))
            }
        }
    }

    /// Begins the next answer, to the datagram of this row. Once for each row.
    ///
    /// # Panics
    /// There is no such row, or there are as many answers as rows.
    #[inline]
    pub fn answer(&mut self, row: usize) -> Reply<'_, ROWS, QUESTION, ANSWER> {
        assert!(row < ROWS && self.ready < ROWS, "row {row}, answer {} of {ROWS}", self.ready);
        Reply { datagrams: self, row }
    }

    /// The answer that was written last; nothing where none was.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn last_answer(&self) -> &[u8] {
        let Some(last) = self.ready.checked_sub(1) else { return &[] };
        // SAFETY: there is such a row, all octets are written from the beginning, and nobody writes to it while this borrow
        // lasts.
        let (octets, length) = unsafe {
            let rows = self.rows.as_ptr();
            (&(*rows).answers[last].octets, (*rows).from[last].iov_len)
        };
        octets.get(..length).unwrap_or_default()
    }

    /// Sends all answers that are ready, without waiting. What cannot be sent is lost, as it would be in any queue on its
    /// way, and told to `failed`.
    #[allow(unsafe_code)]
    pub fn send(&mut self, socket: &impl AsFd, mut failed: impl FnMut(io::Error)) {
        let socket = socket.as_fd().as_raw_fd();
        let mut first = 0;
        while first < self.ready {
            // SAFETY: so many headers from this one on were made ready: each leads to one slice inside of a row and to one
            // source. The kernel writes to the headers alone.
            let sent = unsafe {
                let headers = (&raw mut (*self.rows.as_ptr()).outgoing).cast::<mmsghdr>().add(first);
                syscall(SYS_sendmmsg, socket, headers, (self.ready - first) as c_uint, MSG_DONTWAIT)
            };
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

/// The next answer, to a datagram.
#[derive(Debug)]
pub struct Reply<'a, const ROWS: usize, const QUESTION: usize, const ANSWER: usize> {
    datagrams: &'a mut Datagrams<ROWS, QUESTION, ANSWER>,
    /// There is such a row, and room for one answer more.
    row: usize,
}

impl<const ROWS: usize, const QUESTION: usize, const ANSWER: usize> Reply<'_, ROWS, QUESTION, ANSWER> {
    /// The room of the datagram and the one for the answer.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn rooms(&mut self) -> (&[u8; QUESTION], &mut [u8; ANSWER]) {
        let rows = self.datagrams.rows.as_ptr();
        // SAFETY: there are such rows, all octets are written from the beginning, and nobody else reads or writes them while
        // these borrows last: the two lie apart.
        unsafe {
            let question = element(&raw mut (*rows).questions, self.row);
            let answer = element(&raw mut (*rows).answers, self.datagrams.ready);
            (&(*question).octets, &mut (*answer).octets)
        }
    }

    /// It has so many octets, from the beginning of its room on. More than there is room for are not sent.
    #[inline]
    #[allow(unsafe_code)]
    pub fn ready(self, length: usize) {
        let Self { datagrams, row } = self;
        if length > ANSWER {
            return;
        }
        let (rows, next) = (datagrams.rows.as_ptr(), datagrams.ready);
        // SAFETY: there are such rows, and nothing refers to what is written; the slice of this header is the answer's own, in
        // which there is room for so many octets.
        unsafe {
            (*element(&raw mut (*rows).from, next)).iov_len = length;
            let source = element(&raw mut (*rows).sources, row);
            (*element(&raw mut (*rows).outgoing, next)).msg_hdr.msg_name = source.cast();
        }
        datagrams.ready = next + 1;
    }
}

/// An element of an array.
///
/// # Safety
/// There is such an element: it is not looked at again, as it was when the answer was begun.
#[inline]
#[allow(unsafe_code)]
const unsafe fn element<T, const ROWS: usize>(array: *mut [T; ROWS], place: usize) -> *mut T {
    // SAFETY: it lies in the array.
    unsafe { array.cast::<T>().add(place) }
}

impl<const ROWS: usize, const QUESTION: usize, const ANSWER: usize> Drop for Datagrams<ROWS, QUESTION, ANSWER> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: this was allocated in `new` with the same layout, holds nothing that must be dropped, and nothing else
        // frees it.
        unsafe { dealloc(self.rows.as_ptr().cast(), Layout::new::<Rows<ROWS, QUESTION, ANSWER>>()) }
    }
}

#[cfg(test)]
mod tests;
