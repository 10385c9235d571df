//! The DaemonSet of the node pods: one agent and the caching resolvers of a node.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::desired::{child_meta, pod};
use crate::controller::owned::{labels, names};
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

const COMPONENT: &str = labels::COMPONENT_NODE_CACHE;

/// The node pods. One node at a time is without its pod while the template changes; meanwhile its queries are answered
/// by the cluster DNS Service. No port is declared: a host port would keep two pods of a hand-over off one node.
#[must_use]
pub(super) fn daemon_set(tier: &ValidatedTier, settings: &Settings) -> DaemonSet {
    DaemonSet {
        metadata: child_meta(
            tier,
            &settings.node_namespace,
            names::node_cache(&tier.name),
            labels::of(&tier.name, COMPONENT),
        ),
        spec: Some(DaemonSetSpec {
            selector: labels::matching(labels::selector(&tier.name, COMPONENT)),
            template: PodTemplateSpec {
                metadata: Some(pod::template_meta(
                    &tier.node_cache.pods,
                    labels::of(&tier.name, COMPONENT),
                    tier.node_cache.metrics_port,
                )),
                spec: Some(pod_spec(tier, settings)),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            min_ready_seconds: Some(2),
            revision_history_limit: Some(3),
        }),
        status: None,
    }
}

fn pod_spec(tier: &ValidatedTier, settings: &Settings) -> PodSpec {
    let pods = &tier.node_cache.pods;
    let mut containers = vec![agent(tier, settings)];
    containers.extend((0..tier.node_cache.instances).map(|index| cache(tier, index, settings)));
    PodSpec {
        containers,
        host_network: Some(true),
        dns_policy: Some("Default".to_owned()),
        service_account_name: Some(names::node_cache(&tier.name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        priority_class_name: Some(
            pods.priority_class_name.clone().unwrap_or_else(|| "system-node-critical".to_owned()),
        ),
        tolerations: Some(pods.tolerations.clone().unwrap_or_else(|| vec![everything()])),
        node_selector: pod::non_empty(&pods.node_selector),
        affinity: pods.affinity.clone(),
        termination_grace_period_seconds: Some(30),
        image_pull_secrets: pod::pull_secrets(settings),
        security_context: Some(PodSecurityContext {
            fs_group: Some(pod::UNPRIVILEGED),
            seccomp_profile: Some(pod::seccomp()),
            ..PodSecurityContext::default()
        }),
        volumes: Some(pod::volumes(&tier.name)),
        ..PodSpec::default()
    }
}

/// The only container with a privilege, and it parses no DNS from outside.
fn agent(tier: &ValidatedTier, settings: &Settings) -> Container {
    let command = "/node-agent";
    let args = pod::run_args(&[
        ("--instances", tier.node_cache.instances.to_string()),
        ("--metrics-port", tier.node_cache.metrics_port.to_string()),
    ]);
    Container {
        resources: Some(pod::resources("10m", "16Mi", Quantity("64Mi".to_owned()))),
        security_context: Some(pod::confined(0, &["NET_ADMIN", "NET_BIND_SERVICE"])),
        liveness_probe: Some(pod::probe(command, &["live"], 10, 3)),
        readiness_probe: Some(pod::probe(command, &["ready"], 3, 2)),
        ..pod::container("agent", pod::image(&tier.node_cache.pods, settings), command, args, settings)
    }
}

fn cache(tier: &ValidatedTier, index: u32, settings: &Settings) -> Container {
    let command = "/node-cache";
    let name = format!("cache-{index}");
    let pods = &tier.node_cache.pods;
    let args = pod::run_args(&[("--instance", name.clone()), ("--cache-size", tier.node_cache.cache_size.to_string())]);
    Container {
        resources: Some(pod::cache_resources(pods.resources.as_ref(), tier.node_cache.cache_size, "25m")),
        security_context: Some(pod::confined(pod::UNPRIVILEGED, &[])),
        liveness_probe: Some(pod::probe(command, &["live", "--instance", &name], 10, 3)),
        ..pod::container(&name, pod::image(pods, settings), command, args, settings)
    }
}

/// Pods of a tainted node ask names too.
fn everything() -> Toleration {
    Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }
}
