//! Trace of a mail server: its queries for each message.

use super::random::{Random, hash};
use super::ttl;
use super::zipf::Zipf;
use crate::load::queries;
use crate::servers::upstream::Answer;

/// Clients that come again, and providers that SPF policies include.
const SENDERS: usize = 100_000;
const PROVIDERS: usize = 1_000;
/// Block lists that are queried for one message.
const MIN_LISTS: u64 = 5;
const MAX_LISTS: u64 = 15;
/// Percentage of addresses that are on a block list.
const LISTED_PERCENT: u64 = 5;
const SEED: u64 = 19_820_813;

const A: u16 = 1;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// Names of domains and of block lists.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming {
    /// All domains are below one registered domain, and all block lists below another one. Published hit rates are
    /// those of this trace.
    Together,
    /// Each domain and each block list is a registered domain, as on the internet.
    Registered,
}

impl Naming {
    const fn suffixes(self) -> [&'static str; 2] {
        match self {
            Self::Together => [".mail.example", ".dnsbl.example"],
            Self::Registered => [".example", "-dnsbl.example"],
        }
    }
}

/// Returns this number of queries, for as many messages as it takes, which so many domains send.
pub(crate) fn trace(queries: usize, domains: usize, naming: Naming) -> Vec<Vec<u8>> {
    let [mail, lists] = naming.suffixes();
    let mut random = Random::new(SEED);
    let domains = Zipf::new(domains, 1.0);
    let senders = Zipf::new(SENDERS, 1.0);
    let providers = Zipf::new(PROVIDERS, 1.0);
    let mut trace = Vec::with_capacity(queries + 32);
    while trace.len() < queries {
        // A sender that comes again has an address made of its rank, another one a random address.
        let sender = if random.below(2) == 0 {
            hash(b"sender", 0) ^ (senders.draw(&mut random) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        } else {
            random.next()
        };
        let address = reversed_address(sender);
        let mut query = |parts: &[&str], rtype: u16| {
            let mut out = Vec::new();
            queries::append(&wire_name(parts), rtype, &mut out);
            trace.push(out);
        };
        query(&[&address, "in-addr.arpa"], PTR);
        for list in 0..MIN_LISTS + random.below(MAX_LISTS + 1 - MIN_LISTS) {
            query(&[&address, &format!("list{list}{lists}")], A);
        }
        let domain = format!("domain{:06}{mail}", domains.draw(&mut random));
        query(&[&domain], TXT);
        query(&["_spf", &format!("provider{:04}{mail}", providers.draw(&mut random))], TXT);
        query(&["s1._domainkey", &domain], TXT);
        query(&["_dmarc", &domain], TXT);
        query(&[&domain], MX);
        for host in 1..=mail_hosts(&wire_name(&[&domain])) {
            query(&[&format!("mx{host}"), &domain], A);
            query(&[&format!("mx{host}"), &domain], AAAA);
        }
    }
    trace.truncate(queries);
    trace
}

/// Answers a query of the trace.
pub(crate) fn answer(name: &[u8], rtype: u16) -> Answer {
    let hash = hash(name, rtype);
    let ttl = ttl(hash);
    let is_even = hash.is_multiple_of(2);
    match rtype {
        A if name.ends_with(b"dnsbl\x07example") && hash % 100 >= LISTED_PERCENT => Answer::NxDomain(4, ttl),
        PTR if is_even => Answer::NxDomain(4, ttl),
        TXT if is_even && name.starts_with(b"\x06_dmarc") => Answer::NxDomain(1, ttl),
        AAAA if is_even => Answer::NoData(1, ttl),
        A | AAAA => Answer::Addresses(1, ttl),
        PTR => Answer::HostName(ttl),
        MX => Answer::MailHosts(mail_hosts(name), ttl),
        TXT => Answer::Text(60 + (hash >> 8) as u8 % 180, ttl),
        _ => Answer::NoData(1, ttl),
    }
}

/// Returns the number of a domain's mail hosts, 1 or 2.
fn mail_hosts(domain: &[u8]) -> u8 {
    1 + (hash(domain, MX) >> 16) as u8 % 2
}

/// Returns the octets of an IPv4 address in reverse order. Its first octet is between 20 and 99, so that no address is
/// in a block for special use.
fn reversed_address(bits: u64) -> String {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    format!("{a}.{b}.{c}.{}", 20 + d % 80)
}

/// Returns a name in wire form, without its final zero.
fn wire_name(parts: &[&str]) -> Vec<u8> {
    let mut name = Vec::new();
    for label in parts.iter().flat_map(|part| part.split('.')) {
        name.push(label.len() as u8);
        name.extend_from_slice(label.as_bytes());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::random::hash;
    use super::{Naming, trace, wire_name};

    #[test]
    fn a_name_is_written_label_by_label() {
        assert_eq!(wire_name(&["_spf", "a.example"]), b"\x04_spf\x01a\x07example");
    }

    #[test]
    fn a_trace_is_equal_in_each_run() {
        let trace = trace(1000, 300_000, Naming::Together);
        assert_eq!(trace.len(), 1000);
        let hash = trace.iter().fold(0_u64, |sum, query| sum.wrapping_add(hash(query, 0)));
        assert_eq!(hash, 0x015e_6b76_db93_b8ca);
    }

    #[test]
    fn a_registered_domain_is_the_second_label_from_the_end() {
        let labels = |name: &[u8]| {
            let mut labels = Vec::new();
            let mut rest = &name[12..name.len() - 5];
            while let Some((length, tail)) = rest.split_first() {
                let (label, tail) = tail.split_at(usize::from(*length));
                labels.push(String::from_utf8(label.to_vec()).unwrap());
                rest = tail;
            }
            labels
        };
        let domains = |naming| -> BTreeSet<String> {
            let domain = |query: &Vec<u8>| labels(query).iter().rev().nth(1).unwrap().clone();
            trace(1000, 300_000, naming).iter().map(domain).collect()
        };
        assert_eq!(domains(Naming::Together).len(), 3, "mail, dnsbl and in-addr");
        assert!(domains(Naming::Registered).len() > 60);
    }
}
