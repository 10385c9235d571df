//! Captured addresses at which a pod does not answer itself: which failures a change can be the reason of.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::controller::judge::pod_look::{InForce, PodReport};
use crate::controller::judge::track::Phase;

/// Time in which a pod answers at its addresses again: after its processes have started, or with the change in force in
/// the place of a revision with which it did not answer.
const SETTLING: Duration = Duration::from_secs(15);

/// Captured addresses of a node or a resolver. They belong to the node: a pod that is made anew keeps their history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressHistory {
    /// Addresses that failed with the proven revision in force; `None` while that is not known.
    before: Option<BTreeSet<IpAddr>>,
    /// Time from which on the pod settles; `None` where a failure counts at once.
    settling: Option<Duration>,
}

/// Meaning of a failed self-query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressStanding {
    /// Failure that was there before the change.
    Excused,
    /// Failure that may end by itself within moments.
    Settling,
    /// Failure that came with the change.
    Failed,
    /// Failure at an address of which nobody knows how it was.
    Unknown,
}

impl AddressHistory {
    /// Adds a look with a report. `has_started` is true of a pod that is new, and of one that is back with its node.
    pub(crate) fn add(&mut self, now: Duration, report: &PodReport, phase: Phase, has_started: bool) {
        let is_over = self.settling.is_some_and(|since| now.saturating_sub(since) >= SETTLING);
        match report.in_force {
            InForce::Proven => {
                self.before = Some(report.self_query_failures.keys().copied().collect());
                self.settling = None;
            }
            _ if has_started => self.settling = Some(now),
            // Another change is in force that this one takes the place of: its failures are not those of this one.
            InForce::Other if phase == Phase::Past || self.settling.is_some() => self.settling = Some(now),
            InForce::Target if is_over => self.settling = None,
            InForce::Target | InForce::Other => {}
        }
    }

    /// Returns the meaning of a failed self-query at an address.
    #[must_use]
    pub(crate) fn standing(&self, address: &IpAddr) -> AddressStanding {
        match (&self.before, self.settling) {
            (Some(before), _) if before.contains(address) => AddressStanding::Excused,
            (_, Some(_)) => AddressStanding::Settling,
            (Some(_), None) => AddressStanding::Failed,
            (None, None) => AddressStanding::Unknown,
        }
    }

    /// Returns whether nobody knows at which addresses the pod answered with the proven revision.
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        self.before.is_none()
    }
}
