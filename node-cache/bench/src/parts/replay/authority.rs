//! Authoritative server of the world, a process of its own: it knows every name by rule, and delegates a tenth of the
//! domains to an address that answers nothing. Beside it the cluster DNS, which knows the zone resolvers.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::answer::dead_domain;
use super::network::{AUTHORITY, CLUSTER_DNS, DEAD, RESOLVERS_PER_NODE, resolver_address};
use crate::parts::traces::mail;
use crate::servers::upstream::write_response;

const HEADER: usize = 12;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_AVAILABLE: u8 = 0x80;
/// TTL of a delegation in seconds.
const DELEGATION_TTL: u32 = 3600;
/// TTL of the records of zone resolvers in seconds.
const SERVICE_TTL: u32 = 30;
/// Port of zone resolvers.
pub(super) const RESOLVER_PORT: u16 = 1053;
/// Receive buffer of a socket, in bytes: queries of more than a second.
const RECEIVE_BUFFER: usize = 16 << 20;
const NS: u16 = 2;
const SRV: u16 = 33;
/// Type SRV and class IN.
const SRV_IN: [u8; 4] = [0, 33, 0, 1];

/// Answers queries until the process is killed.
pub(crate) fn serve() {
    thread::spawn(|| answer_all(&UdpSocket::bind(CLUSTER_DNS).unwrap(), cluster_response));
    answer_all(&UdpSocket::bind((AUTHORITY, 53)).unwrap(), response);
}

fn answer_all(socket: &UdpSocket, response: fn(&[u8], &mut Vec<u8>) -> bool) {
    // A query that is lost here would be a failure of the provider that no cast can help.
    let _ = setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER);
    let mut query = [0; 1472];
    let mut out = Vec::with_capacity(1472);
    loop {
        let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
        if response(&query[..length], &mut out) {
            let _ = socket.send_to(&out, client);
        }
    }
}

/// Writes the response to a query; returns false when the packet is none.
fn response(query: &[u8], out: &mut Vec<u8>) -> bool {
    if !write_response(query, mail::answer, out) {
        return false;
    }
    out[3] &= !RECURSION_AVAILABLE;
    let name = name(query);
    if name.is_empty() {
        write_root_servers(query, out);
        return true;
    }
    let Some(offset) = dead_domain(&name) else {
        out[2] |= AUTHORITATIVE;
        return true;
    };
    out.truncate(HEADER + name.len() + 5);
    out[3] &= !0xf;
    out[6..12].copy_from_slice(&[0, 0, 0, 1, 0, 1]);
    let domain = [0xc0, (HEADER + offset) as u8];
    let server = [b"\x02ns", &domain[..]].concat();
    append(out, &domain, NS, DELEGATION_TTL, &server);
    append(out, &server, 1, DELEGATION_TTL, &DEAD);
    true
}

/// Writes the response to a query for the root: the authoritative server is the only root server, as resolvers find out
/// before their first query.
fn write_root_servers(query: &[u8], out: &mut Vec<u8>) {
    const SERVER: &[u8] = b"\x02ns\x07network\x07example\0";
    let address: Ipv4Addr = AUTHORITY.parse().unwrap();
    out.truncate(HEADER + 5);
    out[2] |= AUTHORITATIVE;
    let is_ns = query[HEADER + 1..HEADER + 3] == NS.to_be_bytes();
    out[6..12].copy_from_slice(&[0, u8::from(is_ns), 0, 0, 0, u8::from(is_ns)]);
    if is_ns {
        append(out, &[0], NS, DELEGATION_TTL, SERVER);
        append(out, SERVER, 1, DELEGATION_TTL, &address.octets());
    }
}

/// Writes the SRV records of the resolvers of a zone, and their addresses; NXDOMAIN for any other question.
fn cluster_response(query: &[u8], out: &mut Vec<u8>) -> bool {
    let name = name(query);
    let end = HEADER + name.len() + 5;
    let Some(question) = query.get(..end) else { return false };
    out.clear();
    out.extend_from_slice(question);
    let Some(zone) = zone_of(&name).filter(|_| question.ends_with(&SRV_IN)) else {
        out[2..12].copy_from_slice(&[0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
        return true;
    };
    let count = RESOLVERS_PER_NODE as u8;
    out[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, count]);
    let target = |resolver: usize| [b"\x01", &[b'0' + resolver as u8][..], b"\x03pod\0"].concat();
    for resolver in 0..RESOLVERS_PER_NODE {
        let data = [&[0, 0, 0, 0], &RESOLVER_PORT.to_be_bytes()[..], &target(resolver)].concat();
        append(out, &[0xc0, HEADER as u8], SRV, SERVICE_TTL, &data);
    }
    for resolver in 0..RESOLVERS_PER_NODE {
        let address: Ipv4Addr = resolver_address(zone, resolver).parse().unwrap();
        append(out, &target(resolver), 1, SERVICE_TTL, &address.octets());
    }
    true
}

/// Returns the number of a zone in the name of its Service.
fn zone_of(name: &[u8]) -> Option<usize> {
    let place = name.windows(6).position(|window| window == b"\x06zone-")?;
    Some(usize::from(name.get(place + 6)?.checked_sub(b'a')?))
}

/// Returns the name of the question in lower case, without its final zero; empty where there is none.
fn name(query: &[u8]) -> Vec<u8> {
    let rest = query.get(HEADER..).unwrap_or_default();
    let length = rest.iter().position(|octet| *octet == 0).unwrap_or_default();
    rest[..length].to_ascii_lowercase()
}

fn append(out: &mut Vec<u8>, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) {
    out.extend_from_slice(owner);
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use node_cache::dns::question::Question;
    use node_cache::dns::{Name, Response};

    use super::{SRV, cluster_response, response};

    fn ask(name: &str, rtype: u16, server: fn(&[u8], &mut Vec<u8>) -> bool) -> Vec<u8> {
        let question = Question::plain(&Name::from_text(name).unwrap(), rtype);
        let mut out = Vec::new();
        assert!(server(&question.to_wire(7, false), &mut out), "{name}");
        out
    }

    #[test]
    fn a_domain_answers_itself_or_is_delegated_to_nobody() {
        let alive = ask("_dmarc.domain000007.example", 16, response);
        assert_eq!((alive[2] & 4, alive[3] & 0x80), (4, 0), "authoritative, no recursion");
        let dead = ask("_dmarc.domain000019.example", 16, response);
        assert_eq!((dead[2] & 4, dead[3] & 0xf, &dead[6..12]), (0, 0, &[0, 0, 0, 1, 0, 1][..]));
        assert!(dead.ends_with(&[0, 4, 192, 0, 2, 200]));
        // Where the domain begins in the question, behind `_dmarc`.
        assert_eq!(dead[dead.len() - 16..dead.len() - 14], [0xc0, 19]);
    }

    #[test]
    fn the_root_has_one_server() {
        let root = ask(".", 2, response);
        let question = Question::plain(&Name::from_text(".").unwrap(), 2);
        assert_eq!(Response::read(&root, 7, &question).unwrap().records().len(), 2);
        assert!(root.ends_with(&[0, 4, 192, 0, 2, 1]));
    }

    #[test]
    fn the_cluster_dns_denies_other_names() {
        let denied = ask("_dns._udp.pods.kube-system.svc.cluster.local", SRV, cluster_response);
        assert_eq!((denied[3] & 0xf, &denied[6..12]), (3, &[0; 6][..]));
    }

    #[test]
    fn the_cluster_dns_names_both_resolvers_of_a_zone() {
        let name = "_dns._udp.zone-b.dnstier-system.svc.cluster.local";
        let wire = ask(name, SRV, cluster_response);
        let question = Question::plain(&Name::from_text(name).unwrap(), SRV);
        assert_eq!(Response::read(&wire, 7, &question).unwrap().records().len(), 4);
        assert!(wire.windows(4).any(|octets| octets == [10, 88, 0, 13]));
    }
}
