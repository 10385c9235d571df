//! Announcements: a status says that something is not rolled out, before any pod is told or any node leaves.

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::{ConditionStatus, ConditionType};
use dnstier_crds::v1alpha1::RolloutStatus;

/// Announcement by the status of a tier that something is not rolled out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Announcement<'a> {
    /// Roll-out that the status shows.
    Rollout(&'a RolloutStatus),
    /// Whatever the present spec results in: an older definition of `DnsTier` does not keep `status.rollout`.
    Spec,
}

/// Returns what the status of a tier announces; `None` while it says that everything is rolled out, or speaks of an
/// earlier spec.
pub(super) fn announcement(tier: &DnsTier) -> Option<Announcement<'_>> {
    let status = tier.status.as_ref()?;
    let condition = status.conditions.iter().find(|condition| condition.type_ == ConditionType::RolledOut.name())?;
    if condition.status != ConditionStatus::False.name() {
        return None;
    }
    let of_spec = || (condition.observed_generation == tier.metadata.generation).then_some(Announcement::Spec);
    status.rollout.as_ref().map(Announcement::Rollout).or_else(of_spec)
}
