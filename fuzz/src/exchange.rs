//! A question, what a server says to it, and the same question once more. The answer from memory is the one that was
//! told, and the short way of a hit says octet by octet what the whole way says.
//!
//! The bytes: length of the client's packet (one octet), that packet, then of the server's answer the flags, three
//! counts of one octet, and everything behind the question.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache::cache::{Key, KeyBuf};
use node_cache::dns::answer::ReplyTransport;
use node_cache::dns::codes::rtype;
use node_cache::dns::fast_query::FastQuery;
use node_cache::dns::query::Query;
use node_cache::dns::{Response, ResponseTtl, request};
use node_cache::identity::Identity;
use node_cache::resolver::local_names;
use node_cache::resolver::{FastLookup, Hit, QUERY_BUF_LEN, RESPONSE_BUF_LEN, Resolver};
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use node_cache_config::{Cache, ClusterDns, Config, NodeCache, Resolver as ResolverConfig, UpstreamSource};
use tokio::runtime::Runtime;

use crate::message::{said, without_ttls};

/// Lives that end while a test is halted would show nothing.
const LONG_ENOUGH: u32 = 3000;

/// A resolver, and the runtime that it wants to be in although nobody is ever asked.
struct Bench {
    resolver: Resolver,
    runtime: Runtime,
    _book: GroupRegistry,
}

thread_local! {
    static BENCH: OnceCell<Bench> = const { OnceCell::new() };
}

/// Takes a packet of a client and an answer to it.
pub fn run(data: &[u8]) {
    let Some((length, data)) = data.split_first() else { return };
    let Some((packet, answer)) = data.split_at_checked(usize::from(*length)) else { return };
    let Ok(query) = request::read(packet) else { return };
    if local_names::answer(&query.question(), &Identity::default()).is_some() || query.rtype == rtype::ANY {
        return;
    }
    let Some(response) = told(&query, answer) else { return };
    BENCH.with(|bench| bench.get_or_init(Bench::new).exchange(packet, &query, &Arc::new(response)));
}

/// The answer of a server to this question.
fn told(query: &Query, answer: &[u8]) -> Option<Response> {
    let [flags_high, flags_low, answers, authorities, additionals, behind @ ..] = answer else { return None };
    let question = query.question();
    let head = [0, 0, *flags_high, *flags_low, 0, 1, 0, *answers, 0, *authorities, 0, *additionals];
    Response::read(&[&head[..], &question.section(), behind].concat(), 0, &question).ok()
}

impl Bench {
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

    fn exchange(&self, packet: &[u8], query: &Query, response: &Arc<Response>) {
        let _inside = self.runtime.enter();
        self.forget();
        let scope = self.resolver.snapshot().unwrap().routes.find(&query.name.lower()).id;
        self.resolver.cache().insert(&Key::new(scope, &query.question()), response, Instant::now());
        let life = match response.lifetime() {
            ResponseTtl::Positive(life) | ResponseTtl::Negative(life) => life,
            ResponseTtl::Uncacheable => return assert_eq!(self.resolver.cache().entries(), 0),
        };
        assert_eq!(self.resolver.cache().entries(), 1);
        if life < LONG_ENOUGH {
            return;
        }
        let answer = self.resolver.resolve_from_cache(query, None).expect("it is in memory");
        assert_eq!((answer.response.wire(), answer.response.rcode()), (response.wire(), response.rcode()));
        let datagram = answer.to_wire(query, ReplyTransport::Udp);
        let whole = answer.to_wire(query, ReplyTransport::Tcp { idle: Duration::from_secs(10) });
        assert!(whole[2] & 0x02 == 0 && without_ttls(said(&whole)).starts_with(&without_ttls(said(&datagram))));
        // As memory has it: of all EDEs, 65535 is not kept.
        let plain = FastQuery::read(packet).is_some_and(|plain| plain.name(packet) == query.name.as_bytes());
        let usual = plain && answer.ede.is_none() && answer.response.ede().is_none();
        let is_cut = said(&datagram).len() < said(&whole).len();

        let mut out = [0; RESPONSE_BUF_LEN];
        let Some(hit) = self.hit(packet, &mut out) else {
            return assert!(!usual || is_cut, "a usual hit takes the long way");
        };
        assert!(!hit.due && usual && !is_cut);
        let short = &out[..usize::from(hit.length.get())];
        assert_eq!(without_ages(short, response), without_ages(&datagram, response));
    }

    fn hit(&self, packet: &[u8], out: &mut [u8; RESPONSE_BUF_LEN]) -> Option<Hit> {
        let (moment, mut key) = (self.resolver.batch_context(), KeyBuf::default());
        // What is longer is cut off on reading; behind it stands something else.
        let mut room = [0xa5; QUERY_BUF_LEN];
        let length = packet.len().min(room.len());
        room[..length].copy_from_slice(&packet[..length]);
        let mut sought = FastLookup::read(moment.snapshot()?, &room, length)?;
        self.resolver.key_hasher().seek(&sought, &room, &mut key);
        self.resolver.prefetch_entry(&mut sought, &key);
        self.resolver.match_key(&mut sought, &key);
        self.resolver.hit(&moment, &sought, &mut key, &room, out)
    }

    fn forget(&self) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.resolver.cache().flush(from, |_| true).1;
        }
    }
}

/// A message without its TTLs: a second may have passed between two answers.
fn without_ages(message: &[u8], response: &Response) -> Vec<u8> {
    let mut message = message.to_vec();
    for offset in response.ttl_offsets() {
        message[usize::from(*offset)..][..4].fill(0);
    }
    message
}

/// A zone resolver of a server that nobody asks.
fn config() -> Config {
    let cache = Cache { max_ttl: 86_400, negative_max_ttl: 86_400, serve_stale: 3600 };
    Config {
        tier: "fuzz".into(),
        cluster_domain: "cluster.local".into(),
        cluster_dns: ClusterDns { bootstrap: vec![], service: "dns.kube-system.svc.cluster.local".into() },
        node_cache: NodeCache { captured: vec![], cache: cache.clone(), allow_from: vec![] },
        zones: vec![],
        resolver: ResolverConfig { upstreams: UpstreamSource::Servers(vec![]), cache, allow_from: vec![] },
        routes: vec![],
    }
}
