//! The caches of the pod, asked over their control sockets. One that hangs or is gone is told and holds up nobody.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use node_cache_config::status::Instance;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::admin::{Command, ControlError, send_command, socket_path};

/// How long a cache has to answer.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long an answer serves everybody who asks; it bounds what a flood of requests costs the caches.
const FRESH: Duration = Duration::from_millis(250);

/// The caches of the pod, in the order of their names.
#[derive(Debug)]
pub struct Instances {
    run_dir: PathBuf,
    names: Vec<String>,
    last: Mutex<Option<(Instant, Vec<Instance>)>>,
}

impl Instances {
    /// `cache-0` to `cache-(count - 1)`, which listen in this directory.
    #[must_use]
    pub fn new(run_dir: PathBuf, count: usize) -> Self {
        let names = (0..count).map(|number| format!("cache-{number}")).collect();
        Self { run_dir, names, last: Mutex::new(None) }
    }

    /// What each says of itself; only the name is known of one that does not answer.
    pub async fn status(&self) -> Vec<Instance> {
        let mut last = self.last.lock().await;
        if let Some((_, instances)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return instances.clone();
        }
        let instances = join_all(self.names.iter().map(|name| self.status_of(name))).await;
        *last = Some((Instant::now(), instances.clone()));
        instances
    }

    async fn status_of(&self, name: &str) -> Instance {
        let told = send_command(&socket_path(&self.run_dir, name), Command::Status, PATIENCE).await;
        match told.map(|text| serde_json::from_str::<Instance>(&text)) {
            Ok(Ok(instance)) => Instance { name: name.to_owned(), ..instance },
            Ok(Err(error)) => {
                tracing::warn!("{name} tells a status that cannot be read: {error}");
                Instance { name: name.to_owned(), ..Instance::default() }
            }
            Err(error) => {
                tracing::debug!("{error}");
                Instance { name: name.to_owned(), ..Instance::default() }
            }
        }
    }

    /// Waits until none of them runs any more. One that hangs counts as running.
    pub async fn gone(&self) {
        for name in &self.names {
            let path = socket_path(&self.run_dir, name);
            while !matches!(send_command(&path, Command::Live, PATIENCE).await, Err(ControlError::Socket { .. })) {
                sleep(FRESH / 5).await;
            }
        }
    }

    /// The Prometheus text of each that answers.
    pub async fn metrics(&self) -> Vec<String> {
        let asked = self.names.iter().map(async |name| {
            send_command(&socket_path(&self.run_dir, name), Command::Metrics, PATIENCE).await.unwrap_or_default()
        });
        join_all(asked).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::{CommandHandler, serve};

    struct Cache;

    impl CommandHandler for Cache {
        async fn handle(&self, command: Command) -> String {
            match command {
                Command::Status => r#"{"name":"cache-0","alive":true,"traffic":{"queries":7}}"#.to_owned(),
                _ => "# TYPE q counter\nq_total 7\n".to_owned(),
            }
        }
    }

    #[tokio::test]
    async fn a_cache_that_hangs_is_told_within_a_second_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), "cache-0");
        let serving = tokio::spawn(async move { serve(&path, Arc::new(Cache)).await });
        let _hung = tokio::net::UnixListener::bind(socket_path(dir.path(), "cache-1")).unwrap();
        sleep(Duration::from_millis(50)).await;

        let instances = Instances::new(dir.path().to_owned(), 3);
        let start = Instant::now();
        let told = instances.status().await;
        assert!(start.elapsed() < Duration::from_secs(1));
        let alive: Vec<(&str, bool)> = told.iter().map(|instance| (instance.name.as_str(), instance.alive)).collect();
        assert_eq!(alive, [("cache-0", true), ("cache-1", false), ("cache-2", false)]);
        assert_eq!(told[0].traffic.queries, 7);
        assert_eq!(instances.metrics().await.concat(), "# TYPE q counter\nq_total 7\n");
        serving.abort();
    }
}
