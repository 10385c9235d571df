use std::net::UdpSocket;

use super::*;

/// Four rows of few octets.
type Few = Datagrams<4, 16, 32>;

fn pair(address: &str) -> (UdpSocket, UdpSocket) {
    let (server, client) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    (server, client)
}

#[test]
fn the_rooms_of_all_rows_lie_apart() {
    for family in [Family::V4, Family::V6] {
        let mut datagrams = Few::new(family);
        for row in 0..4 {
            assert_eq!(datagrams.source(row).port(), 0);
            assert_eq!(datagrams.question_room(row), (&[0; 16], 0));
            let mut reply = datagrams.answer(row);
            let (question, room) = reply.rooms();
            assert_eq!((*question, *room), ([0; 16], [0; 32]));
            *room = [row as u8 + 1; 32];
            reply.ready(32);
            assert_eq!(datagrams.last_answer(), [row as u8 + 1; 32]);
        }
    }
}

// Miri knows no sockets for datagrams.
#[cfg_attr(miri, ignore)]
#[test]
fn every_datagram_is_answered_to_who_sent_it_in_both_families() {
    for (address, family) in [("127.0.0.1:0", Family::V4), ("[::1]:0", Family::V6)] {
        let (server, client) = pair(address);
        let mut datagrams = Few::new(family);
        assert_eq!(datagrams.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // Again, so that it is seen that the room for addresses is what it was.
        for round in 0..3_u8 {
            for number in 0..6_u8 {
                client.send(&[round, number]).unwrap();
            }
            let mut answered = 0;
            while answered < 6 {
                let Ok(read) = datagrams.receive(&server) else { continue };
                assert!(read <= 4);
                for row in 0..read {
                    assert_eq!(datagrams.source(row), client.local_addr().unwrap());
                    assert_eq!(datagrams.question(row).len(), 2);
                    let mut reply = datagrams.answer(row);
                    let (question, room) = reply.rooms();
                    room[..2].copy_from_slice(&question[..2]);
                    let number = question[1];
                    // Every second one only.
                    if number.is_multiple_of(2) {
                        reply.ready(2);
                        assert_eq!(datagrams.last_answer(), [round, number]);
                    }
                }
                answered += read;
                datagrams.send(&server, |error| panic!("{error}"));
            }
            for number in [0, 2, 4] {
                let mut answer = [0; 8];
                let length = client.recv(&mut answer).unwrap();
                assert_eq!(answer[..length], [round, number]);
            }
        }
    }
}

#[cfg_attr(miri, ignore)]
#[test]
fn nothing_is_read_or_sent_outside_of_a_row() {
    let (server, client) = pair("127.0.0.1:0");
    let mut datagrams = Few::new(Family::V4);
    client.send(&[7; 100]).unwrap();
    while datagrams.receive(&server).is_err() {}
    assert_eq!(datagrams.question(0), [7; 16], "the rest is cut off");
    assert_eq!(datagrams.question(1), [0; 0]);
    assert_eq!(datagrams.question(99), [0; 0]);
    let mut reply = datagrams.answer(0);
    assert_eq!(reply.rooms().1.len(), 32);
    reply.ready(33);
    assert_eq!(datagrams.last_answer(), [0; 0]);
    datagrams.send(&server, |error| panic!("{error}"));
    client.set_nonblocking(true).unwrap();
    assert!(client.recv(&mut [0; 64]).is_err(), "nothing was sent");
}

#[cfg_attr(miri, ignore)]
#[test]
fn what_cannot_be_sent_costs_the_others_nothing() {
    let (server, client) = pair("127.0.0.1:0");
    // Longer than a datagram can be, which the kernel refuses.
    let mut long = Datagrams::<4, 16, 70_000>::new(Family::V4);
    client.send(&[1]).unwrap();
    client.send(&[2]).unwrap();
    while long.receive(&server).is_err() {}
    let mut failed = 0;
    for (row, length) in [70_000, 3].into_iter().enumerate() {
        long.answer(row).ready(length);
    }
    long.send(&server, |_| failed += 1);
    assert_eq!((failed, client.recv(&mut [0; 64]).unwrap()), (1, 3));
}
