//! Clusters for tests, made by the real steps: what a pass builds is what the next one finds.

use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::DnsTier;
use k8s_openapi::api::apps::v1::{DaemonSetStatus, DeploymentStatus};
use k8s_openapi::api::core::v1::Service;
use node_cache_config::names::ZONE_LABEL;
use node_cache_config::status::{CaptureState, CapturedAddress, Instance, NodeStatus, ResolverStatus, Revision};

use crate::controller::desired::{self, Desired};
use crate::controller::observe::Observed;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::{Answer, Report, Reports};
use crate::controller::owned::Children;
use crate::controller::owned::labels;
use crate::controller::validate::{Validated, validate};
use crate::settings::Settings;

/// The settings of a plain installation.
pub(super) fn settings() -> Settings {
    Settings {
        namespace: "dnstier-system".to_owned(),
        node_namespace: "dnstier-node".to_owned(),
        cluster_dns_namespaces: vec!["kube-system".to_owned()],
        image: "registry.example/dnstier-node-cache:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        zone_prune_delay: Duration::from_secs(600),
        poll_interval: Duration::from_secs(5),
    }
}

/// A tier of this name with this spec, written as YAML.
pub(super) fn tier(name: &str, created: &str, spec: &str) -> DnsTier {
    let spec = spec.lines().map(|line| format!("  {line}\n")).collect::<String>();
    let text = format!(
        "apiVersion: dnstier.io/v1alpha1\nkind: DnsTier\nmetadata:\n  name: {name}\n  uid: uid-of-{name}\n  generation: 1\n  \
         creationTimestamp: \"{created}\"\nspec:\n{spec}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

/// The cluster DNS of a cluster with both families.
pub(super) fn kube_dns() -> Service {
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

/// A cluster of three nodes in three zones and a tier that nothing was done for yet.
pub(super) fn cluster(spec: &str) -> Observed {
    let node = |letter: char| {
        let labels = [(ZONE_LABEL.to_owned(), format!("zone-{letter}"))];
        (format!("node-{letter}"), labels.into())
    };
    Observed {
        tier: Arc::new(tier("default", "2026-01-01T00:00:00Z", spec)),
        others: Vec::new(),
        nodes: ['a', 'b', 'c'].map(node).into_iter().collect(),
        cluster_dns: Ok(Some(kube_dns())),
        children: Children::default(),
        pods: Vec::new(),
        reports: Arc::default(),
        creation_failure: None,
        now: "2026-01-02T00:00:00Z".parse().unwrap(),
    }
}

/// What a pass builds.
pub(super) fn built(observed: &Observed) -> (Validated, Desired) {
    let settings = settings();
    let validated = validate(observed, &settings).unwrap();
    let named: Vec<String> = observed.pods.iter().filter_map(|pod| pod.revision.clone()).collect();
    let desired = desired::build(&validated.tier, &settings, &observed.children, &named).unwrap();
    (validated, desired)
}

/// Does what the API server and its controllers do with what a pass built.
pub(super) fn applied(observed: &mut Observed, desired: Desired) {
    let mut children = desired.children;
    for (index, service) in children.services.iter_mut().enumerate() {
        let spec = service.spec.get_or_insert_default();
        if spec.cluster_ip.is_none() {
            let addresses = vec![format!("10.96.1.{}", index + 1), format!("fd00:96::1:{}", index + 1)];
            spec.cluster_ip = addresses.first().cloned();
            spec.cluster_ips = Some(addresses);
        }
    }
    for daemon_set in &mut children.daemon_sets {
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
    for deployment in &mut children.deployments {
        deployment.metadata.generation = Some(1);
        deployment.status = Some(DeploymentStatus {
            observed_generation: Some(1),
            replicas: Some(2),
            updated_replicas: Some(2),
            ready_replicas: Some(2),
            ..DeploymentStatus::default()
        });
    }
    observed.children = children;
}

/// A cluster in which everything was built, runs, and answers.
pub(super) fn serving(spec: &str) -> Observed {
    let mut observed = cluster(spec);
    let first = built(&observed).1;
    applied(&mut observed, first);
    let second = built(&observed).1;
    let revision = second.revision.as_ref().unwrap().revision.clone();
    applied(&mut observed, second);
    let mut reports = Reports::new();
    for letter in ['a', 'b', 'c'] {
        let (pod, report) = node_pod(letter, &revision);
        reports.insert(pod.uid.clone(), report);
        observed.pods.push(pod);
        for index in 0..2 {
            let (pod, report) = resolver_pod(letter, index, &revision);
            reports.insert(pod.uid.clone(), report);
            observed.pods.push(pod);
        }
    }
    observed.reports = Arc::new(reports);
    observed
}

/// Changes what a pod said.
pub(super) fn says(observed: &mut Observed, pod: &str, change: impl FnOnce(&mut Answer)) {
    let uid = format!("uid-of-{pod}");
    let reports = Arc::make_mut(&mut observed.reports);
    change(reports.get_mut(&uid).unwrap().known.as_mut().unwrap());
}

fn instance(name: &str, revision: &Revision) -> Instance {
    Instance { name: name.to_owned(), alive: true, revision: revision.clone(), ..Instance::default() }
}

fn on(revision: &str) -> Revision {
    Revision { asked: Some(revision.to_owned()), in_force: Some(revision.to_owned()), refusal: None }
}

fn node_pod(letter: char, revision: &str) -> (TierPod, Report) {
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
        revision: on(revision),
        captured: captured.to_vec(),
        instances: vec![instance("cache-0", &on(revision)), instance("cache-1", &on(revision))],
    };
    let pod = pod(&name, letter, Component::NodeCache, revision);
    (pod, Report::first(Answer::Node(status)))
}

fn resolver_pod(letter: char, index: u32, revision: &str) -> (TierPod, Report) {
    let name = format!("resolver-{letter}-{index}");
    let status = ResolverStatus {
        pod_uid: format!("uid-of-{name}"),
        node: format!("node-{letter}"),
        zone: Some(format!("zone-{letter}")),
        ready: true,
        instance: instance("zone-resolver", &on(revision)),
    };
    let pod = TierPod {
        namespace: "dnstier-system".to_owned(),
        resolver_of: Some(format!("zone-{letter}")),
        metrics_port: 9153,
        ..pod(&name, letter, Component::ZoneResolver, revision)
    };
    (pod, Report::first(Answer::Resolver(status)))
}

fn pod(name: &str, letter: char, component: Component, revision: &str) -> TierPod {
    TierPod {
        namespace: "dnstier-node".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        tier: "default".to_owned(),
        component,
        resolver_of: None,
        node: Some(format!("node-{letter}")),
        address: None,
        metrics_port: 9353,
        ready: true,
        leaving: false,
        revision: Some(revision.to_owned()),
        zone: Some(format!("zone-{letter}")),
        waiting: None,
    }
}

/// The zone's Deployment.
pub(super) fn deployment_of<'a>(
    observed: &'a mut Observed,
    zone: &str,
) -> &'a mut k8s_openapi::api::apps::v1::Deployment {
    let of_zone = |deployment: &&mut k8s_openapi::api::apps::v1::Deployment| {
        deployment.metadata.labels.as_ref().and_then(|all| all.get(labels::ZONE)).map(String::as_str) == Some(zone)
    };
    observed.children.deployments.iter_mut().find(of_zone).unwrap()
}
