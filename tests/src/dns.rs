//! DNS client for tests: one query, a few tries, and a response with all its details.
//!
//! The client blocks, keeps nothing between queries and sends every try from a fresh port.

mod message;
pub mod resolv_conf;
mod transport;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::rr::{DNSClass, Name, RecordType};
use serde::{Deserialize, Serialize};

pub(crate) use message::{encode, is_response_to, rcode_name};
pub(crate) use transport::{Exchange, exchange_over_tcp, exchange_over_udp, udp_socket};

/// Query for the records of one name and type.
#[derive(Clone, Debug)]
pub struct Query {
    /// Full name; no search path is applied to it.
    pub name: Name,
    /// Record type.
    pub record_type: RecordType,
    /// Class: `IN` nearly always; `CH` for the identity of a server.
    pub class: DNSClass,
    /// Whether DNSSEC records are wanted (bit DO of RFC 3225).
    pub dnssec: bool,
    /// Size of a UDP response that EDNS offers, in bytes.
    pub bufsize: u16,
}

impl Query {
    /// Builds a query of class `IN` as a stub resolver sends it, with EDNS and 1,232 bytes.
    #[must_use]
    pub fn new(name: Name, record_type: RecordType) -> Self {
        Self { name, record_type, class: DNSClass::IN, dnssec: false, bufsize: 1232 }
    }

    /// Builds the query for the identity of a server: `id.server. CH TXT` (RFC 4892).
    #[must_use]
    pub fn identity() -> Self {
        let name = Name::from_labels(["id", "server"].map(str::as_bytes)).unwrap_or_default();
        Self { class: DNSClass::CH, ..Self::new(name, RecordType::TXT) }
    }
}

/// Servers to query, and the retry policy.
#[derive(Clone, Debug)]
pub struct Client {
    /// Servers; each try goes to the next one.
    pub servers: Vec<SocketAddr>,
    /// Whether to start with TCP. Otherwise TCP is used after a truncated UDP response.
    pub tcp: bool,
    /// Timeout of one try.
    pub timeout: Duration,
    /// Number of tries; at least one is made.
    pub tries: u32,
}

/// Transport of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP, as requested.
    Tcp,
    /// TCP, because the UDP response was truncated.
    TcpAfterUdp,
}

/// Response, as `ask --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Full name of the question, with its final dot.
    pub name: String,
    /// Mnemonic of the response code: `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// Flags that are set, of `aa`, `tc`, `rd`, `ra`, `ad`, `cd`.
    pub flags: Vec<String>,
    /// Records of the answer section, in their order.
    pub answers: Vec<Record>,
    /// Size of the message in bytes.
    pub size: usize,
    /// Transport of the response.
    pub transport: Transport,
    /// Time from the first try to the response, in microseconds.
    pub elapsed_us: u64,
    /// Number of the try that was answered, from 1.
    pub tries: u32,
    /// Server that responded.
    pub server: SocketAddr,
    /// Identity of the server, when it was queried and returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl Response {
    /// Returns the data of all records of one type in the answer section, in their order.
    pub fn data<'a>(&'a self, record_type: &'a str) -> impl Iterator<Item = &'a str> {
        self.answers.iter().filter(move |record| record.record_type == record_type).map(|record| record.data.as_str())
    }
}

/// Record of the answer section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Owner name, with its final dot.
    pub name: String,
    /// Mnemonic of the type.
    #[serde(rename = "type")]
    pub record_type: String,
    /// TTL in seconds.
    pub ttl: u32,
    /// Data as in a zone file; the strings of a TXT record are joined by blanks.
    pub data: String,
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} ({})", self.name, self.rcode, self.flags.join(" "))?;
        for Record { name, record_type, ttl, data } in &self.answers {
            writeln!(f, "  {name} {ttl} {record_type} {data}")?;
        }
        let milliseconds = Duration::from_micros(self.elapsed_us).as_secs_f64() * 1000.0;
        let transport = if self.transport == Transport::Udp { "UDP" } else { "TCP" };
        write!(f, "  {milliseconds:.1} ms, {} bytes over {transport} from {}", self.size, self.server)?;
        match &self.identity {
            Some(identity) => write!(f, ": {identity}"),
            None => Ok(()),
        }
    }
}

/// Error of a query without a response, with the error of the last try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoResponse {
    tries: u32,
    last: String,
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer in {} tries, the last one: {}", self.tries, self.last)
    }
}

impl std::error::Error for NoResponse {}

impl Client {
    /// Sends a query until a response comes, whatever its response code, or the tries are used up.
    ///
    /// # Errors
    /// [`NoResponse`] when no try was answered.
    pub fn resolve(&self, query: &Query) -> Result<Response, NoResponse> {
        let start = Instant::now();
        let mut last = "no server is known".to_owned();
        let tries = self.tries.max(1);
        for (number, server) in (1..=tries).zip(self.servers.iter().cycle()) {
            match self.try_once(query, *server) {
                Ok((exchange, transport)) => {
                    return Ok(message::response(exchange, transport, *server, number, start.elapsed()));
                }
                Err(error) => last = format!("{server}: {error}"),
            }
            if number < tries {
                // An ICMP error comes at once; a retry at the same moment would fail as well.
                let due = start + self.timeout * number;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        Err(NoResponse { tries, last })
    }

    /// Returns the identity of the first server; `None` when the server does not know that query.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        let response = self.resolve(&Query::identity()).ok()?;
        let record = response.answers.into_iter().find(|record| record.record_type == "TXT")?;
        Some(record.data)
    }

    fn try_once(&self, query: &Query, server: SocketAddr) -> std::io::Result<(Exchange, Transport)> {
        let deadline = Instant::now() + self.timeout;
        if self.tcp {
            return Ok((exchange_over_tcp(query, server, deadline)?, Transport::Tcp));
        }
        let exchange = exchange_over_udp(query, server, deadline)?;
        if exchange.message.metadata.truncation {
            return Ok((exchange_over_tcp(query, server, deadline)?, Transport::TcpAfterUdp));
        }
        Ok((exchange, Transport::Udp))
    }
}

/// Returns the addresses with one port.
#[must_use]
pub fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}
