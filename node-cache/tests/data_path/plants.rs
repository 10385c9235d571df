//! Cache poisoning: records of other names, planted in any section, answer no later query.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata};

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, exchange, name, query_for, response_with, route,
    zone,
};

const EVIL: &str = "203.0.113.66";
const VICTIMS: [&str; 4] = ["bank.example", "com", "shop.corp.example", "kubernetes.default.svc.cluster.local"];

fn name_server(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::NS(rdata::NS(name(target))))
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(rdata::CNAME(name(target))))
}

/// Builds a response with records of the victims in this section (0 answer, 1 authority, 2 additional), or, for 3,
/// behind a CNAME.
fn response_with_plant(query: &ReceivedQuery, section: usize) -> Message {
    let mut message = query.default_response(300, 1);
    let plants =
        VICTIMS.iter().flat_map(|victim| [address_record(victim, 300, EVIL), name_server(victim, "ns.evil.example")]);
    for plant in plants {
        match section {
            0 => message.add_answer(plant),
            1 => message.add_authority(plant),
            2 => message.add_additional(plant),
            _ => {
                let owner = query.name().to_ascii();
                let mut records = vec![alias(&owner, VICTIMS[0])];
                records.extend(VICTIMS.map(|victim| address_record(victim, 300, EVIL)));
                return response_with(query, records);
            }
        };
    }
    message
}

fn is_clean(response: &Message) -> bool {
    let records = response.answers.iter().chain(&response.authorities).chain(&response.additionals);
    response.metadata.response_code == ResponseCode::NoError
        && records.clone().count() > 0
        && records.map(|record| record.data.to_string()).all(|data| data != EVIL && !data.contains("evil"))
}

#[tokio::test]
async fn no_plant_in_any_section_is_an_answer_to_anything_later() {
    for section in 0..4 {
        let authority = Authority::start(move |query| match query.is("www.example") {
            true => Action::Respond(response_with_plant(query, section)),
            false => Action::Respond(query.default_response(300, 7)),
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        for victim in VICTIMS.iter().filter(|victim| !victim.ends_with(".local")) {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::NS] {
                let response = exchange(tier.address, &query_for(victim, kind)).await;
                assert!(is_clean(&response), "{victim} {kind} from section {section}: {response}");
            }
            assert_eq!(authority.query_count(victim), 3, "{victim}: not from memory");
        }
    }
}

#[tokio::test]
async fn a_hostile_server_of_one_route_reaches_no_name_of_another() {
    for section in 0..4 {
        let hostile = Authority::start(move |query| Action::Respond(response_with_plant(query, section))).await;
        let honest = Authority::start(|query| Action::Respond(query.default_response(300, 7))).await;
        let mut config = config(honest.address);
        config.zones = vec![zone("zone-a", honest.address)];
        config.routes = vec![route("corp.example", &[hostile.address]), route("shop.corp.example", &[honest.address])];
        let tier = Tier::on_node(&config, Some("zone-a")).await;
        for number in 0..5 {
            exchange(tier.address, &query_for(&format!("n{number}.corp.example"), RecordType::A)).await;
        }
        for victim in VICTIMS {
            let response = exchange(tier.address, &query_for(victim, RecordType::A)).await;
            assert!(is_clean(&response), "{victim} from section {section}: {response}");
            assert_eq!((hostile.query_count(victim), honest.query_count(victim)), (0, 1), "{victim}");
        }
    }
}

#[tokio::test]
async fn no_server_has_its_answer_kept_for_longer_than_the_cap() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(0x7fff_ffff, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for _ in 0..2 {
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert!((3590..=3600).contains(&response.answers[0].ttl), "{}", response.answers[0].ttl);
    }
    assert_eq!(authority.queries().len(), 1);
}
