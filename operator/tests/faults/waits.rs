//! Waits for something in a world, with what is there when it does not come.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::common::objects::Key;
use crate::world::World;

/// Time between two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Limit of each wait, far above any observed time.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Waits until something is so in a world.
///
/// # Errors
/// When it never is: with the status of the tier and of all workloads.
pub(crate) async fn wait_until(world: &World, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > LIMIT {
            let tier = world.cluster.objects.get("DnsTier", "", &world.name);
            let of_world = |key: &Key, _: &Value| key.1.starts_with(&world.name);
            let workloads = world
                .cluster
                .objects
                .select(of_world)
                .into_iter()
                .filter(|(key, _)| ["Pod", "Deployment", "DaemonSet"].contains(&key.0));
            let workloads = workloads.map(|((kind, namespace, name), object)| {
                let annotations = &object["metadata"]["annotations"];
                format!("{kind} {namespace}/{name}: {annotations} {}", object["status"])
            });
            let workloads = workloads.collect::<Vec<_>>().join("\n");
            bail!("{what}: {}\n{workloads}", tier.map(|tier| tier["status"].to_string()).unwrap_or_default());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}
