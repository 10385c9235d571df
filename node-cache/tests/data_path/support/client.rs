//! DNS client over UDP and TCP.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::records;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(6);

/// Builds a query as a stub resolver sends it: recursion desired, EDNS with 1,232 octets, ID 4711.
pub(crate) fn query_for(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(records::name(name), rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// Returns the address, with any port, from which a client queries a server on the loopback interface.
pub(crate) fn loopback_client(server: SocketAddr) -> &'static str {
    if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }
}

/// Sends a query over UDP and returns the response. Panics without one within six seconds.
pub(crate) async fn exchange(server: SocketAddr, query: &Message) -> Message {
    let packet = query.to_vec().unwrap();
    let packet = exchange_raw(server, loopback_client(server), &packet, RESPONSE_TIMEOUT).await.expect("an answer");
    let response = Message::from_vec(&packet).unwrap();
    assert_eq!(response.metadata.id, query.metadata.id);
    assert_eq!(response.metadata.message_type, MessageType::Response);
    response
}

/// Sends a query over UDP from this address; `None` without a response in time.
pub(crate) async fn exchange_from(
    source: &str,
    server: SocketAddr,
    query: &Message,
    timeout: Duration,
) -> Option<Message> {
    let packet = exchange_raw(server, source, &query.to_vec().unwrap(), timeout).await?;
    Some(Message::from_vec(&packet).unwrap())
}

/// Sends a packet over UDP and returns the first packet that comes back; `None` without one in time.
pub(crate) async fn exchange_raw(
    server: SocketAddr,
    source: &str,
    packet: &[u8],
    response_timeout: Duration,
) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(source).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let length = timeout(response_timeout, socket.recv(&mut buffer)).await.ok()?.unwrap();
    buffer.truncate(length);
    Some(buffer)
}

/// Sends a query over a new TCP connection and returns the response.
pub(crate) async fn exchange_over_tcp(server: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    Message::from_vec(&exchange_on(&mut stream, &query.to_vec().unwrap()).await).unwrap()
}

/// Sends one message on a TCP connection and returns the next one that comes back.
pub(crate) async fn exchange_on(stream: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    // In one packet: the second of two would wait until the first one is acknowledged.
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).await.unwrap();
    let length = timeout(RESPONSE_TIMEOUT, stream.read_u16()).await.unwrap().unwrap();
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await.unwrap();
    response
}

/// Returns the info-code of the Extended DNS Error (RFC 8914) of a response.
pub(crate) fn ede(message: &Message) -> Option<u16> {
    let option =
        message.edns.as_ref()?.option(EdnsCode::Unknown(15)).or(message.edns.as_ref()?.option(EdnsCode::from(15)))?;
    let octets = Vec::<u8>::try_from(option).unwrap();
    Some(u16::from_be_bytes([octets[0], octets[1]]))
}

/// Returns the character-strings of all TXT records in the answer section.
pub(crate) fn txt_strings(message: &Message) -> Vec<String> {
    let strings = |record: &hickory_proto::rr::Record| match &record.data {
        RData::TXT(txt) => txt.txt_data.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect(),
        _ => Vec::new(),
    };
    message.answers.iter().flat_map(strings).collect()
}
