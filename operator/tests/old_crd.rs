//! The operator on a real API server whose CustomResourceDefinition is that of an earlier release: fields of the status
//! are not in its schema.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dnstier_crds::DnsTier;
use dnstier_crds::v1alpha1::{DnsTierStatus, definition};
use dnstier_tests::lab::LoopbackControlPlane;
use dnstier_tests::require;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

/// Limit of each wait, far above any observed time.
const LIMIT: Duration = Duration::from_secs(300);
const MANAGER: &str = "test";
/// Properties of the status below the schema.
const STATUS: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
/// A cluster of two nodes, on one of which no resolver can be placed, which `status.zones[].noResolvers` tells.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: dnstier-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: dnstier-node}}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: v1
kind: Node
metadata:
  name: node-a
  labels: {kubernetes.io/os: linux, kubernetes.io/arch: amd64, topology.kubernetes.io/zone: zone-a}
---
apiVersion: v1
kind: Node
metadata:
  name: control-plane
  labels: {kubernetes.io/os: linux, kubernetes.io/arch: amd64}
spec: {taints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]}
"#;

/// Operator that ends with the test.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Returns the definition without the roll-out, and without an optional field in a list.
fn earlier_definition() -> Value {
    let mut definition = serde_json::to_value(definition()).unwrap();
    let status = definition.pointer_mut(STATUS).unwrap();
    for (path, field) in [("", "rollout"), ("/zones/items/properties", "noResolvers")] {
        let properties = status.pointer_mut(path).unwrap().as_object_mut().unwrap();
        assert!(properties.remove(field).is_some(), "{field} is not in the definition");
    }
    definition
}

async fn status(client: &Client) -> DnsTierStatus {
    let tiers: Api<DnsTier> = Api::all(client.clone());
    tiers.get("default").await.unwrap().status.unwrap_or_default()
}

/// Waits for a status with this property, and returns it.
async fn wait_for_status(client: &Client, what: &str, is_right: impl Fn(&DnsTierStatus) -> bool) -> DnsTierStatus {
    let start = std::time::Instant::now();
    loop {
        let status = status(client).await;
        if is_right(&status) {
            return status;
        }
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}; {:#}", json!(status));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns the condition that tells of the old definition.
fn complaint(status: &DnsTierStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.message.contains("is older than the operator"))
}

#[tokio::test]
async fn a_status_is_written_without_the_fields_that_an_old_definition_does_not_know_until_it_is_upgraded() {
    require!(require::control_plane());
    let programs = require::control_plane().unwrap();
    let control_plane = LoopbackControlPlane::start(&programs, &[&earlier_definition().to_string(), CLUSTER]).unwrap();
    let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let apply = PatchParams::apply(MANAGER).force();
    let tier = json!({
        "apiVersion": "dnstier.io/v1alpha1", "kind": "DnsTier", "metadata": {"name": "default"}, "spec": {},
    });
    let tiers: Api<DnsTier> = Api::all(client.clone());
    tiers.patch("default", &apply, &Patch::Apply(&tier)).await.unwrap();
    let operator = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_dnstier-operator")])
        .args(["--node-cache-image=registry.example/node-cache:1", "--metrics-port=0"])
        .env("KUBECONFIG", control_plane.kubeconfig())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let _operator = Operator(operator);

    // The first status has no roll-out yet.
    let fields = "drops status.rollout and status.zones[].noResolvers";
    let names_all = |status: &DnsTierStatus| complaint(status).is_some_and(|told| told.message.contains(fields));
    let old = wait_for_status(&client, "the complaint", names_all).await;
    let Condition { type_, status: truth, reason, message, .. } = complaint(&old).unwrap();
    assert_eq!((type_.as_str(), truth.as_str(), reason.as_str()), ("Degraded", "True", "CrdTooOld"));
    let command = "helm template dnstier charts/dnstier --set crds.install=true --show-only templates/crd.yaml | \
                   kubectl apply --server-side --force-conflicts -f -";
    assert!(message.contains(command), "{message}");
    assert!(old.rollout.is_none() && old.zones.iter().all(|zone| zone.no_resolvers.is_none()));
    assert_eq!((old.nodes.as_ref().map(|nodes| nodes.desired), old.zones.len()), (Some(2), 2), "the rest is there");

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch("dnstiers.dnstier.io", &apply, &Patch::Apply(definition())).await.unwrap();
    // Otherwise the operator tries again after a minute.
    let spec = json!({"spec": {"rollout": {"soak": "5s"}}});
    tiers.patch("default", &PatchParams::default(), &Patch::Merge(&spec)).await.unwrap();
    let is_whole = |status: &DnsTierStatus| {
        let has_obstacle = status.zones.iter().any(|zone| zone.no_resolvers.is_some());
        status.rollout.is_some() && has_obstacle && complaint(status).is_none()
    };
    wait_for_status(&client, "the whole status", is_whole).await;
}
