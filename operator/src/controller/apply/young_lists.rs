//! Young lists: those of an operator that has just started may be older than the last writes of the one before it.
//! Until events have caught up, nothing of a tier that has objects is created or deleted.

use std::time::Duration;

use crate::controller::apply::writer::{OwnedKind, is_same_object, orphans};
use crate::controller::desired::Desired;
use crate::controller::owned::OwnedObjects;

/// Age from which lists have what was written before the start of the operator.
const GROWN: Duration = Duration::from_secs(5);

/// Objects that wait for lists to grow up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Number of objects to create or delete.
    pub(super) objects: usize,
    /// Time until the lists are trusted.
    pub(super) remaining: Duration,
}

/// Returns what waits for lists of this age; `None` where they are trusted, nothing is created or deleted, nothing was
/// there before, or the tier itself is younger.
#[must_use]
pub(super) fn wait(
    desired: &Desired,
    existing: &OwnedObjects,
    lists_age: Duration,
    tier_age: Duration,
) -> Option<Wait> {
    let remaining = GROWN.checked_sub(lists_age).filter(|remaining| !remaining.is_zero() && tier_age >= lists_age)?;
    let prunes = desired.revision.is_some();
    let objects = &desired.objects;
    let counts = [
        count(&objects.service_accounts, &existing.service_accounts, prunes),
        count(&objects.network_policies, &existing.network_policies, prunes),
        count(&objects.services, &existing.services, prunes),
        count(&objects.disruption_budgets, &existing.disruption_budgets, prunes),
        count(&objects.config_maps, &existing.config_maps, prunes),
        count(&objects.daemon_sets, &existing.daemon_sets, prunes),
        count(&objects.deployments, &existing.deployments, prunes),
    ];
    let is_new = counts.iter().all(|(_, existing)| *existing == 0);
    let objects = counts.iter().map(|(changes, _)| changes).sum();
    (objects > 0 && !is_new).then_some(Wait { objects, remaining })
}

/// Returns the number of objects of a kind to create or delete, and of those that are there.
fn count<K: OwnedKind>(desired: &[K], existing: &[K], prunes: bool) -> (usize, usize) {
    let is_missing = |object: &&K| !existing.iter().any(|other| is_same_object(*object, other));
    let deleted = if prunes { orphans(desired, existing).len() } else { 0 };
    (desired.iter().filter(is_missing).count() + deleted, existing.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{build_desired, cluster, serving};

    #[test]
    fn nothing_is_created_or_deleted_by_lists_of_less_than_five_seconds_unless_nothing_was_there() {
        let observed = serving("{}");
        let desired = build_desired(&observed);
        let wait_after =
            |existing: &OwnedObjects, seconds| wait(&desired, existing, Duration::from_secs(seconds), Duration::MAX);
        assert_eq!(wait_after(&observed.owned, 0), None, "all is there, and nothing else");
        let mut less = observed.owned.clone();
        let resolvers = less.deployments.pop().unwrap();
        let two = Some(Wait { objects: 2, remaining: Duration::from_secs(4) });
        less.services.pop();
        assert_eq!(wait_after(&less, 1), two);
        assert_eq!(wait_after(&less, 5), None);
        let mut more = observed.owned.clone();
        for name in ["one", "other"] {
            let mut orphan = resolvers.clone();
            orphan.metadata.name = Some(name.to_owned());
            more.deployments.push(orphan);
        }
        assert_eq!(wait_after(&more, 1), two);
        let new = build_desired(&cluster("{}"));
        assert_eq!(wait(&new, &OwnedObjects::default(), Duration::ZERO, Duration::MAX), None, "nothing was there");
        let [two, three] = [2, 3].map(Duration::from_secs);
        assert_eq!(wait(&desired, &less, three, two), None, "no other operator has written of this tier");
        assert!(wait(&desired, &less, two, three).is_some());
    }
}
