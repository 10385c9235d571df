//! Tasks of the queries of one worker that wait for upstreams. A task of the Tokio runtime for each query would take
//! twice the memory, most of it for alignment, and twice the time to start and to end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::upstream::transport::socket_pool::PoolGuard;

/// Tasks that start before sockets are read again, at most: cache hits do not wait for a burst of misses.
const MAX_STARTS: usize = 8;
/// Rounds of polling in a row, at most, as long as each round makes more tasks ready.
const MAX_ROUNDS: usize = 3;

/// Task of a query that waits for upstreams.
pub(super) type QueryTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Query tasks of one worker. A driver task of the worker's runtime polls [`Self::poll_driver`].
pub(super) struct QueryTasks {
    /// Tasks that have not started.
    pending: RefCell<VecDeque<QueryTask>>,
    /// Tasks that have started; `None` before [`Self::start`] and after [`Self::stop`].
    running: RefCell<Option<RunningTasks>>,
}

/// Tasks that have started. The fields drop in this order: tasks that end release their sockets to the pool.
struct RunningTasks {
    tasks: FuturesUnordered<QueryTask>,
    socket_pool: PoolGuard,
    waker: Arc<CoalescingWaker>,
}

/// Wakes the driver task only if the tasks are not already being polled. That matters under low load:
/// [`FuturesUnordered`] wakes each time it has polled all tasks, and waking a task of the runtime makes it look at all
/// sockets.
struct CoalescingWaker {
    driver: Waker,
    is_woken: AtomicBool,
    is_polling: AtomicBool,
}

impl CoalescingWaker {
    fn new(driver: &Waker) -> Arc<Self> {
        Arc::new(Self { driver: driver.clone(), is_woken: false.into(), is_polling: false.into() })
    }

    /// Calls `poll`, and again when it was woken meanwhile, [`MAX_ROUNDS`] times at most.
    fn poll_rounds(self: &Arc<Self>, mut poll: impl FnMut(&mut Context<'_>)) {
        let waker = self.clone().into();
        self.is_polling.store(true, Ordering::SeqCst);
        for _ in 0..MAX_ROUNDS {
            self.is_woken.store(false, Ordering::SeqCst);
            poll(&mut Context::from_waker(&waker));
            if !self.is_woken.load(Ordering::SeqCst) {
                break;
            }
        }
        // A wake-up from now on either sees that nothing is polled, or is seen here.
        self.is_polling.store(false, Ordering::SeqCst);
        if self.is_woken.load(Ordering::SeqCst) {
            self.driver.wake_by_ref();
        }
    }
}

impl Wake for CoalescingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        if !self.is_polling.load(Ordering::SeqCst) {
            self.driver.wake_by_ref();
        }
    }
}

impl QueryTasks {
    pub(super) const fn new() -> Self {
        Self { pending: RefCell::new(VecDeque::new()), running: RefCell::new(None) }
    }

    /// Starts the worker's pool of upstream sockets, and allows tasks to start. Must be called inside the worker's
    /// runtime.
    pub(super) fn start(&self) {
        let tasks = FuturesUnordered::new();
        let socket_pool = PoolGuard::new();
        // The first poll of the driver replaces the waker, and polls all tasks that are ready.
        let waker = CoalescingWaker::new(Waker::noop());
        self.running.replace(Some(RunningTasks { tasks, socket_pool, waker }));
    }

    /// Drops all tasks, and then the pool of upstream sockets.
    pub(super) fn stop(&self) {
        drop(self.pending.take());
        drop(self.running.take());
    }

    /// Adds a task of this worker. The next [`Self::drive`] or poll of the driver starts it.
    pub(super) fn add(&self, task: QueryTask) {
        self.pending.borrow_mut().push_back(task);
    }

    /// Starts pending tasks, [`MAX_STARTS`] at most, and polls all that are ready. Does so without a turn of the
    /// runtime, which would look at all sockets first. Does nothing when called by a task that is being polled.
    pub(super) fn drive(&self) {
        // A poll in progress comes to tasks that it adds.
        let Ok(mut running) = self.running.try_borrow_mut() else { return };
        let Some(RunningTasks { tasks, socket_pool, waker }) = &mut *running else { return };
        let mut starts = 0;
        let mut has_pending = false;
        // Responses leave first; released sockets are made ready for their next query afterwards.
        socket_pool.with_deferred_returns(|| {
            waker.poll_rounds(|context| has_pending = self.poll_tasks(tasks, &mut starts, context));
        });
        if has_pending {
            waker.driver.wake_by_ref();
        }
    }

    /// Drives the tasks, and has the driver task woken when more are ready. Never completes.
    pub(super) fn poll_driver(&self, context: &Context<'_>) -> Poll<()> {
        if let Some(running) = &mut *self.running.borrow_mut()
            && !running.waker.driver.will_wake(context.waker())
        {
            running.waker = CoalescingWaker::new(context.waker());
        }
        self.drive();
        Poll::Pending
    }

    /// Polls all tasks that are ready, and starts pending ones until `starts` reaches [`MAX_STARTS`]. Returns whether
    /// more are pending.
    fn poll_tasks(
        &self,
        tasks: &mut FuturesUnordered<QueryTask>,
        starts: &mut usize,
        context: &mut Context<'_>,
    ) -> bool {
        loop {
            {
                let mut pending = self.pending.borrow_mut();
                let count = pending.len().min(MAX_STARTS - *starts);
                *starts += count;
                tasks.extend(pending.drain(..count));
            }
            if !matches!(tasks.poll_next_unpin(context), Poll::Ready(Some(()))) {
                // Polled tasks may have added some.
                return !self.pending.borrow().is_empty();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_wake_up_while_polling_does_not_wake_the_driver_and_polling_comes_to_an_end() {
        /// Counts wake-ups.
        #[derive(Default)]
        struct WakeCount(AtomicUsize);
        impl Wake for WakeCount {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let driver = Arc::<WakeCount>::default();
        let wakes = || driver.0.load(Ordering::Relaxed);
        let waker = CoalescingWaker::new(&driver.clone().into());
        waker.wake_by_ref();
        assert_eq!(wakes(), 1, "nothing was being polled");
        let mut rounds = 0;
        waker.poll_rounds(|context| {
            rounds += 1;
            if rounds < MAX_ROUNDS {
                context.waker().wake_by_ref();
            }
        });
        assert_eq!((rounds, wakes()), (MAX_ROUNDS, 1));
        waker.poll_rounds(|context| context.waker().wake_by_ref());
        assert_eq!(wakes(), 2, "the driver polls later");
    }
}
