//! Nodes that leave a tier, before a real DaemonSet controller: pods go wave by wave, and those of the other nodes are
//! left alone until the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dnstier_tests::require;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::decision::{Fault, Kind, OldLists, Placement};
use crate::world::{Cluster, LEFT_ZONE, World};
use crate::{cluster, runtime};

/// Zone of two more nodes that leave.
const OTHER_ZONE: &str = "zone-other";
/// Nodes beside those that every world has.
const MORE_NODES: [(&str, &str); 4] = [("b2", LEFT_ZONE), ("b3", LEFT_ZONE), ("c1", OTHER_ZONE), ("c2", OTHER_ZONE)];
const ALL: [&str; 7] = ["a1", "a2", "b1", "b2", "b3", "c1", "c2"];
/// Number of worlds at a time.
const WORLDS: usize = 6;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(300);

/// Pods of the nodes: their UIDs.
type Pods = BTreeMap<String, String>;

/// Faults of the operator while nodes leave.
type Faults = Vec<Placement>;

#[test]
fn nodes_leave_in_waves_and_a_revert_brings_them_back() {
    require!(require::control_plane());
    runtime().block_on(in_worlds(vec![(Vec::new(), true)]));
}

#[test]
fn an_operator_that_is_killed_while_nodes_leave_leaves_the_waves_as_they_are() {
    require!(require::control_plane());
    let at = |nth, fault| Placement::at(Kind::Write, nth, fault);
    let some = [
        vec![at(1, Fault::KillAfter), at(4, Fault::KillBefore)],
        vec![at(3, Fault::KillBefore), at(6, Fault::KillAfter)],
        vec![at(2, Fault::KillAfter), at(8, Fault::KillAfter)],
    ];
    runtime().block_on(in_worlds(some.map(|faults| (faults, false)).into()));
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn an_operator_that_is_killed_at_any_write_while_nodes_leave_leaves_the_waves_as_they_are() {
    require!(require::control_plane());
    let faults = (1..=16).flat_map(|nth| {
        [Fault::KillBefore, Fault::KillAfter].map(|fault| (vec![Placement::at(Kind::Write, nth, fault)], false))
    });
    runtime().block_on(in_worlds(faults.collect()));
}

/// Lets nodes leave in worlds of their own, some at a time. With `true`, they return too.
async fn in_worlds(cases: Vec<(Faults, bool)>) {
    let (cluster, turns) = (cluster().await, Arc::new(Semaphore::new(WORLDS)));
    let worlds = cases.into_iter().map(|(faults, returns)| {
        let (cluster, turns) = (cluster.clone(), turns.clone());
        tokio::spawn(async move {
            let _turn = turns.acquire().await;
            in_world(cluster, faults, returns).await
        })
    });
    let mut hits = 0;
    for world in futures::future::join_all(worlds).await {
        hits += world.unwrap().unwrap_or_else(|error| panic!("{error:#}"));
    }
    eprintln!("{hits} faults");
}

/// Lets nodes leave in a world, and returns the number of faults.
async fn in_world(cluster: Arc<Cluster>, faults: Faults, returns: bool) -> Result<usize> {
    let world = World::create(cluster).await?;
    for (node, zone) in MORE_NODES {
        world.set_zone(node, zone).await?;
    }
    world.start_operator(None)?;
    let result = async {
        let before = leave(&world, faults.clone()).await?;
        let (hits, met) = (world.proxy.hits(), world.proxy.met());
        let without: Vec<&Placement> = faults.iter().filter(|placement| !met.contains(placement)).collect();
        ensure!(without.is_empty(), "these faults met nothing: {without:?}");
        if returns {
            return_twice(&world, before).await?;
        }
        anyhow::Ok(hits)
    }
    .await;
    let requests = world.proxy.log();
    let requests = requests[requests.len().saturating_sub(40)..].join("\n");
    let result = result.with_context(|| format!("{faults:?} {requests}\n{}", world.log(30)));
    let nodes: Api<Node> = Api::all(world.cluster.client.clone());
    for (node, _) in MORE_NODES {
        drop(nodes.delete(&format!("{}-{node}", world.name), &DeleteParams::default()).await);
    }
    world.remove().await;
    result
}

/// Lets the nodes of two zones leave, and returns the pods afterwards.
async fn leave(world: &World, faults: Faults) -> Result<Pods> {
    world.apply_tier(spec(&[])).await?;
    let first = wait_until(world, "the first pods", |pods| is_complete(world, pods, &ALL)).await?;
    // A new operator begins with the DaemonSet from before.
    world.proxy.record_lists().await;
    world.proxy.begin_phase(faults, None);
    world.apply_tier(spec(&[LEFT_ZONE, OTHER_ZONE])).await?;
    let waves = departures(world, &first, 5).await?;
    let expected: [&[&str]; 4] = [&["b1", "c1"], &["c2"], &["b2"], &["b3"]];
    ensure!(waves == expected.map(names), "{waves:?}");
    let stay = ["a1", "a2"];
    let is_restarted =
        |pods: &Pods| is_complete(world, pods, &stay) && stay.iter().all(|node| pods[*node] != first[*node]);
    let second = wait_until(world, "the restart of those that stay", is_restarted).await?;
    let made = world.cluster.objects.history(|key, _| key.0 == "Pod" && key.1 == format!("{}-node", world.name));
    ensure!(made.len() == ALL.len() + stay.len(), "{} pods were made", made.len());
    Ok(second)
}

/// Lets all nodes return, then some leave and return in the middle.
async fn return_twice(world: &World, before: Pods) -> Result<()> {
    world.apply_tier(spec(&[])).await?;
    let all = wait_until(world, "all nodes again", |pods| {
        is_complete(world, pods, &ALL) && before.iter().all(|(node, uid)| pods[node] != *uid)
    })
    .await?;
    world.apply_tier(spec(&[LEFT_ZONE, OTHER_ZONE])).await?;
    let waves = departures(world, &all, 2).await?;
    ensure!(waves == [names(&["b1", "c1"])], "{waves:?}");
    world.apply_tier(spec(&[])).await?;
    let last = wait_until(world, "all nodes after the revert", |pods| is_complete(world, pods, &ALL)).await?;
    let new: BTreeSet<&str> = ALL.into_iter().filter(|node| last[*node] != all[*node]).collect();
    ensure!(new == BTreeSet::from(["b1", "c1"]), "these pods are new: {new:?}");
    Ok(())
}

/// Waits a moment. An operator that was killed meanwhile is followed by one whose first list of DaemonSets is old.
async fn wait(world: &World) -> Result<()> {
    tokio::select! {
        () = world.proxy.killed() => {
            world.free_lease().await;
            world.start_operator(Some(OldLists::Of("daemonsets")))?;
        }
        () = tokio::time::sleep(LOOK_INTERVAL) => {}
    }
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
        wait(world).await?;
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
        wait(world).await?;
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
