//! From a question to its answer: own names, route, memory, the one outstanding question, other servers, what is past
//! its time, failure. This is the seam of the data plane: it knows no socket, and whoever serves knows only this.

mod above;
mod flight;
mod hit;
mod inspect;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::{Instant, timeout_at};

use crate::answer::{Age, Answer, Origin};
use crate::cache::{Cache, Found, Key};
use crate::identity::Identity;
use crate::metrics::{Metrics, OWN};
use crate::own_names;
use crate::packet::Response;
use crate::packet::numbers::{ede, rcode, rtype};
use crate::packet::question::Question;
use crate::query::Query;
use crate::snapshot::{Scope, Snapshot};
use crate::tap::Tap;
use crate::upstream::Unanswered;
use flight::{BoxedFlight, Flights, Joined, Landed, Seat, landing};
pub use hit::{Hit, Moment, QUESTION_ROOM, ROOM, Sought};

/// The longest that a client waits for other servers before it gets an answer past its time, if there is one (RFC 8767 §5).
const CLIENT_TIMER: Duration = Duration::from_millis(1800);
/// It waits no longer than so many times what nearly all answers take: what takes longer is unusual.
const UNUSUAL: u32 = 3;
/// How long the answer of RFC 8482 may be kept, in seconds.
const ANY_TTL: u32 = 3600;

/// What one process answers with.
#[derive(Debug)]
pub struct Resolver {
    identity: Identity,
    cache: Arc<Cache>,
    flights: Arc<Flights>,
    snapshot: ArcSwapOption<Snapshot>,
    metrics: Arc<Metrics>,
    tap: Arc<Tap>,
}

/// What is known of a question before anybody else is asked.
struct Looked {
    snapshot: Arc<Snapshot>,
    scope: Arc<Scope>,
    key: Key,
    found: Found,
}

/// What a flight has brought.
enum Brought {
    /// An answer in its time.
    Answer(Answer),
    /// One whose time is nearly over.
    Due(Answer),
    /// A failure, and what was said if anybody said anything.
    Failure(Option<Arc<Response>>),
}

impl Resolver {
    /// A resolver whose cache holds this many bytes. Until it has a [`Snapshot`] it knows its own names only.
    #[must_use]
    pub fn new(identity: Identity, cache_bytes: u64, metrics: Arc<Metrics>) -> Self {
        let (cache, tap) = (Arc::new(Cache::new(cache_bytes)), Arc::new(Tap::new(&identity)));
        Self { identity, cache, flights: Arc::default(), snapshot: ArcSwapOption::empty(), metrics, tap }
    }

    /// Puts a revision in force, for what is asked from now on.
    pub fn apply(&self, snapshot: Snapshot) {
        self.snapshot.store(Some(Arc::new(snapshot)));
    }

    /// The revision in force.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Who this process is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its counters.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Where its messages can be looked at.
    #[must_use]
    pub const fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// Its memory.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Answers a question. Takes no longer than the deadline of the name's scope.
    pub async fn resolve(&self, query: &Query) -> Answer {
        match self.resolve_at_once(query) {
            Some(answer) => answer,
            None => self.resolve_by_asking(query).await,
        }
    }

    /// The answer to a question for which nobody else need be asked; none for all others.
    #[must_use]
    pub fn resolve_at_once(&self, query: &Query) -> Option<Answer> {
        let started = Instant::now();
        let empty = || self.snapshot.load().as_ref().and_then(|snapshot| snapshot.empty.answer(query));
        if let Some(answer) = own_names::answer(query, &self.identity).or_else(empty) {
            self.metrics.answer(OWN, query.transport, &answer, started.elapsed());
            return Some(answer);
        }
        if query.rtype == rtype::ANY {
            return None;
        }
        let looked = self.look_up(query)?;
        let (Found::Fresh(answer) | Found::Due(answer)) = &looked.found else { return None };
        self.metrics.answer(&looked.scope.name, query.transport, answer, started.elapsed());
        let answer = answer.clone();
        self.ask_again_if_due(&looked, query);
        Some(answer)
    }

    /// Asks again for what is in memory and nearly past its time, so that nobody has to wait for it. Nobody waits for
    /// this either; a failure of a moment ago is not repeated.
    pub fn refresh(&self, query: &Query) {
        if let Some(looked) = self.look_up(query) {
            self.ask_again_if_due(&looked, query);
        }
    }

    fn ask_again_if_due(&self, looked: &Looked, query: &Query) {
        let Looked { snapshot, scope, key, found: Found::Due(_) } = looked else { return };
        if !query.recursion_desired {
            return;
        }
        let renewed = || match self.brought(snapshot, scope, key) {
            Some(Brought::Due(_)) | None => None,
            fresh_or_failed => fresh_or_failed,
        };
        self.flights.join(key, renewed, || {
            self.metrics.refresh();
            self.flight(scope, key, query.question())
        });
    }

    async fn resolve_by_asking(&self, query: &Query) -> Answer {
        let started = Instant::now();
        let answer = match query.rtype {
            rtype::ANY => self.answer_any(query).await,
            _ => self.answer(query).await,
        };
        let scope = self.snapshot().map(|snapshot| snapshot.routes.find(&query.name.lower()).clone());
        let name = scope.as_ref().map_or(OWN, |scope| &scope.name);
        self.metrics.answer(name, query.transport, &answer, started.elapsed());
        answer
    }

    /// As little as there can be (RFC 8482), without hiding that a name does not exist: what there is of type A, else
    /// a note.
    async fn answer_any(&self, query: &Query) -> Answer {
        let answer = self.answer(&Query { rtype: rtype::A, ..query.clone() }).await;
        let nothing = answer.response.rcode() == rcode::NOERROR && !answer.response.has_answer();
        if !nothing {
            return answer;
        }
        let note = (rtype::HINFO, ANY_TTL, b"\x07RFC8482\0".to_vec());
        Answer::local(Response::with_records(&query.question(), rcode::NOERROR, &[note]), None)
    }

    async fn answer(&self, query: &Query) -> Answer {
        let Some(Looked { snapshot, scope, key, found }) = self.look_up(query) else {
            return failure(query, rcode::SERVFAIL, ede::NOT_READY);
        };
        let stale = match found {
            Found::Fresh(answer) | Found::Due(answer) => return answer,
            Found::Stale(answer) => Some(answer),
            Found::Nothing => None,
        };
        if !query.recursion_desired {
            return failure(query, rcode::REFUSED, ede::NOT_AUTHORITATIVE);
        }
        // Dead servers are looked after by themselves: nobody has to ask them the same again and again.
        if let (Some(stale), true) = (&stale, scope.pool.is_down()) {
            return stale.clone();
        }
        if let Some(failed) = self.failed(&scope, &key) {
            return stale.unwrap_or_else(|| remembered(query, failed));
        }
        let deadline = Instant::now() + scope.deadline;
        if let Some(denial) = self.ask_above(&snapshot, &scope, query).await {
            return denial;
        }
        let seat = match self.ask(&snapshot, &scope, &key, query.question()) {
            Joined::Seat(seat) => seat,
            Joined::Known(Brought::Answer(answer) | Brought::Due(answer)) => return answer,
            Joined::Known(Brought::Failure(failed)) => return stale.unwrap_or_else(|| remembered(query, failed)),
            Joined::Full => {
                return stale.unwrap_or_else(|| failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY));
            }
        };
        match (wait(seat, &scope, deadline, stale.is_some()).await, stale) {
            (Ok(response), stale) if is_failure(&response) => match stale {
                Some(stale) if !is_bogus(&response) => stale,
                _ => Answer { response, age: Age::New, ede: None, origin: Origin::Failure },
            },
            (Ok(response), _) => snapshot.policy.new_answer(response),
            (Err(Unanswered), Some(stale)) => stale,
            (Err(Unanswered), None) => failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY),
        }
    }

    fn look_up(&self, query: &Query) -> Option<Looked> {
        let snapshot = self.snapshot()?;
        let question = query.question();
        let scope = snapshot.routes.find(&question.name).clone();
        let key = Key::new(scope.id, &question);
        let found = match self.cache.get(&key, Instant::now().into_std(), &snapshot.policy) {
            fresh @ (Found::Fresh(_) | Found::Due(_)) => fresh,
            past => self.denied_above(&snapshot, &scope, &question).map_or(past, Found::Fresh),
        };
        Some(Looked { snapshot, scope, key, found })
    }

    /// What failed a moment ago: the failing response, or none inside when all were silent. That a dead server answers again
    /// ends it at once.
    fn failed(&self, scope: &Scope, key: &Key) -> Option<Option<Arc<Response>>> {
        if let Some(at) = scope.pool.revived() {
            self.cache.forget_failure_before(key, at);
        }
        self.cache.failure(key, Instant::now().into_std())
    }

    /// Takes a seat on the flight for this key, unless memory has got what it brought meanwhile. What it brings is in memory
    /// before anybody is told.
    fn ask(&self, snapshot: &Snapshot, scope: &Arc<Scope>, key: &Key, question: Question) -> Joined<Brought> {
        self.flights.join(key, || self.brought(snapshot, scope, key), || self.flight(scope, key, question))
    }

    /// What the last flight for this key brought, while it counts.
    fn brought(&self, snapshot: &Snapshot, scope: &Scope, key: &Key) -> Option<Brought> {
        if let Some(failed) = self.failed(scope, key) {
            return Some(Brought::Failure(failed));
        }
        match self.cache.get(key, Instant::now().into_std(), &snapshot.policy) {
            Found::Fresh(answer) => Some(Brought::Answer(answer)),
            Found::Due(answer) => Some(Brought::Due(answer)),
            Found::Stale(_) | Found::Nothing => None,
        }
    }

    fn flight(&self, scope: &Arc<Scope>, key: &Key, question: Question) -> BoxedFlight {
        let (scope, key, cache) = (scope.clone(), key.clone(), self.cache.clone());
        Box::pin(async move {
            let began = Instant::now().into_std();
            let mut landed = scope.pool.ask(&question, scope.deadline).await;
            if let (Ok(response), false) = (&mut landed, scope.trusted) {
                response.clear_authentic_data();
            }
            let landed: Landed = landed.map(Arc::new);
            let now = Instant::now().into_std();
            match &landed {
                Ok(response) if is_failure(response) => cache.insert_failure(&key, Some(response.clone()), now),
                // CoreDNS denies a namespace for TXT and has it for A.
                Ok(response) if scope.zone.is_some() => cache.insert_of_type(&key, response, now),
                Ok(response) => cache.insert(&key, response, now),
                // It was asked of the dead, and one of them answers by now.
                Err(Unanswered) if scope.pool.revived().is_some_and(|at| at > began) => {}
                Err(Unanswered) => cache.insert_failure(&key, None, now),
            }
            landed
        })
    }
}

/// Waits for a flight: until the deadline, or no longer than a client should where there is something to say anyway.
async fn wait(seat: Seat, scope: &Scope, deadline: Instant, something_stale: bool) -> Landed {
    let patience = match something_stale {
        true => Instant::now() + scope.pool.p95().map_or(CLIENT_TIMER, |p95| CLIENT_TIMER.min(UNUSUAL * p95)),
        // The flight has about this deadline itself; the bit more lets it tell what it found.
        false => deadline + Duration::from_millis(100),
    };
    timeout_at(patience, landing(seat)).await.unwrap_or(Err(Unanswered))
}

fn failure(query: &Query, code: u16, ede: u16) -> Answer {
    Answer { origin: Origin::Failure, ..Answer::local(Response::empty(&query.question(), code), Some(ede)) }
}

/// A failure of a moment ago (RFC 9520).
fn remembered(query: &Query, failed: Option<Arc<Response>>) -> Answer {
    match failed {
        None => failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY),
        Some(response) => {
            let ede = response.ede().or(Some(ede::CACHED_ERROR));
            Answer { response, age: Age::New, ede, origin: Origin::Failure }
        }
    }
}

/// Whether a response says neither what there is nor that there is nothing.
fn is_failure(response: &Response) -> bool {
    !matches!(response.rcode(), rcode::NOERROR | rcode::NXDOMAIN)
}

/// Whether a failure means that the data are wrong (RFC 8914 §4.7 to §4.13). Old data are then no remedy.
fn is_bogus(response: &Response) -> bool {
    response.ede().is_some_and(|code| (6..=12).contains(&code))
}
