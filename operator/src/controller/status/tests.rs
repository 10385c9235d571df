use std::sync::Arc;

use dnstier_crds::conditions::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use node_cache_config::status::{CaptureState, UpstreamStatus};

use super::*;
use crate::controller::fixtures::{applied, built, cluster, deployment_of, says, serving, settings};
use crate::controller::observe::poll::Answer;

/// A pass over the cluster: what the operator would write into the status.
fn pass(observed: &Observed) -> DnsTierStatus {
    let (validated, desired) = built(observed);
    let outcome = Outcome::Built {
        tier: Box::new(validated.tier),
        revision: desired.revision.map(|revision| revision.revision),
        written: 0,
        failure: None,
    };
    assess(observed, &settings(), &outcome)
}

/// The same cluster after a first pass whose status was written.
fn after(mut observed: Observed, status: DnsTierStatus) -> Observed {
    let tier = Arc::make_mut(&mut observed.tier);
    tier.status = Some(status);
    observed
}

fn settled() -> Observed {
    let observed = serving("{}");
    let status = pass(&observed);
    after(observed, status)
}

fn condition<'a>(status: &'a DnsTierStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

#[track_caller]
fn is(status: &DnsTierStatus, type_: &str, truth: &str, reason: Reason, parts: &[&str]) {
    let condition = condition(status, type_).unwrap_or_else(|| panic!("no {type_} in {:?}", status.conditions));
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), (truth, reason.name()), "{condition:?}");
    for part in parts {
        assert!(condition.message.contains(part), "{part:?} is not in {:?}", condition.message);
    }
}

#[test]
fn a_tier_that_serves_says_so_in_every_column() {
    let status = pass(&settled());
    is(&status, "Ready", "True", Reason::Serving, &["3 nodes", "6 resolvers in 3 zones"]);
    is(&status, "Progressing", "False", Reason::Settled, &[]);
    is(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert!(condition(&status, "Reconciling").is_none() && condition(&status, "Stalled").is_none());
    let summary = status.summary.unwrap();
    assert_eq!((summary.ready.as_str(), summary.resolvers.as_str(), summary.updated.as_str()), ("3/3", "6/6", "3/3"));
    assert_eq!(summary.zones, 3);
    let revision = status.revision.unwrap();
    assert!(revision.current.is_some() && revision.current == revision.target);
}

#[test]
fn a_second_pass_writes_the_very_same_status() {
    let mut observed = settled();
    let first = pass(&observed);
    observed.now = "2026-01-03T00:00:00Z".parse().unwrap();
    let observed = after(observed, first.clone());
    assert_eq!(pass(&observed), first);
}

#[test]
fn a_tier_that_was_just_made_is_starting() {
    let mut observed = cluster("{}");
    let status = pass(&observed);
    is(&status, "Ready", "False", Reason::Starting, &[]);
    is(&status, "Reconciling", "True", Reason::Starting, &[]);
    is(&status, "Degraded", "False", Reason::Healthy, &[]);
    let first = built(&observed).1;
    applied(&mut observed, first);
    is(&pass(&observed), "Ready", "False", Reason::Starting, &[]);
}

#[test]
fn a_node_that_stops_answering_is_named() {
    let mut observed = settled();
    observed.pods[0].ready = false;
    observed.pods[0].waiting = Some("agent: CrashLoopBackOff".to_owned());
    let status = pass(&observed);
    is(&status, "Ready", "False", Reason::NodesNotReady, &["1 of 3 nodes", "node-a (agent: CrashLoopBackOff)"]);
    is(&status, "Degraded", "True", Reason::NodesNotReady, &["node-a"]);
    assert_eq!(status.summary.unwrap().ready, "2/3");
}

#[test]
fn a_node_whose_address_is_withdrawn_does_not_count_as_ready() {
    let mut observed = settled();
    says(&mut observed, "node-pod-b", |answer| {
        let Answer::Node(status) = answer else { return };
        status.captured[0].state = CaptureState::Withdrawn;
        status.captured[0].reason = Some("the self-query failed".to_owned());
    });
    let status = pass(&observed);
    is(&status, "Ready", "False", Reason::NodesNotReady, &["node-b (10.96.0.10: the self-query failed)"]);
}

#[test]
fn an_address_of_somebody_else_is_named_with_its_node() {
    let mut observed = settled();
    says(&mut observed, "node-pod-c", |answer| {
        let Answer::Node(status) = answer else { return };
        status.captured[2].state = CaptureState::Foreign;
    });
    is(&pass(&observed), "Degraded", "True", Reason::AddressForeign, &["169.254.20.10 on node-c"]);
}

#[test]
fn a_refused_revision_is_told_with_the_sentence_of_the_process() {
    let mut observed = settled();
    says(&mut observed, "node-pod-a", |answer| {
        let Answer::Node(status) = answer else { return };
        status.instances[1].revision.in_force = Some("older".to_owned());
        status.instances[1].revision.refusal = Some("routes[0].suffix: no name.".to_owned());
    });
    let status = pass(&observed);
    is(&status, "Degraded", "True", Reason::RevisionRefused, &["Refused by node-a: routes[0].suffix: no name."]);
    is(&status, "Ready", "True", Reason::Serving, &[]);
    is(&status, "Progressing", "True", Reason::RollingOut, &["1 of 3 nodes"]);
    assert_eq!(status.summary.unwrap().updated, "2/3");
}

fn upstream(scope: &str, address: &str, healthy: bool) -> UpstreamStatus {
    UpstreamStatus { scope: scope.to_owned(), address: address.parse().unwrap(), healthy, sent: 10, timeouts: 3 }
}

#[test]
fn a_dead_upstream_is_a_condition_and_never_unreadiness() {
    let mut observed = settled();
    for pod in ["resolver-a-0", "resolver-a-1", "resolver-b-0", "resolver-b-1"] {
        let healthy = pod.starts_with("resolver-b");
        says(&mut observed, pod, |answer| {
            let Answer::Resolver(status) = answer else { return };
            status.instance.upstreams = vec![upstream("forward", "192.0.2.53:53", healthy)];
        });
    }
    let status = pass(&observed);
    is(&status, "Degraded", "True", Reason::UpstreamUnreachable, &["192.0.2.53:53", "zone-a"]);
    assert!(!condition(&status, "Degraded").unwrap().message.contains("zone-b"));
    is(&status, "Ready", "True", Reason::Serving, &[]);
    assert!(status.summary.unwrap().message.contains("192.0.2.53:53"));
}

#[test]
fn one_dead_server_of_a_group_is_no_dead_group() {
    let mut observed = settled();
    for pod in ["node-pod-a", "node-pod-b", "node-pod-c"] {
        says(&mut observed, pod, |answer| {
            let Answer::Node(status) = answer else { return };
            status.instances[0].upstreams =
                vec![upstream("cluster", "10.0.0.1:53", false), upstream("cluster", "10.0.0.2:53", true)];
        });
    }
    is(&pass(&observed), "Degraded", "False", Reason::Healthy, &[]);
    for pod in ["node-pod-a", "node-pod-b"] {
        says(&mut observed, pod, |answer| {
            let Answer::Node(status) = answer else { return };
            status.instances[0].upstreams[1].healthy = false;
        });
    }
    is(&pass(&observed), "Degraded", "True", Reason::UpstreamUnreachable, &["cluster DNS", "node-a and node-b"]);
}

#[test]
fn a_zone_without_a_ready_resolver_is_named_and_then_none_at_all() {
    let mut observed = settled();
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = None;
    let status = pass(&observed);
    is(&status, "Ready", "False", Reason::ResolversNotReady, &["zone-b", "other zones"]);
    assert_eq!(status.summary.unwrap().resolvers, "4/6");
    for zone in ["zone-a", "zone-c"] {
        deployment_of(&mut observed, zone).status.as_mut().unwrap().ready_replicas = None;
    }
    is(&pass(&observed), "Ready", "False", Reason::NoResolvers, &["memory"]);
}

#[test]
fn a_zone_that_misses_one_of_two_resolvers_is_degraded_and_ready() {
    let mut observed = settled();
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = Some(1);
    let status = pass(&observed);
    is(&status, "Ready", "True", Reason::Serving, &[]);
    is(&status, "Degraded", "True", Reason::ResolversNotReady, &["zone-b (1 of 2)"]);
}

#[test]
fn a_template_that_is_being_rolled_out_is_progress_and_no_trouble() {
    let mut observed = settled();
    let daemon_set = observed.children.daemon_sets[0].status.as_mut().unwrap();
    daemon_set.updated_number_scheduled = Some(1);
    observed.pods[0].ready = false;
    let status = pass(&observed);
    is(&status, "Ready", "False", Reason::RollingOut, &["node-a"]);
    is(&status, "Progressing", "True", Reason::RollingOut, &["2 of 3 nodes"]);
    is(&status, "Degraded", "False", Reason::Healthy, &[]);
    let revision = status.revision.unwrap();
    assert!(revision.current.is_some(), "what was everywhere once is not forgotten");
}

#[test]
fn a_template_that_nobody_has_looked_at_yet_is_not_taken_for_done() {
    let mut observed = settled();
    observed.children.daemon_sets[0].metadata.generation = Some(2);
    is(&pass(&observed), "Reconciling", "True", Reason::RollingOut, &[]);
}

#[test]
fn a_refused_spec_stalls_and_says_what_stays_in_force() {
    let observed = settled();
    let outcome = Outcome::Refused {
        findings: vec![Finding::new(Reason::ClusterDnsNotFound, "spec.clusterDns: Service a/b does not exist.")],
        in_force: Some("1a2b3c4d5e".to_owned()),
    };
    let status = assess(&observed, &settings(), &outcome);
    for type_ in ["Ready", "Progressing"] {
        is(&status, type_, "False", Reason::ClusterDnsNotFound, &["does not exist", "1a2b3c4d5e stays in force"]);
    }
    for type_ in ["Degraded", "Stalled"] {
        is(&status, type_, "True", Reason::ClusterDnsNotFound, &[]);
    }
    assert!(condition(&status, "Reconciling").is_none());
    assert_eq!(status.summary.unwrap().ready, "3/3", "it serves all the same");
}

#[test]
fn a_tier_that_was_refused_before_it_ever_ran_says_only_why() {
    let observed = cluster("{}");
    let findings = vec![Finding::new(Reason::AddressTaken, "taken.")];
    let status = assess(&observed, &settings(), &Outcome::Refused { findings, in_force: None });
    is(&status, "Ready", "False", Reason::AddressTaken, &[]);
    assert_eq!(condition(&status, "Ready").map(|ready| ready.message.as_str()), Some("taken."));
}

#[test]
fn a_cluster_that_may_not_be_read_leaves_the_counters_and_says_why() {
    let observed = settled();
    let finding = Finding::new(Reason::Forbidden, "The operator cannot list services.");
    let status = unreadable(&observed.tier, &finding, observed.now);
    is(&status, "Ready", "Unknown", Reason::Forbidden, &["cannot list"]);
    is(&status, "Stalled", "True", Reason::Forbidden, &[]);
    assert_eq!(status.nodes, observed.tier.status.as_ref().and_then(|status| status.nodes));
}

#[test]
fn a_pod_that_is_on_its_way_out_leaves_a_gap_that_is_told() {
    let mut observed = settled();
    observed.pods[0].leaving = true;
    is(&pass(&observed), "Ready", "False", Reason::NodesNotReady, &["1 of 3 nodes", "1 without a pod"]);
}

#[test]
fn a_write_that_failed_is_tried_again_and_stalls_nothing() {
    let observed = settled();
    let (validated, desired) = built(&observed);
    let failure = |reason| Outcome::Built {
        tier: Box::new(validated.tier.clone()),
        revision: desired.revision.as_ref().map(|revision| revision.revision.clone()),
        written: 0,
        failure: Some(Finding::new(reason, "cannot apply Service a/b.")),
    };
    let status = assess(&observed, &settings(), &failure(Reason::ApplyFailed));
    is(&status, "Ready", "False", Reason::ApplyFailed, &[]);
    assert!(condition(&status, "Stalled").is_none());
    let status = assess(&observed, &settings(), &failure(Reason::Forbidden));
    is(&status, "Stalled", "True", Reason::Forbidden, &["cannot apply"]);
}

#[test]
fn pod_security_comes_with_the_command_that_helps() {
    let mut observed = settled();
    observed.creation_failure = Some(
        "Error creating: pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces".to_owned(),
    );
    let status = pass(&observed);
    is(&status, "Stalled", "True", Reason::PodSecurity, &["kubectl label namespace dnstier-node"]);
}

#[test]
fn a_ready_pod_that_does_not_say_how_it_is_is_told_after_two_tries() {
    let mut observed = settled();
    let before = observed.reports["uid-of-node-pod-a"].clone();
    let silent = |failures| {
        let mut report = before.clone();
        (report.failures, report.silence) = (failures, Some("no answer within 2 s".to_owned()));
        report
    };
    Arc::make_mut(&mut observed.reports).insert("uid-of-node-pod-a".to_owned(), silent(1));
    is(&pass(&observed), "Degraded", "False", Reason::Healthy, &[]);
    Arc::make_mut(&mut observed.reports).insert("uid-of-node-pod-a".to_owned(), silent(2));
    let status = pass(&observed);
    is(&status, "Degraded", "True", Reason::StatusUnknown, &["node-a (no answer within 2 s)"]);
    assert_eq!(status.summary.unwrap().updated, "3/3", "what it had in force it has still");
}

#[test]
fn a_named_zone_without_nodes_is_degraded() {
    let observed = serving("resolvers: {zones: [zone-a, zone-b, zone-c, zone-x]}");
    let status = pass(&observed);
    let observed = after(observed, status);
    is(&pass(&observed), "Degraded", "True", Reason::ZoneWithoutNodes, &["zone-x"]);
}
