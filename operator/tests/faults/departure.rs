//! Nodes that leave a tier, before a real DaemonSet controller: pods go wave by wave, and those of the other nodes are
//! left alone until the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use dnstier_tests::require;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{LEFT_ZONE, World};
use crate::{cluster, runtime};

/// Zone of two more nodes that leave.
const OTHER_ZONE: &str = "zone-other";
/// Nodes beside those that every world has.
const MORE_NODES: [(&str, &str); 4] = [("b2", LEFT_ZONE), ("b3", LEFT_ZONE), ("c1", OTHER_ZONE), ("c2", OTHER_ZONE)];
const ALL: [&str; 7] = ["a1", "a2", "b1", "b2", "b3", "c1", "c2"];
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(300);

/// Pods of the nodes: their UIDs.
type Pods = BTreeMap<String, String>;

#[test]
fn nodes_leave_in_waves_and_a_revert_brings_them_back() {
    require!(require::control_plane());
    runtime().block_on(async {
        let world = World::create(cluster().await).await.unwrap();
        let result = leave_and_return(&world).await;
        let log = world.log(30);
        let nodes: Api<Node> = Api::all(world.cluster.client.clone());
        for (node, _) in MORE_NODES {
            drop(nodes.delete(&format!("{}-{node}", world.name), &DeleteParams::default()).await);
        }
        world.remove().await;
        result.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
    });
}

async fn leave_and_return(world: &World) -> Result<()> {
    for (node, zone) in MORE_NODES {
        world.set_zone(node, zone).await?;
    }
    world.start_operator(None)?;
    world.apply_tier(spec(&[])).await?;
    let first = wait_until(world, "the first pods", |pods| is_complete(world, pods, &ALL)).await?;

    world.apply_tier(spec(&[LEFT_ZONE, OTHER_ZONE])).await?;
    let waves = departures(world, &first, 5).await?;
    let expected: [&[&str]; 4] = [&["b1", "c1"], &["c2"], &["b2"], &["b3"]];
    ensure!(waves == expected.map(names), "{waves:?}");
    let second = wait_until(world, "the restart of those that stay", |pods| {
        is_complete(world, pods, &["a1", "a2"]) && ["a1", "a2"].iter().all(|node| pods[*node] != first[*node])
    })
    .await?;

    world.apply_tier(spec(&[])).await?;
    let third = wait_until(world, "all nodes again", |pods| {
        is_complete(world, pods, &ALL) && ["a1", "a2"].iter().all(|node| pods[*node] != second[*node])
    })
    .await?;
    world.apply_tier(spec(&[LEFT_ZONE, OTHER_ZONE])).await?;
    let waves = departures(world, &third, 2).await?;
    ensure!(waves == [names(&["b1", "c1"])], "{waves:?}");
    world.apply_tier(spec(&[])).await?;
    let last = wait_until(world, "all nodes after the revert", |pods| is_complete(world, pods, &ALL)).await?;
    let new: BTreeSet<&str> = ALL.into_iter().filter(|node| last[*node] != third[*node]).collect();
    ensure!(new == BTreeSet::from(["b1", "c1"]), "these pods are new: {new:?}");
    Ok(())
}

/// Returns a spec that excludes these zones.
fn spec(excluded: &[&str]) -> Value {
    let mut spec = json!({
        "nodeCache": {"instances": 1},
        "resolvers": {"replicasPerZone": 1, "upstreams": [{"addresses": ["192.0.2.53"]}]},
        "rollout": {"soak": "5s", "waveSize": 1},
    });
    if !excluded.is_empty() {
        let zone = json!({"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": excluded});
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": [zone]}]});
        spec["nodeCache"]["affinity"] =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    }
    spec
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Returns the pods of the nodes that are not being deleted.
fn pods(world: &World) -> Pods {
    let namespace = format!("{}-node", world.name);
    let pods = world
        .cluster
        .objects
        .select(|key, pod| key.0 == "Pod" && key.1 == namespace && pod["metadata"]["deletionTimestamp"].is_null());
    let pods = pods.into_iter().filter_map(|(_, pod)| {
        let node = pod["spec"]["nodeName"].as_str()?.strip_prefix(&format!("{}-", world.name))?.to_owned();
        Some((node, pod["metadata"]["uid"].as_str()?.to_owned()))
    });
    pods.collect()
}

/// Returns the tier as the test's watch has it.
fn tier(world: &World) -> Value {
    world.cluster.objects.get("DnsTier", "", &world.name).map(|tier| (*tier).clone()).unwrap_or_default()
}

/// Returns the condition `RolledOut` of the newest spec: its status; `None` for that of an older one.
fn rolled_out(world: &World) -> Option<String> {
    let tier = tier(world);
    let conditions = tier["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == "RolledOut")?;
    let is_newest = condition["observedGeneration"] == tier["metadata"]["generation"];
    condition["status"].as_str().filter(|_| is_newest).map(str::to_owned)
}

/// Returns whether these nodes, and no others, have a pod of the newest template, and the spec is rolled out.
fn is_complete(world: &World, pods: &Pods, nodes: &[&str]) -> bool {
    let daemon_sets = world.cluster.objects.select(|key, _| key.0 == "DaemonSet" && key.1.starts_with(&world.name));
    let Some((_, daemon_set)) = daemon_sets.first() else { return false };
    let status = &daemon_set["status"];
    let has_all = |field: &str| status[field] == nodes.len();
    pods.keys().eq(nodes.iter())
        && rolled_out(world).as_deref() == Some("True")
        && daemon_set["spec"]["updateStrategy"]["type"] == "RollingUpdate"
        && status["observedGeneration"] == daemon_set["metadata"]["generation"]
        && has_all("desiredNumberScheduled")
        && has_all("updatedNumberScheduled")
        && has_all("numberAvailable")
}

async fn wait_until(world: &World, what: &str, is_true: impl Fn(&Pods) -> bool) -> Result<Pods> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let pods = pods(world);
        if is_true(&pods) {
            return Ok(pods);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    bail!("never: {what}: {:?} {:#}", pods(world), tier(world)["status"])
}

/// Returns the nodes whose pods go, wave by wave, until this many pods of nodes are left or fewer. Until then every
/// other pod stays as it is, and the status says that the spec is not rolled out.
async fn departures(world: &World, before: &Pods, most: usize) -> Result<Vec<BTreeSet<String>>> {
    let mut waves: Vec<(Instant, BTreeSet<String>)> = Vec::new();
    let mut left: Pods = before.clone();
    let start = Instant::now();
    let most = before.len() - most;
    while left.len() > most {
        ensure!(start.elapsed() < LIMIT, "no node leaves any more: {waves:?} {:#}", tier(world)["status"]);
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = pods(world);
        let gone: BTreeSet<String> = left.keys().filter(|node| !now.contains_key(*node)).cloned().collect();
        for (node, uid) in &now {
            ensure!(before.get(node) == Some(uid), "the pod of {node} is another one: {waves:?}");
            ensure!(left.contains_key(node), "{node} is back: {waves:?}");
        }
        if gone.is_empty() {
            continue;
        }
        ensure!(rolled_out(world).as_deref() == Some("False"), "{gone:?} leave before the status says so");
        left.retain(|node, _| !gone.contains(node));
        // Pods of one wave go within moments.
        match waves.last_mut() {
            Some((time, wave)) if time.elapsed() < Duration::from_secs(3) => wave.extend(gone),
            _ => waves.push((Instant::now(), gone)),
        }
    }
    Ok(waves.into_iter().map(|(_, wave)| wave).collect())
}
