//! What a mail server asks for each message that comes in.

use super::random::{Random, hash};
use super::ttl;
use super::zipf::Zipf;
use crate::load::queries::question;
use crate::servers::upstream::Said;

/// Domains that send, clients that come again, providers that SPF policies include.
const DOMAINS: usize = 300_000;
const SENDERS: usize = 100_000;
const PROVIDERS: usize = 1_000;
/// Block lists of one message: from, and one more than to.
const LISTS: (u64, u64) = (5, 16);
/// Of a hundred answers of a block list, those that list the address.
const LISTED: u64 = 5;
const SEED: u64 = 19_820_813;

const A: u16 = 1;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// The questions of as many messages as it takes.
pub(super) fn trace(questions: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(SEED);
    let (domains, senders, providers) = (Zipf::new(DOMAINS, 1.0), Zipf::new(SENDERS, 1.0), Zipf::new(PROVIDERS, 1.0));
    let mut trace = Vec::with_capacity(questions + 32);
    while trace.len() < questions {
        // A sender that comes again has an address out of its rank, one that does not a random one.
        let sender = if random.below(2) == 0 {
            hash(b"sender", 0) ^ (senders.draw(&mut random) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        } else {
            random.next()
        };
        let address = reversed(sender);
        let mut ask = |parts: &[&str], rtype: u16| {
            let mut out = Vec::new();
            question(&wire(parts), rtype, &mut out);
            trace.push(out);
        };
        ask(&[&address, "in-addr.arpa"], PTR);
        for list in 0..LISTS.0 + random.below(LISTS.1 - LISTS.0) {
            ask(&[&address, &format!("list{list}"), "dnsbl.example"], A);
        }
        let domain = format!("domain{:06}.mail.example", domains.draw(&mut random));
        ask(&[&domain], TXT);
        ask(&["_spf", &format!("provider{:04}.mail.example", providers.draw(&mut random))], TXT);
        ask(&["s1._domainkey", &domain], TXT);
        ask(&["_dmarc", &domain], TXT);
        ask(&[&domain], MX);
        for host in 1..=mail_hosts(&wire(&[&domain])) {
            ask(&[&format!("mx{host}"), &domain], A);
            ask(&[&format!("mx{host}"), &domain], AAAA);
        }
    }
    trace.truncate(questions);
    trace
}

pub(super) fn say(name: &[u8], rtype: u16) -> Said {
    let hash = hash(name, rtype);
    let ttl = ttl(hash);
    let half = hash.is_multiple_of(2);
    match rtype {
        A if name.ends_with(b"\x05dnsbl\x07example") && hash % 100 >= LISTED => Said::NoName(4, ttl),
        PTR if half => Said::NoName(4, ttl),
        TXT if half && name.starts_with(b"\x06_dmarc") => Said::NoName(1, ttl),
        AAAA if half => Said::Nothing(1, ttl),
        A | AAAA => Said::Addresses(1, ttl),
        PTR => Said::Host(ttl),
        MX => Said::MailHosts(mail_hosts(name), ttl),
        TXT => Said::Text(60 + (hash >> 8) as u8 % 180, ttl),
        _ => Said::Nothing(1, ttl),
    }
}

/// The mail hosts of a domain.
fn mail_hosts(domain: &[u8]) -> u8 {
    1 + (hash(domain, MX) >> 16) as u8 % 2
}

/// The octets of an address in reverse. Its first one is between 20 and 99, where nothing is set apart.
fn reversed(bits: u64) -> String {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    format!("{a}.{b}.{c}.{}", 20 + d % 80)
}

/// A name in wire form, without its final zero.
fn wire(parts: &[&str]) -> Vec<u8> {
    let mut name = Vec::new();
    for label in parts.iter().flat_map(|part| part.split('.')) {
        name.push(label.len() as u8);
        name.extend_from_slice(label.as_bytes());
    }
    name
}
