//! Comparison of two servers: the same queries to both, and the differences of their responses.
//!
//! Queries are made from a list of names: the names, names below and beside them, in any case (NS in lower case alone),
//! for every usual type, with and without DNSSEC records, for short and long responses. The same seed makes the same
//! queries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

use crate::dns::{Client, Query, Record, Response};

/// Most queries of one comparison.
pub const MAX_QUERIES: u32 = 1_000_000;
/// Threads that send queries: each waits most of the time.
const THREAD_COUNT: usize = 6;
/// Labels that are put before names and in place of their first labels.
const LABELS: [&str; 12] =
    ["www", "mail", "mx1", "ns", "_dmarc", "_domainkey", "alias", "none", "a", "b", "_tcp", "deep.er"];
const TYPES: [RecordType; 16] = [
    RecordType::A,
    RecordType::A,
    RecordType::A,
    RecordType::AAAA,
    RecordType::AAAA,
    RecordType::MX,
    RecordType::MX,
    RecordType::TXT,
    RecordType::TXT,
    RecordType::PTR,
    RecordType::CNAME,
    RecordType::NS,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::CAA,
    RecordType::Unknown(65280),
];

/// Queries to compare the responses of.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The two servers.
    pub servers: [SocketAddr; 2],
    /// Names that queries are made from.
    pub names: Vec<Name>,
    /// Number of queries, at most [`MAX_QUERIES`].
    pub queries: u32,
    /// Seed of the queries.
    pub seed: u64,
}

/// Result of a comparison, as `ask compare --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Queries sent to both servers.
    pub asked: u32,
    /// Equal responses, by the mnemonic of their response code.
    pub same: BTreeMap<String, u32>,
    /// Different responses, by what differs.
    pub different: BTreeMap<String, Difference>,
}

/// Responses that differ in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Number of them.
    pub count: u32,
    /// First of them: the query and both responses.
    pub example: String,
}

impl Comparison {
    /// Sends all queries to both servers.
    #[must_use]
    pub fn run(&self) -> Report {
        let next = AtomicU32::new(0);
        let report = Mutex::new(Report::default());
        std::thread::scope(|scope| {
            for _ in 0..THREAD_COUNT {
                scope.spawn(|| {
                    let clients = self.servers.map(|server| Client {
                        servers: vec![server],
                        tcp: false,
                        timeout: Duration::from_secs(5),
                        tries: 3,
                    });
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.queries.min(MAX_QUERIES) {
                            break;
                        }
                        let Some(query) = self.query(number) else { continue };
                        let responses =
                            clients.each_ref().map(|client| client.resolve(&query).map_err(|e| e.to_string()));
                        report.lock().unwrap_or_else(PoisonError::into_inner).count(&query, &responses);
                    }
                });
            }
        });
        report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the query of this number; `None` when its name would be too long.
    fn query(&self, number: u32) -> Option<Query> {
        let mut random = SplitMix64(self.seed ^ (u64::from(number) << 32));
        let base = self.names.get(random.below(self.names.len()))?.to_ascii().to_lowercase();
        let label = LABELS[random.below(LABELS.len())];
        let parent = || base.split_once('.').map_or("", |(_, parent)| parent);
        let text = match random.below(5) {
            0 | 1 => base.clone(),
            2 => format!("{label}.{base}"),
            3 => format!("x{}.{base}", random.below(40)),
            _ => format!("{label}.{}", parent()),
        };
        let mixed: String = text
            .chars()
            .map(|letter| if random.below(4) == 0 { letter.to_ascii_uppercase() } else { letter })
            .collect();
        let record_type = TYPES[random.below(TYPES.len())];
        // CoreDNS compares these with its zone by octet, and caches what it finds for clients with any case.
        let text = if record_type == RecordType::NS { text } else { mixed };
        let mut name = Name::from_ascii(&text).ok()?;
        name.set_fqdn(true);
        let mut query = Query::new(name, record_type);
        query.dnssec = random.below(4) == 0;
        query.bufsize = [512, 1232, 4096][random.below(3)];
        Some(query)
    }
}

impl Report {
    fn count(&mut self, query: &Query, responses: &[Result<Response, String>; 2]) {
        self.asked += 1;
        match difference(query, responses) {
            None => {
                let rcode =
                    responses[0].as_ref().map_or_else(|_| "no answer".to_owned(), |response| response.rcode.clone());
                *self.same.entry(rcode).or_default() += 1;
            }
            Some(kind) => {
                let difference = self.different.entry(kind).or_default();
                difference.count += 1;
                if difference.example.is_empty() {
                    let shown = responses.each_ref().map(|response| match response {
                        Ok(response) => response.to_string(),
                        Err(error) => error.clone(),
                    });
                    let Query { name, record_type, dnssec, bufsize, .. } = query;
                    difference.example =
                        format!("{name} {record_type} (DO {dnssec}, {bufsize} octets)\n{}\n{}", shown[0], shown[1]);
                }
            }
        }
    }
}

/// Returns what differs in two responses. TTLs, serial numbers, the order of records, the case of names and the
/// transport may differ.
fn difference(query: &Query, responses: &[Result<Response, String>; 2]) -> Option<String> {
    let [Ok(one), Ok(other)] = responses else {
        return (responses[0].is_ok() || responses[1].is_ok()).then(|| "one is silent".to_owned());
    };
    if one.rcode != other.rcode {
        return Some(format!("{} against {} for {}", one.rcode, other.rcode, query.record_type));
    }
    let records = |response: &Response| -> BTreeSet<(String, String, String)> {
        let key = |record: &Record| {
            // Names are equal in any case, texts are not.
            let is_text = matches!(record.record_type.as_str(), "TXT" | "CAA");
            let data = match record.record_type.as_str() {
                _ if is_text => record.data.clone(),
                // The serial number changes: CoreDNS uses the time.
                "SOA" => record.data.to_lowercase().split(' ').take(2).collect::<Vec<_>>().join(" "),
                _ => record.data.to_lowercase(),
            };
            (record.name.to_lowercase(), record.record_type.clone(), data)
        };
        response.answers.iter().map(key).collect()
    };
    if records(one) != records(other) {
        return Some("records".to_owned());
    }
    (one.flags != other.flags).then(|| format!("flags {} against {}", one.flags.join(" "), other.flags.join(" ")))
}

/// Pseudo-random numbers (splitmix64) that are the same for the same seed.
struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        let server = "127.0.0.1:9".parse().unwrap();
        let names = ["www.shop.example.", "mail.example."].map(|name| Name::from_ascii(name).unwrap()).to_vec();
        Comparison { servers: [server; 2], names, queries: 0, seed: 7 }
    }

    #[test]
    fn the_same_seed_makes_the_same_questions_of_every_kind() {
        let all = |comparison: &Comparison| -> Vec<String> {
            (0..2000).filter_map(|number| Some(format!("{:?}", comparison.query(number)?))).collect()
        };
        let queries = all(&comparison());
        assert_eq!(queries, all(&comparison()));
        assert_ne!(queries, all(&Comparison { seed: 8, ..comparison() }));
        assert!(queries.iter().collect::<BTreeSet<_>>().len() > 1500, "few are asked twice");
    }

    #[test]
    fn what_differs_is_told_with_the_first_example() {
        let server = "127.0.0.1:9".parse().unwrap();
        let response = |rcode: &str, flags: &[&str]| {
            Ok(Response {
                name: "www.shop.example.".into(),
                rcode: rcode.into(),
                flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                answers: vec![],
                size: 40,
                transport: crate::dns::Transport::Udp,
                elapsed_us: 1,
                tries: 1,
                server,
                identity: None,
            })
        };
        let mut report = Report::default();
        let query = comparison().query(1).unwrap();
        for pair in [
            [response("NOERROR", &["ra"]), response("NOERROR", &["ra"])],
            [response("NOERROR", &["ra"]), response("NXDOMAIN", &["ra"])],
            [response("NOERROR", &["ra"]), response("NOERROR", &["ra", "ad"])],
            [response("NOERROR", &["ra"]), Err("no answer".into())],
        ] {
            report.count(&query, &pair);
        }
        assert_eq!((report.asked, report.same["NOERROR"]), (4, 1));
        let kinds: Vec<&str> = report.different.keys().map(String::as_str).collect();
        let codes = format!("NOERROR against NXDOMAIN for {}", query.record_type);
        assert_eq!(kinds, [codes.as_str(), "flags ra against ra ad", "one is silent"]);
    }
}
