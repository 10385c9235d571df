//! What sockets alone cost: programs that send as many octets back as an answer has, and know nothing.
//!
//! * [`blocking`] waits inside of the call that reads, which is the least that any program can do.
//! * [`polling`] waits for events, as a server must that waits for more than one socket, and has its socket watched all the time.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use node_cache::resolver::{QUERY_BUF_LEN, RESPONSE_BUF_LEN};
use node_cache_sys::datagrams::{Datagrams, Family};
use rustix::event::epoll;

const BATCH: usize = 32;
/// Octets between two rows, as in the room of the engine.
const STAGGER: usize = 80;

/// Nothing is allocated for a batch; what leads to the room for questions is written anew, as the safe call wants it.
pub(crate) fn blocking(socket: &UdpSocket, octets: usize) {
    let mut questions = vec![0_u8; BATCH * (QUERY_BUF_LEN + STAGGER)];
    let mut room = vec![0_u8; BATCH * (RESPONSE_BUF_LEN + STAGGER)];
    room.chunks_mut(RESPONSE_BUF_LEN + STAGGER).for_each(say);
    let answers: Vec<[IoSlice<'_>; 1]> =
        room.chunks(RESPONSE_BUF_LEN + STAGGER).map(|row| [IoSlice::new(&row[..octets])]).collect();
    let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut sources = [None; BATCH];
    loop {
        let mut rows = questions.chunks_mut(QUERY_BUF_LEN + STAGGER);
        let mut into: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(&mut rows.next().unwrap()[..QUERY_BUF_LEN])]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let Ok(received) = recvmmsg(socket.as_raw_fd(), &mut incoming, &mut into, flags, None) else { continue };
        let mut read = 0;
        for (source, message) in sources.iter_mut().zip(received) {
            *source = message.address;
            read += 1;
        }
        // Whoever is gone is not answered.
        let (answers, sources) = (&answers[..read], &sources[..read]);
        let _ =
            sendmmsg(socket.as_raw_fd(), &mut outgoing, answers, sources, [], MsgFlags::empty()).map(Iterator::count);
    }
}

/// Reads as the engine reads: a batch that is not full has emptied the socket, and then there is an event to come.
pub(crate) fn polling(socket: &UdpSocket, octets: usize) {
    socket.set_nonblocking(true).unwrap();
    let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&events, socket, epoll::EventData::new_u64(0), wanted).unwrap();
    let mut datagrams = Datagrams::<BATCH, QUERY_BUF_LEN, RESPONSE_BUF_LEN>::new(Family::V4);
    let mut came = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 1];
    loop {
        let _ = epoll::wait(&events, &mut came, None);
        while datagrams.receive(socket).is_ok_and(|read| {
            for row in 0..read {
                let mut reply = datagrams.answer(row);
                say(reply.rooms().1);
                reply.ready(octets);
            }
            datagrams.send(socket, |_| ());
            read == BATCH
        }) {}
    }
}

/// Writes what a client takes for an answer with four records.
fn say(answer: &mut [u8]) {
    answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 4]);
}
