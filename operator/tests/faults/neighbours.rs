//! Two tiers of one operator, on nodes of their own: a bad change of one is taken back while a good one of the other is
//! rolled out.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use dnstier_tests::require;
use node_cache_config::names::REVISION_ANNOTATION;
use serde_json::{Value, json};

use crate::common::pod_page::REFUSED;
use crate::common::state::is_at_rest;
use crate::releases::spec;
use crate::waits::wait_until;
use crate::world::World;
use crate::{cluster, runtime};

/// Letters of the nodes and their zones: each tier has one zone.
const NODES: [(&str, &str); 6] =
    [("a1", "zone-a"), ("a2", "zone-a"), ("a3", "zone-a"), ("b1", "zone-b"), ("b2", "zone-b"), ("b3", "zone-b")];
/// Ends of the names of the tiers, with their zones.
const BAD: (&str, &str) = ("", "zone-a");
const GOOD: (&str, &str) = ("-other", "zone-b");

#[test]
fn a_bad_change_of_one_tier_is_taken_back_while_another_tier_of_the_operator_rolls_out() {
    require!(require::control_plane());
    runtime().block_on(async {
        let world = World::create_with(cluster().await, &NODES, &["dns"]).await.unwrap();
        let result = in_world(&world).await;
        let log = world.log(30);
        world.remove().await;
        result.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
    });
}

async fn in_world(world: &World) -> Result<()> {
    world.start_operator(None)?;
    for tier in [BAD, GOOD] {
        apply(world, tier, spec("1h")).await?;
    }
    wait_until(world, "both tiers roll out", || [BAD, GOOD].iter().all(|tier| is_settled(world, tier))).await?;
    let first = [BAD, GOOD].map(|tier| asked(world, tier));
    ensure!(first.iter().all(|asked| asked.len() == 1) && first[0] != first[1], "{first:?}");

    let mut bad = spec("1h");
    bad["routes"] = json!([{"suffix": REFUSED, "upstreams": [{"addresses": ["192.0.2.54"]}]}]);
    apply(world, BAD, bad).await?;
    apply(world, GOOD, spec("30m")).await?;
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    let mut is_right = true;
    wait_until(world, "one tier stops and the other rolls out", || {
        for (seen, tier) in seen.iter_mut().zip([BAD, GOOD]) {
            seen.extend(asked(world, tier));
        }
        let other = condition(world, GOOD, "Degraded");
        is_right &= other["status"] == "False";
        let stopped = condition(world, BAD, "RolledOut");
        let is_stopped = stopped["status"] == "False" && stopped["reason"] == "RevisionRefused";
        is_stopped && asked(world, BAD) == first[0] && is_settled(world, &GOOD)
    })
    .await?;
    ensure!(is_right, "the good tier was Degraded beside the bad one");
    ensure!(seen.iter().all(|seen| seen.len() == 2), "each tier went through two revisions of its own: {seen:?}");
    ensure!(seen[0].is_disjoint(&seen[1]), "{seen:?}");
    ensure!(!asked(world, GOOD).is_subset(&first[1]), "the good change is in force");

    apply(world, BAD, spec("1h")).await?;
    wait_until(world, "the bad change is taken out of the spec", || is_settled(world, &BAD)).await?;
    ensure!(asked(world, BAD) == first[0], "{:?}", asked(world, BAD));
    Ok(())
}

fn name(world: &World, tier: (&str, &str)) -> String {
    format!("{}{}", world.name, tier.0)
}

async fn apply(world: &World, tier: (&str, &str), spec: Value) -> Result<()> {
    let nodes = json!({crate::world::WORLD_LABEL: world.name, "topology.kubernetes.io/zone": tier.1});
    world.apply_tier_on(&name(world, tier), &nodes, spec).await
}

fn is_settled(world: &World, tier: &(&str, &str)) -> bool {
    is_at_rest(&name(world, *tier), &world.cluster.objects)
}

/// Returns the revisions that the node pods of a tier are asked to run.
fn asked(world: &World, tier: (&str, &str)) -> BTreeSet<String> {
    let name = name(world, tier);
    let pods = world.cluster.objects.select(|key, pod| {
        let labels = &pod["metadata"]["labels"];
        key.0 == "Pod"
            && labels["app.kubernetes.io/instance"] == name
            && labels["app.kubernetes.io/component"] == "node-cache"
    });
    let asked = pods.iter().filter_map(|(_, pod)| pod["metadata"]["annotations"][REVISION_ANNOTATION].as_str());
    asked.map(str::to_owned).collect()
}

/// Returns a condition of a tier.
fn condition(world: &World, tier: (&str, &str), type_: &str) -> Value {
    let tier = world.cluster.objects.get("DnsTier", "", &name(world, tier));
    let conditions = tier.as_ref().and_then(|tier| tier["status"]["conditions"].as_array());
    let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == type_);
    condition.cloned().unwrap_or_default()
}
