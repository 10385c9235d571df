//! `ask`: resolves a name as a pod does, through `/etc/resolv.conf`, and tells which server responded. `helm test` runs it.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::ProgramError;
use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Response};
use crate::stub_client::{StubClient, StubError, answer_data};
use crate::upstream::discovery::resolv_conf;

/// Time that one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Tries for each server.
const TRIES: usize = 3;

/// Resolve a name as any pod does and say which server responded
#[derive(Clone, Debug, Args)]
pub(super) struct Ask {
    /// The full name
    name: String,
}

impl Ask {
    /// Queries the servers of this pod's `/etc/resolv.conf` and prints a sentence.
    pub(super) async fn run(&self) -> Result<(), ProgramError> {
        let resolv_conf = std::fs::read_to_string(resolv_conf::PATH).unwrap_or_default();
        let resolved = resolve(&self.name, &resolv_conf::nameservers(&resolv_conf)).await?;
        writeln!(std::io::stdout(), "{resolved}").map_err(ProgramError::Output)
    }
}

/// Addresses of a name, and the server that gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ResolvedName {
    /// The name as it was given.
    name: String,
    /// IPv4 addresses, then IPv6 addresses; at least one.
    addresses: Vec<IpAddr>,
    /// Server that responded.
    server: SocketAddr,
    /// Identity of the server (`id.server CH TXT`); empty if it is no cache of a tier.
    identity: Vec<String>,
}

/// Failure to resolve a name.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no server.
    #[error("resolv.conf names no server")]
    NoServer,
    /// No server responded.
    #[error("{server} does not answer: {source}")]
    Silent {
        /// The last server that was tried.
        server: SocketAddr,
        /// Failure of the last try.
        source: StubError,
    },
    /// The name has no address.
    #[error("{server} knows no address of {name} (response code {rcode})")]
    NoAddress {
        /// Server that responded.
        server: SocketAddr,
        /// The name as it was given.
        name: String,
        /// Its response code.
        rcode: u16,
    },
}

impl fmt::Display for ResolvedName {
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

/// Resolves a full name through the first of these servers that responds.
async fn resolve(name: &str, servers: &[SocketAddr]) -> Result<ResolvedName, AskError> {
    let qname = Name::from_text(name)?;
    let mut last_error = AskError::NoServer;
    for server in (0..TRIES).flat_map(|_| servers) {
        let client = StubClient::new(*server).with_edns();
        match query_addresses(&client, &qname).await {
            Ok((ipv4, ipv6)) => {
                let addresses: Vec<_> = [&ipv4, &ipv6].into_iter().flat_map(addresses).collect();
                if addresses.is_empty() {
                    return Err(AskError::NoAddress { server: *server, name: name.to_owned(), rcode: ipv4.rcode() });
                }
                let identity = client.query_identity(TRY_TIMEOUT).await.unwrap_or_default();
                return Ok(ResolvedName { name: name.to_owned(), addresses, server: *server, identity });
            }
            Err(source) => last_error = AskError::Silent { server: *server, source },
        }
    }
    Err(last_error)
}

/// Returns the responses for A and for AAAA.
async fn query_addresses(client: &StubClient, name: &Name) -> Result<(Response, Response), StubError> {
    let ipv4 = client.query_udp(&Question::plain(name, rtype::A), TRY_TIMEOUT).await?;
    let ipv6 = client.query_udp(&Question::plain(name, rtype::AAAA), TRY_TIMEOUT).await?;
    Ok((ipv4, ipv6))
}

fn addresses(response: &Response) -> Vec<IpAddr> {
    if response.rcode() != rcode::NOERROR {
        return Vec::new();
    }
    let ipv4 = answer_data(response, rtype::A).filter_map(|data| Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)));
    let ipv6 =
        answer_data(response, rtype::AAAA).filter_map(|data| Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)));
    ipv4.chain(ipv6).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::dns::Header;

    /// A server that answers each query by what `answer` returns for its type.
    fn server(answer: impl Fn(u16) -> (u16, Vec<(u16, u32, Vec<u8>)>) + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut packet) {
                let header = Header::read(&packet[..length]).unwrap();
                let (name, end) = Name::read_uncompressed(&packet[..length], Header::LENGTH).unwrap();
                let u16_at = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
                let question = Question { class: u16_at(end + 2), ..Question::plain(&name, u16_at(end)) };
                let (code, records) = answer(question.rtype);
                let mut wire = Response::with_records(&question, code, &records).wire().to_vec();
                wire[..2].copy_from_slice(&header.id.to_be_bytes());
                socket.send_to(&wire, client).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_name_is_resolved_and_the_server_named() {
        let address = server(|rtype| match rtype {
            rtype::A => (rcode::NOERROR, vec![(rtype::A, 5, vec![10, 96, 0, 1])]),
            rtype::TXT => (rcode::NOERROR, vec![(rtype::TXT, 0, b"\x10instance=cache-0\x06node=a".to_vec())]),
            _ => (rcode::NOERROR, Vec::new()),
        });
        let resolved = resolve("kubernetes.default.svc.cluster.local", &[address]).await.unwrap();
        assert_eq!(
            resolved.to_string(),
            "kubernetes.default.svc.cluster.local is 10.96.0.1, says 127.0.0.1, which is instance=cache-0 node=a"
        );
    }

    #[tokio::test]
    async fn a_name_without_address_is_a_failure() {
        let address = server(|_| (rcode::NXDOMAIN, Vec::new()));
        let error = resolve("none.example", &[address]).await.unwrap_err();
        assert!(matches!(error, AskError::NoAddress { rcode: rcode::NXDOMAIN, .. }), "{error}");
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_silent() {
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let there = server(|_| (rcode::NOERROR, vec![(rtype::A, 5, vec![192, 0, 2, 1])]));
        assert_eq!(resolve("a.example", &[gone, there]).await.unwrap().server, there);
    }

    #[tokio::test]
    async fn without_a_server_nothing_is_resolved() {
        let none = resolv_conf::nameservers("search x\n");
        assert!(matches!(resolve("a.example", &none).await, Err(AskError::NoServer)));
        let both = resolv_conf::nameservers("nameserver 10.96.0.10\n nameserver fd96::a\n# nameserver 1.1.1.1\n");
        let both: Vec<IpAddr> = both.iter().map(SocketAddr::ip).collect();
        assert_eq!(both, ["10.96.0.10".parse::<IpAddr>().unwrap(), "fd96::a".parse().unwrap()]);
    }
}
