//! Sockets of other processes that are bound to port 53 of a captured address, and so take a share of its queries.
//!
//! A root process on the host's network can bind beside the agent (`SO_REUSEPORT`). Nothing prevents that; the kernel's
//! tables of sockets show it. Agents of two pods overlap for a moment when one replaces the other: a socket counts only
//! once it was seen several times in a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;

use node_cache_config::names::DNS_PORT;

use crate::handover::{HeldSocket, Protocol};

/// Looks in a row that must show a socket before it is reported.
const LOOKS_BEFORE_REPORT: u32 = 3;
/// Tables of the kernel.
const TABLES: [(&str, Protocol); 4] = [
    ("/proc/net/udp", Protocol::Udp),
    ("/proc/net/udp6", Protocol::Udp),
    ("/proc/net/tcp", Protocol::Tcp),
    ("/proc/net/tcp6", Protocol::Tcp),
];
/// State of a UDP socket without a peer (`TCP_CLOSE`).
const UNCONNECTED: &str = "07";
/// State of a TCP listener (`TCP_LISTEN`).
const LISTENING: &str = "0A";

/// Socket that receives queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BoundSocket {
    address: IpAddr,
    protocol: Protocol,
    inode: u64,
    /// User that made the socket.
    uid: u32,
}

/// Sockets of others at captured addresses, each with the number of looks in a row that showed it.
#[derive(Debug, Default)]
pub(super) struct ForeignSockets(BTreeMap<BoundSocket, u32>);

impl ForeignSockets {
    /// Records one look at the tables: all sockets of port 53, and those of the agent.
    pub(super) fn record(&mut self, bound: &[BoundSocket], held: &[HeldSocket]) {
        let addresses: BTreeSet<IpAddr> = held.iter().map(|socket| socket.address).collect();
        let own: BTreeSet<u64> = held.iter().filter_map(inode).collect();
        let foreign = bound.iter().filter(|socket| addresses.contains(&socket.address) && !own.contains(&socket.inode));
        self.record_foreign(foreign.copied());
    }

    fn record_foreign(&mut self, foreign: impl Iterator<Item = BoundSocket>) {
        let looks = |socket: &BoundSocket| self.0.get(socket).copied().unwrap_or(0).saturating_add(1);
        self.0 = foreign.map(|socket| (socket, looks(&socket))).collect();
    }

    /// Returns in one sentence which process takes queries of an address; `None` while none is known.
    pub(super) fn problem(&self, address: IpAddr) -> Option<String> {
        let is_reported =
            |(socket, looks): &(&BoundSocket, &u32)| socket.address == address && **looks >= LOOKS_BEFORE_REPORT;
        let (BoundSocket { protocol, uid, .. }, _) = self.0.iter().find(is_reported)?;
        Some(format!(
            "another process (user {uid}) has bound a socket to port {DNS_PORT} of this address ({protocol:?}) and \
             takes a share of the queries"
        ))
    }
}

fn inode(socket: &HeldSocket) -> Option<u64> {
    let file = File::from(socket.fd.try_clone().ok()?);
    file.metadata().ok().map(|metadata| metadata.ino())
}

/// Reads the sockets of this network namespace that receive at port 53 of one address. Blocks. A table that is missing
/// has none.
pub(super) fn read_bound_sockets() -> Vec<BoundSocket> {
    let mut sockets = Vec::new();
    for (path, protocol) in TABLES {
        let Ok(file) = File::open(path) else { continue };
        let lines = BufReader::new(file).lines().skip(1).map_while(Result::ok);
        // Listeners are the first of a TCP table, which may hold very many connections.
        let is_listener = |line: &String| line.split_whitespace().nth(3) == Some(LISTENING);
        let lines = lines.take_while(|line| protocol == Protocol::Udp || is_listener(line));
        sockets.extend(lines.filter_map(|line| parse_line(&line, protocol)));
    }
    sockets
}

/// Parses a line of a table; `None` for a socket of another port, with a peer, or of all addresses.
fn parse_line(line: &str, protocol: Protocol) -> Option<BoundSocket> {
    let mut fields = line.split_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let receives = match protocol {
        Protocol::Udp => state == UNCONNECTED,
        Protocol::Tcp => state == LISTENING,
    };
    if !receives || u16::from_str_radix(port, 16).ok()? != DNS_PORT {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let address = parse_address(address).filter(|address| !address.is_unspecified())?;
    Some(BoundSocket { address, protocol, inode, uid })
}

/// Parses an address: words of 32 bits, each as the number that its octets are in memory.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(8 * index..8 * (index + 1))?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout";

    fn line(local: &str, peer: &str, state: &str) -> String {
        format!("  12: {local} {peer} {state} 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0")
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_that_receive_at_port_53_of_one_address_are_read_from_the_tables() {
        let none = "00000000:0000";
        let udp = parse_line(&line("0A14FEA9:0035", none, "07"), Protocol::Udp).unwrap();
        assert_eq!((udp.address, udp.inode, udp.uid), ("169.254.20.10".parse().unwrap(), 4711, 0));
        let v6 = line("000096FD00000000000000000A000000:0035", none, "0A");
        let tcp = parse_line(&v6, Protocol::Tcp).unwrap();
        assert_eq!(tcp.address, "fd96::a".parse::<IpAddr>().unwrap());
        for (local, state, protocol) in [
            ("0A14FEA9:0036", "07", Protocol::Udp),
            ("0A14FEA9:0035", "01", Protocol::Udp),
            ("0A14FEA9:0035", "01", Protocol::Tcp),
            ("00000000:0035", "07", Protocol::Udp),
            ("0A14FE:0035", "07", Protocol::Udp),
        ] {
            assert_eq!(parse_line(&line(local, none, state), protocol), None, "{local} {state}");
        }
        assert_eq!(parse_line(HEADER, Protocol::Udp), None);
        assert_eq!(parse_line("", Protocol::Tcp), None);
    }

    #[test]
    fn a_socket_is_reported_once_it_was_seen_three_times_in_a_row() {
        let address: IpAddr = "169.254.20.10".parse().unwrap();
        let socket = BoundSocket { address, protocol: Protocol::Udp, inode: 4711, uid: 0 };
        let mut foreign = ForeignSockets::default();
        for seen in [true, true, false, true, true] {
            foreign.record_foreign(seen.then_some(socket).into_iter());
            assert_eq!(foreign.problem(address), None);
        }
        foreign.record_foreign([socket].into_iter());
        assert_eq!(
            foreign.problem(address).unwrap(),
            "another process (user 0) has bound a socket to port 53 of this address (Udp) and takes a share of the \
             queries"
        );
        assert_eq!(foreign.problem("10.96.0.10".parse().unwrap()), None);
        foreign.record_foreign(std::iter::empty());
        assert_eq!(foreign.problem(address), None);
    }
}
