use std::collections::BTreeMap;

use dnstier_crds::v1alpha1::DnsTierSpec;
use node_cache_config::{CaseRandomization, LastResort, UpstreamSource};

use super::*;
use crate::controller::fixtures::{change_node_status, cluster, kube_dns, pod_of, serving, settings, tier};
use crate::controller::observe::ClusterDnsLookup;
use crate::controller::observe::unreadable::UnreadableTier;

/// Asserts that validation fails with exactly one finding, of this reason and with these parts in its message.
#[track_caller]
fn assert_only_finding(observed: &Observed, reason: Reason, parts: &[&str]) {
    let findings = validate(observed, &settings()).expect_err("findings");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].reason, reason);
    for part in parts {
        assert!(findings[0].message.contains(part), "{part} is not in {}", findings[0].message);
    }
}

#[test]
fn an_empty_spec_is_a_working_tier() {
    let validated = validate(&cluster("{}"), &settings()).unwrap();
    let addresses: Vec<String> = validated.captured.iter().map(|captured| captured.address.to_string()).collect();
    assert_eq!(addresses, ["10.96.0.10", "fd00:96::a", "169.254.20.10"]);
    assert_eq!(validated.captured.iter().filter(|captured| captured.service).count(), 2);
    assert_eq!(validated.zones.len(), 3);
    assert_eq!(validated.resolvers.upstreams, UpstreamSource::ResolvConf);
    assert_eq!(validated.warnings, []);
}

#[test]
fn the_fixtures_empty_spec_is_the_default_one() {
    assert_eq!(cluster("{}").tier.spec, DnsTierSpec::default());
}

#[test]
fn a_cluster_dns_that_is_not_there_is_named() {
    let mut observed = cluster("clusterDns: {namespace: dns, name: corp-dns}");
    observed.cluster_dns = ClusterDnsLookup::NotFound;
    assert_only_finding(&observed, Reason::ClusterDnsNotFound, &["spec.clusterDns", "dns/corp-dns"]);
}

#[test]
fn a_cluster_dns_that_cannot_be_shadowed_says_what_it_lacks() {
    let mut observed = cluster("{}");
    let changed = |change: fn(&mut k8s_openapi::api::core::v1::ServiceSpec)| {
        let mut service = kube_dns();
        change(service.spec.get_or_insert_default());
        ClusterDnsLookup::Found(Box::new(service))
    };
    observed.cluster_dns = changed(|spec| {
        spec.cluster_ip = Some("None".to_owned());
        spec.cluster_ips = Some(vec!["None".to_owned()]);
    });
    assert_only_finding(&observed, Reason::ClusterDnsUnusable, &["ClusterIP"]);
    observed.cluster_dns = changed(|spec| spec.selector = None);
    assert_only_finding(&observed, Reason::ClusterDnsUnusable, &["selector"]);
    observed.cluster_dns = changed(|spec| {
        spec.ports.get_or_insert_default().remove(0);
    });
    assert_only_finding(&observed, Reason::ClusterDnsUnusable, &["port 53"]);
}

#[test]
fn a_service_that_may_not_be_read_is_a_finding_and_no_crash() {
    let mut observed = cluster("{}");
    observed.cluster_dns = ClusterDnsLookup::Forbidden(Finding::new(Reason::Forbidden, "no."));
    assert_only_finding(&observed, Reason::Forbidden, &["no."]);
}

#[test]
fn shadow_services_keep_the_target_ports_of_the_original() {
    let tier = validate(&cluster("{}"), &settings()).unwrap();
    let targets: Vec<_> = tier.cluster_dns.ports.iter().map(|port| port.target_port.clone()).collect();
    let original = kube_dns().spec.unwrap().ports.unwrap();
    assert_eq!(targets, [original[0].target_port.clone(), original[1].target_port.clone()]);
}

#[test]
fn the_younger_of_two_tiers_gives_way() {
    let mut observed = cluster("nodeCache: {metricsPort: 9400}");
    observed.other_tiers = vec![tier("older", "2025-01-01T00:00:00Z", "{}")];
    assert_only_finding(&observed, Reason::AddressTaken, &["older", "169.254.20.10", "ClusterIPs", "nodeSelector"]);
    observed.other_tiers = vec![tier("younger", "2026-06-01T00:00:00Z", "{}")];
    assert!(validate(&observed, &settings()).is_ok());
}

#[test]
fn tiers_of_the_same_second_are_ordered_by_name() {
    let mut observed = cluster("{}");
    observed.other_tiers = vec![tier("aaa", "2026-01-01T00:00:00Z", "{}")];
    assert!(validate(&observed, &settings()).is_err());
    observed.other_tiers = vec![tier("zzz", "2026-01-01T00:00:00Z", "{}")];
    assert!(validate(&observed, &settings()).is_ok());
}

#[test]
fn tiers_on_disjoint_nodes_may_capture_the_same_addresses() {
    let mut observed = cluster("nodeCache: {nodeSelector: {pool: blue}}");
    observed.other_tiers = vec![tier("older", "2025-01-01T00:00:00Z", "nodeCache: {nodeSelector: {pool: green}}")];
    assert!(validate(&observed, &settings()).is_ok());
    observed.other_tiers = vec![tier("older", "2025-01-01T00:00:00Z", "nodeCache: {nodeSelector: {disk: fast}}")];
    assert!(validate(&observed, &settings()).is_err(), "a node may carry both labels");
}

#[test]
fn an_older_tier_that_cannot_be_read_keeps_what_its_pods_use() {
    let mut observed = cluster("nodeCache: {nodeSelector: {pool: blue}}");
    let older = UnreadableTier {
        name: "older".to_owned(),
        created: Some("2025-01-01T00:00:00Z".parse().unwrap()),
        captured: vec!["169.254.20.10".parse().unwrap()],
        metrics_port: Some(9353),
        node_selector: BTreeMap::from([("disk".to_owned(), "fast".to_owned())]),
    };
    observed.unreadable_tiers = vec![older.clone()];
    let parts = ["older", "cannot read", "169.254.20.10 and port 9353", "nodeSelector"];
    assert_only_finding(&observed, Reason::AddressTaken, &parts);
    let green = BTreeMap::from([("pool".to_owned(), "green".to_owned())]);
    let elsewhere = UnreadableTier { node_selector: green, ..older.clone() };
    let younger = UnreadableTier { created: Some("2026-06-01T00:00:00Z".parse().unwrap()), ..older.clone() };
    let without_pods = UnreadableTier { captured: Vec::new(), metrics_port: None, ..older };
    observed.unreadable_tiers = vec![elsewhere, younger, without_pods];
    assert!(validate(&observed, &settings()).is_ok());
}

#[test]
fn tiers_with_different_addresses_still_need_different_ports() {
    let mut observed = cluster("nodeCache: {capture: {addresses: [169.254.20.11]}}");
    observed.other_tiers = vec![tier("older", "2025-01-01T00:00:00Z", "{}")];
    assert_only_finding(&observed, Reason::AddressTaken, &["metricsPort", "9353"]);
}

#[test]
fn an_upstream_that_is_the_captured_cluster_ip_is_a_loop() {
    let observed = cluster("resolvers: {upstreams: [{addresses: [192.0.2.1, 10.96.0.10]}]}");
    assert_only_finding(&observed, Reason::UpstreamLoop, &["spec.resolvers.upstreams[0]", "10.96.0.10"]);
    let observed = cluster("resolvers: {fallback: [{addresses: [192.0.2.1]}, {addresses: ['fd00:96::a']}]}");
    assert_only_finding(&observed, Reason::UpstreamLoop, &["spec.resolvers.fallback[1]", "fd00:96::a"]);
    let observed = cluster("routes: [{suffix: corp.example, upstreams: [{addresses: ['fd00:96::a']}]}]");
    assert_only_finding(&observed, Reason::UpstreamLoop, &["spec.routes[corp.example]", "fd00:96::a"]);
}

#[test]
fn the_cluster_ip_is_a_fine_upstream_where_it_is_not_captured() {
    let observed = cluster(
        "nodeCache: {capture: {addresses: [169.254.20.10]}}\nresolvers: {upstreams: [{addresses: [10.96.0.10]}]}",
    );
    assert!(validate(&observed, &settings()).is_ok());
}

#[test]
fn a_named_zone_without_nodes_is_a_warning_and_the_others_are_built() {
    let tier = validate(&cluster("resolvers: {zones: [zone-a, zone-x]}"), &settings()).unwrap();
    assert_eq!(tier.zones.len(), 1);
    assert_eq!(tier.warnings[0].reason, Reason::ZoneWithoutNodes);
    assert!(tier.warnings[0].message.contains("zone-x"));
}

#[test]
fn nodes_are_never_shut_out_of_their_own_resolvers() {
    let tier = validate(&cluster("nodeCache: {allowFrom: [203.0.113.0/24]}"), &settings()).unwrap();
    assert_eq!(tier.node_cache.allow_from, ["203.0.113.0/24".parse().unwrap()]);
    assert!(tier.resolvers.allow_from.contains(&"10.0.0.0/8".parse().unwrap()));
    assert!(tier.resolvers.allow_from.contains(&"203.0.113.0/24".parse().unwrap()));
}

#[test]
fn an_upstream_whose_case_is_not_randomized_is_one_in_every_list_and_the_others_are_randomized() {
    let spec = "{resolvers: {upstreams: [{addresses: [192.0.2.1], caseRandomization: Disabled}, \
                {addresses: [192.0.2.2]}]}, routes: [{suffix: corp.example, upstreams: [{addresses: [192.0.2.3], \
                caseRandomization: Disabled}, {addresses: [192.0.2.4], caseRandomization: Enabled}]}]}";
    let tier = validate(&cluster(spec), &settings()).unwrap();
    let UpstreamSource::Servers(servers) = tier.resolvers.upstreams else { panic!("servers") };
    for servers in [&servers, &tier.routes[0].upstreams] {
        let used: Vec<_> = servers.iter().map(|server| server.case_randomization).collect();
        assert_eq!(used, [CaseRandomization::Disabled, CaseRandomization::Enabled]);
    }
}

#[test]
fn every_server_of_an_upstream_is_asked_in_the_order_written() {
    let spec = "resolvers: {upstreams: [{addresses: [192.0.2.2, 192.0.2.1], port: 5353, protocol: TCP}, \
                {addresses: [192.0.2.3]}]}";
    let tier = validate(&cluster(spec), &settings()).unwrap();
    let UpstreamSource::Servers(servers) = tier.resolvers.upstreams else { panic!("servers") };
    let servers: Vec<String> =
        servers.iter().map(|server| format!("{} {:?}", server.address, server.protocol)).collect();
    assert_eq!(servers, ["192.0.2.2:5353 Tcp", "192.0.2.1:5353 Tcp", "192.0.2.3:53 Udp"]);
}

#[test]
fn every_server_of_the_fallback_comes_in_the_order_written_and_each_private_suffix_with_it() {
    let spec = "resolvers: {fallback: [{addresses: [192.0.2.2, 192.0.2.1], port: 5353, protocol: TCP}, \
                {addresses: [192.0.2.3], caseRandomization: Disabled}], privateSuffixes: [corp.example, intern]}";
    let tier = validate(&cluster(spec), &settings()).unwrap();
    let servers: Vec<String> = tier
        .resolvers
        .fallback
        .iter()
        .map(|server| format!("{} {:?} {:?}", server.address, server.protocol, server.case_randomization))
        .collect();
    assert_eq!(servers, ["192.0.2.2:5353 Tcp Enabled", "192.0.2.1:5353 Tcp Enabled", "192.0.2.3:53 Udp Disabled"]);
    assert_eq!(tier.resolvers.private_suffixes, ["corp.example", "intern"]);
    assert_eq!(tier.resolvers.upstreams, UpstreamSource::ResolvConf);
}

#[test]
fn the_last_resort_of_a_tier_that_says_nothing_is_the_default_of_the_configuration() {
    let last_resort = |spec: &str| validate(&cluster(spec), &settings()).unwrap().node_cache.last_resort;
    assert_eq!(last_resort("{}"), LastResort::default());
    let expected = LastResort::Upstreams { packets_per_second: 7, instances: 3 };
    assert_eq!(last_resort("nodeCache: {instances: 3, lastResort: {packetsPerSecond: 7}}"), expected);
    assert_eq!(last_resort("nodeCache: {lastResort: {mode: Disabled}}"), LastResort::Disabled);
}

#[test]
fn a_zone_is_in_use_while_nodes_run_a_revision_that_names_it_however_old_that_of_the_resolvers_is() {
    let mut observed = serving("{}");
    let zones = |observed: &Observed| Vec::from_iter(zones_in_use(observed));
    assert_eq!(zones(&observed), ["zone-a", "zone-b", "zone-c"]);
    for config_map in &mut observed.owned.config_maps {
        let data = config_map.data.as_mut().unwrap();
        for key in ["newer.json", "stable.json"] {
            data.insert(key.to_owned(), r#"{"zones": [{"name": "zone-a"}]}"#.to_owned());
        }
    }
    for letter in ["a", "b", "c"] {
        assert_eq!(zones(&observed).len(), 3);
        let pod = format!("node-pod-{letter}");
        pod_of(&mut observed, &pod).annotated_revision = Some("newer".to_owned());
        change_node_status(&mut observed, &pod, |status| {
            status.revision.in_force = Some("newer".to_owned());
            for instance in &mut status.instances {
                instance.revision.in_force = Some("newer".to_owned());
            }
        });
    }
    assert_eq!(zones(&observed), ["zone-a"]);
}
