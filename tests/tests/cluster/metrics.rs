//! Metrics of the tier, scraped by a real Prometheus at the endpoints of the Services of metrics.
//!
//! Debian builds Prometheus without the discovery of Kubernetes. The test reads the EndpointSlices in its place, by the
//! labels and the name of the port by which a ServiceMonitor of the chart selects.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use dnstier_tests::require;
use serde_json::{Value, json};

use crate::lab;
use crate::tier::{
    NAMESPACE, NODE_NAMESPACE, NODES, TIER, WAIT_TIMEOUT, ensure, exclusive_tier, get, kubectl_json, node_pods,
    operator_leader, pods, query, wait_until,
};

/// Node in whose network Prometheus runs, as a pod on the host's network would.
const NODE: &str = "node-a";
/// Address of Prometheus there.
const LISTEN: &str = "127.0.0.1:9390";
/// Series of a node with two caches, at most.
const MAX_SERIES_OF_NODE: f64 = 300.0;

/// Prometheus that scrapes the endpoints of the Services of metrics, stopped on drop.
struct Prometheus {
    child: Child,
    data: tempfile::TempDir,
}

impl Prometheus {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let file = data.path().join("prometheus.yaml");
        let targets = data.path().join("targets.json");
        std::fs::write(&targets, "[]").expect("no targets are written");
        let configuration = format!(
            "global: {{scrape_interval: 2s, scrape_timeout: 2s}}\n\
             scrape_configs: [{{job_name: dnstier, file_sd_configs: [{{files: [{}]}}]}}]\n",
            targets.display()
        );
        std::fs::write(&file, configuration).expect("the configuration is written");
        let child = lab()
            .node(NODE)
            .expect("a node")
            // The kernel kills it when the test ends, however it ends.
            .command(&[
                "setpriv",
                "--pdeathsig",
                "KILL",
                "prometheus",
                &format!("--config.file={}", file.display()),
                &format!("--storage.tsdb.path={}", data.path().join("data").display()),
                &format!("--web.listen-address={LISTEN}"),
                "--log.level=warn",
            ])
            .stdin(Stdio::null())
            .spawn()
            .expect("Prometheus starts");
        Self { child, data }
    }

    /// Gives it the endpoints of now as targets.
    fn set_targets(&self) {
        let new = self.data.path().join("new");
        std::fs::write(&new, Value::from(endpoints()).to_string()).expect("the targets are written");
        std::fs::rename(new, self.data.path().join("targets.json")).expect("the targets are replaced");
    }

    /// Evaluates an expression over its HTTP API and returns the labels and the value of each series.
    fn query(expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let server = format!("http://{LISTEN}");
        let node = lab().node(NODE).map_err(|error| format!("{error:#}"))?;
        let text = node
            .run(&["promtool", "query", "instant", "--format=json", &server, expression])
            .map_err(|error| format!("{error:#}"))?;
        let series: Vec<Value> = serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))?;
        let value = |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok());
        Ok(series.iter().map(|series| (series["metric"].clone(), value(series).unwrap_or(f64::NAN))).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the endpoints of the ports `metrics` of all Services of metrics, as groups of targets of Prometheus.
fn endpoints() -> Vec<Value> {
    let labels = "app.kubernetes.io/part-of=dnstier,dnstier.io/metrics=true";
    let slices = kubectl_json(&["get", "endpointslices", "--all-namespaces", "-l", labels]);
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut groups = Vec::new();
    for slice in items(&slices["items"]) {
        let ports = items(&slice["ports"]);
        let Some(port) = ports.iter().find(|port| port["name"] == "metrics") else { continue };
        groups.extend(items(&slice["endpoints"]).iter().map(|endpoint| {
            let address = endpoint["addresses"][0].as_str().unwrap_or_default();
            json!({
                "targets": [format!("{address}:{}", port["port"])],
                "labels": {
                    "job": slice["metadata"]["labels"]["app.kubernetes.io/component"],
                    "node": endpoint["nodeName"],
                    "pod": endpoint["targetRef"]["name"],
                },
            })
        }));
    }
    groups
}

/// Returns the values of one label.
fn labels(series: &[(Value, f64)], label: &str) -> BTreeSet<String> {
    series.iter().map(|(labels, _)| labels[label].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn prometheus_finds_every_node_and_every_resolver_through_the_services_of_metrics() {
    require!(require::lab(), require::program("prometheus"));
    let _tier = exclusive_tier();
    let prometheus = Prometheus::start();
    NODES.iter().for_each(|node| drop(query(node, &["www.example"])));
    let all_pods = || -> BTreeSet<String> {
        node_pods().into_iter().chain(pods(NAMESPACE, "zone-resolver")).map(|pod| pod.name).collect()
    };
    wait_until("every pod is up", WAIT_TIMEOUT, || {
        prometheus.set_targets();
        let up = Prometheus::query("up")?;
        let expected = all_pods();
        ensure(up.len() == expected.len() && labels(&up, "pod") == expected, || format!("{up:?}, not {expected:?}"))?;
        ensure(up.iter().all(|(_, value)| *value == 1.0), || format!("{up:?}"))
    });
    let query =
        |expression: &str| Prometheus::query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let series = query("scrape_samples_scraped");
    println!("series: {series:?}");
    assert!(series.iter().all(|(_, count)| *count > 50.0 && *count <= MAX_SERIES_OF_NODE), "{series:?}");
    assert!(query("{__name__=~\".+\", exported_instance!=\"\"}").is_empty(), "no label of ours is Prometheus' own");
    let processes = query("dnstier_build_info{job=\"node-cache\"}");
    let expected = ["agent", "cache-0", "cache-1"].map(str::to_owned);
    assert_eq!((processes.len(), labels(&processes, "process")), (3 * NODES.len(), expected.into_iter().collect()));
    let memory = query("process_resident_memory_bytes{process=\"cache-0\"} > 1e6");
    assert_eq!(labels(&memory, "node"), NODES.map(str::to_owned).into_iter().collect());
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_any_metrics_page() {
    require!(require::lab(), require::program("promtool"));
    let _tier = exclusive_tier();
    NODES.iter().for_each(|node| drop(query(node, &["www.example"])));
    let operator = operator_leader().expect("a leader");
    let resolvers = pods(NAMESPACE, "zone-resolver");
    let pages = [
        (NODE_NAMESPACE, &node_pods()[0].name, 9353),
        (NAMESPACE, &resolvers[0].name, 9153),
        (NAMESPACE, &operator, 8080),
    ];
    for (namespace, pod, port) in pages {
        let page = get(namespace, pod, port, "metrics").expect("a page of metrics");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool runs");
        promtool.stdin.take().expect("a pipe").write_all(page.as_bytes()).expect("the page is written");
        let output = promtool.wait_with_output().expect("promtool ends");
        let report = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && report.trim().is_empty(), "{pod}: {report}\n{page}");
    }
}

#[test]
fn the_operator_tells_conditions_nodes_and_resolvers_of_each_tier() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let expected = [
        format!("dnstier_operator_condition{{tier=\"{TIER}\",type=\"Ready\",status=\"True\"}} 1"),
        format!("dnstier_operator_condition{{tier=\"{TIER}\",type=\"Degraded\",status=\"True\"}} 0"),
        format!("dnstier_operator_nodes{{tier=\"{TIER}\",state=\"ready\"}} 3"),
        format!("dnstier_operator_zone_resolvers{{tier=\"{TIER}\",zone=\"zone-b\",state=\"ready\"}} 2"),
        format!("dnstier_operator_pending_annotations{{tier=\"{TIER}\"}} 0"),
        format!("dnstier_operator_reconcile_wait_seconds{{tier=\"{TIER}\"}} 0.0"),
    ];
    wait_until("the state is told", WAIT_TIMEOUT, || {
        let page = get(NAMESPACE, &operator_leader().unwrap_or_default(), 8080, "metrics")
            .map_err(|error| format!("{error:#}"))?;
        let missing = expected.iter().find(|line| !page.lines().any(|other| other == line.as_str()));
        missing.map_or(Ok(()), |line| Err(format!("{line} is not in\n{page}")))
    });
}
