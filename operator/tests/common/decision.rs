//! Decisions of the fault proxy: what happens to the n-th request of a kind, and to the events of a watch. No sockets
//! and no clock.

use std::collections::HashSet;
use std::time::Duration;

use node_cache_config::names::REVISION_ANNOTATION;

/// Kind of a request, by which faults are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Creation, change or deletion of an object, events included. Those of the next three kinds count as writes, too.
    Write,
    /// Write of the record of a roll-out.
    Record,
    /// Write of the ConfigMaps with the revisions, `stable` among them.
    Revisions,
    /// Telling of a pod which revision it is to run.
    Telling,
    /// Start of a watch.
    Watch,
    /// Read of a collection.
    List,
    /// Read of one object.
    Get,
    /// Read or write of a Lease.
    Election,
}

impl Kind {
    /// Returns the kind of a request with this method, this path with its query, and this body.
    pub(crate) fn of(method: &str, uri: &str, body: &[u8]) -> Self {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        // Group and version, then the namespace, then the collection.
        let version = if parts.first() == Some(&"api") { 2 } else { 3 };
        let has_namespace = parts.get(version) == Some(&"namespaces") && parts.len() > version + 2;
        let collection = if has_namespace { version + 2 } else { version };
        if parts.get(collection) == Some(&"leases") {
            return Self::Election;
        }
        if method != "GET" {
            let name = parts.get(collection + 1);
            return match (parts.get(collection), name) {
                // All others are applied under their names.
                (Some(&"configmaps"), None) => Self::Record,
                (Some(&"configmaps"), Some(name)) if name.ends_with("-rollout") => Self::Record,
                (Some(&"configmaps"), Some(name)) if name.ends_with("-revisions") => Self::Revisions,
                (Some(&"pods"), _) if contains(body, REVISION_ANNOTATION) => Self::Telling,
                _ => Self::Write,
            };
        }
        if query.split('&').any(|parameter| matches!(parameter, "watch=true" | "watch=1")) {
            return Self::Watch;
        }
        if parts.len() == collection + 1 { Self::List } else { Self::Get }
    }

    /// Returns the kinds that a request of this kind counts for.
    fn counted(self) -> impl Iterator<Item = Self> {
        let is_special = matches!(self, Self::Record | Self::Revisions | Self::Telling);
        [self].into_iter().chain(is_special.then_some(Self::Write))
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operator is killed; the API server never sees the request.
    KillBefore,
    /// The API server carries the request out, then the operator is killed.
    KillAfter,
    /// The request is refused with this code; with 429, `Retry-After` is a second.
    Refuse(u16),
    /// The connection is closed; the API server never sees the request.
    CutBefore,
    /// The API server carries the request out, but the connection is closed without a response.
    CutAfter,
    /// The connection is closed, and the API server carries the request out two seconds later.
    Late,
    /// Nothing is ever answered.
    Silence,
    /// The request reaches the API server after this time, unless the operator has gone away.
    Slow(Duration),
}

/// Requests that have a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Kind of the requests; `None` for all, those of the election included.
    pub(crate) kind: Option<Kind>,
    /// Number of the first request of the kind that has the fault, counted from 1.
    pub(crate) first: usize,
    /// Number of requests that have the fault.
    pub(crate) count: usize,
    /// Fault.
    pub(crate) fault: Fault,
}

impl Placement {
    /// Places a fault at the n-th request of a kind alone.
    pub(crate) fn at(kind: Kind, nth: usize, fault: Fault) -> Self {
        Self { kind: Some(kind), first: nth, count: 1, fault }
    }

    /// Places a fault at every request.
    pub(crate) fn everywhere(fault: Fault) -> Self {
        Self { kind: None, first: 1, count: usize::MAX, fault }
    }
}

/// Faults of one phase, and the requests that it had so far.
#[derive(Debug, Default)]
pub(crate) struct Script {
    placements: Vec<Placement>,
    counts: [usize; 8],
    total: usize,
    /// Number of requests that had a fault.
    pub(crate) hits: usize,
    /// Places of the faults that a request had.
    pub(crate) met: Vec<Placement>,
}

impl Script {
    /// Returns a script with these faults, before the first request.
    pub(crate) fn new(placements: impl IntoIterator<Item = Placement>) -> Self {
        Self { placements: placements.into_iter().collect(), ..Self::default() }
    }

    /// Counts a request and returns its fault.
    pub(crate) fn decide(&mut self, kind: Kind) -> Option<Fault> {
        kind.counted().for_each(|counted| self.counts[counted as usize] += 1);
        self.total += 1;
        let has_fault = |placement: &&Placement| {
            let number = match placement.kind {
                Some(of) if kind.counted().any(|counted| counted == of) => self.count(of),
                Some(_) => return false,
                None => self.total,
            };
            number >= placement.first && number - placement.first < placement.count
        };
        let placement = *self.placements.iter().find(has_fault)?;
        self.hits += 1;
        if !self.met.contains(&placement) {
            self.met.push(placement);
        }
        Some(placement.fault)
    }

    /// Takes the faults away; requests are counted on.
    pub(crate) fn end_faults(&mut self) {
        self.placements.clear();
    }

    /// Returns the number of requests of a kind so far.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.counts[kind as usize]
    }
}

/// Fault of the events of watches. Each is met once by the watch of each collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distortion {
    /// The stream ends in the middle of the n-th event.
    Cut(usize),
    /// The n-th event is lost, and the watch is told that its version is too old (410).
    Gone(usize),
    /// Events are lost from the n-th on, until the watch is told that its version is too old (410).
    Lose(usize),
    /// Of the events of an object, all but the last of each moment are lost: what happened in between is never seen.
    Merge,
    /// Nothing arrives any more; the connection stays.
    Silence,
}

/// Bytes that go to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Part of the stream.
    Send(String),
    /// End of the stream in due form.
    End,
    /// Loss of the connection.
    Abort,
}

/// Event that tells a watch that its version is too old.
const GONE: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
    r#""message":"too old resource version","reason":"Expired","code":410}}"#,
    "\n"
);

/// Events of one watch.
#[derive(Debug, Default)]
pub(crate) struct EventFilter {
    seen: usize,
    /// Events that wait for the end of the moment.
    held: Vec<String>,
    /// Number of events that were lost since the last news that the version is too old.
    lost: usize,
    /// Number of events that a distortion has met.
    hits: usize,
}

impl EventFilter {
    /// Takes the next event, a line with its end, and returns what goes to the operator.
    pub(crate) fn push(&mut self, line: String, distortion: Option<Distortion>) -> Vec<Output> {
        let Some(distortion) = distortion else {
            let mut output = self.flush();
            output.push(Output::Send(line));
            return output;
        };
        self.seen += 1;
        match distortion {
            Distortion::Cut(nth) if self.seen == nth => {
                self.hits += 1;
                let half = line.char_indices().nth(line.chars().count() / 2).map_or(0, |(at, _)| at);
                vec![Output::Send(line[..half].to_owned()), Output::Abort]
            }
            Distortion::Gone(nth) if self.seen == nth => {
                self.hits += 1;
                vec![Output::Send(GONE.to_owned()), Output::End]
            }
            Distortion::Lose(nth) if self.seen >= nth => {
                self.hits += 1;
                self.lost += 1;
                Vec::new()
            }
            Distortion::Merge => {
                let before = self.held.len();
                if let Some(name) = name_of(&line) {
                    self.held.retain(|held| name_of(held).as_ref() != Some(&name));
                }
                self.hits += before - self.held.len();
                self.held.push(line);
                Vec::new()
            }
            Distortion::Silence => {
                self.hits += 1;
                Vec::new()
            }
            Distortion::Cut(_) | Distortion::Gone(_) | Distortion::Lose(_) => vec![Output::Send(line)],
        }
    }

    /// Returns the number of events that a distortion has met since the last call.
    pub(crate) fn take_hits(&mut self) -> usize {
        std::mem::take(&mut self.hits)
    }

    /// Ends a moment.
    pub(crate) fn end_moment(&mut self) -> Vec<Output> {
        if std::mem::take(&mut self.lost) > 0 {
            return vec![Output::Send(GONE.to_owned()), Output::End];
        }
        self.flush()
    }

    fn flush(&mut self) -> Vec<Output> {
        self.held.drain(..).map(Output::Send).collect()
    }
}

/// Returns namespace and name of the object of an event; `None` for a bookmark.
fn name_of(line: &str) -> Option<(String, String)> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let metadata = &event["object"]["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
    (event["type"] != "BOOKMARK").then(|| (text("namespace"), text("name")))
}

/// Collection of the tiers, of which no list is an old one: an operator rightly carries out the spec that it reads.
const TIERS: &str = "dnstiers";

/// Collections whose first list after a restart is an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldLists {
    /// All but the tiers: the operator reads an API server that lags behind as a whole.
    All,
    /// The collections of this name, such as `pods`.
    Of(&'static str),
}

impl OldLists {
    /// Returns whether the list of a path is an old one.
    pub(crate) fn has(self, path: &str) -> bool {
        let collection = path.rsplit('/').next().unwrap_or_default();
        match self {
            Self::All => collection != TIERS,
            Self::Of(one) => collection == one,
        }
    }
}

/// Paths at which something has happened, each of which it may happen to once.
#[derive(Debug, Default)]
pub(crate) struct Once(HashSet<String>);

impl Once {
    /// Returns whether this is the first time for a path, and records it.
    pub(crate) fn is_first(&mut self, path: &str) -> bool {
        self.0.insert(path.to_owned())
    }

    /// Returns whether it has happened at a path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains(path)
    }
}

#[test]
fn the_kind_of_a_request_follows_from_its_method_and_path() {
    for (method, uri, kind) in [
        ("GET", "/api/v1/nodes?limit=500", Kind::List),
        ("GET", "/api/v1/nodes?watch=true&resourceVersion=5", Kind::Watch),
        ("GET", "/apis/dnstier.io/v1alpha1/dnstiers/default", Kind::Get),
        ("GET", "/api/v1/namespaces/a/services", Kind::List),
        ("GET", "/api/v1/namespaces/a/services/b", Kind::Get),
        ("PATCH", "/apis/dnstier.io/v1alpha1/dnstiers/default/status?force=true", Kind::Write),
        ("POST", "/apis/events.k8s.io/v1/namespaces/default/events", Kind::Write),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/dnstier-operator", Kind::Election),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/a/leases/dnstier-operator", Kind::Election),
    ] {
        assert_eq!(Kind::of(method, uri, b"{}"), kind, "{method} {uri}");
    }
    let told = br#"{"metadata":{"annotations":{"dnstier.io/revision":"1a2b"}}}"#;
    for (method, uri, kind) in [
        ("POST", "/api/v1/namespaces/a/configmaps", Kind::Record),
        ("PATCH", "/api/v1/namespaces/a/configmaps/dnstier-default-rollout", Kind::Record),
        ("PATCH", "/api/v1/namespaces/a/configmaps/dnstier-default-revisions?force=true", Kind::Revisions),
        ("PATCH", "/api/v1/namespaces/a/pods/b/status", Kind::Telling),
    ] {
        assert_eq!(Kind::of(method, uri, told), kind, "{method} {uri}");
    }
    assert_eq!(Kind::of("PATCH", "/api/v1/namespaces/a/pods/b/status", b"{}"), Kind::Write);
}

#[test]
fn old_lists_are_those_of_one_collection_or_of_all_but_the_tiers() {
    let (pods, tiers) = ("/api/v1/namespaces/a/pods", "/apis/dnstier.io/v1alpha1/dnstiers");
    assert_eq!([pods, tiers].map(|path| OldLists::All.has(path)), [true, false]);
    assert_eq!([pods, "/api/v1/nodes"].map(|path| OldLists::Of("pods").has(path)), [true, false]);
}

#[test]
fn the_record_and_tellings_are_counted_for_themselves_and_among_the_writes() {
    let mut script = Script::new(Some(Placement::at(Kind::Telling, 2, Fault::KillAfter)));
    let kinds = [Kind::Telling, Kind::Record, Kind::Write, Kind::Telling];
    assert_eq!(kinds.map(|kind| script.decide(kind)), [None, None, None, Some(Fault::KillAfter)]);
    assert_eq!((script.count(Kind::Write), script.count(Kind::Telling), script.count(Kind::Record)), (4, 2, 1));
    let mut script = Script::new(Some(Placement::at(Kind::Write, 2, Fault::KillBefore)));
    assert_eq!(kinds.map(|kind| script.decide(kind)), [None, Some(Fault::KillBefore), None, None]);
}

#[test]
fn a_fault_meets_the_nth_request_of_its_kind_alone() {
    let mut script = Script::new(Some(Placement::at(Kind::Write, 2, Fault::KillBefore)));
    let kinds = [Kind::Write, Kind::List, Kind::List, Kind::Write, Kind::Write];
    let decisions = kinds.map(|kind| script.decide(kind));
    assert_eq!(decisions, [None, None, None, Some(Fault::KillBefore), None]);
    assert_eq!((script.count(Kind::Write), script.hits), (3, 1));
    let mut script = Script::new(Some(Placement::everywhere(Fault::Refuse(500))));
    assert_eq!(script.decide(Kind::Election), Some(Fault::Refuse(500)));
    script.end_faults();
    assert_eq!(script.decide(Kind::Election), None);
}

#[cfg(test)]
fn event(name: &str, version: u32) -> String {
    format!(
        "{{\"type\":\"MODIFIED\",\"object\":{{\"metadata\":\
         {{\"name\":\"{name}\",\"resourceVersion\":\"{version}\"}}}}}}\n"
    )
}

#[test]
fn a_moment_shows_the_last_event_of_each_object() {
    let mut filter = EventFilter::default();
    for (name, version) in [("a", 1), ("b", 2), ("a", 3)] {
        assert_eq!(filter.push(event(name, version), Some(Distortion::Merge)), []);
    }
    assert_eq!(filter.end_moment(), [Output::Send(event("b", 2)), Output::Send(event("a", 3))]);
    assert_eq!(filter.take_hits(), 1);
    assert_eq!(filter.end_moment(), []);
}

#[test]
fn lost_events_end_with_the_news_that_the_version_is_too_old() {
    let mut filter = EventFilter::default();
    let lose = Some(Distortion::Lose(2));
    assert_eq!(filter.push(event("a", 1), lose), [Output::Send(event("a", 1))]);
    assert_eq!(filter.end_moment(), []);
    assert_eq!(filter.push(event("a", 2), lose), []);
    assert_eq!(filter.end_moment(), [Output::Send(GONE.to_owned()), Output::End]);
}

#[test]
fn a_stream_is_cut_in_the_middle_of_an_event() {
    let mut filter = EventFilter::default();
    let output = filter.push(event("a", 1), Some(Distortion::Cut(1)));
    let [Output::Send(half), Output::Abort] = output.as_slice() else { panic!("{output:?}") };
    assert!(!half.is_empty() && event("a", 1).starts_with(half) && !half.ends_with('\n'));
}
