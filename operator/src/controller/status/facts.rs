//! What is so: counted, and not yet judged.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::ResourceExt;
use node_cache_config::status::CaptureState;

use super::{Outcome, count, text};
use crate::controller::observe::Observed;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::Answer;
use crate::controller::owned::{labels, names};
use crate::settings::Settings;

/// What is so.
pub(super) struct Facts {
    pub(super) nodes: NodeFacts,
    /// The zones that have nodes, ordered by name.
    pub(super) zones: Vec<ZoneFacts>,
    /// What pods said about a revision that they do not put in force.
    pub(super) refusals: Vec<String>,
    /// Addresses that somebody else put on a node.
    pub(super) foreign: Vec<String>,
    /// Pods that are ready and do not say how they are.
    pub(super) silent: Vec<String>,
    /// Caching resolvers that did not answer their agent.
    pub(super) dead_instances: Vec<String>,
}

/// The nodes.
#[derive(Default)]
pub(super) struct NodeFacts {
    pub(super) desired: u32,
    pub(super) ready: u32,
    pub(super) updated: u32,
    /// Whether the DaemonSet replaces pods, or has not looked at its newest template yet.
    pub(super) rolling: bool,
    /// Nodes that do not answer, and why, as far as that is known.
    pub(super) not_ready: Vec<String>,
}

/// One zone.
pub(super) struct ZoneFacts {
    pub(super) name: String,
    pub(super) nodes: u32,
    pub(super) desired: u32,
    pub(super) ready: u32,
    /// Whether the Deployment replaces pods, or has not looked at its newest template yet.
    pub(super) rolling: bool,
    /// Why pods of the zone cannot be created, as the Deployment says it.
    pub(super) failure: Option<String>,
    /// Whether all of its pods have the newest revision in force.
    pub(super) on_target: bool,
}

impl Facts {
    pub(super) fn gather(observed: &Observed, settings: &Settings, outcome: &Outcome) -> Self {
        let target = match outcome {
            Outcome::Refused { in_force, .. } => in_force.as_deref(),
            Outcome::Built { revision, .. } => revision.as_deref(),
        };
        let mut facts = Self {
            nodes: nodes(observed, settings, target),
            zones: zones(observed, settings, target),
            refusals: Vec::new(),
            foreign: Vec::new(),
            silent: Vec::new(),
            dead_instances: Vec::new(),
        };
        let mut refusals: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in observed.pods.iter().filter(|pod| !pod.leaving) {
            facts.hear(observed, pod, &mut refusals);
        }
        facts.refusals = refusals
            .into_iter()
            .map(|(refusal, pods)| format!("Refused by {}: {refusal}", text::some_of(&Vec::from_iter(pods))))
            .collect();
        facts
    }

    pub(super) fn resolvers_desired(&self) -> u32 {
        self.zones.iter().map(|zone| zone.desired).sum()
    }

    pub(super) fn resolvers_ready(&self) -> u32 {
        self.zones.iter().map(|zone| zone.ready).sum()
    }

    /// Takes in what one pod says.
    fn hear(&mut self, observed: &Observed, pod: &TierPod, refusals: &mut BTreeMap<String, BTreeSet<String>>) {
        let Some(report) = observed.reports.get(&pod.uid) else { return };
        let Some(answer) = report.answer() else {
            if let Some(silence) = report.silence.as_ref().filter(|_| pod.ready && report.failures > 1) {
                self.silent.push(format!("{} ({})", place(pod), text::bounded(silence)));
            }
            return;
        };
        let agent = match answer {
            Answer::Node(status) => Some(&status.revision),
            Answer::Resolver(_) => None,
        };
        for revision in answer.instances().iter().map(|instance| &instance.revision).chain(agent) {
            if let Some(refusal) = &revision.refusal {
                refusals.entry(text::bounded(refusal)).or_default().insert(place(pod));
            }
        }
        if let Answer::Node(status) = answer {
            let foreign = status.captured.iter().filter(|captured| captured.state == CaptureState::Foreign);
            self.foreign.extend(foreign.map(|captured| format!("{} on {}", captured.address, place(pod))));
            let dead = status.instances.iter().filter(|instance| !instance.alive);
            self.dead_instances
                .extend(dead.map(|instance| format!("{} on {}", text::bounded(&instance.name), place(pod))));
        }
    }
}

fn nodes(observed: &Observed, settings: &Settings, target: Option<&str>) -> NodeFacts {
    let name = names::node_cache(&observed.tier.name_any());
    let Some(daemon_set) = observed.children.daemon_set(&settings.node_namespace, &name) else {
        return NodeFacts::default();
    };
    let status = daemon_set.status.clone().unwrap_or_default();
    let pods: Vec<&TierPod> = of(observed, Component::NodeCache).collect();
    let (ready, waiting): (Vec<&TierPod>, Vec<&TierPod>) = pods.iter().partition(|pod| answers(observed, pod));
    let on_target = pods.iter().filter(|pod| is_on(observed, pod, target)).count();
    let desired = unsigned(status.desired_number_scheduled);
    let updated = unsigned(status.updated_number_scheduled.unwrap_or_default());
    let mut not_ready: Vec<String> = waiting.into_iter().map(|pod| why(observed, pod)).collect();
    let missing = desired.saturating_sub(count(pods.len()));
    if missing > 0 {
        not_ready.push(format!("{missing} without a pod"));
    }
    NodeFacts {
        desired,
        ready: count(ready.len()).min(desired),
        updated: count(on_target).min(updated).min(desired),
        rolling: is_behind(daemon_set) || updated < desired,
        not_ready,
    }
}

fn zones(observed: &Observed, settings: &Settings, target: Option<&str>) -> Vec<ZoneFacts> {
    let inhabited = observed.nodes.zones();
    let mut zones: Vec<ZoneFacts> = observed
        .children
        .deployments
        .iter()
        .filter(|deployment| deployment.namespace().as_deref() == Some(&settings.namespace))
        .filter_map(|deployment| {
            let name = deployment.labels().get(labels::ZONE)?;
            let nodes = inhabited.get(name)?;
            Some(zone(observed, deployment, name, count(*nodes), target))
        })
        .collect();
    zones.sort_by(|one, other| one.name.cmp(&other.name));
    zones
}

fn zone(observed: &Observed, deployment: &Deployment, name: &str, nodes: u32, target: Option<&str>) -> ZoneFacts {
    let status = deployment.status.clone().unwrap_or_default();
    let desired = unsigned(deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default());
    let updated = unsigned(status.updated_replicas.unwrap_or_default());
    let behind = status.observed_generation < deployment.metadata.generation;
    let failure = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    let mut pods = of(observed, Component::ZoneResolver).filter(|pod| pod.resolver_of.as_deref() == Some(name));
    ZoneFacts {
        name: name.to_owned(),
        nodes,
        desired,
        ready: unsigned(status.ready_replicas.unwrap_or_default()).min(desired),
        rolling: behind || updated < desired || unsigned(status.replicas.unwrap_or_default()) > desired,
        failure: failure.and_then(|condition| condition.message.clone()),
        on_target: pods.all(|pod| is_on(observed, pod, target)),
    }
}

fn is_behind(daemon_set: &DaemonSet) -> bool {
    let seen = daemon_set.status.as_ref().and_then(|status| status.observed_generation);
    seen < daemon_set.metadata.generation
}

fn of(observed: &Observed, component: Component) -> impl Iterator<Item = &TierPod> {
    observed.pods.iter().filter(move |pod| pod.component == component && !pod.leaving)
}

fn is_on(observed: &Observed, pod: &TierPod, target: Option<&str>) -> bool {
    let known = observed.reports.get(&pod.uid).and_then(|report| report.known.as_ref());
    known.zip(target).is_some_and(|(known, target)| known.is_on(target))
}

/// Whether pods of the node are answered by this pod: the kubelet finds it ready, and it captured every address.
fn answers(observed: &Observed, pod: &TierPod) -> bool {
    let answer = observed.answer(pod);
    let captured = match answer {
        Some(Answer::Node(status)) => status.captured.iter().all(|one| one.state == CaptureState::Captured),
        _ => true,
    };
    pod.ready && captured
}

/// A node that does not answer, and the reason that is nearest to the cause.
fn why(observed: &Observed, pod: &TierPod) -> String {
    let answer = observed.answer(pod);
    let withdrawn = match answer {
        Some(Answer::Node(status)) => {
            status.captured.iter().find(|one| one.state != CaptureState::Captured).map(|one| match &one.reason {
                Some(reason) => format!("{}: {}", one.address, text::bounded(reason)),
                None => format!("{} is not captured", one.address),
            })
        }
        _ => None,
    };
    match pod.waiting.clone().or(withdrawn) {
        Some(reason) => format!("{} ({reason})", place(pod)),
        None => place(pod),
    }
}

/// Where a pod is, in the words that fit a sentence.
fn place(pod: &TierPod) -> String {
    match (pod.component, &pod.node) {
        (Component::NodeCache, Some(node)) => node.clone(),
        _ => pod.name.clone(),
    }
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}
