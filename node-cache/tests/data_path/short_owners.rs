//! Owner names without compression, and how they are shortened in the cache.

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use node_cache::dns::codes::rtype;
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;

use crate::owners::related_records;

const QUERIED_NAME: &str = "www.Shop.example";
/// Names with common suffixes, so that one can be a pointer to another.
const NAMES: [&str; 10] = [
    "www.shop.example",
    "WWW.shop.Example",
    "shop.example",
    "example",
    ".",
    "ns.shop.example",
    "a.www.shop.example",
    "ns.other.test",
    "other.test",
    "ww.shop.example",
];

/// Writer of messages with or without compression.
struct Writer {
    message: Vec<u8>,
    /// Names written so far, in lower case, with their offsets.
    known: Vec<(String, usize)>,
    /// Bit mask, one bit for each name in turn: whether it is compressed.
    compress: u64,
}

impl Writer {
    fn new(compress: u64) -> Self {
        let mut writer = Self { message: vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0], known: Vec::new(), compress };
        writer.name(QUERIED_NAME);
        writer.message.extend([0, 1, 0, 1]);
        writer
    }

    fn name(&mut self, name: &str) {
        let compressed = self.compress & 1 == 1;
        self.compress = self.compress.rotate_right(1);
        let mut rest = name.trim_end_matches('.');
        while !rest.is_empty() {
            let lower = rest.to_ascii_lowercase();
            let known = self.known.iter().find(|(known, _)| *known == lower).map(|(_, at)| *at);
            if let (true, Some(at)) = (compressed, known) {
                self.message.extend((0xc000 | u16::try_from(at).unwrap()).to_be_bytes());
                return;
            }
            self.known.push((lower, self.message.len()));
            let (label, behind) = rest.split_once('.').unwrap_or((rest, ""));
            self.message.push(u8::try_from(label.len()).unwrap());
            self.message.extend(label.bytes());
            rest = behind;
        }
        self.message.push(0);
    }

    fn record(&mut self, section: usize, owner: &str, rtype: RecordType, parts: &[Part]) {
        self.name(owner);
        self.message.extend(u16::from(rtype).to_be_bytes());
        self.message.extend([0, 1, 0, 0, 1, 44, 0, 0]);
        let start = self.message.len();
        for part in parts {
            match part {
                Part::Octets(octets) => self.message.extend(octets),
                Part::Name(name) => self.name(name),
            }
        }
        let length = u16::try_from(self.message.len() - start).unwrap();
        self.message[start - 2..start].copy_from_slice(&length.to_be_bytes());
        self.message[7 + 2 * section] += 1;
    }
}

#[derive(Clone, Debug)]
enum Part {
    Octets(Vec<u8>),
    Name(&'static str),
}

#[derive(Clone, Debug)]
struct WrittenRecord {
    section: usize,
    owner: &'static str,
    rtype: RecordType,
    parts: Vec<Part>,
}

fn written_record() -> impl Strategy<Value = WrittenRecord> {
    let name = || (0..NAMES.len()).prop_map(|index| NAMES[index]);
    let octets = |octets: &[u8]| Part::Octets(octets.to_vec());
    let data = prop_oneof![
        Just((RecordType::A, vec![octets(&[192, 0, 2, 1])])),
        Just((RecordType::TXT, vec![octets(b"\x02\xc0\x0c")])),
        name().prop_map(|name| (RecordType::CNAME, vec![Part::Name(name)])),
        name().prop_map(|name| (RecordType::NS, vec![Part::Name(name)])),
        name().prop_map(move |name| (RecordType::MX, vec![Part::Octets(vec![0, 10]), Part::Name(name)])),
        name().prop_map(move |name| (RecordType::SRV, vec![Part::Octets(vec![0; 6]), Part::Name(name)])),
        (name(), name()).prop_map(|(one, two)| (
            RecordType::SOA,
            vec![Part::Name(one), Part::Name(two), Part::Octets(vec![9; 20])]
        )),
        // A type of unknown layout.
        Just((RecordType::Unknown(65_280), vec![octets(&[0xc0, 30, 0])])),
    ];
    (0..3_usize, name(), data).prop_map(|(section, owner, (rtype, parts))| WrittenRecord {
        section,
        owner,
        rtype,
        parts,
    })
}

fn write(records: &[WrittenRecord], compress: u64) -> Vec<u8> {
    let mut records = records.to_vec();
    records.sort_by_key(|record| record.section);
    let mut writer = Writer::new(compress);
    records.iter().for_each(|record| writer.record(record.section, record.owner, record.rtype, &record.parts));
    writer.message
}

fn parse(packet: &[u8]) -> Response {
    let question = Question::plain(&Name::from_text(QUERIED_NAME).unwrap(), rtype::A);
    Response::read(packet, 7, &question).unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_is_compressed_and_whatever_is_not_means_the_same_when_owners_are_shorter(
        records in vec(written_record(), 0..12), compress in any::<u64>(),
    ) {
        let packet = write(&records, compress);
        let response = parse(&packet);
        let before = Message::from_vec(&packet).unwrap();
        let after = Message::from_vec(response.wire()).unwrap();
        // Names in data are written out where answers of other names were dropped.
        assert!(response.wire().len() <= packet.len() || after.answers.len() < before.answers.len());
        assert_eq!(related_records(QUERIED_NAME, &before.answers), after.answers);
        assert_eq!(before.authorities, after.authorities);
        assert_eq!(before.additionals, after.additionals);
        // Without records of unknown layout, no owner that equals the question's name is written out.
        if records.iter().all(|record| record.rtype != RecordType::Unknown(65_280)) {
            for record in response.records() {
                let owner = response.owner(&record).unwrap();
                let is_queried_name = owner.lower() == Name::from_text(QUERIED_NAME).unwrap().lower();
                assert!(!is_queried_name || response.wire()[record.start..record.start + 2] == [0xc0, 12]);
            }
        }
    }
}

#[test]
fn an_answer_without_any_compression_is_kept_as_short_as_one_with_it() {
    let addresses = vec![
        WrittenRecord {
            section: 0,
            owner: "www.shop.example",
            rtype: RecordType::A,
            parts: vec![Part::Octets(vec![192, 0, 2, 1])]
        };
        4
    ];
    let full = write(&addresses, 0);
    let short = write(&addresses, u64::MAX);
    assert_eq!((full.len(), short.len()), (34 + 4 * 32, 34 + 4 * 16));
    assert_eq!(parse(&full).wire().len(), short.len());
    let soa = [Part::Name("ns.shop.example"), Part::Name("a.www.shop.example"), Part::Octets(vec![0; 20])];
    let denial = [WrittenRecord { section: 1, owner: "shop.example", rtype: RecordType::SOA, parts: soa.to_vec() }];
    assert_eq!(parse(&write(&denial, 0)).wire().len(), write(&denial, 0).len() - "shop.example".len(), "its zone too");
}

#[test]
fn names_that_point_where_no_name_stands_leave_a_message_as_it_came() {
    let mut writer = Writer::new(0);
    writer.record(0, "www.shop.example", RecordType::TXT, &[Part::Octets(b"\x04\x02ab\x00".to_vec())]);
    let inside = u16::try_from(writer.message.len() - 4).unwrap();
    writer.message.extend((0xc000 | inside).to_be_bytes());
    writer.message.extend([0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
    // An additional record: answers of such an owner are dropped.
    writer.message[11] += 1;
    let response = parse(&writer.message);
    assert_eq!(response.wire().len(), writer.message.len());
    let records = Message::from_vec(response.wire()).unwrap().additionals;
    assert_eq!(records[0].name.to_ascii(), "ab.");
    assert!(matches!(records[0].data, RData::A(_)));
}
