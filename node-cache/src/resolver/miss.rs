//! The long way of a question: what failed a moment ago, the one outstanding question, other servers, what is past its time,
//! failure.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::servfail::{failure, is_bogus, remembered};
use super::single_flight::{Join, Leader, StoreResult, UpstreamResult, Work, landing};
use super::{CacheLookup, CacheMiss, Resolver};
use crate::cache::{Cache, Key, Lookup};
use crate::dns::Response;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::metrics::OWN;
use crate::snapshot::{Scope, Snapshot};
use crate::upstream::NoAnswer;

/// The longest that a client waits for other servers before it gets an answer past its time, if there is one (RFC 8767 §5).
const CLIENT_TIMER: Duration = Duration::from_millis(1800);
/// It waits no longer than so many times what nearly all answers take: what takes longer is unusual.
const UNUSUAL: u32 = 3;
/// How long the answer of RFC 8482 may be kept, in seconds.
const ANY_TTL: u32 = 3600;

/// What a flight has brought.
pub(super) enum FlightOutcome {
    /// An answer in its time.
    Answer(Answer),
    /// One whose time is nearly over.
    Due(Answer),
    /// A failure, and what was said if anybody said anything.
    Failure(Option<Arc<Response>>),
}

/// How a question waits for what its flight brings.
enum FlightWait {
    /// It is its own.
    Leader(Leader<CacheSink>),
    /// It is not, or is not waited for until it lands.
    Otherwise(Pin<Box<dyn Future<Output = UpstreamResult> + Send>>),
    /// There is no flight: this is the answer.
    Known(Answer),
}

/// Where flights put what they bring.
pub(super) struct CacheSink {
    cache: Arc<Cache>,
    scope: Arc<Scope>,
    began: Instant,
}

impl StoreResult for CacheSink {
    fn keep(&self, key: &Key, landed: &UpstreamResult) {
        let Self { cache, scope, began } = self;
        let now = Instant::now().into_std();
        match landed {
            Ok(response) if response.is_failure() => cache.insert_failure(key, Some(response.clone()), now),
            // CoreDNS denies a namespace for TXT and has it for A.
            Ok(response) if scope.zone.is_some() => cache.insert_for_type(key, response, now),
            Ok(response) => cache.insert(key, response, now),
            // It was asked of the dead, and one of them answers by now.
            Err(NoAnswer) if scope.pool.recovered_at().is_some_and(|at| at > began.into_std()) => {}
            Err(NoAnswer) => cache.insert_failure(key, None, now),
        }
    }
}

/// A question to other servers. It keeps what that took until it is dropped.
struct Asked<F> {
    asked: F,
    /// Whether they may say that an answer is authentic.
    trusted: bool,
}

impl<F: Future<Output = Result<Response, NoAnswer>> + Unpin> Future for Asked<F> {
    type Output = UpstreamResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<UpstreamResult> {
        let mut response = ready!(Pin::new(&mut self.asked).poll(context))?;
        if !self.trusted {
            response.clear_authentic_data();
        }
        Poll::Ready(Ok(Arc::new(response)))
    }
}

/// Puts an answer into memory and tells those who wait for the same one, when it is dropped: who has asked for it need not
/// wait for that.
#[must_use = "what is dropped at once keeps the client waiting"]
pub struct DeferredStore {
    _flight: Option<Leader<CacheSink>>,
}

impl Resolver {
    /// Asks other servers, unless memory knows that it is of no use. What is left to be done is given beside the answer.
    #[allow(
        clippy::manual_async_fn,
        reason = "an `async fn` has room for its arguments twice, in each question that waits"
    )]
    pub fn resolve_miss<'a>(
        &'a self,
        query: &'a Query,
        unresolved: CacheMiss,
    ) -> impl Future<Output = (Answer, DeferredStore)> + Send + 'a {
        async move {
            let (scope, (answer, afterwards)) = match &unresolved.looked {
                _ if query.rtype == rtype::ANY => Box::pin(self.answer_any(query)).await,
                Some(looked) => (Some(&looked.scope).cloned(), self.answer(query, looked).await),
                None => (None, at_once(failure(query, rcode::SERVFAIL, ede::NOT_READY))),
            };
            let name = scope.as_ref().map_or(OWN, |scope| &scope.name);
            let counters = scope.as_deref().map(|scope| self.answers_in(scope));
            self.metrics.answer(name, counters, query.transport, &answer, unresolved.started.elapsed());
            (answer, afterwards)
        }
    }

    /// As little as there can be (RFC 8482), without hiding that a name does not exist: what there is of type A, else
    /// a note.
    async fn answer_any(&self, query: &Query) -> (Option<Arc<Scope>>, (Answer, DeferredStore)) {
        let address = Query { rtype: rtype::A, ..query.clone() };
        let Some(snapshot) = self.snapshot() else {
            return (None, at_once(failure(query, rcode::SERVFAIL, ede::NOT_READY)));
        };
        let looked = self.look_up(snapshot, Arc::new(address.question()), Instant::now(), None);
        let (mut answer, afterwards) = self.answer(&address, &looked).await;
        if answer.response.rcode() == rcode::NOERROR && !answer.response.has_answer() {
            let note = (rtype::HINFO, ANY_TTL, b"\x07RFC8482\0".to_vec());
            answer = Answer::local(Response::with_records(&query.question(), rcode::NOERROR, &[note]), None);
        }
        (Some(looked.scope), (answer, afterwards))
    }

    /// The answer of memory, if it is in its time, or of other servers.
    #[allow(
        clippy::manual_async_fn,
        reason = "an `async fn` has room for its arguments twice, in each question that waits"
    )]
    fn answer<'a>(
        &'a self,
        query: &'a Query,
        looked: &'a CacheLookup,
    ) -> impl Future<Output = (Answer, DeferredStore)> + Send + 'a {
        async move {
            let deadline = looked.at + looked.scope.deadline;
            if let Some(answer) = self.without_asking(query, looked) {
                return at_once(answer);
            }
            if looked.scope.zone.is_some()
                && let Some(denial) = Box::pin(self.ask_above(&looked.snapshot, &looked.scope, &looked.question)).await
            {
                return at_once(denial);
            }
            let mut own = None;
            let landed = match self.join_or_lead(query, looked, deadline) {
                FlightWait::Leader(flight) => own.insert(flight).await,
                FlightWait::Otherwise(waiting) => waiting.await,
                FlightWait::Known(answer) => return at_once(answer),
            };
            let answer = match landed {
                Ok(response) if response.is_failure() => match looked.stale() {
                    Some(stale) if !is_bogus(&response) => stale,
                    _ => Answer { response, age: TtlView::Original, ede: None, origin: Source::Failure },
                },
                Ok(response) => looked.snapshot.policy.new_answer(response),
                Err(NoAnswer) => looked.stale_or(|| failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY)),
            };
            (answer, DeferredStore { _flight: own })
        }
    }

    /// What is said to a question about which nobody shall be asked.
    fn without_asking(&self, query: &Query, looked: &CacheLookup) -> Option<Answer> {
        if let Lookup::Fresh(answer) | Lookup::RefreshDue(answer) = &looked.found {
            return Some(answer.clone());
        }
        if !query.recursion_desired {
            return Some(failure(query, rcode::REFUSED, ede::NOT_AUTHORITATIVE));
        }
        // Dead servers are looked after by themselves: nobody has to ask them the same again and again.
        if let Some(stale) = looked.stale()
            && looked.scope.pool.is_down()
        {
            return Some(stale);
        }
        let failed = self.failed(&looked.scope, &looked.key, looked.at)?;
        Some(looked.stale_or(|| remembered(query, failed)))
    }

    /// Joins a flight, or begins one.
    fn join_or_lead(&self, query: &Query, looked: &CacheLookup, deadline: Instant) -> FlightWait {
        let CacheLookup { snapshot, scope, question, key, landed, .. } = looked;
        let patience = match (looked.stale(), &scope.zone) {
            // What takes longer is unusual, where there is something to say anyway.
            (Some(_), _) => {
                let usual = scope.pool.p95().map_or(CLIENT_TIMER, |p95| CLIENT_TIMER.min(UNUSUAL * p95));
                Some(Instant::now() + usual)
            }
            // Names above have taken some of its time.
            (None, Some(_)) => Some(deadline),
            // It ends by itself.
            (None, None) => None,
        };
        match (self.ask(snapshot, scope, key, *landed, question.clone()), patience) {
            (Join::Leader(flight), None) => FlightWait::Leader(flight),
            (Join::Leader(flight), Some(patience)) => FlightWait::Otherwise(Box::pin(flight.until(patience))),
            (Join::Follower(seat), patience) => {
                // The bit more lets the flight tell what it found.
                let patience = patience.unwrap_or(deadline + Duration::from_millis(100));
                let landing = async move { timeout_at(patience, landing(seat)).await.unwrap_or(Err(NoAnswer)) };
                FlightWait::Otherwise(Box::pin(landing))
            }
            (Join::AlreadyCached(FlightOutcome::Answer(answer) | FlightOutcome::Due(answer)), _) => {
                FlightWait::Known(answer)
            }
            (Join::AlreadyCached(FlightOutcome::Failure(failed)), _) => {
                FlightWait::Known(looked.stale_or(|| remembered(query, failed)))
            }
            (Join::AtCapacity, _) => {
                FlightWait::Known(looked.stale_or(|| failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY)))
            }
        }
    }

    /// What failed a moment ago: the failing response, or none inside when all were silent. That a dead server answers again
    /// ends it at once.
    pub(super) fn failed(&self, scope: &Scope, key: &Key, now: Instant) -> Option<Option<Arc<Response>>> {
        let failed = self.cache.failure(key, now.into_std())?;
        let Some(at) = scope.pool.recovered_at() else { return Some(failed) };
        self.cache.forget_failure_before(key, at);
        self.cache.failure(key, now.into_std())
    }

    /// Begins or joins the flight for this key, unless memory has got what it brought since so many flights had landed.
    pub(super) fn ask(
        &self,
        snapshot: &Snapshot,
        scope: &Arc<Scope>,
        key: &Key,
        landed: u64,
        question: Arc<Question>,
    ) -> Join<FlightOutcome, CacheSink> {
        self.flights.join(key, landed, || self.brought(snapshot, scope, key), || self.flight(scope, question))
    }

    /// What the last flight for this key brought, while it counts.
    pub(super) fn brought(&self, snapshot: &Snapshot, scope: &Scope, key: &Key) -> Option<FlightOutcome> {
        let now = Instant::now();
        if let Some(failed) = self.failed(scope, key, now) {
            return Some(FlightOutcome::Failure(failed));
        }
        match self.cache.get(key, now.into_std(), &snapshot.policy) {
            Lookup::Fresh(answer) => Some(FlightOutcome::Answer(answer)),
            Lookup::RefreshDue(answer) => Some(FlightOutcome::Due(answer)),
            Lookup::Stale(_) | Lookup::Miss => None,
        }
    }

    pub(super) fn flight(&self, scope: &Arc<Scope>, question: Arc<Question>) -> (Work, CacheSink) {
        let began = Instant::now();
        let memory = CacheSink { cache: self.cache.clone(), scope: scope.clone(), began };
        let (asked, trusted) = (scope.pool.query(question, began, scope.deadline), scope.trusted);
        (Box::pin(Asked { asked, trusted }), memory)
    }
}

/// An answer after which nothing is left to be done.
const fn at_once(answer: Answer) -> (Answer, DeferredStore) {
    (answer, DeferredStore { _flight: None })
}
