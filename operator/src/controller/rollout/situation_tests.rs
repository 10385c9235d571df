//! Promises of the situation about a record that is lost before the first revision is proven.

use std::collections::HashSet;
use std::sync::Arc;

use dnstier_crds::conditions::{ConditionStatus, ConditionType, Reason, Report, merge};
use dnstier_crds::v1alpha1::{DnsTierStatus, RolloutStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Plan;
use super::record::Step;
use super::situation::Situation;
use crate::controller::desired::RenderedRevision;
use crate::controller::fixtures::{build_desired, serving, settings, tier};
use crate::controller::observe::Observed;
use crate::controller::observe::pods::Component;
use crate::controller::observe::poll::AddressUses;

/// Returns a tier with this status and without a record, whose pods run a revision with which no node is ready.
fn tier_without_record(status: Option<DnsTierStatus>) -> Observed {
    let mut observed = serving("{}");
    let node_pods = observed.pods.iter_mut().filter(|pod| pod.component == Component::NodeCache);
    node_pods.for_each(|pod| pod.ready = false);
    Arc::make_mut(&mut observed.tier).status = status;
    observed
}

/// Returns the status of a tier whose first revision is on its way.
fn first_status() -> DnsTierStatus {
    let report = |type_, reason| Report { type_, status: ConditionStatus::False, reason, message: String::new() };
    let reports = [report(ConditionType::Ready, Reason::Starting), report(ConditionType::RolledOut, Reason::Wave)];
    let rollout = RolloutStatus { step: "First".to_owned(), ..RolloutStatus::default() };
    let time = Time("2026-01-01T00:01:00Z".parse().unwrap());
    DnsTierStatus {
        conditions: merge(&[], &reports, Some(1), &time),
        rollout: Some(rollout),
        ..DnsTierStatus::default()
    }
}

fn set_true(status: &mut DnsTierStatus, type_: ConditionType) {
    let condition = status.conditions.iter_mut().find(|condition| condition.type_ == type_.name()).unwrap();
    condition.status = ConditionStatus::True.name().to_owned();
}

/// Changes the spec of a tier, and returns the configuration that it results in.
fn mend(observed: &mut Observed) -> RenderedRevision {
    let mut mended = tier("default", "2026-01-01T00:00:00Z", "{nodeCache: {cache: {maxTtl: 600s}}}");
    mended.status.clone_from(&observed.tier.status);
    observed.tier = Arc::new(mended);
    build_desired(observed).revision.unwrap()
}

fn plan_pass(observed: &Observed, newest: Option<&RenderedRevision>) -> Plan {
    let situation = Situation::collect(observed, &settings(), newest, &AddressUses::default(), &HashSet::new());
    situation.unwrap().plan(None, true, "operator")
}

fn running(observed: &Observed) -> String {
    observed.pods[0].annotated_revision.clone().unwrap()
}

#[test]
fn a_first_revision_whose_record_is_lost_is_the_first_one_again_and_the_next_goes_to_all_pods() {
    let mut observed = tier_without_record(Some(first_status()));
    let running = running(&observed);
    let desired = build_desired(&observed).revision.unwrap();
    for newest in [Some(&desired), None] {
        let plan = plan_pass(&observed, newest);
        assert_eq!((plan.record.step, plan.record.proven.as_ref(), plan.asks.len()), (Step::First, None, 0));
        assert_eq!((plan.record.target.id.as_str(), plan.rolled_out.is_true()), (running.as_str(), false));
    }
    let mended = mend(&mut observed);
    assert_ne!(mended.id, running);
    let plan = plan_pass(&observed, Some(&mended));
    assert_eq!((plan.record.step, plan.record.proven.as_ref()), (Step::First, None));
    let told = plan.asks.iter().filter(|ask| ask.revision == mended.id);
    assert_eq!((told.count(), plan.asks.len()), (9, 9));
}

#[test]
fn a_tier_that_may_have_had_a_proven_revision_gets_no_change_at_once() {
    let changes: [fn(&mut DnsTierStatus); 5] = [
        // That of a definition which is older than the field.
        |status| status.rollout = None,
        |status| status.rollout.as_mut().unwrap().step = "Canary".to_owned(),
        |status| status.first_ready_time = Some(Time("2026-01-01T00:05:00Z".parse().unwrap())),
        |status| set_true(status, ConditionType::Ready),
        |status| set_true(status, ConditionType::RolledOut),
    ];
    let changed = changes.map(|change| {
        let mut status = first_status();
        change(&mut status);
        Some(status)
    });
    for status in changed.into_iter().chain([None]) {
        let mut observed = tier_without_record(status);
        let running = running(&observed);
        let mended = mend(&mut observed);
        let plan = plan_pass(&observed, Some(&mended));
        let proven = plan.record.proven.map(|proven| proven.id);
        assert_eq!((proven, plan.asks.len()), (Some(running), 0), "{:?}", observed.tier.status);
    }
}
