//! Caches of the pod, asked over their control sockets. One that hangs or is gone is reported and delays no other, and
//! one that was taken over costs the agent no more than a fixed number of bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use node_cache_config::figures::Figures;
use node_cache_config::metrics_page::{BuildInfo, ProcessUsage, process_text};
use node_cache_config::probes::{ProbeName, ProbeResult};
use node_cache_config::status::{Instance, Traffic};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::admin::bounded_status::{self, MAX_STATUS_LEN};
use crate::admin::merge::merge;
use crate::admin::shared_probes::{BUSY, ProbeOutcome, ProbeRefusal};
use crate::admin::{Command, ControlError, send_command_bounded, socket_path};
use crate::unix_socket::printable;

/// Time that a cache has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// Time for which one answer serves all requests; it bounds what a flood of requests costs the caches and the agent.
pub(super) const ANSWER_TTL: Duration = Duration::from_millis(250);
/// Longest status of all caches together, in bytes of JSON. Each has an equal share. With what the agent adds they make
/// a page that the operator reads, which has a mebibyte at most.
const MAX_STATUSES_LEN: usize = 960 * 1024;
/// Longest metrics of all caches together that are read, in bytes. Each has an equal share.
const MAX_METRICS_LEN: usize = 512 * 1024;

/// Time that a cache has for a probe: that of the probe, and some to spare.
const PROBE_TIMEOUT: Duration = Duration::from_millis(4400);
/// Longest result of a probe that is read, in bytes.
const MAX_PROBE_LEN: usize = 1024;
/// Caches that are asked for one probe, at most.
const MAX_PROBED: usize = 2;
/// Longest digest that is passed on, in bytes.
const MAX_DIGEST_LEN: usize = 64;

/// Name of the agent in the label `process`.
const AGENT: &str = "agent";

/// Interval at which [`Instances::wait_until_gone`] asks.
const GONE_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Counters of a cache.
#[derive(Debug)]
struct Counters {
    started: u64,
    /// Restarts since the agent has started.
    restarts: u32,
    traffic: Traffic,
    figures: Option<Box<Figures>>,
}

/// Caches of the pod, in the order of their names.
#[derive(Debug)]
pub(crate) struct Instances {
    run_dir: PathBuf,
    names: Vec<String>,
    /// Time that a cache has to answer.
    answer_timeout: Duration,
    last: Mutex<Option<(Instant, Vec<Instance>)>>,
    /// Counters of each cache at its last answer.
    counters: std::sync::Mutex<BTreeMap<String, Counters>>,
    /// Turn of the next probe.
    next_probe: AtomicUsize,
    last_metrics: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Instances {
    /// Returns the caches `cache-0` to `cache-(count - 1)`, whose control sockets are in this directory.
    #[must_use]
    pub(crate) fn new(run_dir: PathBuf, count: usize) -> Self {
        let names = (0..count).map(|number| format!("cache-{number}")).collect();
        Self {
            run_dir,
            names,
            answer_timeout: ANSWER_TIMEOUT,
            last: Mutex::new(None),
            last_metrics: Mutex::new(None),
            counters: std::sync::Mutex::default(),
            next_probe: AtomicUsize::new(0),
        }
    }

    /// Returns the number of caches.
    #[must_use]
    pub(crate) const fn count(&self) -> usize {
        self.names.len()
    }

    /// Returns the status of each cache. One that does not answer has its name, and its counters at its last answer.
    pub(crate) async fn status(&self) -> Vec<Instance> {
        let mut last = self.last.lock().await;
        if let Some((_, instances)) = last.as_ref().filter(|(at, _)| at.elapsed() < ANSWER_TTL) {
            return instances.clone();
        }
        let mut instances = join_all(self.names.iter().map(|name| self.status_of(name))).await;
        instances.iter_mut().for_each(|instance| self.keep_counters(instance));
        *last = Some((Instant::now(), instances.clone()));
        instances
    }

    async fn status_of(&self, name: &str) -> Instance {
        let path = socket_path(&self.run_dir, name);
        let answer = send_command_bounded(&path, Command::Status, self.answer_timeout, MAX_STATUS_LEN).await;
        let mut instance = match answer.map(|text| serde_json::from_str::<Instance>(&text)) {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => {
                let error = printable(&error.to_string());
                tracing::warn!(instance = name, error, "the status of a cache cannot be read");
                Instance::default()
            }
            Err(error) => {
                tracing::debug!(instance = name, %error, "a cache does not answer");
                Instance::default()
            }
        };
        name.clone_into(&mut instance.name);
        // A short text of a cache that was taken over may stand for a long status.
        if !bounded_status::fit(&mut instance, MAX_STATUSES_LEN / self.names.len().max(1)) {
            tracing::warn!(instance = name, "the status of a cache is too long");
            instance = Instance { name: name.to_owned(), ..Instance::default() };
        }
        instance
    }

    /// Has one of these caches ask the upstreams of a name, in turn with the others. One that hangs or refuses is
    /// passed over.
    ///
    /// # Errors
    ///
    /// [`ProbeRefusal::Busy`] when a cache has no room for it, else the reason why the last cache did not ask.
    pub(crate) async fn probe(&self, probe: &ProbeName, caches: &[String]) -> ProbeOutcome {
        let first = self.next_probe.fetch_add(1, Ordering::Relaxed);
        let mut refusal = ProbeRefusal::Failed("no cache of this node answers".to_owned());
        for turn in 0..caches.len().min(MAX_PROBED) {
            let name = &caches[(first + turn) % caches.len()];
            let path = socket_path(&self.run_dir, name);
            let command = Command::Probe(probe.clone());
            let reason = match send_command_bounded(&path, command, PROBE_TIMEOUT, MAX_PROBE_LEN).await {
                Ok(text) => match serde_json::from_str::<ProbeResult>(&text) {
                    Ok(result) => return Ok(checked(result, probe, name)),
                    Err(_) if text == BUSY => ProbeRefusal::Busy,
                    Err(_) => ProbeRefusal::Failed(printable(&text)),
                },
                Err(error) => ProbeRefusal::Failed(error.to_string()),
            };
            if refusal != ProbeRefusal::Busy {
                refusal = reason;
            }
        }
        Err(refusal)
    }

    /// Keeps the counters of a cache that answers, and counts its restarts by the times at which it has started. One
    /// that does not answer gets those of its last answer: counters that go back and forth look like another life.
    fn keep_counters(&self, instance: &mut Instance) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let last = counters.get(&instance.name);
        let Some(started) = instance.started else {
            if let Some(last) = last {
                (instance.started, instance.restarts) = (Some(last.started), Some(last.restarts));
                (instance.traffic, instance.figures) = (last.traffic, last.figures.clone());
            }
            return;
        };
        let restarts = last.map_or(0, |last| last.restarts + u32::from(last.started != started));
        instance.restarts = Some(restarts);
        let (traffic, figures) = (instance.traffic, instance.figures.clone());
        counters.insert(instance.name.clone(), Counters { started, restarts, traffic, figures });
    }

    /// Waits until no cache runs any more. One that hangs counts as running.
    pub(crate) async fn wait_until_gone(&self) {
        for name in &self.names {
            let path = socket_path(&self.run_dir, name);
            loop {
                let answer = send_command_bounded(&path, Command::Live, self.answer_timeout, MAX_STATUS_LEN).await;
                if matches!(answer, Err(ControlError::Socket { .. })) {
                    break;
                }
                sleep(GONE_POLL_INTERVAL).await;
            }
        }
    }

    /// Returns the metrics of all caches and the series that the agent has like every process, merged into one text in
    /// OpenMetrics without `# EOF`. What is not valid and not a cache's own is left out.
    pub(crate) async fn metrics(&self) -> Arc<str> {
        let mut last = self.last_metrics.lock().await;
        if let Some((_, text)) = last.as_ref().filter(|(at, _)| at.elapsed() < ANSWER_TTL) {
            return Arc::clone(text);
        }
        let max_len = MAX_METRICS_LEN / self.names.len().max(1);
        let texts = join_all(self.names.iter().map(async |name| {
            let path = socket_path(&self.run_dir, name);
            let answer = send_command_bounded(&path, Command::Metrics, self.answer_timeout, max_len).await;
            (name.as_str(), answer.unwrap_or_default())
        }))
        .await;
        let of_agent = process_text(Some(AGENT), BuildInfo::CURRENT, &ProcessUsage::read());
        let texts = texts.iter().map(|(name, text)| (*name, text.as_str()));
        let merged: Arc<str> = merge([(AGENT, of_agent.as_str())].into_iter().chain(texts)).into();
        *last = Some((Instant::now(), Arc::clone(&merged)));
        merged
    }
}

/// Returns the result of a probe with nothing in it that the cache could choose but numbers and a digest.
fn checked(result: ProbeResult, probe: &ProbeName, instance: &str) -> ProbeResult {
    let is_digest =
        |digest: &str| digest.len() <= MAX_DIGEST_LEN && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    ProbeResult {
        name: probe.name.clone(),
        rtype: probe.rtype.clone(),
        instance: instance.to_owned(),
        digest: Some(result.digest).filter(|digest| is_digest(digest)).unwrap_or_default(),
        rcode: result.rcode,
        microseconds: result.microseconds,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::admin::bounded_status::tests::{episode, routes, status};
    use crate::admin::{CommandHandler, serve};

    const METRICS: &str = "# TYPE dnstier_cache_q counter\ndnstier_cache_q_total{process=\"cache-0\"} 7\n";

    struct Cache;

    impl CommandHandler for Cache {
        async fn handle(&self, command: Command) -> String {
            match command {
                Command::Status => r#"{"name":"cache-0","alive":true,"traffic":{"queries":7}}"#.to_owned(),
                Command::Probe(_) => r#"{"name":"x","rcode":3,"microseconds":9,"digest":"0aF","more":1}"#.to_owned(),
                _ => METRICS.to_owned(),
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
        let probe = ProbeName::new("www.example", "A");
        let caches = ["cache-0", "cache-1"].map(str::to_owned);
        let result = instances.probe(&probe, &caches[..1]).await.unwrap();
        assert_eq!((result.name.as_str(), result.instance.as_str()), ("www.example", "cache-0"));
        assert_eq!((result.rcode, result.microseconds, result.digest.as_str()), (3, 9, "0aF"));
        let metrics = instances.metrics().await;
        assert!(metrics.contains(METRICS) && metrics.contains("\nprocess_open_fds{process=\"agent\"} "), "{metrics}");
        serving.abort();
    }

    #[test]
    fn a_cache_that_has_started_anew_counts_as_restarted_and_one_that_is_silent_keeps_its_counters() {
        let instances = Instances::new(PathBuf::new(), 2);
        let look = |name: &str, started, queries| {
            let traffic = Traffic { queries, ..Traffic::default() };
            let figures = Some(Box::new(Figures { slow_misses: queries, ..Figures::default() }));
            let mut instance =
                Instance { name: name.to_owned(), started, traffic, figures, alive: true, ..Instance::default() };
            if started.is_none() {
                instance = Instance { name: name.to_owned(), ..Instance::default() };
            }
            instances.keep_counters(&mut instance);
            let slow_misses = instance.figures.map(|figures| figures.slow_misses);
            (instance.started, instance.restarts, instance.traffic.queries, slow_misses)
        };
        assert_eq!(look("cache-0", None, 0), (None, None, 0, None), "it has never answered");
        assert_eq!(look("cache-0", Some(100), 5), (Some(100), Some(0), 5, Some(5)));
        assert_eq!(look("cache-0", None, 0), (Some(100), Some(0), 5, Some(5)));
        assert_eq!(look("cache-0", Some(107), 2), (Some(107), Some(1), 2, Some(2)));
        assert_eq!(look("cache-1", Some(100), 1), (Some(100), Some(0), 1, Some(1)));
        assert_eq!(look("cache-0", Some(109), 1), (Some(109), Some(2), 1, Some(1)));
    }

    #[test]
    fn a_cache_chooses_nothing_in_the_result_of_a_probe_but_numbers_and_a_digest() {
        let probe = ProbeName::new("www.example", "A");
        for digest in ["<script>".to_owned(), "a".repeat(65)] {
            let forged = ProbeResult { name: "x".repeat(500), digest, rcode: 5, ..ProbeResult::default() };
            let result = checked(forged, &probe, "cache-0");
            assert_eq!((result.name.as_str(), result.digest.as_str(), result.rcode), ("www.example", "", 5));
        }
    }

    /// Cache that says this as its status.
    struct CacheWithStatus(Instance);

    impl CommandHandler for CacheWithStatus {
        async fn handle(&self, _: Command) -> String {
            let mut status = self.0.clone();
            bounded_status::fit(&mut status, MAX_STATUS_LEN);
            serde_json::to_string(&status).unwrap()
        }
    }

    /// Returns caches that have as long to answer as a loaded machine needs.
    fn patient(dir: &Path, caches: usize) -> Instances {
        Instances { answer_timeout: Duration::from_secs(60), ..Instances::new(dir.to_owned(), caches) }
    }

    /// Waits until the first so many caches can be asked.
    async fn wait_for_sockets(dir: &Path, caches: usize) {
        for number in 0..caches {
            while tokio::net::UnixStream::connect(socket_path(dir, &format!("cache-{number}"))).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Returns what the agent tells of so many caches with this status, and its length.
    async fn told_of(caches: usize, status: &Instance) -> (Vec<Instance>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let serving: Vec<_> = (0..caches)
            .map(|number| {
                let path = socket_path(dir.path(), &format!("cache-{number}"));
                let status = status.clone();
                tokio::spawn(async move { serve(&path, Arc::new(CacheWithStatus(status))).await })
            })
            .collect();
        wait_for_sockets(dir.path(), caches).await;
        let told = patient(dir.path(), caches).status().await;
        serving.iter().for_each(tokio::task::JoinHandle::abort);
        let length = serde_json::to_string(&told).unwrap().len();
        (told, length)
    }

    #[tokio::test]
    async fn a_cache_with_many_upstreams_or_episodes_is_alive_with_its_revision_on_a_page_that_the_operator_reads() {
        let with_episodes = |mut status: Instance| {
            for place in [1, 5] {
                let detection = status.upstreams[place].detection.as_mut().unwrap();
                detection.episodes = (0..8).map(|number| episode(100 * number)).collect();
            }
            status
        };
        let few = with_episodes(status(routes(8), 2));
        let many = with_episodes(status(routes(256), 2));
        let most = status(routes(256), 8);
        let mut all_down = most.clone();
        all_down.upstreams.iter_mut().for_each(|upstream| upstream.healthy = false);
        let groups = |status: &Instance| -> BTreeMap<String, bool> {
            let upstreams = status.upstreams.iter();
            upstreams.map(|upstream| (upstream.scope.clone(), upstream.healthy)).collect()
        };
        for caches in [2, 8] {
            for status in [&few, &many, &most, &all_down] {
                let (told, length) = told_of(caches, status).await;
                assert!(length <= MAX_STATUSES_LEN + 1024, "{caches} caches: {length}");
                for (instance, number) in told.iter().zip(0..) {
                    assert_eq!((instance.alive, instance.name.clone()), (true, format!("cache-{number}")));
                    assert_eq!(instance.revision.in_force.as_deref(), Some("r7"));
                    assert_eq!(groups(instance), groups(status), "{caches} caches");
                }
            }
        }
        assert_eq!(told_of(8, &few).await.0[7].upstreams, few.upstreams, "sixteen whole episodes");
    }

    /// Cache that was taken over: its short status stands for a long one.
    struct CompactCache;

    impl CommandHandler for CompactCache {
        async fn handle(&self, _: Command) -> String {
            let seconds = ["{}"; 80_000].join(",");
            let upstream = r#""scope":"cluster","address":"10.0.0.2:53","healthy":true,"sent":0,"timeouts":0"#;
            let detection = format!(r#""detection":{{"episodes":[{{"seconds":[{seconds}]}}]}}"#);
            format!(r#"{{"name":"x","alive":true,"upstreams":[{{{upstream},{detection}}}]}}"#)
        }
    }

    #[tokio::test]
    async fn a_short_status_that_stands_for_a_long_one_becomes_no_long_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), "cache-0");
        let serving = tokio::spawn(async move { serve(&path, Arc::new(CompactCache)).await });
        wait_for_sockets(dir.path(), 1).await;
        let told = patient(dir.path(), 2).status().await;
        assert!(serde_json::to_string(&told).unwrap().len() < 4096 && told[0].alive, "{told:?}");
        serving.abort();
    }

    /// Cache that has room for no probe, or fails otherwise.
    struct RefusingCache(&'static str);

    impl CommandHandler for RefusingCache {
        async fn handle(&self, _: Command) -> String {
            self.0.to_owned()
        }
    }

    #[tokio::test]
    async fn a_cache_without_room_for_a_probe_is_told_from_one_that_fails() {
        let dir = tempfile::tempdir().unwrap();
        let serving = [("cache-0", "there is no configuration yet"), ("cache-1", BUSY)].map(|(name, text)| {
            let path = socket_path(dir.path(), name);
            tokio::spawn(async move { serve(&path, Arc::new(RefusingCache(text))).await })
        });
        wait_for_sockets(dir.path(), 2).await;
        let instances = patient(dir.path(), 2);
        let caches = ["cache-0", "cache-1"].map(str::to_owned);
        let failed = |reason: &str| Err(ProbeRefusal::Failed(reason.to_owned()));
        let probe = ProbeName::new("www.example", "A");
        assert_eq!(instances.probe(&probe, &caches[..1]).await, failed("there is no configuration yet"));
        assert_eq!(instances.probe(&probe, &caches[1..]).await, Err(ProbeRefusal::Busy));
        for _ in 0..2 {
            assert_eq!(instances.probe(&probe, &caches).await, Err(ProbeRefusal::Busy), "whichever comes first");
        }
        assert_eq!(instances.probe(&probe, &[]).await, failed("no cache of this node answers"));
        serving.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// Cache that was taken over: its metrics are as long as it likes.
    struct Flooding(&'static str);

    impl CommandHandler for Flooding {
        async fn handle(&self, _: Command) -> String {
            let name = self.0;
            let line = |number| format!("dnstier_cache_q_total{{process=\"{name}\",label=\"{number}\"}} 7\n");
            std::iter::once("# TYPE dnstier_cache_q counter\n".to_owned()).chain((0..60_000).map(line)).collect()
        }
    }

    #[tokio::test]
    async fn long_metrics_are_cut_and_all_who_ask_share_one_text() {
        let dir = tempfile::tempdir().unwrap();
        let serving = ["cache-0", "cache-1"].map(|name| {
            let path = socket_path(dir.path(), name);
            tokio::spawn(async move { serve(&path, Arc::new(Flooding(name))).await })
        });
        wait_for_sockets(dir.path(), 2).await;
        let instances = patient(dir.path(), 2);
        let texts = join_all((0..16).map(|_| instances.metrics())).await;
        let length = texts[0].len();
        let of_agent = process_text(Some(AGENT), BuildInfo::CURRENT, &ProcessUsage::read()).len();
        assert!(length > MAX_METRICS_LEN / 4 && length <= MAX_METRICS_LEN + of_agent + 64, "{length}");
        let flood = texts[0].lines().filter(|line| line.starts_with("dnstier_cache_"));
        assert!(flood.clone().count() > 1_000 && flood.clone().all(|line| line.ends_with("\"} 7")));
        assert!(texts.iter().skip(1).any(|text| Arc::ptr_eq(text, &texts[0])), "askers share one text");
        serving.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
