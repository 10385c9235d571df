use std::sync::Arc;

use dnstier_crds::conditions::Reason;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use node_cache_config::Config;
use node_cache_config::names::ZONE_LABEL;

use super::*;
use crate::controller::fixtures::{
    apply_to, build_desired, change_node_status, change_resolver_status, cluster, deployment_of, linux, pod_of,
    serving, settings,
};
use crate::controller::observe::Observed;
use crate::controller::owned::labels;
use crate::controller::validate::validate;

const EVERYTHING: &str = "
clusterDomain: example.internal
nodeCache:
  instances: 3
  capture: {clusterDns: Enabled, addresses: [169.254.20.11, 'fd00::53']}
  cache: {size: 1.5Gi, maxTtl: 30m, negativeMaxTtl: 10s, serveStale: 0s}
  allowFrom: [10.1.0.0/16]
  privateAnswers: Refuse
  lastResort: {mode: Upstreams, packetsPerSecond: 30}
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
  upstreams: [{addresses: [192.0.2.53], port: 5353, protocol: TCP, packetBudget: {preset: Azure}}]
  fallback:
  - {addresses: [192.0.2.54, 192.0.2.55], port: 5353, packetBudget: {packetsPerSecond: 300}}
  privateSuffixes: [corp.example, zen.blocklist.example]
  cache: {size: 100M}
  resources: {requests: {cpu: '1'}, limits: {cpu: '2'}}
routes:
- suffix: corp.example
  upstreams: [{addresses: [10.0.0.53, 10.0.0.54], packetBudget: {packetsPerSecond: 200, inFlight: 30}}]
";

fn yaml(value: &impl serde::Serialize) -> String {
    serde_saphyr::to_string(value).unwrap()
}

/// Returns the desired state of the second reconciliation, which knows the ClusterIPs of the Services from the first.
fn settled(spec: &str) -> Desired {
    let mut observed = cluster(spec);
    let first = build_desired(&observed);
    apply_to(&mut observed, first);
    build_desired(&observed)
}

fn config(desired: &Desired) -> Config {
    Config::from_json(desired.revision.as_ref().unwrap().json.as_bytes()).unwrap()
}

#[test]
fn an_empty_spec_gives_these_objects() {
    insta::assert_snapshot!(yaml(&settled("{}").objects));
}

#[test]
fn a_spec_that_says_everything_gives_these_objects() {
    insta::assert_snapshot!(yaml(&settled(EVERYTHING).objects));
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
    let desired = build_desired(&cluster("{}"));
    assert!(desired.revision.is_none());
    assert!(desired.objects.daemon_sets.is_empty() && desired.objects.config_maps.is_empty());
    assert_eq!(desired.objects.services.len(), 10);
}

#[test]
fn a_new_zone_joins_the_configuration_once_its_service_has_an_address() {
    let mut observed = serving("{}");
    let before = build_desired(&observed).revision.unwrap().id;
    observed.nodes = ["zone-a", "zone-b", "zone-c", "zone-d"]
        .map(|zone| (format!("node-in-{zone}"), linux([(ZONE_LABEL, zone)])))
        .into_iter()
        .collect();
    let first = build_desired(&observed);
    assert_eq!(first.revision.as_ref().unwrap().id, before, "the others are not kept waiting");
    assert_eq!(first.objects.deployments.len(), 4);
    apply_to(&mut observed, first);
    assert_eq!(config(&build_desired(&observed)).zones.len(), 4);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    assert_eq!(yaml(&settled(EVERYTHING).objects), yaml(&settled(EVERYTHING).objects));
}

#[test]
fn every_object_is_owned_labelled_and_never_blocks_a_deletion() {
    let objects = settled("{}").objects;
    let mut count = 0;
    let mut check = |meta: &ObjectMeta| {
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("DnsTier", "default", Some(true)));
        assert_eq!(owner.block_owner_deletion, None);
        let labels = meta.labels.as_ref().unwrap();
        for key in ["name", "instance", "component", "part-of", "managed-by"] {
            assert!(labels.contains_key(&format!("app.kubernetes.io/{key}")), "{meta:?}");
        }
        count += 1;
    };
    objects.service_accounts.iter().for_each(|object| check(object.meta()));
    objects.network_policies.iter().for_each(|object| check(object.meta()));
    objects.services.iter().for_each(|object| check(object.meta()));
    objects.disruption_budgets.iter().for_each(|object| check(object.meta()));
    objects.config_maps.iter().for_each(|object| check(object.meta()));
    objects.daemon_sets.iter().for_each(|object| check(object.meta()));
    objects.deployments.iter().for_each(|object| check(object.meta()));
    assert_eq!(count, 2 + 1 + 10 + 3 + 2 + 1 + 3);
}

#[test]
fn a_scraper_finds_every_pod_ready_or_not_at_a_port_with_a_name() {
    let objects = settled("nodeCache: {metricsPort: 9400}").objects;
    let is_of_metrics = |service: &&Service| service.labels().get(labels::METRICS).is_some_and(|value| value == "true");
    let found: Vec<_> = objects.services.iter().filter(is_of_metrics).collect();
    let expected = [
        (
            "dnstier-node",
            "dnstier-default-node-cache-metrics",
            9400,
            &objects.daemon_sets[0].spec.as_ref().unwrap().template,
        ),
        (
            "dnstier-system",
            "dnstier-default-zone-resolver-metrics",
            9153,
            &objects.deployments[0].spec.as_ref().unwrap().template,
        ),
    ];
    assert_eq!(found.len(), expected.len());
    for (service, (namespace, name, port, template)) in found.into_iter().zip(expected) {
        assert_eq!((service.namespace().as_deref(), service.name_any().as_str()), (Some(namespace), name));
        let spec = service.spec.as_ref().unwrap();
        assert_eq!((spec.cluster_ip.as_deref(), spec.publish_not_ready_addresses), (Some("None"), Some(true)));
        let ports = spec.ports.as_ref().unwrap();
        assert_eq!((ports.len(), ports[0].name.as_deref(), ports[0].port), (1, Some("metrics"), port));
        assert_eq!(ports[0].target_port, Some(IntOrString::Int(port)));
        let labels = template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
        for (key, value) in spec.selector.as_ref().unwrap() {
            assert_eq!(labels.get(key), Some(value), "{name} selects the pods");
        }
    }
    let policy = objects.network_policies[0].spec.as_ref().unwrap();
    let admitted = policy.ingress.as_ref().unwrap()[0].ports.as_ref().unwrap().iter();
    assert!(admitted.clone().any(|port| port.port == Some(IntOrString::Int(9153))), "the policy admits scrapers");
}

#[test]
fn what_only_the_configuration_says_does_not_touch_the_pods() {
    let templates = |spec: &str| {
        let objects = settled(spec).objects;
        (yaml(&objects.daemon_sets), yaml(&objects.deployments))
    };
    let before = templates("{}");
    for spec in [
        "routes: [{suffix: corp.example, upstreams: [{addresses: [10.0.0.53]}]}]",
        "nodeCache: {cache: {maxTtl: 5m}}",
        "nodeCache: {allowFrom: [10.0.0.0/8]}",
        "nodeCache: {privateAnswers: Refuse}",
        "nodeCache: {lastResort: {mode: Disabled}}",
        "nodeCache: {lastResort: {packetsPerSecond: 7}}",
        "nodeCache: {capture: {addresses: [169.254.20.11]}}",
        "resolvers: {upstreams: [{addresses: [192.0.2.53]}]}",
        "resolvers: {fallback: [{addresses: [192.0.2.54]}], privateSuffixes: [corp.example]}",
    ] {
        assert_eq!(templates(spec), before, "{spec}");
    }
}

#[test]
fn a_zone_that_lost_its_nodes_carries_the_time() {
    let mut observed = serving("{}");
    observed.nodes = [("node-a", linux([(ZONE_LABEL, "zone-a")]))].into_iter().collect();
    let desired = build_desired(&observed);
    let since: Vec<_> = desired
        .objects
        .deployments
        .iter()
        .map(|deployment| deployment.annotations().get(labels::EMPTY_SINCE).cloned())
        .collect();
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
    let first = build_desired(&observed);
    apply_to(&mut observed, first);
    let owned = observed.owned.clone();
    let mut observed = cluster(&spec);
    observed.owned = owned;
    let tier = validate(&observed, &settings()).unwrap();
    let Err(finding) = build(&tier, &settings(), &observed.owned, &BTreeSet::new()) else { panic!("it is refused") };
    assert_eq!(finding.reason, Reason::RevisionTooLarge);
    assert!(finding.message.contains("150 KiB") && finding.message.contains("spec.routes"), "{}", finding.message);
}

/// Makes the caches of a node refuse the revision that they are asked to run.
fn refuse(observed: &mut Observed, pod: &str, running: &str) {
    change_node_status(observed, pod, |status| {
        for revision in status.instances.iter_mut().map(|instance| &mut instance.revision).chain([&mut status.revision])
        {
            revision.in_force = Some(running.to_owned());
            revision.refusal = Some("no".to_owned());
        }
    });
}

/// Applies a spec that captures this address besides, and asks every pod to run its revision.
fn change(observed: &mut Observed, address: usize) -> String {
    let spec = format!("nodeCache: {{capture: {{addresses: [169.254.20.{address}]}}}}");
    Arc::make_mut(&mut observed.tier).spec = serde_saphyr::from_str(&spec).unwrap();
    let desired = build_desired(observed);
    let revision = desired.revision.as_ref().unwrap().id.clone();
    apply_to(observed, desired);
    for pod in &mut observed.pods {
        pod.annotated_revision = Some(revision.clone());
    }
    revision
}

fn has_key(observed: &Observed, revision: &str) -> bool {
    let key = node_cache_config::names::revision_key(revision);
    observed.owned.config_maps.iter().all(|config_map| config_map.data.as_ref().unwrap().contains_key(&key))
}

#[test]
fn the_revision_that_a_pod_runs_after_a_refusal_is_still_there_ten_changes_later() {
    let mut observed = serving("{}");
    let running = observed.pods[0].annotated_revision.clone().unwrap();
    for pod in ["node-pod-b", "node-pod-c"] {
        refuse(&mut observed, pod, "of-no-concern");
    }
    refuse(&mut observed, "node-pod-a", &running);
    for pod in observed.pods.clone().iter().filter(|pod| pod.resolver_zone.is_some()) {
        change_resolver_status(&mut observed, &pod.name, |status| {
            status.instance.revision.in_force = Some("of-no-concern".to_owned());
        });
    }
    let first = change(&mut observed, 30);
    for address in 31..40 {
        change(&mut observed, address);
        assert!(has_key(&observed, &running), "{address}");
    }
    assert!(!has_key(&observed, &first), "nobody runs this one");
}

#[test]
fn no_revision_goes_while_nobody_knows_what_a_pod_runs() {
    let mut observed = serving("{}");
    let running = observed.pods[0].annotated_revision.clone().unwrap();
    observed.reports = Arc::default();
    for address in 30..40 {
        change(&mut observed, address);
    }
    assert!(has_key(&observed, &running));
    for pod in &mut observed.pods {
        pod.ready = false;
    }
    change(&mut observed, 40);
    assert!(!has_key(&observed, &running), "pods that have not started run nothing");
}

/// Returns the zones that the newest configuration names, and those that have resolvers.
fn zones_of(observed: &Observed) -> (Vec<String>, Vec<String>) {
    let desired = build_desired(observed);
    let named = config(&desired).zones.into_iter().map(|zone| zone.name).collect();
    let zone = |deployment: &k8s_openapi::api::apps::v1::Deployment| deployment.labels().get(labels::ZONE).cloned();
    (named, desired.objects.deployments.iter().filter_map(zone).collect())
}

#[test]
fn a_struck_zone_leaves_the_configuration_at_once_and_its_resolvers_go_when_no_pod_runs_a_revision_with_it() {
    let mut observed = serving("resolvers: {zones: [zone-a, zone-b, zone-c]}");
    Arc::make_mut(&mut observed.tier).spec.resolvers.zones.pop();
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let (two, three) = (names(&["zone-a", "zone-b"]), names(&["zone-a", "zone-b", "zone-c"]));
    assert_eq!(zones_of(&observed), (two.clone(), three.clone()));
    let desired = build_desired(&observed);
    let newest = desired.revision.as_ref().unwrap().id.clone();
    apply_to(&mut observed, desired);
    observed.now = "2026-01-03T00:00:00Z".parse().unwrap();
    assert_eq!(zones_of(&observed).1, three, "pods run the revision of before");
    for pod in observed.pods.clone() {
        pod_of(&mut observed, &pod.name).annotated_revision = Some(newest.clone());
        if pod.resolver_zone.is_some() {
            change_resolver_status(&mut observed, &pod.name, |status| {
                status.instance.revision.in_force = Some(newest.clone());
            });
        } else if pod.name != "node-pod-c" {
            refuse(&mut observed, &pod.name, &newest);
        }
    }
    assert_eq!(zones_of(&observed).1, three, "one node still runs it");
    refuse(&mut observed, "node-pod-c", &newest);
    assert_eq!(zones_of(&observed), (two.clone(), two));
}

#[test]
fn a_struck_zone_stays_while_the_revision_that_new_pods_start_with_names_it() {
    let mut observed = serving("resolvers: {zones: [zone-a, zone-b, zone-c]}");
    Arc::make_mut(&mut observed.tier).spec.resolvers.zones.pop();
    observed.pods.clear();
    let long_ago = Some("2026-01-01T00:00:00Z".to_owned());
    let annotations = &mut deployment_of(&mut observed, "zone-c").metadata.annotations;
    *annotations = long_ago.map(|time| [(labels::EMPTY_SINCE.to_owned(), time)].into());
    assert_eq!(zones_of(&observed).1, ["zone-a", "zone-b", "zone-c"]);
    let desired = build_desired(&observed);
    apply_to(&mut observed, desired);
    assert_eq!(zones_of(&observed).1, ["zone-a", "zone-b"]);
}
