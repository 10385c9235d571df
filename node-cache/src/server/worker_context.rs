//! State of one worker thread: buffers of its UDP batches, its query tasks, and its pool of upstream sockets.
//!
//! Tasks of the worker's runtime reach the state through one `thread_local!`, because they have to be `Send`. Its owner
//! is a [`WorkerContext`], which `worker_main` makes: the constructor starts everything, dropping it ends everything in
//! order.

use std::cell::RefCell;
use std::future::poll_fn;
use std::marker::PhantomData;

use node_cache_sys::datagrams::Family;
use tokio::task::JoinHandle;

use super::batch::Batch;
use super::query_tasks::QueryTasks;

thread_local! {
    static STATE: WorkerState = const { WorkerState::new() };
}

struct WorkerState {
    /// Buffers for all sockets of a family: a socket is done with them before the next one is read. `None` until the
    /// first socket of the family is read.
    ipv4_batch: RefCell<Option<Box<Batch>>>,
    ipv6_batch: RefCell<Option<Box<Batch>>>,
    query_tasks: QueryTasks,
    /// Buffer for a response of a query task, which is sent before the next one is written.
    response: RefCell<Vec<u8>>,
}

impl WorkerState {
    const fn new() -> Self {
        Self {
            ipv4_batch: RefCell::new(None),
            ipv6_batch: RefCell::new(None),
            query_tasks: QueryTasks::new(),
            response: RefCell::new(Vec::new()),
        }
    }
}

/// Owner of the state of the current thread. One at a time for each thread.
pub(super) struct WorkerContext {
    driver: JoinHandle<()>,
    /// Belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl WorkerContext {
    /// Starts the pool of upstream sockets and the driver of query tasks. Must be called inside the worker's runtime.
    pub(super) fn start() -> Self {
        STATE.with(|state| state.query_tasks.start());
        let driver = tokio::spawn(poll_fn(|context| STATE.with(|state| state.query_tasks.poll_driver(context))));
        Self { driver, _not_send: PhantomData }
    }
}

impl Drop for WorkerContext {
    /// Ends the query tasks, which cancel their timers and release their upstream sockets; then the pool of these
    /// sockets; then the batch buffers. The timer's task, which needs no other care, ends with the runtime after that.
    fn drop(&mut self) {
        self.driver.abort();
        STATE.with(|state| {
            state.query_tasks.stop();
            state.ipv4_batch.take();
            state.ipv6_batch.take();
            state.response.take();
        });
    }
}

/// Calls `use_batch` with the buffers of this worker for sockets of a family.
#[inline]
pub(super) fn with_batch<T>(family: Family, use_batch: impl FnOnce(&mut Batch) -> T) -> T {
    STATE.with(|state| {
        let batch = match family {
            Family::V4 => &state.ipv4_batch,
            Family::V6 => &state.ipv6_batch,
        };
        use_batch(batch.borrow_mut().get_or_insert_with(|| Batch::new(family)))
    })
}

/// Calls `use_response` with the buffer of this worker for the response of a query task, whatever it holds.
pub(super) fn with_response<T>(use_response: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    STATE.with(|state| use_response(&mut state.response.borrow_mut()))
}

/// Adds a query task to this worker. The next [`drive_query_tasks`], or a turn of the runtime, starts it.
pub(super) fn spawn_query_task(task: impl Future<Output = ()> + Send + 'static) {
    // Boxed first, so that a future that is still large moves once.
    let task = Box::pin(task);
    STATE.with(|state| state.query_tasks.add(task));
}

/// Starts and polls the query tasks of this worker, as [`QueryTasks::drive`] describes.
pub(super) fn drive_query_tasks() {
    STATE.with(|state| state.query_tasks.drive());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_adds_a_task_is_driven_whenever_it_starts() {
        let completed = Arc::<AtomicUsize>::default();
        let count = |completed: &AtomicUsize| {
            completed.fetch_add(1, Ordering::Relaxed);
        };
        let first = completed.clone();
        spawn_query_task(async move {
            tokio::task::yield_now().await;
            let second = first.clone();
            spawn_query_task(async move { count(&second) });
            drive_query_tasks();
            count(&first);
        });
        let context = WorkerContext::start();
        wait_until(|| completed.load(Ordering::Relaxed) == 2).await;
        let third = completed.clone();
        spawn_query_task(async move { count(&third) });
        drive_query_tasks();
        assert_eq!(completed.load(Ordering::Relaxed), 3, "at once");
        let task_state = Arc::downgrade(&completed);
        let held = completed.clone();
        spawn_query_task(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drive_query_tasks();
        drop(context);
        drop(completed);
        assert!(task_state.upgrade().is_none(), "tasks end with the context");
    }

    /// Waits for a condition, for a minute at most.
    async fn wait_until(condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.unwrap();
    }

    #[tokio::test]
    async fn a_wake_up_from_another_thread_at_any_moment_is_not_lost() {
        const TASKS: usize = 10_000;
        let _context = WorkerContext::start();
        let (sender, receiver) = std::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
        let other_thread = std::thread::spawn(move || receiver.into_iter().for_each(|waiter| waiter.send(()).unwrap()));
        let completed = Arc::<AtomicUsize>::default();
        for task in 0..TASKS {
            let (waiter, woken) = tokio::sync::oneshot::channel();
            let count = completed.clone();
            spawn_query_task(async move {
                woken.await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            });
            sender.send(waiter).unwrap();
            drive_query_tasks();
            // Every second task is waited for, so that no later one drives it.
            if task % 2 == 0 {
                wait_until(|| completed.load(Ordering::Relaxed) > task).await;
            }
        }
        wait_until(|| completed.load(Ordering::Relaxed) == TASKS).await;
        drop(sender);
        other_thread.join().unwrap();
    }
}
