//! Configuration of the data plane: one revision, rendered as JSON.

use dnstier_crds::conditions::Reason;
use node_cache_config::{ClusterDns, Config, Invalid, NodeCache, Resolver, Zone, fingerprint};

use crate::controller::desired::services;
use crate::controller::finding::Finding;
use crate::controller::owned::{OwnedObjects, names};
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// Maximum size of a rendered revision in bytes: a ConfigMap holds six of them in less than a mebibyte.
const MAX_REVISION_BYTES: usize = 150 * 1024;

/// Configuration of the data plane, rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RenderedRevision {
    /// Identifier of the revision: the fingerprint of the configuration.
    pub(crate) id: String,
    /// Configuration as JSON.
    pub(crate) json: String,
}

/// Renders the configuration; `None` until the required ClusterIPs are allocated.
///
/// A zone whose Service has no ClusterIP yet is left out and joins a later revision. Zones on their way out are left
/// out too.
///
/// # Errors
///
/// A [`Finding`] when the data plane would refuse the configuration, or when it is too large.
pub(super) fn render(
    tier: &ValidatedTier,
    settings: &Settings,
    existing: &OwnedObjects,
) -> Result<Option<RenderedRevision>, Finding> {
    let shadow_service = existing.service(&tier.cluster_dns.namespace, &names::cluster_dns(&tier.name));
    let bootstrap = services::bootstrap_addresses(shadow_service);
    let staying = tier.zones.iter().filter(|zone| !zone.leaving);
    let zones: Vec<Zone> = staying.filter_map(|zone| zone_config(tier, &zone.name, settings, existing)).collect();
    if bootstrap.is_empty() || zones.is_empty() {
        return Ok(None);
    }
    let config = Config {
        tier: tier.name.clone(),
        cluster_domain: tier.cluster_domain.clone(),
        cluster_dns: ClusterDns {
            bootstrap,
            service: names::service_dns_name(
                &names::cluster_dns_pods(&tier.name),
                &tier.cluster_dns.namespace,
                &tier.cluster_domain,
            ),
        },
        node_cache: NodeCache {
            captured: tier.captured.clone(),
            cache: tier.node_cache.cache.clone(),
            allow_from: tier.node_cache.allow_from.clone(),
            private_answers: tier.node_cache.private_answers,
            last_resort: tier.node_cache.last_resort,
            probes: tier.node_cache.probes.clone(),
        },
        zones,
        resolver: Resolver {
            upstreams: tier.resolvers.upstreams.clone(),
            fallback: tier.resolvers.fallback.clone(),
            private_suffixes: tier.resolvers.private_suffixes.clone(),
            cache: tier.resolvers.cache.clone(),
            allow_from: tier.resolvers.allow_from.clone(),
            packet_budgets: tier.resolvers.packet_budgets.clone(),
        },
        routes: tier.routes.clone(),
    };
    config.validate().map_err(|invalid| invalid_config(&invalid))?;
    serialize(&config).map(Some)
}

/// Returns the configuration of a zone; `None` while its Service has no ClusterIP.
fn zone_config(tier: &ValidatedTier, zone: &str, settings: &Settings, existing: &OwnedObjects) -> Option<Zone> {
    let service = existing.service(&settings.namespace, &names::zone_vip(&tier.name, zone));
    let bootstrap = services::bootstrap_addresses(service);
    if bootstrap.is_empty() {
        return None;
    }
    let headless_service = names::zone(&tier.name, zone);
    Some(Zone {
        name: zone.to_owned(),
        bootstrap,
        service: names::service_dns_name(&headless_service, &settings.namespace, &tier.cluster_domain),
    })
}

fn serialize(config: &Config) -> Result<RenderedRevision, Finding> {
    let json = serde_json::to_string(config).map_err(|error| {
        Finding::new(Reason::RevisionRefused, format!("The configuration cannot be written: {error}."))
    })?;
    if json.len() > MAX_REVISION_BYTES {
        return Err(Finding::new(
            Reason::RevisionTooLarge,
            format!(
                "The configuration has {} KiB, but at most {} KiB reach the pods; use fewer spec.routes.",
                json.len().div_ceil(1024),
                MAX_REVISION_BYTES / 1024
            ),
        ));
    }
    Ok(RenderedRevision { id: fingerprint(config), json })
}

fn invalid_config(invalid: &Invalid) -> Finding {
    let reason = match invalid {
        Invalid::Loop { .. } => Reason::UpstreamLoop,
        _ => Reason::RevisionRefused,
    };
    Finding::new(reason, format!("The pods would refuse the configuration: {invalid}."))
}
