//! Young lists: those of an operator that has just started may be older than the last writes of the one before it.
//! Until events have caught up, nothing of a tier that has objects is created or deleted.

use std::time::Duration;

use crate::controller::apply::plan::{PlannedWrite, plan_writes};
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
    let is_new = OwnedObjects::default().has_all(existing);
    let writes = plan_writes(&desired.objects, existing).ok().filter(|_| !is_new)?;
    let is_change = |write: &&PlannedWrite| match write.body {
        Some(_) => write.existing.is_none(),
        // Nothing is deleted before there is a revision.
        None => desired.revision.is_some(),
    };
    let objects = writes.iter().filter(is_change).count();
    (objects > 0).then_some(Wait { objects, remaining })
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
