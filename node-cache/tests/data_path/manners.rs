//! Rules for queries of any name: opcodes, flags, classes, EDNS, truncation, access.

use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, RData, RecordType};
use node_cache::metrics::RefusalReason;
use node_cache_config::{Upstream, UpstreamSource};

use crate::support::{
    Action, Authority, Tier, address_record, config, ede, empty_response, exchange, exchange_from, exchange_over_tcp,
    exchange_raw, negative_response, query_for, response_with, txt_strings, unknown_record,
};

const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);

async fn start() -> (Authority, Tier) {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    (authority, tier)
}

#[tokio::test]
async fn a_question_is_answered_and_then_answered_from_memory() {
    let (authority, tier) = start().await;
    for _ in 0..3 {
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.metadata.recursion_available && response.metadata.recursion_desired);
        assert_eq!(response.answers, [address_record("www.example", response.answers[0].ttl, "192.0.2.1")]);
        assert!((298..=300).contains(&response.answers[0].ttl));
    }
    assert_eq!(authority.queries().len(), 1);
    tier.wait_until_counted().await;
    let traffic = tier.resolver.metrics().traffic(0, 0);
    assert_eq!((traffic.queries, traffic.hits), (3, 2));
}

#[tokio::test]
async fn responses_are_never_answered() {
    let (authority, tier) = start().await;
    let mut response = query_for("www.example", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(exchange_from("127.0.0.1:0", tier.address, &response, RESPONSE_TIMEOUT).await, None);
    assert_eq!(exchange_raw(tier.address, "127.0.0.1:0", b"short", RESPONSE_TIMEOUT).await, None);
    assert_eq!(authority.queries().len(), 0);
    assert_eq!(tier.resolver.metrics().traffic(0, 0).dropped, 2);
}

#[tokio::test]
async fn updates_and_notifications_are_not_implemented_and_go_nowhere() {
    let (authority, tier) = start().await;
    for opcode in [OpCode::Update, OpCode::Notify, OpCode::Status] {
        let mut message = query_for("example", RecordType::SOA);
        message.metadata.op_code = opcode;
        let response = exchange(tier.address, &message).await;
        assert_eq!((response.metadata.response_code, response.metadata.op_code), (ResponseCode::NotImp, opcode));
    }
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn zone_transfers_are_refused_and_never_forwarded() {
    let (authority, tier) = start().await;
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(
            exchange(tier.address, &query_for("example", kind)).await.metadata.response_code,
            ResponseCode::Refused
        );
        let response = exchange_over_tcp(tier.address, &query_for("example", kind)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    }
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn any_number_of_questions_but_one_is_malformed() {
    let (authority, tier) = start().await;
    let mut none = query_for("www.example", RecordType::A);
    none.queries.clear();
    let mut two = query_for("www.example", RecordType::A);
    two.add_query(two.queries[0].clone());
    for message in [none, two] {
        assert_eq!(exchange(tier.address, &message).await.metadata.response_code, ResponseCode::FormErr);
    }
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn whatever_is_cut_off_is_malformed_and_nothing_stops_the_server() {
    let (_authority, tier) = start().await;
    let packet = query_for("www.example", RecordType::A).to_vec().unwrap();
    for length in 12..packet.len() {
        let response = exchange_raw(tier.address, "127.0.0.1:0", &packet[..length], RESPONSE_TIMEOUT).await.unwrap();
        assert_eq!(response[3] & 0x0f, 1, "cut after {length}");
    }
    let mut looping = packet.clone();
    looping[12..14].copy_from_slice(&[0xc0, 12]);
    let response = exchange_raw(tier.address, "127.0.0.1:0", &looping, RESPONSE_TIMEOUT).await.unwrap();
    assert_eq!(response[3] & 0x0f, 1);
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
}

#[tokio::test]
async fn only_those_who_may_ask_get_an_answer() {
    let (authority, tier) = start().await;
    let query = query_for("www.example", RecordType::A);
    assert_eq!(exchange_from("127.0.0.9:0", tier.address, &query, RESPONSE_TIMEOUT).await, None);
    assert_eq!(authority.queries().len(), 0);
    assert!(exchange_from("127.0.0.1:0", tier.address, &query, RESPONSE_TIMEOUT).await.is_some());
    assert_eq!(tier.resolver.metrics().traffic(0, 0).dropped, 1);
}

#[tokio::test]
async fn nobody_is_answered_before_there_is_a_configuration_but_the_host_itself_about_the_process() {
    let tier = Tier::start(Default::default());
    assert_eq!(
        exchange_from("127.0.0.9:0", tier.address, &query_for("www.example", RecordType::A), RESPONSE_TIMEOUT).await,
        None
    );
    let mut identity = query_for("id.server", RecordType::TXT);
    identity.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(txt_strings(&exchange(tier.address, &identity).await)[0], "instance=cache-0");
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(14)));
}

#[tokio::test]
async fn a_process_tells_who_it_is_and_nothing_else_of_that_class() {
    let (authority, tier) = start().await;
    let chaos = |name, kind| {
        let mut message = query_for(name, kind);
        message.queries[0].set_query_class(DNSClass::CH);
        message
    };
    for name in ["id.server", "hostname.bind", "ID.Server"] {
        let response = exchange(tier.address, &chaos(name, RecordType::TXT)).await;
        assert_eq!(txt_strings(&response), ["instance=cache-0", "node=node-a", "pod=uid-1"]);
        assert_eq!((response.answers.len(), response.answers[0].ttl), (1, 0));
    }
    for other in [chaos("version.bind", RecordType::TXT), chaos("id.server", RecordType::A)] {
        assert_eq!(exchange(tier.address, &other).await.metadata.response_code, ResponseCode::Refused);
    }
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn names_of_this_host_are_answered_here() {
    let (authority, tier) = start().await;
    let response = exchange(tier.address, &query_for("localhost", RecordType::A)).await;
    assert_eq!(response.answers, [address_record("localhost", 86_400, "127.0.0.1")]);
    let response = exchange(tier.address, &query_for("a.localhost", RecordType::AAAA)).await;
    assert_eq!(response.answers, [address_record("a.localhost", 86_400, "::1")]);
    let response = exchange(tier.address, &query_for("www.invalid", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn any_is_minimal_and_does_not_hide_that_a_name_does_not_exist() {
    let authority = Authority::start(|query| {
        Action::Respond(match () {
            () if query.is("www.example") => query.default_response(300, 1),
            () if query.is("mail.example") => negative_response(query, ResponseCode::NoError, 60),
            () => negative_response(query, ResponseCode::NXDomain, 60),
        })
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let any = |name| query_for(name, RecordType::ANY);
    let response = exchange(tier.address, &any("www.example")).await;
    assert_eq!(response.queries[0].query_type(), RecordType::ANY);
    assert_eq!(response.answers.len(), 1);
    let response = exchange(tier.address, &any("mail.example")).await;
    assert!(matches!(&response.answers[0].data, RData::HINFO(note) if &*note.cpu == b"RFC8482"), "{response:?}");
    let response = exchange(tier.address, &any("none.example")).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert!(authority.queries().iter().all(|query| query.rtype() != RecordType::ANY));
}

#[tokio::test]
async fn the_case_of_the_question_is_preserved_and_is_one_question() {
    let (authority, tier) = start().await;
    for spelling in ["WWW.Example", "www.example", "wWw.eXaMpLe"] {
        let response = exchange(tier.address, &query_for(spelling, RecordType::A)).await;
        assert_eq!(response.queries[0].name().to_ascii(), format!("{spelling}."));
        assert_eq!(response.answers.len(), 1);
    }
    assert_eq!(authority.queries().len(), 1);
}

#[tokio::test]
async fn edns_belongs_to_one_hop() {
    let (authority, tier) = start().await;
    let mut plain = query_for("plain.example", RecordType::A);
    plain.edns = None;
    assert!(exchange(tier.address, &plain).await.edns.is_none());
    let mut with_option = query_for("option.example", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![1, 2, 3]));
    with_option.set_edns(edns);
    let response = exchange(tier.address, &with_option).await;
    assert_eq!(response.edns.as_ref().unwrap().max_payload(), 1232);
    for query in authority.queries() {
        let edns = query.message.edns.as_ref().unwrap();
        assert_eq!((edns.max_payload(), edns.version(), edns.options().as_ref().len()), (1232, 0, 0));
    }
}

#[tokio::test]
async fn an_unknown_version_of_edns_is_told_so() {
    let (authority, tier) = start().await;
    let mut message = query_for("www.example", RecordType::A);
    message.edns.as_mut().unwrap().set_version(1);
    let response = exchange(tier.address, &message).await;
    // RCODE 16 has two names (BADVERS, BADSIG), and the decoder returns the other one.
    assert_eq!(u16::from(response.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(response.edns.as_ref().unwrap().version(), 0);
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn the_wishes_about_dnssec_reach_the_upstream_and_have_answers_of_their_own() {
    let (authority, tier) = start().await;
    let query_with = |dnssec_ok, checking_disabled| {
        let mut message = query_for("www.example", RecordType::A);
        message.edns.as_mut().unwrap().set_dnssec_ok(dnssec_ok);
        message.metadata.checking_disabled = checking_disabled;
        message
    };
    for (number, (dnssec_ok, checking_disabled)) in
        [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
    {
        for _ in 0..2 {
            let response = exchange(tier.address, &query_with(dnssec_ok, checking_disabled)).await;
            assert_eq!(response.metadata.checking_disabled, checking_disabled);
            assert_eq!(response.edns.as_ref().unwrap().flags().dnssec_ok, dnssec_ok);
        }
        let queries = authority.queries();
        assert_eq!(queries.len(), number + 1);
        assert_eq!(queries[number].message.edns.as_ref().unwrap().flags().dnssec_ok, dnssec_ok);
        assert_eq!(queries[number].message.metadata.checking_disabled, checking_disabled);
    }
}

#[tokio::test]
async fn a_server_that_is_not_ours_cannot_make_data_authentic() {
    let authority = Authority::start(|query| {
        let mut message = query.default_response(300, 1);
        message.metadata.authentic_data = true;
        Action::Respond(message)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let mut query = query_for("www.example", RecordType::A);
    query.metadata.authentic_data = true;
    query.edns.as_mut().unwrap().set_dnssec_ok(true);
    for _ in 0..2 {
        assert!(!exchange(tier.address, &query).await.metadata.authentic_data);
    }
}

#[tokio::test]
async fn who_wants_no_recursion_is_answered_from_memory_or_refused() {
    let (authority, tier) = start().await;
    let mut query = query_for("www.example", RecordType::A);
    query.metadata.recursion_desired = false;
    let response = exchange(tier.address, &query).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::Refused, Some(20)));
    assert_eq!(authority.queries().len(), 0);
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    let response = exchange(tier.address, &query).await;
    assert_eq!((response.answers.len(), response.metadata.recursion_desired), (1, false));
}

#[tokio::test]
async fn records_of_unknown_types_pass_untouched() {
    let data: Vec<u8> = (0..=255).collect();
    let records = vec![unknown_record("x.example", 65_280, &data), unknown_record("x.example", 65_280, &[0xc0, 0x0c])];
    let authority = Authority::start({
        let records = records.clone();
        move |query| Action::Respond(response_with(query, records.clone()))
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for _ in 0..2 {
        let response = exchange(tier.address, &query_for("x.example", RecordType::Unknown(65_280))).await;
        let data: Vec<&RData> = response.answers.iter().map(|record| &record.data).collect();
        assert_eq!(data, records.iter().map(|record| &record.data).collect::<Vec<_>>());
    }
}

fn many_addresses(count: u8) -> impl Fn(&crate::support::ReceivedQuery) -> Action {
    move |query| {
        let records = (0..count).map(|last| address_record("big.example", 300, &format!("192.0.2.{last}"))).collect();
        let message = response_with(query, records);
        if query.tcp { Action::Respond(message) } else { Action::Respond(message.truncate()) }
    }
}

#[tokio::test]
async fn an_answer_too_long_for_the_client_is_cut_between_records_and_whole_over_tcp() {
    let authority = Authority::start(many_addresses(100)).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for (size, limit) in [(None, 512), (Some(100), 512), (Some(800), 800), (Some(1232), 1232), (Some(4096), 1232)] {
        let mut query = query_for("big.example", RecordType::A);
        match size {
            None => query.edns = None,
            Some(size) => {
                query.edns.as_mut().unwrap().set_max_payload(size);
            }
        }
        let packet = query.to_vec().unwrap();
        let response = exchange_raw(tier.address, "127.0.0.1:0", &packet, RESPONSE_TIMEOUT).await.unwrap();
        assert!(response.len() <= limit && response.len() > limit - 60, "{size:?}: {}", response.len());
        let response = Message::from_vec(&response).unwrap();
        assert!(response.metadata.truncation && !response.answers.is_empty());
        assert_eq!(response.edns.is_some(), size.is_some());
    }
    let response = exchange_over_tcp(tier.address, &query_for("big.example", RecordType::A)).await;
    assert_eq!((response.answers.len(), response.metadata.truncation), (100, false));
    assert_eq!(authority.queries().iter().filter(|query| query.tcp).count(), 1, "asked once over TCP, then kept");
}

#[tokio::test]
async fn a_refusal_of_every_upstream_reaches_the_client() {
    let authority = Authority::start(|query| Action::Respond(empty_response(query, ResponseCode::Refused))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    assert_eq!(authority.queries().len(), 1, "one server says the same again");
}

#[tokio::test]
async fn one_client_that_asks_for_everything_leaves_room_for_the_others() {
    let authority = Authority::start(|query| match query.is("www.example") {
        true => Action::Respond(query.default_response(300, 1)),
        false => Action::Ignore,
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let greedy = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    greedy.connect(tier.address).await.unwrap();
    let refused = |reason| tier.resolver.metrics().refused_admissions(reason);
    let started = Instant::now();
    // Its queries are refused before the limit of all clients is reached.
    for number in 0.. {
        if refused(RefusalReason::Client) > 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30));
        for part in 0..50 {
            let packet = query_for(&format!("n{part}.x{number}.example"), RecordType::A).to_vec().unwrap();
            greedy.send(&packet).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(refused(RefusalReason::Total), 0);
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = Upstream::from(authority.address);
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    tier.apply_forwarding(&config);
    let query = query_for("www.example", RecordType::A);
    let other = exchange_from("127.0.0.2:0", tier.address, &query, Duration::from_secs(5));
    assert_eq!(other.await.expect("an answer").answers.len(), 1);
}

#[tokio::test]
async fn every_opcode_but_that_of_questions_is_not_implemented_and_goes_nowhere() {
    let (authority, tier) = start().await;
    let packet = query_for("www.example", RecordType::A).to_vec().unwrap();
    for opcode in 1..16 {
        let mut packet = packet.clone();
        packet[2] = (packet[2] & 0x87) | (opcode << 3);
        let response = exchange_raw(tier.address, "127.0.0.1:0", &packet, RESPONSE_TIMEOUT).await.unwrap();
        assert_eq!((response.len(), (response[2] >> 3) & 0x0f, response[3] & 0x0f), (12, opcode, 4));
    }
    assert_eq!(authority.queries().len(), 0);
}

#[tokio::test]
async fn a_flood_of_edns_options_is_read_over_and_goes_no_further_either_way() {
    let flood = |message: &mut Message, count: u16| {
        let options = message.edns.as_mut().unwrap().options_mut();
        (0..count).for_each(|number| options.insert(EdnsOption::Unknown(65_001 + number % 500, vec![])));
    };
    let authority = Authority::start(move |query| {
        let mut message = query.default_response(300, 1);
        flood(&mut message, 250);
        Action::Respond(message)
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let mut query = query_for("www.example", RecordType::A);
    flood(&mut query, 250);
    assert!(query.to_vec().unwrap().len() > 1000);
    for _ in 0..2 {
        let response = exchange(tier.address, &query).await;
        assert_eq!((response.answers.len(), response.edns.as_ref().unwrap().options().as_ref().len()), (1, 0));
    }
    assert_eq!(authority.queries()[0].message.edns.as_ref().unwrap().options().as_ref().len(), 0);
}

#[tokio::test]
async fn what_resolvers_of_the_tier_say_of_authenticity_is_passed_on_and_what_others_say_is_not() {
    let authentic = |query: &crate::support::ReceivedQuery| {
        let mut message = query.default_response(300, 1);
        message.metadata.authentic_data = true;
        Action::Respond(message)
    };
    let own = Authority::start(authentic).await;
    let other = Authority::start(authentic).await;
    let mut config = config(other.address);
    config.zones = vec![crate::support::zone("zone-a", own.address)];
    config.routes = vec![crate::support::route("corp.example", &[other.address])];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let with_ad = |name: &str| {
        let mut message = query_for(name, RecordType::A);
        message.metadata.authentic_data = true;
        message
    };
    for _ in 0..2 {
        assert!(exchange(tier.address, &with_ad("www.example")).await.metadata.authentic_data);
        for foreign in ["www.corp.example", "web.shop.svc.cluster.local"] {
            assert!(!exchange(tier.address, &with_ad(foreign)).await.metadata.authentic_data, "{foreign}");
        }
    }
    let silent = query_for("www.example", RecordType::A);
    assert!(!exchange(tier.address, &silent).await.metadata.authentic_data, "nobody asked");
}
