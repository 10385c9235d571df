//! How much is sent for how little.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;

use crate::support::{Asked, Authority, Reply, Tier, ask, denial, exchange_raw, question, reply, unknown};

const LIMIT: Duration = Duration::from_secs(10);

/// A way of a server to have more sent to it than it should.
type Trick = fn(&Asked) -> Reply;

const TRICKS: [(&str, Trick); 6] = [
    ("silent", |_| Reply::Silence),
    ("failing", |asked| Reply::Say(denial(asked, ResponseCode::ServFail))),
    ("refusing", |asked| Reply::Say(denial(asked, ResponseCode::Refused))),
    ("always cut", |asked| {
        let mut message = denial(asked, ResponseCode::NoError);
        message.metadata.truncation = true;
        Reply::Say(message)
    }),
    ("cut and then failing", |asked| {
        let mut message = denial(asked, if asked.tcp { ResponseCode::ServFail } else { ResponseCode::NoError });
        message.metadata.truncation = !asked.tcp;
        Reply::Say(message)
    }),
    ("an alias of itself", |asked| {
        let octets = [&[4][..], b"next", &[0xc0, 12]].concat();
        Reply::Say(reply(asked, vec![unknown(&asked.name().to_ascii(), 5, &octets)]))
    }),
];

#[tokio::test]
async fn no_question_is_sent_on_more_than_three_times_and_each_once_more_over_tcp_whatever_servers_say() {
    for (trick, say) in TRICKS {
        for servers in [1, 4] {
            let mut authorities = Vec::new();
            for _ in 0..servers {
                authorities.push(Authority::start(say).await);
            }
            let addresses: Vec<_> = authorities.iter().map(|authority| authority.address).collect();
            let tier = Tier::forwarding_to(&addresses).await;
            ask(tier.address, &question("www.example", RecordType::A)).await;
            let asked: Vec<_> = authorities.iter().flat_map(Authority::asked).collect();
            let (tcp, udp): (Vec<_>, Vec<_>) =
                asked.iter().filter(|asked| asked.is("www.example")).partition(|asked| asked.tcp);
            assert!((1..=3).contains(&udp.len()), "{trick}, {servers} servers: {}", udp.len());
            assert!(tcp.len() <= udp.len(), "{trick}, {servers} servers: {} over TCP", tcp.len());
        }
    }
}

#[tokio::test]
async fn no_datagram_is_longer_than_1232_octets_whatever_a_client_says_that_it_takes() {
    let authority = Authority::start(|asked| {
        let mut message = reply(asked, (0..60).map(|_| unknown("big.example", 65_280, &[7; 250])).collect());
        if !asked.tcp {
            message = message.truncate();
        }
        Reply::Say(message)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let mut big = question("big.example", RecordType::Unknown(65_280));
    // New, out of memory, and of the shape that takes the long way.
    for size in [0, 511, 1232, 1233, 4096, u16::MAX] {
        for checking_disabled in [false, true] {
            big.edns.as_mut().unwrap().set_max_payload(size);
            big.metadata.checking_disabled = checking_disabled;
            let answer = exchange_raw(tier.address, "127.0.0.1:0", &big.to_vec().unwrap(), LIMIT).await.unwrap();
            assert!(answer.len() <= usize::from(size.clamp(512, 1232)), "{size}: {}", answer.len());
        }
    }
}

#[tokio::test]
async fn strangers_and_responses_get_nothing_and_updates_and_notifications_go_nowhere() {
    let authority = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let known = question("www.example", RecordType::A);
    ask(tier.address, &known).await;
    authority.forget();
    let response = |mut message: Message| {
        message.metadata.message_type = MessageType::Response;
        message
    };
    let of = |opcode| {
        let mut message = question("www.example", RecordType::SOA);
        message.metadata.op_code = opcode;
        message
    };
    let (update, notify) = (of(OpCode::Update), of(OpCode::Notify));
    let new = question("new.example", RecordType::A);
    let stranger = UdpSocket::bind("127.0.0.9:0").await.unwrap();
    let reflecting = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..50 {
        for message in [&known, &new, &update, &notify, &response(known.clone())] {
            stranger.send_to(&message.to_vec().unwrap(), tier.address).await.unwrap();
        }
        for message in [&known, &new, &update, &notify] {
            reflecting.send_to(&response(message.clone()).to_vec().unwrap(), tier.address).await.unwrap();
        }
        // What comes after them is answered when they are done with.
        for message in [&update, &notify] {
            let answer = ask(tier.address, message).await;
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NotImp, 0));
        }
    }
    ask(tier.address, &known).await;
    for silent in [stranger, reflecting] {
        let received = silent.try_recv(&mut [0; 1500]);
        assert!(received.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert_eq!(authority.asked().len(), 0);
}
