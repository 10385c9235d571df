//! Condition `Stalled`, and outcomes that keep the newest spec from being in force.

use super::*;

#[test]
fn a_refused_spec_stalls_and_says_what_stays_in_force() {
    let observed = settled();
    let outcome = ApplyOutcome::Invalid {
        findings: vec![Finding::new(Reason::ClusterDnsNotFound, "spec.clusterDns: Service a/b does not exist.")],
        active_revision: Some("1a2b3c4d5e".to_owned()),
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
    let status = compute(&observed, &settings(), &ApplyOutcome::Invalid { findings, active_revision: None });
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
    assert_eq!(status.nodes, observed.tier.status.as_ref().and_then(|status| status.nodes));
}

#[test]
fn a_write_that_failed_is_tried_again_and_stalls_nothing() {
    let observed = settled();
    let failed = |reason| valid_outcome(&observed, Some(Finding::new(reason, "cannot apply Service a/b.")));
    let status = compute(&observed, &settings(), &failed(Reason::ApplyFailed));
    assert_condition(&status, "Ready", "False", Reason::ApplyFailed, &[]);
    assert!(condition(&status, "Stalled").is_none());
    let status = compute(&observed, &settings(), &failed(Reason::Forbidden));
    assert_condition(&status, "Stalled", "True", Reason::Forbidden, &["cannot apply"]);
}

#[test]
fn pod_security_comes_with_the_command_that_helps() {
    let mut observed = settled();
    observed.pod_creation_failure = Some(
        "Error creating: pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces".to_owned(),
    );
    let status = reconciled_status(&observed);
    assert_condition(&status, "Stalled", "True", Reason::PodSecurity, &["kubectl label namespace dnstier-node"]);
}
