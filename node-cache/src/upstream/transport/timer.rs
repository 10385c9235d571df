//! Alarms: a time that somebody waits for who will most likely be gone before. All of a thread share one timer of its runtime.
//!
//! A timer that is due before all others has the runtime woken, which takes a system call, and another one to hear of it; with
//! one question under way every timer is. So the shared timer stays where it is when those it was set for are gone. When it
//! rings, it is set for those who are there then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Rings at a time.
#[derive(Debug)]
pub(crate) struct Timer {
    due: Instant,
    /// Among all alarms of the process, from when somebody waits.
    number: Option<u64>,
}

impl Timer {
    /// One for this time.
    pub(crate) const fn at(due: Instant) -> Self {
        Self { due, number: None }
    }

    /// Sets it to another time.
    pub(crate) fn set(&mut self, due: Instant) {
        if due != self.due {
            self.cancel();
            self.due = due;
        }
    }

    /// Waits until it has rung. Has to be set anew then.
    ///
    /// Must be called inside a Tokio runtime.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let due = self.due;
        QUEUE.with_borrow_mut(|set| match self.number {
            None => {
                let number = *self.number.insert(NUMBERS.fetch_add(1, Ordering::Relaxed));
                set.add(due, number, context.waker().clone());
                Poll::Pending
            }
            Some(number) => match set.alarms.get_mut(&(due, number)) {
                Some(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        })
    }

    fn cancel(&mut self) {
        if let Some(number) = self.number.take() {
            // A thread that ends has none any more.
            let _ = QUEUE.try_with(|set| set.borrow_mut().alarms.remove(&(self.due, number)));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

thread_local! {
    static QUEUE: RefCell<TimerQueue> = const { RefCell::new(TimerQueue { alarms: BTreeMap::new(), next: None, ringer: None }) };
}

/// The alarms of a thread that somebody waits for.
struct TimerQueue {
    alarms: BTreeMap<(Instant, u64), Waker>,
    /// What the timer is set to, if it is.
    next: Option<Instant>,
    /// Who has the timer. It is a task of the thread's runtime, and goes with it.
    ringer: Option<Waker>,
}

impl TimerQueue {
    fn add(&mut self, due: Instant, number: u64, waker: Waker) {
        self.alarms.insert((due, number), waker);
        if self.next.is_some_and(|next| next <= due) {
            return;
        }
        self.next = Some(due);
        match &self.ringer {
            Some(ringer) => ringer.wake_by_ref(),
            None => {
                self.ringer = Some(Waker::noop().clone());
                tokio::spawn(TimerTask { timer: Box::pin(sleep_until(due)) });
            }
        }
    }

    /// Takes out one whose time has come, or sets the next time.
    fn take(&mut self, now: Instant) -> Option<Waker> {
        let first = self.alarms.first_entry();
        let next = first.as_ref().map(|first| first.key().0);
        if next.is_some_and(|next| next <= now) {
            return first.map(OccupiedEntry::remove);
        }
        self.next = next;
        None
    }
}

/// Has the timer of a thread. Who waits for an alarm that a runtime takes with it is not polled again either.
struct TimerTask {
    timer: Pin<Box<Sleep>>,
}

impl Future for TimerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = QUEUE.with_borrow_mut(|set| {
            set.ringer = Some(context.waker().clone());
            set.next
        }) {
            if self.timer.deadline() != next {
                self.timer.as_mut().reset(next);
            }
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now().max(next);
            while let Some(waker) = QUEUE.with_borrow_mut(|set| set.take(now)) {
                waker.wake();
            }
        }
        Poll::Pending
    }
}

impl Drop for TimerTask {
    fn drop(&mut self) {
        let _ = QUEUE.try_with(|set| {
            let mut set = set.borrow_mut();
            (set.next, set.ringer) = (None, None);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn rings(mut alarm: Timer) -> Instant {
        poll_fn(|context| alarm.poll(context)).await;
        Instant::now()
    }

    fn waiting() -> usize {
        QUEUE.with_borrow(|set| set.alarms.len())
    }

    #[tokio::test(start_paused = true)]
    async fn each_rings_at_its_time_in_whatever_order_they_were_set() {
        let now = Instant::now();
        let alarms = [3, 1, 2, 0, 2].map(|seconds| tokio::spawn(rings(Timer::at(now + seconds * SECOND))));
        for (alarm, seconds) in alarms.into_iter().zip([3, 1, 2, 0, 2]) {
            let late = alarm.await.unwrap() - now - seconds * SECOND;
            assert!(late <= Duration::from_millis(1), "{seconds} s: {late:?}");
        }
        assert_eq!(waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_or_set_anew_rings_for_nobody() {
        let now = Instant::now();
        let mut alarm = Timer::at(now + SECOND);
        let poll = |alarm: &mut Timer| alarm.poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll(&mut alarm).is_pending());
        alarm.set(now + 3 * SECOND);
        assert_eq!(waiting(), 0);
        let mut gone = Timer::at(now + 2 * SECOND);
        assert!(poll(&mut gone).is_pending() && poll(&mut alarm).is_pending());
        assert_eq!(waiting(), 2);
        drop(gone);
        assert_eq!(waiting(), 1);
        assert!(rings(alarm).await - now >= 3 * SECOND);
    }

    #[test]
    fn the_next_runtime_of_a_thread_has_a_timer_of_its_own() {
        for _ in 0..2 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let now = Instant::now();
                assert!(rings(Timer::at(now + SECOND)).await - now >= SECOND);
            });
        }
    }
}
