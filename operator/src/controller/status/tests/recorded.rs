//! Recorded tiers: what Argo CD, Flux and Helm see of a tier, for the test of their health checks.
//!
//! `DNSTIER_RECORD=1` writes the files anew.

use std::collections::BTreeSet;
use std::path::Path;

use dnstier_crds::v1alpha1::{Rollout, definition};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::upstreams::upstream;
use super::*;
use crate::controller::fixtures::{apply_to, change_node_status, change_resolver_status, pod_of, roll_out_template};
use crate::controller::rollout::plan::{Inputs, plan};
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::steps::{Surroundings, Verdict};

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

/// Revision that is being rolled out.
const TARGET: &str = "2b3c4d5e6f";

/// Returns the status of a tier whose second configuration is at a step of its roll-out, as the planner tells it; the
/// first node runs it already where the step is one of pods.
fn status_at(step: Step, told: Told<'_>) -> DnsTierStatus {
    let mut observed = settled();
    Arc::make_mut(&mut observed.tier).metadata.generation = Some(2);
    let is_on_a_node = matches!(step, Step::Canary | Step::RollingBack);
    if is_on_a_node {
        change_node_status(&mut observed, "node-pod-a", |status| status.revision.in_force = Some(TARGET.to_owned()));
    }
    let revision = |id: &str| TierRevision { id: id.to_owned(), nodes: id.to_owned(), resolvers: "1a2b".to_owned() };
    let (proven, target) = (revision("1a2b3c4d5e"), revision(TARGET));
    let mut record = Record::new(target.clone(), Some(proven.clone()), step, observed.now);
    record.moved = BTreeSet::from(["node-a".to_owned()]);
    if let Some((reason, sentence)) = told.rejection {
        record.reject(reason, sentence.to_owned(), None, observed.now);
        record.step = step;
    }
    let pod = RolloutPod {
        role: Role::Node,
        name: "node-pod-a".to_owned(),
        zone: "zone-a".to_owned(),
        node: Some("node-a".to_owned()),
        ready: true,
        away: false,
        out_of_reach: false,
        unpolled: false,
        is_unanswered: false,
        asked: Some(if is_on_a_node { TARGET } else { "1a2b3c4d5e" }.to_owned()),
        in_force: Some(if is_on_a_node { TARGET } else { "1a2b3c4d5e" }.to_owned()),
        tellings: 1,
        told: Some(observed.now),
        responses: 0,
        created: Timestamp::UNIX_EPOCH,
        joined: Timestamp::UNIX_EPOCH,
    };
    let plan = plan(&Inputs {
        record: Some(&record),
        stable: Some(&proven),
        desired: &target,
        verdict: told.verdict.as_ref(),
        wants_nodes: true,
        writer: "operator",
        around: Surroundings {
            pods: &[pod],
            nodes: &BTreeSet::from(["node-a".to_owned()]),
            settings: &Rollout { paused: told.is_paused, ..Rollout::default() },
            announced: Some(TARGET),
            is_past_known: true,
            address_in_use: told.address_in_use,
            address_unknown: None,
            confirm: None,
            retry: None,
            now: observed.now,
        },
    });
    assert_eq!(plan.record.step, step);
    let RolledOut { reason, sentence } = plan.rolled_out;
    at_step(&observed, TARGET, reason, &sentence, step.name())
}

/// Inputs of the planner beside the step.
#[derive(Default)]
struct Told<'a> {
    verdict: Option<Verdict>,
    rejection: Option<(&'a str, &'a str)>,
    is_paused: bool,
    address_in_use: Option<&'a str>,
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
    let hold = |are_controls_failing, sentence: &str| Told {
        verdict: Some(Verdict::Hold { are_controls_failing, sentence: sentence.to_owned() }),
        ..Told::default()
    };
    let record = |name: &str, step, told| assert_recorded(name, 2, &json!(status_at(step, told)));
    record("rolling-out", Step::Canary, hold(false, "One pod showed nothing worse for 10 of 30 s."));
    record("paused", Step::Canary, Told { is_paused: true, ..Told::default() });
    let sentence = "Probes of www.example A get no answer on node-a, and none on controls.";
    record("controls-failing", Step::Canary, hold(true, sentence));
    let sentence = "169.254.20.10 was asked in the last ten to fifteen minutes on 1 node: node-a (12 times).";
    record("address-in-use", Step::Start, Told { address_in_use: Some(sentence), ..Told::default() });
}

#[test]
fn tiers_whose_roll_out_was_stopped_are_recorded() {
    let rejected = |reason, sentence| Told { rejection: Some((reason, sentence)), ..Told::default() };
    let worse = "SERVFAIL on node-a: 7.1 % of the responses, 0.2 % before, 0.3 points more on 3 controls.";
    assert_recorded("rolling-back", 2, &json!(status_at(Step::RollingBack, rejected("JudgedWorse", worse))));
    for (name, reason, sentence) in [
        ("judged-worse", "JudgedWorse", worse),
        ("revision-refused", "RevisionRefused", "node-a refuses revision 2b3c4d5e6f: zones: it is bad."),
        ("not-in-force", "NotInForce", "1 of 1 pods do not have revision 2b3c4d5e6f in force: node-a."),
        ("pod-crashed", "PodCrashed", "A process of node-a ended after the change."),
        ("wrong-answers", "WrongAnswers", "2 of 3 probes of www.example A on node-a got another answer."),
    ] {
        assert_recorded(name, 2, &json!(status_at(Step::Stopped, rejected(reason, sentence))));
    }
}

#[test]
fn tiers_with_pods_that_do_not_run_with_an_old_definition_and_with_a_contested_field_are_recorded() {
    let mut observed = settled();
    roll_out_template(&mut observed, &["node-pod-a"]);
    let pod = pod_of(&mut observed, "node-pod-a");
    (pod.ready, pod.lifecycle.running) = (false, false);
    pod.waiting_reason = Some("cache-0: ImagePullBackOff".to_owned());
    observed.now = "2026-01-02T00:03:00Z".parse().unwrap();
    assert_recorded("pods-not-running", 1, &json!(reconciled_status(&observed)));
    let observed = settled();
    for (name, reason, sentence) in [
        ("crd-too-old", Reason::CrdTooOld, "The installed CustomResourceDefinition drops status.rollout."),
        ("field-contested", Reason::FieldContested, "The field manager keda-operator sets back spec.replicas."),
    ] {
        let outcome = valid_outcome(&observed, None).with_warning(Some(Finding::new(reason, sentence)));
        assert_recorded(name, 1, &json!(compute(&observed, &settings(), &outcome)));
    }
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
