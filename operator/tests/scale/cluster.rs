//! Cluster of many nodes in three zones: etcd, API server, controllers and scheduler are real, kwok plays nodes and
//! kubelets, and the test the data plane.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dnstier_crds::DnsTier;
use dnstier_tests::lab::{LoopbackControlPlane, Programs};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::apply::apply;
use crate::audit::AuditLog;
use crate::forwarder::Forwarder;
use crate::operator::Operator;
use crate::pods::Pods;
use crate::seconds::now;

const CRDS: &str = include_str!("../../../charts/dnstier/files/dnstiers.yaml");
const STAGES: &str = include_str!("stages.yaml");
/// Name of the tier.
pub(crate) const TIER: &str = "default";
/// Name of the ConfigMap with the record of its roll-outs.
pub(crate) const RECORD: &str = "dnstier-default-rollout";
pub(crate) const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];
/// Nodes that are created at a time.
const CONCURRENCY: usize = 32;
/// Time in which kwok's kubelets renew a Lease: nobody here reads it.
const NODE_LEASE: &str = "3600";

/// Step of a roll-out, as its record tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// Time at which the record came, in seconds of the Unix epoch.
    pub(crate) time: f64,
    pub(crate) name: String,
    pub(crate) target: String,
    /// Nodes of the step, or names of resolvers.
    pub(crate) moved: Vec<String>,
    /// Whether every pod of the step has the target in force.
    pub(crate) is_watched: bool,
}

/// Cluster with its tier. Its processes end on drop.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) pods: Pods,
    pub(crate) forwarder: Forwarder,
    pub(crate) audit: Mutex<AuditLog>,
    steps: Arc<Mutex<Vec<Step>>>,
    control_plane: LoopbackControlPlane,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts the cluster and waits until all nodes are Ready.
    ///
    /// # Errors
    /// When a process does not start.
    pub(crate) async fn start(programs: &Programs, nodes: usize) -> Result<Self> {
        let mut control_plane = LoopbackControlPlane::start(programs, &[CRDS])?;
        let kubeconfig = control_plane.kubeconfig().display().to_string();
        let part = part();
        let scheduler = [
            ("kubeconfig", kubeconfig.as_str()),
            ("leader-elect", "false"),
            ("secure-port", "0"),
            ("kube-api-qps", "500"),
            ("kube-api-burst", "1000"),
        ];
        control_plane.start_program(programs, "kube-scheduler", &scheduler)?;
        let cidr = format!("127.{part}.200.1/24");
        let folder = tempfile::tempdir()?;
        let stages = folder.path().join("stages.yaml");
        std::fs::write(&stages, STAGES)?;
        let kwok = [
            ("kubeconfig", kubeconfig.as_str()),
            ("config", &stages.display().to_string()),
            ("manage-all-nodes", "true"),
            ("cidr", &cidr),
            ("node-lease-duration-seconds", NODE_LEASE),
        ];
        control_plane.start_program(programs, "kwok", &kwok)?;

        let config = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let pods = Pods::default();
        tokio::spawn(pods.clone().run(client.clone()));
        let steps: Arc<Mutex<Vec<Step>>> = Arc::default();
        tokio::spawn(watch_record(client.clone(), steps.clone()));
        let forwarder = Forwarder::start(control_plane.address()).await?;
        let kubeconfig = control_plane.audited_kubeconfig(forwarder.address);
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string())?;
        let audit = Mutex::new(AuditLog::new(control_plane.audit_log()));
        let cluster = Self { client, pods, forwarder, audit, steps, control_plane, folder };
        cluster.create_namespaces().await?;
        cluster.create_nodes(nodes, part).await?;
        Ok(cluster)
    }

    async fn create_namespaces(&self) -> Result<()> {
        for name in ["dnstier-system", "dnstier-node"] {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            apply::<Namespace>(&Api::all(self.client.clone()), name, object).await?;
        }
        let ports = json!([
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"selector": {"k8s-app": "kube-dns"}, "ports": ports},
        });
        apply::<Service>(&Api::namespaced(self.client.clone(), "kube-system"), "kube-dns", service).await?;
        Ok(())
    }

    async fn create_nodes(&self, nodes: usize, part: u8) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let create = async |index: usize| -> Result<()> {
            let node: Node = serde_json::from_value(node(index, part))?;
            api.create(&PostParams::default(), &node).await.context("cannot create a node")?;
            Ok(())
        };
        stream::iter(0..nodes).map(create).buffer_unordered(CONCURRENCY).try_collect::<Vec<()>>().await?;
        let limit = now() + 600.0;
        loop {
            let list = api.list(&ListParams::default()).await?;
            let is_ready = |node: &&Node| {
                let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
                conditions.into_iter().flatten().any(|each| each.type_ == "Ready" && each.status == "True")
            };
            if list.items.iter().filter(is_ready).count() == nodes {
                return Ok(());
            }
            ensure!(now() < limit, "the nodes are not Ready: {}", self.control_plane.log("kwok"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Starts an operator.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_operator(&self) -> Result<Operator> {
        Operator::start(&self.folder.path().join("kubeconfig"), self.folder.path())
    }

    /// Creates the tier, or changes its spec, and returns its generation.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(crate) async fn apply_tier(&self, max_ttl: &str, rollout: Value) -> Result<i64> {
        let tier = json!({
            "apiVersion": "dnstier.io/v1alpha1", "kind": "DnsTier", "metadata": {"name": TIER},
            "spec": {
                "nodeCache": {"cache": {"maxTtl": max_ttl}},
                "resolvers": {"upstreams": [{"addresses": ["192.0.2.53", "192.0.2.54"]}]},
                "routes": [{"suffix": "corp.example", "upstreams": [{"addresses": ["192.0.2.55"]}]}],
                "rollout": rollout,
            },
        });
        let tiers: Api<DnsTier> = Api::all(self.client.clone());
        let tier = apply(&tiers, TIER, tier).await?;
        tier.metadata.generation.context("a tier without a generation")
    }

    /// Waits until the tier is Ready and has rolled out its spec of this generation.
    ///
    /// # Errors
    /// When it has not after this time, in seconds.
    pub(crate) async fn wait_for_rest(&self, generation: i64, limit: f64) -> Result<()> {
        let tiers: Api<DnsTier> = Api::all(self.client.clone());
        let limit = now() + limit;
        loop {
            let tier = tiers.get(TIER).await?;
            let status = tier.status.unwrap_or_default();
            let has = |type_: &str| {
                let of_type = |each: &&_| each_is(each, type_, generation);
                status.conditions.iter().any(|each| of_type(&each))
            };
            if has("RolledOut") && has("Ready") {
                return Ok(());
            }
            ensure!(
                now() < limit,
                "the tier does not come to rest: {}\n{:?}\n{}",
                serde_json::to_string(&status)?,
                self.pods.revisions(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits for a step of a roll-out that came after a time.
    ///
    /// # Errors
    /// When there is none within this time, in seconds.
    pub(crate) async fn wait_for_step(&self, since: f64, limit: f64, is_it: impl Fn(&Step) -> bool) -> Result<Step> {
        let limit = now() + limit;
        loop {
            let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let found = steps.iter().find(|step| step.time >= since && is_it(step));
            if let Some(found) = found {
                return Ok(found.clone());
            }
            ensure!(now() < limit, "the step does not come after {:?}\n{}", steps.last(), self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the zones of these nodes.
    pub(crate) fn zones_of(nodes: &[String]) -> BTreeMap<&str, &str> {
        let zone_of = |name: &str| name.rsplit('-').next().and_then(|number| number.parse().ok()).map(zone);
        nodes.iter().filter_map(|node| Some((node.as_str(), zone_of(node)?))).collect()
    }

    /// Returns the last lines of the operator's log.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("operator.log")
    }
}

/// Returns the second part of the addresses, which differs among test programs that run side by side.
fn part() -> u8 {
    16 + u8::try_from(std::process::id() % 200).unwrap_or_default()
}

fn zone(index: usize) -> &'static str {
    ZONES[index % ZONES.len()]
}

/// Returns a node as a kubelet creates it; kwok makes it Ready.
fn node(index: usize, part: u8) -> Value {
    let name = format!("node-{index:04}");
    let octet = |value: usize| u8::try_from(value).unwrap_or_default();
    let address = Ipv4Addr::new(127, part, octet(index / 250), octet(index % 250 + 1));
    let resources = json!({"cpu": "4", "memory": "16Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "topology.kubernetes.io/zone": zone(index), "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        }},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name},
            ],
            "capacity": resources, "allocatable": resources,
        },
    })
}

fn each_is(
    condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition,
    type_: &str,
    generation: i64,
) -> bool {
    condition.type_ == type_ && condition.status == "True" && condition.observed_generation == Some(generation)
}

/// Keeps every change of the record of the roll-outs.
async fn watch_record(client: Client, steps: Arc<Mutex<Vec<Step>>>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={RECORD}"));
    let record: Api<ConfigMap> = Api::namespaced(client, "dnstier-system");
    let mut events = watcher(record, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(record) | watcher::Event::InitApply(record)) = event else { continue };
        let text = record.data.and_then(|mut data| data.remove("record.json")).unwrap_or_default();
        let record: Value = serde_json::from_str(&text).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let moved = record["moved"].as_array().into_iter().flatten().map(text).collect();
        let step = Step {
            time: now(),
            name: text(&record["step"]),
            target: text(&record["target"]["id"]),
            moved,
            is_watched: record["watchedSince"].is_string(),
        };
        steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }
}
