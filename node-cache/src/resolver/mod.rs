//! Resolves a query: loop probes, local names, route, cache, single-flight, upstream, stale answer, SERVFAIL.
//!
//! | behaviour | file |
//! | --- | --- |
//! | local names: `id.server` (RFC 4892), `localhost`, `invalid` (RFC 6761), `onion`, `resolver.arpa` | `local_names` |
//! | fast path of a cache hit over UDP | `hit` |
//! | prefetch: refresh of a cached answer in the last tenth of its TTL | [`Resolver::refresh`] |
//! | cache miss; serve-stale (RFC 8767); minimal response to ANY (RFC 8482) | `miss` |
//! | serve-stale: the client response timer | `client_response_timer` |
//! | single-flight: leader and followers of one upstream query | `single_flight` |
//! | queries that go on after their deadline, for a late answer | `late_flights` |
//! | room of a node cache and of a zone resolver: queries in flight, queries that wait | `room` |
//! | shares of the queries in flight: scope, registered domain, client | `admission`, `failing_domains` |
//! | NXDOMAIN cut (RFC 8020), where it has proved itself | `nxdomain_cut`, `cut_evidence` |
//! | aliases that lead into another scope (RFC 1034 §5.3.3) | `alias_routing`, `aliases` |
//! | negative caching (RFC 2308), caching of failures (RFC 9520) | `miss` stores, [`crate::cache`] keeps |
//! | SERVFAIL and its Extended DNS Error (RFC 8914) | `servfail` |
//! | probes past the cache | `probe` |
//! | text of `explain`, `stats`, `dump` and `flush` | `inspect` |
//! | text of `explain ADDRESS`: an upstream and its episodes | `explain_upstream` |
//!
//! The resolver knows no sockets of clients: [`crate::server`] reads queries and sends responses.

mod admission;
mod alias_routing;
mod aliases;
mod client_response_timer;
mod cut_evidence;
mod explain_upstream;
mod failing_domains;
mod hit;
mod inspect;
mod late_flights;
pub mod local_names;
mod miss;
mod nxdomain_cut;
mod probe;
mod room;
mod servfail;
mod single_flight;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use node_cache_sys::clock::nanoseconds;
use tokio::time::Instant;

use crate::cache::{Cache, Key, Lookup};
use crate::dns::answer::Answer;
use crate::dns::codes::{rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dns::{Response, ResponseTtl};
use crate::dnstap::Tap;
use crate::identity::Identity;
use crate::metrics::{LOCAL_SCOPE, Metrics, ScopeCounters};
use crate::snapshot::{Scope, Snapshot};
use crate::upstream::QueryPurpose;
use admission::FlightOrigin;
use cut_evidence::CutEvidence;
pub use hit::{BatchContext, FastLookup, Hit, KeyHasher, KnownMiss, QUERY_BUF_LEN, RESPONSE_BUF_LEN};
pub use miss::DeferredStore;
use miss::FlightOutcome;
pub use probe::UpstreamAnswer;
pub use room::Room;
use single_flight::{InFlight, Join};

/// The resolver of one process: its cache, upstream queries in flight, and the snapshot of the active revision.
#[derive(Debug)]
pub struct Resolver {
    identity: Identity,
    cache: Arc<Cache>,
    room: Room,
    in_flight: Arc<InFlight>,
    cut_evidence: Arc<CutEvidence>,
    snapshot: ArcSwapOption<Snapshot>,
    metrics: Arc<Metrics>,
    tap: Arc<Tap>,
    /// Start of the cache's clock, in [`nanoseconds`].
    clock_start: u64,
}

/// Cache lookup of one query.
#[derive(Debug)]
struct CacheLookup {
    snapshot: Arc<Snapshot>,
    scope: Arc<Scope>,
    question: Arc<Question>,
    key: Key,
    /// Result of the lookup; an NXDOMAIN cut counts as a fresh answer.
    cached: Lookup,
    started: Instant,
    /// Generation of [`InFlight`] before the lookup.
    generation: u64,
}

impl CacheLookup {
    /// Returns the stale answer, if the cache has one.
    fn stale(&self) -> Option<Answer> {
        match &self.cached {
            Lookup::Stale(answer) => Some(answer.clone()),
            Lookup::Fresh(_) | Lookup::RefreshDue(_) | Lookup::Miss => None,
        }
    }

    /// Returns the stale answer, or the one of `fallback` if the cache has none.
    fn stale_or(&self, fallback: impl FnOnce() -> Answer) -> Answer {
        self.stale().unwrap_or_else(fallback)
    }

    /// Returns the stale answer that is better than this response: any, if the response is no denial of a fallback,
    /// which only the records of the upstreams outlive.
    fn stale_better_than(&self, response: Option<&Response>) -> Option<Answer> {
        let is_denial = response.is_some_and(Response::is_denied_by_fallback);
        // The reserve of a node are the upstreams themselves.
        let is_of_fallback =
            |stale: &Answer| !self.scope.trusted && self.scope.pool.is_of_reserve(stale.response.upstream_id());
        // A denial that is stale says no more than one that is not.
        let has_records = |stale: &Answer| matches!(stale.response.ttl(), ResponseTtl::Positive(_));
        self.stale().filter(|stale| !is_denial || (has_records(stale) && !is_of_fallback(stale)))
    }
}

/// A query that the cache cannot answer, for [`Resolver::resolve_miss`].
#[derive(Debug)]
pub struct CacheMiss {
    started: Instant,
    /// `None` for ANY, and before the first snapshot.
    lookup: Option<CacheLookup>,
}

impl Resolver {
    /// Returns a resolver with the room of a node cache, whose cache takes `cache_bytes` at most. Without a
    /// [`Snapshot`] it answers local names only, and SERVFAIL to everything else.
    #[must_use]
    pub fn new(identity: Identity, cache_bytes: u64, metrics: Arc<Metrics>) -> Self {
        Self::with_room(identity, cache_bytes, metrics, Room::NODE_CACHE)
    }

    /// Returns a resolver as [`Self::new`] does, with this room.
    #[must_use]
    pub fn with_room(identity: Identity, cache_bytes: u64, metrics: Arc<Metrics>, room: Room) -> Self {
        let cache = Arc::new(Cache::new(cache_bytes));
        let tap = Arc::new(Tap::new(&identity));
        let clock_start = nanoseconds();
        Self {
            identity,
            cache,
            room,
            in_flight: Arc::new(InFlight::with_room(room.in_flight)),
            cut_evidence: Arc::default(),
            snapshot: ArcSwapOption::empty(),
            metrics,
            tap,
            clock_start,
        }
    }

    /// Applies a revision to all later queries.
    pub fn apply(&self, snapshot: Snapshot) {
        self.in_flight.set_scopes(snapshot.scopes().len());
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Some(snapshot.clone()));
        // In the order of the configuration: where there are too many scopes, the same ones have entries of their own
        // in every pod.
        for scope in snapshot.scopes() {
            self.scope_counters(scope);
        }
    }

    /// Returns the snapshot of the active revision.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Returns the identity of this process.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the room of this process.
    #[must_use]
    pub const fn room(&self) -> Room {
        self.room
    }

    /// Returns the counters of this process.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns the dnstap of this process.
    #[must_use]
    pub const fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// Returns the cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Returns the counters of NOERROR and NXDOMAIN responses in a scope.
    #[inline]
    fn scope_counters<'a>(&self, scope: &'a Scope) -> &'a ScopeCounters {
        scope.counters.get_or_init(|| self.metrics.scope_counters(&scope.name))
    }

    /// Resolves a query of the process itself. Takes no longer than the deadline of the name's scope.
    pub async fn resolve(&self, query: &Query) -> Answer {
        match self.resolve_from_cache(query, None) {
            Ok(answer) => answer,
            Err(miss) => self.resolve_miss(query, miss).await.0,
        }
    }

    /// Resolves a query without an upstream: from local names, empty zones or the cache. With a [`KnownMiss`] the cache
    /// is not searched for the name again. Starts a prefetch when the cached answer is in the last tenth of its TTL.
    ///
    /// # Errors
    ///
    /// [`CacheMiss`] for every other query, for [`Self::resolve_miss`].
    pub fn resolve_from_cache(&self, query: &Query, known_miss: Option<KnownMiss>) -> Result<Answer, CacheMiss> {
        let started = Instant::now();
        let snapshot = self.snapshot();
        let question = Arc::new(query.question());
        if snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.context.loop_probes.detect_loop(&question.name, started.into_std()))
        {
            // A probe of this process has come back: an upstream forwards to it. Reply at once, so that the upstream
            // need not wait.
            let answer = Answer::local(Response::empty(&question, rcode::NXDOMAIN), None);
            self.metrics.count_response(LOCAL_SCOPE, None, query.transport, &answer, started.elapsed());
            return Ok(answer);
        }
        let empty_zone = || snapshot.as_ref().and_then(|snapshot| snapshot.empty_zones.answer(&question));
        if let Some(answer) = local_names::answer(&question, &self.identity).or_else(empty_zone) {
            self.metrics.count_response(LOCAL_SCOPE, None, query.transport, &answer, started.elapsed());
            return Ok(answer);
        }
        if query.rtype == rtype::ANY {
            return Err(CacheMiss { started, lookup: None });
        }
        let lookup = snapshot.map(|snapshot| self.look_up(snapshot, question, started, known_miss));
        let (scope, answer) = match &lookup {
            Some(CacheLookup { scope, cached: Lookup::Fresh(answer) | Lookup::RefreshDue(answer), .. })
                if !answer.response.is_partial() =>
            {
                (scope, answer)
            }
            _ => return Err(CacheMiss { started, lookup }),
        };
        self.metrics.count_response(
            &scope.name,
            Some(self.scope_counters(scope)),
            query.transport,
            answer,
            started.elapsed(),
        );
        let answer = answer.clone();
        lookup.iter().for_each(|lookup| self.refresh_if_due(lookup, query.recursion_desired));
        Ok(answer)
    }

    /// Prefetches the answer to a query: refreshes a cached answer in the last tenth of its TTL, so that no client has
    /// to wait when it expires. Returns at once. A cached failure (RFC 9520) is not repeated.
    pub fn refresh(&self, query: &Query) {
        if let Some(snapshot) = self.snapshot() {
            let lookup = self.look_up(snapshot, Arc::new(query.question()), Instant::now(), None);
            self.refresh_if_due(&lookup, query.recursion_desired);
        }
    }

    fn refresh_if_due(&self, lookup: &CacheLookup, recursion_desired: bool) {
        let CacheLookup { snapshot, scope, question, key, cached: Lookup::RefreshDue(_), generation, .. } = lookup
        else {
            return;
        };
        if !recursion_desired {
            return;
        }
        let refreshed = || match self.cached_outcome(snapshot, scope, key) {
            Some(FlightOutcome::RefreshDue(_)) | None => None,
            fresh_or_failure => fresh_or_failure,
        };
        let origin = || FlightOrigin::new(scope, &question.name, None);
        let join = self.in_flight.join(key, *generation, origin, refreshed, || {
            self.metrics.count_refresh();
            self.start_query(snapshot, scope, question.clone(), QueryPurpose::Refresh)
        });
        self.count_refusal(&join);
        if let Join::Leader(leader) = join {
            leader.detach();
        }
    }

    fn look_up(
        &self,
        snapshot: Arc<Snapshot>,
        question: Arc<Question>,
        started: Instant,
        known_miss: Option<KnownMiss>,
    ) -> CacheLookup {
        let generation = known_miss.map_or_else(|| self.in_flight.generation(), |miss| miss.generation);
        let scope = snapshot.routes.find(&question.name).clone();
        let key = Key::new(scope.id, &question);
        let get = || self.cache.get(&key, started.into_std(), &snapshot.policy);
        let cached = match known_miss.map_or_else(get, |_| Lookup::Miss) {
            fresh @ (Lookup::Fresh(_) | Lookup::RefreshDue(_)) => fresh,
            stale_or_miss => self.cached_cut(&snapshot, &scope, &question, &key).map_or(stale_or_miss, Lookup::Fresh),
        };
        CacheLookup { snapshot, scope, question, key, cached, started, generation }
    }
}
