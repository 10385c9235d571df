use dnstier_crds::conditions::Reason;
use kube::{Resource, ResourceExt};
use node_cache_config::Config;

use super::*;
use crate::controller::apply::drift::{in_place, stamp};
use crate::controller::fixtures::{applied, built, cluster, serving, settings};
use crate::controller::owned::labels;
use crate::controller::validate::validate;

const EVERYTHING: &str = "
clusterDomain: example.internal
nodeCache:
  instances: 3
  capture: {clusterDns: Enabled, addresses: [169.254.20.11, 'fd00::53']}
  cache: {size: 1.5Gi, maxTtl: 30m, negativeMaxTtl: 10s, serveStale: 0s}
  allowFrom: [10.1.0.0/16]
  metricsPort: 9400
  image: mirror.example/node-cache:2
  nodeSelector: {pool: blue}
  tolerations: [{key: dedicated, operator: Exists}]
  priorityClassName: important
  podLabels: {team: dns, app.kubernetes.io/name: other}
  podAnnotations: {note: hello, dnstier.io/revision: forged}
resolvers:
  replicasPerZone: 3
  zones: [zone-a]
  upstreams: [{addresses: [192.0.2.53], port: 5353, protocol: TCP}]
  cache: {size: 100M}
  resources: {requests: {cpu: '1'}, limits: {cpu: '2'}}
routes:
- {suffix: corp.example, upstreams: [{addresses: [10.0.0.53]}]}
";

fn yaml(value: &impl serde::Serialize) -> String {
    serde_saphyr::to_string(value).unwrap()
}

/// Twice built, as in a cluster: the second pass knows the addresses of the Services that the first one made.
fn settled(spec: &str) -> Desired {
    let mut observed = cluster(spec);
    let first = built(&observed).1;
    applied(&mut observed, first);
    built(&observed).1
}

fn config(desired: &Desired) -> Config {
    Config::from_json(desired.revision.as_ref().unwrap().json.as_bytes()).unwrap()
}

#[test]
fn an_empty_spec_gives_these_objects() {
    insta::assert_snapshot!(yaml(&settled("{}").children));
}

#[test]
fn a_spec_that_says_everything_gives_these_objects() {
    insta::assert_snapshot!(yaml(&settled(EVERYTHING).children));
}

#[test]
fn an_empty_spec_gives_this_configuration() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&config(&settled("{}"))).unwrap());
}

#[test]
fn a_spec_that_says_everything_gives_this_configuration() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&config(&settled(EVERYTHING))).unwrap());
}

#[test]
fn without_the_addresses_of_its_services_a_tier_has_no_workload_yet() {
    let desired = built(&cluster("{}")).1;
    assert!(desired.revision.is_none());
    assert!(desired.children.daemon_sets.is_empty() && desired.children.config_maps.is_empty());
    assert_eq!(desired.children.services.len(), 8);
}

#[test]
fn a_new_zone_joins_the_configuration_once_its_service_has_an_address() {
    let mut observed = serving("{}");
    let before = built(&observed).1.revision.unwrap().revision;
    observed.nodes = observed
        .nodes
        .zones()
        .into_keys()
        .chain(["zone-d".to_owned()])
        .map(|zone| (format!("node-in-{zone}"), [("topology.kubernetes.io/zone".to_owned(), zone)].into()))
        .collect();
    let first = built(&observed).1;
    assert_eq!(first.revision.as_ref().unwrap().revision, before, "the others are not kept waiting");
    assert_eq!(first.children.deployments.len(), 4);
    applied(&mut observed, first);
    assert_eq!(config(&built(&observed).1).zones.len(), 4);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    assert_eq!(yaml(&settled(EVERYTHING).children), yaml(&settled(EVERYTHING).children));
}

#[test]
fn a_tier_at_rest_needs_no_write() {
    let observed = serving("{}");
    let desired = built(&observed).1.children;
    for (wanted, existing) in desired.deployments.iter().zip(&observed.children.deployments) {
        let mut wanted = serde_json::to_value(wanted).unwrap();
        let mut existing = serde_json::to_value(existing).unwrap();
        stamp(&mut wanted);
        existing["metadata"]["annotations"] = wanted["metadata"]["annotations"].clone();
        assert!(in_place(&wanted, &existing));
    }
    for (wanted, existing) in desired.config_maps.iter().zip(&observed.children.config_maps) {
        assert_eq!(wanted.data, existing.data);
    }
}

#[test]
fn every_child_is_owned_labelled_and_never_blocks_a_deletion() {
    let children = settled("{}").children;
    let mut count = 0;
    let mut check = |meta: &ObjectMeta| {
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("DnsTier", "default", Some(true)));
        assert_eq!(owner.block_owner_deletion, None);
        let all = meta.labels.as_ref().unwrap();
        for key in ["name", "instance", "component", "part-of", "managed-by"] {
            assert!(all.contains_key(&format!("app.kubernetes.io/{key}")), "{meta:?}");
        }
        count += 1;
    };
    children.service_accounts.iter().for_each(|object| check(object.meta()));
    children.network_policies.iter().for_each(|object| check(object.meta()));
    children.services.iter().for_each(|object| check(object.meta()));
    children.disruption_budgets.iter().for_each(|object| check(object.meta()));
    children.config_maps.iter().for_each(|object| check(object.meta()));
    children.daemon_sets.iter().for_each(|object| check(object.meta()));
    children.deployments.iter().for_each(|object| check(object.meta()));
    assert_eq!(count, 2 + 1 + 8 + 3 + 2 + 1 + 3);
}

#[test]
fn what_only_the_configuration_says_does_not_touch_the_pods() {
    let template = |spec: &str| {
        let children = settled(spec).children;
        (yaml(&children.daemon_sets), yaml(&children.deployments))
    };
    let before = template("{}");
    for spec in [
        "routes: [{suffix: corp.example, upstreams: [{addresses: [10.0.0.53]}]}]",
        "nodeCache: {cache: {maxTtl: 5m}}",
        "nodeCache: {allowFrom: [10.0.0.0/8]}",
        "nodeCache: {capture: {addresses: [169.254.20.11]}}",
        "resolvers: {upstreams: [{addresses: [192.0.2.53]}]}",
    ] {
        assert_eq!(template(spec), before, "{spec}");
    }
}

#[test]
fn a_zone_that_lost_its_nodes_carries_the_time() {
    let mut observed = serving("{}");
    observed.nodes =
        [("node-a", [("topology.kubernetes.io/zone".to_owned(), "zone-a".to_owned())].into())].into_iter().collect();
    let desired = built(&observed).1;
    let since: Vec<_> =
        desired.children.deployments.iter().map(|one| one.annotations().get(labels::EMPTY_SINCE).cloned()).collect();
    let now = Some("2026-01-02T00:00:00Z".to_owned());
    assert_eq!(since, [None, now.clone(), now]);
    assert_eq!(config(&desired).zones.len(), 3, "a zone that may come back changes no configuration");
}

#[test]
fn a_configuration_that_is_too_large_is_refused_with_its_size() {
    let mut spec = String::from("routes:\n");
    for index in 0..250 {
        let suffix = format!("{}.{}.x{index}.example", "a".repeat(60), "b".repeat(60));
        let upstream = |third: u8| {
            let addresses: Vec<String> = (1..=8).map(|last| format!("192.0.{third}.{last}")).collect();
            format!("{{addresses: [{}]}}", addresses.join(", "))
        };
        spec.push_str(&format!("- {{suffix: {suffix}, upstreams: [{}, {}]}}\n", upstream(2), upstream(3)));
    }
    let mut observed = cluster("{}");
    let first = built(&observed).1;
    applied(&mut observed, first);
    let children = observed.children.clone();
    let mut observed = cluster(&spec);
    observed.children = children;
    let tier = validate(&observed, &settings()).unwrap().tier;
    let Err(finding) = build(&tier, &settings(), &observed.children, &[]) else { panic!("it is refused") };
    assert_eq!(finding.reason, Reason::RevisionTooLarge);
    assert!(finding.message.contains("150 KiB") && finding.message.contains("spec.routes"), "{}", finding.message);
}
