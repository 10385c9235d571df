//! Conversion between queries and responses and DNS messages.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{self, Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RData;

use super::{Exchange, Query, Record, Response, Transport};

/// Encodes a query with this ID. Recursion is desired, as in every query of a stub resolver.
pub(crate) fn encode(query: &Query, id: u16) -> std::io::Result<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut question = op::Query::query(query.name.clone(), query.record_type);
    question.set_query_class(query.class);
    message.add_query(question);
    let mut edns = Edns::new();
    edns.set_max_payload(query.bufsize).set_dnssec_ok(query.dnssec);
    message.set_edns(edns);
    message.to_vec().map_err(std::io::Error::other)
}

/// Returns whether a message is the response to this query. FORMERR responses may lack the question.
pub(crate) fn is_response_to(message: &Message, query: &Query, id: u16) -> bool {
    let has_question = |question: &op::Query| {
        question.name == query.name && question.query_type == query.record_type && question.query_class == query.class
    };
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && match message.queries.as_slice() {
            [] => message.metadata.response_code == ResponseCode::FormErr,
            [question] => has_question(question),
            _ => false,
        }
}

pub(super) fn response(
    Exchange { message, size }: Exchange,
    transport: Transport,
    server: SocketAddr,
    tries: u32,
    elapsed: Duration,
) -> Response {
    let name = message.queries.first().map(|query| query.name.to_string()).unwrap_or_default();
    Response {
        name,
        rcode: rcode_name(message.metadata.response_code),
        flags: flags(&message),
        answers: message.answers.iter().map(record).collect(),
        size,
        transport,
        elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        tries,
        server,
        identity: None,
    }
}

fn flags(message: &Message) -> Vec<String> {
    let metadata = &message.metadata;
    [
        ("aa", metadata.authoritative),
        ("tc", metadata.truncation),
        ("rd", metadata.recursion_desired),
        ("ra", metadata.recursion_available),
        ("ad", metadata.authentic_data),
        ("cd", metadata.checking_disabled),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(flag, _)| flag.to_owned())
    .collect()
}

fn record(record: &hickory_proto::rr::Record) -> Record {
    let data = match &record.data {
        // hickory joins the strings with nothing between them.
        RData::TXT(text) => {
            let strings: Vec<_> = text.txt_data.iter().map(|string| String::from_utf8_lossy(string)).collect();
            strings.join(" ")
        }
        other => other.to_string(),
    };
    Record { name: record.name.to_string(), record_type: record.record_type().to_string(), ttl: record.ttl, data }
}

/// Returns the mnemonic of a response code in the registry of DNS parameters.
pub(crate) fn rcode_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn query() -> Query {
        Query::new(Name::from_ascii("example.com.").unwrap(), RecordType::A)
    }

    #[test]
    fn only_an_answer_to_this_very_question_counts() {
        let mut message = Message::from_vec(&encode(&query(), 7).unwrap()).unwrap();
        assert!(!is_response_to(&message, &query(), 7), "a question is no answer");
        message.metadata.message_type = MessageType::Response;
        assert!(is_response_to(&message, &query(), 7));
        assert!(!is_response_to(&message, &query(), 8), "another ID");
        let other = Query { record_type: RecordType::AAAA, ..query() };
        assert!(!is_response_to(&message, &other, 7), "another type");
    }

    #[test]
    fn a_question_offers_its_buffer_and_asks_for_recursion() {
        let query = Query { dnssec: true, bufsize: 4096, ..query() };
        let message = Message::from_vec(&encode(&query, 1).unwrap()).unwrap();
        assert!(message.metadata.recursion_desired);
        let edns = message.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (4096, true));
    }
}
