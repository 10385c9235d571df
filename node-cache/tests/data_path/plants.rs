//! What a server says beside the question: nobody else's names, in no section, whoever asks for them later.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata};

use crate::support::{Asked, Authority, Reply, Tier, address, ask, config, name, question, reply, route, zone};

const EVIL: &str = "203.0.113.66";
const VICTIMS: [&str; 4] = ["bank.example", "com", "shop.corp.example", "kubernetes.default.svc.cluster.local"];

fn name_server(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::NS(rdata::NS(name(target))))
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(rdata::CNAME(name(target))))
}

/// An answer to the question with a plant in this section, or all of them at the end of an alias.
fn planted(asked: &Asked, section: usize) -> Message {
    let mut message = asked.usual_answer(300, 1);
    let plants = VICTIMS.iter().flat_map(|victim| [address(victim, 300, EVIL), name_server(victim, "ns.evil.example")]);
    for plant in plants {
        match section {
            0 => message.add_answer(plant),
            1 => message.add_authority(plant),
            2 => message.add_additional(plant),
            _ => {
                let own = asked.name().to_ascii();
                let mut records = vec![alias(&own, VICTIMS[0])];
                records.extend(VICTIMS.map(|victim| address(victim, 300, EVIL)));
                return reply(asked, records);
            }
        };
    }
    message
}

fn is_true(answer: &Message) -> bool {
    let said = answer.answers.iter().chain(&answer.authorities).chain(&answer.additionals);
    answer.metadata.response_code == ResponseCode::NoError
        && said.clone().count() > 0
        && said.map(|record| record.data.to_string()).all(|data| data != EVIL && !data.contains("evil"))
}

#[tokio::test]
async fn no_plant_in_any_section_is_an_answer_to_anything_later() {
    for section in 0..4 {
        let authority = Authority::start(move |asked| match asked.is("www.example") {
            true => Reply::Say(planted(asked, section)),
            false => Reply::Say(asked.usual_answer(300, 7)),
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        ask(tier.address, &question("www.example", RecordType::A)).await;
        for victim in VICTIMS.iter().filter(|victim| !victim.ends_with(".local")) {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::NS] {
                let answer = ask(tier.address, &question(victim, kind)).await;
                assert!(is_true(&answer), "{victim} {kind} from section {section}: {answer}");
            }
            assert_eq!(authority.asked_for(victim), 3, "{victim}: not from memory");
        }
    }
}

#[tokio::test]
async fn a_hostile_server_of_one_route_reaches_no_name_of_another() {
    for section in 0..4 {
        let hostile = Authority::start(move |asked| Reply::Say(planted(asked, section))).await;
        let honest = Authority::start(|asked| Reply::Say(asked.usual_answer(300, 7))).await;
        let mut config = config(honest.address);
        config.zones = vec![zone("zone-a", honest.address)];
        config.routes = vec![route("corp.example", &[hostile.address]), route("shop.corp.example", &[honest.address])];
        let tier = Tier::on_node(&config, Some("zone-a")).await;
        for number in 0..5 {
            ask(tier.address, &question(&format!("n{number}.corp.example"), RecordType::A)).await;
        }
        for victim in VICTIMS {
            let answer = ask(tier.address, &question(victim, RecordType::A)).await;
            assert!(is_true(&answer), "{victim} from section {section}: {answer}");
            assert_eq!((hostile.asked_for(victim), honest.asked_for(victim)), (0, 1), "{victim}");
        }
    }
}

#[tokio::test]
async fn no_server_has_its_answer_kept_for_longer_than_the_cap() {
    let authority = Authority::start(|asked| Reply::Say(asked.usual_answer(0x7fff_ffff, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for _ in 0..2 {
        let answer = ask(tier.address, &question("www.example", RecordType::A)).await;
        assert!((3590..=3600).contains(&answer.answers[0].ttl), "{}", answer.answers[0].ttl);
    }
    assert_eq!(authority.asked().len(), 1);
}
