//! Open-loop flood: one try for each query, at a steady rate, whatever becomes of earlier queries.
//!
//! No query is retried, so that every loss is counted. Queries are sent from a pool of connected sockets that are
//! replaced all the time, so that packet rules and connection tracking meet old and new flows.

mod pool;
mod tally;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

use crate::dns::Query;
use crate::names::NameCycle;
use pool::Pool;
use tally::Tally;

/// Time after which a query counts as lost. A little less than the retry interval of a pod (5 s, resolv.conf(5)): a
/// machine with too few processors for its cluster responds late, which is no loss.
pub const LOSS_TIMEOUT: Duration = Duration::from_millis(4500);
/// Longest duration of a flood: far above that of a test, so that only a flood that was left behind meets it.
pub const MAX_DURATION: Duration = Duration::from_secs(1_200);
/// Highest rate of a flood, in queries a second.
pub const MAX_RATE: u32 = 20_000;

/// Queries of a flood.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Servers, queried in turn.
    pub servers: Vec<SocketAddr>,
    /// Queries a second, at most [`MAX_RATE`].
    pub rate: u32,
    /// Duration, at most [`MAX_DURATION`].
    pub duration: Duration,
    /// Names, queried in turn for their A records; a first label `*` becomes a new one each time.
    pub names: Vec<Name>,
}

/// Result of a flood, as `ask flood --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Queries sent.
    pub sent: u64,
    /// Queries answered within [`LOSS_TIMEOUT`], whatever the response code.
    pub answered: u64,
    /// Queries not answered within [`LOSS_TIMEOUT`].
    pub lost: u64,
    /// ICMP errors "port unreachable". Those queries are lost, too.
    pub refused: u64,
    /// Packets that answer no pending query: duplicates and late responses.
    pub unexpected: u64,
    /// Responses by the mnemonic of their response code.
    pub rcodes: std::collections::BTreeMap<String, u64>,
    /// Longest time without any response, in milliseconds, from the first query on.
    pub max_gap_ms: u64,
    /// When the first lost query was sent, in milliseconds from the start.
    pub first_lost_ms: Option<u64>,
    /// When the last lost query was sent, in milliseconds from the start.
    pub last_lost_ms: Option<u64>,
}

impl Flood {
    /// Sends until the duration is over or `stop` is set, then waits for pending responses.
    ///
    /// # Errors
    /// When a socket cannot be made, or the flood has no server or name, or is too fast or too long.
    pub fn run(&self, stop: &AtomicBool) -> std::io::Result<Report> {
        self.check()?;
        let start = Instant::now();
        let end = start + self.duration;
        let mut pool = Pool::open(&self.servers)?;
        let mut tally = Tally::new(start);
        let mut queries = NameCycle::new(&self.names).map(|name| Query::new(name, RecordType::A));
        let interval = Duration::from_secs(1) / self.rate;
        let mut due = start;
        let mut is_sending = true;

        while is_sending || pool.has_pending() {
            let now = Instant::now();
            is_sending = is_sending && now < end && !stop.load(Ordering::Relaxed);
            while is_sending && due <= now {
                if let Some(query) = queries.next() {
                    pool.send(query, now, &mut tally)?;
                }
                due += interval;
            }
            pool.expire_sent_before(now.checked_sub(LOSS_TIMEOUT), &mut tally);
            let wait =
                if is_sending { due.saturating_duration_since(Instant::now()) } else { Duration::from_millis(5) };
            pool.receive(wait, &mut tally)?;
        }
        Ok(tally.report())
    }

    fn check(&self) -> std::io::Result<()> {
        let mistake = if self.servers.is_empty() || self.names.is_empty() {
            "a flood needs at least one server and one name".to_owned()
        } else if !(1..=MAX_RATE).contains(&self.rate) {
            format!("a flood sends 1 to {MAX_RATE} questions a second")
        } else if self.duration > MAX_DURATION {
            format!("a flood lasts {} s at most", MAX_DURATION.as_secs())
        } else {
            return Ok(());
        };
        Err(std::io::Error::other(mistake))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    /// Echoes every query with QR set, except one in `skip`.
    fn echo(skip: usize) -> (SocketAddr, std::sync::Arc<AtomicBool>, std::thread::JoinHandle<()>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let mut count = 0_usize;
            while !stopped.load(Ordering::Relaxed) {
                let Ok((size, from)) = socket.recv_from(&mut buffer) else { continue };
                count += 1;
                if !count.is_multiple_of(skip) {
                    buffer[2] |= 0x80;
                    socket.send_to(&buffer[..size], from).unwrap();
                }
            }
        });
        (address, stop, thread)
    }

    fn flood(server: SocketAddr) -> Flood {
        let names = vec![Name::from_ascii("a.example.").unwrap(), Name::from_ascii("b.example.").unwrap()];
        Flood { servers: vec![server], rate: 500, duration: Duration::from_secs(1), names }
    }

    #[test]
    fn every_question_is_either_answered_or_lost() {
        let (server, stop, thread) = echo(10);
        let report = flood(server).run(&AtomicBool::new(false)).unwrap();
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!((450..=500).contains(&report.sent), "{report:?}");
        assert_eq!(report.answered + report.lost, report.sent);
        assert_eq!(report.lost, report.sent / 10);
        assert_eq!(report.rcodes["NOERROR"], report.answered);
        assert!(report.first_lost_ms.unwrap() < report.last_lost_ms.unwrap());
    }

    #[test]
    fn a_port_where_nobody_listens_loses_everything() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let report = Flood { duration: Duration::from_millis(200), ..flood(server) }.run(&AtomicBool::new(false));
        let report = report.unwrap();
        assert_eq!((report.answered, report.lost), (0, report.sent));
        assert!(report.refused > 0 && report.sent > 50, "{report:?}");
    }

    #[test]
    fn a_flood_without_bounds_is_refused() {
        let too_fast = Flood { rate: MAX_RATE + 1, ..flood(([127, 0, 0, 1], 53).into()) };
        assert!(too_fast.run(&AtomicBool::new(false)).is_err());
        let too_long = Flood { duration: MAX_DURATION + Duration::from_secs(1), ..flood(([127, 0, 0, 1], 53).into()) };
        assert!(too_long.run(&AtomicBool::new(false)).is_err());
    }
}
