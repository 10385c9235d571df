//! Amplification: how many packets and octets are sent for one that arrives.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, empty_response, exchange, exchange_raw, query_for, response_with,
    unknown_record,
};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

fn error_without_opt(query: &ReceivedQuery, rcode: ResponseCode) -> Action {
    let mut message = empty_response(query, rcode);
    message.edns = None;
    Action::Respond(message)
}

/// Script of a server that tries to have more queries sent than necessary.
type Trick = fn(&ReceivedQuery) -> Action;

const TRICKS: [(&str, Trick); 15] = [
    ("silent", |_| Action::Ignore),
    ("failing", |query| Action::Respond(empty_response(query, ResponseCode::ServFail))),
    ("refusing", |query| Action::Respond(empty_response(query, ResponseCode::Refused))),
    ("always cut", |query| {
        let mut message = empty_response(query, ResponseCode::NoError);
        message.metadata.truncation = true;
        Action::Respond(message)
    }),
    ("cut and then failing", |query| {
        let mut message = empty_response(query, if query.tcp { ResponseCode::ServFail } else { ResponseCode::NoError });
        message.metadata.truncation = !query.tcp;
        Action::Respond(message)
    }),
    ("denying", |query| Action::Respond(empty_response(query, ResponseCode::NXDomain))),
    ("denying in mixed case", |query| {
        let text = query.name().to_ascii();
        let rcode = if text == text.to_lowercase() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        Action::Respond(empty_response(query, rcode))
    }),
    ("cut without TC", |query| {
        let packet = query.default_response(300, 1).to_vec().unwrap();
        Action::SendRaw(vec![packet[..packet.len() - 3].to_vec()])
    }),
    ("never with EDNS", |query| error_without_opt(query, ResponseCode::FormErr)),
    ("without OPT", |query| error_without_opt(query, ResponseCode::ServFail)),
    ("bare error", |query| {
        let packet = empty_response(query, ResponseCode::Refused).to_vec().unwrap();
        Action::SendRaw(vec![[&packet[..4], &[0; 8]].concat()])
    }),
    ("cut, and over TCP never with EDNS", |query| match query.tcp {
        true => error_without_opt(query, ResponseCode::FormErr),
        false => {
            let mut message = empty_response(query, ResponseCode::NoError);
            message.metadata.truncation = true;
            Action::Respond(message)
        }
    }),
    ("never with EDNS, and then cut", |query| match query.message.edns {
        Some(_) => error_without_opt(query, ResponseCode::FormErr),
        None => {
            let mut message = empty_response(query, ResponseCode::NoError);
            message.metadata.truncation = true;
            Action::Respond(message)
        }
    }),
    ("a referral", |query| {
        let mut message = empty_response(query, ResponseCode::NoError);
        message.metadata.recursion_available = false;
        message.add_authority(unknown_record(".", 2, &[0]));
        Action::Respond(message)
    }),
    ("an alias of itself", |query| {
        let octets = [&[4][..], b"next", &[0xc0, 12]].concat();
        Action::Respond(response_with(query, vec![unknown_record(&query.name().to_ascii(), 5, &octets)]))
    }),
];

#[tokio::test]
async fn no_question_is_sent_on_more_than_three_times_and_each_once_more_over_tcp_whatever_servers_say() {
    for (trick, script) in TRICKS {
        for servers in [1, 4, 9] {
            let mut authorities = Vec::new();
            for _ in 0..servers {
                authorities.push(Authority::start(script).await);
            }
            let addresses: Vec<_> = authorities.iter().map(|authority| authority.address).collect();
            let tier = Tier::forwarding_to(&addresses).await;
            exchange(tier.address, &query_for("www.example", RecordType::A)).await;
            let queries: Vec<_> = authorities.iter().flat_map(Authority::queries).collect();
            let (tcp, udp): (Vec<_>, Vec<_>) =
                queries.iter().filter(|query| query.is("www.example")).partition(|query| query.tcp);
            // Each of up to eight servers that have not answered anything is sent the query once.
            let most = if trick == "silent" { servers.clamp(3, 8) } else { 3 };
            assert!((1..=most).contains(&udp.len()), "{trick}, {servers} servers: {}", udp.len());
            assert!(tcp.len() <= udp.len(), "{trick}, {servers} servers: {} over TCP", tcp.len());
        }
    }
}

#[tokio::test]
async fn no_datagram_is_longer_than_1232_octets_whatever_a_client_says_that_it_takes() {
    let authority = Authority::start(|query| {
        let mut message =
            response_with(query, (0..60).map(|_| unknown_record("big.example", 65_280, &[7; 250])).collect());
        if !query.tcp {
            message = message.truncate();
        }
        Action::Respond(message)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let mut big = query_for("big.example", RecordType::Unknown(65_280));
    // A miss, a hit, and a query that the fast path does not take.
    for size in [0, 511, 1232, 1233, 4096, u16::MAX] {
        for checking_disabled in [false, true] {
            big.edns.as_mut().unwrap().set_max_payload(size);
            big.metadata.checking_disabled = checking_disabled;
            let response =
                exchange_raw(tier.address, "127.0.0.1:0", &big.to_vec().unwrap(), RESPONSE_TIMEOUT).await.unwrap();
            assert!(response.len() <= usize::from(size.clamp(512, 1232)), "{size}: {}", response.len());
        }
    }
}

#[tokio::test]
async fn strangers_and_responses_get_nothing_and_updates_and_notifications_go_nowhere() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let known = query_for("www.example", RecordType::A);
    exchange(tier.address, &known).await;
    authority.clear_queries();
    let as_response = |mut message: Message| {
        message.metadata.message_type = MessageType::Response;
        message
    };
    let query_of = |opcode| {
        let mut message = query_for("www.example", RecordType::SOA);
        message.metadata.op_code = opcode;
        message
    };
    let update = query_of(OpCode::Update);
    let notify = query_of(OpCode::Notify);
    let new = query_for("new.example", RecordType::A);
    let stranger = UdpSocket::bind("127.0.0.9:0").await.unwrap();
    let reflecting = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..50 {
        for message in [&known, &new, &update, &notify, &as_response(known.clone())] {
            stranger.send_to(&message.to_vec().unwrap(), tier.address).await.unwrap();
        }
        for message in [&known, &new, &update, &notify] {
            reflecting.send_to(&as_response(message.clone()).to_vec().unwrap(), tier.address).await.unwrap();
        }
        // A worker reads in order: once these are answered, it has read the packets before them.
        for message in [&update, &notify] {
            let response = exchange(tier.address, message).await;
            assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NotImp, 0));
        }
    }
    exchange(tier.address, &known).await;
    for socket in [stranger, reflecting] {
        let received = socket.try_recv(&mut [0; 1500]);
        assert!(received.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert_eq!(authority.queries().len(), 0);
}
