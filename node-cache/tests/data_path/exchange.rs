//! One question to another server.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache_config::{Protocol, Upstream, UpstreamSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::{Asked, Authority, Reply, Tier, address, ask, config, denial, question, reply, service_record};

#[tokio::test]
async fn every_question_has_a_fresh_number_and_port() {
    let authority = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let questions: Vec<_> = (0..300).map(|n| question(&format!("n{n}.example"), RecordType::A)).collect();
    for some in questions.chunks(50) {
        join_all(some.iter().map(|question| ask(tier.address, question))).await;
    }
    let asked = authority.asked();
    assert_eq!(asked.len(), 300);
    let numbers: HashSet<u16> = asked.iter().map(|asked| asked.message.metadata.id).collect();
    let ports: HashSet<u16> = asked.iter().map(|asked| asked.source.port()).collect();
    assert!(numbers.len() > 290 && ports.len() > 280, "{} numbers, {} ports", numbers.len(), ports.len());
    assert!(asked.iter().filter(|asked| asked.message.metadata.id == 4711).count() < 5, "not the client's number");
    let neighbours = asked.windows(2).filter(|pair| pair[1].source.port() == pair[0].source.port() + 1).count();
    assert!(neighbours < 20, "ports in sequence: {neighbours}");
}

/// Packets that are no answer to this question, by kind.
fn junk(asked: &Asked, kind: usize) -> Option<Vec<u8>> {
    let lie = asked.usual_answer(300, 66);
    let mut wrong = lie.clone();
    let whole = lie.to_vec().unwrap();
    Some(match kind {
        0..=3 => {
            match kind {
                0 => wrong.metadata.id = wrong.metadata.id.wrapping_add(1),
                1 => _ = wrong.queries[0].set_name(crate::support::name("other.example")),
                2 => _ = wrong.queries[0].set_query_type(RecordType::AAAA),
                _ => wrong.queries.clear(),
            }
            wrong.to_vec().unwrap()
        }
        4 => asked.message.to_vec().unwrap(),
        5 => whole[..whole.len() - 13].to_vec(),
        6 => whole[..11].to_vec(),
        7 => Vec::new(),
        8 => vec![0xff; 64],
        _ => return None,
    })
}

#[tokio::test]
async fn two_hundred_packets_of_each_kind_that_are_no_answer_are_ignored_and_the_true_one_is_awaited() {
    let kind_of = |asked: &Asked| asked.name().to_ascii()[1..].split('.').next().unwrap().parse::<usize>().ok();
    let script = move |asked: &Asked| {
        let junk = kind_of(asked).and_then(|kind| junk(asked, kind));
        let mut packets = vec![junk.unwrap_or_default(); 200];
        packets.push(asked.usual_answer(300, 1).to_vec().unwrap());
        Reply::Raw(packets)
    };
    let authority = Authority::start(script).await;
    let foreign = Tier::forwarding_to(&[authority.address]).await;
    let (own, _cluster, _resolver) = crate::ports::asking_a_resolver_of_its_zone(script).await;
    for tier in [foreign, own] {
        for kind in 0..9 {
            let name = format!("k{kind}.example");
            let answer = ask(tier.address, &question(&name, RecordType::A)).await;
            assert_eq!(answer.answers, [address(&name, 300, "192.0.2.1")]);
        }
    }
    assert_eq!(authority.asked().len(), 9, "nothing was asked twice");
}

/// Answers to this question that are wrong in one field each.
fn forgeries(asked: &Asked) -> Vec<Vec<u8>> {
    let lie = asked.usual_answer(300, 66).to_vec().unwrap();
    let question_end = lie[12..].iter().position(|octet| *octet == 0).unwrap() + 12 + 5;
    let with = |offset: usize, change: u8| {
        let mut packet = lie.clone();
        packet[offset] ^= change;
        packet
    };
    let mut forged: Vec<_> = (0..16).map(|bit| with(bit / 8, 1 << (bit % 8))).collect();
    forged.extend([
        with(2, 0x80),                // a question
        with(2, 0x28),                // another opcode
        with(5, 1),                   // no question
        with(5, 3),                   // two of them
        with(13, 1),                  // another name
        with(question_end - 3, 0x1c), // another type
        with(question_end - 1, 2),    // another class
        lie[..question_end + 5].to_vec(),
    ]);
    forged
}

/// Sends this many of them before the true answers.
async fn forge(count: usize) {
    const EACH: usize = 200;
    let authority = Authority::start(|asked| {
        let mut packets: Vec<_> = forgeries(asked).iter().cycle().take(EACH).cloned().collect();
        packets.push(asked.usual_answer(300, 1).to_vec().unwrap());
        Reply::Raw(packets)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..count / EACH {
        authority.forget();
        let answer = ask(tier.address, &question(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!(answer.answers[0].data, address("x", 0, "192.0.2.1").data, "n{number}.example");
        assert_eq!(authority.asked().len(), 1, "nothing was asked twice");
    }
}

#[tokio::test]
async fn none_of_a_hundred_thousand_answers_with_one_wrong_field_is_believed() {
    forge(100_000).await;
}

#[tokio::test]
#[ignore = "minutes; run by make test-long"]
async fn none_of_ten_million_answers_with_one_wrong_field_is_believed() {
    forge(10_000_000).await;
}

#[tokio::test]
async fn a_server_is_told_1232_octets_and_a_longer_answer_goes_over_tcp() {
    let records = |count| (0..count).map(|_| crate::support::unknown("big.example", 65_280, &[7; 240])).collect();
    // One that cuts, and one that sends what was not asked for.
    for cuts in [true, false] {
        let authority = Authority::start(move |asked| {
            let message = reply(asked, records(16));
            Reply::Say(if asked.tcp || !cuts { message } else { message.truncate() })
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        let big = question("big.example", RecordType::Unknown(65_280));
        let answer = crate::support::ask_over_tcp(tier.address, &big).await;
        assert_eq!(answer.answers.len(), 16);
        let asked = authority.asked();
        assert!(asked.iter().all(|asked| asked.message.edns.as_ref().unwrap().max_payload() == 1232));
        assert_eq!(asked.iter().map(|asked| asked.tcp).collect::<Vec<_>>(), [false, true], "cuts: {cuts}");
    }
}

#[tokio::test]
async fn a_server_without_edns_is_asked_again_without_it_and_nothing_is_remembered() {
    let authority = Authority::start(|asked| {
        if asked.message.edns.is_some() && !asked.is("new.example") {
            let mut message = denial(asked, ResponseCode::FormErr);
            message.edns = None;
            if asked.is("bare.example") {
                message.queries.clear();
            }
            Reply::Say(message)
        } else {
            Reply::Say(asked.usual_answer(300, 1))
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for name in ["old.example", "bare.example", "new.example"] {
        let answer = ask(tier.address, &question(name, RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1, "{name}");
    }
    assert_eq!((authority.asked_for("old.example"), authority.asked_for("new.example")), (2, 1));
    assert!(authority.asked().last().unwrap().message.edns.is_some());
}

#[tokio::test]
async fn a_server_of_protocol_tcp_is_asked_over_tcp_alone() {
    let authority = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 1))).await;
    let tier = over_tcp(authority.address);
    ask(tier.address, &question("www.example", RecordType::A)).await;
    assert!(authority.asked().iter().all(|asked| asked.tcp) && authority.asked().len() == 1);
}

/// What a server says that writes every name in lower case.
fn lowered(asked: &Asked, last_octet: u8) -> Message {
    let mut message = asked.usual_answer(300, last_octet);
    let lower = message.queries[0].name().to_lowercase();
    message.queries[0].set_name(lower);
    message
}

#[tokio::test]
async fn names_are_asked_in_random_case_and_an_answer_in_another_case_is_not_believed() {
    let authority = Authority::start(|asked| match asked.tcp {
        true => Reply::Say(asked.usual_answer(300, 1)),
        false => Reply::Say(lowered(asked, 66)),
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        let asked = question(&format!("a-name-with-many-letters-{number}.example"), RecordType::A);
        assert_eq!(ask(tier.address, &asked).await.answers[0].data, address("x", 0, "192.0.2.1").data);
    }
    let asked = authority.asked();
    let texts: HashSet<String> = asked.iter().map(|asked| asked.name().to_ascii()).collect();
    assert!(texts.iter().any(|text| *text != text.to_lowercase()), "{texts:?}");
    assert_eq!(asked.iter().filter(|asked| asked.tcp).count(), 4, "one forgery is no reason to ask in lower case");
}

#[tokio::test]
async fn nobody_sees_the_random_case_in_which_a_name_was_asked() {
    // As CoreDNS does, it writes names of its records in the case of the question.
    let authority = Authority::start(|asked| {
        let target = asked.name().to_ascii();
        let mut message = reply(asked, vec![service_record(&target, 300, 53, &target)]);
        message.add_additional(address(&format!("Other.{target}"), 300, "192.0.2.1"));
        Reply::Say(message)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        let name = format!("a-name-with-many-letters-{number}.example.");
        let answer = ask(tier.address, &question(&name, RecordType::SRV)).await;
        assert_eq!(answer.answers[0].data.to_string(), format!("0 100 53 {name}"));
        assert_eq!(answer.additionals[0].name.to_string(), format!("Other.{name}"), "what was not asked stays");
    }
}

#[tokio::test]
async fn a_server_that_loses_case_over_tcp_too_is_asked_in_lower_case_from_then_on() {
    let authority = Authority::start(|asked| Reply::Say(lowered(asked, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..5 {
        let asked = question(&format!("a-name-with-many-letters-{number}.example"), RecordType::A);
        assert_eq!(ask(tier.address, &asked).await.answers.len(), 1);
    }
    let asked = authority.asked();
    assert_eq!(asked.iter().filter(|asked| asked.tcp).count(), 1);
    assert!(asked[2..].iter().all(|asked| asked.name().to_ascii() == asked.name().to_ascii().to_lowercase()));
}

#[tokio::test]
async fn a_server_that_loses_case_and_has_no_tcp_is_still_believed() {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, source) = udp.recv_from(&mut buffer).await.unwrap();
            let message = Message::from_vec(&buffer[..length]).unwrap();
            let asked = Asked { message, source, tcp: false };
            udp.send_to(&lowered(&asked, 1).to_vec().unwrap(), source).await.unwrap();
        }
    });
    let tier = Tier::forwarding_to(&[server]).await;
    let answer = ask(tier.address, &question("a-name-with-many-letters.example", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
}

/// A zone resolver that asks this server over TCP alone.
fn over_tcp(server: SocketAddr) -> Tier {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = Upstream { address: server, protocol: Protocol::Tcp };
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream]);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    tier
}

#[tokio::test]
async fn questions_over_tcp_share_one_connection_and_wait_for_no_other_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tier = over_tcp(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, source) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while asked.len() < 50 {
            asked.push(Asked { message: read_message(&mut stream).await, source, tcp: true });
        }
        // The last question is answered first.
        for asked in asked.iter().rev() {
            write_message(&mut stream, &asked.usual_answer(300, 1)).await;
        }
        stream
    });
    let questions: Vec<_> = (0..50).map(|number| question(&format!("n{number}.example"), RecordType::A)).collect();
    let answers = join_all(questions.iter().map(|question| ask(tier.address, question))).await;
    assert!(answers.iter().all(|answer| answer.answers.len() == 1));
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_server_closes_costs_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tier = over_tcp(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            // One answer for each connection; a second question on it is read and never answered.
            let (mut stream, source) = listener.accept().await.unwrap();
            let asked = Asked { message: read_message(&mut stream).await, source, tcp: true };
            write_message(&mut stream, &asked.usual_answer(300, 1)).await;
            read_message(&mut stream).await;
        }
    });
    for number in 0..4 {
        let answer = ask(tier.address, &question(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!((number, answer.answers.len()), (number, 1));
    }
}

async fn read_message(stream: &mut TcpStream) -> Message {
    let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut message).await.unwrap();
    Message::from_vec(&message).unwrap()
}

async fn write_message(stream: &mut TcpStream, message: &Message) {
    let message = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
    stream.write_all(&message).await.unwrap();
}

#[tokio::test]
async fn the_second_upstream_answers_for_a_silent_first_one_which_is_then_left_alone() {
    let silent = Authority::start(|_| Reply::Silence).await;
    let second = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 2))).await;
    let tier = Tier::forwarding_to(&[silent.address, second.address]).await;
    for number in 0..3 {
        let started = Instant::now();
        let answer = ask(tier.address, &question(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    let started = Instant::now();
    for number in 10..60 {
        ask(tier.address, &question(&format!("n{number}.example"), RecordType::A)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(silent.asked().len() <= 4, "{}", silent.asked().len());
    // It comes back, and is preferred again within moments.
    silent.change(|asked| Reply::Say(asked.usual_answer(300, 1)));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    ask(tier.address, &question("probe.example", RecordType::A)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = ask(tier.address, &question("back.example", RecordType::A)).await;
    assert_eq!(answer.answers[0].data, address("back.example", 0, "192.0.2.1").data);
}

#[tokio::test]
async fn a_server_that_is_slower_than_usual_is_not_waited_for_and_does_not_count_as_failing() {
    let first = Authority::start(|asked| match asked.name().to_ascii().to_lowercase().starts_with("slow") {
        true => Reply::After(Duration::from_millis(200), asked.usual_answer(300, 1)),
        false => Reply::Say(asked.usual_answer(300, 1)),
    })
    .await;
    let second = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 2))).await;
    let tier = Tier::forwarding_to(&[first.address, second.address]).await;
    for number in 0..40 {
        ask(tier.address, &question(&format!("n{number}.example"), RecordType::A)).await;
    }
    let mut by_second = 0;
    for number in 0..5 {
        let answer = ask(tier.address, &question(&format!("slow{number}.example"), RecordType::A)).await;
        by_second += usize::from(answer.answers[0].data == address("x", 0, "192.0.2.2").data);
    }
    assert!(by_second > 0, "the second one answers first");
    assert!(tier.resolver.snapshot().unwrap().upstreams()[0].healthy);
}

#[tokio::test]
async fn another_upstream_is_asked_when_one_fails() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let failing = Authority::start(move |asked| Reply::Say(denial(asked, code))).await;
        let second = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 2))).await;
        let tier = Tier::forwarding_to(&[failing.address, second.address]).await;
        let answer = ask(tier.address, &question("www.example", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1);
        assert_eq!((failing.asked().len(), second.asked().len()), (1, 1));
        let upstreams = tier.resolver.snapshot().unwrap().upstreams();
        assert!(upstreams.iter().all(|upstream| upstream.healthy && upstream.timeouts == 0), "it answered in time");
    }
}

#[tokio::test]
async fn a_slow_answer_still_counts() {
    let slow = Authority::start(|asked| Reply::After(Duration::from_millis(1200), asked.usual_answer(300, 1))).await;
    let tier = Tier::forwarding_to(&[slow.address]).await;
    let started = Instant::now();
    let answer = ask(tier.address, &question("www.example", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_report_that_nobody_listens_moves_a_question_on_at_once() {
    let gone = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let second = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 2))).await;
    let tier = Tier::forwarding_to(&[gone, second.address]).await;
    let mut fastest = Duration::MAX;
    for name in ["one.example", "two.example"] {
        let started = Instant::now();
        ask(tier.address, &question(name, RecordType::A)).await;
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(300), "{fastest:?}");
}

#[tokio::test]
async fn a_resolv_conf_that_names_only_captured_addresses_is_told_and_fails_with_a_reason() {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::ResolvConf;
    let mut book = node_cache::upstream::GroupRegistry::default();
    let snapshot = node_cache::snapshot::Snapshot::for_zone_resolver(&config, "nameserver 169.254.20.10\n", &mut book);
    assert!(snapshot.upstream_problem.as_ref().unwrap().contains("169.254.20.10"));
    let tier = Tier::start(Default::default());
    tier.resolver.apply(snapshot);
    let started = Instant::now();
    let answer = ask(tier.address, &question("www.example", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(crate::support::ede(&answer), Some(22));
    assert!(started.elapsed() < Duration::from_secs(1));
}
