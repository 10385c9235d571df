//! Schedule: when the next reconciliation of each tier starts.
//!
//! A change of the cluster wakes the tiers that it concerns. Between two reconciliations of a tier is a second or more,
//! and the back-off of a tier that failed holds whatever changes around it, but for a change of its own spec.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::queue::Queue;

/// Least time between the end of a reconciliation of a tier and the start of the next.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Version of a tier, as the watch has delivered it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TierVersion {
    /// UID: a tier that is deleted and created again is another one.
    pub(crate) uid: Option<String>,
    /// Generation, which changes with the spec.
    pub(crate) generation: Option<i64>,
    /// Version of the whole object.
    pub(crate) resource_version: Option<String>,
}

/// Tiers that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// The tier of this name.
    Tier(String),
    /// Every tier.
    All,
}

/// Whether a reconciliation starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Start of a reconciliation.
    Start {
        /// Whether the last one failed.
        is_retry: bool,
        /// Whether the spec is another one than that of the last reconciliation.
        is_new_spec: bool,
    },
    /// Time until the start, if nothing wakes the tier before.
    Wait(Duration),
}

/// Schedule of all tiers.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    tiers: Mutex<HashMap<String, TierSchedule>>,
    queue: Queue,
}

/// Schedule of a tier that was reconciled before.
#[derive(Clone, Debug)]
struct TierSchedule {
    /// Version at the start of the last reconciliation.
    version: TierVersion,
    /// End of the last reconciliation; its start while it runs.
    end: Instant,
    /// Time at which the next reconciliation is due without any change.
    due: Instant,
    /// Whether the last reconciliation failed.
    has_failed: bool,
    /// Whether a change has concerned the tier since the last start.
    is_woken: bool,
    /// Whether the running reconciliation leaves work that does not wait for the back-off.
    leaves_work: bool,
    /// Whether a reconciliation is running.
    is_running: bool,
}

impl TierSchedule {
    /// Returns when the next reconciliation of this version starts.
    fn next_start(&self, version: &TierVersion) -> Instant {
        let earliest = self.end + MIN_PAUSE;
        if self.is_new_spec(version) {
            return earliest;
        }
        let is_changed = self.is_woken || self.version.resource_version != version.resource_version;
        if is_changed && !self.has_failed { earliest } else { self.due.max(earliest) }
    }

    /// Records a change that concerns the tier, and when its next reconciliation is due.
    fn wake(&mut self, tier: &str, queue: &Queue) {
        self.is_woken = true;
        queue.set_due(tier, self.waits_from());
    }

    /// Returns when the running reconciliation was due, or the next one is, as far as is known without the version.
    fn waits_from(&self) -> Instant {
        if self.is_running { self.end } else { self.next_start(&self.version) }
    }

    fn is_new_spec(&self, version: &TierVersion) -> bool {
        (&self.version.uid, self.version.generation) != (&version.uid, version.generation)
    }
}

impl Schedule {
    /// Builds the schedule of tiers whose reconciliations wait in `queue`.
    pub(crate) fn new(queue: Queue) -> Self {
        Self { tiers: Mutex::default(), queue }
    }

    /// Records a change of the cluster.
    pub(crate) fn wake(&self, concern: &Concern) {
        let mut tiers = self.lock();
        match concern {
            Concern::Tier(tier) => {
                if let Some(schedule) = tiers.get_mut(tier) {
                    schedule.wake(tier, &self.queue);
                }
            }
            Concern::All => tiers.iter_mut().for_each(|(tier, schedule)| schedule.wake(tier, &self.queue)),
        }
    }

    /// Returns whether a reconciliation of a tier starts now. One that starts ends with [`Self::finish`] or
    /// [`Self::fail`].
    pub(crate) fn start(&self, tier: &str, version: TierVersion, now: Instant) -> Turn {
        let mut tiers = self.lock();
        let mut turn = Turn::Start { is_retry: false, is_new_spec: true };
        if let Some(schedule) = tiers.get(tier) {
            let start = schedule.next_start(&version);
            if start > now {
                return Turn::Wait(start - now);
            }
            turn = Turn::Start { is_retry: schedule.has_failed, is_new_spec: schedule.is_new_spec(&version) };
        }
        let has_failed = tiers.get(tier).is_some_and(|schedule| schedule.has_failed);
        let (is_woken, leaves_work, is_running) = (false, false, true);
        let started = TierSchedule { version, end: now, due: now, has_failed, is_woken, leaves_work, is_running };
        self.queue.set_due(tier, now);
        tiers.insert(tier.to_owned(), started);
        turn
    }

    /// Records that the running reconciliation of a tier leaves work to the next one: pods that are behind are told at
    /// the pace of all tiers, whatever else of their tier fails.
    pub(crate) fn leave_work(&self, tier: &str) {
        if let Some(schedule) = self.lock().get_mut(tier) {
            schedule.leaves_work = true;
        }
    }

    /// Records the end of a reconciliation and returns the time until the next one.
    pub(crate) fn finish(&self, tier: &str, requeue_after: Duration, now: Instant) -> Duration {
        self.end(tier, requeue_after, false, now)
    }

    /// Records the failure of a reconciliation and returns the time until the next one.
    pub(crate) fn fail(&self, tier: &str, retry_after: Duration, now: Instant) -> Duration {
        self.end(tier, retry_after, true, now)
    }

    /// Forgets all tiers but these.
    pub(crate) fn keep_tiers(&self, names: &[String]) {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        self.lock().retain(|tier, _| names.contains(tier.as_str()));
        self.queue.retain(|tier| names.contains(tier));
    }

    /// Forgets a tier that is not reconciled any more.
    pub(crate) fn forget(&self, tier: &str) {
        self.lock().remove(tier);
        self.queue.retain(|other| other != tier);
    }

    fn end(&self, tier: &str, delay: Duration, has_failed: bool, now: Instant) -> Duration {
        let mut delay = delay.max(MIN_PAUSE);
        if let Some(schedule) = self.lock().get_mut(tier) {
            if schedule.leaves_work {
                delay = MIN_PAUSE;
            }
            schedule.end = now;
            schedule.due = now + delay;
            schedule.has_failed = has_failed;
            schedule.is_running = false;
            self.queue.set_due(tier, schedule.waits_from());
        }
        delay
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, TierSchedule>> {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes tiers.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    /// Start of the next reconciliation of each tier.
    pub(crate) schedule: Arc<Schedule>,
    /// Receives an item when a tier was woken. The schedule has which ones.
    pub(crate) changed: mpsc::Sender<()>,
}

impl Waker {
    /// Wakes the tiers that a change concerns.
    pub(crate) fn wake(&self, concern: &Concern) {
        self.schedule.wake(concern);
        // A full channel holds a notification already.
        let _ = self.changed.try_send(());
    }

    /// Wakes tiers for each change.
    pub(crate) async fn wake_on(self, changes: impl Stream<Item = Concern>) {
        changes.for_each(async |concern| self.wake(&concern)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::backoff::Backoff;

    const STEP: Duration = Duration::from_millis(10);
    const STEADY: Duration = Duration::from_secs(30);

    fn version(generation: i64, resource_version: u64) -> TierVersion {
        TierVersion {
            uid: Some("1234".to_owned()),
            generation: Some(generation),
            resource_version: Some(resource_version.to_string()),
        }
    }

    /// Simulated tier.
    struct Simulation {
        schedule: Schedule,
        backoff: Backoff,
        now: Instant,
        version: TierVersion,
        fails: bool,
        starts: Vec<Instant>,
    }

    impl Simulation {
        fn new(fails: bool) -> Self {
            let (schedule, backoff) = (Schedule::default(), Backoff::default());
            Self { schedule, backoff, now: Instant::now(), version: version(1, 1), fails, starts: Vec::new() }
        }

        /// Advances the time in steps; in each one `event` happens and the tier is triggered.
        fn run(&mut self, duration: Duration, mut event: impl FnMut(&Schedule)) {
            let end = self.now + duration;
            while self.now < end {
                self.now += STEP;
                event(&self.schedule);
                let Turn::Start { .. } = self.schedule.start("default", self.version.clone(), self.now) else {
                    continue;
                };
                self.starts.push(self.now);
                if self.fails {
                    self.schedule.fail("default", self.backoff.record_failure("default", false), self.now);
                } else {
                    self.schedule.finish("default", STEADY, self.now);
                }
            }
        }
    }

    fn concern() -> Concern {
        Concern::Tier("default".to_owned())
    }

    #[test]
    fn a_second_or_more_is_between_two_passes_of_a_tier_in_a_cluster_that_never_rests() {
        let mut simulation = Simulation::new(false);
        simulation.run(Duration::from_secs(60), |schedule| schedule.wake(&Concern::All));
        assert!((55..=60).contains(&simulation.starts.len()), "{}", simulation.starts.len());
        assert!(simulation.starts.windows(2).all(|starts| starts[1] - starts[0] >= MIN_PAUSE));
    }

    #[test]
    fn the_back_off_of_a_failing_tier_holds_whatever_happens_around_it() {
        let mut simulation = Simulation::new(true);
        simulation.run(Duration::from_mins(10), |schedule| {
            schedule.wake(&Concern::All);
            schedule.wake(&concern());
        });
        // After 1 s, 2 s, 4 s … 256 s, 5 min, each with a quarter of jitter.
        assert!((8..=11).contains(&simulation.starts.len()), "{}", simulation.starts.len());
    }

    #[test]
    fn a_write_of_the_status_of_a_failing_tier_starts_nothing_and_a_new_spec_starts_at_once() {
        let mut simulation = Simulation::new(true);
        simulation.run(Duration::from_mins(5), |_| {});
        let starts = simulation.starts.len();
        simulation.version = version(1, 2);
        simulation.run(Duration::from_secs(2), |_| {});
        assert_eq!(simulation.starts.len(), starts);
        simulation.version = version(2, 3);
        simulation.run(STEP, |_| {});
        assert_eq!(simulation.starts.len(), starts + 1);
        simulation.version = version(3, 4);
        simulation.run(MIN_PAUSE / 2, |_| {});
        assert_eq!(simulation.starts.len(), starts + 1, "also new specs have a second between them");
        simulation.run(MIN_PAUSE, |_| {});
        assert_eq!(simulation.starts.len(), starts + 2);
    }

    #[test]
    fn a_change_during_a_pass_is_not_lost() {
        let schedule = Schedule::default();
        let start = Instant::now();
        assert!(matches!(schedule.start("default", version(1, 1), start), Turn::Start { .. }));
        schedule.wake(&concern());
        let end = start + Duration::from_secs(3);
        schedule.finish("default", STEADY, end);
        assert_eq!(schedule.start("default", version(1, 1), end), Turn::Wait(MIN_PAUSE));
        let retry = Turn::Start { is_retry: false, is_new_spec: false };
        assert_eq!(schedule.start("default", version(1, 1), end + MIN_PAUSE), retry);
    }

    #[test]
    fn a_change_that_concerns_another_tier_starts_nothing() {
        let mut simulation = Simulation::new(false);
        let other = Concern::Tier("other".to_owned());
        simulation.run(Duration::from_secs(95), |schedule| schedule.wake(&other));
        assert_eq!(simulation.starts.len(), 4, "it is due every 30 s");
    }

    #[test]
    fn a_tier_that_was_deleted_and_created_again_starts_at_once() {
        let mut simulation = Simulation::new(true);
        simulation.run(Duration::from_mins(5), |_| {});
        let starts = simulation.starts.len();
        simulation.version.uid = Some("5678".to_owned());
        simulation.run(STEP, |_| {});
        assert_eq!(simulation.starts.len(), starts + 1);
        simulation.schedule.keep_tiers(&[]);
        simulation.run(STEP, |_| {});
        assert_eq!(simulation.starts.len(), starts + 2);
    }

    #[test]
    fn a_tier_waits_from_the_time_at_which_it_is_due_until_its_reconciliation_has_ended() {
        let queue = Queue::default();
        let schedule = Schedule::new(queue.clone());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let wait = |seconds| queue.wait("default", at(seconds)).map(|wait| wait.as_secs());
        assert_eq!(wait(0), None);
        schedule.start("default", version(1, 1), start);
        schedule.wake(&concern());
        assert_eq!(wait(5), Some(5), "it runs");
        schedule.finish("default", STEADY, at(6));
        assert_eq!((wait(6), wait(10)), (Some(0), Some(3)), "a change during the pass makes the next one due");
        schedule.start("default", version(1, 1), at(10));
        schedule.fail("default", STEADY, at(10));
        schedule.wake(&Concern::All);
        assert_eq!((wait(40), wait(47)), (Some(0), Some(7)), "the back-off is no wait");
        schedule.forget("default");
        assert_eq!(wait(47), None);
    }

    #[test]
    fn a_retry_is_known_as_one() {
        let schedule = Schedule::default();
        let start = Instant::now();
        schedule.start("default", version(1, 1), start);
        schedule.fail("default", MIN_PAUSE, start);
        let retry = Turn::Start { is_retry: true, is_new_spec: false };
        assert_eq!(schedule.start("default", version(1, 1), start + MIN_PAUSE), retry);
        let new_spec = Turn::Start { is_retry: true, is_new_spec: true };
        schedule.fail("default", MIN_PAUSE, start + MIN_PAUSE);
        assert_eq!(schedule.start("default", version(2, 2), start + MIN_PAUSE * 2), new_spec);
    }

    #[test]
    fn pods_that_are_left_do_not_wait_for_the_back_off_of_their_tier() {
        let schedule = Schedule::default();
        let now = Instant::now();
        schedule.start("default", version(1, 1), now);
        schedule.leave_work("default");
        assert_eq!(schedule.fail("default", Duration::from_mins(5), now), MIN_PAUSE);
        schedule.start("default", version(1, 1), now + MIN_PAUSE);
        assert_eq!(schedule.fail("default", Duration::from_mins(5), now + MIN_PAUSE), Duration::from_mins(5));
    }
}
