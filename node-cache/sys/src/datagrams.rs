//! Buffers for a batch of UDP datagrams, allocated once and reused: received with one system call (`recvmmsg(2)`),
//! answered in place, and sent with one (`sendmmsg(2)`).
//!
//! The message headers of both calls point to memory that never moves, and so are written once. To build them for each
//! call, as safe wrappers must, takes some 130 instructions for each datagram. The system calls are made directly: the
//! C library's wrappers check for thread cancellation before and after each call.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{NonNull, null_mut};

use libc::{
    MSG_DONTWAIT, SYS_recvmmsg, SYS_sendmmsg, c_uint, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t, syscall,
    timespec,
};

/// Address family of a socket. The kernel writes the length of a source address to the field from which it reads the
/// buffer length for the next call: with one family for all calls both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Bytes of padding between two buffers. Without them buffers would be a power of two apart, and all would map to the
/// same few lines of the processor's cache.
const PADDING_LEN: usize = 80;

/// Queries, their clients' addresses, and the responses to them: `ROWS` for one system call. A row has a buffer of
/// `QUERY_LEN` bytes for the query (the rest of a longer datagram is cut off) and one of `RESPONSE_LEN` bytes for a
/// response.
#[derive(Debug)]
pub struct Datagrams<const ROWS: usize, const QUERY_LEN: usize, const RESPONSE_LEN: usize> {
    family: Family,
    /// Memory that the kernel has pointers into: it never moves, and is accessed through this pointer only.
    rows: NonNull<Rows<ROWS, QUERY_LEN, RESPONSE_LEN>>,
    /// Number of queries received by the last call.
    received: usize,
    /// Number of responses that wait to be sent.
    pending: usize,
}

/// A buffer, and the padding to the next one.
#[repr(C)]
struct Buffer<const LEN: usize> {
    bytes: [u8; LEN],
    _padding: [u8; PADDING_LEN],
}

/// A socket address, large enough for both families, in a size that is a power of two: an index becomes a shift.
#[repr(C, align(32))]
struct ClientAddress(sockaddr_in6);

/// All headers and buffers in one allocation, so that one pointer reaches everything.
#[repr(C)]
struct Rows<const ROWS: usize, const QUERY_LEN: usize, const RESPONSE_LEN: usize> {
    receive_headers: [mmsghdr; ROWS],
    send_headers: [mmsghdr; ROWS],
    receive_slices: [iovec; ROWS],
    send_slices: [iovec; ROWS],
    clients: [ClientAddress; ROWS],
    queries: [Buffer<QUERY_LEN>; ROWS],
    responses: [Buffer<RESPONSE_LEN>; ROWS],
}

impl<const ROWS: usize, const QUERY_LEN: usize, const RESPONSE_LEN: usize> Datagrams<ROWS, QUERY_LEN, RESPONSE_LEN> {
    /// Allocates buffers for sockets of one address family.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn new(family: Family) -> Self {
        let layout = Layout::new::<Rows<ROWS, QUERY_LEN, RESPONSE_LEN>>();
        // SAFETY: the layout is not empty: each buffer has its padding at least.
        let rows = unsafe { alloc_zeroed(layout) }.cast::<Rows<ROWS, QUERY_LEN, RESPONSE_LEN>>();
        let Some(rows) = NonNull::new(rows) else { handle_alloc_error(layout) };
        let address_len = match family {
            Family::V4 => size_of::<sockaddr_in>(),
            Family::V6 => size_of::<sockaddr_in6>(),
        };
        let this = Self { family, rows, received: 0, pending: 0 };
        for row in 0..ROWS {
            let rows = this.rows.as_ptr();
            // SAFETY: all fields are integers and pointers, for which zeros are a valid value; each write is to row
            // `row`.
            unsafe {
                let receive_slice = &raw mut (*rows).receive_slices[row];
                let send_slice = &raw mut (*rows).send_slices[row];
                *receive_slice = iovec { iov_base: (&raw mut (*rows).queries[row]).cast(), iov_len: QUERY_LEN };
                *send_slice = iovec { iov_base: (&raw mut (*rows).responses[row]).cast(), iov_len: 0 };
                for (header, slice) in [
                    (&raw mut (*rows).receive_headers[row], receive_slice),
                    (&raw mut (*rows).send_headers[row], send_slice),
                ] {
                    (*header).msg_hdr.msg_name = (&raw mut (*rows).clients[row].0).cast();
                    (*header).msg_hdr.msg_namelen = address_len as socklen_t;
                    (*header).msg_hdr.msg_iov = slice;
                    (*header).msg_hdr.msg_iovlen = 1;
                }
            }
        }
        this
    }

    /// Receives up to `ROWS` datagrams from a socket of this family, without waiting, and returns their number.
    /// Discards responses that were not sent.
    ///
    /// # Errors
    /// `WouldBlock` when no datagram is there; pending errors of datagrams that were sent before.
    #[allow(unsafe_code)]
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.received = 0;
        self.pending = 0;
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: there are `ROWS` headers, and each points to one slice and one address of its own row, with their
        // true lengths; nothing else refers to them during the call.
        let received = unsafe {
            let headers = (&raw mut (*self.rows.as_ptr()).receive_headers).cast::<mmsghdr>();
            syscall(SYS_recvmmsg, socket, headers, ROWS as c_uint, MSG_DONTWAIT, null_mut::<timespec>())
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?.min(ROWS);
        Ok(self.received)
    }

    /// Returns the datagram received in a row; an empty slice when none was.
    #[must_use]
    #[inline]
    pub fn query(&self, row: usize) -> &[u8] {
        if row >= self.received {
            return &[];
        }
        let (buffer, length) = self.query_buf(row);
        buffer.get(..length).unwrap_or_default()
    }

    /// Returns the query buffer of a row, and the length of the datagram in it. Behind the datagram are bytes of
    /// earlier ones.
    ///
    /// # Panics
    /// Panics when there is no such row.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn query_buf(&self, row: usize) -> (&[u8; QUERY_LEN], usize) {
        assert!(row < ROWS, "row {row} of {ROWS}");
        // SAFETY: the row exists, all its bytes are initialized, and nothing writes to it while this borrow lasts: the
        // kernel writes to it in `receive` only.
        unsafe {
            let rows = self.rows.as_ptr();
            let length = (*rows).receive_headers[row].msg_len as usize;
            (&(*rows).queries[row].bytes, length.min(QUERY_LEN))
        }
    }

    /// Returns the IP address and port of the client of a row.
    ///
    /// # Panics
    /// Panics when there is no such row.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn client(&self, row: usize) -> (IpAddr, u16) {
        assert!(row < ROWS, "row {row} of {ROWS}");
        // SAFETY: the row exists. It holds an address of this family, or zeros. The memory is large enough for either
        // family, and aligned for the stricter one; both have the same alignment.
        unsafe {
            let address = &raw const (*self.rows.as_ptr()).clients[row].0;
            match self.family {
                Family::V4 => {
                    let address = address.cast::<sockaddr_in>();
                    let ip = Ipv4Addr::from_bits(u32::from_be((*address).sin_addr.s_addr));
                    (IpAddr::V4(ip), u16::from_be((*address).sin_port))
                }
                Family::V6 => {
                    let ip = Ipv6Addr::from((*address).sin6_addr.s6_addr);
                    (IpAddr::V6(ip), u16::from_be((*address).sin6_port))
                }
            }
        }
    }

    /// Returns the socket address of the client of a row, with flow label and scope ID for IPv6.
    ///
    /// # Panics
    /// Panics when there is no such row.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn client_address(&self, row: usize) -> SocketAddr {
        match self.client(row) {
            (IpAddr::V4(ip), port) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
            (IpAddr::V6(ip), port) => {
                // SAFETY: the row exists, and holds an address of this family.
                let (flow, scope) = unsafe {
                    let address = &raw const (*self.rows.as_ptr()).clients[row].0;
                    ((*address).sin6_flowinfo, (*address).sin6_scope_id)
                };
                SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope))
            }
        }
    }

    /// Begins the next response, to the query of a row. At most one response for each row.
    ///
    /// # Panics
    /// Panics when there is no such row, or when as many responses as rows are pending.
    #[inline]
    pub fn begin_response(&mut self, row: usize) -> ResponseSlot<'_, ROWS, QUERY_LEN, RESPONSE_LEN> {
        assert!(row < ROWS && self.pending < ROWS, "row {row}, response {} of {ROWS}", self.pending);
        ResponseSlot { datagrams: self, row }
    }

    /// Returns the response that was committed last; an empty slice when none is pending.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn last_response(&self) -> &[u8] {
        let Some(last) = self.pending.checked_sub(1) else { return &[] };
        // SAFETY: the row exists, all its bytes are initialized, and nothing writes to it while this borrow lasts.
        let (bytes, length) = unsafe {
            let rows = self.rows.as_ptr();
            (&(*rows).responses[last].bytes, (*rows).send_slices[last].iov_len)
        };
        bytes.get(..length).unwrap_or_default()
    }

    /// Sends all pending responses, without waiting. A response that cannot be sent is lost, as it would be in any
    /// queue on its path; `on_error` gets its error.
    #[allow(unsafe_code)]
    pub fn send(&mut self, socket: &impl AsFd, mut on_error: impl FnMut(io::Error)) {
        let socket = socket.as_fd().as_raw_fd();
        let mut first = 0;
        while first < self.pending {
            // SAFETY: `pending - first` headers from `first` on were committed: each points to one slice inside of a
            // row and to one address. The kernel writes to the headers only.
            let sent = unsafe {
                let headers = (&raw mut (*self.rows.as_ptr()).send_headers).cast::<mmsghdr>().add(first);
                syscall(SYS_sendmmsg, socket, headers, (self.pending - first) as c_uint, MSG_DONTWAIT)
            };
            // The kernel stops at the first datagram that it cannot send, and returns its error only if it is the first
            // one of the call.
            first += match usize::try_from(sent) {
                Ok(sent) => sent.max(1),
                Err(_) => {
                    on_error(io::Error::last_os_error());
                    1
                }
            };
        }
        self.pending = 0;
    }
}

/// The buffers of one query and of the next response. Dropping a slot without [`ResponseSlot::commit`] sends nothing.
#[derive(Debug)]
pub struct ResponseSlot<'a, const ROWS: usize, const QUERY_LEN: usize, const RESPONSE_LEN: usize> {
    datagrams: &'a mut Datagrams<ROWS, QUERY_LEN, RESPONSE_LEN>,
    /// Row of the query. The row exists, and there is a buffer for one more response.
    row: usize,
}

impl<const ROWS: usize, const QUERY_LEN: usize, const RESPONSE_LEN: usize>
    ResponseSlot<'_, ROWS, QUERY_LEN, RESPONSE_LEN>
{
    /// Returns the buffer of the query, and the buffer for its response.
    #[must_use]
    #[inline]
    #[allow(unsafe_code)]
    pub fn buffers(&mut self) -> (&[u8; QUERY_LEN], &mut [u8; RESPONSE_LEN]) {
        let rows = self.datagrams.rows.as_ptr();
        // SAFETY: both rows exist, all their bytes are initialized, and nothing else reads or writes them while these
        // borrows last. The two buffers do not overlap.
        unsafe {
            let query = element(&raw mut (*rows).queries, self.row);
            let response = element(&raw mut (*rows).responses, self.datagrams.pending);
            (&(*query).bytes, &mut (*response).bytes)
        }
    }

    /// Marks the first `length` bytes of the response buffer as ready to be sent. Does nothing when `length` exceeds
    /// the buffer.
    #[inline]
    #[allow(unsafe_code)]
    pub fn commit(self, length: usize) {
        let Self { datagrams, row } = self;
        if length > RESPONSE_LEN {
            return;
        }
        let rows = datagrams.rows.as_ptr();
        let next = datagrams.pending;
        // SAFETY: both rows exist, and nothing refers to the fields that are written. The slice of this header is the
        // response buffer, which has at least `length` bytes.
        unsafe {
            (*element(&raw mut (*rows).send_slices, next)).iov_len = length;
            let client = element(&raw mut (*rows).clients, row);
            (*element(&raw mut (*rows).send_headers, next)).msg_hdr.msg_name = client.cast();
        }
        datagrams.pending = next + 1;
    }
}

/// Returns a pointer to an element of an array.
///
/// # Safety
/// `index` must be below `ROWS`. It is not checked here: `begin_response` has done so.
#[inline]
#[allow(unsafe_code)]
const unsafe fn element<T, const ROWS: usize>(array: *mut [T; ROWS], index: usize) -> *mut T {
    // SAFETY: the element is inside of the array.
    unsafe { array.cast::<T>().add(index) }
}

impl<const ROWS: usize, const QUERY_LEN: usize, const RESPONSE_LEN: usize> Drop
    for Datagrams<ROWS, QUERY_LEN, RESPONSE_LEN>
{
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the memory was allocated in `new` with the same layout, holds nothing that must be dropped, and is
        // freed nowhere else.
        unsafe { dealloc(self.rows.as_ptr().cast(), Layout::new::<Rows<ROWS, QUERY_LEN, RESPONSE_LEN>>()) }
    }
}

#[cfg(test)]
mod tests;
