//! What a connection's reader and writer and the questions in between know of each other. All of it stands in one place: queues
//! and counters of their own would take a kilobyte for each of a thousand connections.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::dnstap::Sampled;
use crate::limits::Permit;
use crate::metrics::Dropped;
use crate::server::Shared;

/// An answer and its share of all octets that may wait to be written.
type Unwritten = (Vec<u8>, Permit);

/// The conversation with a client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) source: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Questions whose answers are not written yet.
    open: usize,
    unwritten: VecDeque<Unwritten>,
    /// Nothing is read any more.
    is_heard_out: bool,
    /// Nothing can be written any more.
    is_broken: bool,
    /// The connection's task, which both reads and writes.
    task: Option<Waker>,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, source: SocketAddr) -> Arc<Self> {
        Arc::new(Self { shared, source, state: Mutex::default() })
    }

    /// Waits until fewer questions are open than may be; false when nothing is to be read any more.
    pub(super) async fn may_read(&self) -> bool {
        let most = self.shared.limits.pipelined;
        self.wait_for(|state| match () {
            () if state.is_heard_out => Some(false),
            () => (state.open < most).then_some(true),
        })
        .await
    }

    /// Waits until nothing is to be read any more.
    pub(super) async fn reading_stopped(&self) {
        self.wait_for(|state| state.is_heard_out.then_some(())).await;
    }

    /// Says that nothing is to be read any more.
    pub(super) fn stop_reading(&self) {
        self.change(|state| state.is_heard_out = true);
    }

    /// A question was read that will be answered.
    pub(super) fn begin(&self) {
        self.state().open += 1;
    }

    /// Its answer is to be written. A client that does not read what it asked for, so that there is no room for one more, is
    /// heard no further.
    pub(super) fn answer(&self, message: Vec<u8>, shown: Option<&Sampled>) {
        let room = self.shared.room(self.source, message.len());
        self.change(|state| match room {
            Some(_) if state.is_broken => self.shared.metrics().dropped(Dropped::Unsent),
            Some(room) => {
                self.shared.show_answer(shown, &message);
                state.unwritten.push_back((message, room));
            }
            None => {
                state.open -= 1;
                state.is_heard_out = true;
            }
        });
    }

    /// Waits for what is to be written next; none when there will be nothing any more.
    pub(super) async fn next(&self) -> Option<Unwritten> {
        self.wait_for(|state| match state.unwritten.pop_front() {
            None if state.is_heard_out && state.open == 0 => Some(None),
            None => None,
            next => Some(next),
        })
        .await
    }

    /// One was written.
    pub(super) fn written(&self) {
        self.change(|state| state.open -= 1);
    }

    /// Nothing can be written any more.
    pub(super) fn abort_writes(&self) {
        self.change(|state| {
            // One was being written.
            let unsent = 1 + state.unwritten.drain(..).count();
            (0..unsent).for_each(|_| self.shared.metrics().dropped(Dropped::Unsent));
            (state.is_broken, state.is_heard_out) = (true, true);
        });
    }

    async fn wait_for<T>(&self, mut wanted: impl FnMut(&mut State) -> Option<T>) -> T {
        poll_fn(|context| {
            let mut state = self.state();
            match wanted(&mut state) {
                Some(found) => Poll::Ready(found),
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
