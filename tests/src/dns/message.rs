//! Between questions and answers on one side and the bytes of a DNS message on the other.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::RData;

use super::{Answer, Exchange, Question, Record, Transport};

/// The bytes of a question; asks for recursion, as every stub resolver does.
pub(crate) fn encode(question: &Question, id: u16) -> std::io::Result<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut query = Query::query(question.name.clone(), question.record_type);
    query.set_query_class(question.class);
    message.add_query(query);
    let mut edns = Edns::new();
    edns.set_max_payload(question.bufsize).set_dnssec_ok(question.dnssec);
    message.set_edns(edns);
    message.to_vec().map_err(std::io::Error::other)
}

/// Whether a message answers this very question. A server that could not read the question may leave it out.
pub(crate) fn answers_question(message: &Message, question: &Question, id: u16) -> bool {
    let same = |query: &Query| {
        query.name == question.name && query.query_type == question.record_type && query.query_class == question.class
    };
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && match message.queries.as_slice() {
            [] => message.metadata.response_code == ResponseCode::FormErr,
            [query] => same(query),
            _ => false,
        }
}

pub(super) fn answer(
    Exchange { message, size }: Exchange,
    transport: Transport,
    server: SocketAddr,
    tries: u32,
    elapsed: Duration,
) -> Answer {
    let name = message.queries.first().map(|query| query.name.to_string()).unwrap_or_default();
    Answer {
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

/// The mnemonic of a response code in the registry of DNS parameters.
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

    fn question() -> Question {
        Question::new(Name::from_ascii("example.com.").unwrap(), RecordType::A)
    }

    #[test]
    fn only_an_answer_to_this_very_question_counts() {
        let mut message = Message::from_vec(&encode(&question(), 7).unwrap()).unwrap();
        assert!(!answers_question(&message, &question(), 7), "a question is no answer");
        message.metadata.message_type = MessageType::Response;
        assert!(answers_question(&message, &question(), 7));
        assert!(!answers_question(&message, &question(), 8), "another ID");
        let other = Question { record_type: RecordType::AAAA, ..question() };
        assert!(!answers_question(&message, &other, 7), "another type");
    }

    #[test]
    fn a_question_offers_its_buffer_and_asks_for_recursion() {
        let wanted = Question { dnssec: true, bufsize: 4096, ..question() };
        let message = Message::from_vec(&encode(&wanted, 1).unwrap()).unwrap();
        assert!(message.metadata.recursion_desired);
        let edns = message.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (4096, true));
    }
}
