//! Announcements: a status says that something is not rolled out, before any pod is told or any node leaves; and that
//! the first revision of a tier is on its way.

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::{ConditionStatus, ConditionType};
use dnstier_crds::v1alpha1::RolloutStatus;

use crate::controller::rollout::record::Step;

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

/// Returns whether the status of a tier says that its first revision is on its way: nothing was rolled out before, and
/// the tier was never ready. A status that does not tell, for one because an older definition of `DnsTier` does not
/// keep `status.rollout`, is that of a tier with a proven revision: otherwise each change would go to all pods at once.
pub(super) fn is_in_first_revision(tier: &DnsTier) -> bool {
    let Some(status) = &tier.status else { return false };
    let is_first = status.rollout.as_ref().is_some_and(|rollout| rollout.step == Step::First.name());
    let is_true = |type_: ConditionType| {
        let mut conditions = status.conditions.iter();
        conditions.any(|other| other.type_ == type_.name() && other.status == ConditionStatus::True.name())
    };
    let was_ready = status.first_ready_time.is_some() || is_true(ConditionType::Ready);
    is_first && !was_ready && !is_true(ConditionType::RolledOut)
}
