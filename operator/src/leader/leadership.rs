//! Leadership of this process, as its other parts see it: whether they may write, and when that begins and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Refusal of a write, because this process is not the leader.
#[derive(Debug, thiserror::Error)]
#[error("this process is not the leader of the operator any more, so that it writes nothing")]
pub(crate) struct NotLeaderError;

/// Number of a term, in the order of this process's terms.
pub(crate) type Term = u64;

/// State of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Writes are refused: another process leads, or none.
    Standby,
    /// Writes are permitted.
    Leader {
        /// Time from which it may not any more, unless it renews the Lease.
        end: Instant,
    },
    /// Writes that run are finished, and none is begun, because the process stops.
    Closing {
        /// Time from which what is not finished is dropped.
        end: Instant,
    },
}

/// Handle of the leadership, shared by all parts of the process.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Number of the latest term, and the state.
    state: watch::Sender<(Term, State)>,
    /// Number of writes without a response.
    writes: watch::Sender<usize>,
    stands: watch::Sender<bool>,
    /// Time of the last change of the Lease that was seen.
    lease_change: watch::Sender<Option<Instant>>,
    renew_failures: AtomicU64,
}

impl Default for Leadership {
    fn default() -> Self {
        let shared = Shared {
            state: watch::Sender::new((0, State::Standby)),
            writes: watch::Sender::new(0),
            stands: watch::Sender::new(false),
            lease_change: watch::Sender::new(None),
            renew_failures: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Leadership {
    /// Returns the number of the current term; `None` when the process may not write.
    #[must_use]
    pub(crate) fn term(&self, now: Instant) -> Option<Term> {
        match *self.shared.state.borrow() {
            (term, State::Leader { end }) if now < end => Some(term),
            _ => None,
        }
    }

    /// Waits until the process is the leader.
    pub(crate) async fn gained(&self) -> Term {
        let mut state = self.shared.state.subscribe();
        loop {
            if let Some(term) = self.term(Instant::now()) {
                return term;
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for the end of a term: from then on nothing that belongs to it may go on.
    pub(crate) async fn lost(&self, term: Term) {
        let mut state = self.shared.state.subscribe();
        loop {
            let (current, now_state) = *state.borrow_and_update();
            let (State::Leader { end } | State::Closing { end }) = now_state else { return };
            if current != term || Instant::now() >= end {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => {}
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Runs a future while a term lasts, and drops it then. Returns `None` at once when the term is over, even if
    /// another one has begun.
    pub(crate) async fn run_in<T>(&self, term: Term, future: impl Future<Output = T>) -> Option<T> {
        // The end comes first, so that a process that stood still does not go on for one step.
        tokio::select! {
            biased;
            () = self.lost(term) => None,
            output = future => Some(output),
        }
    }

    /// Begins a write, which ends when the returned value is dropped.
    ///
    /// # Errors
    ///
    /// When the process may not write.
    pub(crate) fn begin_write(&self) -> Result<Write, NotLeaderError> {
        // Counted before the check, so that a process that stops misses none.
        self.shared.writes.send_modify(|writes| *writes += 1);
        let mut write = Write { leadership: self.clone(), term: 0 };
        write.term = self.term(Instant::now()).ok_or(NotLeaderError)?;
        Ok(write)
    }

    /// Lets the process take part in the election: it has what a leader needs.
    pub(crate) fn stand(&self) {
        self.shared.stands.send_replace(true);
    }

    /// Waits until the process takes part in the election.
    pub(super) async fn standing(&self) {
        let mut stands = self.shared.stands.subscribe();
        if stands.wait_for(|stands| *stands).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sets the time until which the process may write; `None` when it does not hold the Lease. A term that was over
    /// for a moment is another one when it goes on.
    pub(super) fn update(&self, end: Option<Instant>, lease_change: Option<Instant>, now: Instant) {
        self.shared.lease_change.send_replace(lease_change);
        self.shared.state.send_if_modified(|(term, state)| {
            let before = (*term, *state);
            let goes_on = matches!(*state, State::Leader { end } if now < end);
            match end.filter(|end| now < *end) {
                Some(end) => {
                    *term += u64::from(!goes_on);
                    *state = State::Leader { end };
                }
                None => *state = State::Standby,
            }
            (*term, *state) != before
        });
    }

    /// Ends the term for whatever has not begun yet.
    pub(super) fn close(&self) {
        self.shared.state.send_modify(|(_, state)| {
            if let State::Leader { end } = *state {
                *state = State::Closing { end };
            }
        });
    }

    /// Waits until no write is without a response, and returns whether that came within the limit.
    pub(super) async fn writes_end(&self, limit: Duration) -> bool {
        let mut writes = self.shared.writes.subscribe();
        let result = tokio::time::timeout(limit, writes.wait_for(|writes| *writes == 0)).await;
        matches!(result, Ok(Ok(_)))
    }

    /// Counts a renewal of the Lease that failed.
    pub(super) fn record_renew_failure(&self) {
        self.shared.renew_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of renewals of the Lease that failed.
    #[must_use]
    pub(crate) fn renew_failures(&self) -> u64 {
        self.shared.renew_failures.load(Ordering::Relaxed)
    }

    /// Returns the time since the Lease was last seen to change; `None` before the first look.
    #[must_use]
    pub(crate) fn lease_age(&self, now: Instant) -> Option<Duration> {
        self.shared.lease_change.borrow().map(|change| now.saturating_duration_since(change))
    }
}

#[cfg(test)]
impl Leadership {
    /// Returns the leadership of a process that leads for ever.
    pub(crate) fn permanent() -> Self {
        let leadership = Self::default();
        leadership.lead(Duration::from_secs(86_400));
        leadership
    }

    /// Lets the process lead for so long from now on.
    pub(crate) fn lead(&self, duration: Duration) {
        let now = Instant::now();
        self.update(Some(now + duration), Some(now), now);
    }

    /// Ends the term.
    pub(crate) fn lose(&self) {
        self.update(None, None, Instant::now());
    }
}

/// Write that has no response yet.
#[derive(Debug)]
pub(crate) struct Write {
    leadership: Leadership,
    term: Term,
}

impl Write {
    /// Waits for the end of the term of the write.
    pub(crate) async fn lost(&self) {
        self.leadership.lost(self.term).await;
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.leadership.shared.writes.send_modify(|writes| *writes -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_runs_is_dropped_at_the_end_of_the_term_and_not_before() {
        let leadership = Leadership::default();
        assert_eq!(leadership.term(Instant::now()), None, "no leader yet");
        leadership.lead(10 * SECOND);
        let term = leadership.gained().await;
        let start = Instant::now();
        let renewing = leadership.clone();
        tokio::spawn(async move {
            tokio::time::sleep(2 * SECOND).await;
            renewing.lead(10 * SECOND);
        });
        assert_eq!(leadership.run_in(term, std::future::pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_does_not_go_on_with_what_it_did() {
        let leadership = Leadership::default();
        leadership.lead(10 * SECOND);
        let term = leadership.gained().await;
        let mut steps = 0;
        let mut pass = Box::pin(leadership.run_in(term, async {
            loop {
                steps += 1;
                tokio::task::yield_now().await;
            }
        }));
        assert!(futures::poll!(&mut pass).is_pending());
        tokio::time::advance(20 * SECOND).await;
        // Meanwhile the process has become the leader again.
        leadership.lead(10 * SECOND);
        assert_eq!(futures::poll!(&mut pass), std::task::Poll::Ready(None::<()>));
        drop(pass);
        assert_eq!(steps, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_of_a_term_that_is_over_begins_in_the_next_one() {
        let leadership = Leadership::default();
        leadership.lead(10 * SECOND);
        let term = leadership.gained().await;
        // The process stands still, and then renews the Lease before anything else.
        tokio::time::advance(20 * SECOND).await;
        leadership.lead(10 * SECOND);
        let next = leadership.gained().await;
        assert_ne!(next, term);
        assert_eq!(leadership.run_in(term, async { 1 }).await, None);
        assert_eq!(leadership.run_in(next, async { 1 }).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stops_begins_no_write_and_waits_for_those_that_run() {
        let leadership = Leadership::permanent();
        let write = leadership.begin_write().unwrap();
        leadership.close();
        assert!(leadership.begin_write().is_err());
        assert!(!leadership.writes_end(SECOND).await);
        assert!(tokio::time::timeout(SECOND, write.lost()).await.is_err(), "it is not cut off");
        drop(write);
        assert!(leadership.writes_end(SECOND).await);
    }
}
