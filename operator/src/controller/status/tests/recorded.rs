//! Recorded tiers: what Argo CD, Flux and Helm see of a tier, for the test of their health checks.
//!
//! `DNSTIER_RECORD=1` writes the files anew.

use std::path::Path;

use dnstier_crds::v1alpha1::definition;
use serde_json::{Value, json};

use super::upstreams::upstream;
use super::*;
use crate::controller::fixtures::{apply_to, change_node_status, change_resolver_status};

/// Folder of the recorded tiers.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiers");

/// Compares a tier with the recorded one.
#[track_caller]
fn assert_recorded(name: &str, generation: i64, status: &Value) {
    let tier = json!({
        "apiVersion": "dnstier.io/v1alpha1",
        "kind": "DnsTier",
        "metadata": {"name": "default", "generation": generation},
        "status": status,
    });
    let path = Path::new(FOLDER).join(format!("{name}.json"));
    let text = format!("{tier:#}\n");
    if std::env::var_os("DNSTIER_RECORD").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(recorded, text, "{} is not what the operator writes: record it with DNSTIER_RECORD=1", path.display());
}

/// Returns the status of a tier whose second configuration is at this step of its roll-out; a node runs it already.
fn status_at(reason: Reason, sentence: &str, step: &str, is_on_a_node: bool) -> DnsTierStatus {
    let mut observed = settled();
    let target = "2b3c4d5e6f";
    Arc::make_mut(&mut observed.tier).metadata.generation = Some(2);
    if is_on_a_node {
        change_node_status(&mut observed, "node-pod-a", |status| status.revision.in_force = Some(target.to_owned()));
    }
    at_step(&observed, target, reason, sentence, step)
}

fn at_step(observed: &Observed, target: &str, reason: Reason, sentence: &str, step: &str) -> DnsTierStatus {
    let mut state = rolled_out(target);
    state.rolled_out = RolledOut { reason, sentence: sentence.to_owned() };
    state.status = RolloutStatus { step: step.to_owned(), moved: 1, total: 3, ..state.status };
    let outcome = ApplyOutcome::Valid { warnings: Vec::new(), rollout: Some(state), writes: 0, failure: None };
    compute(observed, &settings(), &outcome)
}

#[test]
fn a_tier_that_no_operator_has_seen_is_recorded() {
    let definition = serde_json::to_value(definition()).unwrap();
    let status = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default").unwrap();
    assert_recorded("pending", 1, status);
}

#[test]
fn a_tier_that_starts_is_recorded() {
    let mut observed = cluster("{}");
    let first = build_desired(&observed);
    apply_to(&mut observed, first);
    let id = build_desired(&observed).revision.unwrap().id;
    let status = at_step(&observed, &id, Reason::Wave, "All pods get the first configuration.", "First");
    assert_recorded("starting", 1, &json!(status));
}

#[test]
fn a_tier_that_is_ready_and_one_whose_newest_spec_nobody_has_looked_at_are_recorded() {
    let status = json!(reconciled_status(&settled()));
    assert_recorded("ready", 1, &status);
    assert_recorded("changed", 2, &status);
}

#[test]
fn tiers_that_roll_out_that_are_paused_and_that_wait_are_recorded() {
    let sentence = "The first node of zone-b takes over 2b3c4d5e6f.";
    assert_recorded("rolling-out", 2, &json!(status_at(Reason::Canary, sentence, "Canary", true)));
    let sentence = "spec.rollout.paused holds the roll-out of 2b3c4d5e6f at step Canary.";
    assert_recorded("paused", 2, &json!(status_at(Reason::Paused, sentence, "Canary", true)));
    let sentence = "Pods failed that were not changed: nothing can be said about 2b3c4d5e6f.";
    assert_recorded("controls-failing", 2, &json!(status_at(Reason::ControlsFailing, sentence, "Canary", true)));
    let sentence = "2b3c4d5e6f gives up 169.254.20.10, which pods asked.";
    assert_recorded("address-in-use", 2, &json!(status_at(Reason::AddressInUse, sentence, "Start", false)));
}

#[test]
fn a_tier_whose_roll_out_was_stopped_is_recorded() {
    let sentence = "2b3c4d5e6f was taken back: 7.1 % of the responses of node-a were SERVFAIL, 0.2 % of the others.";
    assert_recorded("judged-worse", 2, &json!(status_at(Reason::JudgedWorse, sentence, "Stopped", false)));
}

#[test]
fn a_tier_with_a_dead_upstream_and_an_invalid_one_are_recorded() {
    let mut observed = settled();
    change_resolver_status(&mut observed, "resolver-a-0", |status| {
        status.instance.upstreams = vec![upstream("forward", "192.0.2.53:53", false)];
    });
    assert_recorded("upstream-unreachable", 1, &json!(reconciled_status(&observed)));
    let findings = vec![Finding::new(Reason::ClusterDnsNotFound, "spec.clusterDns: Service a/b does not exist.")];
    let outcome = ApplyOutcome::Invalid { findings, rollout: Some(rolled_out("1a2b3c4d5e")) };
    assert_recorded("invalid", 1, &json!(compute(&settled(), &settings(), &outcome)));
}
