//! A small DNS client to test with: one question, a few tries, one answer that says all there is to know about it.
//!
//! It blocks, keeps nothing between questions and takes every try from a fresh port.

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

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    /// The full name; no search path is applied to it.
    pub name: Name,
    /// The type of record asked for.
    pub record_type: RecordType,
    /// `IN` nearly always; `CH` for what a server says of itself.
    pub class: DNSClass,
    /// Whether DNSSEC records are wanted (the bit DO of RFC 3225).
    pub dnssec: bool,
    /// The size of an answer over UDP that is offered by EDNS, in bytes.
    pub bufsize: u16,
}

impl Query {
    /// A question of class `IN` as a stub resolver asks it, with EDNS and 1,232 bytes.
    #[must_use]
    pub fn new(name: Name, record_type: RecordType) -> Self {
        Self { name, record_type, class: DNSClass::IN, dnssec: false, bufsize: 1232 }
    }

    /// The question for the identity of a server: `id.server. CH TXT` (RFC 4892).
    #[must_use]
    pub fn identity() -> Self {
        let name = Name::from_labels(["id", "server"].map(str::as_bytes)).unwrap_or_default();
        Self { class: DNSClass::CH, ..Self::new(name, RecordType::TXT) }
    }
}

/// Whom to ask, and how patiently.
#[derive(Clone, Debug)]
pub struct Client {
    /// The servers; each try goes to the next one.
    pub servers: Vec<SocketAddr>,
    /// Start with TCP. Otherwise TCP serves for answers that were cut off over UDP.
    pub tcp: bool,
    /// How long one try waits.
    pub timeout: Duration,
    /// How many tries there are; at least one is made.
    pub tries: u32,
}

/// How an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Over UDP.
    Udp,
    /// Over TCP, as asked for.
    Tcp,
    /// Over TCP, because the answer over UDP was cut off.
    TcpAfterUdp,
}

/// An answer, as `ask --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The full name that was asked for, with its final dot.
    pub name: String,
    /// The mnemonic of the response code: `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// The flags that are set, of `aa`, `tc`, `rd`, `ra`, `ad`, `cd`.
    pub flags: Vec<String>,
    /// The records of the answer section, in their order.
    pub answers: Vec<Record>,
    /// Bytes of the whole message.
    pub size: usize,
    /// How it came.
    pub transport: Transport,
    /// Microseconds from the first try to the answer.
    pub elapsed_us: u64,
    /// Which try was answered, from 1.
    pub tries: u32,
    /// Who was asked.
    pub server: SocketAddr,
    /// What the server says of itself, when it was asked for that and did answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl Response {
    /// The data of all answers of one type, in their order.
    pub fn data<'a>(&'a self, record_type: &'a str) -> impl Iterator<Item = &'a str> {
        self.answers.iter().filter(move |record| record.record_type == record_type).map(|record| record.data.as_str())
    }
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its owner, with the final dot.
    pub name: String,
    /// The mnemonic of its type.
    #[serde(rename = "type")]
    pub record_type: String,
    /// Its time to live in seconds.
    pub ttl: u32,
    /// Its data as in a zone file; the strings of a TXT record are joined by blanks.
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

/// Nobody answered; says what became of the last try.
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
    /// Asks until somebody answers, whatever the answer says, or the tries are used up.
    ///
    /// # Errors
    /// None of the tries was answered.
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
                // A refusal comes at once; the next try would otherwise meet the same moment.
                let due = start + self.timeout * number;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        Err(NoResponse { tries, last })
    }

    /// What the first server says of itself; none when it does not know such a question.
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

/// The servers of a list of addresses, at one port.
#[must_use]
pub fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}
