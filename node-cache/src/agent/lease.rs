//! How far one address is captured, and what is to be done next. It knows no socket and no clock: time is a parameter.
//!
//! ```text
//!             reply rules in force,        asked with success            two self-queries failed
//!             a cache connected            (first: names too)
//! Withdrawn ──────────────────────► Trying ─────────────────► Captured ─────────────────────────► Trying
//!     ▲   address put on the node     │ no success for a lease    │ no longer wanted, or foreign
//!     │                               ▼                           ▼
//!     └─────────────────────────────────── Leaving ◄──────────────┘
//!       address taken, when the switch was off long enough for what is in flight
//! ```
//!
//! The switch is on in `Captured` alone. The address is renewed by a self-query that succeeded and by nothing else, so
//! that it goes by itself a lease after the last one; without the address the switch has no effect.

use std::time::{Duration, Instant};

/// How long an address stays on the node without being renewed.
pub const LEASE: Duration = Duration::from_secs(5);
/// The same for an address that nobody else serves. To give it up early helps nobody, while caches that live answer at it
/// without an agent, too: so it outlasts the pauses that a kubelet makes before it starts an agent again (10, 20, 40 s).
pub const LEASE_WITHOUT_SERVICE: Duration = Duration::from_secs(60);
/// How long questions that are in flight have to be answered once the switch is off.
pub const IN_FLIGHT: Duration = Duration::from_millis(500);
/// How many self-queries in a row have to fail for the switch to be turned off.
const FAILURES: u32 = 2;
/// How many self-queries in a row have to succeed for the switch to be turned on again after such a loss.
const SUCCESSES_AFTER_LOSS: u32 = 3;
/// How long an address that nobody answered at is left alone before it is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long an address that nobody else serves waits for the first names to be resolved.
const NAMES_PATIENCE: Duration = Duration::from_secs(10);

/// What is known at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseInputs {
    /// The configuration names the address and the agent is not stopping.
    pub wanted: bool,
    /// Somebody else has the address on the node.
    pub foreign: bool,
    /// How long the address will stay on the node if nothing is done; none: it is not there.
    pub left: Option<Duration>,
    /// Both sockets are bound.
    pub listening: bool,
    /// At least one cache is connected.
    pub caches: bool,
    /// The rules that the address needs before it is put on the node are in force.
    pub served: bool,
    /// The switch is on in the kernel.
    pub switched: bool,
    /// The outcome of a self-query since the last step; none if there was none.
    pub answered: Option<bool>,
    /// The first names were resolved by the caches of this pod.
    pub names: bool,
}

/// What is to be done with the address on the node, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put it there for its [lifetime](Lease::lifetime), or let it stay that long from now.
    Put,
    /// Take it away.
    Remove,
}

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of it is on the node.
    Withdrawn { not_before: Instant },
    /// It is on the node, but only the agent's own questions reach the caches.
    Trying { until: Instant, successes: u32 },
    /// Questions to it reach the caches.
    Captured { until: Instant, failures: u32 },
    /// It is about to go.
    Leaving { until: Instant, off_since: Option<Instant> },
}

/// One address.
#[derive(Clone, Debug)]
pub struct Lease {
    phase: Phase,
    /// A Service answers at this address while it is not captured.
    service: bool,
    /// It was captured before, by this agent or the one before it.
    proven: bool,
    /// The last capture ended because nobody answered.
    lost: bool,
    /// Since when the caches answer at the address that was never captured.
    answering_since: Option<Instant>,
}

impl Lease {
    /// An address that is not on the node.
    #[must_use]
    pub fn new(now: Instant, service: bool) -> Self {
        let phase = Phase::Withdrawn { not_before: now };
        Self { phase, service, proven: false, lost: false, answering_since: None }
    }

    /// An address that an earlier agent left on the node for this long, and whose switch it left on or off. It was
    /// renewed by a self-query less than a lifetime ago, so it is gone on with where that agent stopped.
    #[must_use]
    pub fn taken_over(now: Instant, service: bool, left: Duration, switched: bool) -> Self {
        let until = now + left.min(lifetime(service));
        let phase =
            if switched { Phase::Captured { until, failures: 0 } } else { Phase::Trying { until, successes: 0 } };
        Self { phase, service, proven: switched, lost: false, answering_since: None }
    }

    /// How long the address stays on the node from each renewal on.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        lifetime(self.service)
    }

    /// Says whether a Service answers at this address while it is not captured.
    pub fn set_service(&mut self, service: bool) {
        self.service = service;
    }

    /// Whether the address is on the node, or was until its lifetime ended, because of this agent.
    #[must_use]
    pub fn holds(&self) -> bool {
        !matches!(self.phase, Phase::Withdrawn { .. })
    }

    /// Whether the switch should be on.
    #[must_use]
    pub fn wants_switch(&self) -> bool {
        matches!(self.phase, Phase::Captured { .. })
    }

    /// Whether self-queries are of use.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        matches!(self.phase, Phase::Trying { .. } | Phase::Captured { .. })
    }

    /// Whether something is about to change, so that the next step should not be long in coming.
    #[must_use]
    pub fn in_transit(&self) -> bool {
        matches!(self.phase, Phase::Trying { .. } | Phase::Leaving { .. })
    }

    /// Whether nothing is missing for a first capture but names that the caches have resolved.
    #[must_use]
    pub fn waits_for_names(&self, seen_names: bool) -> bool {
        matches!(self.phase, Phase::Trying { .. }) && self.answering_since.is_some() && !self.proven && !seen_names
    }

    /// Goes on by what is known now. The effect is to be carried out before the next step.
    pub fn step(&mut self, now: Instant, seen: &LeaseInputs) -> Option<Effect> {
        match self.phase {
            Phase::Withdrawn { not_before } => self.withdrawn(now, seen, not_before),
            Phase::Trying { until, successes } => self.trying(now, seen, until, successes),
            Phase::Captured { until, failures } => self.captured(now, seen, until, failures),
            Phase::Leaving { until, off_since } => self.leaving(now, seen, until, off_since),
        }
    }

    fn withdrawn(&mut self, now: Instant, seen: &LeaseInputs, not_before: Instant) -> Option<Effect> {
        let possible = seen.wanted && !seen.foreign && seen.listening && seen.caches && seen.served && !seen.switched;
        if !possible || now < not_before {
            return None;
        }
        self.phase = Phase::Trying { until: now + self.lifetime(), successes: 0 };
        Some(Effect::Put)
    }

    fn trying(&mut self, now: Instant, seen: &LeaseInputs, until: Instant, successes: u32) -> Option<Effect> {
        if !seen.wanted || seen.foreign {
            return self.leave(now, seen, until);
        }
        if now >= until || seen.left.is_none() {
            return self.withdraw(now + PAUSE);
        }
        match seen.answered {
            None => None,
            Some(false) => {
                self.phase = Phase::Trying { until, successes: 0 };
                None
            }
            Some(true) => {
                let since = *self.answering_since.get_or_insert(now);
                let successes = successes + 1;
                let enough = if self.lost { SUCCESSES_AFTER_LOSS } else { 1 };
                let names = self.proven || seen.names || (!self.service && now - since >= NAMES_PATIENCE);
                self.phase = if successes >= enough && names && seen.caches && seen.served {
                    self.proven = true;
                    self.lost = false;
                    Phase::Captured { until: now + self.lifetime(), failures: 0 }
                } else {
                    Phase::Trying { until: now + self.lifetime(), successes }
                };
                Some(Effect::Put)
            }
        }
    }

    fn captured(&mut self, now: Instant, seen: &LeaseInputs, until: Instant, failures: u32) -> Option<Effect> {
        if !seen.wanted || seen.foreign {
            return self.leave(now, seen, until);
        }
        if now >= until || seen.left.is_none() {
            // The kernel took the address: the agent stood still, or somebody else removed it. The switch goes off and
            // everything begins again in its order.
            return self.withdraw(now);
        }
        match seen.answered {
            Some(true) => {
                self.phase = Phase::Captured { until: now + self.lifetime(), failures: 0 };
                Some(Effect::Put)
            }
            _ => {
                let failures = failures + u32::from(seen.answered == Some(false));
                self.phase = Phase::Captured { until, failures };
                if failures >= FAILURES || !seen.caches {
                    self.lost = true;
                    self.phase = Phase::Trying { until, successes: 0 };
                }
                None
            }
        }
    }

    fn leaving(
        &mut self,
        now: Instant,
        seen: &LeaseInputs,
        until: Instant,
        off_since: Option<Instant>,
    ) -> Option<Effect> {
        if seen.left.is_none() || now >= until {
            return self.withdraw(now);
        }
        let off_since = off_since.or_else(|| (!seen.switched).then_some(now));
        if off_since.is_some_and(|since| now - since >= IN_FLIGHT) {
            self.withdraw(now);
            return Some(Effect::Remove);
        }
        self.phase = Phase::Leaving { until, off_since };
        None
    }

    fn leave(&mut self, now: Instant, seen: &LeaseInputs, until: Instant) -> Option<Effect> {
        self.leaving(now, seen, until, None)
    }

    fn withdraw(&mut self, not_before: Instant) -> Option<Effect> {
        self.phase = Phase::Withdrawn { not_before };
        None
    }
}

const fn lifetime(service: bool) -> Duration {
    if service { LEASE } else { LEASE_WITHOUT_SERVICE }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
