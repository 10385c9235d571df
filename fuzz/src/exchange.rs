//! Exchange: a query, the response of an upstream, and the query again. The cache returns the response that came in,
//! and the fast path of a hit sends octet by octet what the full path sends.
//!
//! Format of the bytes: length of the client's packet (one octet), that packet, then of the upstream's response the
//! flags, three counts of one octet each, and everything behind the question.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache::cache::{Key, KeyBuf};
use node_cache::dns::codes::rtype;
use node_cache::dns::fast_query::FastQuery;
use node_cache::dns::query::Query;
use node_cache::dns::{Response, ResponseTtl, request};
use node_cache::identity::Identity;
use node_cache::resolver::local_names;
use node_cache::resolver::{FastLookup, Hit, QUERY_BUF_LEN, RESPONSE_BUF_LEN, Resolver};
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use node_cache_config::{Cache, Config, UpstreamSource};
use tokio::runtime::Runtime;

use crate::message::{sent_records, without_ttls};

/// Smallest TTL in seconds of responses that are compared: one with a shorter TTL may expire when the process is
/// stopped.
const MIN_TTL: u32 = 3000;

/// Resolver, and the runtime that it needs although it never sends a query.
struct Fixture {
    resolver: Resolver,
    runtime: Runtime,
    _book: GroupRegistry,
}

thread_local! {
    static FIXTURE: OnceCell<Fixture> = const { OnceCell::new() };
}

/// Takes a packet of a client and the response to it.
pub fn run(data: &[u8]) {
    let Some((length, data)) = data.split_first() else { return };
    let Some((packet, response)) = data.split_at_checked(usize::from(*length)) else { return };
    let Ok(query) = request::read(packet) else { return };
    if local_names::answer(&query.question(), &Identity::default()).is_some() || query.rtype == rtype::ANY {
        return;
    }
    let Some(response) = read_response(&query, response) else { return };
    FIXTURE.with(|fixture| fixture.get_or_init(Fixture::new).assert_exchange(packet, &query, &Arc::new(response)));
}

/// Reads the upstream's response to a query; `None` where it is none.
fn read_response(query: &Query, response: &[u8]) -> Option<Response> {
    let [flags_high, flags_low, answers, authorities, additionals, behind @ ..] = response else { return None };
    let question = query.question();
    let header = [0, 0, *flags_high, *flags_low, 0, 1, 0, *answers, 0, *authorities, 0, *additionals];
    Response::read(&[&header[..], &question.section(), behind].concat(), 0, &question).ok()
}

impl Fixture {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let resolver = Resolver::new(Identity::default(), 1 << 20, Arc::default());
        let mut book = GroupRegistry::default();
        {
            let _inside = runtime.enter();
            resolver.apply(Snapshot::for_zone_resolver(&config(), "", &mut book));
        }
        Self { resolver, runtime, _book: book }
    }

    /// Stores a response and asserts that both paths return it from the cache.
    fn assert_exchange(&self, packet: &[u8], query: &Query, response: &Arc<Response>) {
        let _inside = self.runtime.enter();
        self.clear_cache();
        let scope = self.resolver.snapshot().unwrap().routes.find(&query.name.lower()).id;
        self.resolver.cache().insert(&Key::new(scope, &query.question()), response, Instant::now());
        let ttl = match response.ttl() {
            ResponseTtl::Positive(ttl) | ResponseTtl::Negative(ttl) => ttl,
            ResponseTtl::Uncacheable => return assert_eq!(self.resolver.cache().entries(), 0),
        };
        assert_eq!(self.resolver.cache().entries(), 1);
        if ttl < MIN_TTL {
            return;
        }
        let answer = self.resolver.resolve_from_cache(query, None).expect("the response is in the cache");
        assert_eq!((answer.response.wire(), answer.response.rcode()), (response.wire(), response.rcode()));
        let datagram = answer.to_udp_wire(query);
        let complete = answer.to_tcp_wire(query, Duration::from_secs(10));
        let complete_records = without_ttls(sent_records(&complete));
        let datagram_records = without_ttls(sent_records(&datagram));
        assert!(complete[2] & 0x02 == 0 && complete_records.starts_with(&datagram_records));
        // Extended errors (EDE) count as the cache has them: 65535 is not cached.
        let is_plain = FastQuery::read(packet).is_some_and(|plain| plain.name(packet) == query.name.as_bytes());
        let is_usual = is_plain && answer.ede.is_none() && answer.response.ede().is_none();
        let is_truncated = datagram_records.len() < complete_records.len();

        let mut out = [0; RESPONSE_BUF_LEN];
        let Some(hit) = self.fast_hit(packet, &mut out) else {
            return assert!(!is_usual || is_truncated, "a usual hit takes the full path");
        };
        assert!(!hit.refresh_due && is_usual && !is_truncated);
        let fast = &out[..usize::from(hit.length.get())];
        assert_eq!(zero_ttls(fast, response), zero_ttls(&datagram, response));
    }

    /// Answers a packet on the fast path; `None` where it is left to the full path.
    fn fast_hit(&self, packet: &[u8], out: &mut [u8; RESPONSE_BUF_LEN]) -> Option<Hit> {
        let moment = self.resolver.batch_context();
        let mut key = KeyBuf::default();
        // The rest of a longer packet is cut off on reading; behind a shorter one the buffer has old octets.
        let mut buffer = [0xa5; QUERY_BUF_LEN];
        let length = packet.len().min(buffer.len());
        buffer[..length].copy_from_slice(&packet[..length]);
        let mut sought = FastLookup::parse(moment.snapshot()?, &buffer, length)?;
        self.resolver.key_hasher().hash(&sought, &buffer, &mut key);
        self.resolver.prefetch_entry(&mut sought, &key);
        self.resolver.match_key(&mut sought, &key);
        self.resolver.hit(&moment, &sought, &mut key, &buffer, out)
    }

    fn clear_cache(&self) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.resolver.cache().flush(from, |_| true).next;
        }
    }
}

/// Returns a message with all TTLs set to 0: a second may have passed between two responses.
fn zero_ttls(message: &[u8], response: &Response) -> Vec<u8> {
    let mut message = message.to_vec();
    for offset in response.ttl_offsets() {
        message[usize::from(*offset)..][..4].fill(0);
    }
    message
}

/// Returns the configuration of a zone resolver without upstreams.
fn config() -> Config {
    let mut config = Config::example();
    config.resolver.cache = Cache { max_ttl: 86_400, negative_max_ttl: 86_400, serve_stale: 3600 };
    config.resolver.upstreams = UpstreamSource::Servers(vec![]);
    config.resolver.allow_from = vec![];
    config
}
