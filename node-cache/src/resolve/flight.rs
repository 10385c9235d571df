//! One outstanding question for each key, however many clients wait for its answer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::cache::Key;
use crate::packet::Response;
use crate::upstream::Unanswered;

/// The most questions that are outstanding at one time. It bounds sockets and memory.
const MOST: usize = 2048;

/// What came of a flight.
pub(super) type Landed = Result<Arc<Response>, Unanswered>;

/// A seat on a flight.
pub(super) type Seat = watch::Receiver<Option<Landed>>;

/// The questions that are outstanding.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Seat>>);

/// What comes of wanting a seat.
#[derive(Debug)]
pub(super) enum Joined<T> {
    /// A seat.
    Seat(Seat),
    /// None is needed: the flight has landed, and this is what it brought.
    Known(T),
    /// None is to be had: there are too many flights.
    Full,
}

impl Flights {
    /// Joins the flight for this key, or starts one that runs on even if nobody waits any more. Before it does it looks once
    /// more whether what is wanted is `known`: a flight of another thread may have landed since the caller looked.
    pub(super) fn join<T>(
        self: &Arc<Self>,
        key: &Key,
        known: impl FnOnce() -> Option<T>,
        start: impl FnOnce() -> BoxedFlight,
    ) -> Joined<T> {
        let mut running = self.running();
        if let Some(seat) = running.get(key) {
            return Joined::Seat(seat.clone());
        }
        if let Some(known) = known() {
            return Joined::Known(known);
        }
        if running.len() >= MOST {
            return Joined::Full;
        }
        let (sender, seat) = watch::channel(None);
        running.insert(key.clone(), seat.clone());
        let flight = start();
        let landing = Landing { flights: self.clone(), key: key.clone() };
        tokio::spawn(async move {
            let landed = flight.await;
            // Off the list first: who comes now finds the answer in memory.
            drop(landing);
            sender.send_replace(Some(landed));
        });
        Joined::Seat(seat)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a flight does.
pub(super) type BoxedFlight = std::pin::Pin<Box<dyn Future<Output = Landed> + Send>>;

/// Waits for a flight to land.
pub(super) async fn landing(mut seat: Seat) -> Landed {
    match seat.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone().unwrap_or(Err(Unanswered)),
        Err(_) => Err(Unanswered),
    }
}

/// Takes a flight off the list, whichever way it ends.
struct Landing {
    flights: Arc<Flights>,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.running().remove(&self.key);
    }
}
