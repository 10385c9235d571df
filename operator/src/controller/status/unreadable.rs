//! Warnings about tiers that cannot be deserialized, whose status nobody can write: a log line and an event.
//!
//! A tier that cannot be deserialized has no reconciliation and so no schedule: a report that fails is tried again at a
//! pace and with a back-off of its own, whatever wakes the tier.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dnstier_crds::{DnsTier, FIELD_MANAGER};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::Value;

use crate::controller::backoff::double;
use crate::controller::status::events::note_of;

/// Reason of the event.
const REASON: &str = "Unreadable";
/// Least time between the starts of two attempts, of whatever tiers. An attempt makes two requests.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the second attempt of a tier; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// Delay before an attempt of a tier, at most.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// Fault of a tier, as it is reported: its UID and its error.
type Fault = (Option<String>, String);

/// Next step of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Start an attempt.
    Start,
    /// Wait for so long.
    Wait(Duration),
    /// Do nothing: the fault has been reported.
    Rest,
}

/// Attempts to report tiers.
#[derive(Debug, Default)]
struct Attempts {
    tiers: HashMap<String, TierAttempts>,
    /// Start of the last attempt.
    last: Option<Instant>,
}

/// Attempts to report the fault of one tier.
#[derive(Debug)]
struct TierAttempts {
    fault: Fault,
    is_reported: bool,
    /// Number of attempts, none of which has succeeded yet.
    count: u32,
    /// Time of the next attempt, at the earliest.
    next: Instant,
}

impl Attempts {
    /// Returns the next step for a tier with this fault. An attempt that starts counts as failed until
    /// [`Self::record_report`]: it may be dropped with its term.
    fn next(&mut self, tier: &str, fault: &Fault, now: Instant) -> Step {
        let known = self.tiers.get(tier).filter(|known| known.fault == *fault);
        if known.is_some_and(|known| known.is_reported) {
            return Step::Rest;
        }
        let earliest = self.last.map(|last| last + ATTEMPT_INTERVAL).into_iter().chain(known.map(|known| known.next));
        if let Some(wait) = earliest.map(|earliest| earliest.saturating_duration_since(now)).max()
            && !wait.is_zero()
        {
            return Step::Wait(wait);
        }
        let count = known.map_or(0, |known| known.count).saturating_add(1);
        let next = now + double(FIRST_DELAY, count, MAX_DELAY);
        self.tiers.insert(tier.to_owned(), TierAttempts { fault: fault.clone(), is_reported: false, count, next });
        self.last = Some(now);
        Step::Start
    }

    /// Records that the fault of a tier was reported.
    fn record_report(&mut self, tier: &str) {
        if let Some(attempts) = self.tiers.get_mut(tier) {
            attempts.is_reported = true;
        }
    }
}

/// Reporter of tiers that cannot be deserialized.
pub(crate) struct UnreadableReporter {
    client: Client,
    recorder: Recorder,
    /// Namespace of this release.
    namespace: String,
    attempts: Mutex<Attempts>,
}

impl UnreadableReporter {
    /// Builds the reporter of the release in a namespace.
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER));
        Self { client, recorder, namespace, attempts: Mutex::default() }
    }

    /// Forgets the error of a tier that is gone or can be deserialized.
    pub(crate) fn forget(&self, tier: &str) {
        self.lock().tiers.remove(tier);
    }

    /// Reports a tier, once for each error, unless another release acts on it. Returns the delay before the next
    /// attempt; `None` once the tier has been reported.
    pub(crate) async fn report(&self, invalid: &InvalidObject, now: Instant) -> Option<Duration> {
        let name = invalid.metadata.name.clone().unwrap_or_default();
        let fault = (invalid.metadata.uid.clone(), invalid.error.clone());
        let step = self.lock().next(&name, &fault, now);
        if step == Step::Start && self.attempt(&name, invalid).await {
            self.lock().record_report(&name);
        }
        // An attempt that has just failed is not due again.
        match self.lock().next(&name, &fault, now) {
            Step::Wait(delay) => Some(delay),
            Step::Start | Step::Rest => None,
        }
    }

    /// Tries to report a tier, and returns whether it is settled.
    async fn attempt(&self, tier: &str, invalid: &InvalidObject) -> bool {
        let error = invalid.error.as_str();
        match self.claimed(tier).await {
            Ok(Some(claimed)) if claimed != self.namespace => {
                tracing::info!(tier, error, claimed, "a DnsTier of another release cannot be deserialized");
                true
            }
            Ok(_) => {
                tracing::warn!(tier, error, "a DnsTier cannot be deserialized");
                let published = self.publish(invalid).await;
                if let Err(error) = &published {
                    tracing::warn!(tier, reason = REASON, %error, "an event cannot be published");
                }
                published.is_ok()
            }
            Err(request_error) => {
                tracing::warn!(tier, error, %request_error, "a DnsTier cannot be deserialized, nor its claim be read");
                false
            }
        }
    }

    /// Returns the namespace of the release that has claimed a tier, whatever else the tier is like.
    async fn claimed(&self, name: &str) -> kube::Result<Option<String>> {
        let url = DnsTier::url_path(&(), None);
        let request =
            kube::core::Request::new(url).get(name, &Default::default()).map_err(kube::Error::BuildRequest)?;
        let tier: Value = self.client.request(request).await?;
        let namespace = tier["status"]["operator"]["namespace"].as_str();
        Ok(namespace.filter(|namespace| !namespace.is_empty()).map(str::to_owned))
    }

    async fn publish(&self, invalid: &InvalidObject) -> kube::Result<()> {
        let reference = ObjectReference {
            api_version: Some(DnsTier::api_version(&()).into_owned()),
            kind: Some(DnsTier::kind(&()).into_owned()),
            name: invalid.metadata.name.clone(),
            uid: invalid.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        let note = format!(
            "The operator cannot read the tier: {}. Its pods run on as they are, and no change reaches them. Correct \
             the spec, or upgrade the operator to the release of the CustomResourceDefinition.",
            invalid.error
        );
        let event = Event {
            type_: EventType::Warning,
            reason: REASON.to_owned(),
            note: Some(note_of(&note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &reference).await
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use serde_json::json;

    use super::*;
    use crate::client::Limits;
    use crate::controller::fixtures::tier;
    use crate::fake_api::{FakeApi, Reply};

    /// Server of a tier that a release has claimed, which answers events with a code; and the reporter of a release.
    async fn reporter(claimed: Option<&'static str>, code: Arc<AtomicU16>) -> (FakeApi, UnreadableReporter) {
        let server = FakeApi::start(move |request| match (request.method.as_str(), code.load(Ordering::Relaxed)) {
            ("GET", _) => Reply::Json(200, json!({"spec": 7, "status": {"operator": {"namespace": claimed}}})),
            (_, 201) => Reply::Json(201, request.body.clone()),
            (_, code) => Reply::refusal(code, "busy"),
        })
        .await;
        let reporter = UnreadableReporter::new(server.client(Limits::OPERATOR), "own".to_owned());
        (server, reporter)
    }

    fn invalid(error: &str) -> InvalidObject {
        InvalidObject { error: error.to_owned(), metadata: tier("default", "2026-01-01T00:00:00Z", "{}").metadata }
    }

    fn events(server: &FakeApi) -> Vec<String> {
        let requests = server.requests().into_iter().filter(|request| request.method != "GET");
        requests.map(|request| request.body["note"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn a_tier_that_cannot_be_deserialized_has_one_event_for_each_error() {
        let (server, reporter) = reporter(Some("own"), Arc::new(AtomicU16::new(201))).await;
        let start = Instant::now();
        for second in 0..3 {
            let delay = reporter.report(&invalid("spec.nodeCache: unknown variant"), start + seconds(second)).await;
            assert_eq!(delay, None);
        }
        assert_eq!(events(&server).len(), 1, "{:?}", events(&server));
        assert!(events(&server)[0].contains("cannot read the tier: spec.nodeCache: unknown variant. Its pods run on"));
        reporter.report(&invalid("spec.routes: missing field"), start + seconds(3)).await;
        assert_eq!(events(&server).len(), 2);
        reporter.forget("default");
        reporter.report(&invalid("spec.routes: missing field"), start + seconds(4)).await;
        assert_eq!(events(&server).len(), 3, "once more after it could be read");
    }

    #[tokio::test]
    async fn an_event_that_was_refused_is_published_later_and_a_tier_of_another_release_has_none() {
        let code = Arc::new(AtomicU16::new(500));
        let start = Instant::now();
        let (server, reporter_of_all) = reporter(None, code.clone()).await;
        let delay = reporter_of_all.report(&invalid("a"), start).await.unwrap();
        code.store(201, Ordering::Relaxed);
        assert_eq!(reporter_of_all.report(&invalid("a"), start + delay).await, None);
        assert_eq!(reporter_of_all.report(&invalid("a"), start + 2 * delay).await, None);
        assert_eq!(events(&server).len(), 2);
        let (server, reporter) = reporter(Some("other"), code).await;
        assert_eq!(reporter.report(&invalid("a"), start).await, None);
        assert_eq!(events(&server), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_report_that_fails_is_tried_again_after_a_back_off_however_often_its_tier_is_woken() {
        let refused_event = reporter(None, Arc::new(AtomicU16::new(403))).await;
        let server = FakeApi::start(|_| Reply::refusal(500, "busy")).await;
        let refused_read = UnreadableReporter::new(server.client(Limits::OPERATOR), "own".to_owned());
        for ((server, reporter), requests) in [(refused_event, 2), ((server, refused_read), 1)] {
            let start = Instant::now();
            for tick in 0..600 {
                let now = start + Duration::from_millis(100) * tick;
                let delay = reporter.report(&invalid("a"), now).await.unwrap();
                assert!(delay <= seconds(32), "{delay:?}");
            }
            // After 2 s, 4 s, 8 s, 16 s and 32 s.
            assert_eq!(server.requests().len(), 5 * requests, "one minute of ten wakes a second");
        }
    }

    #[tokio::test]
    async fn a_report_that_was_dropped_with_its_term_is_tried_again_after_the_back_off() {
        let server = FakeApi::start(|_| Reply::Silence).await;
        let reporter = UnreadableReporter::new(server.client(Limits::OPERATOR), "own".to_owned());
        let (invalid, now) = (invalid("a"), Instant::now());
        tokio::select! {
            _ = reporter.report(&invalid, now) => panic!("there is no response"),
            _ = server.wait_for_requests(1) => {}
        }
        assert_eq!(reporter.report(&invalid, now).await, Some(FIRST_DELAY));
        assert_eq!(server.requests().len(), 1);
    }

    #[test]
    fn attempts_for_many_tiers_and_for_ever_new_errors_are_a_second_apart() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let mut starts = Vec::new();
        for tick in 0..300 {
            let now = start + Duration::from_millis(100) * tick;
            for tier in 0..20 {
                let fault = (None, format!("error {}", if tier == 0 { tick } else { 0 }));
                if attempts.next(&tier.to_string(), &fault, now) == Step::Start {
                    starts.push(now);
                }
            }
        }
        assert!(starts.windows(2).all(|starts| starts[1] - starts[0] >= ATTEMPT_INTERVAL), "{starts:?}");
        assert_eq!(starts.len(), 30);
    }

    #[test]
    fn delays_double_up_to_five_minutes_and_another_error_starts_over() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let [one, other] = ["a", "b"].map(|error| (Some("uid".to_owned()), error.to_owned()));
        let mut delays = Vec::new();
        for _ in 0..9 {
            assert_eq!(attempts.next("default", &one, now), Step::Start);
            let Step::Wait(delay) = attempts.next("default", &one, now) else { panic!("it starts twice") };
            now += delay;
            delays.push(delay.as_secs());
        }
        assert_eq!(delays, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(attempts.next("default", &other, now), Step::Start);
        assert_eq!(attempts.next("default", &other, now), Step::Wait(FIRST_DELAY));
        attempts.record_report("default");
        assert_eq!(attempts.next("default", &other, now), Step::Rest);
    }
}
