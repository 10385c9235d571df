//! Records and responses.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NULL, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Asked;

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// A response to a question that holds these records.
pub(crate) fn reply(asked: &Asked, answers: Vec<Record>) -> Message {
    let mut message = Message::response(asked.message.metadata.id, asked.message.metadata.op_code);
    message.metadata.recursion_available = true;
    message.metadata.recursion_desired = asked.message.metadata.recursion_desired;
    message.add_queries(asked.message.queries.clone());
    message.insert_answers(answers);
    if asked.message.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    message
}

/// A response without any record.
pub(crate) fn denial(asked: &Asked, code: ResponseCode) -> Message {
    let mut message = reply(asked, vec![]);
    message.metadata.response_code = code;
    message
}

/// A response that says there is nothing, for these many seconds.
pub(crate) fn denial_with_soa(asked: &Asked, code: ResponseCode, ttl: u32) -> Message {
    let mut message = denial(asked, code);
    let soa = SOA::new(name("ns.example"), name("admin.example"), 1, 3600, 600, 86400, ttl);
    message.add_authority(Record::from_rdata(name("example"), ttl, RData::SOA(soa)));
    message
}

pub(crate) fn address(owner: &str, ttl: u32, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub(crate) fn service_record(owner: &str, ttl: u32, port: u16, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::SRV(SRV::new(0, 100, port, name(target))))
}

/// A record of a type that nobody knows.
pub(crate) fn unknown(owner: &str, code: u16, data: &[u8]) -> Record {
    let rdata = RData::Unknown { code: RecordType::Unknown(code), rdata: NULL::with(data.to_vec()) };
    Record::from_rdata(name(owner), 300, rdata)
}

impl Asked {
    /// The answer that each name has in most tests: one address for A, and a denial for all other types.
    pub(crate) fn usual_answer(&self, ttl: u32, last_octet: u8) -> Message {
        match self.kind() {
            RecordType::A => {
                let data = RData::A(A(Ipv4Addr::new(192, 0, 2, last_octet)));
                reply(self, vec![Record::from_rdata(self.name().clone(), ttl, data)])
            }
            _ => denial_with_soa(self, ResponseCode::NoError, ttl),
        }
    }
}
