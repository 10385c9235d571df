//! Schedule of the status polls: which pod is polled next, and when. Times are milliseconds since the schedule began.
//!
//! Each class of pods has a period, a place in the order of classes and slots of its own. All polls together are at
//! most [`MAX_BURST`] at once and [`POLLS_PER_SECOND`]: 97 leave in any sliding second. What is left to 100 is for
//! polls that leave apart and arrive together.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

/// Polls per second in the long run.
const POLLS_PER_SECOND: u64 = 92;
/// Polls that may start at once after a pause.
const MAX_BURST: u64 = 5;
/// Period of canaries, and of pods that are behind.
const FAST_PERIOD: u64 = 1_000;
/// Longest period of a control of a roll-out: half a minute of its past has to have several polls.
const MAX_CONTROL_PERIOD: u64 = 5_000;
/// Time for which a pod that is behind is polled fast: one that refuses its revision may do so for days.
const MAX_BEHIND: u64 = 60_000;
/// Longest time between two polls of a pod that does not answer.
const MAX_BACKOFF: u64 = 60_000;
/// One of so many polls is one of the rotation, if one is due.
const ROTATION_TURN: u64 = 10;

/// Class of a pod, which decides how often it is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// Pod that runs a revision first: each second.
    Canary,
    /// Control, with which canaries are compared, or zone resolver at rest: at the interval of the settings, and the
    /// former each five seconds at least.
    Control,
    /// Pod that has not put its revision in force, for a minute at the most, or was not polled yet: each second.
    Behind,
    /// Any other pod: in rotation with the polls that are left, and at the interval of the settings at the most.
    Rotation,
}

impl Class {
    /// All classes, in the order of their importance.
    pub(crate) const ALL: [Self; 4] = [Self::Canary, Self::Control, Self::Behind, Self::Rotation];

    /// Returns the name of the class in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Control => "control",
            Self::Behind => "behind",
            Self::Rotation => "rotation",
        }
    }

    /// Returns the class of a pod with this role, which is behind for this long.
    fn of(role: Self, behind_for: Option<u64>) -> Self {
        match role {
            Self::Canary => Self::Canary,
            _ if behind_for.is_some_and(|time| time < MAX_BEHIND) => Self::Behind,
            other => other,
        }
    }

    /// Returns how many polls of the class may be in flight: pods that do not answer fill the slots of no other class.
    fn slots(self) -> usize {
        match self {
            Self::Canary | Self::Behind => 32,
            Self::Control => 24,
            Self::Rotation => 48,
        }
    }

    /// Returns the order in which classes are looked at for the poll of this number. Canaries come first, but every
    /// class gets its share when more is due than may be sent.
    fn order(number: u64) -> [Self; 4] {
        match number % ROTATION_TURN {
            0 => [Self::Rotation, Self::Canary, Self::Control, Self::Behind],
            2 | 4 | 6 | 8 => [Self::Canary, Self::Behind, Self::Control, Self::Rotation],
            _ => Self::ALL,
        }
    }
}

/// Standing of a pod, which decides its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Class of the pod while it is not behind.
    pub(super) role: Class,
    /// Whether canaries are compared with the pod.
    pub(super) is_compared: bool,
    /// Whether the pod has not put its revision in force.
    pub(super) is_behind: bool,
    /// Fingerprint of the revision that the pod is asked to run.
    pub(super) asked: u32,
}

/// Ages of the figures, in milliseconds: the largest of each class, and of the pods that do not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ages {
    pub(super) by_class: [u64; 4],
    pub(super) silent: u64,
}

/// Schedule of pods, each known by a key and with what is needed to poll it.
pub(super) struct Schedule<K, T> {
    interval: u64,
    pods: HashMap<K, Slot<T>>,
    /// Pods of each class that wait for their poll, by the time at which it is due.
    waiting: [BTreeSet<(u64, K)>; 4],
    in_flight: [usize; 4],
    /// Number of pods of each class.
    sizes: [u64; 4],
    /// Polls that may start now, in thousandths, at the time `refilled`.
    tokens: u64,
    refilled: u64,
    /// Number of polls so far.
    started: u64,
}

/// Pod in the schedule. Times in tenths of a second save a sixth of its size.
struct Slot<T> {
    target: T,
    /// When the next poll is due, or when the one in flight began.
    due: u64,
    /// When the pod last answered, or came into the schedule.
    fresh_at: u32,
    /// Since when the pod is behind the revision `asked`.
    behind_since: Option<NonZeroU32>,
    asked: u32,
    failures: u8,
    class: Class,
    is_compared: bool,
    is_in_flight: bool,
}

impl<K: Copy + Ord + Hash, T: Clone> Schedule<K, T> {
    /// Creates an empty schedule. The interval is the period of zone resolvers, and of all pods while they are few. A
    /// long one is not that of controls.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).clamp(FAST_PERIOD, 3_600_000),
            pods: HashMap::new(),
            waiting: Default::default(),
            in_flight: [0; 4],
            sizes: [0; 4],
            tokens: MAX_BURST * 1_000,
            refilled: 0,
            started: 0,
        }
    }

    /// Adds a pod, whose poll is due at once, or updates it.
    pub(super) fn put(&mut self, key: K, target: T, standing: Standing, now: u64) {
        match self.pods.entry(key) {
            Entry::Occupied(mut entry) => entry.get_mut().target = target,
            Entry::Vacant(entry) => {
                let class = Class::Rotation;
                entry.insert(Slot {
                    target,
                    due: now,
                    fresh_at: tenths(now),
                    behind_since: None,
                    asked: standing.asked,
                    failures: 0,
                    class,
                    is_compared: false,
                    is_in_flight: false,
                });
                self.sizes[class as usize] += 1;
                self.waiting[class as usize].insert((now, key));
            }
        }
        self.classify(key, standing, now);
    }

    /// Removes all pods but these.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let Self { pods, waiting, in_flight, sizes, .. } = self;
        pods.retain(|key, slot| {
            let kept = keep(key);
            if !kept {
                sizes[slot.class as usize] -= 1;
                if slot.is_in_flight {
                    in_flight[slot.class as usize] -= 1;
                } else {
                    waiting[slot.class as usize].remove(&(slot.due, *key));
                }
            }
            kept
        });
    }

    /// Makes a pod that does not answer due after the period of its class, because something has happened to it.
    pub(super) fn hasten(&mut self, key: K, now: u64) {
        let Some(slot) = self.pods.get(&key).filter(|slot| slot.failures > 0 && !slot.is_in_flight) else { return };
        let period = self.period(slot);
        self.set_due(key, |due, _| due.min(now + period));
    }

    /// Returns what is needed to poll a pod; `None` for a pod that is not in the schedule.
    pub(super) fn target(&self, key: &K) -> Option<&T> {
        self.pods.get(key).map(|slot| &slot.target)
    }

    /// Returns whether a pod is in the schedule.
    pub(super) fn has(&self, key: &K) -> bool {
        self.pods.contains_key(key)
    }

    /// Starts the next poll, if one is due and permitted.
    pub(super) fn start(&mut self, now: u64) -> Option<(K, T)> {
        self.refill(now);
        if self.tokens < 1_000 {
            return None;
        }
        let class =
            Class::order(self.started).into_iter().find(|class| self.next_due(*class).is_some_and(|due| due <= now))?;
        let (_, key) = self.waiting[class as usize].pop_first()?;
        let slot = self.pods.get_mut(&key)?;
        (slot.due, slot.is_in_flight) = (now, true);
        self.in_flight[class as usize] += 1;
        self.tokens -= 1_000;
        self.started += 1;
        Some((key, slot.target.clone()))
    }

    /// Returns when the next poll may start; `None` while none is due before another one ends.
    pub(super) fn next_start(&self, now: u64) -> Option<u64> {
        let due = Class::ALL.into_iter().filter_map(|class| self.next_due(class)).min()?;
        let tokens = self.tokens + now.saturating_sub(self.refilled) * POLLS_PER_SECOND;
        let permitted = now + 1_000_u64.saturating_sub(tokens).div_ceil(POLLS_PER_SECOND);
        Some(due.max(permitted))
    }

    /// Ends a poll, and makes the next one due: after the period of the class, which doubles with each failure.
    pub(super) fn finish(&mut self, key: K, answered: bool, standing: Standing, now: u64) {
        let Some(slot) = self.pods.get_mut(&key).filter(|slot| slot.is_in_flight) else { return };
        slot.is_in_flight = false;
        slot.failures = if answered { 0 } else { slot.failures.saturating_add(1) };
        if answered {
            slot.fresh_at = tenths(now);
        }
        let class = slot.class as usize;
        self.in_flight[class] -= 1;
        self.waiting[class].insert((slot.due, key));
        self.classify(key, standing, now);
        self.set_due(key, |started, delay| (started + delay).max(now));
    }

    /// Returns the ages of the figures. A pod is silent from its second failure on.
    pub(super) fn ages(&self, now: u64) -> Ages {
        let mut ages = Ages::default();
        for slot in self.pods.values() {
            let age = now.saturating_sub(u64::from(slot.fresh_at) * 100);
            let largest = if slot.failures > 1 { &mut ages.silent } else { &mut ages.by_class[slot.class as usize] };
            *largest = age.max(*largest);
        }
        ages
    }

    /// Returns when the first pod of a class is due; `None` while all slots of the class are taken.
    fn next_due(&self, class: Class) -> Option<u64> {
        let has_slot = self.in_flight[class as usize] < class.slots();
        self.waiting[class as usize].first().filter(|_| has_slot).map(|(due, _)| *due)
    }

    fn refill(&mut self, now: u64) {
        let gained = now.saturating_sub(self.refilled).saturating_mul(POLLS_PER_SECOND);
        self.tokens = self.tokens.saturating_add(gained).min(MAX_BURST * 1_000);
        self.refilled = now;
    }

    /// Gives a pod the class of its standing. A pod that becomes faster is due after its new period.
    fn classify(&mut self, key: K, standing: Standing, now: u64) {
        let Some(slot) = self.pods.get_mut(&key) else { return };
        if !standing.is_behind {
            slot.behind_since = None;
        } else if slot.behind_since.is_none() || slot.asked != standing.asked {
            slot.behind_since = NonZeroU32::new(tenths(now).max(1));
        }
        slot.asked = standing.asked;
        let behind_for = slot.behind_since.map(|since| now.saturating_sub(u64::from(since.get()) * 100));
        let (before, after) = (slot.class as usize, Class::of(standing.role, behind_for) as usize);
        let was_compared = std::mem::replace(&mut slot.is_compared, standing.is_compared);
        if before == after {
            if !was_compared && slot.is_compared && !slot.is_in_flight {
                self.set_due(key, |due, delay| due.min(now + delay));
            }
            return;
        }
        slot.class = Class::ALL[after];
        self.sizes[before] -= 1;
        self.sizes[after] += 1;
        if slot.is_in_flight {
            self.in_flight[before] -= 1;
            self.in_flight[after] += 1;
            return;
        }
        self.waiting[before].remove(&(slot.due, key));
        self.waiting[after].insert((slot.due, key));
        self.set_due(key, |due, delay| due.min(now + delay));
    }

    /// Changes when a waiting pod is due, from its present time and its delay.
    fn set_due(&mut self, key: K, change: impl FnOnce(u64, u64) -> u64) {
        let Some(slot) = self.pods.get(&key) else { return };
        let delay = self.delay(slot);
        let waiting = &mut self.waiting[slot.class as usize];
        waiting.remove(&(slot.due, key));
        let due = change(slot.due, delay);
        waiting.insert((due, key));
        if let Some(slot) = self.pods.get_mut(&key) {
            slot.due = due;
        }
    }

    /// Returns the time between two polls of a pod, which doubles with its failures.
    fn delay(&self, slot: &Slot<T>) -> u64 {
        let period = self.period(slot);
        let doublings = u32::from(slot.failures.saturating_sub(1)).min(16);
        (period << doublings).min(MAX_BACKOFF.max(period))
    }

    /// Returns the time between two polls of a pod that answers.
    fn period(&self, slot: &Slot<T>) -> u64 {
        match slot.class {
            Class::Canary | Class::Behind => FAST_PERIOD,
            Class::Control if slot.is_compared => self.interval.min(MAX_CONTROL_PERIOD),
            Class::Control => self.interval,
            // As if the rotation had all polls: those that are due wait for one in the order of their times, however
            // many the other classes leave just now.
            class @ Class::Rotation => (self.sizes[class as usize] * 1_000 / POLLS_PER_SECOND).max(self.interval),
        }
    }
}

/// Returns whether so many pods can be polled in this time.
pub(crate) fn takes_no_longer(pods: usize, time: Duration) -> bool {
    pods as u128 * 1_000 <= u128::from(POLLS_PER_SECOND) * time.as_millis()
}

/// Returns a time in tenths of a second, for thirteen years.
fn tenths(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds / 100).unwrap_or(u32::MAX)
}

impl<K, T> Schedule<K, T> {
    /// Returns about how many bytes a pod takes in the schedule.
    #[cfg(test)]
    pub(super) fn bytes_per_pod() -> usize {
        // A hash map has up to 16/7 slots for each pod after it has grown, 8/7 before; a B-tree is two thirds full.
        (size_of::<K>() + size_of::<Slot<T>>() + 1) * 12 / 7 + size_of::<(u64, K)>() * 3 / 2
    }
}
