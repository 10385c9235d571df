//! Requests of the operator, as the API server's audit log tells them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// Request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// Time at which it was received, in seconds of the Unix epoch.
    pub(crate) time: f64,
    /// Verb, such as `patch`.
    pub(crate) verb: String,
    /// Resource with its subresource, such as `pods/status`.
    pub(crate) resource: String,
    /// Name of the object; empty for a collection.
    pub(crate) name: String,
}

impl Request {
    /// Reads one event of the log; `None` for one that is no request to a resource.
    fn parse(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let time: Timestamp = event["requestReceivedTimestamp"].as_str()?.parse().ok()?;
        let verb = text(&event["verb"]);
        // A watch has an event at its start, and another one at its end.
        if verb == "watch" && event["stage"] != "ResponseStarted" {
            return None;
        }
        let object = event["objectRef"].as_object()?;
        let mut resource = text(&object["resource"]);
        if let Some(subresource) = object.get("subresource").and_then(Value::as_str) {
            resource = format!("{resource}/{subresource}");
        }
        let name = object.get("name").map(text).unwrap_or_default();
        Some(Self { time: time.as_microsecond() as f64 / 1e6, verb, resource, name })
    }

    /// Returns whether the request writes.
    pub(crate) fn is_write(&self) -> bool {
        ["create", "update", "patch", "delete", "deletecollection"].contains(&self.verb.as_str())
    }

    /// Returns whether the request is about the Lease.
    pub(crate) fn is_lease(&self) -> bool {
        self.resource == "leases"
    }
}

/// Log that grows.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    read: u64,
    requests: Vec<Request>,
}

impl AuditLog {
    /// Builds the log of a file that may not be there yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: 0, requests: Vec::new() }
    }

    /// Returns the requests since a time, the newest included.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn since(&mut self, time: f64) -> Result<&[Request]> {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.path) {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_string(&mut text).with_context(|| format!("cannot read {}", self.path.display()))?;
        }
        // The last line may not be complete.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += complete as u64;
        self.requests.extend(text[..complete].lines().filter_map(Request::parse));
        self.requests.sort_by(|one, other| one.time.total_cmp(&other.time));
        Ok(&self.requests[self.requests.partition_point(|request| request.time < time)..])
    }
}

/// Returns the number of requests of each verb.
pub(crate) fn count_by_verb(requests: &[Request]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(request.verb.as_str()).or_default() += 1;
    }
    counts
}

/// Returns the largest number of times within a second that begins with any of them. They have to be in order.
pub(crate) fn most_in_a_second(times: impl IntoIterator<Item = f64>) -> usize {
    let mut last_second = std::collections::VecDeque::new();
    let mut most = 0;
    for time in times {
        while last_second.front().is_some_and(|first| time - first >= 1.0) {
            last_second.pop_front();
        }
        last_second.push_back(time);
        most = most.max(last_second.len());
    }
    most
}

#[test]
fn a_second_begins_anywhere() {
    assert_eq!(most_in_a_second([0.9, 1.1, 1.89, 1.9, 2.2]), 4, "from 1.1 on");
    assert_eq!(most_in_a_second([]), 0);
}

#[test]
fn a_watch_counts_once_and_its_resource_has_its_subresource() {
    let line = |verb: &str, stage: &str| {
        serde_json::json!({
            "verb": verb, "stage": stage, "requestReceivedTimestamp": "2026-01-01T00:00:00.500000Z",
            "objectRef": {"resource": "pods", "subresource": "status", "name": "a"},
        })
        .to_string()
    };
    assert_eq!(Request::parse(&line("watch", "ResponseComplete")), None);
    assert!(!Request::parse(&line("watch", "ResponseStarted")).unwrap().is_write());
    let patch = Request::parse(&line("patch", "ResponseComplete")).unwrap();
    assert_eq!((patch.resource.as_str(), patch.is_write(), patch.is_lease()), ("pods/status", true, false));
    assert_eq!(patch.time.fract(), 0.5);
}
