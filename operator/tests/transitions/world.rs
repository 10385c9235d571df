//! World of a tier that is driven: its nodes, their labels, and what fields can name.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::common::world::World;

/// Letters of the nodes and their zones.
pub(crate) const NODES: [(&str, &str); 4] = [("a1", "zone-a"), ("a2", "zone-a"), ("a3", "zone-a"), ("b1", "zone-b")];
/// Node that a part of the tiers leave out.
const OUTSIDE: &str = "a3";

/// Labels the nodes, makes what specs name, and returns the address of the cluster DNS.
pub(crate) async fn prepare(world: &World) -> Result<String> {
    let client = &world.cluster.client;
    let nodes: Api<Node> = Api::all(client.clone());
    for (node, _) in NODES {
        let mut labels = json!({"driver/all": "yes", "driver/number": "5"});
        if node != OUTSIDE {
            labels["driver/part"] = json!("yes");
        }
        let patch = json!({"metadata": {"labels": labels}});
        nodes.patch(&format!("{}-{node}", world.name), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "driver-class"}, "value": 7,
    });
    let params = PatchParams::apply("driver").force();
    Api::<PriorityClass>::all(client.clone()).patch("driver-class", &params, &Patch::Apply(&class)).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), &format!("{}-dns", world.name));
    for (name, spec) in services_of_dns() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        services.patch(name, &params, &Patch::Apply(&service)).await?;
    }
    let service = services.get("kube-dns").await?;
    service.spec.and_then(|spec| spec.cluster_ip).context("the cluster DNS has no address")
}

/// Returns further Services that a tier may name as its cluster DNS, most of which it cannot use.
fn services_of_dns() -> [(&'static str, Value); 4] {
    let selector = json!({"k8s-app": "other-dns"});
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    [
        ("other-dns", json!({"selector": selector, "ports": ports})),
        ("headless-dns", json!({"selector": selector, "ports": ports, "clusterIP": "None"})),
        ("unselecting-dns", json!({"ports": ports})),
        ("portless-dns", json!({"selector": selector, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]})),
    ]
}
