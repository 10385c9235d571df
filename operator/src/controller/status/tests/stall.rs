//! Condition `Stalled`, and outcomes that keep the newest spec from being in force.

use k8s_openapi::api::apps::v1::DeploymentCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::*;
use crate::controller::fixtures::deployment_of;
use crate::controller::observe::creation_failure::CreationFailure;

#[test]
fn a_refused_spec_stalls_and_says_what_stays_in_force() {
    let observed = settled();
    let outcome = ApplyOutcome::Invalid {
        findings: vec![Finding::new(Reason::ClusterDnsNotFound, "spec.clusterDns: Service a/b does not exist.")],
        rollout: Some(rolled_out("1a2b3c4d5e")),
    };
    let status = compute(&observed, &settings(), &outcome);
    for type_ in ["Ready", "Progressing"] {
        assert_condition(
            &status,
            type_,
            "False",
            Reason::ClusterDnsNotFound,
            &["does not exist", "1a2b3c4d5e stays in force"],
        );
    }
    for type_ in ["Degraded", "Stalled"] {
        assert_condition(&status, type_, "True", Reason::ClusterDnsNotFound, &[]);
    }
    assert!(condition(&status, "Reconciling").is_none());
    assert_eq!(status.summary.unwrap().ready, "3/3", "it serves all the same");
}

#[test]
fn a_tier_that_was_refused_before_it_ever_ran_says_only_why() {
    let observed = cluster("{}");
    let findings = vec![Finding::new(Reason::AddressTaken, "taken.")];
    let status = compute(&observed, &settings(), &ApplyOutcome::Invalid { findings, rollout: None });
    assert_condition(&status, "Ready", "False", Reason::AddressTaken, &[]);
    assert_eq!(condition(&status, "Ready").map(|ready| ready.message.as_str()), Some("taken."));
}

#[test]
fn a_cluster_that_may_not_be_read_leaves_the_counters_and_says_why() {
    let observed = settled();
    let finding = Finding::new(Reason::Forbidden, "The operator cannot list services.");
    let status = compute_unreadable(&observed.tier, &finding, observed.now);
    assert_condition(&status, "Ready", "Unknown", Reason::Forbidden, &["cannot list"]);
    assert_condition(&status, "Stalled", "True", Reason::Forbidden, &[]);
    assert_eq!(status.nodes, observed.tier.status.as_ref().and_then(|status| status.nodes.clone()));
}

#[test]
fn a_write_that_failed_is_tried_again_and_stalls_nothing() {
    let observed = settled();
    let failed = |reason| valid_outcome(&observed, Some(Finding::new(reason, "cannot apply Service a/b.")));
    let status = compute(&observed, &settings(), &failed(Reason::ApplyFailed));
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    assert_condition(&status, "Degraded", "True", Reason::ApplyFailed, &["cannot apply"]);
    assert!(condition(&status, "Stalled").is_none());
    // What the spec asks for is not in force.
    assert_condition(&status, "Progressing", "True", Reason::ApplyFailed, &["cannot apply"]);
    assert_condition(&status, "Reconciling", "True", Reason::ApplyFailed, &["cannot apply"]);
    let status = compute(&observed, &settings(), &failed(Reason::Forbidden));
    assert_condition(&status, "Stalled", "True", Reason::Forbidden, &["cannot apply"]);
    assert_condition(&status, "Ready", "False", Reason::Forbidden, &["cannot apply"]);
}

#[test]
fn a_write_that_failed_keeps_a_tier_from_its_first_readiness_and_tells_why_nodes_do_not_answer() {
    let unready = |observed: &Observed, parts: &[&str]| {
        let failure = Finding::new(Reason::ApplyFailed, "cannot apply Service a/b.");
        let status = compute(observed, &settings(), &valid_outcome(observed, Some(failure)));
        assert_condition(&status, "Ready", "False", Reason::ApplyFailed, parts);
    };
    let mut never_ready = settled();
    Arc::make_mut(&mut never_ready.tier).status = None;
    unready(&never_ready, &["cannot apply"]);

    let mut silent = settled();
    silent.pods[0].ready = false;
    unready(&silent, &["cannot apply", "1 of 3 nodes do not answer"]);

    let mut without_caches = settled();
    without_caches.owned.daemon_sets.clear();
    unready(&without_caches, &["cannot apply"]);
}

/// Returns a settled cluster in which node pods cannot be created for so long.
fn without_node_pods(message: &str, seconds: i64) -> Observed {
    let mut observed = settled();
    let since = observed.now - SignedDuration::from_secs(seconds);
    observed.pod_creation_failure = Some(CreationFailure { message: format!("Error creating: {message}"), since });
    observed
}

#[test]
fn node_pods_that_a_webhook_refuses_stall_their_tier_after_five_minutes() {
    let message = "admission webhook \"pods.example\" denied the request: no.";
    let parts = ["Node pods cannot be created", "admission webhook \"pods.example\" denied the request: no."];
    let status = reconciled_status(&without_node_pods(message, 299));
    for type_ in ["Degraded", "Progressing", "Reconciling"] {
        assert_condition(&status, type_, "True", Reason::ApplyFailed, &parts);
    }
    assert!(condition(&status, "Stalled").is_none());
    let status = reconciled_status(&without_node_pods(message, 300));
    for type_ in ["Degraded", "Stalled"] {
        assert_condition(&status, type_, "True", Reason::PodsNotRunning, &parts);
    }
    assert_condition(&status, "Progressing", "False", Reason::PodsNotRunning, &parts);
    assert!(condition(&status, "Reconciling").is_none());
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
}

#[test]
fn pod_security_comes_with_the_command_that_helps() {
    let message = "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces";
    let observed = without_node_pods(message, 0);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Stalled", "True", Reason::PodSecurity, &["kubectl label namespace dnstier-node"]);
}

#[test]
fn a_missing_quota_for_critical_pods_is_named_with_the_namespace_and_what_helps() {
    let refusal = "pods \"x\" is forbidden: insufficient quota to match these scopes: [{PriorityClass In \
                   [system-node-critical system-cluster-critical]}]";
    let observed = without_node_pods(refusal, 0);
    let parts =
        ["Node pods", "namespace dnstier-node", "resourceQuota.enabled", "kubectl -n dnstier-node create quota"];
    assert_condition(&reconciled_status(&observed), "Stalled", "True", Reason::QuotaMissing, &parts);

    let mut observed = settled();
    let failure = DeploymentCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        message: Some(refusal.to_owned()),
        ..DeploymentCondition::default()
    };
    let deployment = deployment_of(&mut observed, "zone-b");
    deployment.status.as_mut().unwrap().conditions = Some(vec![failure]);
    let parts = ["Resolvers of zone-b", "namespace dnstier-system", "kubectl -n dnstier-system create quota"];
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::QuotaMissing, &parts);
}

#[test]
fn resolvers_that_cannot_be_created_stall_their_tier_after_five_minutes() {
    let mut observed = settled();
    let failure = |since: Timestamp| DeploymentCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        message: Some("pods \"x\" is forbidden: exceeded quota: small, used: pods=5".to_owned()),
        last_transition_time: Some(Time(since)),
        ..DeploymentCondition::default()
    };
    for (seconds, is_stalled) in [(299, false), (300, true)] {
        let since = observed.now - SignedDuration::from_secs(seconds);
        let deployment = deployment_of(&mut observed, "zone-b");
        let status = deployment.status.as_mut().unwrap();
        status.conditions = Some(vec![failure(since)]);
        status.updated_replicas = Some(0);
        let status = reconciled_status(&observed);
        let parts = ["Resolvers of zone-b cannot be created", "exceeded quota: small"];
        assert_condition(&status, "Degraded", "True", Reason::Forbidden, &parts);
        let (type_, reason) =
            if is_stalled { ("Stalled", Reason::Forbidden) } else { ("Reconciling", Reason::RollingOut) };
        assert_condition(&status, type_, "True", reason, &[]);
        assert_eq!(condition(&status, "Reconciling").is_none(), is_stalled, "after {seconds} s");
    }
}

#[test]
fn a_quota_that_is_used_up_is_not_taken_for_a_missing_one() {
    let observed = without_node_pods("pods \"x\" is forbidden: exceeded quota: small, used: pods=5", 0);
    assert_condition(&reconciled_status(&observed), "Stalled", "True", Reason::Forbidden, &["exceeded quota: small"]);
}
