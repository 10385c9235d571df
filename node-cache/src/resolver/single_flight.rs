//! One outstanding question for each key, however many clients wait for its answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use foldhash::quality::RandomState;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::cache::Key;
use crate::dns::Response;
use crate::upstream::NoAnswer;

/// The most questions that are outstanding at one time. It bounds sockets and memory.
const MOST: usize = 1024;

/// What came of a flight.
pub(super) type UpstreamResult = Result<Arc<Response>, NoAnswer>;

/// What a flight does.
pub(super) type Work = Pin<Box<dyn Future<Output = UpstreamResult> + Send>>;

/// Where a flight puts what it has brought.
pub(super) trait StoreResult {
    /// Does so, under this key, so that who comes later finds it.
    fn keep(&self, key: &Key, landed: &UpstreamResult);
}

/// A seat on a flight that somebody else pilots.
pub(super) type Follower = watch::Receiver<Option<UpstreamResult>>;

/// Names are in so many classes, of each of which it is known when a flight last landed.
const CLASSES: usize = 64;

/// The questions that are outstanding, and how many there have been.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    running: Mutex<Running>,
    landed: AtomicU64,
}

#[derive(Debug)]
struct Running {
    /// Each with those who wait for its answer beside who asks it.
    all: HashMap<Key, Option<watch::Sender<Option<UpstreamResult>>>, RandomState>,
    /// How many had landed when the last one of a class had.
    last: [u64; CLASSES],
}

impl Default for Running {
    fn default() -> Self {
        Self { all: HashMap::default(), last: [0; CLASSES] }
    }
}

/// What comes of wanting to know what a flight brings.
pub(super) enum Join<T, K: StoreResult> {
    /// It has just begun, and is whose who wanted it.
    Leader(Leader<K>),
    /// Somebody else's is under way.
    Follower(Follower),
    /// None is needed: the flight has landed, and this is what it brought.
    AlreadyCached(T),
    /// None is to be had: there are too many flights.
    AtCapacity,
}

impl InFlight {
    /// How many have landed.
    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Joins the flight for this key, or begins one. If one for its name, or for another name of its class, has landed since so
    /// many had, which was before the caller looked into memory, it looks once more whether what is wanted is `known`.
    pub(super) fn join<T, K: StoreResult>(
        self: &Arc<Self>,
        key: &Key,
        landed: u64,
        known: impl FnOnce() -> Option<T>,
        begin: impl FnOnce() -> (Work, K),
    ) -> Join<T, K> {
        let mut running = self.running();
        let (enough, is_known) = (running.all.len() >= MOST, running.last[key.class_of_name::<CLASSES>()] > landed);
        match running.all.entry(key.clone()) {
            Entry::Occupied(mut others) => {
                let others = others.get_mut().get_or_insert_with(|| watch::channel(None).0);
                Join::Follower(others.subscribe())
            }
            Entry::Vacant(place) => match if is_known { known() } else { None } {
                Some(known) => Join::AlreadyCached(known),
                None if enough => Join::AtCapacity,
                None => {
                    place.insert(None);
                    let (work, keep) = begin();
                    Join::Leader(Leader { work, keep, flights: self.clone(), key: key.clone(), landed: None })
                }
            },
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight in the hands of who polls it. What it has brought is kept, and those who have a seat hear of it, when it is dropped:
/// who has piloted it may answer before. If it has not landed by then, they hear that there is no answer.
pub(super) struct Leader<K: StoreResult> {
    work: Work,
    keep: K,
    flights: Arc<InFlight>,
    key: Key,
    landed: Option<UpstreamResult>,
}

impl<K: StoreResult + Send + Unpin + 'static> Leader<K> {
    /// Waits for it until this time; then it goes on by itself.
    pub(super) async fn until(mut self, patience: Instant) -> UpstreamResult {
        match timeout_at(patience, &mut self).await {
            Ok(landed) => landed,
            Err(_) => {
                self.leave();
                Err(NoAnswer)
            }
        }
    }

    /// It goes on by itself.
    pub(super) fn leave(self) {
        tokio::spawn(async move { self.await.map(drop) });
    }
}

impl<K: StoreResult + Unpin> Future for Leader<K> {
    type Output = UpstreamResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<UpstreamResult> {
        let landed = ready!(self.work.as_mut().poll(context));
        self.landed = Some(landed.clone());
        Poll::Ready(landed)
    }
}

impl<K: StoreResult> Drop for Leader<K> {
    fn drop(&mut self) {
        if let Some(landed) = &self.landed {
            self.keep.keep(&self.key, landed);
        }
        let others = {
            let mut running = self.flights.running();
            running.last[self.key.class_of_name::<CLASSES>()] = self.flights.landed.fetch_add(1, Ordering::Release) + 1;
            running.all.remove(&self.key).flatten()
        };
        if let (Some(others), Some(landed)) = (others, self.landed.take()) {
            others.send_replace(Some(landed));
        }
    }
}

/// Waits for somebody else's flight to land.
pub(super) async fn landing(mut seat: Follower) -> UpstreamResult {
    match seat.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone().unwrap_or(Err(NoAnswer)),
        Err(_) => Err(NoAnswer),
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

    fn key() -> Key {
        Key::new(1, &question())
    }

    /// Lands when it is told to.
    fn waiting_for(word: &Arc<Notify>) -> Work {
        let word = word.clone();
        Box::pin(async move {
            word.notified().await;
            Ok(Arc::new(Response::empty(&question(), rcode::NOERROR)))
        })
    }

    /// Counts what was to be kept.
    type Kept = Arc<AtomicU64>;

    impl StoreResult for Kept {
        fn keep(&self, _: &Key, _: &UpstreamResult) {
            self.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn begin(flights: &Arc<InFlight>, work: Work) -> (Leader<Kept>, Kept) {
        let kept = Kept::default();
        let begin = || (work, kept.clone());
        let Join::Leader(flight) = flights.join(&key(), flights.landed(), || None::<()>, begin) else {
            panic!("it does not begin");
        };
        (flight, kept)
    }

    fn nobody_is_asked() -> (Work, Kept) {
        panic!("somebody is asked");
    }

    fn seat(flights: &Arc<InFlight>) -> Follower {
        match flights.join(&key(), flights.landed(), || None::<()>, nobody_is_asked) {
            Join::Follower(seat) => seat,
            _ => panic!("there is no seat"),
        }
    }

    #[tokio::test]
    async fn who_comes_later_hears_the_same_and_the_next_one_looks_into_memory_first() {
        let (flights, word) = (Arc::<InFlight>::default(), Arc::<Notify>::default());
        let before = flights.landed();
        let (mut flight, kept) = begin(&flights, waiting_for(&word));
        let [first, second] = [seat(&flights), seat(&flights)];
        word.notify_one();
        let landed = (&mut flight).await.unwrap();
        // Its pilot may answer before anything is kept; who comes now has to wait until it is.
        let third = seat(&flights);
        assert_eq!((first.borrow().is_none(), kept.load(Ordering::Relaxed)), (true, 0));
        drop(flight);
        assert_eq!(kept.load(Ordering::Relaxed), 1);
        for seat in [first, second, third] {
            assert!(Arc::ptr_eq(&landing(seat).await.unwrap(), &landed));
        }
        let known = flights.join(&key(), before, || Some("it is in memory"), nobody_is_asked);
        assert!(matches!(known, Join::AlreadyCached("it is in memory")));
    }

    #[tokio::test]
    async fn only_what_has_landed_for_the_same_name_is_a_reason_to_look_into_memory_again() {
        let (flights, before) = (Arc::<InFlight>::default(), 0);
        let (mut flight, _) = begin(&flights, Box::pin(async { Err(NoAnswer) }));
        assert_eq!((&mut flight).await, Err(NoAnswer));
        drop(flight);
        let join = |name: &str, rtype| {
            let key = Key::new(1, &Question::plain(&Name::from_text(name).unwrap(), rtype));
            let begin = || (Box::pin(pending()) as Work, Kept::default());
            flights.join(&key, before, || Some("it is in memory"), begin)
        };
        assert!(
            matches!(join("www.example", rtype::AAAA), Join::AlreadyCached(_)),
            "what denies a name denies all of its types"
        );
        // One in 64 of them is in the same class.
        let others: Vec<_> = (0..256).map(|other| join(&format!("{other}.example"), rtype::A)).collect();
        assert!(others.iter().filter(|joined| matches!(joined, Join::Leader(_))).count() > 200);
    }

    #[tokio::test]
    async fn a_flight_that_is_not_waited_for_goes_on_by_itself() {
        let (flights, word) = (Arc::<InFlight>::default(), Arc::<Notify>::default());
        let (flight, kept) = begin(&flights, waiting_for(&word));
        assert_eq!(flight.until(Instant::now() + Duration::from_millis(1)).await, Err(NoAnswer));
        let seat = seat(&flights);
        word.notify_one();
        assert!(landing(seat).await.is_ok());
        assert_eq!((flights.landed(), kept.load(Ordering::Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn a_flight_that_is_dropped_is_told_to_all_who_wait_and_the_next_one_begins() {
        let flights = Arc::<InFlight>::default();
        let ((flight, kept), seat) = (begin(&flights, Box::pin(pending())), seat(&flights));
        drop(flight);
        assert_eq!(landing(seat).await, Err(NoAnswer));
        assert_eq!(kept.load(Ordering::Relaxed), 0);
        drop(begin(&flights, Box::pin(pending())));
    }
}
