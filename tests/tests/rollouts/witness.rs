//! Witness of a roll-out: which pod was asked to run which revision, in which order, and what the record and the status
//! said.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use dnstier_tests::flood;
use serde_json::Value;

use crate::lab;
use crate::tier::{NAMESPACE, TIER, WAIT_TIMEOUT, condition, ensure, kubectl_json, wait_until};
use crate::watch::Clients;

/// Queries a second from each of six nodes.
pub(crate) const RATE: u32 = 50;
/// Reasons with which a roll-out ends that was taken back.
pub(crate) const STOPPED: [&str; 5] = ["JudgedWorse", "RevisionRefused", "NotInForce", "PodCrashed", "WrongAnswers"];
/// Columns of a watched pod, a line each time that it changes.
const COLUMNS: &str = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/component}{' '}{.spec.nodeName}{' '}\
                       {.metadata.name}{' '}{.metadata.annotations.dnstier\\.io/revision}{' '}\
                       {.metadata.annotations.dnstier\\.io/told}{'\\n'}";
/// ConfigMap of the record of the roll-out.
const RECORD: &str = "dnstier-default-rollout";
/// Record of a watched ConfigMap, a line each time that it is written.
const RECORD_COLUMN: &str = "jsonpath={.data.record\\.json}{'\\n'}";

/// Stops a flood and asserts that each of its single tries was answered, and none with SERVFAIL.
pub(crate) fn assert_none_failed(flood: Clients<flood::Report>) {
    for (node, report) in flood.assert_none_lost() {
        assert_eq!(report.rcodes.get("SERVFAIL"), None, "{node}: {report:?}");
    }
}

/// Pod that was asked to run a revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) component: String,
    pub(crate) node: String,
    pub(crate) pod: String,
    pub(crate) revision: String,
    /// Time at which the pod was first told so, in whole seconds.
    pub(crate) told: String,
}

impl Asked {
    /// Returns the zone of the pod's node.
    pub(crate) fn zone(&self) -> &'static str {
        lab().nodes().iter().find(|node| node.name == self.node).map_or("", |node| node.zone)
    }
}

/// Watch of the pods of the tier.
pub(crate) struct Witness(Watch);

impl Witness {
    pub(crate) fn start() -> Self {
        let selector = format!("--selector=app.kubernetes.io/instance={TIER}");
        Self(Watch::start(&["pods", "-A", &selector, "-o", COLUMNS]))
    }

    /// Stops the watch and returns the revisions that pods were asked to run, in order, each once.
    pub(crate) fn stop(self) -> Vec<Asked> {
        let mut seen = BTreeSet::new();
        let asked = self.0.stop().into_iter().filter_map(|line| {
            // The last column has the number of the telling before its time.
            let columns = line.splitn(5, ' ').map(str::to_owned).collect::<Vec<_>>();
            let [component, node, pod, revision, told] = columns.try_into().ok()?;
            let told = told.split_once(' ').map(|(_, time)| time.to_owned()).unwrap_or_default();
            let is_new =
                !revision.is_empty() && seen.insert((component.clone(), node.clone(), pod.clone(), revision.clone()));
            is_new.then_some(Asked { component, node, pod, revision, told })
        });
        asked.collect()
    }
}

/// Watch of the record of the roll-out.
pub(crate) struct Records(Watch);

impl Records {
    /// Starts the watch: every record that is written from now on is seen.
    pub(crate) fn start() -> Self {
        // kubectl watches a list from its version on, and a single object from some time later.
        let selector = format!("--field-selector=metadata.name={RECORD}");
        let records = Self(Watch::start(&["configmaps", "-n", NAMESPACE, &selector, "-o", RECORD_COLUMN]));
        records.next();
        records
    }

    /// Returns the next record, in the order in which they are written.
    pub(crate) fn next(&self) -> Value {
        let line = self.0.lines.recv_timeout(2 * WAIT_TIMEOUT).expect("a record is written in time");
        parse_record(&line)
    }

    /// Stops the watch and returns the records that were not taken yet, in order.
    pub(crate) fn stop(self) -> Vec<Value> {
        self.0.stop().iter().map(|line| parse_record(line)).collect()
    }
}

/// Watch by kubectl, which prints a line each time that an object changes.
struct Watch {
    kubectl: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(arguments: &[&str]) -> Self {
        let mut command = lab().kubectl_command(&[&["get"], arguments, &["--watch"]].concat());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut kubectl = command.spawn().expect("kubectl starts");
        let output = BufReader::new(kubectl.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        // A pipe that nobody reads would hold kubectl up.
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { kubectl, lines }
    }

    /// Stops the watch and returns the lines that were not taken yet.
    fn stop(mut self) -> Vec<String> {
        // What was written before this is seen: the API server sends events in order.
        std::thread::sleep(Duration::from_secs(1));
        let _ = self.kubectl.kill();
        self.lines.iter().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// Returns the number of pods of each zone that were asked to run a revision.
pub(crate) fn pods_by_zone(asked: &[Asked], component: &str, revision: &str) -> BTreeMap<&'static str, usize> {
    let mut zones: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in asked.iter().filter(|one| one.component == component && one.revision == revision) {
        zones.entry(one.zone()).or_default().insert(&one.node);
    }
    zones.into_iter().map(|(zone, pods)| (zone, pods.len())).collect()
}

/// Returns the record of the roll-out.
pub(crate) fn record() -> Value {
    let map = kubectl_json(&["get", "configmap", "-n", NAMESPACE, RECORD]);
    parse_record(map["data"]["record.json"].as_str().expect("a record"))
}

fn parse_record(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in the record {text}"))
}

/// Returns `status.rollout`.
pub(crate) fn rollout() -> Value {
    kubectl_json(&["get", "dnstier", TIER])["status"]["rollout"].clone()
}

/// Returns the target of the roll-out.
pub(crate) fn target() -> String {
    rollout()["target"].as_str().unwrap_or_default().to_owned()
}

/// Waits until `RolledOut` of the newest generation is false with one of these reasons, and returns reason and message.
pub(crate) fn wait_for_reason(reasons: &[&str]) -> (String, String) {
    wait_until(&format!("RolledOut is {reasons:?}"), 2 * WAIT_TIMEOUT, || {
        let (status, reason, message) = condition("RolledOut")?;
        ensure(status == "False" && reasons.contains(&reason.as_str()), || format!("{status} {reason}: {message}"))?;
        Ok((reason, message))
    })
}

/// Waits until the newest generation is rolled out.
pub(crate) fn wait_until_rolled_out() {
    wait_until("the change is rolled out", 2 * WAIT_TIMEOUT, || {
        let rolled_out = condition("RolledOut")?;
        ensure(rolled_out.0 == "True", || format!("{rolled_out:?}"))
    });
}
