//! Validate: checks a spec against the state of the cluster and resolves it to a [`ValidatedTier`], or to findings.
//!
//! The API server has already refused everything that a spec alone shows to be invalid.

mod allow_from;
mod cluster_dns;
mod conflicts;
#[cfg(test)]
mod tests;
pub(crate) mod tier;
mod upstreams;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1 as api;
use kube::{Resource, ResourceExt};
use node_cache_config::names::{STABLE_REVISION, revision_key};
use node_cache_config::probes::ProbeName;
use node_cache_config::{Cache, Captured, LastResort, PrivateAnswers};
use serde::Deserialize;

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::owned::{cluster_ips, labels};
use crate::controller::placement::{Placement, nodes_by_zone};
use crate::controller::rollout::NodePods;
use crate::controller::text::{join_some, zone_text};
use crate::controller::validate::allow_from::{allow_from_or_default, with_private_networks};
use crate::controller::validate::cluster_dns::{cluster_dns, cluster_dns_service};
use crate::controller::validate::conflicts::{conflicts_with_older_tiers, conflicts_with_unreadable_tiers};
use crate::controller::validate::tier::{NodeCache, Resolvers, ValidatedTier};
use crate::controller::validate::upstreams::{packet_budgets, route, servers, upstream_loops, upstream_source};
use crate::controller::validate::zones::{DeployedZone, ZonePlan, plan_zones};
use crate::settings::Settings;

/// Packets a second that a node sends to its last resort, where a tier names none.
const LAST_RESORT_PACKETS_PER_SECOND: u32 = 100;

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
    findings.extend(conflicts_with_unreadable_tiers(tier, &captured, &observed.unreadable_tiers));
    findings.extend(upstream_loops(tier, &captured));
    let Some(owner) = tier.controller_owner_ref(&()).filter(|_| findings.is_empty()) else {
        return Err(findings);
    };
    let placement = Placement::of_resolvers(&spec.resolvers.pod, settings);
    let plan = plan_zones(
        &nodes_by_zone(&observed.nodes, &placement),
        &spec.resolvers.zones,
        &deployed_zones(observed),
        &zones_in_use(observed),
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
            private_answers: private_answers(spec.node_cache.private_answers),
            last_resort: last_resort(&spec.node_cache),
            probes: spec.rollout.probes.iter().map(|probe| ProbeName::new(&probe.name, probe.type_.name())).collect(),
            metrics_port: spec.node_cache.metrics_port,
            max_unavailable: NodePods::collect(observed, settings).map_or(1, |pods| pods.max_unavailable()),
            pods: spec.node_cache.pod.clone(),
        },
        resolvers: Resolvers {
            replicas_per_zone: i32::from(spec.resolvers.replicas_per_zone),
            cache_size: spec.resolvers.cache_size().bytes(),
            cache: cache_bounds(&spec.resolvers.cache),
            allow_from: with_private_networks(allow_from),
            upstreams: upstream_source(&spec.resolvers),
            fallback: servers(&spec.resolvers.fallback),
            private_suffixes: spec.resolvers.private_suffixes.clone(),
            packet_budgets: packet_budgets(
                spec.resolvers.upstreams.iter().chain(&spec.resolvers.fallback),
                u32::from(spec.resolvers.replicas_per_zone),
            ),
            pods: spec.resolvers.pod.clone(),
        },
        routes: spec.routes.iter().map(|each| route(each, u32::from(spec.node_cache.instances))).collect(),
        warnings: zone_warnings(&plan),
        zones: plan.zones,
        next_prune: plan.next_prune,
    })
}

/// Returns the zones that have a Deployment.
fn deployed_zones(observed: &Observed) -> BTreeMap<String, DeployedZone> {
    observed
        .owned
        .deployments
        .iter()
        .filter_map(|deployment| {
            let zone = deployment.labels().get(labels::ZONE)?.clone();
            let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
            let empty_since = deployment.annotations().get(labels::EMPTY_SINCE).cloned();
            Some((zone, DeployedZone { empty_since, has_ready_resolver: ready > 0 }))
        })
        .collect()
}

/// Returns the zones that revisions in use by nodes name, and the revision with which new pods start.
fn zones_in_use(observed: &Observed) -> BTreeSet<String> {
    /// Part of a revision.
    #[derive(Deserialize)]
    struct Revision {
        zones: Vec<Zone>,
    }
    /// Part of a zone of a revision.
    #[derive(Deserialize)]
    struct Zone {
        name: String,
    }
    let mut keys: BTreeSet<String> =
        observed.node_revisions_in_use().iter().map(|revision| revision_key(revision)).collect();
    keys.insert(revision_key(STABLE_REVISION));
    let entries = observed.owned.config_maps.iter().filter_map(|config_map| config_map.data.as_ref()).flatten();
    entries
        .filter(|(key, _)| keys.contains(*key))
        .filter_map(|(_, json)| serde_json::from_str::<Revision>(json).ok())
        .flat_map(|revision| revision.zones.into_iter().map(|zone| zone.name))
        .collect()
}

fn zone_warnings(plan: &ZonePlan) -> Vec<Finding> {
    let mut warnings = Vec::new();
    if !plan.without_nodes.is_empty() {
        warnings.push(Finding::new(
            Reason::ZoneWithoutNodes,
            format!(
                "spec.resolvers.zones: no Linux node has the label topology.kubernetes.io/zone={}; name zones that \
                 have nodes.",
                plan.without_nodes.join(" or ")
            ),
        ));
    }
    for (zone, obstacles) in &plan.without_hosts {
        warnings.push(Finding::new(
            Reason::ZoneWithoutNodes,
            format!(
                "No node of {} may run a resolver: {}; look at spec.resolvers.tolerations, nodeSelector and affinity.",
                zone_text(zone),
                join_some(obstacles)
            ),
        ));
    }
    warnings
}

fn cache_bounds(cache: &api::Cache) -> Cache {
    Cache {
        max_ttl: cache.max_ttl.seconds(),
        negative_max_ttl: cache.negative_max_ttl.seconds(),
        serve_stale: cache.serve_stale.seconds(),
    }
}

const fn private_answers(private_answers: api::PrivateAnswers) -> PrivateAnswers {
    match private_answers {
        api::PrivateAnswers::Allow => PrivateAnswers::Allow,
        api::PrivateAnswers::Refuse => PrivateAnswers::Refuse,
    }
}

/// Returns the last resort of each cache of a node. The rate is that of a node.
fn last_resort(node_cache: &api::NodeCache) -> LastResort {
    let api::LastResort { mode, packets_per_second } = &node_cache.last_resort;
    match mode {
        api::LastResortMode::Upstreams => LastResort::Upstreams {
            packets_per_second: packets_per_second.unwrap_or(LAST_RESORT_PACKETS_PER_SECOND),
            instances: u32::from(node_cache.instances),
        },
        api::LastResortMode::Disabled => LastResort::Disabled,
    }
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
