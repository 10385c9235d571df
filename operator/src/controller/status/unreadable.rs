//! Warnings about tiers that cannot be deserialized, whose status nobody can write: a log line and an event.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dnstier_crds::{DnsTier, FIELD_MANAGER};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::Value;

use crate::controller::status::events::note_of;

/// Reason of the event.
const REASON: &str = "Unreadable";

/// Tier that was reported: its UID and its error.
type Reported = (Option<String>, String);

/// Reporter of tiers that cannot be deserialized.
pub(crate) struct UnreadableReporter {
    client: Client,
    recorder: Recorder,
    /// Namespace of this release.
    namespace: String,
    /// UID and error of the tiers that were reported, by name.
    reported: Mutex<HashMap<String, Reported>>,
}

impl UnreadableReporter {
    /// Builds the reporter of the release in a namespace.
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER));
        Self { client, recorder, namespace, reported: Mutex::default() }
    }

    /// Forgets the error of a tier that is gone or can be deserialized.
    pub(crate) fn forget(&self, tier: &str) {
        self.lock().remove(tier);
    }

    /// Reports a tier, once for each error, unless another release acts on it. What could not be published is tried
    /// again with the next change of the tier.
    pub(crate) async fn report(&self, invalid: &InvalidObject) {
        let name = invalid.metadata.name.clone().unwrap_or_default();
        let reported = (invalid.metadata.uid.clone(), invalid.error.clone());
        if self.lock().get(&name) == Some(&reported) {
            return;
        }
        let (tier, error) = (name.as_str(), invalid.error.as_str());
        match self.claimed(&name).await {
            Ok(Some(claimed)) if claimed != self.namespace => {
                tracing::info!(tier, error, claimed, "a DnsTier of another release cannot be deserialized");
            }
            Ok(_) => {
                tracing::warn!(tier, error, "a DnsTier cannot be deserialized");
                if let Err(error) = self.publish(invalid).await {
                    tracing::warn!(tier, reason = REASON, %error, "an event cannot be published");
                    return;
                }
            }
            Err(request_error) => {
                tracing::warn!(tier, error, %request_error, "a DnsTier cannot be deserialized, nor its claim be read");
                return;
            }
        }
        self.lock().insert(name, reported);
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

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Reported>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[tokio::test]
    async fn a_tier_that_cannot_be_deserialized_has_one_event_for_each_error() {
        let (server, reporter) = reporter(Some("own"), Arc::new(AtomicU16::new(201))).await;
        for _ in 0..3 {
            reporter.report(&invalid("spec.nodeCache: unknown variant")).await;
        }
        assert_eq!(events(&server).len(), 1, "{:?}", events(&server));
        assert!(events(&server)[0].contains("cannot read the tier: spec.nodeCache: unknown variant. Its pods run on"));
        reporter.report(&invalid("spec.routes: missing field")).await;
        assert_eq!(events(&server).len(), 2);
        reporter.forget("default");
        reporter.report(&invalid("spec.routes: missing field")).await;
        assert_eq!(events(&server).len(), 3, "once more after it could be read");
    }

    #[tokio::test]
    async fn an_event_that_was_refused_is_published_later_and_a_tier_of_another_release_has_none() {
        let code = Arc::new(AtomicU16::new(500));
        let (server, reporter_of_all) = reporter(None, code.clone()).await;
        reporter_of_all.report(&invalid("a")).await;
        code.store(201, Ordering::Relaxed);
        reporter_of_all.report(&invalid("a")).await;
        reporter_of_all.report(&invalid("a")).await;
        assert_eq!(events(&server).len(), 2);
        let (server, reporter) = reporter(Some("other"), code).await;
        reporter.report(&invalid("a")).await;
        assert_eq!(events(&server), Vec::<String>::new());
    }
}
