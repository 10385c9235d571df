//! Deadlines of a thread's queries, on a single timer of its runtime: most of them are dropped before they elapse.
//!
//! Arming a runtime's timer earlier than all others wakes the runtime, which costs a system call, and another one to
//! receive the wake-up; with one query in flight each timer is the earliest. So the shared timer stays armed when the
//! deadlines it was armed for are gone. When it fires, it is armed for the deadlines that exist then.
//!
//! For the same reason a timer that is dropped leaves its deadline in the heap, and takes its waker along: it costs no
//! search. Deadlines without a timer are removed together, when they are more than those with one.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that can be awaited.
#[derive(Debug)]
pub(in crate::upstream) struct Timer {
    deadline: Instant,
    /// Set while the timer is in the queue of its thread or has elapsed.
    place: Option<Place>,
}

/// Place of a timer in the queue of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Unique among the timers of the process.
    id: NonZeroU64,
    /// Index of its slot.
    slot: u32,
}

impl Timer {
    /// Creates a timer that elapses at `deadline`.
    pub(in crate::upstream) const fn at(deadline: Instant) -> Self {
        Self { deadline, place: None }
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
        let deadline = self.deadline;
        QUEUE.with_borrow_mut(|queue| match self.place {
            None => {
                self.place = Some(queue.insert(deadline, context.waker().clone()));
                Poll::Pending
            }
            Some(place) => match queue.waker(place) {
                Some(Some(waker)) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            },
        })
    }

    fn cancel(&mut self) {
        if let Some(place) = self.place.take() {
            // The queue of a thread that ends may be gone already. The waker is dropped when the queue is not borrowed.
            let _ = QUEUE.try_with(|queue| queue.borrow_mut().remove(place));
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
        RefCell::new(TimerQueue {
            deadlines: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            armed_for: None,
            task: None,
        })
    };
}

/// Fewest deadlines at which those without a timer are removed.
const MIN_SWEPT: usize = 64;

/// The timers of a thread that are awaited.
struct TimerQueue {
    /// Deadlines of the timers, the next one first, and of some that are gone.
    deadlines: BinaryHeap<Reverse<(Instant, Place)>>,
    slots: Vec<Slot>,
    /// Indices of the slots without a timer.
    free: Vec<u32>,
    /// Deadline that the runtime's timer is armed for.
    armed_for: Option<Instant>,
    /// Waker of the [`TimerTask`], while the runtime of the thread has one.
    task: Option<Waker>,
}

/// Slot of one timer.
struct Slot {
    /// ID of the timer, or of the last one.
    id: NonZeroU64,
    /// `None` without a timer.
    waker: Option<Waker>,
}

impl TimerQueue {
    fn insert(&mut self, deadline: Instant, waker: Waker) -> Place {
        let place = self.take_slot(waker);
        if self.deadlines.len() >= MIN_SWEPT + 2 * self.len() {
            let slots = &self.slots;
            self.deadlines.retain(|Reverse((_, place))| holds(slots, *place));
        }
        self.deadlines.push(Reverse((deadline, place)));
        self.arm(deadline);
        place
    }

    /// Puts a timer into a slot.
    fn take_slot(&mut self, waker: Waker) -> Place {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let id = NonZeroU64::MIN.saturating_add(LAST_ID.fetch_add(1, Ordering::Relaxed));
        let new = Slot { id, waker: Some(waker) };
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            *slot = new;
            return Place { id, slot: index };
        }
        self.slots.push(new);
        Place { id, slot: (self.slots.len() - 1) as u32 }
    }

    /// Returns the number of timers.
    const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns the waker in the slot of a timer; `None` when the slot was given to another timer.
    fn waker(&mut self, place: Place) -> Option<&mut Option<Waker>> {
        let slot = self.slots.get_mut(place.slot as usize).filter(|slot| slot.id == place.id)?;
        Some(&mut slot.waker)
    }

    /// Removes a timer and returns its waker; `None` when it has elapsed or was removed.
    fn remove(&mut self, place: Place) -> Option<Waker> {
        let waker = self.waker(place)?.take()?;
        self.free.push(place.slot);
        Some(waker)
    }

    /// Arms the runtime's timer if it is not armed for this deadline or an earlier one.
    fn arm(&mut self, deadline: Instant) {
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

    /// Removes one timer that has elapsed and returns its waker. Without one, sets the deadline to arm for.
    fn pop_elapsed(&mut self, now: Instant) -> Option<Waker> {
        while let Some(Reverse((deadline, place))) = self.deadlines.peek().copied() {
            if deadline > now && holds(&self.slots, place) {
                self.armed_for = Some(deadline);
                return None;
            }
            self.deadlines.pop();
            if let Some(waker) = self.remove(place) {
                return Some(waker);
            }
        }
        self.armed_for = None;
        None
    }
}

/// Returns whether the timer of this place is in its slot.
fn holds(slots: &[Slot], place: Place) -> bool {
    slots.get(place.slot as usize).is_some_and(|slot| slot.id == place.id && slot.waker.is_some())
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
        QUEUE.with_borrow(TimerQueue::len)
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

    #[tokio::test(start_paused = true)]
    async fn timers_that_are_dropped_take_no_memory_and_no_other_timer_along() {
        let now = Instant::now();
        let poll = |timer: &mut Timer| timer.poll(&mut Context::from_waker(Waker::noop()));
        let mut kept = Timer::at(now + SECOND);
        assert!(poll(&mut kept).is_pending());
        for _ in 0..10 * MIN_SWEPT {
            assert!(poll(&mut Timer::at(now + 3 * SECOND)).is_pending());
        }
        assert_eq!(queue_len(), 1);
        let (deadlines, slots) = QUEUE.with_borrow(|queue| (queue.deadlines.len(), queue.slots.len()));
        assert!(deadlines <= MIN_SWEPT + 3 && slots == 2, "{deadlines} deadlines, {slots} slots");
        assert!(elapsed_at(kept).await - now >= SECOND);
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
