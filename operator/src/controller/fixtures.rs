//! Clusters for tests, made by the real steps: each reconciliation observes the objects that the last one applied.

use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::DnsTier;
use k8s_openapi::api::apps::v1::{DaemonSetStatus, Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::Service;
use node_cache_config::names::ZONE_LABEL;
use node_cache_config::status::{CaptureState, CapturedAddress, Instance, NodeStatus, ResolverStatus, Revision};

use crate::controller::desired::{self, Desired};
use crate::controller::observe::nodes::{ClusterNode, Labels};
use crate::controller::observe::pods::{Component, PodLifecycle, TierPod};
use crate::controller::observe::poll::{PodPage, PodReport, PodReports};
use crate::controller::observe::{ClusterDnsLookup, Observed};
use crate::controller::owned::{OwnedObjects, labels};
use crate::controller::placement::{ARCH_LABEL, OS_LABEL};
use crate::controller::rollout::store::StoredRecord;
use crate::controller::validate::validate;
use crate::settings::Settings;

/// Returns the settings of a default installation.
pub(crate) fn settings() -> Settings {
    Settings {
        identity: "dnstier-operator-1".to_owned(),
        namespace: "dnstier-system".to_owned(),
        node_namespace: "dnstier-node".to_owned(),
        cluster_dns_namespaces: vec!["kube-system".to_owned()],
        image: "registry.example/dnstier-node-cache:1".to_owned(),
        architectures: vec!["amd64".to_owned()],
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        zone_prune_delay: Duration::from_secs(600),
        poll_interval: Duration::from_secs(5),
    }
}

/// Returns the labels of a node that can run every image, and further ones.
pub(crate) fn linux<V: Into<String>>(further: impl IntoIterator<Item = (&'static str, V)>) -> Labels {
    let mut labels: Labels =
        [(OS_LABEL, "linux"), (ARCH_LABEL, "amd64")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    labels.extend(further.into_iter().map(|(key, value)| (key.to_owned(), value.into())));
    labels
}

/// Returns a tier of this name, creation time and spec, which is YAML.
pub(crate) fn tier(name: &str, created: &str, spec: &str) -> DnsTier {
    let spec = spec.lines().map(|line| format!("  {line}\n")).collect::<String>();
    let text = format!(
        "apiVersion: dnstier.io/v1alpha1\nkind: DnsTier\nmetadata:\n  name: {name}\n  uid: uid-of-{name}\n  \
         generation: 1\n  creationTimestamp: \"{created}\"\nspec:\n{spec}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

/// Returns the cluster DNS Service of a dual-stack cluster.
pub(crate) fn kube_dns() -> Service {
    serde_saphyr::from_str(
        "
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:96::a']
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: 53}
  - {name: dns-tcp, port: 53, protocol: TCP, targetPort: dns-tcp}
  - {name: metrics, port: 9153, protocol: TCP}
",
    )
    .unwrap()
}

/// Returns a cluster of three nodes in three zones with a tier before its first reconciliation.
pub(super) fn cluster(spec: &str) -> Observed {
    let node = |letter: char| (format!("node-{letter}"), linux([(ZONE_LABEL, format!("zone-{letter}"))]));
    Observed {
        tier: Arc::new(tier("default", "2026-01-01T00:00:00Z", spec)),
        other_tiers: Vec::new(),
        unreadable_tiers: Vec::new(),
        nodes: ['a', 'b', 'c'].map(node).into_iter().collect(),
        cluster_dns: ClusterDnsLookup::Found(Box::new(kube_dns())),
        owned: OwnedObjects::default(),
        record: StoredRecord::default(),
        pods: Vec::new(),
        reports: Arc::default(),
        pod_creation_failure: None,
        now: "2026-01-02T00:00:00Z".parse().unwrap(),
        lists_age: Duration::MAX,
    }
}

/// Returns the desired state of a valid tier.
pub(super) fn build_desired(observed: &Observed) -> Desired {
    let settings = settings();
    let tier = validate(observed, &settings).unwrap();
    desired::build(&tier, &settings, &observed.owned, &observed.revisions_in_use()).unwrap()
}

/// Replaces the observed objects by the desired ones, with the fields that the API server and its controllers fill in.
pub(super) fn apply_to(observed: &mut Observed, desired: Desired) {
    let mut objects = desired.objects;
    for (index, service) in objects.services.iter_mut().enumerate() {
        let spec = service.spec.get_or_insert_default();
        if spec.cluster_ip.is_none() {
            let addresses = vec![format!("10.96.1.{}", index + 1), format!("fd00:96::1:{}", index + 1)];
            spec.cluster_ip = addresses.first().cloned();
            spec.cluster_ips = Some(addresses);
        }
    }
    for daemon_set in &mut objects.daemon_sets {
        daemon_set.metadata.generation = Some(1);
        daemon_set.status = Some(DaemonSetStatus {
            observed_generation: Some(1),
            desired_number_scheduled: 3,
            current_number_scheduled: 3,
            updated_number_scheduled: Some(3),
            number_ready: 3,
            ..DaemonSetStatus::default()
        });
    }
    for deployment in &mut objects.deployments {
        deployment.metadata.generation = Some(1);
        deployment.status = Some(DeploymentStatus {
            observed_generation: Some(1),
            replicas: Some(2),
            updated_replicas: Some(2),
            ready_replicas: Some(2),
            ..DeploymentStatus::default()
        });
    }
    observed.owned = objects;
}

/// Returns a cluster in which the tier is in force and every pod reports so.
pub(crate) fn serving(spec: &str) -> Observed {
    let mut observed = cluster(spec);
    let first = build_desired(&observed);
    apply_to(&mut observed, first);
    let second = build_desired(&observed);
    let revision = second.revision.as_ref().unwrap().id.clone();
    apply_to(&mut observed, second);
    let mut reports = PodReports::new();
    for letter in ['a', 'b', 'c'] {
        let (pod, report) = node_pod(letter, &revision);
        reports.insert(pod.uid.clone(), Arc::new(report));
        observed.pods.push(pod);
        for index in 0..2 {
            let (pod, report) = resolver_pod(letter, index, &revision);
            reports.insert(pod.uid.clone(), Arc::new(report));
            observed.pods.push(pod);
        }
    }
    observed.reports = Arc::new(reports);
    observed
}

/// Changes the status that the agent of a node pod reports.
pub(super) fn change_node_status(observed: &mut Observed, pod: &str, change: impl FnOnce(&mut NodeStatus)) {
    change_page(observed, pod, |page| match page {
        PodPage::Node(status) => change(status),
        PodPage::Resolver(_) => panic!("{pod} is a zone resolver"),
    });
}

/// Changes the status that a zone resolver reports.
pub(super) fn change_resolver_status(observed: &mut Observed, pod: &str, change: impl FnOnce(&mut ResolverStatus)) {
    change_page(observed, pod, |page| match page {
        PodPage::Resolver(status) => change(status),
        PodPage::Node(_) => panic!("{pod} is a node pod"),
    });
}

/// Changes the report about a pod.
pub(super) fn change_report(observed: &mut Observed, pod: &str, change: impl FnOnce(&mut PodReport)) {
    let reports = Arc::make_mut(&mut observed.reports);
    change(Arc::make_mut(reports.get_mut(&format!("uid-of-{pod}")).unwrap()));
}

fn change_page(observed: &mut Observed, pod: &str, change: impl FnOnce(&mut PodPage)) {
    change_report(observed, pod, |report| report.change_page(change));
}

fn instance(name: &str, revision: &Revision) -> Instance {
    Instance { name: name.to_owned(), alive: true, revision: revision.clone(), ..Instance::default() }
}

fn in_force(revision: &str) -> Revision {
    Revision { asked: Some(revision.to_owned()), in_force: Some(revision.to_owned()), refusal: None }
}

fn node_pod(letter: char, revision: &str) -> (TierPod, PodReport) {
    let name = format!("node-pod-{letter}");
    let captured = ["10.96.0.10", "fd00:96::a", "169.254.20.10"].map(|address| CapturedAddress {
        address: address.parse().unwrap(),
        state: CaptureState::Captured,
        reason: None,
    });
    let status = NodeStatus {
        pod_uid: format!("uid-of-{name}"),
        node: format!("node-{letter}"),
        zone: Some(format!("zone-{letter}")),
        revision: in_force(revision),
        captured: captured.to_vec(),
        instances: vec![instance("cache-0", &in_force(revision)), instance("cache-1", &in_force(revision))],
        ..NodeStatus::default()
    };
    let pod = pod(&name, letter, Component::NodeCache, revision);
    (pod, PodReport::with_page(PodPage::Node(status)))
}

fn resolver_pod(letter: char, index: u32, revision: &str) -> (TierPod, PodReport) {
    let name = format!("resolver-{letter}-{index}");
    let status = ResolverStatus {
        pod_uid: format!("uid-of-{name}"),
        node: format!("node-{letter}"),
        zone: Some(format!("zone-{letter}")),
        ready: true,
        instance: instance("zone-resolver", &in_force(revision)),
        ..ResolverStatus::default()
    };
    let pod = TierPod {
        namespace: "dnstier-system".to_owned(),
        resolver_zone: Some(format!("zone-{letter}")),
        metrics_port: 9153,
        ..pod(&name, letter, Component::ZoneResolver, revision)
    };
    (pod, PodReport::with_page(PodPage::Resolver(status)))
}

fn pod(name: &str, letter: char, component: Component, revision: &str) -> TierPod {
    TierPod {
        namespace: "dnstier-node".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        version: None,
        tier: "default".to_owned(),
        component,
        resolver_zone: None,
        node: Some(format!("node-{letter}")),
        scheduled: true,
        address: None,
        metrics_port: 9353,
        ready: true,
        terminating: false,
        ended: false,
        annotated_revision: Some(revision.to_owned()),
        told: None,
        annotated_zone: Some(format!("zone-{letter}")),
        annotated_resolvers_on_node: (component == Component::ZoneResolver).then(|| "1".to_owned()),
        waiting_reason: None,
        lifecycle: PodLifecycle {
            template: Some("1a2b".to_owned()),
            created: Some("2026-01-01T00:01:00Z".parse().unwrap()),
            running: true,
            ..PodLifecycle::default()
        },
    }
}

/// Makes these nodes those that are away.
pub(super) fn set_away(observed: &mut Observed, away: &[&str]) {
    let nodes = observed
        .nodes
        .iter()
        .map(|(name, node)| (name.to_owned(), ClusterNode { ready: !away.contains(&name), ..node.clone() }));
    observed.nodes = nodes.collect();
}

/// Returns the pod of this name.
pub(super) fn pod_of<'a>(observed: &'a mut Observed, name: &str) -> &'a mut TierPod {
    observed.pods.iter_mut().find(|pod| pod.name == name).unwrap()
}

/// Changes the pod template of the node pods: these have the new one, the others the old one.
pub(super) fn roll_out_template(observed: &mut Observed, updated: &[&str]) {
    let daemon_set = &mut observed.owned.daemon_sets[0];
    daemon_set.status.as_mut().unwrap().updated_number_scheduled = i32::try_from(updated.len()).ok();
    for name in updated {
        let lifecycle = &mut pod_of(observed, name).lifecycle;
        lifecycle.template = Some("new".to_owned());
        lifecycle.created = Some("2026-01-01T23:58:00Z".parse().unwrap());
    }
}

/// Returns the Deployment of a zone.
pub(super) fn deployment_of<'a>(observed: &'a mut Observed, zone: &str) -> &'a mut Deployment {
    let is_of_zone = |deployment: &&mut Deployment| {
        deployment.metadata.labels.as_ref().and_then(|labels| labels.get(labels::ZONE)).map(String::as_str)
            == Some(zone)
    };
    observed.owned.deployments.iter_mut().find(is_of_zone).unwrap()
}
