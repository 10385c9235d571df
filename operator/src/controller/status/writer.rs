//! Writer of the status: at most one write in some seconds, unless a condition flips or another revision is rolled out,
//! and the events after it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dnstier_crds::v1alpha1::DnsTierStatus;
use dnstier_crds::{DnsTier, FIELD_MANAGER};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::controller::finding::Finding;
use crate::controller::observe::own_writes::MAX_LAG;
use crate::controller::status::{dropped_fields, events};
use crate::error::Error;
use crate::metrics::Metrics;

/// Minimum time between two writes of a status in which no condition flips.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// Time after which a status of which fields were dropped is written again: the CRD may have been upgraded.
const RETRY_DROPPED: Duration = Duration::from_secs(60);
/// Writes of one status at most: each but the last leaves out fields that the one before was refused for.
const MAX_ATTEMPTS: u32 = 8;
/// Time after which a tier is looked at again when fields begin or cease to be dropped.
const TELL_DROPPED: Duration = Duration::from_secs(1);

/// Writes the status of tiers and publishes their events.
pub(crate) struct StatusWriter {
    client: Client,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    /// Minimum time between two writes of a status in which no condition flips.
    min_interval: Duration,
    /// Last write of each tier, by name.
    last_writes: Mutex<HashMap<String, LastWrite>>,
}

/// Last write of the status of a tier.
#[derive(Clone)]
struct LastWrite {
    uid: Option<String>,
    time: Instant,
    /// Version of the tier that the write made.
    version: Option<String>,
    /// Versions of the tier that this write replaced, and those before it that the watch has not delivered. A store
    /// that has one of them lags.
    replaced: BTreeSet<String>,
    status: DnsTierStatus,
    /// Status that the API server kept of it.
    kept: DnsTierStatus,
    /// Fields that it did not keep.
    dropped: Vec<String>,
}

impl LastWrite {
    /// Returns whether the next write has to wait, unless a condition flips.
    fn is_recent(&self, min_interval: Duration) -> bool {
        self.time.elapsed() < min_interval
    }

    /// Returns whether the watch has not delivered the write: the tier has a version that it replaced.
    fn is_undelivered(&self, tier: &DnsTier) -> bool {
        let version = tier.metadata.resource_version.as_ref();
        self.time.elapsed() < MAX_LAG && version.is_some_and(|version| self.replaced.contains(version))
    }
}

/// Decision about a status.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// The status is in the cluster.
    Unchanged,
    /// The status is written now.
    Write,
    /// The status is written after this time, unless a condition flips before.
    Wait(Duration),
}

impl StatusWriter {
    /// Builds a writer that has written nothing.
    pub(crate) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER));
        Self { client, recorder, metrics, min_interval: MIN_INTERVAL, last_writes: Mutex::default() }
    }

    /// Returns a writer that writes every change at once.
    #[cfg(test)]
    pub(crate) fn without_delay(self) -> Self {
        Self { min_interval: Duration::ZERO, ..self }
    }

    /// Returns a tier with the last status that this process wrote, if the watch may not have delivered it. The next
    /// status continues it: times of conditions, numbers with hysteresis, and what the status announces.
    #[must_use]
    pub(crate) fn with_last_status(&self, tier: Arc<DnsTier>) -> Arc<DnsTier> {
        let last = self.last_write(&tier);
        let is_ahead = |last: &LastWrite| last.is_recent(self.min_interval) || last.is_undelivered(&tier);
        let Some(last) = last.filter(is_ahead) else { return tier };
        let operator = tier.status.as_ref().and_then(|status| status.operator.clone());
        let mut tier = Arc::unwrap_or_clone(tier);
        tier.status = Some(DnsTierStatus { operator, ..last.kept });
        Arc::new(tier)
    }

    /// Writes the status of a tier that [`Self::with_last_status`] returned, unless the status is unchanged or has to
    /// wait, and publishes an event for each changed condition after the write. While the tier is starting, what is
    /// usual then is no warning. Returns the time after which a status that waits is to be written.
    ///
    /// # Errors
    ///
    /// When the API server refuses the status. A tier that was deleted or recreated in between is no error.
    pub(crate) async fn write(
        &self,
        tier: &DnsTier,
        status: &DnsTierStatus,
        is_starting: bool,
    ) -> Result<Option<Duration>, Error> {
        let last = self.last_write(tier);
        let (status, observed) = (without_claim(status), tier.status.as_ref().map(without_claim));
        let status = &status;
        // Where fields were dropped, what is there is as good as what was written.
        let last_kept = last.as_ref().filter(|last| observed.as_ref() == Some(&last.kept));
        let previous = last_kept.map(|last| &last.status).or(observed.as_ref());
        let partly_kept = last.as_ref().filter(|last| !last.dropped.is_empty());
        let recent = last.as_ref().filter(|last| last.is_recent(self.min_interval));
        match decide(previous, status, recent.map(|write| write.time.elapsed())) {
            Decision::Unchanged if partly_kept.is_some_and(|last| last.time.elapsed() >= RETRY_DROPPED) => {}
            Decision::Unchanged => return Ok(None),
            Decision::Wait(remaining) => return Ok(Some(remaining)),
            Decision::Write => {}
        }
        let name = tier.name_any();
        let (version, kept) = match self.apply(tier, status).await {
            Ok(written) => (written.resource_version(), without_claim(&written.status.unwrap_or_default())),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(None),
            Err(source) => return Err(Error::request("write the status of", format!("DnsTier {name}"), source)),
        };
        let dropped = dropped_fields::dropped(&json!(status), &json!(kept), "status");
        let is_told = last.as_ref().map_or(&[][..], |last| last.dropped.as_slice()) == dropped.as_slice();
        let replaced = replaced_versions(last.as_ref(), tier, version.as_ref());
        let (uid, time) = (tier.uid(), Instant::now());
        let write = LastWrite { uid, time, version, replaced, status: status.clone(), kept, dropped };
        self.last_writes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, write);
        events::publish_transitions(&self.recorder, tier, previous, status, is_starting).await;
        Ok((!is_told).then_some(TELL_DROPPED))
    }

    /// Applies a status. Fields that the installed CRD does not know are left out, for it refuses the whole otherwise.
    /// The API server names some of them at a time.
    async fn apply(&self, tier: &DnsTier, status: &DnsTierStatus) -> kube::Result<DnsTier> {
        let name = tier.name_any();
        let mut patch = json!({
            "apiVersion": DnsTier::api_version(&()),
            "kind": DnsTier::kind(&()),
            "metadata": {"name": name, "uid": tier.uid()},
            "status": status,
        });
        let tiers: Api<DnsTier> = Api::all(self.client.clone());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let mut attempts = 1;
        loop {
            self.metrics.record_write("DnsTier", "status");
            let result = tiers.patch_status(&name, &params, &Patch::Apply(&patch)).await;
            let undeclared = match &result {
                Err(kube::Error::Api(refusal)) => dropped_fields::undeclared(&refusal.message),
                _ => Vec::new(),
            };
            if undeclared.is_empty() || attempts == MAX_ATTEMPTS {
                return result;
            }
            dropped_fields::remove(&mut patch, &undeclared);
            attempts += 1;
        }
    }

    /// Returns the finding about fields of a tier's status that the installed CRD drops; `None` without any.
    #[must_use]
    pub(crate) fn finding(&self, tier: &DnsTier) -> Option<Finding> {
        dropped_fields::finding(&self.last_write(tier)?.dropped)
    }

    /// Returns the last write of a tier.
    fn last_write(&self, tier: &DnsTier) -> Option<LastWrite> {
        let last_writes = self.last_writes.lock().unwrap_or_else(PoisonError::into_inner);
        last_writes.get(&tier.name_any()).filter(|last| last.uid == tier.uid()).cloned()
    }
}

/// Returns a status without its claim, which has a writer of its own, and no apply may own it.
fn without_claim(status: &DnsTierStatus) -> DnsTierStatus {
    DnsTierStatus { operator: None, ..status.clone() }
}

/// Returns the versions that a write of a tier has replaced: that of the store, and those that the last write replaced
/// or made while the store lags. A write without effect makes no version.
fn replaced_versions(last: Option<&LastWrite>, tier: &DnsTier, written: Option<&String>) -> BTreeSet<String> {
    let undelivered = last.filter(|last| last.is_undelivered(tier)).into_iter().flat_map(|last| &last.replaced);
    let versions = last.and_then(|last| last.version.as_ref()).into_iter().chain(&tier.metadata.resource_version);
    undelivered.chain(versions).filter(|version| Some(*version) != written).cloned().collect()
}

/// Decides whether a status is written; `since_write` is the time since the last write of this process.
fn decide(previous: Option<&DnsTierStatus>, current: &DnsTierStatus, since_write: Option<Duration>) -> Decision {
    if previous == Some(current) {
        return Decision::Unchanged;
    }
    let remaining = since_write.map_or(Duration::ZERO, |since| MIN_INTERVAL.saturating_sub(since));
    // No pod is told of a target before the status says that it is not rolled out.
    let target = |status: &DnsTierStatus| status.rollout.as_ref().map(|rollout| rollout.target.clone());
    let is_new_target = previous.is_none_or(|previous| target(previous) != target(current));
    if remaining.is_zero() || is_new_target || previous.is_none_or(|previous| flips(previous, current)) {
        return Decision::Write;
    }
    Decision::Wait(remaining)
}

/// Returns whether a condition is true, false or unknown in one status and not in the other.
fn flips(previous: &DnsTierStatus, current: &DnsTierStatus) -> bool {
    let truths = |status: &DnsTierStatus| -> Vec<(String, String)> {
        let conditions = status.conditions.iter();
        conditions.map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
    };
    truths(previous) != truths(current)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{StatusCode, Uri};
    use dnstier_crds::conditions::{ConditionStatus, ConditionType, Reason, Report, merge};
    use dnstier_crds::v1alpha1::{NodesStatus, OperatorStatus, RolloutStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::controller::fixtures;
    use crate::controller::status::start::first_ready_time;

    /// Returns a status with this condition `Ready`.
    fn status(truth: ConditionStatus, message: &str) -> DnsTierStatus {
        let reason = if truth == ConditionStatus::True { Reason::Serving } else { Reason::NodesNotReady };
        let report = Report { type_: ConditionType::Ready, status: truth, reason, message: message.to_owned() };
        let conditions = merge(&[], &[report], Some(1), &Time(Timestamp::UNIX_EPOCH));
        let first_ready_time = first_ready_time(&DnsTierStatus::default(), &conditions);
        DnsTierStatus { conditions, first_ready_time, ..DnsTierStatus::default() }
    }

    #[test]
    fn a_status_waits_for_the_end_of_five_seconds_unless_a_condition_flips() {
        let written = status(ConditionStatus::True, "4 nodes");
        let other = status(ConditionStatus::True, "5 nodes");
        let flipped = status(ConditionStatus::False, "5 nodes");
        let after = |current, millis| decide(Some(&written), current, Some(Duration::from_millis(millis)));
        assert_eq!(after(&written, 0), Decision::Unchanged);
        assert_eq!(after(&other, 1_500), Decision::Wait(Duration::from_millis(3_500)));
        assert_eq!(after(&other, 5_000), Decision::Write);
        assert_eq!(after(&flipped, 0), Decision::Write);
        let without = DnsTierStatus::default();
        assert_eq!(after(&without, 0), Decision::Write, "a condition that goes is a flip");
        assert_eq!(decide(Some(&written), &other, None), Decision::Write, "after a restart of the operator");
        assert_eq!(decide(None, &other, Some(Duration::ZERO)), Decision::Write);
    }

    /// An API server that counts requests and answers writes of a status with `code`.
    #[derive(Clone, Default)]
    struct Server {
        code: Arc<Mutex<u16>>,
        is_old: Arc<Mutex<bool>>,
        /// Number of written statuses, from which the tier gets its versions, and the last of them.
        written: Arc<Mutex<(u32, Value)>>,
        requests: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Server {
        fn writer(&self) -> StatusWriter {
            let server = self.clone();
            let router = Router::new().fallback(move |uri: Uri, body: String| async move {
                let body = serde_json::from_str(&body).unwrap_or_default();
                server.answer(uri.path(), &body)
            });
            StatusWriter::new(Client::new(router, "default"), Arc::new(Metrics::default()))
        }

        fn answer(&self, path: &str, body: &Value) -> (StatusCode, String) {
            let is_status = path.ends_with("/status");
            self.requests.lock().unwrap().push(if is_status { "status" } else { "event" });
            let code = if is_status { *self.code.lock().unwrap() } else { 201 };
            let body = match code {
                200 => {
                    let mut tier =
                        serde_json::to_value(fixtures::tier("default", "2026-01-01T00:00:00Z", "{}")).unwrap();
                    tier["status"] = body["status"].clone();
                    // The server of an old CRD.
                    if *self.is_old.lock().unwrap() {
                        tier["status"].as_object_mut().unwrap().remove("rollout");
                    }
                    let (number, last) = &mut *self.written.lock().unwrap();
                    (*number, *last) = (*number + 1, tier["status"].clone());
                    tier["metadata"]["resourceVersion"] = json!(format!("own {number}"));
                    tier.to_string()
                }
                201 => r#"{"metadata": {"name": "x", "namespace": "default"}, "eventTime": null}"#.to_owned(),
                _ => r#"{"status": "Failure", "message": "x", "reason": "InternalError", "code": 500}"#.to_owned(),
            };
            (StatusCode::from_u16(code).unwrap(), body)
        }

        fn requests(&self) -> Vec<&'static str> {
            std::mem::take(&mut *self.requests.lock().unwrap())
        }
    }

    #[tokio::test]
    async fn a_server_that_names_one_unknown_field_at_a_time_gets_the_rest_of_the_status() {
        let router = Router::new().fallback(|body: String| async move {
            let mut tier: Value = serde_json::from_str(&body).unwrap();
            tier["spec"] = json!({});
            let unknown = ["rollout", "nodes"].into_iter().find(|field| !tier["status"][field].is_null());
            let Some(field) = unknown else { return (StatusCode::OK, tier.to_string()) };
            let message = format!("failed to create typed patch object: .status.{field}: field not declared in schema");
            let refusal = json!({"status": "Failure", "message": message, "reason": "", "code": 500});
            (StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string())
        });
        let writer = StatusWriter::new(Client::new(router, "default"), Arc::new(Metrics::default()));
        let tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        let status = DnsTierStatus {
            observed_generation: Some(1),
            rollout: Some(RolloutStatus::default()),
            nodes: Some(NodesStatus::default()),
            ..DnsTierStatus::default()
        };
        let told = writer.write(&tier, &status, false).await.unwrap();
        assert_eq!(told, Some(TELL_DROPPED));
        assert!(writer.finding(&tier).unwrap().message.contains("drops status.nodes and status.rollout"));
    }

    #[tokio::test(start_paused = true)]
    async fn events_follow_the_write_and_a_write_that_fails_has_none() {
        let server = Server::default();
        let writer = server.writer();
        let tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        let broken = status(ConditionStatus::False, "x");
        *server.code.lock().unwrap() = 500;
        writer.write(&tier, &broken, false).await.unwrap_err();
        assert!(!server.requests().contains(&"event"));
        *server.code.lock().unwrap() = 200;
        assert_eq!(writer.write(&tier, &broken, false).await.unwrap(), None);
        assert_eq!(server.requests(), ["status", "event"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_the_watch_has_not_delivered_yet_is_not_repeated_nor_are_its_events() {
        let server = Server::default();
        *server.code.lock().unwrap() = 200;
        let writer = server.writer();
        let tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        let first = status(ConditionStatus::True, "4 nodes");
        writer.write(&tier, &first, false).await.unwrap();
        server.requests();
        let tier = writer.with_last_status(Arc::new(tier));
        assert_eq!(writer.write(&tier, &first, false).await.unwrap(), None);
        let second = status(ConditionStatus::True, "5 nodes");
        assert_eq!(writer.write(&tier, &second, false).await.unwrap(), Some(MIN_INTERVAL));
        assert_eq!(server.requests(), Vec::<&str>::new());
        tokio::time::advance(MIN_INTERVAL).await;
        assert_eq!(writer.write(&tier, &second, false).await.unwrap(), None);
        assert_eq!(server.requests(), ["status"], "no condition has changed its reason");
    }

    /// Returns a tier as its watch has delivered it.
    fn delivered(version: &str, status: DnsTierStatus) -> DnsTier {
        let mut tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        (tier.metadata.resource_version, tier.status) = (Some(version.to_owned()), Some(status));
        tier
    }

    /// Returns the status of a tier in which only the condition `Ready` may have changed.
    fn next_status(tier: &DnsTier, truth: ConditionStatus, now: Timestamp) -> DnsTierStatus {
        let before = tier.status.clone().unwrap();
        let reason = if truth == ConditionStatus::True { Reason::Serving } else { Reason::NodesNotReady };
        let report = Report { type_: ConditionType::Ready, status: truth, reason, message: String::new() };
        let conditions = merge(&before.conditions, &[report], Some(1), &Time(now));
        let first_ready_time = first_ready_time(&before, &conditions);
        DnsTierStatus { conditions, first_ready_time, ..before }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_silent_for_minutes_repeats_no_write_and_no_event_and_moves_no_time() {
        let server = Server::default();
        *server.code.lock().unwrap() = 200;
        let writer = server.writer();
        let begin: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let stale = delivered("1", status(ConditionStatus::True, ""));
        let start = Instant::now();
        let write = async |tier: &DnsTier, truth| {
            let now = begin + start.elapsed();
            let tier = writer.with_last_status(Arc::new(tier.clone()));
            let next = writer.write(&tier, &next_status(&tier, truth, now), false).await.unwrap();
            assert_eq!(next, None);
            server.requests()
        };
        let transition = || server.written.lock().unwrap().1["conditions"][0]["lastTransitionTime"].clone();
        let (up, down) = (ConditionStatus::True, ConditionStatus::False);
        assert_eq!(write(&stale, down).await, ["status", "event"]);
        for _ in 0..50 {
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(write(&stale, down).await, Vec::<&str>::new());
        }
        assert_eq!(write(&stale, up).await, ["status", "event"], "what changes is written");
        assert_eq!(transition(), "2026-01-02T00:05:00Z");
        tokio::time::advance(Duration::from_secs(6)).await;
        let first = delivered("own 1", next_status(&stale, down, begin));
        assert_eq!(write(&first, up).await, Vec::<&str>::new(), "the watch delivers one write after the other");
        assert_eq!(write(&first, down).await, ["status", "event"]);
        tokio::time::advance(Duration::from_secs(6)).await;
        for tier in [&stale, &first] {
            assert_eq!(write(tier, down).await, Vec::<&str>::new(), "no version that was replaced counts");
        }
        assert_eq!(write(&delivered("2", first.status.clone().unwrap()), up).await, ["status", "event"], "somebody's");
        tokio::time::advance(MAX_LAG).await;
        assert_eq!(write(&delivered("2", first.status.unwrap()), up).await, ["status", "event"], "after ten minutes");
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_hang_hold_a_pass_up_for_two_seconds_and_no_other_event() {
        let published = Arc::new(Mutex::new(Vec::new()));
        let log = published.clone();
        let router = Router::new().fallback(move |uri: Uri, body: String| async move {
            let body: Value = serde_json::from_str(&body).unwrap();
            if uri.path().ends_with("/status") {
                let mut tier = json!(fixtures::tier("default", "2026-01-01T00:00:00Z", "{}"));
                tier["status"] = body["status"].clone();
                return (StatusCode::OK, tier.to_string());
            }
            if body["reason"] != Reason::Healthy.name() {
                std::future::pending::<()>().await;
            }
            log.lock().unwrap().push(body["reason"].clone());
            (
                StatusCode::CREATED,
                r#"{"metadata": {"name": "x", "namespace": "default"}, "eventTime": null}"#.to_owned(),
            )
        });
        let writer = StatusWriter::new(Client::new(router, "default"), Arc::new(Metrics::default()));
        let reports = [
            (ConditionType::Ready, Reason::NodesNotReady),
            (ConditionType::Progressing, Reason::Settled),
            (ConditionType::RolledOut, Reason::Wave),
            (ConditionType::Degraded, Reason::Healthy),
        ];
        let reports = reports.map(|(type_, reason)| Report {
            type_,
            status: ConditionStatus::False,
            reason,
            message: String::new(),
        });
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let conditions = merge(&[], &reports, Some(1), &Time(now));
        let tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        let (start, status) = (Instant::now(), DnsTierStatus { conditions, ..DnsTierStatus::default() });
        let written = tokio::time::timeout(Duration::from_secs(60), writer.write(&tier, &status, false)).await;
        assert_eq!(written.expect("the pass goes on").unwrap(), None);
        assert_eq!(start.elapsed().as_secs(), 2);
        assert_eq!(*published.lock().unwrap(), [Reason::Healthy.name()]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_claim_of_a_release_is_no_reason_to_write_the_status() {
        let server = Server::default();
        let writer = server.writer();
        let mut tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        let unclaimed = status(ConditionStatus::True, "4 nodes");
        let operator = Some(OperatorStatus { namespace: "dnstier-system".to_owned() });
        let claimed = DnsTierStatus { operator, ..unclaimed.clone() };
        tier.status = Some(claimed.clone());
        for status in [&unclaimed, &claimed] {
            assert_eq!(writer.write(&tier, status, false).await.unwrap(), None);
        }
        assert_eq!(server.requests(), Vec::<&str>::new());
        *server.code.lock().unwrap() = 200;
        writer.write(&tier, &status(ConditionStatus::False, ""), false).await.unwrap();
        let status = writer.with_last_status(Arc::new(tier)).status.clone().unwrap();
        assert_eq!((status.operator, status.conditions[0].status.as_str()), (claimed.operator, "False"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_field_that_the_installed_definition_drops_is_told_and_costs_one_write_a_minute() {
        let server = Server::default();
        *server.code.lock().unwrap() = 200;
        *server.is_old.lock().unwrap() = true;
        let writer = server.writer();
        let mut tier = fixtures::tier("default", "2026-01-01T00:00:00Z", "{}");
        let kept = status(ConditionStatus::True, "4 nodes");
        let sent = DnsTierStatus { rollout: Some(RolloutStatus::default()), ..kept.clone() };
        assert_eq!(writer.finding(&tier), None);
        assert_eq!(writer.write(&tier, &sent, false).await.unwrap(), Some(TELL_DROPPED), "it is to be told soon");
        let finding = writer.finding(&tier).unwrap();
        assert_eq!(finding.reason, Reason::CrdTooOld);
        assert!(finding.message.contains("drops status.rollout: "), "{}", finding.message);
        server.requests();
        // What is in the cluster differs from what was sent for ever.
        tier.status = Some(kept);
        for _ in 0..11 {
            tokio::time::advance(Duration::from_secs(5)).await;
            assert_eq!(writer.write(&tier, &sent, false).await.unwrap(), None);
        }
        assert_eq!(server.requests(), Vec::<&str>::new());
        *server.is_old.lock().unwrap() = false;
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(writer.write(&tier, &sent, false).await.unwrap(), Some(TELL_DROPPED));
        assert_eq!((server.requests(), writer.finding(&tier)), (vec!["status"], None), "it was upgraded");
    }
}
