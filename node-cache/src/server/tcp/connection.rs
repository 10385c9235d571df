//! State of one TCP connection, which its reader, its writer and its queries share. One mutex holds all of it: queues
//! and counters of their own would take a kilobyte for each of a thousand connections.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::connection_table::ConnectionPermit;
use crate::dnstap::Sampled;
use crate::limits::Permit;
use crate::metrics::DropReason;
use crate::server::shared::Shared;

/// Response that waits to be written, and its permit among all bytes that may wait.
#[derive(Debug)]
pub(super) struct UnwrittenResponse {
    pub(super) message: Vec<u8>,
    pub(super) permit: Permit,
}

/// TCP connection of a client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) client: SocketAddr,
    /// Place among all connections. The connection is busy while a query has no response that is written.
    pub(super) permit: ConnectionPermit,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Queries whose responses are not written yet.
    unanswered: usize,
    unwritten: VecDeque<UnwrittenResponse>,
    /// No more queries are read.
    reading_stopped: bool,
    /// No more responses can be written.
    writes_aborted: bool,
    /// Waker of the connection's task, which both reads and writes.
    task: Option<Waker>,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, client: SocketAddr, permit: ConnectionPermit) -> Arc<Self> {
        Arc::new(Self { shared, client, permit, state: Mutex::default() })
    }

    /// Waits until fewer queries are unanswered than the limit. Returns `false` when no more queries are to be read.
    pub(super) async fn wait_until_readable(&self) -> bool {
        let limit = self.shared.limits.max_pipelined_queries;
        self.wait_for(|state| match () {
            () if state.reading_stopped => Some(false),
            () => (state.unanswered < limit).then_some(true),
        })
        .await
    }

    /// Waits until no more queries are to be read.
    pub(super) async fn reading_stopped(&self) {
        self.wait_for(|state| state.reading_stopped.then_some(())).await;
    }

    /// Stops reading: no more queries are to be read.
    pub(super) fn stop_reading(&self) {
        self.change(|state| state.reading_stopped = true);
    }

    /// Counts a query that gets a response.
    pub(super) fn query_started(&self) {
        let mut state = self.state();
        state.unanswered += 1;
        if state.unanswered == 1 {
            self.permit.set_busy(Instant::now());
        }
    }

    fn query_ended(&self, state: &mut State) {
        state.unanswered -= 1;
        if state.unanswered == 0 {
            self.permit.set_idle(Instant::now());
        }
    }

    /// Queues a response for writing. At the limit of unwritten bytes it is dropped and reading stops: the client does
    /// not read what it asked for.
    pub(super) fn queue_response(&self, message: Vec<u8>, sampled: Option<&Sampled>) {
        let permit = self.shared.acquire_unwritten(self.client, message.len());
        self.change(|state| match permit {
            Some(_) if state.writes_aborted => self.shared.metrics().count_drop(DropReason::Unsent),
            Some(permit) => {
                self.shared.tap_response(sampled, &message);
                state.unwritten.push_back(UnwrittenResponse { message, permit });
            }
            None => {
                self.query_ended(state);
                state.reading_stopped = true;
            }
        });
    }

    /// Waits for the next response to write; `None` when there will be no more.
    pub(super) async fn next_unwritten(&self) -> Option<UnwrittenResponse> {
        self.wait_for(|state| match state.unwritten.pop_front() {
            None if state.reading_stopped && state.unanswered == 0 => Some(None),
            None => None,
            next => Some(next),
        })
        .await
    }

    /// Counts a response as written.
    pub(super) fn response_written(&self) {
        self.change(|state| self.query_ended(state));
    }

    /// Drops all responses after a failed write, and stops reading.
    pub(super) fn abort_writes(&self) {
        // One more was being written.
        self.shared.metrics().count_drop(DropReason::Unsent);
        self.close();
    }

    /// Drops all responses that are not written, now and later, and stops reading.
    pub(super) fn close(&self) {
        self.change(|state| {
            state.unwritten.drain(..).for_each(|_| self.shared.metrics().count_drop(DropReason::Unsent));
            state.writes_aborted = true;
            state.reading_stopped = true;
        });
    }

    async fn wait_for<T>(&self, mut condition: impl FnMut(&mut State) -> Option<T>) -> T {
        poll_fn(|context| {
            let mut state = self.state();
            match condition(&mut state) {
                Some(value) => Poll::Ready(value),
                None => {
                    state.task.get_or_insert_with(|| context.waker().clone()).clone_from(context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let task = {
            let mut state = self.state();
            change(&mut state);
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
