//! Records and responses.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NULL, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use node_cache::dns::Edns;

use super::{Action, ReceivedQuery};

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// Builds a NOERROR response with these records in the answer section.
pub(crate) fn response_with(query: &ReceivedQuery, answers: Vec<Record>) -> Message {
    let mut message = Message::response(query.message.metadata.id, query.message.metadata.op_code);
    message.metadata.recursion_available = true;
    message.metadata.recursion_desired = query.message.metadata.recursion_desired;
    message.add_queries(query.message.queries.clone());
    message.insert_answers(answers);
    if query.message.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    message
}

/// Responds with SERVFAIL and this Extended DNS Error, as a resolver does with a code between the processes of a tier.
pub(crate) fn failure(query: &ReceivedQuery, code: u16) -> Action {
    let mut response = empty_response(query, ResponseCode::ServFail);
    response.edns = None;
    let mut packet = response.to_vec().unwrap();
    Edns { udp_size: 1232, ede: Some(code), ..Edns::default() }.append(&mut packet);
    Action::SendRaw(vec![packet])
}

/// Builds a response without any record.
pub(crate) fn empty_response(query: &ReceivedQuery, rcode: ResponseCode) -> Message {
    let mut message = response_with(query, vec![]);
    message.metadata.response_code = rcode;
    message
}

/// Builds a negative response (RFC 2308): NXDOMAIN or NODATA by its rcode, with an SOA of this TTL in seconds.
pub(crate) fn negative_response(query: &ReceivedQuery, rcode: ResponseCode, ttl: u32) -> Message {
    let mut message = empty_response(query, rcode);
    let soa = SOA::new(name("ns.example"), name("admin.example"), 1, 3600, 600, 86400, ttl);
    message.add_authority(Record::from_rdata(name("example"), ttl, RData::SOA(soa)));
    message
}

/// Builds an A or AAAA record.
pub(crate) fn address_record(owner: &str, ttl: u32, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub(crate) fn srv_record(owner: &str, ttl: u32, port: u16, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::SRV(SRV::new(0, 100, port, name(target))))
}

/// Builds a record of a type that no implementation knows (RFC 3597), with a TTL of 300 s.
pub(crate) fn unknown_record(owner: &str, rtype: u16, data: &[u8]) -> Record {
    let rdata = RData::Unknown { code: RecordType::Unknown(rtype), rdata: NULL::with(data.to_vec()) };
    Record::from_rdata(name(owner), 300, rdata)
}

impl ReceivedQuery {
    /// Builds the response that most tests use: 192.0.2.`last_octet` for A, NODATA for all other types.
    pub(crate) fn default_response(&self, ttl: u32, last_octet: u8) -> Message {
        match self.rtype() {
            RecordType::A => {
                let data = RData::A(A(Ipv4Addr::new(192, 0, 2, last_octet)));
                response_with(self, vec![Record::from_rdata(self.name().clone(), ttl, data)])
            }
            _ => negative_response(self, ResponseCode::NoError, ttl),
        }
    }
}
