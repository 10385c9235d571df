//! Reachability of a captured address from pods, judged by route lookups. Pure: the lookups are in
//! [`pod_routes`](super::pod_routes).
//!
//! Pods cannot change the routes of a node, so no pod can make these lookups fail for others. Still an address is lost
//! only when every pod that was looked up fails, twice in a row: a policy rule that is meant for single pods takes the
//! address from nobody else.

/// Checks in a row that must fail before the address counts as lost.
const FAILED_CHECKS_BEFORE_LOSS: u32 = 2;

/// Route lookups of one check for one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RouteLookups {
    /// Pods whose packets the kernel delivers on this node.
    pub(super) delivered: usize,
    /// Pods whose packets it drops or forwards, although it delivers those to the node's own address.
    pub(super) undelivered: usize,
    /// One of the undelivered packets, as `a packet from 10.9.1.2 on veth1 is dropped`.
    pub(super) example: Option<String>,
}

/// Reachability of one address from the pods of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodReachability {
    failed_checks: u32,
    /// Undelivered packet of the last check.
    example: Option<String>,
}

impl PodReachability {
    /// Records the lookups of one check. Without any pod nothing is known, and nothing is lost.
    pub(super) fn record(&mut self, lookups: &RouteLookups) {
        let has_failed = lookups.delivered == 0 && lookups.undelivered > 0;
        self.failed_checks = if has_failed { self.failed_checks.saturating_add(1) } else { 0 };
        self.example.clone_from(&lookups.example);
    }

    /// Returns whether queries of pods do not reach the address.
    pub(super) fn is_lost(&self) -> bool {
        self.failed_checks >= FAILED_CHECKS_BEFORE_LOSS
    }

    /// Returns what is wrong, in one sentence; `None` when every pod reaches the address, as far as is known.
    pub(super) fn problem(&self) -> Option<String> {
        let example = self.example.as_ref()?;
        let pods = if self.failed_checks > 0 { "pods" } else { "some pods" };
        Some(format!("queries of {pods} are not routed to this address on the node: {example}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookups(delivered: usize, undelivered: usize) -> RouteLookups {
        let example = (undelivered > 0).then(|| "a packet from 10.9.1.2 on veth1 is dropped".to_owned());
        RouteLookups { delivered, undelivered, example }
    }

    #[test]
    fn an_address_is_lost_when_all_pods_fail_twice_and_found_when_one_is_delivered() {
        let mut reachability = PodReachability::default();
        reachability.record(&lookups(0, 3));
        assert!(!reachability.is_lost());
        reachability.record(&lookups(0, 1));
        assert!(reachability.is_lost());
        assert_eq!(
            reachability.problem().unwrap(),
            "queries of pods are not routed to this address on the node: a packet from 10.9.1.2 on veth1 is dropped"
        );
        reachability.record(&lookups(1, 2));
        assert!(!reachability.is_lost());
        reachability.record(&lookups(0, 3));
        assert!(!reachability.is_lost(), "the count starts anew");
    }

    #[test]
    fn one_pod_that_fails_beside_another_is_told_and_loses_nothing() {
        let mut reachability = PodReachability::default();
        for _ in 0..10 {
            reachability.record(&lookups(1, 15));
        }
        assert!(!reachability.is_lost());
        assert!(reachability.problem().unwrap().starts_with("queries of some pods are not routed"));
        reachability.record(&lookups(16, 0));
        assert_eq!(reachability.problem(), None);
    }

    #[test]
    fn without_pods_nothing_is_lost() {
        let mut reachability = PodReachability::default();
        for _ in 0..3 {
            reachability.record(&lookups(0, 1));
        }
        reachability.record(&lookups(0, 0));
        assert_eq!(reachability, PodReachability::default());
    }
}
