//! Asking for a name as a pod does, through its `/etc/resolv.conf`. `helm test` runs it.
//!
//! It shows that names are resolved, and by whom: by the caches of a tier or by somebody else.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use node_cache_config::names::DNS_PORT;

use crate::dns::codes::{class, rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Response, Section};

/// How long one try waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often each server is asked.
const TRIES: usize = 3;

/// A name that was resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The name as it was given.
    pub name: String,
    /// Its IPv4 addresses, then its IPv6 addresses; at least one.
    pub addresses: Vec<IpAddr>,
    /// Who answered.
    pub server: SocketAddr,
    /// What the server says of itself (`id.server. CH TXT`); nothing if it is no cache of a tier.
    pub identity: Vec<String>,
}

/// Why a name was not resolved.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// The name cannot be asked for.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is nobody to ask.
    #[error("resolv.conf names no server")]
    NoServer,
    /// Nobody answered; what the last server did.
    #[error("{server} does not answer: {source}")]
    Silent {
        /// The server.
        server: SocketAddr,
        /// What became of the last try.
        source: io::Error,
    },
    /// There is no address.
    #[error("{server} knows no address of {name} (response code {rcode})")]
    NoAddress {
        /// The server.
        server: SocketAddr,
        /// The name as it was given.
        name: String,
        /// The code of its answer.
        rcode: u16,
    },
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(IpAddr::to_string).collect();
        write!(f, "{} is {}, says {}", self.name, addresses.join(", "), self.server.ip())?;
        if self.identity.is_empty() {
            write!(f, ", which is no cache of a DnsTier")
        } else {
            write!(f, ", which is {}", self.identity.join(" "))
        }
    }
}

/// Resolves a full name at the servers of a `resolv.conf`, the first of which that answers counts.
///
/// # Errors
///
/// [`Unresolved`] when no server answers, or the one that does knows no address.
pub fn resolve(name: &str, resolv_conf: &str) -> Result<Resolved, Unresolved> {
    let servers: Vec<_> = nameservers(resolv_conf).map(|address| SocketAddr::new(address, DNS_PORT)).collect();
    resolve_at(name, &servers)
}

fn resolve_at(name: &str, servers: &[SocketAddr]) -> Result<Resolved, Unresolved> {
    let wanted = Name::from_text(name)?;
    let mut last = Unresolved::NoServer;
    for server in (0..TRIES).flat_map(|_| servers) {
        let ask = |rtype| ask(*server, &Question::plain(&wanted, rtype));
        match ask(rtype::A).and_then(|four| Ok((four, ask(rtype::AAAA)?))) {
            Ok((four, six)) => {
                let addresses: Vec<_> = [&four, &six].into_iter().flat_map(addresses).collect();
                if addresses.is_empty() {
                    return Err(Unresolved::NoAddress { server: *server, name: name.to_owned(), rcode: four.rcode() });
                }
                let identity = identity(*server);
                return Ok(Resolved { name: name.to_owned(), addresses, server: *server, identity });
            }
            Err(source) => last = Unresolved::Silent { server: *server, source },
        }
    }
    Err(last)
}

/// The servers that a `resolv.conf` names (resolv.conf(5)).
fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
}

fn identity(server: SocketAddr) -> Vec<String> {
    let Ok(name) = Name::from_text("id.server") else { return Vec::new() };
    let question = Question { class: class::CH, ..Question::plain(&name, rtype::TXT) };
    ask(server, &question).map(|response| strings(&response)).unwrap_or_default()
}

/// One question over UDP; the answers that are asked for here are short.
fn ask(server: SocketAddr, question: &Question) -> io::Result<Response> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let id = rand::random();
    socket.send(&question.to_wire(id, true))?;
    let deadline = Instant::now() + PATIENCE;
    let mut packet = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut packet) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        };
        if let Ok(response) = Response::read(&packet[..length], id, question) {
            return Ok(response);
        }
    }
}

/// The data of the records of a type in the answer section.
fn answers(response: &Response, wanted: u16) -> impl Iterator<Item = &[u8]> {
    let usable = response.rcode() == rcode::NOERROR;
    let records = response.records().into_iter();
    let records = records.filter(move |record| usable && record.section == Section::Answer && record.rtype == wanted);
    records.filter_map(|record| response.wire().get(record.data))
}

fn addresses(response: &Response) -> Vec<IpAddr> {
    let four = answers(response, rtype::A).filter_map(|data| Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)));
    let six = answers(response, rtype::AAAA).filter_map(|data| Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)));
    four.chain(six).collect()
}

/// The character-strings of the first TXT record.
fn strings(response: &Response) -> Vec<String> {
    let mut strings = Vec::new();
    let mut data = answers(response, rtype::TXT).next().unwrap_or_default();
    while let Some((length, rest)) = data.split_first() {
        let Some((string, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        strings.push(String::from_utf8_lossy(string).into_owned());
        data = rest;
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Header;

    /// A server that answers each question by what `answer` makes of its type.
    fn server(answer: impl Fn(u16) -> (u16, Vec<(u16, u32, Vec<u8>)>) + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut packet) {
                let header = Header::read(&packet[..length]).unwrap();
                let (name, end) = Name::read_uncompressed(&packet[..length], Header::LENGTH).unwrap();
                let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
                let question = Question { class: number(end + 2), ..Question::plain(&name, number(end)) };
                let (code, records) = answer(question.rtype);
                let mut wire = Response::with_records(&question, code, &records).wire().to_vec();
                wire[..2].copy_from_slice(&header.id.to_be_bytes());
                socket.send_to(&wire, client).unwrap();
            }
        });
        address
    }

    #[test]
    fn a_name_is_resolved_and_the_server_named() {
        let address = server(|rtype| match rtype {
            rtype::A => (rcode::NOERROR, vec![(rtype::A, 5, vec![10, 96, 0, 1])]),
            rtype::TXT => (rcode::NOERROR, vec![(rtype::TXT, 0, b"\x10instance=cache-0\x06node=a".to_vec())]),
            _ => (rcode::NOERROR, Vec::new()),
        });
        let resolved = resolve_at("kubernetes.default.svc.cluster.local", &[address]).unwrap();
        assert_eq!(
            resolved.to_string(),
            "kubernetes.default.svc.cluster.local is 10.96.0.1, says 127.0.0.1, which is instance=cache-0 node=a"
        );
    }

    #[test]
    fn a_name_without_address_is_a_failure() {
        let address = server(|_| (rcode::NXDOMAIN, Vec::new()));
        let error = resolve_at("none.example", &[address]).unwrap_err();
        assert!(matches!(error, Unresolved::NoAddress { rcode: rcode::NXDOMAIN, .. }), "{error}");
    }

    #[test]
    fn the_next_server_is_asked_when_one_is_silent() {
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let there = server(|_| (rcode::NOERROR, vec![(rtype::A, 5, vec![192, 0, 2, 1])]));
        assert_eq!(resolve_at("a.example", &[gone, there]).unwrap().server, there);
    }

    #[test]
    fn without_a_server_nothing_is_resolved() {
        assert!(matches!(resolve("a.example", "search x\n"), Err(Unresolved::NoServer)));
        let both: Vec<_> = nameservers("nameserver 10.96.0.10\n nameserver fd96::a\n# nameserver 1.1.1.1\n").collect();
        assert_eq!(both, ["10.96.0.10".parse::<IpAddr>().unwrap(), "fd96::a".parse().unwrap()]);
    }
}
