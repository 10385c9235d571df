//! Single-flight: at most one upstream query is in flight for a key. Its leader polls the query, followers wait for the
//! result. A query without an answer by its deadline may go on as a late flight ([`super::late_flights`]): its leader
//! gets no answer then, followers wait until their own deadlines.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use foldhash::quality::RandomState;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::admission::{Admission, FlightEnd, FlightOrigin, Place};
use super::late_flights::{LateFlights, LateOrigin, LatePlace};
use crate::cache::Key;
use crate::dns::Response;
use crate::metrics::RefusalReason;
use crate::upstream::NoAnswer;

/// Classes of names, by hash. For each class, [`InFlight`] knows when an upstream query last completed.
const NAME_CLASSES: usize = 1024;

/// Result of one upstream query.
pub(super) type UpstreamResult = Result<Arc<Response>, NoAnswer>;

/// Event of one upstream query.
pub(super) enum FlightEvent {
    /// The result. No event follows.
    End(UpstreamResult),
    /// The deadline has passed, with this result for the clients that wait. The query may be polled on for its end.
    Deadline(UpstreamResult),
}

/// Future of one upstream query.
pub(super) type UpstreamQuery = Pin<Box<dyn Future<Output = FlightEvent> + Send>>;

/// Result for a client that waits for an upstream query.
pub(super) type WaitResult = Result<Arc<Response>, WaitError>;

/// Reason why a client has no answer from an upstream query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WaitError {
    /// No upstream answered, and the query has ended.
    NoAnswer,
    /// No upstream answered by the deadline, and the query goes on; the first failing response, if there is one.
    InFlight(Option<Arc<Response>>),
}

impl From<NoAnswer> for WaitError {
    fn from(NoAnswer: NoAnswer) -> Self {
        Self::NoAnswer
    }
}

/// Sink for the result of an upstream query.
pub(super) trait StoreResult {
    /// Stores the result under this key, where later queries find it.
    fn store(&self, key: &Key, result: &UpstreamResult);

    /// Returns the state of the query now that its deadline passes.
    fn late_origin(&self) -> LateOrigin;
}

/// Upstream queries in flight, and the generation: the number of upstream queries that have completed.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    queries: Mutex<Queries>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Queries {
    /// Result channel of each query in flight; `None` while it has no follower.
    channels: HashMap<Key, Option<watch::Sender<Option<UpstreamResult>>>, RandomState>,
    /// Generation of the last query to complete, by class of its name.
    last_completed: Box<[u64; NAME_CLASSES]>,
    admission: Admission,
    late: LateFlights,
}

impl Default for Queries {
    fn default() -> Self {
        Self {
            channels: HashMap::default(),
            last_completed: Box::new([0; NAME_CLASSES]),
            admission: Admission::default(),
            late: LateFlights::default(),
        }
    }
}

/// Result of joining the in-flight query for a key.
pub(super) enum Join<T, S: StoreResult> {
    /// No query was in flight: the caller leads a new one.
    Leader(Leader<S>),
    /// A query is in flight already: the caller follows it.
    Follower(Follower),
    /// A query has completed since the caller's cache lookup, and the cache now holds this result of it.
    AlreadyCached(T),
    /// Too many queries are in flight for one more of this origin, for this reason. Nothing is stored for the key.
    AtCapacity(RefusalReason),
}

impl InFlight {
    /// Creates the set of upstream queries in flight of a process that has room for as many.
    pub(super) fn with_room(max_in_flight: usize) -> Self {
        let in_flight = Self::default();
        in_flight.queries().admission = Admission::new(max_in_flight);
        in_flight
    }

    /// Sets the number of scopes that share the room.
    pub(super) fn set_scopes(&self, scopes: usize) {
        self.queries().admission.set_scopes(scopes);
    }

    /// Returns the number of upstream queries that have completed.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns whether a query for this key is in flight.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.queries().channels.contains_key(key)
    }

    /// Joins the query in flight for this key, or starts one.
    ///
    /// `generation` is the one from before the caller's cache lookup. If a query for the same name, or for another name
    /// of its class, has completed since, `cached` repeats the lookup, and no query is started when it finds a result.
    /// `origin` is called when many queries are in flight, to decide whether there is room for this one.
    pub(super) fn join<T, S: StoreResult>(
        self: &Arc<Self>,
        key: &Key,
        generation: u64,
        origin: impl Fn() -> FlightOrigin,
        cached: impl FnOnce() -> Option<T>,
        start: impl FnOnce() -> (UpstreamQuery, S),
    ) -> Join<T, S> {
        let mut queries = self.queries();
        let Queries { channels, last_completed, admission, late } = &mut *queries;
        let in_flight = channels.len() + late.superseded();
        let may_be_cached = last_completed[key.name_shard::<NAME_CLASSES>()] > generation;
        let entry = channels.entry(key.clone());
        if let Entry::Occupied(mut channel) = entry {
            if !late.is_replaceable(key, &origin) {
                let channel = channel.get_mut().get_or_insert_with(|| watch::channel(None).0);
                return Join::Follower(Follower(channel.subscribe()));
            }
            if let Some(cached) = cached() {
                return Join::AlreadyCached(cached);
            }
            match admission.admit(in_flight, origin) {
                // Followers of the late flight get the first answer of the two.
                Ok(place) => {
                    late.supersede(key);
                    return self.lead(key, place, start());
                }
                Err(reason) => return Join::AtCapacity(reason),
            }
        }
        if let Some(cached) = if may_be_cached { cached() } else { None } {
            return Join::AlreadyCached(cached);
        }
        match admission.admit(in_flight, origin) {
            Ok(place) => {
                entry.insert_entry(None);
                self.lead(key, place, start())
            }
            Err(reason) => Join::AtCapacity(reason),
        }
    }

    fn lead<T, S: StoreResult>(
        self: &Arc<Self>,
        key: &Key,
        place: Place,
        (query, sink): (UpstreamQuery, S),
    ) -> Join<T, S> {
        let key = key.clone();
        Join::Leader(Leader { query, sink, in_flight: self.clone(), key, place, late: None, result: None })
    }

    /// Keeps a query in flight whose deadline passes; `None` without room.
    fn admit_late(&self, key: &Key, place: &Place, origin: &LateOrigin) -> Option<LatePlace> {
        let mut queries = self.queries();
        let Queries { admission, late, .. } = &mut *queries;
        let late_place = late.admit(key, origin, admission.late_domain(&origin.flight))?;
        admission.record_late(place, origin.flight.asked_at);
        Some(late_place)
    }

    fn queries(&self) -> MutexGuard<'_, Queries> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leader of an in-flight query, and the future of its result. Dropping it stores the result and wakes followers,
/// so the leader can reply first. A leader that is dropped before the result is there gives followers [`NoAnswer`]. One
/// whose query is late after the first poll has to be detached, or else there will be no result.
pub(super) struct Leader<S: StoreResult> {
    query: UpstreamQuery,
    sink: S,
    in_flight: Arc<InFlight>,
    key: Key,
    place: Place,
    late: Option<Box<LateFlight>>,
    /// The last result; `None` also while the query is late.
    result: Option<UpstreamResult>,
}

/// State of a query whose deadline has passed.
struct LateFlight {
    place: LatePlace,
    /// The result at the deadline was stored: all upstreams are down.
    is_failure_stored: bool,
}

impl<S: StoreResult + Send + Unpin + 'static> Leader<S> {
    /// Waits for the result until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`], with [`WaitError::InFlight`] at the deadline, after which the query continues in a task of its
    /// own.
    pub(super) async fn wait_until(mut self, deadline: Instant) -> WaitResult {
        let result = timeout_at(deadline, &mut self).await;
        if self.result.is_none() {
            self.detach();
        }
        result.unwrap_or(Err(WaitError::InFlight(None)))
    }

    /// Returns whether the deadline has passed and the query goes on.
    pub(super) const fn is_late(&self) -> bool {
        self.late.is_some()
    }

    /// Continues the query in a task of its own, with no client waiting for it.
    pub(super) fn detach(mut self) {
        tokio::spawn(async move {
            while self.result.is_none() {
                // Without a result the deadline has passed, and the end is awaited next.
                let _ = (&mut self).await;
            }
        });
    }
}

impl<S: StoreResult> Leader<S> {
    /// Keeps the query in flight after its deadline, if there is room. Returns what the clients get at the deadline.
    #[cold]
    fn pass_deadline(&mut self, result: UpstreamResult) -> WaitResult {
        let origin = self.sink.late_origin();
        let Some(place) = self.in_flight.admit_late(&self.key, &self.place, &origin) else {
            self.result = Some(result.clone());
            return Ok(result?);
        };
        let is_failure_stored = origin.is_down;
        self.late = Some(Box::new(LateFlight { place, is_failure_stored }));
        if is_failure_stored {
            self.sink.store(&self.key, &result);
            return Ok(result?);
        }
        Err(WaitError::InFlight(result.ok()))
    }
}

impl<S: StoreResult + Unpin> Future for Leader<S> {
    type Output = WaitResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WaitResult> {
        Poll::Ready(match ready!(self.query.as_mut().poll(context)) {
            FlightEvent::End(result) => {
                self.result = Some(result.clone());
                result.map_err(WaitError::from)
            }
            FlightEvent::Deadline(result) => self.pass_deadline(result),
        })
    }
}

impl<S: StoreResult> Drop for Leader<S> {
    fn drop(&mut self) {
        let late = self.late.take();
        let is_answer = matches!(&self.result, Some(Ok(response)) if !response.is_failure());
        // A newer query for the key that has ended knows better, unless there is an answer.
        let is_stored = is_answer
            || late.as_ref().is_none_or(|late| {
                !late.is_failure_stored && self.in_flight.queries().channels.contains_key(&self.key)
            });
        if let Some(result) = self.result.as_ref().filter(|_| is_stored) {
            self.sink.store(&self.key, result);
        }
        let end = match &self.result {
            Some(Ok(_)) if is_answer => FlightEnd::Answered,
            // The name was not asked for.
            Some(Ok(response)) if response.is_overload() || response.is_budget_exhausted() => FlightEnd::Abandoned,
            // The failure was recorded at the deadline.
            Some(_) if late.is_some() => FlightEnd::Abandoned,
            Some(_) => FlightEnd::Failed,
            None => FlightEnd::Abandoned,
        };
        let followers = {
            let mut queries = self.in_flight.queries();
            let generation = self.in_flight.generation.fetch_add(1, Ordering::Release) + 1;
            queries.last_completed[self.key.name_shard::<NAME_CLASSES>()] = generation;
            if let Place::Shared(shares) = &self.place {
                queries.admission.release(shares, end, Instant::now().into_std());
            }
            let is_current = late.is_none_or(|late| queries.late.release(&self.key, &late.place));
            if is_current {
                queries.channels.remove(&self.key).flatten()
            } else if is_answer {
                queries.channels.get_mut(&self.key).and_then(Option::take)
            } else {
                None
            }
        };
        if let (Some(followers), Some(result)) = (followers, self.result.take()) {
            followers.send_replace(Some(result));
        }
    }
}

/// A follower of an in-flight query that another caller leads.
pub(super) struct Follower(watch::Receiver<Option<UpstreamResult>>);

impl Follower {
    /// Waits for the leader's result.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`] also when the leader is dropped without a result.
    pub(super) async fn wait(mut self) -> UpstreamResult {
        match self.0.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(NoAnswer)),
            Err(_) => Err(NoAnswer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    fn question() -> Question {
        Question::plain(&Name::from_text("www.example").unwrap(), rtype::A)
    }

    fn origin() -> FlightOrigin {
        let domain = Some(question().name);
        FlightOrigin { scope: 1, domain, client: None, asked_at: Instant::now().into_std(), recovered_at: None }
    }

    fn key() -> Key {
        Key::new(1, &question())
    }

    /// An upstream query that completes on notification.
    fn query_until(respond: &Arc<Notify>) -> UpstreamQuery {
        let respond = respond.clone();
        Box::pin(async move {
            respond.notified().await;
            FlightEvent::End(Ok(Arc::new(Response::empty(&question(), rcode::NOERROR))))
        })
    }

    /// An upstream query whose deadline passes at once, and which completes on notification: with this result.
    fn late_query(respond: &Arc<Notify>, result: UpstreamResult) -> UpstreamQuery {
        let respond = respond.clone();
        let mut is_late = false;
        let mut end: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move { respond.notified().await });
        Box::pin(std::future::poll_fn(move |context| {
            if !std::mem::replace(&mut is_late, true) {
                return Poll::Ready(FlightEvent::Deadline(Err(NoAnswer)));
            }
            ready!(end.as_mut().poll(context));
            Poll::Ready(FlightEvent::End(result.clone()))
        }))
    }

    /// Counts stored results.
    type StoreCount = Arc<AtomicU64>;

    impl StoreResult for StoreCount {
        fn store(&self, _: &Key, _: &UpstreamResult) {
            self.fetch_add(1, Ordering::Relaxed);
        }

        fn late_origin(&self) -> LateOrigin {
            LateOrigin { flight: origin(), started_at: origin().asked_at, is_down: false }
        }
    }

    fn lead(in_flight: &Arc<InFlight>, query: UpstreamQuery) -> (Leader<StoreCount>, StoreCount) {
        let stored = StoreCount::default();
        let start = || (query, stored.clone());
        let Join::Leader(leader) = in_flight.join(&key(), in_flight.generation(), origin, || None::<()>, start) else {
            panic!("no query is started");
        };
        (leader, stored)
    }

    fn no_query() -> (UpstreamQuery, StoreCount) {
        panic!("an upstream is queried");
    }

    fn follow(in_flight: &Arc<InFlight>) -> Follower {
        match in_flight.join(&key(), in_flight.generation(), origin, || None::<()>, no_query) {
            Join::Follower(follower) => follower,
            _ => panic!("no query is in flight"),
        }
    }

    #[tokio::test]
    async fn followers_get_the_leaders_result_and_the_next_query_looks_into_the_cache_first() {
        let in_flight = Arc::<InFlight>::default();
        let respond = Arc::<Notify>::default();
        let before = in_flight.generation();
        let (mut leader, stored) = lead(&in_flight, query_until(&respond));
        let [first, second] = [follow(&in_flight), follow(&in_flight)];
        respond.notify_one();
        let response = (&mut leader).await.unwrap();
        // The leader can reply before the result is stored; a query that joins meanwhile waits until it is.
        let third = follow(&in_flight);
        assert_eq!((first.0.borrow().is_none(), stored.load(Ordering::Relaxed)), (true, 0));
        drop(leader);
        assert_eq!(stored.load(Ordering::Relaxed), 1);
        for follower in [first, second, third] {
            assert!(Arc::ptr_eq(&follower.wait().await.unwrap(), &response));
        }
        let cached = in_flight.join(&key(), before, origin, || Some("cached"), no_query);
        assert!(matches!(cached, Join::AlreadyCached("cached")));
    }

    #[tokio::test]
    async fn only_a_completed_query_for_the_same_name_repeats_the_cache_lookup() {
        let in_flight = Arc::<InFlight>::default();
        let before = 0;
        let (mut leader, _) = lead(&in_flight, Box::pin(async { FlightEvent::End(Err(NoAnswer)) }));
        assert_eq!((&mut leader).await, Err(WaitError::NoAnswer));
        drop(leader);
        let join = |name: &str, rtype| {
            let key = Key::new(1, &Question::plain(&Name::from_text(name).unwrap(), rtype));
            let start = || (Box::pin(pending()) as UpstreamQuery, StoreCount::default());
            in_flight.join(&key, before, origin, || Some("cached"), start)
        };
        assert!(
            matches!(join("www.example", rtype::AAAA), Join::AlreadyCached(_)),
            "NXDOMAIN for a name holds for all of its types"
        );
        // One in 1,024 of the names is in the same class.
        let others: Vec<_> = (0..256).map(|other| join(&format!("{other}.example"), rtype::A)).collect();
        assert!(others.iter().filter(|join| matches!(join, Join::Leader(_))).count() > 240);
    }

    #[tokio::test]
    async fn a_query_whose_client_stops_waiting_continues_and_stores_its_result() {
        let in_flight = Arc::<InFlight>::default();
        let respond = Arc::<Notify>::default();
        let (leader, stored) = lead(&in_flight, query_until(&respond));
        let wait = leader.wait_until(Instant::now() + Duration::from_millis(1));
        assert_eq!(wait.await, Err(WaitError::InFlight(None)));
        let follower = follow(&in_flight);
        respond.notify_one();
        assert!(follower.wait().await.is_ok());
        assert_eq!((in_flight.generation(), stored.load(Ordering::Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn a_query_without_an_answer_by_its_deadline_goes_on_and_stores_only_its_end() {
        let answer = Ok(Arc::new(Response::empty(&question(), rcode::NOERROR)));
        for (result, follower_result) in [(answer.clone(), answer), (Err(NoAnswer), Err(NoAnswer))] {
            let in_flight = Arc::<InFlight>::default();
            let respond = Arc::<Notify>::default();
            let (mut leader, stored) = lead(&in_flight, late_query(&respond, result));
            assert_eq!((&mut leader).await, Err(WaitError::InFlight(None)));
            assert!(leader.is_late());
            leader.detach();
            let follower = follow(&in_flight);
            assert_eq!((in_flight.generation(), stored.load(Ordering::Relaxed)), (0, 0));
            respond.notify_one();
            assert_eq!(follower.wait().await, follower_result);
            assert_eq!((in_flight.generation(), stored.load(Ordering::Relaxed)), (1, 1));
            drop(lead(&in_flight, Box::pin(pending())));
        }
    }

    #[tokio::test]
    async fn a_late_answer_reaches_those_who_wait_for_a_newer_query_and_a_late_failure_does_not() {
        let answer = Ok(Arc::new(Response::empty(&question(), rcode::NOERROR)));
        for result in [answer, Err(NoAnswer)] {
            let in_flight = Arc::<InFlight>::default();
            let (mut late, stored) = lead(&in_flight, late_query(&Arc::default(), result.clone()));
            assert_eq!((&mut late).await, Err(WaitError::InFlight(None)));
            let recovered = || FlightOrigin { recovered_at: Some(Instant::now().into_std()), ..origin() };
            let start = || (Box::pin(pending()) as UpstreamQuery, StoreCount::default());
            let Join::Leader(newer) = in_flight.join(&key(), in_flight.generation(), recovered, || None::<()>, start)
            else {
                panic!("a server has come up again: a new query starts");
            };
            let follower = follow(&in_flight);
            late.result = Some(result.clone());
            drop(late);
            assert_eq!(stored.load(Ordering::Relaxed), 1);
            assert!(matches!(follow(&in_flight), Follower(_)), "the newer query is in flight");
            if result.is_ok() {
                assert_eq!(follower.wait().await, result);
            } else {
                assert!(follower.0.borrow().is_none());
            }
            drop(newer);
            drop(lead(&in_flight, Box::pin(pending())));
        }
    }

    #[tokio::test]
    async fn a_late_failure_is_not_stored_after_the_end_of_a_newer_query() {
        let in_flight = Arc::<InFlight>::default();
        let (mut late, stored) = lead(&in_flight, late_query(&Arc::default(), Err(NoAnswer)));
        assert_eq!((&mut late).await, Err(WaitError::InFlight(None)));
        let recovered = || FlightOrigin { recovered_at: Some(Instant::now().into_std()), ..origin() };
        let start = || (Box::pin(pending()) as UpstreamQuery, StoreCount::default());
        let newer = in_flight.join(&key(), in_flight.generation(), recovered, || None::<()>, start);
        assert!(matches!(newer, Join::Leader(_)));
        drop(newer);
        late.result = Some(Err(NoAnswer));
        drop(late);
        assert_eq!(stored.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_leader_that_is_dropped_wakes_its_followers_and_the_next_query_starts() {
        let in_flight = Arc::<InFlight>::default();
        let (leader, stored) = lead(&in_flight, Box::pin(pending()));
        let follower = follow(&in_flight);
        drop(leader);
        assert_eq!(follower.wait().await, Err(NoAnswer));
        assert_eq!(stored.load(Ordering::Relaxed), 0);
        drop(lead(&in_flight, Box::pin(pending())));
    }

    #[tokio::test]
    async fn a_key_without_room_has_no_query_and_no_result_and_has_room_when_others_end() {
        let in_flight = Arc::<InFlight>::default();
        let join = |name: &str| {
            let key = Key::new(1, &Question::plain(&Name::from_text(name).unwrap(), rtype::A));
            let start = || (Box::pin(pending()) as UpstreamQuery, StoreCount::default());
            in_flight.join(&key, in_flight.generation(), origin, || None::<()>, start)
        };
        let mut leaders = Vec::new();
        while let Join::Leader(leader) = join(&format!("n{}.www.example", leaders.len())) {
            leaders.push(leader);
        }
        assert!((256..1024).contains(&leaders.len()), "one domain leaves room for others: {}", leaders.len());
        assert!(matches!(join("n0.www.example"), Join::Follower(_)));
        let stored: Vec<StoreCount> = leaders.iter().map(|leader| leader.sink.clone()).collect();
        drop(leaders);
        assert!(stored.iter().all(|count| count.load(Ordering::Relaxed) == 0));
        assert!(matches!(join("last.www.example"), Join::Leader(_)));
    }
}
