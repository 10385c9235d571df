//! The same questions to two servers: where do their answers differ?
//!
//! Questions are made up from a list of names: as they are, below them, beside them, in any case, for every usual type, with and
//! without DNSSEC records, for short and long answers. The same seed makes the same questions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

use crate::dns::{Answer, Client, Question, Record};

/// No comparison asks more questions.
pub const MAX_QUESTIONS: u32 = 1_000_000;
/// Threads that ask: each waits most of its time.
const THREADS: usize = 6;
/// Labels that are put in front of names and in the place of others.
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

/// What to compare.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Who is asked.
    pub servers: [SocketAddr; 2],
    /// What questions are made from.
    pub names: Vec<Name>,
    /// How many there are, at most [`MAX_QUESTIONS`].
    pub questions: u32,
    /// What they are drawn with.
    pub seed: u64,
}

/// What came of it, as `ask compare --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Questions asked of both.
    pub asked: u32,
    /// Answers by the mnemonic of their response code, where both are the same.
    pub same: BTreeMap<String, u32>,
    /// Differences by what differs.
    pub different: BTreeMap<String, Difference>,
}

/// Answers that differ in the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// How often.
    pub count: u32,
    /// The first of them: the question and both answers.
    pub example: String,
}

impl Comparison {
    /// Asks both servers everything.
    #[must_use]
    pub fn run(&self) -> Report {
        let next = AtomicU32::new(0);
        let report = Mutex::new(Report::default());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let clients = self.servers.map(|server| Client {
                        servers: vec![server],
                        tcp: false,
                        timeout: Duration::from_secs(5),
                        tries: 3,
                    });
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.questions.min(MAX_QUESTIONS) {
                            break;
                        }
                        let Some(question) = self.question(number) else { continue };
                        let answers = clients.each_ref().map(|client| client.ask(&question).map_err(|e| e.to_string()));
                        report.lock().unwrap_or_else(PoisonError::into_inner).count(&question, &answers);
                    }
                });
            }
        });
        report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The question of this number; none when it would be too long.
    fn question(&self, number: u32) -> Option<Question> {
        let mut dice = Dice(self.seed ^ (u64::from(number) << 32));
        let base = self.names.get(dice.below(self.names.len()))?.to_ascii().to_lowercase();
        let label = LABELS[dice.below(LABELS.len())];
        let above = || base.split_once('.').map_or("", |(_, above)| above);
        let text = match dice.below(5) {
            0 | 1 => base.clone(),
            2 => format!("{label}.{base}"),
            3 => format!("x{}.{base}", dice.below(40)),
            _ => format!("{label}.{}", above()),
        };
        let text: String =
            text.chars().map(|letter| if dice.below(4) == 0 { letter.to_ascii_uppercase() } else { letter }).collect();
        let mut name = Name::from_ascii(&text).ok()?;
        name.set_fqdn(true);
        let mut question = Question::new(name, TYPES[dice.below(TYPES.len())]);
        question.dnssec = dice.below(4) == 0;
        question.bufsize = [512, 1232, 4096][dice.below(3)];
        Some(question)
    }
}

impl Report {
    fn count(&mut self, question: &Question, answers: &[Result<Answer, String>; 2]) {
        self.asked += 1;
        match what_differs(question, answers) {
            None => {
                let rcode = answers[0].as_ref().map_or_else(|_| "no answer".to_owned(), |answer| answer.rcode.clone());
                *self.same.entry(rcode).or_default() += 1;
            }
            Some(what) => {
                let difference = self.different.entry(what).or_default();
                difference.count += 1;
                if difference.example.is_empty() {
                    let shown = answers.each_ref().map(|answer| match answer {
                        Ok(answer) => answer.to_string(),
                        Err(error) => error.clone(),
                    });
                    let Question { name, record_type, dnssec, bufsize, .. } = question;
                    difference.example =
                        format!("{name} {record_type} (DO {dnssec}, {bufsize} octets)\n{}\n{}", shown[0], shown[1]);
                }
            }
        }
    }
}

/// What is not the same in two answers. TTLs, serial numbers, the order of records, the case of names and how they were
/// carried may differ.
fn what_differs(question: &Question, answers: &[Result<Answer, String>; 2]) -> Option<String> {
    let [Ok(one), Ok(other)] = answers else {
        return (answers[0].is_ok() || answers[1].is_ok()).then(|| "one is silent".to_owned());
    };
    if one.rcode != other.rcode {
        return Some(format!("{} against {} for {}", one.rcode, other.rcode, question.record_type));
    }
    let set = |answer: &Answer| -> BTreeSet<(String, String, String)> {
        let key = |record: &Record| {
            // Names are the same in any case, texts are not.
            let is_text = matches!(record.record_type.as_str(), "TXT" | "CAA");
            let data = match record.record_type.as_str() {
                _ if is_text => record.data.clone(),
                // The serial number moves on: CoreDNS takes the time.
                "SOA" => record.data.to_lowercase().split(' ').take(2).collect::<Vec<_>>().join(" "),
                _ => record.data.to_lowercase(),
            };
            (record.name.to_lowercase(), record.record_type.clone(), data)
        };
        answer.answers.iter().map(key).collect()
    };
    if set(one) != set(other) {
        return Some("records".to_owned());
    }
    (one.flags != other.flags).then(|| format!("flags {} against {}", one.flags.join(" "), other.flags.join(" ")))
}

/// A generator of numbers (splitmix64) that gives the same ones for the same seed.
struct Dice(u64);

impl Dice {
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
        Comparison { servers: [server; 2], names, questions: 0, seed: 7 }
    }

    #[test]
    fn the_same_seed_makes_the_same_questions_of_every_kind() {
        let all = |comparison: &Comparison| -> Vec<String> {
            (0..2000).filter_map(|number| Some(format!("{:?}", comparison.question(number)?))).collect()
        };
        let questions = all(&comparison());
        assert_eq!(questions, all(&comparison()));
        assert_ne!(questions, all(&Comparison { seed: 8, ..comparison() }));
        assert!(questions.iter().collect::<BTreeSet<_>>().len() > 1500, "few are asked twice");
    }

    #[test]
    fn what_differs_is_told_with_the_first_example() {
        let server = "127.0.0.1:9".parse().unwrap();
        let answer = |rcode: &str, flags: &[&str]| {
            Ok(Answer {
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
        let question = comparison().question(1).unwrap();
        for pair in [
            [answer("NOERROR", &["ra"]), answer("NOERROR", &["ra"])],
            [answer("NOERROR", &["ra"]), answer("NXDOMAIN", &["ra"])],
            [answer("NOERROR", &["ra"]), answer("NOERROR", &["ra", "ad"])],
            [answer("NOERROR", &["ra"]), Err("no answer".into())],
        ] {
            report.count(&question, &pair);
        }
        assert_eq!((report.asked, report.same["NOERROR"]), (4, 1));
        let kinds: Vec<&str> = report.different.keys().map(String::as_str).collect();
        let codes = format!("NOERROR against NXDOMAIN for {}", question.record_type);
        assert_eq!(kinds, [codes.as_str(), "flags ra against ra ad", "one is silent"]);
    }
}
