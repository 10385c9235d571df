//! From a question to its answer: own names, route, memory, the one outstanding question, other servers, what is past
//! its time, failure. This is the seam of the data plane: it knows no socket, and whoever serves knows only this.

mod hit;
mod inspect;
pub mod local_names;
mod miss;
mod nxdomain_cut;
mod servfail;
mod single_flight;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use node_cache_sys::clock::nanoseconds;
use tokio::time::Instant;

use crate::cache::{Cache, Key, Lookup};
use crate::dns::Response;
use crate::dns::answer::Answer;
use crate::dns::codes::{rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dnstap::Tap;
use crate::identity::Identity;
use crate::metrics::{Metrics, OWN, ScopeAnswers};
use crate::snapshot::{Scope, Snapshot};
pub use hit::{BatchContext, FastLookup, Hit, KeyHasher, KnownMiss, QUERY_BUF_LEN, RESPONSE_BUF_LEN};
pub use miss::DeferredStore;
use miss::FlightOutcome;
use single_flight::{InFlight, Join};

/// What one process answers with.
#[derive(Debug)]
pub struct Resolver {
    identity: Identity,
    cache: Arc<Cache>,
    flights: Arc<InFlight>,
    snapshot: ArcSwapOption<Snapshot>,
    metrics: Arc<Metrics>,
    tap: Arc<Tap>,
    /// When the cache's clock began, as [`nanoseconds`] tells.
    began: u64,
}

/// What is known of a question before anybody else is asked.
#[derive(Debug)]
struct CacheLookup {
    snapshot: Arc<Snapshot>,
    scope: Arc<Scope>,
    question: Arc<Question>,
    key: Key,
    found: Lookup,
    /// When it was looked up.
    at: Instant,
    /// How many flights had landed before.
    landed: u64,
}

impl CacheLookup {
    /// An answer past its time.
    fn stale(&self) -> Option<Answer> {
        match &self.found {
            Lookup::Stale(answer) => Some(answer.clone()),
            Lookup::Fresh(_) | Lookup::RefreshDue(_) | Lookup::Miss => None,
        }
    }

    /// That, or what there is instead.
    fn stale_or(&self, instead: impl FnOnce() -> Answer) -> Answer {
        self.stale().unwrap_or_else(instead)
    }
}

/// A question that is not answered at once: others have to be asked.
#[derive(Debug)]
pub struct CacheMiss {
    started: Instant,
    /// What is known of it, if that was looked up.
    looked: Option<CacheLookup>,
}

impl Resolver {
    /// A resolver whose cache holds this many bytes. Until it has a [`Snapshot`] it knows its own names only.
    #[must_use]
    pub fn new(identity: Identity, cache_bytes: u64, metrics: Arc<Metrics>) -> Self {
        let (cache, tap) = (Arc::new(Cache::new(cache_bytes)), Arc::new(Tap::new(&identity)));
        let (snapshot, began) = (ArcSwapOption::empty(), nanoseconds());
        Self { identity, cache, flights: Arc::default(), snapshot, metrics, tap, began }
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

    /// Where usual answers in this scope are counted.
    #[inline]
    fn answers_in<'a>(&self, scope: &'a Scope) -> &'a ScopeAnswers {
        scope.answers.get_or_init(|| self.metrics.scope_answers(&scope.name))
    }

    /// Answers a question. Takes no longer than the deadline of the name's scope.
    pub async fn resolve(&self, query: &Query) -> Answer {
        match self.resolve_from_cache(query, None) {
            Ok(answer) => answer,
            Err(unresolved) => self.resolve_miss(query, unresolved).await.0,
        }
    }

    /// The answer to a question for which nobody else need be asked. If memory is known to know nothing of it, nobody looks again.
    ///
    /// # Errors
    ///
    /// All others, for [`Self::resolve_miss`].
    pub fn resolve_from_cache(&self, query: &Query, unknown: Option<KnownMiss>) -> Result<Answer, CacheMiss> {
        let started = Instant::now();
        let (snapshot, question) = (self.snapshot(), Arc::new(query.question()));
        let empty = || snapshot.as_ref().and_then(|snapshot| snapshot.empty.answer(&question));
        if let Some(answer) = local_names::answer(&question, &self.identity).or_else(empty) {
            self.metrics.answer(OWN, None, query.transport, &answer, started.elapsed());
            return Ok(answer);
        }
        if snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.context.loop_probes.detect_loop(&question.name, started.into_std()))
        {
            // Whoever has passed it on need not wait.
            let answer = Answer::local(Response::empty(&question, rcode::NXDOMAIN), None);
            self.metrics.answer(OWN, None, query.transport, &answer, started.elapsed());
            return Ok(answer);
        }
        if query.rtype == rtype::ANY {
            return Err(CacheMiss { started, looked: None });
        }
        let looked = snapshot.map(|snapshot| self.look_up(snapshot, question, started, unknown));
        let Some(CacheLookup { scope, found: Lookup::Fresh(answer) | Lookup::RefreshDue(answer), .. }) = &looked else {
            return Err(CacheMiss { started, looked });
        };
        self.metrics.answer(&scope.name, Some(self.answers_in(scope)), query.transport, answer, started.elapsed());
        let answer = answer.clone();
        looked.iter().for_each(|looked| self.ask_again_if_due(looked, query.recursion_desired));
        Ok(answer)
    }

    /// Asks again for what is in memory and nearly past its time, so that nobody has to wait for it. Nobody waits for
    /// this either; a failure of a moment ago is not repeated.
    pub fn refresh(&self, query: &Query) {
        if let Some(snapshot) = self.snapshot() {
            let looked = self.look_up(snapshot, Arc::new(query.question()), Instant::now(), None);
            self.ask_again_if_due(&looked, query.recursion_desired);
        }
    }

    fn ask_again_if_due(&self, looked: &CacheLookup, recursion_desired: bool) {
        let CacheLookup { snapshot, scope, question, key, found: Lookup::RefreshDue(_), landed, .. } = looked else {
            return;
        };
        if !recursion_desired {
            return;
        }
        let renewed = || match self.brought(snapshot, scope, key) {
            Some(FlightOutcome::Due(_)) | None => None,
            fresh_or_failed => fresh_or_failed,
        };
        let joined = self.flights.join(key, *landed, renewed, || {
            self.metrics.refresh();
            self.flight(scope, question.clone())
        });
        if let Join::Leader(flight) = joined {
            flight.leave();
        }
    }

    fn look_up(
        &self,
        snapshot: Arc<Snapshot>,
        question: Arc<Question>,
        at: Instant,
        unknown: Option<KnownMiss>,
    ) -> CacheLookup {
        let landed = unknown.map_or_else(|| self.flights.landed(), |unknown| unknown.landed);
        let scope = snapshot.routes.find(&question.name).clone();
        let key = Key::new(scope.id, &question);
        let known = || self.cache.get(&key, at.into_std(), &snapshot.policy);
        let found = match unknown.map_or_else(known, |_| Lookup::Miss) {
            fresh @ (Lookup::Fresh(_) | Lookup::RefreshDue(_)) => fresh,
            past => self.denied_above(&snapshot, &scope, &question).map_or(past, Lookup::Fresh),
        };
        CacheLookup { snapshot, scope, question, key, found, at, landed }
    }
}
