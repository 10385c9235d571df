//! Owners of answer records: those to which the question does not lead are dropped on entry.

use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata};
use node_cache::dns::codes::rtype;
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response, ResponseTtl};

use crate::support::{
    Action, Authority, Tier, address_record, exchange, exchange_over_tcp, name, query_for, response_with,
    unknown_record,
};

const QUERIED_NAME: &str = "www.shop.example";
const RRSIG: u16 = 46;
const DNAME: u16 = 39;

/// Returns the records to which a name leads over CNAME records. The simplest model: pass by pass, until none is new.
pub(crate) fn related_records(queried_name: &str, answers: &[Record]) -> Vec<Record> {
    let mut names = vec![name(queried_name)];
    loop {
        let is_new = |record: &&Record| names.contains(&record.name);
        let targets = answers.iter().filter(is_new).filter_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.clone()),
            _ => None,
        });
        let new: Vec<_> = targets.filter(|target| !names.contains(target)).collect();
        if new.is_empty() {
            break;
        }
        names.extend(new);
    }
    answers.iter().filter(|record| names.contains(&record.name)).cloned().collect()
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(rdata::CNAME(name(target))))
}

fn address(owner: &str) -> Record {
    address_record(owner, 300, "192.0.2.1")
}

/// Builds a DNAME record.
fn zone_alias(owner: &str, target: &str) -> Record {
    unknown_record(owner, DNAME, Name::from_text(target).unwrap().as_bytes())
}

/// Builds a signature over A, which no one can verify.
fn signature(owner: &str) -> Record {
    let fixed = [&[0, 1, 13, 2, 0, 0, 1, 44][..], &[0; 8], &[0, 7]].concat();
    unknown_record(owner, RRSIG, &[&fixed, Name::from_text("example").unwrap().as_bytes(), &[9; 64]].concat())
}

/// Returns the question to which all responses here belong, and a response in wire format with these answers.
fn packet(answers: &[Record]) -> (Question, Vec<u8>) {
    let mut message = query_for(QUERIED_NAME, RecordType::A);
    message.metadata.message_type = hickory_proto::op::MessageType::Response;
    message.add_answers(answers.to_vec());
    let question = Question::plain(&Name::from_text(QUERIED_NAME).unwrap(), rtype::A);
    (question, message.to_vec().unwrap())
}

/// Receives a response with these answers, and returns what is passed on.
fn receive(answers: &[Record]) -> Response {
    let (question, packet) = packet(answers);
    Response::read(&packet, 4711, &question).unwrap()
}

/// Returns the owner, in lower case, and the type of each record that is passed on.
fn passed_on(answers: &[Record]) -> Vec<(String, u16)> {
    owners_and_types(&Message::from_vec(receive(answers).wire()).unwrap().answers)
}

fn owners_and_types(records: &[Record]) -> Vec<(String, u16)> {
    records.iter().map(|record| (record.name.to_lowercase().to_ascii(), record.record_type().into())).collect()
}

#[test]
fn answers_of_a_name_that_was_not_asked_for_are_dropped_with_their_signatures() {
    let own = [address(QUERIED_NAME), signature(QUERIED_NAME)];
    let others = [address("other.example"), signature("other.example"), alias("bank.example", QUERIED_NAME)];
    let above_and_below = [address("shop.example"), address("a.www.shop.example"), zone_alias("w.shop.example", "x")];
    for mixed in [
        [&own[..], &others, &above_and_below].concat(),
        [&others[..], &above_and_below, &own].concat(),
        [&others[..1], &own, &above_and_below].concat(),
    ] {
        assert_eq!(passed_on(&mixed), owners_and_types(&own));
    }
    let intact = Message::from_vec(receive(&own).wire()).unwrap();
    assert_eq!(intact.answers.len(), 2);
}

#[test]
fn a_response_with_answers_of_other_names_alone_is_passed_on_empty_and_not_kept() {
    let response = receive(&[address("other.example")]);
    assert!(!response.has_answer() && !response.is_failure());
    assert_eq!(response.ttl(), ResponseTtl::Uncacheable);
}

#[test]
fn a_chain_of_aliases_is_followed_in_any_order_and_any_case() {
    let chain = [
        alias(QUERIED_NAME, "A.cdn.test"),
        signature("WWW.shop.Example"),
        alias("a.CDN.test", "b.cdn.test"),
        signature("a.cdn.TEST"),
        address("B.cdn.test"),
        signature("b.cdn.test"),
    ];
    let mut reversed = chain.clone();
    reversed.reverse();
    for order in [chain, reversed] {
        assert_eq!(passed_on(&order), owners_and_types(&order));
        let with_others = [&order[..3], &[address("c.cdn.test"), alias("x.test", "y.test")], &order[3..]].concat();
        assert_eq!(passed_on(&with_others), owners_and_types(&order));
        // The chain is broken without its second alias.
        let broken: Vec<_> = order.iter().filter(|record| record.name != name("a.cdn.test")).collect();
        let broken: Vec<Record> = broken.into_iter().cloned().collect();
        assert!(passed_on(&broken).iter().all(|(owner, _)| owner == "www.shop.example."));
    }
}

#[test]
fn aliases_in_a_circle_end() {
    let circle = [alias(QUERIED_NAME, "b.test"), alias("b.test", QUERIED_NAME), alias("c.test", "c.test")];
    assert_eq!(passed_on(&circle), owners_and_types(&circle[..2]));
}

#[test]
fn an_alias_of_a_zone_above_the_name_belongs_to_the_answer() {
    let whole = [
        zone_alias("shop.example", "shop.test"),
        signature("shop.example"),
        alias(QUERIED_NAME, "www.shop.test"),
        address("www.shop.test"),
    ];
    assert_eq!(passed_on(&whole), owners_and_types(&whole));
    let mut reversed = whole.clone();
    reversed.reverse();
    assert_eq!(passed_on(&reversed), owners_and_types(&reversed));
    let without_synthesis = [&whole[..2], &whole[3..], &[address("shop.test")]].concat();
    assert_eq!(passed_on(&without_synthesis), owners_and_types(&without_synthesis[..3]));
    // Without the DNAME record its owner is another name.
    assert_eq!(passed_on(&whole[1..]), owners_and_types(&whole[2..]));
}

#[test]
fn hundreds_of_records_cost_no_more_than_their_number() {
    let addresses: Vec<_> =
        (0..100).map(|last| address_record(QUERIED_NAME, 300, &format!("192.0.2.{last}"))).collect();
    let others: Vec<_> = (0..100).map(|number| address(&format!("n{number}.test"))).collect();
    let mixed: Vec<_> = addresses.iter().zip(&others).flat_map(|(own, other)| [own.clone(), other.clone()]).collect();
    assert_eq!(Message::from_vec(receive(&mixed).wire()).unwrap().answers, addresses);
    // Names that grow with each step, and chains of thousands in the worst order.
    let started = Instant::now();
    let growing: Vec<_> = (0..1000).map(|number| zone_alias("example", &format!("n{number}.example"))).collect();
    assert_eq!(passed_on(&growing).len(), growing.len());
    let mut chain: Vec<_> = (0..2000).map(|number| alias(&format!("n{number}"), &format!("n{}", number + 1))).collect();
    chain.push(alias(QUERIED_NAME, "n0"));
    chain.reverse();
    assert!(passed_on(&chain).len() > 100);
    chain[1..].reverse();
    assert!(passed_on(&chain).len() > 100);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_gets_no_answer_of_another_name_over_udp_or_tcp_from_upstream_or_cache() {
    let authority = Authority::start(|query| {
        let mut message = query.default_response(300, 1);
        message.add_answer(address_record("other.example", 300, "203.0.113.66"));
        message.add_authority(address_record("other.example", 300, "192.0.2.2"));
        Action::Respond(message)
    })
    .await;
    let alone = Authority::start(|query| {
        Action::Respond(response_with(query, vec![address_record("other.example", 300, "203.0.113.66")]))
    })
    .await;
    let query = query_for("www.owner.example", RecordType::A);
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for round in 0..2 {
        for response in [exchange(tier.address, &query).await, exchange_over_tcp(tier.address, &query).await] {
            assert_eq!(owners_and_types(&response.answers), [("www.owner.example.".to_owned(), 1)], "{round}");
            assert_eq!(response.authorities.len(), 1, "the authority section is passed on as it is");
        }
    }
    assert_eq!(authority.queries().len(), 1);
    let tier = Tier::forwarding_to(&[alone.address]).await;
    let response = exchange(tier.address, &query).await;
    assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(tier.resolver.cache().entries(), 0);
}
