//! Services of the zones, and the twins through which the cluster DNS is reached past its captured address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use node_cache_config::names::{DNS_PORT, RESOLVER_DNS_PORT, TCP_PORT_NAME, UDP_PORT_NAME};

use crate::controller::desired::child_meta;
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::{ValidatedTier, Zone};
use crate::settings::Settings;

/// A zone's two Services: the headless one names its pods, the other one is there before any pod is known.
#[must_use]
pub fn of_zone(tier: &ValidatedTier, zone: &Zone, settings: &Settings) -> [Service; 2] {
    let ports = [("UDP", UDP_PORT_NAME), ("TCP", TCP_PORT_NAME)].map(|(protocol, name)| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: i32::from(DNS_PORT),
        target_port: Some(IntOrString::Int(i32::from(RESOLVER_DNS_PORT))),
        ..ServicePort::default()
    });
    pair(
        tier,
        &settings.namespace,
        names::zone(&tier.name, &zone.name),
        names::zone_vip(&tier.name, &zone.name),
        &labels::of_zone(&tier.name, &zone.name),
        &labels::zone_selector(&tier.name, &zone.name),
        &ports,
    )
}

/// The twins of the cluster DNS Service: same namespace, selector and ports.
#[must_use]
pub fn twins(tier: &ValidatedTier) -> [Service; 2] {
    pair(
        tier,
        &tier.cluster_dns.namespace,
        names::cluster_dns_pods(&tier.name),
        names::cluster_dns(&tier.name),
        &labels::of(&tier.name, labels::COMPONENT_CLUSTER_DNS),
        &tier.cluster_dns.selector,
        &tier.cluster_dns.ports,
    )
}

/// Where a Service's ClusterIPs answer DNS; empty while it has none.
#[must_use]
pub fn bootstrap(service: Option<&Service>) -> Vec<SocketAddr> {
    cluster_ips(service).into_iter().map(|address| SocketAddr::new(address, DNS_PORT)).collect()
}

/// The ClusterIPs of a Service; empty for a headless one and while it has none.
#[must_use]
pub fn cluster_ips(service: Option<&Service>) -> Vec<IpAddr> {
    let Some(spec) = service.and_then(|service| service.spec.as_ref()) else { return Vec::new() };
    let all = spec.cluster_ips.clone().or_else(|| spec.cluster_ip.clone().map(|one| vec![one])).unwrap_or_default();
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

fn pair(
    tier: &ValidatedTier,
    namespace: &str,
    headless_name: String,
    vip_name: String,
    labels: &BTreeMap<String, String>,
    selector: &BTreeMap<String, String>,
    ports: &[ServicePort],
) -> [Service; 2] {
    [(headless_name, Some("None".to_owned())), (vip_name, None)].map(|(name, cluster_ip)| Service {
        metadata: child_meta(tier, namespace, name, labels.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip,
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(selector.clone()),
            ports: Some(ports.to_vec()),
            publish_not_ready_addresses: Some(false),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}
