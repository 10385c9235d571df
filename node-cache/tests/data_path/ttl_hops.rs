//! TTLs over several hops: a node, a zone resolver, and an upstream. No hop lets a record live for longer than its
//! source said, but for stale answers, which are marked.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use node_cache::cache::{Cache, Key, Lookup, Policy};
use node_cache::dns::answer::{Answer, Source, TtlView};
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::query::Query;
use node_cache::dns::question::Question;
use node_cache::dns::{Edns, Name, Response};
use node_cache_config::Protocol;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, ede, exchange, exchange_over_tcp, query_for,
    response_with, zone,
};

const HOPS: usize = 3;
/// The maximum TTL in seconds of a stale answer.
const STALE_TTL: u32 = 30;
/// Ages are counted in whole seconds, so that each hop may add less than one.
const ROUNDING: u64 = 1000 * HOPS as u64;

/// Shape of the authority's responses.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Two addresses with these TTLs in seconds.
    Positive(u32, u32),
    /// NXDOMAIN or NODATA, with an SOA record of this TTL and MINIMUM in seconds.
    Negative(u16, u32, u32),
}

/// An authority whose records hold the number of the response, and a chain of caches before it.
struct Chain {
    shape: Shape,
    caches: Vec<(Cache, Policy)>,
    question: Question,
    start: Instant,
    /// Milliseconds since the start at which each response was sent.
    sent_at: Vec<u64>,
}

impl Chain {
    fn new(shape: Shape, policies: &[Policy]) -> Self {
        let caches = policies.iter().map(|policy| (Cache::new(64 << 10), *policy)).collect();
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        Self { shape, caches, question, start: Instant::now(), sent_at: Vec::new() }
    }

    /// Asks a hop at a time in milliseconds, and returns its response in wire format. Links from `broken_from` on are
    /// broken; the last one leads to the authority.
    fn ask(&mut self, hop: usize, at: u64, broken_from: usize) -> Option<Vec<u8>> {
        if hop > broken_from {
            return None;
        }
        if hop == HOPS {
            return Some(self.authority_response(at));
        }
        let now = self.start + Duration::from_millis(at);
        let key = Key::new(1, &self.question);
        let (cache, policy) = &self.caches[hop];
        let policy = *policy;
        let stale = match cache.get(&key, now, &policy) {
            Lookup::Fresh(answer) | Lookup::RefreshDue(answer) => return Some(self.to_wire(&answer)),
            Lookup::Stale(answer) => Some(answer),
            Lookup::Miss => None,
        };
        if let Some(failure) = cache.failure(&key, now) {
            let repeat =
                |response| Answer { response, ttl_view: TtlView::Original, ede: None, source: Source::Failure };
            return stale.or_else(|| failure.response.map(repeat)).map(|answer| self.to_wire(&answer));
        }
        let Some(wire) = self.ask(hop + 1, at, broken_from) else {
            return stale.map(|answer| self.to_wire(&answer));
        };
        let response = Arc::new(Response::read(&wire, 0, &self.question).unwrap());
        self.caches[hop].0.insert(&key, &response, now);
        Some(self.to_wire(&policy.new_answer(response)))
    }

    fn authority_response(&mut self, at: u64) -> Vec<u8> {
        let serial = u32::try_from(self.sent_at.len()).unwrap().to_be_bytes();
        self.sent_at.push(at);
        match self.shape {
            Shape::Positive(one, two) => {
                let records = [(rtype::A, one, serial.to_vec()), (rtype::A, two, serial.to_vec())];
                Response::with_records(&self.question, rcode::NOERROR, &records).wire().to_vec()
            }
            Shape::Negative(code, ttl, minimum) => {
                let soa = [&[0, 0][..], &serial, &[0; 12], &minimum.to_be_bytes()].concat();
                let zone = Name::from_text("example").unwrap();
                Response::negative(&self.question, code, &zone, ttl, &soa).wire().to_vec()
            }
        }
    }

    fn to_wire(&self, answer: &Answer) -> Vec<u8> {
        let name = self.question.name.clone();
        answer.to_udp_wire(&Query { edns: Some(Edns::default()), ..Query::plain(name, rtype::A) })
    }

    /// Asserts that the records of a response end no later than the authority said, or are marked as stale. A TTL is
    /// taken at its face value, as by a client that does not know RFC 2181 §8.
    fn assert_life(&self, wire: &[u8], at: u64) {
        let response = Message::from_vec(wire).unwrap();
        if matches!(ede(&response), Some(3 | 19)) {
            let ttls = response.answers.iter().chain(&response.authorities).map(|record| record.ttl);
            return ttls.for_each(|ttl| assert!(ttl <= STALE_TTL, "{ttl} s of a stale answer"));
        }
        let read = Response::read(wire, 0, &self.question).unwrap();
        let counts = |ttl: u32| if ttl > 0x7fff_ffff { 0 } else { ttl };
        for (index, record) in read.records().iter().enumerate() {
            let number = |offset: usize| u32::from_be_bytes(wire[offset..offset + 4].try_into().unwrap());
            let ttl = number(record.ttl_offset);
            let (serial, shown, source_ttl) = match self.shape {
                Shape::Positive(one, two) => (record.data.start, ttl, counts([one, two][index])),
                Shape::Negative(_, ttl_of_soa, minimum) => (
                    record.data.start + 2,
                    ttl.min(number(record.data.end - 4)),
                    counts(ttl_of_soa).min(counts(minimum)),
                ),
            };
            let end = self.sent_at[number(serial) as usize] + 1000 * u64::from(source_ttl);
            let shown_end = at + 1000 * u64::from(shown);
            assert!(shown_end < end + ROUNDING, "{shown_end} instead of {end}: {response}");
            assert!(shown == 0 || source_ttl > 0, "a TTL of 0 became {shown}");
        }
    }
}

/// TTLs at and around the limits.
fn ttl() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        1..100_u32,
        Just(3600),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        Just(0x8000_0e10),
        Just(u32::MAX),
        any::<u32>(),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (ttl(), ttl()).prop_map(|(one, two)| Shape::Positive(one, two)),
        (prop_oneof![Just(rcode::NXDOMAIN), Just(rcode::NOERROR)], ttl(), ttl())
            .prop_map(|(code, ttl, minimum)| Shape::Negative(code, ttl, minimum)),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let max_ttl = || prop_oneof![Just(5_u32), Just(30), Just(3600), Just(u32::MAX)];
    let serve_stale = prop_oneof![Just(0_u32), Just(60), Just(86_400)];
    (max_ttl(), max_ttl(), serve_stale).prop_map(|(max_ttl, negative_max_ttl, serve_stale)| Policy {
        max_ttl,
        negative_max_ttl,
        serve_stale,
    })
}

/// A query: milliseconds since the one before, the hop that gets it, and the first link that is broken, if any.
fn event() -> impl Strategy<Value = (u64, usize, usize)> {
    let pause = prop_oneof![Just(0), 1..2_000_u64, 1_000..40_000_u64, 1_000_000..5_000_000_u64];
    (pause, 0..HOPS, prop_oneof![Just(HOPS), Just(HOPS), 0..HOPS])
}

proptest! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_hop_lengthens_a_life_and_stale_answers_are_marked_at_each(
        shape in shape(), policies in vec(policy(), HOPS), events in vec(event(), 1..60),
    ) {
        let mut chain = Chain::new(shape, &policies);
        let mut at = 0;
        for (pause, hop, broken_from) in events {
            at += pause;
            if let Some(wire) = chain.ask(hop, at, broken_from) {
                chain.assert_life(&wire, at);
            }
        }
    }
}

/// A node whose zone has one resolver, which forwards to an authority.
struct Hops {
    node: Tier,
    resolver: Tier,
    authority: Authority,
    _cluster: Authority,
}

/// Starts the hops; the resolver queries the authority over this protocol. Each response of the authority has an
/// address of its own.
async fn hops(ttl: u32, protocol: Protocol) -> Hops {
    let authority = Authority::start(|_| Action::Ignore).await;
    respond_with_fresh_addresses(&authority, ttl, 0);
    let resolver = Tier::resolver_on(Ipv4Addr::LOCALHOST.into(), &[authority.address], protocol);
    let cluster = Authority::start(|query| Action::Respond(query.default_response(300, 53))).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", resolver.address)];
    let node = Tier::on_node(&config, Some("zone-a")).await;
    Hops { node, resolver, authority, _cluster: cluster }
}

/// Lets an authority number its responses in the last octet of their address, from `first` on.
fn respond_with_fresh_addresses(authority: &Authority, ttl: u32, first: u8) {
    let next = std::sync::atomic::AtomicU8::new(first);
    authority.set_script(move |query| {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let record = address_record(&query.name().to_ascii(), ttl, &format!("192.0.2.{number}"));
        Action::Respond(response_with(query, vec![record]))
    });
}

#[tokio::test]
async fn a_ttl_that_counts_as_zero_is_zero_at_every_hop() {
    let query = query_for("www.example", RecordType::A);
    let ttls = [0, 0x8000_0000, 0x8000_0e10, u32::MAX];
    for (ttl, protocol) in ttls.into_iter().flat_map(|ttl| [(ttl, Protocol::Udp), (ttl, Protocol::Tcp)]) {
        let hops = hops(ttl, protocol).await;
        for asked in 1..=3 {
            let response = match asked {
                3 => exchange_over_tcp(hops.node.address, &query).await,
                _ => exchange(hops.node.address, &query).await,
            };
            let expected = address_record("www.example", 0, &format!("192.0.2.{}", asked - 1));
            assert_eq!(response.answers, [expected], "TTL {ttl}");
            assert_eq!(hops.authority.query_count("www.example"), asked, "TTL {ttl} is kept");
            let is_tcp = hops.authority.queries().iter().all(|query| query.tcp == (protocol == Protocol::Tcp));
            assert!(is_tcp, "all over {protocol:?}");
        }
        assert_eq!(hops.node.resolver.cache().entries() + hops.resolver.resolver.cache().entries(), 0);
    }
}

#[tokio::test]
async fn a_ttl_counts_down_over_two_hops() {
    let query = query_for("www.example", RecordType::A);
    for (ttl, longest, protocol) in [(3600, 3600, Protocol::Udp), (0x7fff_ffff, 3600, Protocol::Tcp)] {
        let hops = hops(ttl, protocol).await;
        for server in [hops.resolver.address, hops.node.address, hops.node.address] {
            let response = exchange(server, &query).await;
            assert!((longest - 10..=longest).contains(&response.answers[0].ttl), "{response}");
        }
        assert_eq!(hops.authority.query_count("www.example"), 1);
    }
    let hops = hops(1, Protocol::Udp).await;
    let response = exchange(hops.node.address, &query).await;
    assert_eq!(response.answers, [address_record("www.example", 1, "192.0.2.0")]);
    // A second at each of two hops, at most.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let response = exchange(hops.node.address, &query).await;
    assert_ne!(response.answers[0].data, address_record("www.example", 1, "192.0.2.0").data);
}

#[tokio::test]
async fn a_stale_answer_of_a_resolver_is_never_kept_as_fresh_by_a_node() {
    let query = query_for("www.example", RecordType::A);
    let hops = hops(1, Protocol::Udp).await;
    exchange(hops.resolver.address, &query).await;
    hops.authority.stop_responding();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    for _ in 0..3 {
        let response = exchange(hops.node.address, &query).await;
        assert_eq!(response.answers, [address_record("www.example", 30, "192.0.2.0")]);
        assert_eq!(ede(&response), Some(3), "not marked");
    }
    assert_eq!(hops.node.resolver.cache().entries(), 0, "kept");
    respond_with_fresh_addresses(&hops.authority, 300, 100);
    let up_since = Instant::now();
    loop {
        let response = exchange(hops.node.address, &query).await;
        if ede(&response).is_none() {
            assert_ne!(response.answers[0].data, address_record("www.example", 0, "192.0.2.0").data);
            break;
        }
        assert!(up_since.elapsed() < Duration::from_secs(20), "stale for as long as a stale answer's TTL");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns a FORMERR as a server sends it that does not know EDNS, and then what `authority` sends.
fn after_format_error(query: &ReceivedQuery, response: &Message) -> Action {
    let [high, low] = query.message.metadata.id.to_be_bytes();
    Action::SendRaw(vec![vec![high, low, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0], response.to_vec().unwrap()])
}

#[tokio::test]
async fn a_resolver_of_the_tier_is_never_asked_without_edns_so_that_its_stale_answers_are_marked() {
    let stale = |query: &ReceivedQuery| {
        let mut response = response_with(query, vec![address_record("www.example", 30, "192.0.2.1")]);
        if let Some(edns) = &mut response.edns {
            edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 3]));
        }
        response
    };
    let resolver = Authority::start(move |query| after_format_error(query, &stale(query))).await;
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.zones = vec![zone("zone-a", resolver.address)];
    let node = Tier::on_node(&config, Some("zone-a")).await;
    for _ in 0..3 {
        let response = exchange(node.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers, [address_record("www.example", 30, "192.0.2.1")]);
        assert_eq!(ede(&response), Some(3), "not marked");
    }
    assert_eq!(node.resolver.cache().entries(), 0, "kept");
    assert!(resolver.queries().iter().all(|query| query.message.edns.is_some()));
}

#[tokio::test]
async fn a_stale_answer_without_edns_lives_no_longer_than_one_with_a_mark() {
    let hops = hops(1, Protocol::Udp).await;
    let mut query = query_for("www.example", RecordType::A);
    exchange(hops.node.address, &query).await;
    hops.authority.stop_responding();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    query.edns = None;
    for server in [hops.resolver.address, hops.node.address] {
        let response = exchange(server, &query).await;
        assert_eq!(response.answers, [address_record("www.example", STALE_TTL, "192.0.2.0")]);
        assert!(response.edns.is_none());
    }
}
