//! Lease of one captured address: its phase, and the next action. Pure: time is a parameter.
//!
//! ```text
//!             reply rules in force,        self-query succeeded          two self-queries failed
//!             a cache connected            (first: ways out too)
//! Withdrawn ──────────────────────► Trying ─────────────────► Captured ─────────────────────────► Trying
//!     ▲   address added to the node   │ no success for a lease    │ no longer desired, or foreign
//!     │                               ▼                           ▼
//!     └─────────────────────────────────── Leaving ◄──────────────┘
//!       address removed, once the redirect rule was off long enough for queries in flight
//! ```
//!
//! The redirect rule is installed in `Captured` only. A self-query that succeeded renews the address and nothing else
//! does, so that the kernel removes it one lease after the last success; without the address the redirect rule matches
//! nothing.

use std::time::{Duration, Instant};

/// Lifetime of a captured address without renewal.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// Lifetime of a captured address at which no Service answers. To withdraw it early helps no pod, while running caches
/// answer at it without an agent as well: so it outlasts the back-off of a kubelet before it restarts an agent (10, 20,
/// 40 s).
pub(crate) const LEASE_WITHOUT_SERVICE: Duration = Duration::from_secs(60);
/// Time for queries in flight to be answered once the redirect rule is removed.
pub(crate) const IN_FLIGHT: Duration = Duration::from_millis(500);
/// Self-queries in a row that must fail before the redirect rule is removed.
const FAILURES_BEFORE_LOSS: u32 = 2;
/// Self-queries in a row that must succeed before the redirect rule is installed again after such a loss.
const SUCCESSES_AFTER_LOSS: u32 = 3;
/// Pause before an address at which no self-query succeeded is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Time that an address without a Service waits for ways out.
const WAYS_OUT_TIMEOUT: Duration = Duration::from_secs(10);

/// Inputs of one step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaseInputs {
    /// The configuration names the address and the agent is not stopping.
    pub(crate) desired: bool,
    /// Another program has the address on the node.
    pub(crate) foreign: bool,
    /// Lifetime that the address has remaining on the node; `None` when it is not there.
    pub(crate) remaining: Option<Duration>,
    /// The UDP and the TCP socket are bound.
    pub(crate) listening: bool,
    /// At least one cache is connected.
    pub(crate) cache_connected: bool,
    /// The rules that the address needs before it is added to the node are installed.
    pub(crate) served: bool,
    /// The redirect rule is installed in the kernel.
    pub(crate) redirected: bool,
    /// Whether the self-query since the last step succeeded; `None` if there was none.
    pub(crate) answered: Option<bool>,
    /// Upstreams have responded to the caches of this pod.
    pub(crate) has_ways_out: bool,
}

/// Action on the node's address, to be carried out before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Add the address with its [lifetime](Lease::lifetime), or renew it.
    Put,
    /// Remove the address.
    Remove,
}

/// Phase of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The address is not on the node.
    Withdrawn { not_before: Instant },
    /// The address is on the node, but only self-queries reach the caches.
    Trying { until: Instant, successes: u32 },
    /// Queries to the address reach the caches.
    Captured { until: Instant, failures: u32 },
    /// The redirect rule is being removed; the address follows.
    Leaving { until: Instant, removed_since: Option<Instant> },
}

/// Lease of one address.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    phase: Phase,
    /// A Service answers at this address while it is not captured.
    service: bool,
    /// The address was captured before, by this agent or an earlier one.
    proven: bool,
    /// The last capture ended because self-queries failed.
    lost: bool,
    /// Time since which self-queries succeed at an address that was never captured.
    answering_since: Option<Instant>,
}

impl Lease {
    /// Returns the lease of an address that is not on the node.
    #[must_use]
    pub(crate) fn new(now: Instant, service: bool) -> Self {
        let phase = Phase::Withdrawn { not_before: now };
        Self { phase, service, proven: false, lost: false, answering_since: None }
    }

    /// Returns the lease of an address that an earlier agent remaining on the node with this lifetime, and with or
    /// without a redirect rule. A self-query renewed it less than a lifetime ago, so the lease continues where that
    /// agent stopped.
    #[must_use]
    pub(crate) fn adopted(now: Instant, service: bool, remaining: Duration, redirected: bool) -> Self {
        let until = now + remaining.min(lifetime(service));
        let phase =
            if redirected { Phase::Captured { until, failures: 0 } } else { Phase::Trying { until, successes: 0 } };
        Self { phase, service, proven: redirected, lost: false, answering_since: None }
    }

    /// Returns the lifetime of the address from each renewal on.
    #[must_use]
    pub(crate) fn lifetime(&self) -> Duration {
        lifetime(self.service)
    }

    /// Sets whether a Service answers at this address while it is not captured.
    pub(crate) fn set_service(&mut self, service: bool) {
        self.service = service;
    }

    /// Returns whether this agent has the address on the node, or had until its lifetime ended.
    #[must_use]
    pub(crate) fn holds(&self) -> bool {
        !matches!(self.phase, Phase::Withdrawn { .. })
    }

    /// Returns whether the redirect rule should be installed.
    #[must_use]
    pub(crate) fn wants_redirect(&self) -> bool {
        matches!(self.phase, Phase::Captured { .. })
    }

    /// Returns whether self-queries should be made.
    #[must_use]
    pub(crate) fn wants_self_query(&self) -> bool {
        matches!(self.phase, Phase::Trying { .. } | Phase::Captured { .. })
    }

    /// Returns whether the phase is about to change, so that the next step should come soon.
    #[must_use]
    pub(crate) fn in_transit(&self) -> bool {
        matches!(self.phase, Phase::Trying { .. } | Phase::Leaving { .. })
    }

    /// Returns whether a Service answers at this address while it is not captured.
    #[must_use]
    pub(crate) const fn has_service(&self) -> bool {
        self.service
    }

    /// Returns whether a first capture waits for ways out and nothing else.
    #[must_use]
    pub(crate) fn waits_for_ways_out(&self, has_ways_out: bool) -> bool {
        matches!(self.phase, Phase::Trying { .. }) && self.answering_since.is_some() && !self.proven && !has_ways_out
    }

    /// Advances the phase. The returned effect is to be carried out before the next step.
    pub(crate) fn step(&mut self, now: Instant, inputs: &LeaseInputs) -> Option<Effect> {
        match self.phase {
            Phase::Withdrawn { not_before } => self.withdrawn(now, inputs, not_before),
            Phase::Trying { until, successes } => self.trying(now, inputs, until, successes),
            Phase::Captured { until, failures } => self.captured(now, inputs, until, failures),
            Phase::Leaving { until, removed_since } => self.leaving(now, inputs, until, removed_since),
        }
    }

    fn withdrawn(&mut self, now: Instant, inputs: &LeaseInputs, not_before: Instant) -> Option<Effect> {
        let is_possible = inputs.desired
            && !inputs.foreign
            && inputs.listening
            && inputs.cache_connected
            && inputs.served
            && !inputs.redirected;
        if !is_possible || now < not_before {
            return None;
        }
        self.phase = Phase::Trying { until: now + self.lifetime(), successes: 0 };
        Some(Effect::Put)
    }

    fn trying(&mut self, now: Instant, inputs: &LeaseInputs, until: Instant, successes: u32) -> Option<Effect> {
        if !inputs.desired || inputs.foreign {
            return self.leave(now, inputs, until);
        }
        if now >= until || inputs.remaining.is_none() {
            return self.withdraw(now + RETRY_INTERVAL);
        }
        match inputs.answered {
            None => None,
            Some(false) => {
                self.phase = Phase::Trying { until, successes: 0 };
                None
            }
            Some(true) => {
                let since = *self.answering_since.get_or_insert(now);
                let successes = successes + 1;
                let needed = if self.lost { SUCCESSES_AFTER_LOSS } else { 1 };
                let may_capture =
                    self.proven || inputs.has_ways_out || (!self.service && now - since >= WAYS_OUT_TIMEOUT);
                self.phase = if successes >= needed && may_capture && inputs.cache_connected && inputs.served {
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

    fn captured(&mut self, now: Instant, inputs: &LeaseInputs, until: Instant, failures: u32) -> Option<Effect> {
        if !inputs.desired || inputs.foreign {
            return self.leave(now, inputs, until);
        }
        if now >= until || inputs.remaining.is_none() {
            // The kernel removed the address: the agent stalled, or another program removed it. The redirect rule goes
            // and the sequence starts again.
            return self.withdraw(now);
        }
        match inputs.answered {
            Some(true) => {
                self.phase = Phase::Captured { until: now + self.lifetime(), failures: 0 };
                Some(Effect::Put)
            }
            _ => {
                let failures = failures + u32::from(inputs.answered == Some(false));
                self.phase = Phase::Captured { until, failures };
                if failures >= FAILURES_BEFORE_LOSS || !inputs.cache_connected {
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
        inputs: &LeaseInputs,
        until: Instant,
        removed_since: Option<Instant>,
    ) -> Option<Effect> {
        if inputs.remaining.is_none() || now >= until {
            return self.withdraw(now);
        }
        let removed_since = removed_since.or_else(|| (!inputs.redirected).then_some(now));
        if removed_since.is_some_and(|since| now - since >= IN_FLIGHT) {
            self.withdraw(now);
            return Some(Effect::Remove);
        }
        self.phase = Phase::Leaving { until, removed_since };
        None
    }

    fn leave(&mut self, now: Instant, inputs: &LeaseInputs, until: Instant) -> Option<Effect> {
        self.leaving(now, inputs, until, None)
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
