//! Questions that the agent asks the caches of its own pod through a captured address.
//!
//! They carry the packet mark whose rule is always there, so they reach the caches while everybody else's questions
//! still go to the Service. Only an answer with this pod's UID counts: with a rule missing, the cluster DNS would
//! answer as well.

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use node_cache_config::names::DNS_PORT;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{sleep, timeout};

use super::rules::MARK;
use crate::dns::codes::{class, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Response, Section};

/// How long the caches have for their identity, the second try included.
const PATIENCE: Duration = Duration::from_millis(500);
/// When a datagram is sent a second time.
const SECOND_TRY: Duration = Duration::from_millis(200);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 4096;

/// Why an address does not count as answered by this pod.
#[derive(Debug, thiserror::Error)]
pub enum SelfQueryError {
    /// Nothing came.
    #[error("the caches of this pod do not answer")]
    Silent,
    /// An answer without the identity of this pod.
    #[error("somebody else than this pod answers")]
    Stranger,
    /// The question could not be sent, or was refused.
    #[error("the caches of this pod cannot be asked: {0}")]
    Io(#[from] io::Error),
    /// What is asked for is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Asks for the identity of whoever answers.
#[derive(Clone, Debug)]
pub struct SelfQuery {
    question: Question,
    /// The character-string that tells this pod from every other one.
    own: Vec<u8>,
}

impl SelfQuery {
    /// An asker for the pod with this UID.
    ///
    /// # Errors
    ///
    /// None; the name that is asked for is one.
    pub fn new(pod_uid: &str) -> Result<Self, NameError> {
        let question = Question { class: class::CH, ..Question::plain(&Name::from_text("id.server")?, rtype::TXT) };
        Ok(Self { question, own: format!("pod={pod_uid}").into_bytes() })
    }

    /// Whether this pod answers at an address, over UDP and if wanted over TCP as well.
    ///
    /// # Errors
    ///
    /// [`SelfQueryError`] says why not.
    pub async fn is_served(&self, address: IpAddr, over_tcp: bool) -> Result<(), SelfQueryError> {
        self.check(timeout(PATIENCE, ask_udp(address, &self.question)).await)?;
        if over_tcp {
            self.check(timeout(PATIENCE, ask_tcp(address, &self.question)).await)?;
        }
        Ok(())
    }

    fn check(
        &self,
        answered: Result<Result<Response, SelfQueryError>, tokio::time::error::Elapsed>,
    ) -> Result<(), SelfQueryError> {
        let response = answered.map_err(|_| SelfQueryError::Silent)??;
        if is_of(&response, &self.own) { Ok(()) } else { Err(SelfQueryError::Stranger) }
    }
}

/// Asks the caches through an address for records of the internet, as a pod would.
///
/// # Errors
///
/// [`SelfQueryError`] when nothing comes in time.
pub async fn ask_name(address: IpAddr, name: &str, rtype: u16, patience: Duration) -> Result<Response, SelfQueryError> {
    let question = Question::plain(&Name::from_text(name)?, rtype);
    timeout(patience, ask_udp(address, &question)).await.map_err(|_| SelfQueryError::Silent)?
}

async fn ask_udp(address: IpAddr, question: &Question) -> Result<Response, SelfQueryError> {
    let socket = udp_socket(address)?;
    let id = rand::random();
    let message = question.to_wire(id, false);
    socket.send(&message).await?;
    let heard = async {
        let mut bytes = [0; MAX_ANSWER];
        loop {
            let length = socket.recv(&mut bytes).await?;
            if let Ok(response) = Response::read(&bytes[..length], id, question) {
                return Ok(response);
            }
        }
    };
    let asked_again = async {
        sleep(SECOND_TRY).await;
        match socket.send(&message).await {
            Ok(_) => pending().await,
            Err(error) => Err(error.into()),
        }
    };
    tokio::select! {
        heard = heard => heard,
        failed = asked_again => failed,
    }
}

async fn ask_tcp(address: IpAddr, question: &Question) -> Result<Response, SelfQueryError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    SockRef::from(&socket).set_mark(MARK)?;
    let mut stream = socket.connect(SocketAddr::new(address, DNS_PORT)).await?;
    let id = rand::random();
    let message = question.to_wire(id, false);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Response::read(&bytes, id, question).map_err(|_| SelfQueryError::Stranger)
}

fn udp_socket(address: IpAddr) -> io::Result<UdpSocket> {
    let server = SocketAddr::new(address, DNS_PORT);
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.set_mark(MARK)?;
    let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    // Connected: only the address that was asked is heard, and a refusal is an error at once.
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

/// Whether one of the character-strings of the answer (RFC 1035 §3.3.14) is this one.
fn is_of(response: &Response, own: &[u8]) -> bool {
    let records = response.records().into_iter();
    let texts = records.filter(|record| record.section == Section::Answer && record.rtype == rtype::TXT);
    texts.filter_map(|record| response.wire().get(record.data)).any(|data| has_string(data, own))
}

fn has_string(mut data: &[u8], wanted: &[u8]) -> bool {
    while let Some((&length, rest)) = data.split_first() {
        let Some((string, rest)) = rest.split_at_checked(length.into()) else { return false };
        if string == wanted {
            return true;
        }
        data = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::rcode;

    #[test]
    fn only_the_uid_of_this_pod_counts() {
        let asker = SelfQuery::new("2b1d").unwrap();
        let is_own = |strings: &[&str]| {
            let data = strings.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect();
            let record = (rtype::TXT, 0, data);
            is_of(&Response::with_records(&asker.question, rcode::NOERROR, &[record]), &asker.own)
        };
        assert!(is_own(&["instance=cache-0", "node=a", "pod=2b1d"]));
        assert!(!is_own(&["instance=cache-0", "node=a", "pod=2b1d0"]));
        assert!(!is_own(&["instance=pod=2b1d"]));
        assert!(!is_own(&[]));
        assert!(!is_of(&Response::empty(&asker.question, rcode::REFUSED), &asker.own));
        assert!(!has_string(b"\x09pod=2b1d", b"pod=2b1d"), "a string that is cut off");
    }
}
