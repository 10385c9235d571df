//! Seeds: packets as they are seen on real networks, and sequences of cache operations. `cargo run -p dnstier-fuzz
//! --bin seeds` writes them to the corpora.

use node_cache::dns::question::Question;
use node_cache::dns::{Edns, Name};

/// Seed: its target, its name, its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// Type, class and TTL of records.
const A: &[u8] = &[0, 1, 0, 1, 0, 0, 14, 16];
const CNAME: &[u8] = &[0, 5, 0, 1, 0, 0, 14, 16];
const DNAME: &[u8] = &[0, 39, 0, 1, 0, 0, 14, 16];
const SRV: &[u8] = &[0, 33, 0, 1, 0, 0, 14, 16];
const TXT: &[u8] = &[0, 16, 0, 1, 0, 0, 14, 16];
const NS: &[u8] = &[0, 2, 0, 1, 0, 0, 14, 16];
const SOA: &[u8] = &[0, 6, 0, 1, 0, 0, 14, 16];
/// Pointer to the name in the question.
const QUESTION_NAME: &[u8] = &[0xc0, 12];
/// OPT record of an upstream, and one with an extended error (EDE).
const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
const OPT_WITH_EDE: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, 3];

/// Returns all seeds.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, packet) in client_packets() {
        seeds.push(("client_packet", name, packet));
    }
    for (name, flags, counts, behind) in responses() {
        let www = question("www.example", 1).section();
        let [answers, authorities, additionals] = counts;
        let header = [0x12, 0x34, flags[0], flags[1], 0, 1, 0, answers, 0, authorities, 0, additionals];
        seeds.push(("upstream_answer", name, [&header[..], &www, &behind].concat()));
        let query = question("www.example", 1).to_wire(7, true);
        let length = [u8::try_from(query.len()).unwrap()];
        seeds.push(("exchange", name, [&length[..], &query, &flags, &counts, &behind].concat()));
    }
    for (name, aliases, continuation) in continuations() {
        let answers = u8::try_from(aliases.len()).unwrap();
        let header = [0x12, 0x34, 0x81, 0xa0, 0, 1, 0, answers, 0, 0, 0, 0];
        let packet = [&header[..], &question("www.example", 1).section(), &aliases.concat()].concat();
        let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
        seeds.push(("alias_continuation", name, [&length[..], &packet, &continuation].concat()));
    }
    for (name, operations) in operations() {
        seeds.push(("cache_operations", name, operations));
    }
    seeds
}

fn question(name: &str, rtype: u16) -> Question {
    Question::plain(&Name::from_text(name).unwrap(), rtype)
}

/// Name of a seed, records of its first response, and its second response.
type Continuation = (&'static str, Vec<Vec<u8>>, Vec<u8>);

/// Answers with aliases, and the flags, counts and records of the response for the name to which they lead. Names that
/// begin with `a`, `c` or `e` are in another scope.
fn continuations() -> Vec<Continuation> {
    let record = |owner: &[u8], fixed: &[u8], data: &[u8]| {
        [owner, fixed, &u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
    };
    let name = |text: &str| Name::from_text(text).unwrap().as_bytes().to_vec();
    let address = [192, 0, 2, 1];
    let leaving = record(QUESTION_NAME, CNAME, &name("a.corp"));
    let inner = record(QUESTION_NAME, CNAME, &name("b.example"));
    let from_inner = record(&name("b.example"), CNAME, &name("c.corp"));
    let zone = record(&name("example"), DNAME, &name("corp"));
    let planted = record(&name("a.corp"), A, &address);
    let soa = record(&name("corp"), SOA, &[&[0; 2][..], &[0, 0, 0, 9].repeat(5)].concat());
    let answered = [&[0x81, 0xa0, 1, 0, 0][..], &record(QUESTION_NAME, A, &address)].concat();
    let denied = [&[0x81, 0x83, 0, 1, 0][..], &soa].concat();
    let further = [&[0x81, 0x80, 1, 0, 0][..], &record(QUESTION_NAME, CNAME, &name("e.example"))].concat();
    vec![
        ("address", vec![leaving.clone()], answered.clone()),
        ("chain", vec![inner.clone(), from_inner.clone()], answered.clone()),
        ("chain-in-reverse", vec![from_inner, inner], denied.clone()),
        ("alias-of-a-zone", vec![zone, leaving.clone()], answered),
        ("planted", vec![leaving.clone(), planted], denied.clone()),
        ("denied", vec![leaving.clone()], denied),
        ("further", vec![leaving], further),
    ]
}

/// Packets of clients.
fn client_packets() -> Vec<(&'static str, Vec<u8>)> {
    let longest = ["x"; 127].join(".");
    let with = |mut packet: Vec<u8>, offset: usize, octet: u8| {
        packet[offset] = octet;
        packet
    };
    let usual = question("web.shop.svc.cluster.local", 28).to_wire(7, true);
    let mut with_option = question("www.example", 1).to_wire(7, false);
    Edns { udp_size: 4096, dnssec_ok: true, keepalive: Some(0), ede: Some(3), ..Edns::default() }
        .append(&mut with_option);
    let mut chaos = question("id.server", 16);
    chaos.class = 3;
    let mut cookie = question("www.example", 1).to_wire(7, true);
    let length = cookie.len();
    cookie[length - 1] = 12;
    cookie.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    vec![
        ("usual", usual.clone()),
        ("without-edns", question("www.example", 65).to_wire(9, false)),
        ("root", question(".", 2).to_wire(9, true)),
        ("longest-name", question(&longest, 1).to_wire(9, true)),
        ("options", with_option),
        ("cookie", cookie),
        ("chaos", chaos.to_wire(1, true)),
        ("localhost", question("localhost", 1).to_wire(1, false)),
        ("any", question("www.example", 255).to_wire(1, true)),
        ("transfer", question("example", 252).to_wire(1, true)),
        ("response", with(usual.clone(), 2, 0x81)),
        ("update", with(usual.clone(), 2, 0x28)),
        ("notify", with(usual.clone(), 2, 0x20)),
        ("two-questions", with(usual.clone(), 5, 2)),
        ("pointer", with(usual, 12, 0xc0)),
    ]
}

fn record(owner: &[u8], fixed: &[u8], data: &[u8]) -> Vec<u8> {
    [owner, fixed, &u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
}

/// Response as a seed: its name, flags, counts, and everything behind the question.
type SeedResponse = (&'static str, [u8; 2], [u8; 3], Vec<u8>);

/// Responses of upstreams to `www.example. A`.
fn responses() -> Vec<SeedResponse> {
    const GOOD: [u8; 2] = [0x81, 0x80];
    let address = record(QUESTION_NAME, A, &[192, 0, 2, 1]);
    let soa = record(&[0xc0, 16], SOA, &[&[2, b'n', b's', 0xc0, 16, 0xc0, 16][..], &[0, 0, 14, 16].repeat(5)].concat());
    // Its owner points into the record before, which is not passed on.
    let soa_below_other = record(&[0xc0, 29], SOA, &[&[0xc0, 29, 0xc0, 16][..], &[0, 0, 14, 16].repeat(5)].concat());
    let text = record(QUESTION_NAME, TXT, &[&[200][..], &[b'x'; 200]].concat());
    vec![
        ("address", GOOD, [1, 0, 0], address.clone()),
        ("address-edns", GOOD, [1, 0, 1], [&address, OPT].concat()),
        (
            "alias",
            GOOD,
            [2, 0, 0],
            [record(QUESTION_NAME, CNAME, &[3, b'c', b'd', b'n', 0xc0, 16]), record(&[0xc0, 41], A, &[192, 0, 2, 2])]
                .concat(),
        ),
        (
            "service",
            GOOD,
            [1, 0, 1],
            [
                record(
                    QUESTION_NAME,
                    SRV,
                    &[0, 0, 0, 100, 0, 53, 2, b'n', b's', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0],
                ),
                record(&[0xc0, 47], A, &[192, 0, 2, 3]),
            ]
            .concat(),
        ),
        ("no-name", [0x81, 0x83], [0, 1, 1], [&soa, OPT].concat()),
        ("no-data", GOOD, [0, 1, 0], soa),
        ("failure", [0x81, 0x82], [0, 0, 1], OPT_WITH_EDE.to_vec()),
        ("unreadable", [0x81, 0x81], [0, 0, 0], vec![]),
        ("explained", GOOD, [1, 0, 1], [&address, OPT_WITH_EDE].concat()),
        ("behind-edns", GOOD, [0, 1, 2], [record(&[0], TXT, b"\x01x"), OPT.to_vec(), address.clone()].concat()),
        ("cut", [0x83, 0x80], [1, 0, 0], address.clone()),
        ("broken-off", GOOD, [2, 0, 1], [&address[..], &address[..7]].concat()),
        ("referral", [0x81, 0x00], [0, 2, 1], [&record(&[0], NS, b"\x02ns\x00").repeat(2)[..], OPT].concat()),
        ("error-without-edns", [0x81, 0x84], [0, 0, 0], vec![]),
        ("edns-among-authorities", GOOD, [0, 1, 0], OPT.to_vec()),
        ("long", [0x85, 0xa0], [8, 0, 1], [text.repeat(8), OPT.to_vec()].concat()),
        (
            "other-owner",
            GOOD,
            [2, 1, 1],
            [record(b"\x05other\xc0\x10", A, &[192, 0, 2, 66]), address.clone(), soa_below_other, OPT.to_vec()]
                .concat(),
        ),
        (
            "aliases-of-a-zone",
            GOOD,
            [4, 0, 0],
            [
                record(b"\x05other\xc0\x10", A, &[192, 0, 2, 66]),
                record(b"\x03web\x04test\x00", A, &[192, 0, 2, 1]),
                record(QUESTION_NAME, CNAME, b"\x03www\x04test\x00"),
                record(&[0xc0, 16], DNAME, b"\x04test\x00"),
            ]
            .concat(),
        ),
        ("loop", GOOD, [1, 0, 0], record(&[0xc0, 29], A, &[192, 0, 2, 1])),
    ]
}

/// Sequences of operations on the cache; the first octet chooses its size and its policy.
fn operations() -> Vec<(&'static str, Vec<u8>)> {
    let insert = |key, response| [4, key, response];
    let look_up = |key| [9, key];
    let wait = |pause| [0, pause];
    let aging =
        [&[0][..], &insert(0, 2), &look_up(0), &wait(4), &look_up(0), &wait(5), &look_up(0), &wait(6), &look_up(0)]
            .concat();
    let denied =
        [&[0][..], &insert(0, 3), &insert(16, 19), &look_up(0), &wait(5), &look_up(0), &look_up(16), &insert(0, 2)]
            .concat();
    let failing = [&[0][..], &[2, 5], &wait(3), &[2, 5], &wait(3), &look_up(5), &insert(5, 3), &look_up(5)].concat();
    let full: Vec<u8> = (0..200).flat_map(|number| [4, number, 0x43, number, 9, number / 2]).collect();
    let bounds =
        [&[6][..], &insert(1, 5), &look_up(1), &wait(7), &look_up(1), &[1, 1], &look_up(1), &[3, 1], &look_up(1)]
            .concat();
    vec![
        ("through-its-time", aging),
        ("denied", denied),
        ("failing", failing),
        ("full", [vec![1], full].concat()),
        ("bounds", bounds),
    ]
}
