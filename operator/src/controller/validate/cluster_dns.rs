//! The cluster DNS Service, and the fields that its shadow Services copy.

use dnstier_crds::conditions::Reason;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use node_cache_config::names::{DNS_PORT, TCP_PORT_NAME, UDP_PORT_NAME};

use crate::controller::finding::Finding;
use crate::controller::observe::{ClusterDnsLookup, Observed};
use crate::controller::owned::cluster_ips;
use crate::controller::validate::tier::ClusterDns;

/// Returns the cluster DNS Service.
pub(super) fn cluster_dns_service(observed: &Observed) -> Result<&Service, Finding> {
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
pub(super) fn cluster_dns(observed: &Observed, service: &Service) -> Result<ClusterDns, Finding> {
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
