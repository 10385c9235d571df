//! Metrics of the tier, scraped by a real Prometheus that finds them through the Services of metrics.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use dnstier_tests::require;
use serde_json::Value;

use crate::lab;
use crate::tier::{
    NAMESPACE, NODE_NAMESPACE, NODES, TIER, WAIT_TIMEOUT, ensure, exclusive_tier, get, kubectl_json, node_pods, pods,
    query, wait_until,
};

/// Node in whose network Prometheus runs, as a pod on the host's network would.
const NODE: &str = "node-a";
/// Address of Prometheus there.
const LISTEN: &str = "127.0.0.1:9390";
/// Series of a node with two caches, at most.
const MAX_SERIES_OF_NODE: f64 = 300.0;

/// Prometheus with a configuration like the one that a ServiceMonitor of the chart leads to, stopped on drop.
struct Prometheus {
    child: Child,
    _data: tempfile::TempDir,
}

impl Prometheus {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let file = data.path().join("prometheus.yaml");
        std::fs::write(&file, configuration()).expect("the configuration is written");
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
        Self { child, _data: data }
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

fn configuration() -> String {
    let kubeconfig = lab().layout().kubeconfig("admin");
    format!(
        r#"global: {{scrape_interval: 2s, scrape_timeout: 2s}}
scrape_configs:
  - job_name: dnstier
    kubernetes_sd_configs:
      - role: endpointslice
        kubeconfig_file: {kubeconfig}
        namespaces: {{names: [{NAMESPACE}, {NODE_NAMESPACE}]}}
    relabel_configs:
      - {{source_labels: [__meta_kubernetes_service_label_dnstier_io_metrics], regex: "true", action: keep}}
      - {{source_labels: [__meta_kubernetes_endpointslice_port_name], regex: metrics, action: keep}}
      - {{source_labels: [__meta_kubernetes_service_label_app_kubernetes_io_component], target_label: job}}
      - {{source_labels: [__meta_kubernetes_pod_node_name], target_label: node}}
      - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
"#,
        kubeconfig = kubeconfig.display()
    )
}

/// Returns the values of one label.
fn labels(series: &[(Value, f64)], label: &str) -> BTreeSet<String> {
    series.iter().map(|(labels, _)| labels[label].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn prometheus_finds_every_node_and_every_resolver_through_the_services_of_metrics() {
    require!(require::lab(), require::program("prometheus"));
    let _tier = exclusive_tier();
    let _prometheus = Prometheus::start();
    NODES.iter().for_each(|node| drop(query(node, &["www.example"])));
    let all_pods = || -> BTreeSet<String> {
        node_pods().into_iter().chain(pods(NAMESPACE, "zone-resolver")).map(|pod| pod.name).collect()
    };
    wait_until("every pod is up", WAIT_TIMEOUT, || {
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
    let operator = operator_pod();
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
    ];
    wait_until("the state is told", WAIT_TIMEOUT, || {
        let page = get(NAMESPACE, &operator_pod(), 8080, "metrics").map_err(|error| format!("{error:#}"))?;
        let missing = expected.iter().find(|line| !page.lines().any(|other| other == line.as_str()));
        missing.map_or(Ok(()), |line| Err(format!("{line} is not in\n{page}")))
    });
}

fn operator_pod() -> String {
    let pods = kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator"]);
    let items = pods["items"].as_array().expect("a list");
    let running = items.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).expect("an operator");
    running["metadata"]["name"].as_str().expect("a name").to_owned()
}
