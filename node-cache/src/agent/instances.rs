//! Caches of the pod, asked over their control sockets. One that hangs or is gone is reported and delays no other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use node_cache_config::status::Instance;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::admin::{Command, ControlError, send_command, socket_path};

/// Time that a cache has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// Time for which one answer serves all requests; it bounds what a flood of requests costs the caches.
const STATUS_TTL: Duration = Duration::from_millis(250);

/// Interval at which [`Instances::wait_until_gone`] asks.
const GONE_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Caches of the pod, in the order of their names.
#[derive(Debug)]
pub(crate) struct Instances {
    run_dir: PathBuf,
    names: Vec<String>,
    last: Mutex<Option<(Instant, Vec<Instance>)>>,
}

impl Instances {
    /// Returns the caches `cache-0` to `cache-(count - 1)`, whose control sockets are in this directory.
    #[must_use]
    pub(crate) fn new(run_dir: PathBuf, count: usize) -> Self {
        let names = (0..count).map(|number| format!("cache-{number}")).collect();
        Self { run_dir, names, last: Mutex::new(None) }
    }

    /// Returns the status of each cache. Only the name is set for one that does not answer.
    pub(crate) async fn status(&self) -> Vec<Instance> {
        let mut last = self.last.lock().await;
        if let Some((_, instances)) = last.as_ref().filter(|(at, _)| at.elapsed() < STATUS_TTL) {
            return instances.clone();
        }
        let instances = join_all(self.names.iter().map(|name| self.status_of(name))).await;
        *last = Some((Instant::now(), instances.clone()));
        instances
    }

    async fn status_of(&self, name: &str) -> Instance {
        let answer = send_command(&socket_path(&self.run_dir, name), Command::Status, ANSWER_TIMEOUT).await;
        match answer.map(|text| serde_json::from_str::<Instance>(&text)) {
            Ok(Ok(instance)) => Instance { name: name.to_owned(), ..instance },
            Ok(Err(error)) => {
                tracing::warn!(instance = name, %error, "the status of a cache cannot be read");
                Instance { name: name.to_owned(), ..Instance::default() }
            }
            Err(error) => {
                tracing::debug!(instance = name, %error, "a cache does not answer");
                Instance { name: name.to_owned(), ..Instance::default() }
            }
        }
    }

    /// Waits until no cache runs any more. One that hangs counts as running.
    pub(crate) async fn wait_until_gone(&self) {
        for name in &self.names {
            let path = socket_path(&self.run_dir, name);
            while !matches!(send_command(&path, Command::Live, ANSWER_TIMEOUT).await, Err(ControlError::Socket { .. }))
            {
                sleep(GONE_POLL_INTERVAL).await;
            }
        }
    }

    /// Returns the Prometheus text of each cache; empty for one that does not answer.
    pub(crate) async fn metrics(&self) -> Vec<String> {
        let texts = self.names.iter().map(async |name| {
            send_command(&socket_path(&self.run_dir, name), Command::Metrics, ANSWER_TIMEOUT).await.unwrap_or_default()
        });
        join_all(texts).await
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
        let status = instances.status().await;
        assert!(start.elapsed() < Duration::from_secs(1));
        let alive: Vec<(&str, bool)> = status.iter().map(|instance| (instance.name.as_str(), instance.alive)).collect();
        assert_eq!(alive, [("cache-0", true), ("cache-1", false), ("cache-2", false)]);
        assert_eq!(status[0].traffic.queries, 7);
        assert_eq!(instances.metrics().await.concat(), "# TYPE q counter\nq_total 7\n");
        serving.abort();
    }
}
