//! A client.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::records;

const PATIENCE: Duration = Duration::from_secs(6);

/// A question as a stub resolver asks it, with EDNS and 1,232 octets.
pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(records::name(name), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// The answer over UDP.
pub(crate) async fn ask(server: SocketAddr, question: &Message) -> Message {
    let answer = exchange_raw(server, "127.0.0.1:0", &question.to_vec().unwrap(), PATIENCE).await.expect("an answer");
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    answer
}

/// The answer over UDP to a client at this address, if there is one within the time.
pub(crate) async fn ask_from(
    source: &str,
    server: SocketAddr,
    question: &Message,
    within: Duration,
) -> Option<Message> {
    let answer = exchange_raw(server, source, &question.to_vec().unwrap(), within).await?;
    Some(Message::from_vec(&answer).unwrap())
}

/// The first packet that comes back.
pub(crate) async fn exchange_raw(server: SocketAddr, source: &str, packet: &[u8], within: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(source).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let length = timeout(within, socket.recv(&mut buffer)).await.ok()?.unwrap();
    buffer.truncate(length);
    Some(buffer)
}

/// The answer over TCP.
pub(crate) async fn ask_over_tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    Message::from_vec(&tcp_exchange(&mut stream, &question.to_vec().unwrap()).await).unwrap()
}

/// One message there and one back.
pub(crate) async fn tcp_exchange(stream: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    // In one packet: the second of two would wait until the first one is acknowledged.
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).await.unwrap();
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// The info-code of the Extended DNS Error of an answer.
pub(crate) fn ede(message: &Message) -> Option<u16> {
    let option =
        message.edns.as_ref()?.option(EdnsCode::Unknown(15)).or(message.edns.as_ref()?.option(EdnsCode::from(15)))?;
    let bytes = Vec::<u8>::try_from(option).unwrap();
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The character-strings of all TXT records of an answer.
pub(crate) fn txt_strings(message: &Message) -> Vec<String> {
    let strings = |record: &hickory_proto::rr::Record| match &record.data {
        RData::TXT(txt) => txt.txt_data.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect(),
        _ => Vec::new(),
    };
    message.answers.iter().flat_map(strings).collect()
}
