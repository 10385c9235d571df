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
use crate::packet::Response;
use crate::upstream::Unanswered;

/// The most questions that are outstanding at one time. It bounds sockets and memory.
const MOST: usize = 1024;

/// What came of a flight.
pub(super) type Landed = Result<Arc<Response>, Unanswered>;

/// What a flight does.
pub(super) type BoxedFlight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// A seat on a flight that somebody else pilots.
pub(super) type Seat = watch::Receiver<Option<Landed>>;

/// The questions that are outstanding, each with those who wait for its answer beside who asks it.
#[derive(Debug, Default)]
pub(super) struct Flights {
    running: Mutex<Running>,
    landed: AtomicU64,
}

type Running = HashMap<Key, Option<watch::Sender<Option<Landed>>>, RandomState>;

/// What comes of wanting to know what a flight brings.
pub(super) enum Joined<T> {
    /// It has just begun, and is whose who wanted it.
    Flight(Flight),
    /// Somebody else's is under way.
    Seat(Seat),
    /// None is needed: the flight has landed, and this is what it brought.
    Known(T),
    /// None is to be had: there are too many flights.
    Full,
}

impl Flights {
    /// How many have landed.
    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Joins the flight for this key, or begins one. If any has landed since so many had, which was before the caller looked
    /// into memory, it looks once more whether what is wanted is `known`.
    pub(super) fn join<T>(
        self: &Arc<Self>,
        key: &Key,
        landed: u64,
        known: impl FnOnce() -> Option<T>,
        begin: impl FnOnce() -> BoxedFlight,
    ) -> Joined<T> {
        let mut running = self.running();
        let enough = running.len() >= MOST;
        match running.entry(key.clone()) {
            Entry::Occupied(mut others) => {
                let others = others.get_mut().get_or_insert_with(|| watch::channel(None).0);
                Joined::Seat(others.subscribe())
            }
            Entry::Vacant(place) => match if self.landed() == landed { None } else { known() } {
                Some(known) => Joined::Known(known),
                None if enough => Joined::Full,
                None => {
                    place.insert(None);
                    let listed = Listed { flights: self.clone(), key: key.clone(), is_off: false };
                    Joined::Flight(Flight { work: begin(), listed })
                }
            },
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight in the hands of who polls it. If it is dropped, those who have a seat hear that there is no answer.
pub(super) struct Flight {
    work: BoxedFlight,
    listed: Listed,
}

impl Flight {
    /// Waits for it until this time; then it goes on by itself.
    pub(super) async fn until(mut self, patience: Instant) -> Landed {
        match timeout_at(patience, &mut self).await {
            Ok(landed) => landed,
            Err(_) => {
                self.leave();
                Err(Unanswered)
            }
        }
    }

    /// It goes on by itself.
    pub(super) fn leave(self) {
        tokio::spawn(self);
    }
}

impl Future for Flight {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landed> {
        let landed = ready!(self.work.as_mut().poll(context));
        if let Some(others) = self.listed.take_off() {
            others.send_replace(Some(landed.clone()));
        }
        Poll::Ready(landed)
    }
}

/// Waits for somebody else's flight to land.
pub(super) async fn landing(mut seat: Seat) -> Landed {
    match seat.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone().unwrap_or(Err(Unanswered)),
        Err(_) => Err(Unanswered),
    }
}

/// A flight's place on the list, until it is dropped.
struct Listed {
    flights: Arc<Flights>,
    key: Key,
    is_off: bool,
}

impl Listed {
    /// Takes it off the list and gives those who have a seat. Who comes now finds the answer in memory.
    fn take_off(&mut self) -> Option<watch::Sender<Option<Landed>>> {
        // Once: the next flight for this key may be under way.
        if std::mem::replace(&mut self.is_off, true) {
            return None;
        }
        let mut running = self.flights.running();
        self.flights.landed.fetch_add(1, Ordering::Release);
        running.remove(&self.key).flatten()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.take_off();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;
    use crate::packet::Name;
    use crate::packet::numbers::{rcode, rtype};
    use crate::packet::question::Question;

    fn question() -> Question {
        Question::plain(&Name::from_text("www.example").unwrap(), rtype::A)
    }

    fn key() -> Key {
        Key::new(1, &question())
    }

    /// Lands when it is told to.
    fn waiting_for(word: &Arc<Notify>) -> BoxedFlight {
        let word = word.clone();
        Box::pin(async move {
            word.notified().await;
            Ok(Arc::new(Response::empty(&question(), rcode::NOERROR)))
        })
    }

    fn begin(flights: &Arc<Flights>, work: BoxedFlight) -> Flight {
        match flights.join(&key(), flights.landed(), || None::<()>, || work) {
            Joined::Flight(flight) => flight,
            _ => panic!("it does not begin"),
        }
    }

    fn seat(flights: &Arc<Flights>) -> Seat {
        match flights.join(&key(), flights.landed(), || None::<()>, || panic!("it is under way")) {
            Joined::Seat(seat) => seat,
            _ => panic!("there is no seat"),
        }
    }

    #[tokio::test]
    async fn who_comes_later_hears_the_same_and_the_next_one_looks_into_memory_first() {
        let (flights, word) = (Arc::<Flights>::default(), Arc::<Notify>::default());
        let before = flights.landed();
        let (flight, seats) = (begin(&flights, waiting_for(&word)), [seat(&flights), seat(&flights)]);
        word.notify_one();
        let landed = flight.await.unwrap();
        for seat in seats {
            assert!(Arc::ptr_eq(&landing(seat).await.unwrap(), &landed));
        }
        let known = flights.join(&key(), before, || Some("it is in memory"), || panic!("nobody is asked"));
        assert!(matches!(known, Joined::Known("it is in memory")));
    }

    #[tokio::test]
    async fn a_flight_that_is_not_waited_for_goes_on_by_itself() {
        let (flights, word) = (Arc::<Flights>::default(), Arc::<Notify>::default());
        let flight = begin(&flights, waiting_for(&word));
        assert_eq!(flight.until(Instant::now() + Duration::from_millis(1)).await, Err(Unanswered));
        let seat = seat(&flights);
        word.notify_one();
        assert!(landing(seat).await.is_ok());
        assert_eq!(flights.landed(), 1);
    }

    #[tokio::test]
    async fn a_flight_that_is_dropped_is_told_to_all_who_wait_and_the_next_one_begins() {
        let flights = Arc::<Flights>::default();
        let (flight, seat) = (begin(&flights, Box::pin(pending())), seat(&flights));
        drop(flight);
        assert_eq!(landing(seat).await, Err(Unanswered));
        drop(begin(&flights, Box::pin(pending())));
    }
}
