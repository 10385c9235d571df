//! Two releases in one cluster: the second leaves the tier of the first alone, and takes it over once that is gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use dnstier_tests::require;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::state::is_at_rest;
use crate::waits::{LIMIT, LOOK_INTERVAL, wait_until};
use crate::world::World;
use crate::{cluster, runtime};

/// Time without a renewal of its Lease that a release is given at least, less the time between two looks.
const SILENCE: Duration = Duration::from_secs(50);
/// Time in which the tier of a release that is gone has to be taken over.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(90);
/// Reason of the event of a release that finds a tier claimed.
const CLAIMED: &str = "ClaimedByOtherRelease";

#[test]
fn a_second_release_writes_nothing_but_an_event_until_the_first_is_gone() {
    require!(require::control_plane());
    runtime().block_on(async {
        let world = World::create(cluster().await).await.unwrap();
        let result = in_world(&world).await;
        let log = world.log(30);
        world.remove().await;
        result.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
    });
}

async fn in_world(world: &World) -> Result<()> {
    let (first, second) = (format!("{}-system", world.name), format!("{}-second", world.name));
    world.start_operator(None)?;
    world.apply_tier(spec("1h")).await?;
    wait_until(world, "the first release rolls out", || is_rolled_out_by(world, &first)).await?;

    let release = world.start_release("second").await?;
    let start = Instant::now();
    while events(world).await? == 0 {
        ensure!(start.elapsed() < LIMIT, "no event tells of the claim");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    world.apply_tier(spec("30m")).await?;
    wait_until(world, "the first release rolls out a change", || is_rolled_out_by(world, &first)).await?;
    // The log of the proxy has no requests for the Lease.
    let is_other_write = |request: &String| !request.starts_with("GET ") && !request.contains("/events");
    let others: Vec<String> = release.proxy.log().into_iter().filter(is_other_write).collect();
    ensure!(others.is_empty(), "the second release writes: {others:?}");
    ensure!(events(world).await? == 1, "the claim is told more than once");

    // Its Lease is left behind, as by a release that was removed with its namespace's pods.
    let start = Instant::now();
    world.proxy.kill();
    world.apply_tier(spec("20m")).await?;
    wait_until(world, "the second release claims the tier", || operator(world) == second.as_str()).await?;
    let time = start.elapsed();
    eprintln!("taken over {time:.0?} after the first release was killed");
    // A look at the Lease each 10 s, and 60 s of silence.
    ensure!((SILENCE..=TAKEOVER_LIMIT).contains(&time), "taken over after {time:?}");
    wait_until(world, "the second release rolls out", || is_rolled_out_by(world, &second)).await?;
    let is_there = |kind, namespace: &str, name: &str| world.cluster.objects.get(kind, namespace, name).is_some();
    ensure!(is_there("ConfigMap", &second, &format!("dnstier-{}-rollout", world.name)), "no record in {second}");
    Ok(())
}

/// Returns a small spec with a short soak.
pub(crate) fn spec(max_ttl: &str) -> Value {
    json!({
        "nodeCache": {"instances": 1, "cache": {"maxTtl": max_ttl}},
        "resolvers": {"replicasPerZone": 1, "upstreams": [{"addresses": ["192.0.2.53"]}]},
        "rollout": {"soak": "5s"},
    })
}

/// Returns the namespace of the release that has claimed the tier.
fn operator(world: &World) -> Value {
    let tier = world.cluster.objects.get("DnsTier", "", &world.name);
    tier.map(|tier| tier["status"]["operator"]["namespace"].clone()).unwrap_or_default()
}

fn is_rolled_out_by(world: &World, namespace: &str) -> bool {
    operator(world) == namespace && is_at_rest(&world.name, &world.cluster.objects)
}

/// Returns how often the claim of the tier was told.
async fn events(world: &World) -> Result<i32> {
    let events: Api<Event> = Api::namespaced(world.cluster.client.clone(), "default");
    let selector = format!("involvedObject.kind=DnsTier,involvedObject.name={},reason={CLAIMED}", world.name);
    let events = events.list(&ListParams::default().fields(&selector)).await?;
    let times = |event: &Event| event.series.as_ref().and_then(|series| series.count).unwrap_or(1);
    Ok(events.items.iter().map(times).sum())
}
