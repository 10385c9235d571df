//! NetworkPolicy of the zones' resolvers.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use node_cache_config::names::{RESOLVER_DNS_PORT, RESOLVER_METRICS_PORT};

use crate::controller::desired::meta::owned_meta;
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

/// Builds the policy of all zones' resolvers: ingress to the ports of DNS and metrics from any source, and no other.
///
/// There is no `from`: node caches are on the host network, and most network plugins cannot select such a source.
/// Egress stays open, since upstreams may be anywhere.
#[must_use]
pub(super) fn network_policy(tier: &ValidatedTier, settings: &Settings) -> NetworkPolicy {
    let ports = [("UDP", RESOLVER_DNS_PORT), ("TCP", RESOLVER_DNS_PORT), ("TCP", RESOLVER_METRICS_PORT)];
    let selector = labels::component_selector(&tier.name, labels::COMPONENT_ZONE_RESOLVER);
    NetworkPolicy {
        metadata: owned_meta(
            tier,
            &settings.namespace,
            names::zone_resolver(&tier.name),
            labels::component_labels(&tier.name, labels::COMPONENT_ZONE_RESOLVER),
        ),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels::label_selector(selector)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: None, ports: Some(ports.map(policy_port).to_vec()) }]),
            egress: None,
        }),
    }
}

fn policy_port((protocol, port): (&str, u16)) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(i32::from(port))),
        end_port: None,
    }
}
