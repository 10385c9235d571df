//! Servers named by `/etc/resolv.conf` (resolv.conf(5)).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;
use node_cache_config::Upstream;
use node_cache_config::names::DNS_PORT;
use node_cache_config::status::CAPTURED_UPSTREAM;

/// Path of the file.
pub(crate) const PATH: &str = "/etc/resolv.conf";
/// First word of a line that names a server.
const KEYWORD: &str = "nameserver";
/// Maximum number of lines that the problem of a file describes.
const MAX_DESCRIBED_LINES: usize = 8;
/// Maximum length of the text of such a line, in characters.
const MAX_DESCRIBED_CHARS: usize = 48;

/// Upstreams from a `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Servers that can be queried, in the order of the file.
    pub(crate) upstreams: Vec<Upstream>,
    /// Problem of the file, in one sentence; `None` if there is none.
    pub(crate) problem: Option<String>,
}

/// Reads the upstreams from the text of a `resolv.conf`, each once. Captured addresses are left out: queries to them
/// would come back to this tier. The problem names every line that is left out.
#[must_use]
pub(crate) fn read(text: &str, captured: &[IpAddr]) -> ResolvConf {
    read_with(text, captured, interface_index)
}

/// Returns [`read`] with this function from the name of an interface to its index.
fn read_with(text: &str, captured: &[IpAddr], interface_index: impl Fn(&str) -> Option<u32>) -> ResolvConf {
    let captured: HashSet<IpAddr> = captured.iter().map(IpAddr::to_canonical).collect();
    let mut usable: Vec<SocketAddr> = Vec::new();
    let mut rejected: Vec<String> = Vec::new();
    let mut unusable: Vec<String> = Vec::new();
    for line in nameserver_lines(text) {
        match line.address(&interface_index) {
            Ok(address) if captured.contains(&address.ip()) => {
                let address = address.ip().to_string();
                if !rejected.contains(&address) {
                    rejected.push(address);
                }
            }
            Ok(address) => {
                if !usable.contains(&address) {
                    usable.push(address);
                }
            }
            Err(fault) => unusable.push(line.describe(fault)),
        }
    }
    let problem = problem(&rejected, unusable, usable.is_empty());
    let upstreams = usable.into_iter().map(Upstream::from).collect();
    ResolvConf { upstreams, problem }
}

/// Returns the sentence about the captured addresses and the lines that are left out; `None` if there are none.
fn problem(rejected: &[String], mut unusable: Vec<String>, is_empty: bool) -> Option<String> {
    let mut clauses = Vec::new();
    if !rejected.is_empty() {
        let them = if rejected.len() == 1 { "it" } else { "them" };
        let addresses = rejected.join(" and ");
        clauses.push(format!("names {addresses}, {CAPTURED_UPSTREAM}: queries to {them} would come back to the tier"));
    }
    if !unusable.is_empty() {
        let omitted = unusable.len().saturating_sub(MAX_DESCRIBED_LINES);
        unusable.truncate(MAX_DESCRIBED_LINES);
        if omitted > 0 {
            unusable.push(format!("{omitted} more lines"));
        }
        clauses.push(format!("has lines that cannot be used: {}", unusable.join(", ")));
    }
    if is_empty && clauses.is_empty() {
        clauses.push("names no server that can be queried".to_owned());
    }
    let clauses = clauses.join("; it ");
    let advice = "correct it, or name the upstreams in spec.resolvers.upstreams";
    (!clauses.is_empty()).then(|| format!("{PATH} {clauses}; {advice}"))
}

/// Returns the servers of the `nameserver` lines, in the order of the file, with port 53. Link-local IPv6 addresses
/// have a zone (`fe80::1%eth0`, `fe80::1%2`). Lines that cannot be used are left out.
#[must_use]
pub(crate) fn nameservers(text: &str) -> Vec<SocketAddr> {
    nameserver_lines(text).filter_map(|line| line.address(interface_index).ok()).collect()
}

fn interface_index(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// Line that names a server, or was meant to.
struct NameserverLine<'a> {
    /// Number of the line in the file, from 1.
    number: usize,
    /// Word that stands for `nameserver`.
    keyword: &'a str,
    /// Address as it is written, without a comment; empty if there is none.
    address: &'a str,
}

/// Returns the lines whose first word is `nameserver`, also misspelt (`Nameserver`, `nameservers`, `nameserver:`).
fn nameserver_lines(text: &str) -> impl Iterator<Item = NameserverLine<'_>> {
    text.lines().zip(1..).filter_map(|(line, number)| {
        let mut words = line.trim_start_matches('\u{feff}').split_whitespace();
        let keyword = words.next().filter(|word| is_keyword(word))?;
        Some(NameserverLine { number, keyword, address: without_comment(words.next().unwrap_or_default()) })
    })
}

fn is_keyword(word: &str) -> bool {
    word.get(..KEYWORD.len()).is_some_and(|start| start.eq_ignore_ascii_case(KEYWORD))
}

/// Removes a comment that follows the address without a blank. A number there is a port in the notation of other
/// programs (`192.0.2.53#5353`), and stays.
fn without_comment(word: &str) -> &str {
    match word.split_once(['#', ';']) {
        Some((address, comment)) if comment.parse::<u16>().is_err() => address,
        _ => word,
    }
}

impl NameserverLine<'_> {
    /// Returns the server. Only link-local addresses need a zone, which is the index or the name of an interface (RFC
    /// 4007 §11); other IPv6 addresses lose theirs.
    ///
    /// # Errors
    ///
    /// The words that follow the line in a sentence.
    fn address(&self, interface_index: impl Fn(&str) -> Option<u32>) -> Result<SocketAddr, &'static str> {
        if self.keyword != KEYWORD {
            return Err("does not begin with the word nameserver");
        }
        if self.address.is_empty() {
            return Err("names no address");
        }
        let (address, zone) = match self.address.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (self.address, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            let names_port = address.replace('#', ":").parse::<SocketAddr>().is_ok()
                || address.split_once('#').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok());
            return Err(if names_port { "names a port, which resolv.conf cannot" } else { "is no IP address" });
        };
        match (address.to_canonical(), zone) {
            (address, _) if address.is_unspecified() => Err("is the unspecified address"),
            (address, _) if address.is_multicast() => Err("is a multicast address"),
            (IpAddr::V4(Ipv4Addr::BROADCAST), _) => Err("is the broadcast address"),
            (IpAddr::V4(_), Some(_)) => Err("is an IPv4 address with an interface"),
            (IpAddr::V6(address), Some(zone)) if address.is_unicast_link_local() => {
                let scope_id = zone.parse().ok().or_else(|| interface_index(zone)).filter(|id| *id != 0);
                let scope_id = scope_id.ok_or("names an interface that is not here")?;
                Ok(SocketAddrV6::new(address, DNS_PORT, 0, scope_id).into())
            }
            (IpAddr::V6(address), None) if address.is_unicast_link_local() => {
                Err("is a link-local address without its interface")
            }
            (address, _) => Ok(SocketAddr::new(address, DNS_PORT)),
        }
    }

    /// Returns the clause about the line, with its text in bounded length.
    fn describe(&self, fault: &str) -> String {
        let text = if self.keyword == KEYWORD { self.address } else { self.keyword };
        let text: String = text.chars().take(MAX_DESCRIBED_CHARS).collect();
        let text = if text.is_empty() { text } else { format!(" ({text})") };
        format!("line {}{text} {fault}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(servers: &ResolvConf) -> Vec<String> {
        servers.upstreams.iter().map(|upstream| upstream.address.to_string()).collect()
    }

    /// Reads a file on a host whose only interface is `eth0`, with the index 7.
    fn on_host_with_eth0(text: &str) -> ResolvConf {
        read_with(text, &[], |name| (name == "eth0").then_some(7))
    }

    #[test]
    fn the_servers_of_the_node_are_read_in_order() {
        let servers = read("# made by\nsearch example\nnameserver 169.254.169.253\nnameserver\t2001:db8::1\n", &[]);
        assert_eq!(addresses(&servers), ["169.254.169.253:53", "[2001:db8::1]:53"]);
        assert_eq!(servers.problem, None);
    }

    #[test]
    fn every_usual_way_to_write_a_server_is_understood() {
        for line in [
            "nameserver 192.0.2.53",
            "\tnameserver   192.0.2.53\t",
            "nameserver 192.0.2.53\r",
            "nameserver 192.0.2.53 # the router",
            "nameserver 192.0.2.53;the router",
            "nameserver 192.0.2.53#the router",
            "nameserver 192.0.2.53 198.51.100.1",
            "\u{feff}nameserver 192.0.2.53",
            "nameserver ::ffff:192.0.2.53",
            "nameserver 192.0.2.53\nnameserver 192.0.2.53\nnameserver ::ffff:192.0.2.53",
            "; nameserver 192.0.2.1\n# nameserver 192.0.2.2\noptions edns0\n\nnameserver 192.0.2.53",
        ] {
            let servers = read(line, &[]);
            assert_eq!(addresses(&servers), ["192.0.2.53:53"], "{line:?}");
            assert_eq!(servers.problem, None, "{line:?}");
        }
        assert_eq!(addresses(&read("nameserver 127.0.0.53\n", &[])), ["127.0.0.53:53"]);
    }

    #[test]
    fn every_captured_address_is_refused_as_an_upstream_and_reported() {
        let captured = ["10.96.0.10".parse().unwrap(), "fd96::a".parse().unwrap()];
        let servers = read("nameserver 10.96.0.10\nnameserver 192.0.2.53\n", &captured);
        assert_eq!(servers.upstreams.len(), 1);
        assert!(servers.problem.unwrap().starts_with("/etc/resolv.conf names 10.96.0.10, which this tier captures"));
        let both = read("nameserver fd96::a\nnameserver ::ffff:10.96.0.10\nnameserver 10.96.0.10\n", &captured);
        assert!(both.upstreams.is_empty());
        let problem = both.problem.unwrap();
        assert!(problem.starts_with("/etc/resolv.conf names fd96::a and 10.96.0.10, which"), "{problem}");
    }

    #[test]
    fn a_file_without_a_server_is_a_problem() {
        for text in ["", "search example\n", "nameserver nonsense\n"] {
            let servers = read(text, &[]);
            assert!(servers.upstreams.is_empty() && servers.problem.is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_used_is_reported_with_its_number_and_reason_beside_servers_that_can() {
        for (line, clause) in [
            ("nameserver", "line 2 names no address"),
            ("nameserver # none", "line 2 names no address"),
            ("nameserver dns.example", "line 2 (dns.example) is no IP address"),
            ("nameserver 127.1", "line 2 (127.1) is no IP address"),
            ("nameserver 192.0.2.1:5353", "line 2 (192.0.2.1:5353) names a port"),
            ("nameserver 192.0.2.1#5353", "line 2 (192.0.2.1#5353) names a port"),
            ("nameserver [2001:db8::1]:53", "line 2 ([2001:db8::1]:53) names a port"),
            ("nameserver 2001:db8::1#53", "line 2 (2001:db8::1#53) names a port"),
            ("nameserver 0.0.0.0", "line 2 (0.0.0.0) is the unspecified address"),
            ("nameserver ::", "line 2 (::) is the unspecified address"),
            ("nameserver 224.0.0.251", "line 2 (224.0.0.251) is a multicast address"),
            ("nameserver ff02::fb%eth0", "line 2 (ff02::fb%eth0) is a multicast address"),
            ("nameserver 255.255.255.255", "line 2 (255.255.255.255) is the broadcast address"),
            ("nameserver fe80::1", "line 2 (fe80::1) is a link-local address without its interface"),
            ("nameserver fe80::1%eth9", "line 2 (fe80::1%eth9) names an interface that is not here"),
            ("nameserver fe80::1%", "line 2 (fe80::1%) names an interface that is not here"),
            ("nameserver fe80::1%0", "line 2 (fe80::1%0) names an interface that is not here"),
            ("nameserver 10.0.0.1%eth0", "line 2 (10.0.0.1%eth0) is an IPv4 address with an interface"),
            ("nameservers 192.0.2.1", "line 2 (nameservers) does not begin with the word nameserver"),
            ("Nameserver 192.0.2.1", "line 2 (Nameserver) does not begin"),
            ("nameserver: 192.0.2.1", "line 2 (nameserver:) does not begin"),
        ] {
            let servers = on_host_with_eth0(&format!("nameserver 192.0.2.53\n{line}\n"));
            assert_eq!(addresses(&servers), ["192.0.2.53:53"], "{line}");
            let problem = servers.problem.unwrap_or_default();
            assert!(problem.starts_with("/etc/resolv.conf has lines that cannot be used: "), "{line}: {problem}");
            assert!(problem.contains(clause), "{line}: {problem}");
            let alone = on_host_with_eth0(line);
            assert!(alone.upstreams.is_empty() && alone.problem.is_some(), "{line}");
        }
    }

    #[test]
    fn several_lines_that_cannot_be_used_are_all_reported() {
        let captured = ["10.96.0.10".parse().unwrap()];
        let text = "nameserver 10.96.0.10\nnameserver a\nnameserver b\nnameserver fe80::1%gone0\nnameserver ::\n";
        let problem = read(text, &captured).problem.unwrap();
        for part in ["names 10.96.0.10", "line 2 (a)", "line 3 (b)", "line 4 (fe80::1%gone0)", "line 5 (::)"] {
            assert!(problem.contains(part), "{part}: {problem}");
        }
    }

    #[test]
    fn a_file_of_any_size_has_a_problem_of_bounded_length() {
        let line = format!("nameserver {}\n", "x".repeat(5_000));
        let problem = read(&line.repeat(1_000), &[]).problem.unwrap();
        assert!(problem.len() < 1_000 && problem.contains("992 more lines"), "{problem}");
    }

    #[test]
    fn a_link_local_address_keeps_its_interface_by_index_or_by_name() {
        let text = "nameserver fe80::1%2\nnameserver fe80::1%eth0\nnameserver febf::1%eth0 # last of fe80::/10\n";
        let servers = on_host_with_eth0(text);
        assert_eq!(addresses(&servers), ["[fe80::1%2]:53", "[fe80::1%7]:53", "[febf::1%7]:53"]);
        assert_eq!(servers.problem, None);
        let on_loopback: SocketAddr = SocketAddrV6::new("fe80::1".parse().unwrap(), DNS_PORT, 0, 1).into();
        assert_eq!(nameservers("nameserver fe80::1%lo"), [on_loopback]);
    }

    #[test]
    fn an_address_that_is_not_link_local_needs_no_interface() {
        for line in ["nameserver 2001:db8::1%eth0", "nameserver 2001:db8::1%gone0", "nameserver 2001:db8::1%3"] {
            let servers = on_host_with_eth0(line);
            assert_eq!((addresses(&servers), servers.problem), (vec!["[2001:db8::1]:53".to_owned()], None), "{line}");
        }
    }

    #[test]
    fn comments_and_indentation_are_understood() {
        let text =
            "nameserver 10.96.0.10 # cluster\n nameserver fd96::a\n# nameserver 192.0.2.1\nnameservers 192.0.2.2\n";
        assert_eq!(
            nameservers(text),
            ["10.96.0.10:53".parse().unwrap(), "[fd96::a]:53".parse::<SocketAddr>().unwrap()]
        );
    }
}
