//! Plan: the writes of objects that the [`Writer`](super::writer::Writer) would make, without making them.

use kube::ResourceExt;
use kube::core::ApiResource;
use serde_json::Value;

use crate::controller::apply::drift::is_up_to_date;
use crate::controller::apply::writer::{OwnedKind, body_of, is_same_object, orphans, to_json};
use crate::controller::owned::OwnedObjects;
use crate::error::Error;

/// Write of an object that is not up to date.
#[derive(Clone, Debug)]
pub(crate) struct PlannedWrite {
    /// Kind of the object.
    pub(crate) resource: ApiResource,
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// Object that is there; `None` for one that is created.
    pub(crate) existing: Option<Value>,
    /// Body of the apply; `None` for an orphan, which is deleted.
    pub(crate) body: Option<Value>,
}

/// Returns the writes that make the desired objects of the existing ones, in the order of the writer.
///
/// # Errors
///
/// When an object cannot be written as JSON.
pub(crate) fn plan_writes(desired: &OwnedObjects, existing: &OwnedObjects) -> Result<Vec<PlannedWrite>, Error> {
    let mut writes = Vec::new();
    plan_applies(&desired.service_accounts, &existing.service_accounts, &mut writes)?;
    plan_applies(&desired.network_policies, &existing.network_policies, &mut writes)?;
    plan_applies(&desired.services, &existing.services, &mut writes)?;
    plan_applies(&desired.disruption_budgets, &existing.disruption_budgets, &mut writes)?;
    plan_applies(&desired.config_maps, &existing.config_maps, &mut writes)?;
    plan_applies(&desired.daemon_sets, &existing.daemon_sets, &mut writes)?;
    plan_applies(&desired.deployments, &existing.deployments, &mut writes)?;
    plan_deletes(&desired.deployments, &existing.deployments, &mut writes)?;
    plan_deletes(&desired.daemon_sets, &existing.daemon_sets, &mut writes)?;
    plan_deletes(&desired.config_maps, &existing.config_maps, &mut writes)?;
    plan_deletes(&desired.disruption_budgets, &existing.disruption_budgets, &mut writes)?;
    plan_deletes(&desired.services, &existing.services, &mut writes)?;
    plan_deletes(&desired.network_policies, &existing.network_policies, &mut writes)?;
    plan_deletes(&desired.service_accounts, &existing.service_accounts, &mut writes)?;
    Ok(writes)
}

fn plan_applies<K: OwnedKind>(desired: &[K], existing: &[K], writes: &mut Vec<PlannedWrite>) -> Result<(), Error> {
    for object in desired {
        let existing = existing.iter().find(|other| is_same_object(object, *other)).map(to_json).transpose()?;
        let body = body_of(object)?;
        if !existing.as_ref().is_some_and(|existing| is_up_to_date(&body, existing)) {
            writes.push(write(object, existing, Some(body)));
        }
    }
    Ok(())
}

fn plan_deletes<K: OwnedKind>(desired: &[K], existing: &[K], writes: &mut Vec<PlannedWrite>) -> Result<(), Error> {
    for orphan in orphans(desired, existing) {
        writes.push(write(orphan, Some(to_json(orphan)?), None));
    }
    Ok(())
}

fn write<K: OwnedKind>(object: &K, existing: Option<Value>, body: Option<Value>) -> PlannedWrite {
    PlannedWrite {
        resource: ApiResource::erase::<K>(&()),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        existing,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{build_desired, serving};

    #[test]
    fn a_tier_in_force_plans_no_write_but_for_what_the_fixture_does_not_stamp() {
        let observed = serving("{}");
        let desired = build_desired(&observed).objects;
        let writes = plan_writes(&desired, &observed.owned).unwrap();
        let all = plan_writes(&desired, &OwnedObjects::default()).unwrap();
        assert_eq!(writes.len(), all.len(), "each object lacks the annotation of an apply");
        assert!(writes.iter().all(|write| write.existing.is_some() && write.body.is_some()));
        assert!(all.iter().all(|write| write.existing.is_none()));
    }

    #[test]
    fn what_is_not_desired_is_deleted_with_workloads_first() {
        let observed = serving("{}");
        let writes = plan_writes(&OwnedObjects::default(), &observed.owned).unwrap();
        assert!(writes.iter().all(|write| write.body.is_none()));
        let kinds: Vec<&str> = writes.iter().map(|write| write.resource.kind.as_str()).collect();
        assert_eq!((kinds.first(), kinds.last()), (Some(&"Deployment"), Some(&"ServiceAccount")));
    }
}
