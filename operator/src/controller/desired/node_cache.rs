//! DaemonSet of the node pods: one agent and the caching resolvers of a node.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::controller::desired::meta::owned_meta;
use crate::controller::desired::pod;
use crate::controller::observe::nodes::Nodes;
use crate::controller::owned::{labels, names};
use crate::controller::placement::{Placement, keep_nodes};
use crate::controller::rollout::departure::Departure;
use crate::controller::validate::tier::ValidatedTier;
use crate::settings::Settings;

const COMPONENT: &str = labels::COMPONENT_NODE_CACHE;

/// Builds the DaemonSet.
///
/// A rollout replaces one node's pod at a time; meanwhile the cluster DNS Service answers the queries of the node. Pods
/// on nodes that are away, which the DaemonSet controller counts as unavailable, are allowed for beside it. No
/// port is declared: a host port would keep the two pods of a handover from running on one node.
#[must_use]
pub(super) fn daemon_set(tier: &ValidatedTier, settings: &Settings) -> DaemonSet {
    DaemonSet {
        metadata: owned_meta(
            tier,
            &settings.node_namespace,
            names::node_cache(&tier.name),
            labels::component_labels(&tier.name, COMPONENT),
        ),
        spec: Some(DaemonSetSpec {
            selector: labels::label_selector(labels::component_selector(&tier.name, COMPONENT)),
            template: PodTemplateSpec {
                metadata: Some(pod::template_meta(
                    &tier.node_cache.pods,
                    labels::component_labels(&tier.name, COMPONENT),
                    tier.node_cache.metrics_port,
                )),
                spec: Some(pod_spec(tier, settings)),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(tier.node_cache.max_unavailable)),
                }),
            }),
            min_ready_seconds: Some(2),
            revision_history_limit: Some(3),
        }),
        status: None,
    }
}

/// Changes a desired DaemonSet so that pods on these nodes stay for now.
///
/// With `OnDelete`, the DaemonSet controller deletes pods where the template places none any more and creates missing
/// ones, but replaces none for a newer template. A wave is another template; without it, each would restart all pods.
pub(super) fn keep_for_now(
    daemon_set: &mut DaemonSet,
    current: &DaemonSet,
    departure: &Departure,
    staying: &BTreeSet<String>,
    nodes: &Nodes,
) {
    let state = serde_json::to_string(departure).unwrap_or_default();
    daemon_set.metadata.annotations.get_or_insert_default().insert(labels::DEPARTURE.to_owned(), state);
    let Some(spec) = &mut daemon_set.spec else { return };
    spec.update_strategy = Some(DaemonSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None });
    if let (Some(pods), Some(current)) = (&mut spec.template.spec, pods_of_template(current)) {
        keep_nodes(pods, current, staying, nodes);
    }
}

/// Gives a desired DaemonSet the placement that it has in the cluster, and how that changes.
pub(super) fn keep_placement(daemon_set: &mut DaemonSet, current: &DaemonSet) {
    if let Some(state) = current.annotations().get(labels::DEPARTURE) {
        let annotations = daemon_set.metadata.annotations.get_or_insert_default();
        annotations.insert(labels::DEPARTURE.to_owned(), state.clone());
    }
    let (Some(spec), Some(now)) = (&mut daemon_set.spec, &current.spec) else { return };
    if current.annotations().contains_key(labels::DEPARTURE) {
        spec.update_strategy.clone_from(&now.update_strategy);
    }
    if let (Some(pods), Some(current)) = (&mut spec.template.spec, &now.template.spec) {
        pods.node_selector.clone_from(&current.node_selector);
        pods.affinity.clone_from(&current.affinity);
        pods.tolerations.clone_from(&current.tolerations);
    }
}

fn pods_of_template(daemon_set: &DaemonSet) -> Option<&PodSpec> {
    daemon_set.spec.as_ref()?.template.spec.as_ref()
}

fn pod_spec(tier: &ValidatedTier, settings: &Settings) -> PodSpec {
    let pods = &tier.node_cache.pods;
    let placement = Placement::of_node_pods(pods, settings);
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
        tolerations: placement.tolerations(),
        node_selector: Some(placement.node_selector()),
        affinity: Some(placement.affinity(Vec::new())),
        termination_grace_period_seconds: Some(30),
        image_pull_secrets: pod::pull_secrets(settings),
        security_context: Some(PodSecurityContext {
            fs_group: Some(pod::UNPRIVILEGED_ID),
            seccomp_profile: Some(pod::seccomp_profile()),
            ..PodSecurityContext::default()
        }),
        volumes: Some(pod::volumes(&tier.name, &[])),
        ..PodSpec::default()
    }
}

/// Builds the agent: the only container with privileges, which parses no DNS message from outside of its pod.
fn agent(tier: &ValidatedTier, settings: &Settings) -> Container {
    let command = "/node-agent";
    let args = pod::run_args(&[
        ("--instances", tier.node_cache.instances.to_string()),
        ("--metrics-port", tier.node_cache.metrics_port.to_string()),
    ]);
    Container {
        resources: Some(pod::resources("10m", "16Mi", Quantity("64Mi".to_owned()))),
        security_context: Some(pod::security_context(0, &["NET_ADMIN", "NET_BIND_SERVICE"])),
        liveness_probe: Some(pod::exec_probe(command, &["live"], 10, 3)),
        readiness_probe: Some(pod::exec_probe(command, &["ready"], 3, 2)),
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
        security_context: Some(pod::security_context(pod::UNPRIVILEGED_ID, &[])),
        liveness_probe: Some(pod::exec_probe(command, &["live", "--instance", &name], 10, 3)),
        ..pod::container(&name, pod::image(pods, settings), command, args, settings)
    }
}
