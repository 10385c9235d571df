//! Stub clients with one retry: would anybody have noticed an outage?
//!
//! A query *fails* when two tries, one second apart, get no response. A TCP connection that is refused or reset is one
//! try.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

use crate::dns::{Exchange, Query, exchange_over_tcp, exchange_over_udp, rcode_name};
use crate::names::NameCycle;

/// Queries a second.
pub const RATE: u32 = 50;
/// Time between two queries.
const QUERY_INTERVAL: Duration = Duration::from_millis(1_000 / RATE as u64);
/// Time from the first try to the second one.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of the second try.
const SECOND_TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// Queries that stub clients send all the time.
#[derive(Clone, Debug)]
pub struct StubClients {
    /// Servers, queried in turn; both tries of a query go to the same one.
    pub servers: Vec<SocketAddr>,
    /// Names, queried in turn for their A records; a first label `*` becomes a new one each time.
    pub names: Vec<Name>,
    /// Whether to use TCP, with a connection for each try.
    pub tcp: bool,
    /// Duration, at most [`crate::flood::MAX_DURATION`].
    pub duration: Duration,
}

/// Result of the queries, as `ask patience --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Queries sent.
    pub asked: u64,
    /// Queries that needed a second try.
    pub second_tries: u64,
    /// Queries without a response in both tries.
    pub failed: u64,
    /// Responses by the mnemonic of their response code.
    pub rcodes: BTreeMap<String, u64>,
    /// When the first failed query was sent, in milliseconds from the start.
    pub first_failed_ms: Option<u64>,
    /// When the last failed query was sent, in milliseconds from the start.
    pub last_failed_ms: Option<u64>,
    /// Error of the last try that failed.
    pub last_error: Option<String>,
}

impl StubClients {
    /// Sends a query every 20 ms until the duration is over or `stop` is set, each in a thread of its own.
    ///
    /// # Errors
    /// When there is no server or name, or the duration is too long.
    pub fn run(&self, stop: &AtomicBool) -> io::Result<Report> {
        let limit = crate::flood::MAX_DURATION;
        if self.servers.is_empty() || self.names.is_empty() || self.duration > limit {
            let seconds = limit.as_secs();
            return Err(io::Error::other(format!("a watch needs a server and a name, and lasts {seconds} s at most")));
        }
        let start = Instant::now();
        let report = Mutex::new(Report::default());
        let mut queries = self.servers.iter().cycle().zip(NameCycle::new(&self.names));
        thread::scope(|scope| {
            let mut due = start;
            while due < start + self.duration && !stop.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if let Some((server, name)) = queries.next() {
                    let query = Query::new(name, RecordType::A);
                    let report = &report;
                    scope.spawn(move || self.resolve(&query, *server, due - start, report));
                }
                due += QUERY_INTERVAL;
            }
        });
        Ok(report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn resolve(&self, query: &Query, server: SocketAddr, offset: Duration, report: &Mutex<Report>) {
        let exchange = if self.tcp { exchange_over_tcp } else { exchange_over_udp };
        let start = Instant::now();
        let first = exchange(query, server, start + RETRY_INTERVAL);
        let first_error = first.as_ref().err().map(ToString::to_string);
        let outcome = first.or_else(|_| {
            thread::sleep((start + RETRY_INTERVAL).saturating_duration_since(Instant::now()));
            exchange(query, server, Instant::now() + SECOND_TRY_TIMEOUT)
        });
        let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.count(first_error, outcome, offset);
    }
}

impl Report {
    fn count(&mut self, first_error: Option<String>, outcome: io::Result<Exchange>, offset: Duration) {
        self.asked += 1;
        if let Some(error) = first_error {
            self.second_tries += 1;
            self.last_error = Some(error);
        }
        match outcome {
            Ok(exchange) => {
                *self.rcodes.entry(rcode_name(exchange.message.metadata.response_code)).or_default() += 1;
            }
            Err(error) => {
                let offset = u64::try_from(offset.as_millis()).unwrap_or(u64::MAX);
                self.failed += 1;
                self.first_failed_ms = Some(self.first_failed_ms.map_or(offset, |first| first.min(offset)));
                self.last_failed_ms = self.last_failed_ms.max(Some(offset));
                self.last_error = Some(error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn clients(server: SocketAddr) -> StubClients {
        let names = vec![Name::from_ascii("a.example.").unwrap()];
        StubClients { servers: vec![server], names, tcp: false, duration: Duration::from_millis(100) }
    }

    #[test]
    fn one_lost_packet_is_no_failure() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = socket.local_addr().unwrap();
        let answering = thread::spawn(move || {
            let mut buffer = [0; 512];
            socket.recv_from(&mut buffer).unwrap();
            let (size, from) = socket.recv_from(&mut buffer).unwrap();
            buffer[2] |= 0x80;
            socket.send_to(&buffer[..size], from).unwrap();
        });
        let report = StubClients { duration: Duration::from_millis(1), ..clients(server) }.run(&AtomicBool::new(false));
        answering.join().unwrap();
        let report = report.unwrap();
        assert_eq!((report.asked, report.second_tries, report.failed), (1, 1, 0), "{report:?}");
        assert_eq!(report.rcodes["NOERROR"], 1);
    }

    #[test]
    fn a_server_that_is_gone_fails_every_question() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        for tcp in [false, true] {
            let report = StubClients { tcp, ..clients(server) }.run(&AtomicBool::new(false)).unwrap();
            assert!(report.asked >= 4 && report.failed == report.asked, "{report:?}");
            assert_eq!(report.first_failed_ms, Some(0));
            assert!(report.last_error.is_some());
        }
    }
}
