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

impl Flights {
    /// Joins the flight for this key, or starts one that runs on even if nobody waits any more; none when there are
    /// too many.
    pub(super) fn join(self: &Arc<Self>, key: &Key, start: impl FnOnce() -> BoxedFlight) -> Option<Seat> {
        let mut running = self.running();
        if let Some(seat) = running.get(key) {
            return Some(seat.clone());
        }
        if running.len() >= MOST {
            return None;
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
        Some(seat)
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
