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

/// What has come since [`run`] looked last, and what wakes it.
#[derive(Default)]
struct Coming {
    work: VecDeque<Work>,
    waker: Option<Waker>,
}

thread_local! {
    static COMING: RefCell<Coming> = RefCell::default();
}

/// Has [`run`] do this work, which must run in this thread.
pub(super) fn begin(work: impl Future<Output = ()> + Send + 'static) {
    let waker = COMING.with_borrow_mut(|coming| {
        coming.work.push_back(Box::pin(work));
        coming.waker.take()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Does all the work of this thread, for as long as its runtime lives.
pub(super) async fn run() {
    let (mut all, sockets) = (FuturesUnordered::new(), Keeper::new());
    // The answers are sent by then.
    poll_fn(|context| sockets.before_tidying(|| poll(&mut all, context))).await
}

fn poll(all: &mut FuturesUnordered<Work>, context: &mut Context<'_>) -> Poll<()> {
    let mut new = 0;
    loop {
        let is_more = COMING.with_borrow_mut(|coming| {
            let some = coming.work.len().min(MOST_NEW - new);
            new += some;
            all.extend(coming.work.drain(..some));
            coming.waker = Some(context.waker().clone());
            !coming.work.is_empty()
        });
        match all.poll_next_unpin(context) {
            Poll::Ready(Some(())) => {}
            Poll::Ready(None) | Poll::Pending => {
                if is_more {
                    context.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
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
        begin(async move {
            tokio::task::yield_now().await;
            let second = first.clone();
            begin(async move { count(&second) });
            count(&first);
        });
        let running = tokio::spawn(run());
        while done.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        let third = done.clone();
        begin(async move { count(&third) });
        while done.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        running.abort();
    }
}
