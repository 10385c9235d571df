//! Services of the zones, the shadow Services through which the cluster DNS is reachable although its ClusterIP is
//! captured, and the Services through which scrapers find the metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use node_cache_config::names::{DNS_PORT, RESOLVER_DNS_PORT, RESOLVER_METRICS_PORT, TCP_PORT_NAME, UDP_PORT_NAME};

use crate::controller::desired::meta::owned_meta;
use crate::controller::owned::{cluster_ips, labels, names};
use crate::controller::validate::tier::{ValidatedTier, Zone};
use crate::settings::Settings;

/// Builds the two Services of a zone: a headless one, which resolves to the pods, and one with a ClusterIP, which is
/// known before the first pod.
#[must_use]
pub(super) fn zone_services(tier: &ValidatedTier, zone: &Zone, settings: &Settings) -> [Service; 2] {
    let ports = [("UDP", UDP_PORT_NAME), ("TCP", TCP_PORT_NAME)].map(|(protocol, name)| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: i32::from(DNS_PORT),
        target_port: Some(IntOrString::Int(i32::from(RESOLVER_DNS_PORT))),
        ..ServicePort::default()
    });
    service_pair(
        tier,
        &settings.namespace,
        names::zone(&tier.name, &zone.name),
        names::zone_vip(&tier.name, &zone.name),
        &labels::zone_labels(&tier.name, &zone.name),
        &labels::zone_selector(&tier.name, &zone.name),
        &ports,
    )
}

/// Builds the two shadow Services of the cluster DNS Service, with its namespace, selector and ports: a headless one,
/// and one with a ClusterIP of its own.
#[must_use]
pub(super) fn shadow_services(tier: &ValidatedTier) -> [Service; 2] {
    service_pair(
        tier,
        &tier.cluster_dns.namespace,
        names::cluster_dns_pods(&tier.name),
        names::cluster_dns(&tier.name),
        &labels::component_labels(&tier.name, labels::COMPONENT_CLUSTER_DNS),
        &tier.cluster_dns.selector,
        &tier.cluster_dns.ports,
    )
}

/// Name of the port of metrics in the Services of [`metrics_services`].
const METRICS_PORT_NAME: &str = "metrics";

/// Builds the two headless Services of the metrics: one for the node pods, which declare no port, and one for the
/// resolvers of all zones. Their endpoints include pods that are not ready, whose metrics matter most.
#[must_use]
pub(super) fn metrics_services(tier: &ValidatedTier, settings: &Settings) -> [Service; 2] {
    let service = |namespace: &str, name: String, component: &str, port: u16| Service {
        metadata: owned_meta(tier, namespace, name, labels::metrics_labels(&tier.name, component)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            // One address of each pod: two would be scraped as two targets.
            ip_family_policy: Some("SingleStack".to_owned()),
            selector: Some(labels::component_selector(&tier.name, component)),
            ports: Some(vec![ServicePort {
                name: Some(METRICS_PORT_NAME.to_owned()),
                protocol: Some("TCP".to_owned()),
                port: port.into(),
                target_port: Some(IntOrString::Int(port.into())),
                ..ServicePort::default()
            }]),
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    [
        service(
            &settings.node_namespace,
            names::node_cache_metrics(&tier.name),
            labels::COMPONENT_NODE_CACHE,
            tier.node_cache.metrics_port,
        ),
        service(
            &settings.namespace,
            names::zone_resolver_metrics(&tier.name),
            labels::COMPONENT_ZONE_RESOLVER,
            RESOLVER_METRICS_PORT,
        ),
    ]
}

/// Returns the DNS addresses of a Service's ClusterIPs; empty before they are allocated.
#[must_use]
pub(super) fn bootstrap_addresses(service: Option<&Service>) -> Vec<SocketAddr> {
    let addresses = service.map(cluster_ips).unwrap_or_default();
    addresses.into_iter().map(|address| SocketAddr::new(address, DNS_PORT)).collect()
}

fn service_pair(
    tier: &ValidatedTier,
    namespace: &str,
    headless_name: String,
    vip_name: String,
    labels: &BTreeMap<String, String>,
    selector: &BTreeMap<String, String>,
    ports: &[ServicePort],
) -> [Service; 2] {
    [(headless_name, Some("None".to_owned())), (vip_name, None)].map(|(name, cluster_ip)| Service {
        metadata: owned_meta(tier, namespace, name, labels.clone()),
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
