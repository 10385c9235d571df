//! Witness of a roll-out: which pod was asked to run which revision, in which order, and what the status said.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::process::{Child, Stdio};

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
                       {.metadata.name}{' '}{.metadata.annotations.dnstier\\.io/revision}{'\\n'}";

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
}

impl Asked {
    /// Returns the zone of the pod's node.
    pub(crate) fn zone(&self) -> &'static str {
        lab().nodes().iter().find(|node| node.name == self.node).map_or("", |node| node.zone)
    }
}

/// Watch of the pods of the tier.
pub(crate) struct Witness(Child);

impl Witness {
    pub(crate) fn start() -> Self {
        let selector = format!("--selector=app.kubernetes.io/instance={TIER}");
        let mut command = lab().kubectl_command(&["get", "pods", "-A", &selector, "--watch", "-o", COLUMNS]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        Self(child.expect("kubectl starts"))
    }

    /// Stops the watch and returns the revisions that pods were asked to run, in order, each once.
    pub(crate) fn stop(mut self) -> Vec<Asked> {
        // What was written before this is seen: the API server sends events in order.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let _ = self.0.kill();
        let mut text = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
        let mut seen = BTreeSet::new();
        let asked = text.lines().filter_map(|line| {
            let [component, node, pod, revision] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let [component, node, pod, revision] = [component, node, pod, revision].map(str::to_owned);
            Some(Asked { component, node, pod, revision }).filter(|asked| !asked.revision.is_empty())
        });
        asked.filter(|asked| seen.insert(asked.clone())).collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
    let map = kubectl_json(&["get", "configmap", "-n", NAMESPACE, "dnstier-default-rollout"]);
    let text = map["data"]["record.json"].as_str().expect("a record");
    serde_json::from_str(text).expect("a record is JSON")
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
