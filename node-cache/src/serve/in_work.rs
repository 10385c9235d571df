//! The questions of one thread that wait for other servers. A task of the runtime for each of them would take twice the
//! memory, most of it to be aligned, and twice the time to begin and to end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::upstream::blanks::Keeper;

/// Pieces of work that begin before sockets are read again: answers from memory shall not wait for all that others want.
const MOST_NEW: usize = 8;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// What has not begun.
    static COMING: RefCell<VecDeque<Work>> = const { RefCell::new(VecDeque::new()) };
    /// What has, while [`run`] looks after it.
    static GOING: RefCell<Option<Going>> = const { RefCell::new(None) };
}

/// Work that has begun.
struct Going {
    all: FuturesUnordered<Work>,
    sockets: Keeper,
    /// Wakes [`run`].
    run: Waker,
}

/// Adds work that must run in this thread. It begins with [`go`], at the latest.
pub(super) fn add(work: impl Future<Output = ()> + Send + 'static) {
    COMING.with_borrow_mut(|coming| coming.push_back(Box::pin(work)));
}

/// Begins what was added, and goes on with what can: without a turn of the runtime in between, which would look at all
/// sockets first. What is too much begins later.
pub(super) fn go() {
    GOING.with(|going| {
        // Who is at it already comes to what was added meanwhile.
        let Ok(mut going) = going.try_borrow_mut() else { return };
        let Some(Going { all, sockets, run }) = &mut *going else { return };
        // The answers are sent when they become blank.
        sockets.before_tidying(|| poll(all, &mut Context::from_waker(run)));
    });
}

/// Goes on with the work of this thread for as long as its runtime lives.
pub(super) async fn run() {
    let _end = End;
    poll_fn(|context| {
        GOING.with_borrow_mut(|going| match going {
            Some(going) => going.run.clone_from(context.waker()),
            None => {
                let (all, sockets) = (FuturesUnordered::new(), Keeper::new());
                *going = Some(Going { all, sockets, run: context.waker().clone() });
            }
        });
        go();
        Poll::Pending
    })
    .await
}

fn poll(all: &mut FuturesUnordered<Work>, context: &mut Context<'_>) {
    let mut new = 0;
    loop {
        let is_more = COMING.with_borrow_mut(|coming| {
            let some = coming.len().min(MOST_NEW - new);
            new += some;
            all.extend(coming.drain(..some));
            !coming.is_empty()
        });
        if let Poll::Ready(Some(())) = all.poll_next_unpin(context) {
            continue;
        }
        if is_more {
            context.waker().wake_by_ref();
        }
        return;
    }
}

/// The runtime has ended, and what belongs to it goes too.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let _ = GOING.try_with(|going| going.borrow_mut().take());
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
        while done.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
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
}
