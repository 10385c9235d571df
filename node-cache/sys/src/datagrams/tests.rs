use std::net::UdpSocket;

use super::*;

/// Four rows with small buffers.
type SmallBatch = Datagrams<4, 16, 32>;

fn pair(address: &str) -> (UdpSocket, UdpSocket) {
    let (server, client) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    (server, client)
}

#[test]
fn the_buffers_of_all_rows_lie_apart() {
    for family in [Family::V4, Family::V6] {
        let mut datagrams = SmallBatch::new(family);
        for row in 0..4 {
            assert_eq!(datagrams.client_address(row).port(), 0);
            assert_eq!(datagrams.query_buf(row), (&[0; 16], 0));
            let mut slot = datagrams.begin_response(row);
            let (query, response) = slot.buffers();
            assert_eq!((*query, *response), ([0; 16], [0; 32]));
            *response = [row as u8 + 1; 32];
            slot.commit(32);
            assert_eq!(datagrams.last_response(), [row as u8 + 1; 32]);
        }
    }
}

// Miri supports no datagram sockets.
#[cfg_attr(miri, ignore)]
#[test]
fn every_response_reaches_the_client_of_its_query_in_both_families() {
    for (address, family) in [("127.0.0.1:0", Family::V4), ("[::1]:0", Family::V6)] {
        let (server, client) = pair(address);
        let mut datagrams = SmallBatch::new(family);
        assert_eq!(datagrams.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // More than once, to show that the address lengths in the headers stay correct.
        for round in 0..3_u8 {
            for number in 0..6_u8 {
                client.send(&[round, number]).unwrap();
            }
            let mut handled = 0;
            while handled < 6 {
                let Ok(read) = datagrams.receive(&server) else { continue };
                assert!(read <= 4);
                for row in 0..read {
                    assert_eq!(datagrams.client_address(row), client.local_addr().unwrap());
                    assert_eq!(datagrams.query(row).len(), 2);
                    let mut slot = datagrams.begin_response(row);
                    let (query, response) = slot.buffers();
                    response[..2].copy_from_slice(&query[..2]);
                    let number = query[1];
                    // Every second query gets a response.
                    if number.is_multiple_of(2) {
                        slot.commit(2);
                        assert_eq!(datagrams.last_response(), [round, number]);
                    }
                }
                handled += read;
                datagrams.send(&server, |error| panic!("{error}"));
            }
            for number in [0, 2, 4] {
                let mut response = [0; 8];
                let length = client.recv(&mut response).unwrap();
                assert_eq!(response[..length], [round, number]);
            }
        }
    }
}

#[cfg_attr(miri, ignore)]
#[test]
fn nothing_is_read_or_sent_outside_of_a_buffer() {
    let (server, client) = pair("127.0.0.1:0");
    let mut datagrams = SmallBatch::new(Family::V4);
    client.send(&[7; 100]).unwrap();
    while datagrams.receive(&server).is_err() {}
    assert_eq!(datagrams.query(0), [7; 16], "the rest is cut off");
    assert_eq!(datagrams.query(1), [0; 0]);
    assert_eq!(datagrams.query(99), [0; 0]);
    let mut slot = datagrams.begin_response(0);
    assert_eq!(slot.buffers().1.len(), 32);
    slot.commit(33);
    assert_eq!(datagrams.last_response(), [0; 0]);
    datagrams.send(&server, |error| panic!("{error}"));
    client.set_nonblocking(true).unwrap();
    assert!(client.recv(&mut [0; 64]).is_err(), "nothing was sent");
}

#[cfg_attr(miri, ignore)]
#[test]
fn a_response_that_cannot_be_sent_does_not_stop_the_others() {
    let (server, client) = pair("127.0.0.1:0");
    // Longer than the maximum length of a datagram: the kernel refuses to send it.
    let mut long = Datagrams::<4, 16, 70_000>::new(Family::V4);
    client.send(&[1]).unwrap();
    client.send(&[2]).unwrap();
    while long.receive(&server).is_err() {}
    let mut failed = 0;
    for (row, length) in [70_000, 3].into_iter().enumerate() {
        long.begin_response(row).commit(length);
    }
    long.send(&server, |_| failed += 1);
    assert_eq!((failed, client.recv(&mut [0; 64]).unwrap()), (1, 3));
}
