//! Deadlines of a thread's queries, on a single timer of its runtime: most of them are dropped before they elapse.
//!
//! Arming a runtime's timer earlier than all others wakes the runtime, which costs a system call, and another one to
//! receive the wake-up; with one query in flight each timer is the earliest. So the shared timer stays armed when the
//! deadlines it was armed for are gone. When it fires, it is armed for the deadlines that exist then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that can be awaited.
#[derive(Debug)]
pub(in crate::upstream) struct Timer {
    deadline: Instant,
    /// Unique among the timers of the process; set while the timer is in the queue of its thread or has elapsed.
    id: Option<u64>,
}

impl Timer {
    /// Creates a timer that elapses at `deadline`.
    pub(in crate::upstream) const fn at(deadline: Instant) -> Self {
        Self { deadline, id: None }
    }

    /// Moves the timer to another deadline. An unchanged deadline changes nothing.
    pub(in crate::upstream) fn set(&mut self, deadline: Instant) {
        if deadline != self.deadline {
            self.cancel();
            self.deadline = deadline;
        }
    }

    /// Returns ready once the deadline has passed. The timer has to be set to another deadline afterwards.
    ///
    /// Must be called inside a Tokio runtime, always on the same thread.
    pub(in crate::upstream) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let deadline = self.deadline;
        QUEUE.with_borrow_mut(|queue| match self.id {
            None => {
                let id = *self.id.insert(NEXT_ID.fetch_add(1, Ordering::Relaxed));
                queue.insert(deadline, id, context.waker().clone());
                Poll::Pending
            }
            Some(id) => match queue.wakers.get_mut(&(deadline, id)) {
                Some(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        })
    }

    fn cancel(&mut self) {
        if let Some(id) = self.id.take() {
            // The queue of a thread that ends may be gone already.
            let _ = QUEUE.try_with(|queue| queue.borrow_mut().wakers.remove(&(self.deadline, id)));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

thread_local! {
    static QUEUE: RefCell<TimerQueue> = const {
        RefCell::new(TimerQueue { wakers: BTreeMap::new(), armed_for: None, task: None })
    };
}

/// The timers of a thread that are awaited, by deadline and ID.
struct TimerQueue {
    wakers: BTreeMap<(Instant, u64), Waker>,
    /// Deadline that the runtime's timer is armed for.
    armed_for: Option<Instant>,
    /// Waker of the [`TimerTask`], while the runtime of the thread has one.
    task: Option<Waker>,
}

impl TimerQueue {
    fn insert(&mut self, deadline: Instant, id: u64, waker: Waker) {
        self.wakers.insert((deadline, id), waker);
        if self.armed_for.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.armed_for = Some(deadline);
        match &self.task {
            Some(task) => task.wake_by_ref(),
            None => {
                self.task = Some(Waker::noop().clone());
                tokio::spawn(TimerTask { sleep: Box::pin(sleep_until(deadline)) });
            }
        }
    }

    /// Removes and returns one timer that has elapsed. Without one, sets the deadline to arm for.
    fn pop_elapsed(&mut self, now: Instant) -> Option<Waker> {
        let first = self.wakers.first_entry();
        let deadline = first.as_ref().map(|first| first.key().0);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return first.map(OccupiedEntry::remove);
        }
        self.armed_for = deadline;
        None
    }
}

/// Task that owns the runtime's timer of a thread. It ends with the runtime, as do the tasks that await a timer.
struct TimerTask {
    sleep: Pin<Box<Sleep>>,
}

impl Future for TimerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        while let Some(deadline) = QUEUE.with_borrow_mut(|queue| {
            queue.task = Some(context.waker().clone());
            queue.armed_for
        }) {
            if self.sleep.deadline() != deadline {
                self.sleep.as_mut().reset(deadline);
            }
            ready!(self.sleep.as_mut().poll(context));
            let now = Instant::now().max(deadline);
            while let Some(waker) = QUEUE.with_borrow_mut(|queue| queue.pop_elapsed(now)) {
                waker.wake();
            }
        }
        Poll::Pending
    }
}

impl Drop for TimerTask {
    fn drop(&mut self) {
        let _ = QUEUE.try_with(|queue| {
            let mut queue = queue.borrow_mut();
            queue.armed_for = None;
            queue.task = None;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits until `timer` elapses; returns the time then.
    async fn elapsed_at(mut timer: Timer) -> Instant {
        poll_fn(|context| timer.poll(context)).await;
        Instant::now()
    }

    fn queue_len() -> usize {
        QUEUE.with_borrow(|queue| queue.wakers.len())
    }

    #[tokio::test(start_paused = true)]
    async fn each_timer_elapses_at_its_deadline_in_whatever_order_they_were_set() {
        let now = Instant::now();
        let timers = [3, 1, 2, 0, 2].map(|seconds| tokio::spawn(elapsed_at(Timer::at(now + seconds * SECOND))));
        for (timer, seconds) in timers.into_iter().zip([3, 1, 2, 0, 2]) {
            let late = timer.await.unwrap() - now - seconds * SECOND;
            assert!(late <= Duration::from_millis(1), "{seconds} s: {late:?}");
        }
        assert_eq!(queue_len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_dropped_or_set_anew_leaves_the_queue() {
        let now = Instant::now();
        let mut timer = Timer::at(now + SECOND);
        let poll = |timer: &mut Timer| timer.poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll(&mut timer).is_pending());
        timer.set(now + 3 * SECOND);
        assert_eq!(queue_len(), 0);
        let mut dropped = Timer::at(now + 2 * SECOND);
        assert!(poll(&mut dropped).is_pending() && poll(&mut timer).is_pending());
        assert_eq!(queue_len(), 2);
        drop(dropped);
        assert_eq!(queue_len(), 1);
        assert!(elapsed_at(timer).await - now >= 3 * SECOND);
    }

    #[test]
    fn the_next_runtime_of_a_thread_has_a_timer_of_its_own() {
        for _ in 0..2 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let now = Instant::now();
                assert!(elapsed_at(Timer::at(now + SECOND)).await - now >= SECOND);
            });
        }
    }
}
