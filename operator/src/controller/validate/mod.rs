//! A spec and what is known of the cluster in; a tier that can be built out, or sentences that say why not.
//!
//! Whatever the API server could know was refused by it; here is what only the cluster knows.

pub mod tier;
pub mod zones;

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

use crate::controller::desired::{private_networks, services};
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::owned::labels;
use crate::controller::validate::tier::{ClusterDns, NodeCache, Resolvers, ValidatedTier};
use crate::settings::Settings;

/// What is known of a tier that can be built.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The tier.
    pub tier: ValidatedTier,
    /// When the next zone is given up.
    pub next_prune: Option<std::time::Duration>,
}

/// Validates a tier against the cluster.
///
/// # Errors
///
/// Everything that keeps it from being built; never empty.
pub fn validate(observed: &Observed, settings: &Settings) -> Result<Validated, Vec<Finding>> {
    let tier = &*observed.tier;
    let spec = &tier.spec;
    let (cluster_ips, cluster_dns) = cluster_dns(observed).map_err(|finding| vec![finding])?;
    let captured = captured(&spec.node_cache.capture, &cluster_ips);
    let mut wrong = taken(tier, &observed.others);
    wrong.extend(loops(tier, &captured));
    let Some(owner) = tier.controller_owner_ref(&()).filter(|_| wrong.is_empty()) else {
        return Err(wrong);
    };
    let plan = zones::plan(
        &observed.nodes,
        &spec.resolvers.zones,
        &spec.resolvers.pod.node_selector,
        &standing_zones(observed),
        observed.now,
        settings.zone_prune_delay,
    );
    let allow_from = allowed(&spec.node_cache.allow_from);
    let tier = ValidatedTier {
        name: tier.name_any(),
        owner,
        cluster_domain: spec.cluster_domain.clone(),
        cluster_dns,
        captured,
        node_cache: NodeCache {
            instances: u32::from(spec.node_cache.instances),
            cache_size: spec.node_cache.cache_size().bytes(),
            cache: cache(&spec.node_cache.cache),
            allow_from: allow_from.clone(),
            metrics_port: spec.node_cache.metrics_port,
            pods: spec.node_cache.pod.clone(),
        },
        resolvers: Resolvers {
            replicas_per_zone: i32::from(spec.resolvers.replicas_per_zone),
            cache_size: spec.resolvers.cache_size().bytes(),
            cache: cache(&spec.resolvers.cache),
            allow_from: with_private_networks(allow_from),
            upstreams: upstream_source(&spec.resolvers),
            pods: spec.resolvers.pod.clone(),
        },
        routes: spec.routes.iter().map(route).collect(),
        warnings: zone_warnings(&plan),
        zones: plan.zones,
    };
    Ok(Validated { tier, next_prune: plan.next_prune })
}

/// The ClusterIPs of the cluster DNS Service and what its twins need of it.
fn cluster_dns(observed: &Observed) -> Result<(Vec<IpAddr>, ClusterDns), Finding> {
    let reference = &observed.tier.spec.cluster_dns;
    let named = format!("spec.clusterDns: Service {}/{}", reference.namespace, reference.name);
    let unusable = |what: &str| Finding::new(Reason::ClusterDnsUnusable, format!("{named} {what}."));
    let service = observed.cluster_dns.as_ref().map_err(Clone::clone)?.as_ref().ok_or_else(|| {
        let message = format!("{named} does not exist; name the Service whose ClusterIP pods have in resolv.conf.");
        Finding::new(Reason::ClusterDnsNotFound, message)
    })?;
    let spec = service.spec.as_ref();
    let cluster_ips = services::cluster_ips(Some(service));
    if cluster_ips.is_empty() {
        return Err(unusable("has no ClusterIP; name one that has, not a headless or external one"));
    }
    let Some(selector) = spec.and_then(|spec| spec.selector.clone()).filter(|selector| !selector.is_empty()) else {
        return Err(unusable("has no selector, so that the pods behind it cannot be found"));
    };
    let (Some(udp), Some(tcp)) = (dns_port(service, "UDP", UDP_PORT_NAME), dns_port(service, "TCP", TCP_PORT_NAME))
    else {
        return Err(unusable("has no port 53 for both UDP and TCP"));
    };
    let twin = ClusterDns { namespace: reference.namespace.clone(), selector, ports: vec![udp, tcp] };
    Ok((cluster_ips, twin))
}

fn dns_port(service: &Service, protocol: &str, name: &str) -> Option<ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let found = ports
        .iter()
        .find(|port| port.port == i32::from(DNS_PORT) && port.protocol.as_deref().unwrap_or("TCP") == protocol)?;
    Some(ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: found.port,
        target_port: found.target_port.clone(),
        ..ServicePort::default()
    })
}

fn captured(capture: &api::Capture, cluster_ips: &[IpAddr]) -> Vec<Captured> {
    let services = if capture.takes_cluster_dns() { cluster_ips } else { &[] };
    let mut captured: Vec<Captured> =
        services.iter().map(|address| Captured { address: *address, service: true }).collect();
    for address in &capture.addresses {
        if !services.contains(address) {
            captured.push(Captured { address: *address, service: false });
        }
    }
    captured
}

/// What older tiers have on nodes that this one may run on too.
fn taken(tier: &DnsTier, others: &[DnsTier]) -> Vec<Finding> {
    let mine = &tier.spec.node_cache;
    let mut older: Vec<&DnsTier> = others
        .iter()
        .filter(|other| is_older(other, tier) && may_share_a_node(&other.spec.node_cache.pod, &mine.pod))
        .collect();
    older.sort_by_key(|other| other.name_any());
    let mut findings = Vec::new();
    for other in older {
        let theirs = &other.spec.node_cache;
        let name = other.name_any();
        let advice = "keep the two on disjoint nodes by spec.nodeCache.nodeSelector, or";
        let mut shared: BTreeSet<String> = mine
            .capture
            .addresses
            .iter()
            .filter(|address| theirs.capture.addresses.contains(address))
            .map(ToString::to_string)
            .collect();
        let both_take_it = mine.capture.takes_cluster_dns() && theirs.capture.takes_cluster_dns();
        if both_take_it && tier.spec.cluster_dns == other.spec.cluster_dns {
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
        if mine.metrics_port == theirs.metrics_port {
            findings.push(Finding::new(
                Reason::AddressTaken,
                format!(
                    "spec.nodeCache.metricsPort: the older tier {name} uses port {} on the same nodes; {advice} name \
                     another port.",
                    mine.metrics_port
                ),
            ));
        }
    }
    findings
}

fn is_older(other: &DnsTier, tier: &DnsTier) -> bool {
    let age = |tier: &DnsTier| (tier.creation_timestamp().map(|time| time.0), tier.name_any());
    age(other) < age(tier)
}

/// Two sets of nodes are known to be disjoint only when both ask for the same label with different values.
fn may_share_a_node(one: &PodSettings, other: &PodSettings) -> bool {
    !one.node_selector
        .iter()
        .any(|(key, value)| other.node_selector.get(key).is_some_and(|different| different != value))
}

/// Upstreams whose questions would come back, because nodes capture their address.
fn loops(tier: &DnsTier, captured: &[Captured]) -> Vec<Finding> {
    let own = tier.spec.resolvers.upstreams.iter().enumerate();
    let mut named: Vec<(String, &api::Upstream)> =
        own.map(|(index, upstream)| (format!("spec.resolvers.upstreams[{index}]"), upstream)).collect();
    for route in &tier.spec.routes {
        named.extend(route.upstreams.iter().map(|upstream| (format!("spec.routes[{}]", route.suffix), upstream)));
    }
    named
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

/// Zones that have resolvers, with the time since when no node names them.
fn standing_zones(observed: &Observed) -> BTreeMap<String, Option<String>> {
    observed
        .children
        .deployments
        .iter()
        .filter_map(|deployment| {
            let zone = deployment.labels().get(labels::ZONE)?.clone();
            Some((zone, deployment.annotations().get(labels::EMPTY_SINCE).cloned()))
        })
        .collect()
}

fn zone_warnings(plan: &zones::Plan) -> Vec<Finding> {
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

fn cache(cache: &api::Cache) -> Cache {
    Cache {
        max_ttl: cache.max_ttl.seconds(),
        negative_max_ttl: cache.negative_max_ttl.seconds(),
        serve_stale: cache.serve_stale.seconds(),
    }
}

fn allowed(given: &[IpNet]) -> Vec<IpNet> {
    if given.is_empty() { private_networks() } else { given.to_vec() }
}

/// Zone resolvers are asked by node caches, whose addresses are those of nodes and not those of pods: a list that
/// names pods alone would shut the tier's own nodes out.
fn with_private_networks(mut networks: Vec<IpNet>) -> Vec<IpNet> {
    for network in private_networks() {
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks
}

fn upstream_source(resolvers: &api::Resolvers) -> UpstreamSource {
    match resolvers.mode {
        api::Mode::Forward if resolvers.upstreams.is_empty() => UpstreamSource::ResolvConf,
        api::Mode::Forward => UpstreamSource::Servers(servers(&resolvers.upstreams)),
    }
}

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

#[cfg(test)]
mod tests;
