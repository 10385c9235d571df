//! The configuration of the data plane.

use std::net::IpAddr;

use dnstier_crds::conditions::Reason;
use ipnet::IpNet;
use node_cache_config::{ClusterDns, Config, Invalid, NodeCache, Resolver, Zone, fingerprint};

use crate::controller::desired::services;
use crate::controller::finding::Finding;
use crate::controller::owned::Children;
use crate::controller::owned::names;
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// The most bytes that a rendered revision may have: a ConfigMap holds six of them and less than a mebibyte.
pub(super) const MOST_BYTES: usize = 150 * 1024;

/// A configuration as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Its name.
    pub revision: String,
    /// Its text.
    pub json: String,
}

/// Renders the configuration, or nothing while addresses that it needs are not known.
///
/// A zone whose Service has no ClusterIP yet is left out; it is in the next revision.
///
/// # Errors
///
/// A [`Finding`] when the data plane would refuse it or it is too large.
pub(super) fn render(
    tier: &ValidatedTier,
    settings: &Settings,
    existing: &Children,
) -> Result<Option<Rendered>, Finding> {
    let twin = existing.service(&tier.cluster_dns.namespace, &names::cluster_dns(&tier.name));
    let bootstrap = services::bootstrap(twin);
    let zones: Vec<Zone> = tier.zones.iter().filter_map(|zone| found(tier, &zone.name, settings, existing)).collect();
    if bootstrap.is_empty() || zones.is_empty() {
        return Ok(None);
    }
    let config = Config {
        tier: tier.name.clone(),
        cluster_domain: tier.cluster_domain.clone(),
        cluster_dns: ClusterDns {
            bootstrap,
            service: names::in_cluster(
                &names::cluster_dns_pods(&tier.name),
                &tier.cluster_dns.namespace,
                &tier.cluster_domain,
            ),
        },
        node_cache: NodeCache {
            captured: tier.captured.clone(),
            cache: tier.node_cache.cache.clone(),
            allow_from: tier.node_cache.allow_from.clone(),
        },
        zones,
        resolver: Resolver {
            upstreams: tier.resolvers.upstreams.clone(),
            cache: tier.resolvers.cache.clone(),
            allow_from: tier.resolvers.allow_from.clone(),
        },
        routes: tier.routes.clone(),
    };
    config.validate().map_err(|invalid| refusal(&invalid))?;
    written(&config).map(Some)
}

fn found(tier: &ValidatedTier, zone: &str, settings: &Settings, existing: &Children) -> Option<Zone> {
    let service = existing.service(&settings.namespace, &names::zone_vip(&tier.name, zone));
    let bootstrap = services::bootstrap(service);
    if bootstrap.is_empty() {
        return None;
    }
    Some(Zone {
        name: zone.to_owned(),
        bootstrap,
        service: names::in_cluster(&names::zone(&tier.name, zone), &settings.namespace, &tier.cluster_domain),
    })
}

fn written(config: &Config) -> Result<Rendered, Finding> {
    let json = serde_json::to_string(config).map_err(|error| {
        Finding::new(Reason::RevisionRefused, format!("The configuration cannot be written: {error}."))
    })?;
    if json.len() > MOST_BYTES {
        return Err(Finding::new(
            Reason::RevisionTooLarge,
            format!(
                "The configuration has {} KiB, but at most {} KiB reach the pods; use fewer spec.routes.",
                json.len().div_ceil(1024),
                MOST_BYTES / 1024
            ),
        ));
    }
    Ok(Rendered { revision: fingerprint(config), json })
}

fn refusal(invalid: &Invalid) -> Finding {
    let reason = match invalid {
        Invalid::Loop { .. } => Reason::UpstreamLoop,
        _ => Reason::RevisionRefused,
    };
    Finding::new(reason, format!("The pods would refuse the configuration: {invalid}."))
}

/// Private, shared, unique local, link-local and loopback networks: who may ask where nobody said.
#[must_use]
pub fn private_networks() -> Vec<IpNet> {
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
    .filter_map(|(address, length)| IpNet::new(address, length).ok())
    .collect()
}
