//! Claim of a tier (`status.operator`): of several releases in one cluster, one acts on a tier.

mod decision;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dnstier_crds::{DnsTier, FIELD_MANAGER};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::controller::claim::decision::{ClaimState, LOOK_INTERVAL, Step, StoredTier};
use crate::error::Error;
use crate::leader::LEASE_NAME;
use crate::metrics::Metrics;

/// Field manager of the claim. With that of the status, each write of the status would remove the claim.
const CLAIM_MANAGER: &str = "dnstier-operator-claim";
/// Reason of the event about a tier that another release has claimed.
const REASON: &str = "ClaimedByOtherRelease";

/// Claims of this release.
pub(crate) struct Claims {
    client: Client,
    recorder: Recorder,
    /// Namespace of this release.
    namespace: String,
    metrics: Arc<Metrics>,
    /// States by the UID of the tier.
    states: Mutex<HashMap<String, ClaimState>>,
}

impl Claims {
    /// Builds the claims of the release in a namespace.
    pub(crate) fn new(client: Client, namespace: String, metrics: Arc<Metrics>) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER));
        Self { client, recorder, namespace, metrics, states: Mutex::default() }
    }

    /// Claims a tier, unless it is claimed. Returns `None` for a tier of this release, and for that of another the time
    /// until the next look.
    ///
    /// # Errors
    ///
    /// When the claim cannot be written, for one because the tier has changed in between.
    pub(crate) async fn settle(&self, tier: &DnsTier, now: Instant) -> Result<Option<Duration>, Error> {
        let uid = tier.uid().unwrap_or_default();
        let claim = tier.status.as_ref().and_then(|status| status.operator.as_ref());
        let claimed = claim.map(|operator| operator.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let stored = StoredTier { version: tier.metadata.resource_version.as_deref(), claimed };
        let mut step = self.next(&uid, stored, now);
        if let (Step::Look, Some(other)) = (&step, claimed) {
            self.look(&uid, other, now).await;
            step = self.next(&uid, stored, now);
        }
        let wait = match step {
            Step::Reconcile => None,
            Step::Claim => {
                self.claim(tier, &uid, stored, now).await?;
                None
            }
            Step::Look => Some(LOOK_INTERVAL),
            Step::Wait(wait) => Some(wait),
        };
        self.metrics.set_claimed_elsewhere(&tier.name_any(), wait.is_some());
        let is_due = self.with_state(&uid, ClaimState::tell);
        if let (true, Some(_), Some(other)) = (is_due, wait, claimed)
            && self.tell(tier, other).await
        {
            self.with_state(&uid, ClaimState::record_notice);
        }
        Ok(wait)
    }

    fn next(&self, uid: &str, stored: StoredTier<'_>, now: Instant) -> Step {
        self.with_state(uid, |state| state.next(stored, &self.namespace, now))
    }

    fn with_state<T>(&self, uid: &str, change: impl FnOnce(&mut ClaimState) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, ClaimState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the Lease of another release.
    async fn look(&self, uid: &str, namespace: &str, now: Instant) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        match leases.get(LEASE_NAME).await {
            Ok(lease) => {
                let version = lease.metadata.resource_version.unwrap_or_default();
                self.with_state(uid, |state| state.record_lease(Some(&version), now));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.with_state(uid, |state| state.record_lease(None, now));
            }
            Err(source) => {
                let error = Error::request("read", format!("Lease {namespace}/{LEASE_NAME}"), source);
                tracing::warn!(%error, "a release that has claimed a tier cannot be looked at");
                self.with_state(uid, |state| state.record_failure(now));
            }
        }
    }

    /// Writes the claim, if the tier is as it was read.
    async fn claim(&self, tier: &DnsTier, uid: &str, stored: StoredTier<'_>, now: Instant) -> Result<(), Error> {
        self.with_state(uid, |state| state.begin_claim(now));
        let name = tier.name_any();
        let patch = json!({
            "metadata": {"uid": tier.uid(), "resourceVersion": tier.resource_version()},
            "status": {"operator": {"namespace": self.namespace}},
        });
        let params = PatchParams { field_manager: Some(CLAIM_MANAGER.to_owned()), ..PatchParams::default() };
        let tiers: Api<DnsTier> = Api::all(self.client.clone());
        self.metrics.record_write("DnsTier", "claim");
        let claimed = tiers.patch_status(&name, &params, &Patch::Merge(&patch)).await;
        let claimed = claimed.map_err(|source| Error::request("claim", format!("DnsTier {name}"), source))?;
        let kept = claimed.status.and_then(|status| status.operator);
        let is_kept = kept.is_some_and(|operator| operator.namespace == self.namespace);
        if !is_kept {
            tracing::warn!(
                tier = name,
                "the CustomResourceDefinition has no status.operator: other releases are not seen"
            );
        } else if let Some(replaced) = stored.claimed {
            tracing::info!(
                tier = name,
                replaced,
                "the release that has claimed a tier is gone, and the tier taken over"
            );
        }
        self.with_state(uid, |state| state.record_claim(stored, is_kept, now));
        Ok(())
    }

    /// Tells people that another release acts on a tier, and returns whether the event was published.
    async fn tell(&self, tier: &DnsTier, claimed: &str) -> bool {
        let own = &self.namespace;
        let note = format!(
            "The release of DnsTier in namespace {claimed} acts on this tier; that in {own} leaves it alone until the \
             Lease {claimed}/{LEASE_NAME} is not renewed for a minute. Uninstall one of them."
        );
        tracing::warn!(tier = tier.name_any(), claimed, "{note}");
        let event = Event {
            type_: EventType::Warning,
            reason: REASON.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let published = self.recorder.publish(&event, &tier.object_ref(&())).await;
        if let Err(error) = &published {
            tracing::warn!(tier = tier.name_any(), reason = REASON, %error, "an event cannot be published");
        }
        published.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Limits;
    use crate::controller::fixtures::tier;
    use crate::fake_api::{FakeApi, FakeRequest, Reply};
    use crate::leader::Leadership;
    use dnstier_crds::v1alpha1::{DnsTierStatus, OperatorStatus};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    fn claims(server: &FakeApi) -> Claims {
        let client = server.client(Limits::OPERATOR);
        let metrics = Arc::new(Metrics::new(Leadership::permanent()));
        Claims::new(client, "new".to_owned(), metrics)
    }

    fn claimed_by(namespace: Option<&str>) -> DnsTier {
        let mut tier = tier("default", "2026-01-01T00:00:00Z", "{}");
        tier.metadata.resource_version = Some("7".to_owned());
        let operator = namespace.map(|namespace| OperatorStatus { namespace: namespace.to_owned() });
        tier.status = Some(DnsTierStatus { operator, ..DnsTierStatus::default() });
        tier
    }

    /// Answers as an API server that keeps claims, or drops them.
    fn reply(request: &FakeRequest, keeps: bool, lease: Option<u64>) -> Reply {
        match (request.method.as_str(), lease) {
            ("PATCH", _) => {
                let mut tier = serde_json::to_value(claimed_by(None)).unwrap();
                if keeps {
                    tier["status"] = request.body["status"].clone();
                }
                Reply::Json(200, tier)
            }
            ("GET", Some(version)) => Reply::Json(200, json!({"metadata": {"resourceVersion": version.to_string()}})),
            ("GET", None) => Reply::refusal(404, "not found"),
            _ => Reply::Json(201, request.body.clone()),
        }
    }

    fn writes(server: &FakeApi) -> Vec<FakeRequest> {
        server.requests().into_iter().filter(|request| request.method != "GET").collect()
    }

    #[tokio::test]
    async fn a_tier_without_a_claim_is_claimed_as_it_was_read_and_by_a_field_manager_of_its_own() {
        let server = FakeApi::start(|request| reply(request, true, None)).await;
        let claims = claims(&server);
        let now = Instant::now();
        for second in 0..5 {
            let settled = claims.settle(&claimed_by(None), now + Duration::from_secs(second)).await.unwrap();
            assert_eq!(settled, None);
        }
        assert_eq!(claims.settle(&claimed_by(Some("new")), now).await.unwrap(), None);
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        assert!(requests[0].path().ends_with("/dnstiers/default/status"), "{}", requests[0].uri);
        assert!(requests[0].uri.contains("fieldManager=dnstier-operator-claim"), "{}", requests[0].uri);
        assert_eq!(requests[0].body["metadata"]["resourceVersion"], "7");
    }

    #[tokio::test]
    async fn a_definition_that_drops_the_claim_costs_one_write() {
        let server = FakeApi::start(|request| reply(request, false, None)).await;
        let claims = claims(&server);
        for second in 0..100 {
            let now = Instant::now() + Duration::from_secs(second);
            assert_eq!(claims.settle(&claimed_by(None), now).await.unwrap(), None);
        }
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_tier_of_another_release_gets_one_event_and_is_taken_over_when_that_is_uninstalled() {
        let version = Arc::new(AtomicU64::new(1));
        let served = version.clone();
        let server = FakeApi::start(move |request| reply(request, true, Some(served.load(Ordering::Relaxed)))).await;
        let claims = claims(&server);
        let (start, tier) = (Instant::now(), claimed_by(Some("old")));
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 0..120 {
            version.store(second / 2, Ordering::Relaxed);
            assert!(claims.settle(&tier, at(second)).await.unwrap().is_some(), "{second}");
        }
        let told = writes(&server);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!((&told[0].body["reason"], &told[0].body["type"]), (&json!(REASON), &json!("Warning")));
        assert!(claims.metrics.encode().contains("claimed_elsewhere{tier=\"default\"} 1"));
        let looks = server.requests().len() - 1;
        assert_eq!(looks, 12, "one each ten seconds");
        let paths: Vec<String> = server.requests().iter().map(|request| request.path().to_owned()).collect();
        assert!(paths.iter().any(|path| path.ends_with("/namespaces/old/leases/dnstier-operator")), "{paths:?}");
        let taken = {
            let mut second = 120;
            while claims.settle(&tier, at(second)).await.unwrap().is_some() {
                second += 1;
            }
            second - 120
        };
        assert!((50..=90).contains(&taken), "{taken} s");
        let last = writes(&server).pop().unwrap();
        assert_eq!(last.body["status"]["operator"]["namespace"], "new");
        assert!(claims.metrics.encode().contains("claimed_elsewhere{tier=\"default\"} 0"));
    }

    #[tokio::test]
    async fn a_claim_that_was_dropped_with_the_term_is_written_only_after_a_further_look() {
        let version = Arc::new(AtomicU64::new(1));
        let served = version.clone();
        let server = FakeApi::start(move |request| match request.method.as_str() {
            "PATCH" => Reply::Silence,
            _ => reply(request, true, Some(served.load(Ordering::Relaxed))),
        })
        .await;
        let claims = claims(&server);
        let (start, tier) = (Instant::now(), claimed_by(Some("old")));
        let at = |second: u64| start + Duration::from_secs(second);
        claims.settle(&tier, at(0)).await.unwrap();
        // A look, the event and one more look, before the claim.
        tokio::select! {
            settled = claims.settle(&tier, at(60)) => panic!("there is no response: {settled:?}"),
            _ = server.wait_for_requests(4) => {}
        }
        let patches = || server.requests().iter().filter(|request| request.method == "PATCH").count();
        assert_eq!(patches(), 1);
        version.store(2, Ordering::Relaxed);
        assert_eq!(claims.settle(&tier, at(3_600)).await.unwrap(), Some(LOOK_INTERVAL));
        assert_eq!(patches(), 1, "the other release is back");
    }

    #[tokio::test]
    async fn an_event_about_another_release_that_was_refused_is_published_after_the_next_look() {
        let is_refused = Arc::new(AtomicBool::new(true));
        let refused = is_refused.clone();
        let server = FakeApi::start(move |request| match request.method.as_str() {
            "POST" if refused.load(Ordering::Relaxed) => Reply::refusal(403, "forbidden"),
            _ => reply(request, true, Some(1)),
        })
        .await;
        let claims = claims(&server);
        let (start, tier) = (Instant::now(), claimed_by(Some("old")));
        for (second, events) in [(0, 1), (1, 1), (9, 1), (10, 2), (11, 2), (20, 3), (30, 3), (40, 3)] {
            is_refused.store(second < 20, Ordering::Relaxed);
            claims.settle(&tier, start + Duration::from_secs(second)).await.unwrap();
            assert_eq!(writes(&server).len(), events, "{second} s");
        }
    }

    #[tokio::test]
    async fn a_claim_that_another_release_has_written_first_is_not_overwritten() {
        let server = FakeApi::start(|_| Reply::refusal(409, "the object has been modified")).await;
        let error = claims(&server).settle(&claimed_by(None), Instant::now()).await.unwrap_err();
        assert!(error.is_conflict(), "{error}");
    }
}
