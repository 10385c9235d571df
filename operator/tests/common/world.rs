//! World of one life: a tier with nodes and namespaces of its own in the cluster that all lives share, an operator that
//! sees nothing else, and the proxy between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use dnstier_crds::DnsTier;
use dnstier_tests::lab::{LoopbackControlPlane, Programs};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::apply::apply;
use super::decision::OldLists;
use super::kubelet;
use super::objects::{KINDS, Objects};
use super::proxy::Proxy;

const CRDS: &str = include_str!("../../../charts/dnstier/files/dnstiers.yaml");
/// Label of a node and of a tier with the world that it is in.
pub(crate) const WORLD_LABEL: &str = "faults/world";
/// Letters of the nodes and their zones at the begin of a life.
const NODES: [(&str, &str); 3] = [("a1", "zone-stay"), ("a2", "zone-stay"), (MOVING_NODE, LEFT_ZONE)];
/// Node that changes its zone, where it is alone.
pub(crate) const MOVING_NODE: &str = "b1";
pub(crate) const LEFT_ZONE: &str = "zone-old";
pub(crate) const NEW_ZONE: &str = "zone-new";

/// Cluster that all worlds share.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) objects: Arc<Objects>,
    worlds: AtomicUsize,
    control_plane: LoopbackControlPlane,
}

impl Cluster {
    /// Starts a control plane, and what makes pods run.
    pub(crate) async fn start(programs: &Programs) -> Result<Arc<Self>> {
        let control_plane = LoopbackControlPlane::start(programs, &[CRDS])?;
        let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let objects = Arc::new(Objects::default());
        for kind in KINDS {
            let (objects, client) = (objects.clone(), client.clone());
            tokio::spawn(async move { objects.watch(client, kind).await });
        }
        tokio::spawn(kubelet::run(client.clone(), objects.clone()));
        let mut looks = 0;
        while !objects.are_listed() {
            looks += 1;
            anyhow::ensure!(looks < 600, "the lists are not complete: {}", control_plane.log("kube-apiserver"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Arc::new(Self { client, objects, worlds: AtomicUsize::new(0), control_plane }))
    }

    /// Returns the ends of the logs of the control plane.
    pub(crate) fn logs(&self) -> String {
        ["kube-apiserver", "kube-controller-manager"].map(|process| self.control_plane.log(process)).join("\n")
    }
}

/// World of one life, with one tier unless a test makes more. Its processes end on drop.
pub(crate) struct World {
    /// Name of the world and of its tier.
    pub(crate) name: String,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) proxy: Proxy,
    operator: Arc<Mutex<Option<Child>>>,
    /// Letters of the nodes and their zones at the begin.
    nodes: &'static [(&'static str, &'static str)],
    /// Ends of the names of the namespaces with a cluster DNS Service.
    dns: &'static [&'static str],
    folder: tempfile::TempDir,
}

impl World {
    /// Creates namespaces, three nodes and a cluster DNS Service, and starts the proxy. No operator runs yet.
    pub(crate) async fn create(cluster: Arc<Cluster>) -> Result<Self> {
        Self::create_with(cluster, &NODES, &["dns"]).await
    }

    /// Creates a world with these nodes in these zones, and a cluster DNS Service in each of these namespaces.
    pub(crate) async fn create_with(
        cluster: Arc<Cluster>,
        nodes: &'static [(&'static str, &'static str)],
        dns: &'static [&'static str],
    ) -> Result<Self> {
        let name = format!("w{:04}", cluster.worlds.fetch_add(1, Ordering::Relaxed));
        for part in ["system", "node"].iter().chain(dns) {
            create_namespace(&cluster.client, &format!("{name}-{part}")).await?;
        }
        let ports = json!([
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns"},
            "spec": {"selector": {"k8s-app": "kube-dns"}, "ports": ports},
        });
        for part in dns {
            let services: Api<Service> = Api::namespaced(cluster.client.clone(), &format!("{name}-{part}"));
            apply(&services, "kube-dns", service.clone()).await?;
        }

        let operator: Arc<Mutex<Option<Child>>> = Arc::default();
        let victim = operator.clone();
        let proxy = Proxy::start(cluster.client.clone(), scope_of(&name), move || kill(&victim)).await?;
        let world = Self { name, cluster, proxy, operator, nodes, dns, folder: tempfile::tempdir()? };
        for (node, zone) in nodes {
            world.set_zone(node, zone).await?;
        }
        Ok(world)
    }

    /// Starts an operator; its first lists may be old ones.
    pub(crate) fn start_operator(&self, old: Option<OldLists>) -> Result<()> {
        self.proxy.begin_life(old);
        let child = self.spawn_operator("system", &self.proxy)?;
        *self.operator.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Starts the operator of another release, in a namespace that ends with `part`.
    pub(crate) async fn start_release(&self, part: &str) -> Result<Release> {
        let client = self.cluster.client.clone();
        create_namespace(&client, &format!("{}-{part}", self.name)).await?;
        let operator: Arc<Mutex<Option<Child>>> = Arc::default();
        let victim = operator.clone();
        let proxy = Proxy::start(client, scope_of(&self.name), move || kill(&victim)).await?;
        let child = self.spawn_operator(part, &proxy)?;
        *operator.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(Release { proxy, operator })
    }

    /// Starts an operator of the release whose namespace ends with `part`, behind a proxy.
    fn spawn_operator(&self, part: &str, proxy: &Proxy) -> Result<Child> {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", proxy.address)}}],
            "users": [{"name": "operator", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
        });
        let path = self.path(&format!("kubeconfig-{part}"));
        std::fs::write(&path, kubeconfig.to_string())?;
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"))?;
        let name = &self.name;
        let dns: Vec<String> = self.dns.iter().map(|part| format!("{name}-{part}")).collect();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_dnstier-operator")]);
        command.args([
            &format!("--namespace={name}-{part}"),
            &format!("--node-namespace={name}-node"),
            &format!("--cluster-dns-namespaces={}", dns.join(",")),
            "--node-cache-image=registry.example/node-cache:1",
            "--zone-prune-delay=1s",
            "--poll-interval=1s",
            "--metrics-port=0",
        ]);
        command.env_clear().env("KUBECONFIG", path).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DNSTIER_LOG", std::env::var("DNSTIER_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().context("cannot start the operator")
    }

    /// Frees the Lease of an operator that was killed, as its expiry would some seconds later.
    pub(crate) async fn free_lease(&self) {
        let leases: Api<Lease> = Api::namespaced(self.cluster.client.clone(), &format!("{}-system", self.name));
        drop(leases.delete("dnstier-operator", &DeleteParams::default()).await);
    }

    /// Creates the tier on all nodes, or changes its spec.
    pub(crate) async fn apply_tier(&self, spec: Value) -> Result<()> {
        self.apply_tier_on(&self.name, &json!({WORLD_LABEL: self.name}), spec).await
    }

    /// Creates a tier on the nodes with these labels, or changes its spec.
    pub(crate) async fn apply_tier_on(&self, name: &str, nodes: &Value, mut spec: Value) -> Result<()> {
        spec["clusterDns"] = json!({"namespace": format!("{}-dns", self.name), "name": "kube-dns"});
        spec["nodeCache"]["nodeSelector"] = nodes.clone();
        spec["resolvers"]["nodeSelector"] = nodes.clone();
        let tier = self.tier(name, &spec);
        apply::<DnsTier>(&Api::all(self.cluster.client.clone()), name, tier).await?;
        Ok(())
    }

    /// Returns a tier of this world.
    pub(crate) fn tier(&self, name: &str, spec: &Value) -> Value {
        let metadata = json!({"name": name, "labels": {WORLD_LABEL: self.name}});
        json!({"apiVersion": "dnstier.io/v1alpha1", "kind": "DnsTier", "metadata": metadata, "spec": spec})
    }

    /// Deletes the tier.
    pub(crate) async fn delete_tier(&self) -> Result<()> {
        let tiers: Api<DnsTier> = Api::all(self.cluster.client.clone());
        tiers.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Creates a node in a zone, or moves it there.
    pub(crate) async fn set_zone(&self, node: &str, zone: &str) -> Result<()> {
        let name = format!("{}-{node}", self.name);
        let labels = json!({
            WORLD_LABEL: self.name, "topology.kubernetes.io/zone": zone,
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        });
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        let nodes: Api<Node> = Api::all(self.cluster.client.clone());
        apply(&nodes, &name, object).await?;
        let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "capacity": resources, "allocatable": resources,
        }});
        nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// Returns whether the operator has ended by itself.
    pub(crate) fn has_operator_ended(&self) -> bool {
        let mut operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        operator.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Returns the operator's log.
    pub(crate) fn whole_log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Returns the last lines of the operator's log.
    pub(crate) fn log(&self, lines: usize) -> String {
        let text = self.whole_log();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Ends the operator, and removes the nodes.
    pub(crate) async fn remove(self) {
        self.proxy.kill();
        let nodes: Api<Node> = Api::all(self.cluster.client.clone());
        for (node, _) in self.nodes {
            drop(nodes.delete(&format!("{}-{node}", self.name), &DeleteParams::default()).await);
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        kill(&self.operator);
    }
}

/// Operator of another release in a world. It ends on drop.
pub(crate) struct Release {
    pub(crate) proxy: Proxy,
    operator: Arc<Mutex<Option<Child>>>,
}

impl Drop for Release {
    fn drop(&mut self) {
        kill(&self.operator);
    }
}

/// Returns the parameters of lists that show an operator one world only.
fn scope_of(world: &str) -> BTreeMap<&'static str, String> {
    let of_world = format!("labelSelector=faults%2Fworld%3D{world}");
    BTreeMap::from([("nodes", of_world.clone()), ("dnstiers", of_world)])
}

async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    apply::<Namespace>(&Api::all(client.clone()), name, object).await?;
    Ok(())
}

/// Kills the operator and waits for its end.
fn kill(operator: &Mutex<Option<Child>>) {
    if let Some(mut child) = operator.lock().unwrap_or_else(PoisonError::into_inner).take() {
        drop(child.kill());
        drop(child.wait());
    }
}
