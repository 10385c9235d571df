//! Deployment of a zone's resolvers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, NodeSelectorRequirement, PodSecurityContext, PodSpec, PodTemplateSpec,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use node_cache_config::names::{
    RESOLVER_DNS_PORT, RESOLVER_METRICS_PORT, RESOLVERS_ON_NODE_ANNOTATION, RESOLVERS_ON_NODE_FILE, ZONE_LABEL,
};

use crate::controller::desired::meta::owned_meta;
use crate::controller::desired::pod;
use crate::controller::owned::{labels, names};
use crate::controller::placement::Placement;
use crate::controller::validate::tier::{ValidatedTier, Zone};
use crate::settings::Settings;

/// Builds the Deployment of a zone. Its pods run on nodes of this zone alone, spread over as many of them as possible.
#[must_use]
pub(super) fn deployment(tier: &ValidatedTier, zone: &Zone, settings: &Settings) -> Deployment {
    let mut metadata = owned_meta(
        tier,
        &settings.namespace,
        names::zone(&tier.name, &zone.name),
        labels::zone_labels(&tier.name, &zone.name),
    );
    metadata.annotations =
        zone.empty_since.as_ref().map(|since| BTreeMap::from([(labels::EMPTY_SINCE.to_owned(), since.clone())]));
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(tier.resolvers.replicas_per_zone),
            selector: labels::label_selector(labels::zone_selector(&tier.name, &zone.name)),
            template: PodTemplateSpec {
                metadata: Some(pod::template_meta(
                    &tier.resolvers.pods,
                    labels::zone_labels(&tier.name, &zone.name),
                    RESOLVER_METRICS_PORT,
                )),
                spec: Some(pod_spec(tier, zone, settings)),
            },
            strategy: Some(rollout_strategy(zone.nodes, tier.resolvers.replicas_per_zone)),
            min_ready_seconds: Some(5),
            revision_history_limit: Some(3),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Returns the strategy of a rollout.
///
/// With more nodes than resolvers, a new pod starts first, so that the zone keeps its number of resolvers. Without a
/// spare node, a surplus pod would share a node with the pod that it replaces, and may not even fit, so the old pod
/// ends first.
fn rollout_strategy(nodes: usize, replicas: i32) -> DeploymentStrategy {
    let lacks_spare_node = usize::try_from(replicas).is_ok_and(|replicas| nodes <= replicas);
    let (max_surge, max_unavailable) = if lacks_spare_node { (0, 1) } else { (1, 0) };
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(max_surge)),
            max_unavailable: Some(IntOrString::Int(max_unavailable)),
        }),
    }
}

fn pod_spec(tier: &ValidatedTier, zone: &Zone, settings: &Settings) -> PodSpec {
    let pods = &tier.resolvers.pods;
    let placement = Placement::of_resolvers(pods, settings);
    PodSpec {
        containers: vec![container(tier, settings)],
        dns_policy: Some("Default".to_owned()),
        service_account_name: Some(names::zone_resolver(&tier.name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        priority_class_name: Some(
            pods.priority_class_name.clone().unwrap_or_else(|| "system-cluster-critical".to_owned()),
        ),
        tolerations: placement.tolerations(),
        node_selector: Some(placement.node_selector()),
        affinity: Some(placement.affinity(vec![zone_requirement(&zone.name)])),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(labels::label_selector(labels::zone_selector(&tier.name, &zone.name))),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        }]),
        termination_grace_period_seconds: Some(45),
        image_pull_secrets: pod::pull_secrets(settings),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(pod::UNPRIVILEGED_ID),
            run_as_group: Some(pod::UNPRIVILEGED_ID),
            fs_group: Some(pod::UNPRIVILEGED_ID),
            seccomp_profile: Some(pod::seccomp_profile()),
            ..PodSecurityContext::default()
        }),
        volumes: Some(pod::volumes(&tier.name, &[(RESOLVERS_ON_NODE_FILE, RESOLVERS_ON_NODE_ANNOTATION)])),
        ..PodSpec::default()
    }
}

fn container(tier: &ValidatedTier, settings: &Settings) -> Container {
    let command = "/zone-resolver";
    let pods = &tier.resolvers.pods;
    let args = pod::run_args(&[("--cache-size", tier.resolvers.cache_size.to_string())]);
    Container {
        ports: Some(vec![
            port("dns", RESOLVER_DNS_PORT, "UDP"),
            port("dns-tcp", RESOLVER_DNS_PORT, "TCP"),
            port("metrics", RESOLVER_METRICS_PORT, "TCP"),
        ]),
        resources: Some(pod::cache_resources(pods.resources.as_ref(), tier.resolvers.cache_size, "50m")),
        security_context: Some(pod::security_context(pod::UNPRIVILEGED_ID, &[])),
        liveness_probe: Some(pod::http_probe("/live", RESOLVER_METRICS_PORT, 10, 3)),
        readiness_probe: Some(pod::http_probe("/ready", RESOLVER_METRICS_PORT, 3, 2)),
        ..pod::container("zone-resolver", pod::image(pods, settings), command, args, settings)
    }
}

fn port(name: &str, port: u16, protocol: &str) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    }
}

/// Returns the requirement that keeps the resolvers of a zone in it.
fn zone_requirement(zone: &str) -> NodeSelectorRequirement {
    let (operator, values) = if zone.is_empty() { ("DoesNotExist", None) } else { ("In", Some(vec![zone.to_owned()])) };
    NodeSelectorRequirement { key: ZONE_LABEL.to_owned(), operator: operator.to_owned(), values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_the_label_are_the_zone_without_a_name() {
        assert_eq!(zone_requirement("").operator, "DoesNotExist");
    }

    #[test]
    fn a_zone_with_spare_nodes_never_has_fewer_resolvers_than_asked_for() {
        let limits = |nodes, replicas| {
            let update = rollout_strategy(nodes, replicas).rolling_update.unwrap_or_default();
            (update.max_surge, update.max_unavailable)
        };
        assert_eq!(limits(3, 2), (Some(IntOrString::Int(1)), Some(IntOrString::Int(0))));
        assert_eq!(limits(2, 2), (Some(IntOrString::Int(0)), Some(IntOrString::Int(1))));
        assert_eq!(limits(1, 2), (Some(IntOrString::Int(0)), Some(IntOrString::Int(1))));
    }
}
