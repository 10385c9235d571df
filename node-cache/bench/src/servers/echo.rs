//! Echoes: the cost of sockets alone. They send as many octets back as a response has, and parse nothing.
//!
//! * [`serve_blocking`] blocks in the call that reads, which is the least that any program can do.
//! * [`serve_with_epoll`] waits for events, as a server with more than one socket must, and has its socket watched all
//!   the time.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use node_cache::resolver::{QUERY_BUF_LEN, RESPONSE_BUF_LEN};
use node_cache_sys::datagrams::{Datagrams, Family};
use rustix::event::epoll;

/// Datagrams per system call.
const BATCH: usize = 32;
/// Octets between two buffers, as in the buffers of the resolver.
const STAGGER: usize = 80;

/// Serves by blocking calls. Nothing is allocated for a batch; only the array that points to the buffers is written
/// anew, as the safe call wants it.
pub(crate) fn serve_blocking(socket: &UdpSocket, octets: usize) {
    let mut query_buffers = vec![0_u8; BATCH * (QUERY_BUF_LEN + STAGGER)];
    let mut response_buffers = vec![0_u8; BATCH * (RESPONSE_BUF_LEN + STAGGER)];
    response_buffers.chunks_mut(RESPONSE_BUF_LEN + STAGGER).for_each(write_header);
    let responses: Vec<[IoSlice<'_>; 1]> =
        response_buffers.chunks(RESPONSE_BUF_LEN + STAGGER).map(|buffer| [IoSlice::new(&buffer[..octets])]).collect();
    let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut clients = [None; BATCH];
    loop {
        let mut buffers = query_buffers.chunks_mut(QUERY_BUF_LEN + STAGGER);
        let mut queries: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(&mut buffers.next().unwrap()[..QUERY_BUF_LEN])]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let Ok(received) = recvmmsg(socket.as_raw_fd(), &mut incoming, &mut queries, flags, None) else { continue };
        let mut count = 0;
        for (client, message) in clients.iter_mut().zip(received) {
            *client = message.address;
            count += 1;
        }
        // A client that has closed its socket gets no response; the others of the batch do.
        let fd = socket.as_raw_fd();
        let _ = sendmmsg(fd, &mut outgoing, &responses[..count], &clients[..count], [], MsgFlags::empty())
            .map(Iterator::count);
    }
}

/// Serves by epoll, and reads as the resolver does: a batch that is not full has emptied the socket, and an event
/// follows.
pub(crate) fn serve_with_epoll(socket: &UdpSocket, octets: usize) {
    socket.set_nonblocking(true).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, socket, epoll::EventData::new_u64(0), flags).unwrap();
    let mut datagrams = Datagrams::<BATCH, QUERY_BUF_LEN, RESPONSE_BUF_LEN>::new(Family::V4);
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 1];
    loop {
        let _ = epoll::wait(&epoll, &mut events, None);
        while datagrams.receive(socket).is_ok_and(|count| {
            for row in 0..count {
                let mut reply = datagrams.begin_response(row);
                write_header(reply.buffers().1);
                reply.commit(octets);
            }
            datagrams.send(socket, |_| ());
            count == BATCH
        }) {}
    }
}

/// Writes the part of a header that makes a client take the datagram for a response with four records.
fn write_header(response: &mut [u8]) {
    response[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 4]);
}
