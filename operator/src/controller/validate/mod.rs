//! Validate: checks a spec against the state of the cluster and resolves it to a [`ValidatedTier`], or to findings.
//!
//! The API server has already refused everything that a spec alone shows to be invalid.

#[cfg(test)]
mod tests;
pub(crate) mod tier;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1::{self as api, PodSettings};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::{Resource, ResourceExt};
use node_cache_config::names::{DNS_PORT, TCP_PORT_NAME, UDP_PORT_NAME};
use node_cache_config::{Cache, Captured, Protocol, Route, Upstream, UpstreamSource};

use crate::controller::finding::Finding;
use crate::controller::observe::{ClusterDnsLookup, Observed};
use crate::controller::owned::{cluster_ips, labels};
use crate::controller::validate::tier::{ClusterDns, NodeCache, Resolvers, ValidatedTier};
use crate::controller::validate::zones::{ZonePlan, plan_zones};
use crate::settings::Settings;

/// Validates a tier against the state of the cluster.
///
/// # Errors
///
/// All findings that keep the tier from being applied; never empty.
pub(crate) fn validate(observed: &Observed, settings: &Settings) -> Result<ValidatedTier, Vec<Finding>> {
    let tier = &*observed.tier;
    let spec = &tier.spec;
    let service = cluster_dns_service(observed).map_err(|finding| vec![finding])?;
    let cluster_dns = cluster_dns(observed, service).map_err(|finding| vec![finding])?;
    let captured = captured_addresses(&spec.node_cache.capture, &cluster_ips(service));
    let mut findings = conflicts_with_older_tiers(tier, &observed.other_tiers);
    findings.extend(upstream_loops(tier, &captured));
    let Some(owner) = tier.controller_owner_ref(&()).filter(|_| findings.is_empty()) else {
        return Err(findings);
    };
    let plan = plan_zones(
        &observed.nodes,
        &spec.resolvers.zones,
        &spec.resolvers.pod.node_selector,
        &deployed_zones(observed),
        observed.now,
        settings.zone_prune_delay,
    );
    let allow_from = allow_from_or_default(&spec.node_cache.allow_from);
    Ok(ValidatedTier {
        name: tier.name_any(),
        owner,
        cluster_domain: spec.cluster_domain.clone(),
        cluster_dns,
        captured,
        node_cache: NodeCache {
            instances: u32::from(spec.node_cache.instances),
            cache_size: spec.node_cache.cache_size().bytes(),
            cache: cache_bounds(&spec.node_cache.cache),
            allow_from: allow_from.clone(),
            metrics_port: spec.node_cache.metrics_port,
            pods: spec.node_cache.pod.clone(),
        },
        resolvers: Resolvers {
            replicas_per_zone: i32::from(spec.resolvers.replicas_per_zone),
            cache_size: spec.resolvers.cache_size().bytes(),
            cache: cache_bounds(&spec.resolvers.cache),
            allow_from: with_private_networks(allow_from),
            upstreams: upstream_source(&spec.resolvers),
            pods: spec.resolvers.pod.clone(),
        },
        routes: spec.routes.iter().map(route).collect(),
        warnings: zone_warnings(&plan),
        zones: plan.zones,
        next_prune: plan.next_prune,
    })
}

/// Returns the cluster DNS Service.
fn cluster_dns_service(observed: &Observed) -> Result<&Service, Finding> {
    match &observed.cluster_dns {
        ClusterDnsLookup::Found(service) => Ok(service),
        ClusterDnsLookup::Forbidden(finding) => Err(finding.clone()),
        ClusterDnsLookup::NotFound => Err(Finding::new(
            Reason::ClusterDnsNotFound,
            format!(
                "{} does not exist; name the Service whose ClusterIP pods have in resolv.conf.",
                cluster_dns_field(observed)
            ),
        )),
    }
}

/// Returns the fields of the cluster DNS Service that its shadow Services copy.
fn cluster_dns(observed: &Observed, service: &Service) -> Result<ClusterDns, Finding> {
    let unusable =
        |problem: &str| Finding::new(Reason::ClusterDnsUnusable, format!("{} {problem}.", cluster_dns_field(observed)));
    if cluster_ips(service).is_empty() {
        return Err(unusable("has no ClusterIP; name one that has, not a headless or external one"));
    }
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
        return Err(unusable("has no selector, so that the pods behind it cannot be found"));
    };
    let udp = dns_port(service, "UDP", UDP_PORT_NAME);
    let tcp = dns_port(service, "TCP", TCP_PORT_NAME);
    let (Some(udp), Some(tcp)) = (udp, tcp) else {
        return Err(unusable("has no port 53 for both UDP and TCP"));
    };
    Ok(ClusterDns { namespace: observed.tier.spec.cluster_dns.namespace.clone(), selector, ports: vec![udp, tcp] })
}

/// Returns the field and the Service that a finding about the cluster DNS names.
fn cluster_dns_field(observed: &Observed) -> String {
    let reference = &observed.tier.spec.cluster_dns;
    format!("spec.clusterDns: Service {}/{}", reference.namespace, reference.name)
}

/// Returns port 53 of a Service for one protocol, under the name of a tier's Services.
fn dns_port(service: &Service, protocol: &str, name: &str) -> Option<ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports
        .iter()
        .find(|port| port.port == i32::from(DNS_PORT) && port.protocol.as_deref().unwrap_or("TCP") == protocol)?;
    Some(ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: port.port,
        target_port: port.target_port.clone(),
        ..ServicePort::default()
    })
}

/// Returns the addresses to capture, each once: the ClusterIPs of the cluster DNS, then those of the spec.
fn captured_addresses(capture: &api::Capture, cluster_ips: &[IpAddr]) -> Vec<Captured> {
    let cluster_ips = if capture.takes_cluster_dns() { cluster_ips } else { &[] };
    let mut captured: Vec<Captured> =
        cluster_ips.iter().map(|address| Captured { address: *address, service: true }).collect();
    for address in &capture.addresses {
        if !cluster_ips.contains(address) {
            captured.push(Captured { address: *address, service: false });
        }
    }
    captured
}

/// Finds the addresses and ports that an older tier uses on nodes which both tiers may run on.
fn conflicts_with_older_tiers(tier: &DnsTier, other_tiers: &[DnsTier]) -> Vec<Finding> {
    let own = &tier.spec.node_cache;
    let mut older_tiers: Vec<&DnsTier> = other_tiers
        .iter()
        .filter(|other| is_older(other, tier) && may_share_a_node(&other.spec.node_cache.pod, &own.pod))
        .collect();
    older_tiers.sort_by_key(|other| other.name_any());
    let mut findings = Vec::new();
    for older_tier in older_tiers {
        let older = &older_tier.spec.node_cache;
        let name = older_tier.name_any();
        let advice = "keep the two on disjoint nodes by spec.nodeCache.nodeSelector, or";
        let mut shared: BTreeSet<String> = own
            .capture
            .addresses
            .iter()
            .filter(|address| older.capture.addresses.contains(address))
            .map(ToString::to_string)
            .collect();
        let both_capture_cluster_dns = own.capture.takes_cluster_dns() && older.capture.takes_cluster_dns();
        if both_capture_cluster_dns && tier.spec.cluster_dns == older_tier.spec.cluster_dns {
            shared.insert("the ClusterIPs of the cluster DNS".to_owned());
        }
        if !shared.is_empty() {
            let shared: Vec<String> = shared.into_iter().collect();
            findings.push(Finding::new(
                Reason::AddressTaken,
                format!(
                    "spec.nodeCache.capture: the older tier {name} captures {} on the same nodes; {advice} capture \
                     other addresses.",
                    shared.join(", ")
                ),
            ));
        }
        if own.metrics_port == older.metrics_port {
            findings.push(Finding::new(
                Reason::AddressTaken,
                format!(
                    "spec.nodeCache.metricsPort: the older tier {name} uses port {} on the same nodes; {advice} name \
                     another port.",
                    own.metrics_port
                ),
            ));
        }
    }
    findings
}

/// Returns whether `other` was created before `tier`. Tiers of the same second are ordered by name.
fn is_older(other: &DnsTier, tier: &DnsTier) -> bool {
    let age = |tier: &DnsTier| (tier.creation_timestamp().map(|time| time.0), tier.name_any());
    age(other) < age(tier)
}

/// Returns whether pods of both settings may run on one node. Node selectors are known to be disjoint only when they
/// require different values of one label.
fn may_share_a_node(one: &PodSettings, other: &PodSettings) -> bool {
    !one.node_selector
        .iter()
        .any(|(key, value)| other.node_selector.get(key).is_some_and(|other_value| other_value != value))
}

/// Finds upstreams whose queries would return to the tier, because nodes capture their address.
fn upstream_loops(tier: &DnsTier, captured: &[Captured]) -> Vec<Finding> {
    let default_upstreams = tier.spec.resolvers.upstreams.iter().enumerate();
    let mut upstreams_by_field: Vec<(String, &api::Upstream)> =
        default_upstreams.map(|(index, upstream)| (format!("spec.resolvers.upstreams[{index}]"), upstream)).collect();
    for route in &tier.spec.routes {
        let upstreams = route.upstreams.iter();
        upstreams_by_field.extend(upstreams.map(|upstream| (format!("spec.routes[{}]", route.suffix), upstream)));
    }
    upstreams_by_field
        .into_iter()
        .flat_map(|(field, upstream)| upstream.addresses.iter().map(move |address| (field.clone(), *address)))
        .filter(|(_, address)| captured.iter().any(|captured| captured.address == *address))
        .map(|(field, address)| {
            Finding::new(
                Reason::UpstreamLoop,
                format!(
                    "{field}: {address} is an address that this tier captures, so its questions would come back; name \
                     the server behind it."
                ),
            )
        })
        .collect()
}

/// Returns the zones that have a Deployment, with the time (RFC 3339) since which they have no node.
fn deployed_zones(observed: &Observed) -> BTreeMap<String, Option<String>> {
    observed
        .owned
        .deployments
        .iter()
        .filter_map(|deployment| {
            let zone = deployment.labels().get(labels::ZONE)?.clone();
            Some((zone, deployment.annotations().get(labels::EMPTY_SINCE).cloned()))
        })
        .collect()
}

fn zone_warnings(plan: &ZonePlan) -> Vec<Finding> {
    if plan.without_nodes.is_empty() {
        return Vec::new();
    }
    vec![Finding::new(
        Reason::ZoneWithoutNodes,
        format!(
            "spec.resolvers.zones: no Node has the label topology.kubernetes.io/zone={}; name zones that have nodes.",
            plan.without_nodes.join(" or ")
        ),
    )]
}

fn cache_bounds(cache: &api::Cache) -> Cache {
    Cache {
        max_ttl: cache.max_ttl.seconds(),
        negative_max_ttl: cache.negative_max_ttl.seconds(),
        serve_stale: cache.serve_stale.seconds(),
    }
}

fn allow_from_or_default(networks: &[IpNet]) -> Vec<IpNet> {
    if networks.is_empty() { private_networks() } else { networks.to_vec() }
}

/// Adds the private networks to a list of permitted clients.
///
/// The clients of zone resolvers are node caches, whose addresses are those of nodes, not of pods: a list of pod
/// networks alone would deny the tier's own nodes.
fn with_private_networks(mut networks: Vec<IpNet>) -> Vec<IpNet> {
    for network in private_networks() {
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks
}

/// Returns the private, shared, unique local, link-local and loopback networks: the clients that are permitted by
/// default.
#[must_use]
fn private_networks() -> Vec<IpNet> {
    [
        (IpAddr::from([10, 0, 0, 0]), 8),
        (IpAddr::from([100, 64, 0, 0]), 10),
        (IpAddr::from([127, 0, 0, 0]), 8),
        (IpAddr::from([169, 254, 0, 0]), 16),
        (IpAddr::from([172, 16, 0, 0]), 12),
        (IpAddr::from([192, 168, 0, 0]), 16),
        (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), 128),
        (IpAddr::from([0xfc00, 0, 0, 0, 0, 0, 0, 0_u16]), 7),
        (IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 0_u16]), 10),
    ]
    .into_iter()
    .filter_map(|(address, prefix_len)| IpNet::new(address, prefix_len).ok())
    .collect()
}

fn upstream_source(resolvers: &api::Resolvers) -> UpstreamSource {
    match resolvers.mode {
        api::Mode::Forward if resolvers.upstreams.is_empty() => UpstreamSource::ResolvConf,
        api::Mode::Forward => UpstreamSource::Servers(servers(&resolvers.upstreams)),
    }
}

/// Returns every address of the upstreams as a server, in the order of the spec.
fn servers(upstreams: &[api::Upstream]) -> Vec<Upstream> {
    let protocol = |protocol| match protocol {
        api::Protocol::Udp => Protocol::Udp,
        api::Protocol::Tcp => Protocol::Tcp,
    };
    upstreams
        .iter()
        .flat_map(|upstream| {
            upstream.servers().map(|address| Upstream { address, protocol: protocol(upstream.protocol) })
        })
        .collect()
}

fn route(route: &api::Route) -> Route {
    Route { suffix: route.suffix.clone(), upstreams: servers(&route.upstreams) }
}
