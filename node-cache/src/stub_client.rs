//! Stub DNS client: one query to one server, for health checks (`id.server`), startup names and `ask`.
//!
//! Upstreams are not queried through it: [`crate::upstream`] adds 0x20, hedging, a circuit breaker and a socket pool.

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::dns::codes::{class, rtype};
use crate::dns::question::Question;
use crate::dns::{Header, Name, NameError, Response, Section, flag};

/// Longest UDP response that is read, in octets.
const MAX_UDP_RESPONSE_LEN: usize = 4096;

/// Failure of a query.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// No response within the timeout.
    #[error("timed out")]
    Timeout,
    /// The query could not be sent, or the kernel reported the server as unreachable.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A response over TCP that belongs to another query.
    #[error("the response does not belong to the query")]
    Mismatch,
}

/// Client for one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StubClient {
    server: SocketAddr,
    edns: bool,
    mark: Option<u32>,
    retransmit_after: Option<Duration>,
}

impl StubClient {
    /// Returns a client for `server` that sends each query once, without EDNS.
    pub(crate) const fn new(server: SocketAddr) -> Self {
        Self { server, edns: false, mark: None, retransmit_after: None }
    }

    /// Sends queries with EDNS (RFC 6891), so that a UDP response may be longer than 512 octets.
    pub(crate) const fn with_edns(self) -> Self {
        Self { edns: true, ..self }
    }

    /// Sets the packet mark (`SO_MARK`, needs `CAP_NET_ADMIN`) of all packets.
    pub(crate) const fn with_mark(self, mark: u32) -> Self {
        Self { mark: Some(mark), ..self }
    }

    /// Sends a UDP query a second time when no response came for this long.
    pub(crate) const fn with_retransmit(self, after: Duration) -> Self {
        Self { retransmit_after: Some(after), ..self }
    }

    /// Sends a query over UDP and returns the first response to it. Packets that are no response to it are ignored.
    ///
    /// # Errors
    ///
    /// [`StubError::Timeout`], or [`StubError::Io`] when it cannot be sent.
    pub(crate) async fn query_udp(&self, question: &Question, limit: Duration) -> Result<Response, StubError> {
        let read = |packet: &[u8], id| Response::read(packet, id, question).ok();
        timeout(limit, self.exchange_udp(question, read)).await.map_err(|_| StubError::Timeout)?
    }

    /// Sends a query over UDP and returns the rcode of the first response to it. Of a response, which may hold records
    /// of anybody, header and question are read and nothing else.
    ///
    /// # Errors
    ///
    /// [`StubError::Timeout`], or [`StubError::Io`] when it cannot be sent.
    pub(crate) async fn query_rcode(&self, question: &Question, limit: Duration) -> Result<u16, StubError> {
        let section = question.section();
        let read = |packet: &[u8], id| rcode_of(packet, id, &section);
        timeout(limit, self.exchange_udp(question, read)).await.map_err(|_| StubError::Timeout)?
    }

    /// Sends a query over a new TCP connection and returns the response.
    ///
    /// # Errors
    ///
    /// [`StubError`] when the server is silent, unreachable, or responds to something else.
    pub(crate) async fn query_tcp(&self, question: &Question, limit: Duration) -> Result<Response, StubError> {
        timeout(limit, self.exchange_tcp(question)).await.map_err(|_| StubError::Timeout)?
    }

    /// Asks the server for its identity (`id.server CH TXT`, RFC 4892) over UDP. Empty for a server that does not tell.
    ///
    /// # Errors
    ///
    /// [`StubError`] when there is no response.
    pub(crate) async fn query_identity(&self, limit: Duration) -> Result<Vec<String>, StubError> {
        let Ok(question) = identity_question() else { return Ok(Vec::new()) };
        self.query_udp(&question, limit).await.map(|response| character_strings(&response))
    }

    async fn exchange_udp<T>(
        &self,
        question: &Question,
        read: impl Fn(&[u8], u16) -> Option<T>,
    ) -> Result<T, StubError> {
        let socket = self.udp_socket()?;
        let id = rand::random();
        let message = question.to_wire(id, self.edns);
        socket.send(&message).await?;
        let receive = async {
            let mut packet = [0; MAX_UDP_RESPONSE_LEN];
            loop {
                let length = socket.recv(&mut packet).await?;
                if let Some(response) = read(&packet[..length], id) {
                    return Ok(response);
                }
            }
        };
        let retransmit = async {
            match self.retransmit_after {
                Some(after) => sleep(after).await,
                None => pending().await,
            }
            match socket.send(&message).await {
                Ok(_) => pending().await,
                Err(error) => Err(error.into()),
            }
        };
        tokio::select! {
            received = receive => received,
            failed = retransmit => failed,
        }
    }

    async fn exchange_tcp(&self, question: &Question) -> Result<Response, StubError> {
        let socket = if self.server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        let mut stream = socket.connect(self.server).await?;
        let id = rand::random();
        let message = question.to_wire(id, self.edns);
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await?;
        let length = stream.read_u16().await?;
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await?;
        Response::read(&packet, id, question).map_err(|_| StubError::Mismatch)
    }

    /// Opens a connected socket: only packets of the server are received, and a refusal is reported at once.
    fn udp_socket(&self) -> io::Result<UdpSocket> {
        let any: IpAddr =
            if self.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = Socket::new(Domain::for_address(self.server), Type::DGRAM.nonblocking().cloexec(), None)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        socket.bind(&SocketAddr::new(any, 0).into())?;
        socket.connect(&self.server.into())?;
        UdpSocket::from_std(socket.into())
    }
}

/// Returns the rcode of a response with this ID and question section; `None` for any other packet.
fn rcode_of(packet: &[u8], id: u16, section: &[u8]) -> Option<u16> {
    let header = Header::read(packet)?;
    let echo = packet.get(Header::LENGTH..Header::LENGTH + section.len())?;
    let is_response = header.id == id && header.has(flag::QR) && header.counts[0] == 1;
    (is_response && echo.eq_ignore_ascii_case(section)).then(|| header.rcode())
}

/// Returns the question `id.server CH TXT` (RFC 4892).
///
/// # Errors
///
/// None: the name is valid.
pub(crate) fn identity_question() -> Result<Question, NameError> {
    Ok(Question { class: class::CH, ..Question::plain(&Name::from_text("id.server")?, rtype::TXT) })
}

/// Returns the data of the answer section's records of one type.
pub(crate) fn answer_data(response: &Response, rtype: u16) -> impl Iterator<Item = &[u8]> {
    let records = response.records().into_iter();
    let answers = records.filter(move |record| record.section == Section::Answer && record.rtype == rtype);
    answers.filter_map(|record| response.wire().get(record.data))
}

/// Returns the character-strings of all TXT records of a response (RFC 1035 §3.3.14). A string that is cut off ends its
/// record.
pub(crate) fn character_strings(response: &Response) -> Vec<String> {
    let mut strings = Vec::new();
    for mut data in answer_data(response, rtype::TXT) {
        while let Some((length, rest)) = data.split_first() {
            let Some((string, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
            strings.push(String::from_utf8_lossy(string).into_owned());
            data = rest;
        }
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::rcode;

    #[test]
    fn character_strings_end_where_their_record_is_cut_off() {
        let question = identity_question().unwrap();
        let strings = |data: &[u8]| {
            let record = (rtype::TXT, 0, data.to_vec());
            character_strings(&Response::with_records(&question, rcode::NOERROR, &[record]))
        };
        assert_eq!(strings(b"\x06node=a\x08pod=2b1d"), ["node=a", "pod=2b1d"]);
        assert_eq!(strings(b"\x06node=a\x09pod=2b1d"), ["node=a"]);
        assert_eq!(character_strings(&Response::empty(&question, rcode::REFUSED)), [""; 0]);
    }

    #[tokio::test]
    async fn a_query_is_sent_again_once_and_foreign_packets_are_ignored() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = StubClient::new(server.local_addr().unwrap()).with_retransmit(Duration::from_millis(10));
        let responder = tokio::spawn(async move {
            let mut packet = [0; 512];
            server.recv_from(&mut packet).await.unwrap();
            let (length, client) = server.recv_from(&mut packet).await.unwrap();
            server.send_to(b"not a response", client).await.unwrap();
            let response = Response::empty(&identity_question().unwrap(), rcode::REFUSED);
            let mut wire = response.wire().to_vec();
            wire[..2].copy_from_slice(&packet[..2]);
            assert!(length > 12);
            server.send_to(&wire, client).await.unwrap();
        });
        let response = client.query_udp(&identity_question().unwrap(), Duration::from_secs(60)).await.unwrap();
        assert_eq!(response.rcode(), rcode::REFUSED);
        responder.await.unwrap();
    }

    #[test]
    fn an_rcode_is_read_whatever_follows_the_question_and_only_from_a_response_to_it() {
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        let mut packet = Response::empty(&question, rcode::NXDOMAIN).wire().to_vec();
        packet[..2].copy_from_slice(&[0, 7]);
        packet[6..12].copy_from_slice(&[0xff; 6]);
        packet.extend_from_slice(&[0xc0; 400]);
        let section = question.section();
        assert_eq!(rcode_of(&packet, 7, &section), Some(rcode::NXDOMAIN));
        assert_eq!(rcode_of(&packet, 8, &section), None, "another ID");
        let other = Question::plain(&Name::from_text("www.examplf").unwrap(), rtype::A);
        assert_eq!(rcode_of(&packet, 7, &other.section()), None, "another question");
        assert_eq!(rcode_of(&question.to_wire(7, false), 7, &section), None, "a query");
        for length in 0..12 + section.len() {
            assert_eq!(rcode_of(&packet[..length], 7, &section), None, "cut off at {length}");
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_a_timeout() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = StubClient::new(server.local_addr().unwrap());
        let error = client.query_identity(Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(error.to_string(), "timed out");
    }
}
