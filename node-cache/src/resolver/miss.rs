//! Cache misses: cached failure (RFC 9520), NXDOMAIN cut, single-flight, upstream query, serve-stale (RFC 8767),
//! SERVFAIL. Also the minimal response to ANY (RFC 8482).

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::admission::FlightOrigin;
use super::alias_routing::split_response;
use super::client_response_timer::client_response_timer;
use super::cut_evidence::CutEvidence;
use super::late_flights::LateOrigin;
use super::nxdomain_cut::is_denial;
use super::servfail::{cached_failure, denial_by_fallback, failed_answer, failure, is_bogus, truncated_answer};
use super::single_flight::{
    FlightEvent, Join, Leader, StoreResult, UpstreamQuery, UpstreamResult, WaitError, WaitResult,
};
use super::{CacheLookup, CacheMiss, Resolver};
use crate::cache::{Cache, CachedFailure, Key, Lookup};
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{class, ede, rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dns::{Name, Response, ResponseTtl};
use crate::metrics::{LOCAL_SCOPE, Metrics, RefusalReason};
use crate::snapshot::private_answers::FilterResult;
use crate::snapshot::{Scope, Snapshot};
use crate::upstream::{NoAnswer, QueryEvent, QueryPurpose};

/// Time beyond the deadline in which a leader reports its result to followers.
const FOLLOWER_GRACE: Duration = Duration::from_millis(100);
/// TTL of the HINFO record of RFC 8482, in seconds.
const ANY_TTL: u32 = 3600;

/// Cached result of an upstream query.
pub(super) enum FlightOutcome {
    /// A fresh answer.
    Answer(Answer),
    /// A fresh answer in the last tenth of its TTL.
    RefreshDue(Answer),
    /// A failure (RFC 9520): the upstream's response, or `None` when no upstream responded.
    Failure(CachedFailure),
}

/// Resolution of a rare kind of query, boxed so that the others reserve no memory for it.
type PendingResolution<'a> = Pin<Box<dyn Future<Output = Resolution> + Send + 'a>>;

/// How a query waits for the upstream query that it needs.
enum FlightWait {
    /// As the leader, without a time limit: the upstream query has a result at the deadline of its scope.
    Leader(Leader<CacheSink>),
    /// As a follower, or as a leader that detaches the upstream query at its time limit.
    Bounded(Pin<Box<dyn Future<Output = WaitResult> + Send>>),
}

impl FlightWait {
    /// Returns the leader, whose answer is to be stored. One that is late goes on in a task of its own.
    fn into_leader(self) -> Option<Leader<CacheSink>> {
        match self {
            Self::Leader(leader) if leader.is_late() => {
                leader.detach();
                None
            }
            Self::Leader(leader) => Some(leader),
            Self::Bounded(_) => None,
        }
    }
}

impl Future for FlightWait {
    type Output = WaitResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WaitResult> {
        match &mut *self {
            Self::Leader(leader) => Pin::new(leader).poll(context),
            Self::Bounded(wait) => wait.as_mut().poll(context),
        }
    }
}

/// Stores the results of upstream queries in the cache.
pub(super) struct CacheSink {
    cache: Arc<Cache>,
    cut_evidence: Arc<CutEvidence>,
    scope: Arc<Scope>,
    question: Arc<Question>,
    started: Instant,
}

impl CacheSink {
    /// Learns from a response, which is no failure, where names exist.
    fn learn(&self, response: &Response, now: std::time::Instant) {
        let Self { cut_evidence, scope, .. } = self;
        let Some(zone) = &scope.zone else {
            if matches!(response.ttl(), ResponseTtl::Positive(_)) {
                cut_evidence.record_outside_name(response.question_name());
            }
            return;
        };
        let Ok((name, _)) = Name::read_uncompressed(response.question_name(), 0) else { return };
        if is_denial(response) {
            cut_evidence.record_denial(
                scope.id,
                &name,
                zone,
                response.question_type_and_class() == Some((rtype::A, class::IN)),
                now,
            );
        } else {
            cut_evidence.record_existence(scope.id, &name, zone, now);
        }
    }
}

impl StoreResult for CacheSink {
    fn store(&self, key: &Key, result: &UpstreamResult) {
        let Self { cache, scope, started, .. } = self;
        let now = Instant::now().into_std();
        if let Ok(response) = result
            && !response.is_failure()
            && !response.is_truncated()
        {
            self.learn(response, now);
        }
        match result {
            Ok(response) if response.is_momentary_failure() || response.is_bare_error() => {}
            // What the upstreams have said stays, fresh or stale. Their recovery ends the denial.
            Ok(response) if response.is_denied_by_fallback() => cache.insert_failure(key, Some(response.clone()), now),
            // A known answer, stale or not, is better than a truncated one.
            Ok(response) if response.is_truncated() => {}
            Ok(response) if response.is_failure() => cache.insert_failure(key, Some(response.clone()), now),
            // CoreDNS responds NXDOMAIN to TXT for a namespace, and NODATA to A.
            Ok(response) if scope.zone.is_some() => cache.insert_for_type(key, response, now),
            Ok(response) => cache.insert(key, response, now),
            // The upstreams were down during the query, and one of them has recovered since: no failure to cache.
            Err(NoAnswer) if scope.pool.recovered_at().is_some_and(|at| at > started.into_std()) => {}
            Err(NoAnswer) => cache.insert_failure(key, None, now),
        }
    }

    fn late_origin(&self) -> LateOrigin {
        let Self { scope, question, started, .. } = self;
        LateOrigin {
            flight: FlightOrigin::new(scope, &question.name, None),
            started_at: started.into_std(),
            is_down: scope.pool.is_down(),
        }
    }
}

/// An upstream query, and the future of its response. Keeps the memory of the query until it is dropped.
struct PendingAnswer<F> {
    query: F,
    /// Routes by which aliases lead into other scopes.
    snapshot: Arc<Snapshot>,
    scope: Arc<Scope>,
    metrics: Arc<Metrics>,
}

impl<F> PendingAnswer<F> {
    /// Returns the response that goes to clients and into the cache: private addresses are refused where the scope says
    /// so.
    fn refuse_private_answers(&self, response: Response) -> Response {
        let Some(filter) = &self.scope.private_answers else { return response };
        let FilterResult { response, is_refused } = filter.apply(response);
        if is_refused {
            self.metrics.count_private_answer();
        }
        response
    }
}

impl<F> PendingAnswer<F> {
    /// Returns the response that goes to clients and into the cache.
    fn prepare(&self, mut response: Response) -> Arc<Response> {
        // The reserve of a scope whose servers belong to the tier does not.
        let is_of_reserve = self.scope.pool.is_of_reserve(response.upstream_id());
        if !self.scope.trusted || is_of_reserve {
            response.clear_authentic_data();
            response.clear_tier_error();
        }
        if response.has_alias() && !response.is_truncated() {
            split_response(&self.snapshot, self.scope.id, &mut response);
        }
        if is_of_reserve {
            self.metrics.count_reserve_response();
            if !self.scope.trusted {
                response.mark_denial_by_fallback();
            }
        }
        Arc::new(self.refuse_private_answers(response))
    }
}

impl<F: Future<Output = QueryEvent> + Unpin> Future for PendingAnswer<F> {
    type Output = FlightEvent;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FlightEvent> {
        Poll::Ready(match ready!(Pin::new(&mut self.query).poll(context)) {
            // It is no upstream that says so.
            QueryEvent::BudgetExhausted(response) => FlightEvent::End(Ok(Arc::new(response))),
            QueryEvent::End(result) => FlightEvent::End(result.map(|response| self.prepare(response))),
            QueryEvent::Deadline(bad_response) => {
                FlightEvent::Deadline(bad_response.map(|response| self.prepare(response)).ok_or(NoAnswer))
            }
        })
    }
}

/// On drop, stores the answer and wakes followers; hold it until the reply is sent.
#[must_use = "dropped at once, it delays the reply to the client"]
pub struct DeferredStore {
    _leader: Option<Leader<CacheSink>>,
}

impl DeferredStore {
    /// Nothing to store.
    pub(super) const NOTHING: Self = Self { _leader: None };
}

/// Result of a cache miss.
pub(super) struct Resolution {
    /// `None` before the first snapshot.
    pub(super) scope: Option<Arc<Scope>>,
    pub(super) answer: Answer,
    pub(super) store: DeferredStore,
}

impl Resolution {
    /// Returns the resolution of a query whose answer is not to be stored.
    const fn stored(scope: Option<Arc<Scope>>, answer: Answer) -> Self {
        Self { scope, answer, store: DeferredStore::NOTHING }
    }

    /// Returns the resolution of a query that arrives before the first snapshot.
    fn not_ready(query: &Query) -> Self {
        Self::stored(None, failure(query, rcode::SERVFAIL, ede::NOT_READY))
    }
}

impl Resolver {
    /// Resolves a query that [`Self::resolve_from_cache`] could not answer, by querying upstreams unless a cached
    /// failure or an NXDOMAIN cut makes that pointless. Takes no longer than the deadline of the name's scope. The
    /// answer is stored when the [`DeferredStore`] is dropped.
    #[allow(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, in each query that waits")]
    pub fn resolve_miss<'a>(
        &'a self,
        query: &'a Query,
        miss: CacheMiss,
    ) -> impl Future<Output = (Answer, DeferredStore)> + Send + 'a {
        async move {
            // What is alive while a query waits takes memory in each: a resolution is not.
            let rare: PendingResolution<'_> = match &miss.lookup {
                _ if query.rtype == rtype::ANY => Box::pin(self.answer_any(query)),
                Some(lookup) => {
                    let resolution = self.answer(query, lookup, false).await;
                    if !resolution.answer.response.is_partial() {
                        return self.count_resolution(query, miss.started, resolution);
                    }
                    Box::pin(self.complete(query, lookup, resolution))
                }
                None => return self.count_resolution(query, miss.started, Resolution::not_ready(query)),
            };
            let resolution = rare.await;
            self.count_resolution(query, miss.started, resolution)
        }
    }

    /// Counts the response to a query, and returns it.
    fn count_resolution(&self, query: &Query, started: Instant, resolution: Resolution) -> (Answer, DeferredStore) {
        let Resolution { scope, answer, store } = resolution;
        let name = scope.as_ref().map_or(LOCAL_SCOPE, |scope| &scope.name);
        let counters = scope.as_deref().map(|scope| self.scope_counters(scope));
        self.metrics.count_response(name, counters, query.transport, &answer, started.elapsed());
        (answer, store)
    }

    /// Answers ANY with as little as possible (RFC 8482), without hiding NXDOMAIN: the records of type A, or else one
    /// HINFO record.
    async fn answer_any(&self, query: &Query) -> Resolution {
        let query_a = Query { rtype: rtype::A, ..query.clone() };
        let Some(snapshot) = self.snapshot() else { return Resolution::not_ready(query) };
        let lookup = self.look_up(snapshot, Arc::new(query_a.question()), Instant::now(), None);
        let mut resolution = self.answer(&query_a, &lookup, false).await;
        if resolution.answer.response.is_partial() {
            resolution = self.complete(&query_a, &lookup, resolution).await;
        }
        let response = &resolution.answer.response;
        if response.rcode() == rcode::NOERROR && !response.has_answer() && !response.is_truncated() {
            let hinfo = (rtype::HINFO, ANY_TTL, b"\x07RFC8482\0".to_vec());
            resolution.answer =
                Answer::local(Response::with_records(&query.question(), rcode::NOERROR, &[hinfo]), None);
        }
        resolution
    }

    /// Answers a query whose cache lookup is done. `is_continuation` says that the query continues an alias of another
    /// name, whose time it has.
    #[allow(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, in each query that waits")]
    pub(super) fn answer<'a>(
        &'a self,
        query: &'a Query,
        lookup: &'a CacheLookup,
        is_continuation: bool,
    ) -> impl Future<Output = Resolution> + Send + 'a {
        async move {
            let deadline = lookup.started + lookup.scope.deadline;
            if let Some(answer) = self.answer_without_upstream(query, lookup) {
                return Resolution::stored(Some(lookup.scope.clone()), answer);
            }
            let mut wait = match self.join_or_lead(query, lookup, deadline, is_continuation) {
                Ok(wait) => wait,
                Err(answer) => return Resolution::stored(Some(lookup.scope.clone()), answer),
            };
            let result = (&mut wait).await;
            let leader = wait.into_leader();
            let scope = Some(lookup.scope.clone());
            if lookup.scope.zone.is_some() && result.as_ref().is_ok_and(|response| is_denial(response)) {
                self.probe_cuts(lookup);
            }
            let answer = match result {
                Ok(response) if response.is_budget_exhausted() => {
                    lookup.stale_or(|| failure(query, rcode::SERVFAIL, lookup.snapshot.budget_ede))
                }
                Ok(response) if response.is_failure() => match lookup.stale() {
                    Some(stale) if !is_bogus(&response) => stale,
                    _ => failed_answer(&lookup.snapshot, response),
                },
                Ok(response) if response.is_truncated() => lookup.stale_or(|| truncated_answer(query, response)),
                Ok(response) if response.is_denied_by_fallback() => lookup
                    .stale_better_than(Some(&response))
                    .unwrap_or_else(|| denial_by_fallback(&lookup.snapshot, response)),
                Ok(response) => lookup.snapshot.policy.new_answer(response),
                Err(WaitError::NoAnswer) => {
                    lookup.stale_or(|| failure(query, rcode::SERVFAIL, lookup.snapshot.failed_ede))
                }
                Err(WaitError::InFlight(bad_response)) => late_failure(query, lookup, bad_response),
            };
            Resolution { scope, answer, store: DeferredStore { _leader: leader } }
        }
    }

    /// Returns the answer that needs no upstream query: a fresh cached answer, REFUSED without RD, a stale answer while
    /// all upstreams are down, or a cached failure (RFC 9520). A stale answer is refreshed in the background.
    fn answer_without_upstream(&self, query: &Query, lookup: &CacheLookup) -> Option<Answer> {
        if let Lookup::Fresh(answer) | Lookup::RefreshDue(answer) = &lookup.cached {
            return Some(answer.clone());
        }
        if !query.recursion_desired {
            return Some(failure(query, rcode::REFUSED, ede::NOT_AUTHORITATIVE));
        }
        if let Some(stale) = lookup.stale()
            && lookup.scope.pool.is_down()
        {
            self.refresh_stale(lookup);
            return Some(stale);
        }
        let cached = self.failure_of(&lookup.scope, &lookup.key, lookup.started)?;
        let stale = lookup.stale_better_than(cached.response.as_deref());
        Some(stale.unwrap_or_else(|| cached_failure(query, &lookup.snapshot, cached)))
    }

    /// Returns whether a query in flight may answer this one.
    #[must_use]
    pub fn is_in_flight(&self, miss: &CacheMiss) -> bool {
        miss.lookup.as_ref().is_none_or(|lookup| self.in_flight.contains(&lookup.key))
    }

    /// Returns the answer of a zone resolver to a query that finds no room among those that wait, for this reason:
    /// what is known without an upstream, or else SERVFAIL that says so. It takes no room. `None` on a node, where the
    /// client shall repeat the query, and before the first snapshot.
    pub fn answer_without_room(&self, query: &Query, miss: &CacheMiss, reason: RefusalReason) -> Option<Answer> {
        let snapshot = self.snapshot().filter(|snapshot| snapshot.serves_nodes())?;
        let lookup = miss.lookup.as_ref();
        let known = lookup.and_then(|lookup| self.answer_without_upstream(query, lookup).or_else(|| lookup.stale()));
        let answer = known.filter(|answer| !answer.response.is_partial()).unwrap_or_else(|| {
            self.metrics.count_refused_admission(reason);
            failure(query, rcode::SERVFAIL, snapshot.overload_ede)
        });
        let scope = lookup.map(|lookup| &*lookup.scope);
        let name = scope.map_or(LOCAL_SCOPE, |scope| &scope.name);
        let counters = scope.map(|scope| self.scope_counters(scope));
        self.metrics.count_response(name, counters, query.transport, &answer, miss.started.elapsed());
        Some(answer)
    }

    /// Refreshes a stale answer in the background while all upstreams are down: they may be silent for other names
    /// only. A cached failure of the name is not repeated (failure recheck timer of RFC 8767 §5): each name is queried
    /// once in one to five seconds, and all names of a pool together five times a second.
    fn refresh_stale(&self, lookup: &CacheLookup) {
        let CacheLookup { snapshot, scope, question, key, generation, .. } = lookup;
        if self.failure_of(scope, key, lookup.started).is_some() || !scope.pool.take_stale_refresh() {
            return;
        }
        if let Join::Leader(leader) = self.join_query(snapshot, scope, key, *generation, question.clone(), None) {
            leader.detach();
        }
    }

    /// Joins the query in flight for the key of this lookup, or starts and leads one. That of a continuation may end
    /// later than its client's deadline.
    ///
    /// # Errors
    ///
    /// The answer, when there is nothing to wait for: it is cached by now, or there is no room for the query.
    fn join_or_lead(
        &self,
        query: &Query,
        lookup: &CacheLookup,
        deadline: Instant,
        is_continuation: bool,
    ) -> Result<FlightWait, Answer> {
        let CacheLookup { snapshot, scope, question, key, generation, .. } = lookup;
        // Serve-stale: the client response timer applies. Without it the upstream query ends at the deadline by itself.
        let timer = lookup.stale().map(|_| Instant::now() + client_response_timer(scope.pool.p95()));
        let wait_limit = timer.into_iter().chain(is_continuation.then_some(deadline)).min();
        let join = self.join_query(snapshot, scope, key, *generation, question.clone(), query.client);
        match (join, wait_limit) {
            (Join::Leader(leader), None) => Ok(FlightWait::Leader(leader)),
            (Join::Leader(leader), Some(limit)) => Ok(FlightWait::Bounded(Box::pin(leader.wait_until(limit)))),
            (Join::Follower(follower), limit) => {
                let limit = limit.unwrap_or(deadline + FOLLOWER_GRACE);
                let wait = async move {
                    match timeout_at(limit, follower.wait()).await {
                        Ok(result) => result.map_err(WaitError::from),
                        Err(_) => Err(WaitError::InFlight(None)),
                    }
                };
                Ok(FlightWait::Bounded(Box::pin(wait)))
            }
            (Join::AlreadyCached(FlightOutcome::Answer(answer) | FlightOutcome::RefreshDue(answer)), _) => Err(answer),
            (Join::AlreadyCached(FlightOutcome::Failure(cached)), _) => {
                let stale = lookup.stale_better_than(cached.response.as_deref());
                Err(stale.unwrap_or_else(|| cached_failure(query, snapshot, cached)))
            }
            (Join::AtCapacity(_), _) => Err(lookup.stale_or(|| failure(query, rcode::SERVFAIL, snapshot.overload_ede))),
        }
    }

    /// Returns the cached failure (RFC 9520) of a key: the upstream's response, or `CachedFailure { response: None }`
    /// when no upstream responded. The recovery of an upstream ends all failures from before it.
    pub(super) fn failure_of(&self, scope: &Scope, key: &Key, now: Instant) -> Option<CachedFailure> {
        let failure = self.cache.failure(key, now.into_std())?;
        let Some(recovered_at) = scope.pool.recovered_at() else { return Some(failure) };
        self.cache.clear_failure_before(key, recovered_at);
        self.cache.failure(key, now.into_std())
    }

    /// Joins the query in flight for a key, or starts one for `client`, unless the cache has got a result since this
    /// generation.
    pub(super) fn join_query(
        &self,
        snapshot: &Arc<Snapshot>,
        scope: &Arc<Scope>,
        key: &Key,
        generation: u64,
        question: Arc<Question>,
        client: Option<IpAddr>,
    ) -> Join<FlightOutcome, CacheSink> {
        let origin = || FlightOrigin::new(scope, &question.name, client);
        let cached = || self.cached_outcome(snapshot, scope, key);
        let purpose = if client.is_some() { QueryPurpose::Client } else { QueryPurpose::Refresh };
        let start = || self.start_query(snapshot, scope, question.clone(), purpose);
        let join = self.in_flight.join(key, generation, origin, cached, start);
        self.count_refusal(&join);
        join
    }

    /// Counts a query that was not admitted.
    pub(super) fn count_refusal<T>(&self, join: &Join<T, CacheSink>) {
        if let Join::AtCapacity(reason) = join {
            self.metrics.count_refused_admission(*reason);
        }
    }

    /// Returns the cached result of the last upstream query for a key, while it is fresh.
    pub(super) fn cached_outcome(&self, snapshot: &Snapshot, scope: &Scope, key: &Key) -> Option<FlightOutcome> {
        let now = Instant::now();
        if let Some(cached) = self.failure_of(scope, key, now) {
            return Some(FlightOutcome::Failure(cached));
        }
        match self.cache.get(key, now.into_std(), &snapshot.policy) {
            Lookup::Fresh(answer) => Some(FlightOutcome::Answer(answer)),
            Lookup::RefreshDue(answer) => Some(FlightOutcome::RefreshDue(answer)),
            Lookup::Stale(_) | Lookup::Miss => None,
        }
    }

    /// Makes an upstream query, which starts when it is polled, and the sink for its result.
    pub(super) fn start_query(
        &self,
        snapshot: &Arc<Snapshot>,
        scope: &Arc<Scope>,
        question: Arc<Question>,
        purpose: QueryPurpose,
    ) -> (UpstreamQuery, CacheSink) {
        let started = Instant::now();
        let sink = CacheSink {
            cache: self.cache.clone(),
            cut_evidence: self.cut_evidence.clone(),
            scope: scope.clone(),
            question: question.clone(),
            started,
        };
        let query = scope.pool.query(question, purpose, started, scope.deadline);
        let (snapshot, scope, metrics) = (snapshot.clone(), scope.clone(), self.metrics.clone());
        (Box::pin(PendingAnswer { query, snapshot, scope, metrics }), sink)
    }
}

/// Returns the answer to a client at its deadline while the upstream query goes on: the stale answer, or else a failure
/// that is not to be cached, with the failing response if there is one.
fn late_failure(query: &Query, lookup: &CacheLookup, bad_response: Option<Arc<Response>>) -> Answer {
    let late_ede = lookup.snapshot.late_ede;
    match (lookup.stale(), bad_response) {
        (Some(stale), response) if !response.as_deref().is_some_and(is_bogus) => stale,
        (_, Some(response)) if response.is_truncated() => truncated_answer(query, response),
        (_, Some(response)) => Answer { response, ttl_view: TtlView::Original, ede: late_ede, source: Source::Failure },
        (_, None) => failure(query, rcode::SERVFAIL, late_ede.unwrap_or(ede::NO_REACHABLE_AUTHORITY)),
    }
}
