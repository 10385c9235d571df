//! The questions of one thread that wait for other servers. A task of the runtime for each of them would take twice the
//! memory, most of it to be aligned, and twice the time to begin and to end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::upstream::transport::socket_pool::PoolGuard;

/// Pieces of work that begin before sockets are read again: answers from memory shall not wait for all that others want.
const MOST_NEW: usize = 8;
/// How often it is looked whether work that has just been done has made more of it possible.
const MOST_ROUNDS: usize = 3;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// What has not begun.
    static PENDING: RefCell<VecDeque<Work>> = const { RefCell::new(VecDeque::new()) };
    /// What has, while [`run`] looks after it.
    static RUNNING: RefCell<Option<RunningTasks>> = const { RefCell::new(None) };
}

/// Work that has begun.
struct RunningTasks {
    all: FuturesUnordered<Work>,
    sockets: PoolGuard,
    bell: Arc<CoalescingWaker>,
}

/// Has [`run`] woken, unless somebody is at work anyway and looks himself. That matters with little to do:
/// [`FuturesUnordered`] calls each time it has polled all there is, and to wake a task takes a look at all sockets.
struct CoalescingWaker {
    run: Waker,
    is_rung: AtomicBool,
    at_work: AtomicBool,
}

impl CoalescingWaker {
    fn new(run: &Waker) -> Arc<Self> {
        Arc::new(Self { run: run.clone(), is_rung: false.into(), at_work: false.into() })
    }

    /// Does some work, again when the bell was rung meanwhile, but not for ever.
    fn at_work(self: &Arc<Self>, mut work: impl FnMut(&mut Context<'_>)) {
        let waker = self.clone().into();
        self.at_work.store(true, Ordering::SeqCst);
        for _ in 0..MOST_ROUNDS {
            self.is_rung.store(false, Ordering::SeqCst);
            work(&mut Context::from_waker(&waker));
            if !self.is_rung.load(Ordering::SeqCst) {
                break;
            }
        }
        // Who rings sees that nobody is at work any more, or is seen here.
        self.at_work.store(false, Ordering::SeqCst);
        if self.is_rung.load(Ordering::SeqCst) {
            self.run.wake_by_ref();
        }
    }
}

impl Wake for CoalescingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_rung.store(true, Ordering::SeqCst);
        if !self.at_work.load(Ordering::SeqCst) {
            self.run.wake_by_ref();
        }
    }
}

/// Adds work that must run in this thread. It begins with [`go`], at the latest.
pub(super) fn add(work: impl Future<Output = ()> + Send + 'static) {
    PENDING.with_borrow_mut(|coming| coming.push_back(Box::pin(work)));
}

/// Begins what was added, and goes on with what can: without a turn of the runtime in between, which would look at all
/// sockets first. What is too much begins later.
pub(super) fn go() {
    RUNNING.with(|going| {
        // Who is at it already comes to what was added meanwhile.
        let Ok(mut going) = going.try_borrow_mut() else { return };
        let Some(RunningTasks { all, sockets, bell }) = &mut *going else { return };
        let (mut new, mut is_more) = (0, false);
        // The answers are sent when sockets are made ready for the next question.
        sockets.with_deferred_returns(|| bell.at_work(|context| is_more = poll(all, &mut new, context)));
        if is_more {
            bell.run.wake_by_ref();
        }
    });
}

/// Goes on with the work of this thread for as long as its runtime lives.
pub(super) async fn run() {
    let _end = End;
    poll_fn(|context| {
        RUNNING.with_borrow_mut(|going| match going {
            Some(going) if going.bell.run.will_wake(context.waker()) => {}
            Some(going) => going.bell = CoalescingWaker::new(context.waker()),
            None => {
                let (all, sockets, bell) =
                    (FuturesUnordered::new(), PoolGuard::new(), CoalescingWaker::new(context.waker()));
                *going = Some(RunningTasks { all, sockets, bell });
            }
        });
        go();
        Poll::Pending
    })
    .await
}

/// Goes on with what can, after so many new pieces have begun; whether more wait to begin.
fn poll(all: &mut FuturesUnordered<Work>, new: &mut usize, context: &mut Context<'_>) -> bool {
    loop {
        PENDING.with_borrow_mut(|coming| {
            let some = coming.len().min(MOST_NEW - *new);
            *new += some;
            all.extend(coming.drain(..some));
        });
        if !matches!(all.poll_next_unpin(context), Poll::Ready(Some(()))) {
            // What is done may have added some.
            return PENDING.with_borrow(|coming| !coming.is_empty());
        }
    }
}

/// The runtime has ended, and what belongs to it goes too.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let _ = RUNNING.try_with(|going| going.borrow_mut().take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_that_begins_work_is_done_whenever_it_begins() {
        let done = Arc::<AtomicUsize>::default();
        let count = |done: &AtomicUsize| {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let first = done.clone();
        add(async move {
            tokio::task::yield_now().await;
            let second = first.clone();
            add(async move { count(&second) });
            go();
            count(&first);
        });
        let running = tokio::spawn(run());
        until(|| done.load(Ordering::Relaxed) == 2).await;
        let third = done.clone();
        add(async move { count(&third) });
        go();
        assert_eq!(done.load(Ordering::Relaxed), 3, "at once");
        let (dropped, held) = (Arc::downgrade(&done), done.clone());
        add(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        go();
        running.abort();
        assert!(running.await.is_err());
        drop(done);
        assert!(dropped.upgrade().is_none(), "the work goes with the runtime's task");
    }

    /// Waits for this, for a minute at the most.
    async fn until(is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await.unwrap();
    }

    #[tokio::test]
    async fn what_others_make_possible_at_any_moment_is_done() {
        const TIMES: usize = 10_000;
        let running = tokio::spawn(run());
        let (sender, receiver) = std::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
        let other = std::thread::spawn(move || receiver.into_iter().for_each(|word| word.send(()).unwrap()));
        let done = Arc::<AtomicUsize>::default();
        for time in 0..TIMES {
            let (word, told) = tokio::sync::oneshot::channel();
            let count = done.clone();
            add(async move {
                told.await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            });
            sender.send(word).unwrap();
            go();
            // Some are waited for one by one, so that nothing else has them looked after.
            if time % 2 == 0 {
                until(|| done.load(Ordering::Relaxed) > time).await;
            }
        }
        until(|| done.load(Ordering::Relaxed) == TIMES).await;
        drop(sender);
        other.join().unwrap();
        running.abort();
    }

    #[test]
    fn the_bell_wakes_nobody_who_is_at_work_and_sees_himself_and_nobody_works_for_ever() {
        /// Counts how often it is woken.
        #[derive(Default)]
        struct Sleeper(AtomicUsize);
        impl Wake for Sleeper {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let sleeper = Arc::<Sleeper>::default();
        let woken = || sleeper.0.load(Ordering::Relaxed);
        let bell = CoalescingWaker::new(&sleeper.clone().into());
        bell.wake_by_ref();
        assert_eq!(woken(), 1, "nobody was at work");
        let mut rounds = 0;
        bell.at_work(|context| {
            rounds += 1;
            if rounds < MOST_ROUNDS {
                context.waker().wake_by_ref();
            }
        });
        assert_eq!((rounds, woken()), (MOST_ROUNDS, 1));
        bell.at_work(|context| context.waker().wake_by_ref());
        assert_eq!(woken(), 2, "it goes on later");
    }
}
