//! Claim of a tier (`status.operator`): of several releases in one cluster, one acts on a tier.

mod decision;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dnstier_crds::{DnsTier, FIELD_MANAGER};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::controller::claim::decision::{ClaimState, CurrentClaim, LOOK_INTERVAL, Step, StoredTier};
use crate::controller::owned::names;
use crate::error::Error;
use crate::leader::{LEASE_NAME, Term};
use crate::metrics::Metrics;

/// Field manager of the claim. With that of the status, each write of the status would remove the claim.
const CLAIM_MANAGER: &str = "dnstier-operator-claim";
/// Reason of the event about a tier that another release has claimed.
const REASON: &str = "ClaimedByOtherRelease";

/// Result of a look at the claim of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Tier of this release.
    Own,
    /// Tier that this release has just taken over from one that is gone. The record of roll-outs that this release had
    /// kept before is deleted.
    TakenOver,
    /// Tier of another release, or of none that is known. The claim is looked at again after this time.
    Elsewhere(Duration),
}

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

    /// Claims a tier, unless it is claimed, and returns the release that it is of. Nothing is written to a tier of
    /// another release, although the store may say for minutes that it is of this one.
    ///
    /// # Errors
    ///
    /// When the claim cannot be read or written, for one because the tier has changed in between.
    pub(crate) async fn settle(&self, tier: &DnsTier, term: Term, now: Instant) -> Result<Settled, Error> {
        let claimed = claimant(tier);
        let mut step = self.next(tier, term, now);
        if let (Step::Look, Some(other)) = (&step, claimed) {
            self.look(tier, other, now).await;
            step = self.next(tier, term, now);
        }
        let settled = match step {
            Step::Reconcile => Settled::Own,
            Step::Check => self.check(tier, term, now).await?,
            Step::Claim => self.claim(tier, term, now).await?,
            Step::Look => Settled::Elsewhere(LOOK_INTERVAL),
            Step::Wait(wait) => Settled::Elsewhere(wait),
        };
        let is_elsewhere = matches!(settled, Settled::Elsewhere(_));
        self.metrics.set_claimed_elsewhere(&tier.name_any(), is_elsewhere);
        let is_due = self.with_state(tier, ClaimState::tell);
        if let (true, true, Some(other)) = (is_due, is_elsewhere, claimed)
            && self.tell(tier, other).await
        {
            self.with_state(tier, ClaimState::record_notice);
        }
        Ok(settled)
    }

    fn next(&self, tier: &DnsTier, term: Term, now: Instant) -> Step {
        self.with_state(tier, |state| state.next(stored(tier), &self.namespace, term, now))
    }

    fn with_state<T>(&self, tier: &DnsTier, change: impl FnOnce(&mut ClaimState) -> T) -> T {
        change(self.lock().entry(tier.uid().unwrap_or_default()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, ClaimState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the Lease of another release.
    async fn look(&self, tier: &DnsTier, namespace: &str, now: Instant) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        match leases.get(LEASE_NAME).await {
            Ok(lease) => {
                let version = lease.metadata.resource_version.unwrap_or_default();
                self.with_state(tier, |state| state.record_lease(Some(&version), now));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.with_state(tier, |state| state.record_lease(None, now));
            }
            Err(source) => {
                let error = Error::request("read", format!("Lease {namespace}/{LEASE_NAME}"), source);
                tracing::warn!(%error, "a release that has claimed a tier cannot be looked at");
                self.with_state(tier, |state| state.record_failure(now));
            }
        }
    }

    /// Checks by the API server that a tier is still that of this release. While it had no leader, another one may have
    /// taken the tier over.
    async fn check(&self, tier: &DnsTier, term: Term, now: Instant) -> Result<Settled, Error> {
        let current = self.read(tier).await?;
        let claim = current_claim(current.as_ref());
        let is_own = self.with_state(tier, |state| state.record_check(claim, &self.namespace, term, now));
        if !is_own {
            let tier = tier.name_any();
            tracing::warn!(tier, ?claim, "the watch is behind: the tier is not that of this release any more");
        }
        Ok(if is_own { Settled::Own } else { Settled::Elsewhere(LOOK_INTERVAL) })
    }

    /// Reads a tier from the API server; `None` for one that is gone or was created again.
    async fn read(&self, tier: &DnsTier) -> Result<Option<DnsTier>, Error> {
        let name = tier.name_any();
        let tiers: Api<DnsTier> = Api::all(self.client.clone());
        let current = tiers.get_opt(&name).await;
        let current = current.map_err(|source| Error::request("read", format!("DnsTier {name}"), source))?;
        Ok(current.filter(|current| current.uid() == tier.uid()))
    }

    /// Takes a tier over, or claims one that has no claim, if it is as it was read.
    async fn claim(&self, tier: &DnsTier, term: Term, now: Instant) -> Result<Settled, Error> {
        self.with_state(tier, |state| state.begin_claim(now));
        let replaced = claimant(tier);
        if let Some(replaced) = replaced {
            if current_claim(self.read(tier).await?.as_ref()) != CurrentClaim::Of(replaced) {
                return Ok(Settled::Elsewhere(LOOK_INTERVAL));
            }
            self.delete_record(&tier.name_any()).await?;
        }
        self.write_claim(tier, term, now).await?;
        Ok(if replaced.is_some() { Settled::TakenOver } else { Settled::Own })
    }

    /// Deletes the record of a tier's roll-outs that this release has left in its namespace. What another release has
    /// rolled out since is not in it: by an old record, all pods would be told an old revision at once. Without a
    /// record, a roll-out begins from what is proven. No claim is written before.
    async fn delete_record(&self, tier: &str) -> Result<(), Error> {
        let name = names::rollout(tier);
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        self.metrics.record_write("ConfigMap", "delete");
        match config_maps.delete(&name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(Error::request("delete", format!("ConfigMap {}/{name}", self.namespace), source)),
        }
    }

    /// Writes the claim, if the tier is as it was read.
    async fn write_claim(&self, tier: &DnsTier, term: Term, now: Instant) -> Result<(), Error> {
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
        } else if let Some(replaced) = claimant(tier) {
            tracing::info!(
                tier = name,
                replaced,
                "the release that has claimed a tier is gone, and the tier taken over"
            );
        }
        self.with_state(tier, |state| state.record_claim(stored(tier), is_kept, term, now));
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

/// Returns a tier as the store has it.
fn stored(tier: &DnsTier) -> StoredTier<'_> {
    StoredTier { version: tier.metadata.resource_version.as_deref(), claimed: claimant(tier) }
}

/// Returns the namespace of the release that has claimed a tier.
fn claimant(tier: &DnsTier) -> Option<&str> {
    let operator = tier.status.as_ref()?.operator.as_ref()?;
    Some(operator.namespace.as_str()).filter(|namespace| !namespace.is_empty())
}

/// Returns the claim of a tier as it was read; `None` for one that is gone.
fn current_claim(tier: Option<&DnsTier>) -> CurrentClaim<'_> {
    match tier.map(claimant) {
        None => CurrentClaim::Gone,
        Some(None) => CurrentClaim::Unclaimed,
        Some(Some(namespace)) => CurrentClaim::Of(namespace),
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

    const TERM: Term = 1;

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

    /// Answers as an API server that keeps claims, or drops them. The tier is claimed by the release `old`, whose Lease
    /// has this version, and the release `new` has no record of it.
    fn reply(request: &FakeRequest, keeps: bool, lease: Option<u64>) -> Reply {
        match (request.method.as_str(), lease) {
            ("GET", _) if is_tier(request) => stored_tier(Some("old")),
            ("DELETE", _) => Reply::refusal(404, "not found"),
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

    fn is_tier(request: &FakeRequest) -> bool {
        request.path().ends_with("/dnstiers/default")
    }

    /// Returns the tier as the API server has it.
    fn stored_tier(claimed: Option<&str>) -> Reply {
        Reply::Json(200, serde_json::to_value(claimed_by(claimed)).unwrap())
    }

    fn writes(server: &FakeApi) -> Vec<FakeRequest> {
        server.requests().into_iter().filter(|request| request.method != "GET").collect()
    }

    fn methods(requests: &[FakeRequest]) -> Vec<&str> {
        requests.iter().map(|request| request.method.as_str()).collect()
    }

    fn is_elsewhere(settled: Settled) -> bool {
        matches!(settled, Settled::Elsewhere(_))
    }

    #[tokio::test]
    async fn a_tier_without_a_claim_is_claimed_as_it_was_read_and_by_a_field_manager_of_its_own() {
        let server = FakeApi::start(|request| reply(request, true, None)).await;
        let claims = claims(&server);
        let now = Instant::now();
        for second in 0..5 {
            let settled = claims.settle(&claimed_by(None), TERM, now + Duration::from_secs(second)).await.unwrap();
            assert_eq!(settled, Settled::Own);
        }
        assert_eq!(claims.settle(&claimed_by(Some("new")), TERM, now).await.unwrap(), Settled::Own);
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
            assert_eq!(claims.settle(&claimed_by(None), TERM, now).await.unwrap(), Settled::Own);
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
            assert!(is_elsewhere(claims.settle(&tier, TERM, at(second)).await.unwrap()), "{second}");
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
            while is_elsewhere(claims.settle(&tier, TERM, at(second)).await.unwrap()) {
                second += 1;
            }
            second - 120
        };
        assert!((50..=90).contains(&taken), "{taken} s");
        let writes = writes(&server);
        assert_eq!(methods(&writes), ["POST", "DELETE", "PATCH"], "the old record goes before the claim is written");
        let [_, deletion, claim] = writes.as_slice() else { unreachable!() };
        assert!(deletion.path().ends_with("/namespaces/new/configmaps/dnstier-default-rollout"), "{}", deletion.uri);
        assert_eq!(claim.body["status"]["operator"]["namespace"], "new");
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
        claims.settle(&tier, TERM, at(0)).await.unwrap();
        // A look, the event and one more look, the tier itself and the old record, before the claim.
        tokio::select! {
            settled = claims.settle(&tier, TERM, at(60)) => panic!("there is no response: {settled:?}"),
            _ = server.wait_for_requests(6) => {}
        }
        let patches = || server.requests().iter().filter(|request| request.method == "PATCH").count();
        assert_eq!(patches(), 1);
        version.store(2, Ordering::Relaxed);
        let settled = claims.settle(&tier, TERM, at(3_600)).await.unwrap();
        assert_eq!(settled, Settled::Elsewhere(LOOK_INTERVAL));
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
            claims.settle(&tier, TERM, start + Duration::from_secs(second)).await.unwrap();
            assert_eq!(writes(&server).len(), events, "{second} s");
        }
    }

    #[tokio::test]
    async fn a_claim_that_another_release_has_written_first_is_not_overwritten() {
        let server = FakeApi::start(|_| Reply::refusal(409, "the object has been modified")).await;
        let error = claims(&server).settle(&claimed_by(None), TERM, Instant::now()).await.unwrap_err();
        assert!(error.is_conflict(), "{error}");
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_deleted_keeps_its_release_from_taking_the_tier_over() {
        let is_refused = Arc::new(AtomicBool::new(true));
        let refused = is_refused.clone();
        let server = FakeApi::start(move |request| match request.method.as_str() {
            "DELETE" if refused.load(Ordering::Relaxed) => Reply::refusal(500, "not now"),
            "DELETE" => Reply::Json(200, json!({"kind": "Status", "status": "Success"})),
            _ => reply(request, true, Some(1)),
        })
        .await;
        let claims = claims(&server);
        let (start, tier) = (Instant::now(), claimed_by(Some("old")));
        let at = |second: u64| start + Duration::from_secs(second);
        claims.settle(&tier, TERM, at(0)).await.unwrap();
        for second in [60, 61] {
            let error = claims.settle(&tier, TERM, at(second)).await.unwrap_err();
            assert!(error.to_string().contains("ConfigMap new/dnstier-default-rollout"), "{error}");
        }
        assert_eq!(methods(&writes(&server)), ["POST", "DELETE", "DELETE"], "no claim is written");
        is_refused.store(false, Ordering::Relaxed);
        assert_eq!(claims.settle(&tier, TERM, at(62)).await.unwrap(), Settled::TakenOver);
        assert_eq!(claims.settle(&tier, TERM, at(63)).await.unwrap(), Settled::Own);
        assert_eq!(methods(&writes(&server)), ["POST", "DELETE", "DELETE", "DELETE", "PATCH"]);
    }

    #[tokio::test]
    async fn a_tier_is_not_taken_over_from_a_release_that_only_the_store_still_has() {
        let server = FakeApi::start(|request| match request.method.as_str() {
            "GET" if is_tier(request) => stored_tier(Some("third")),
            _ => reply(request, true, Some(1)),
        })
        .await;
        let claims = claims(&server);
        let (start, tier) = (Instant::now(), claimed_by(Some("old")));
        for second in (0..300).step_by(10) {
            let settled = claims.settle(&tier, TERM, start + Duration::from_secs(second)).await.unwrap();
            assert!(is_elsewhere(settled), "{second} s");
        }
        assert!(server.requests().iter().any(is_tier));
        assert_eq!(methods(&writes(&server)), ["POST"]);
    }

    #[tokio::test]
    async fn an_own_claim_is_read_once_a_term_and_nothing_is_written_where_the_store_alone_has_it() {
        let current = Arc::new(Mutex::new(Some("new")));
        let served = current.clone();
        let server = FakeApi::start(move |request| match *served.lock().unwrap() {
            Some(claimed) if is_tier(request) => stored_tier(Some(claimed)),
            _ => Reply::refusal(500, "not now"),
        })
        .await;
        let claims = claims(&server);
        let (start, tier) = (Instant::now(), claimed_by(Some("new")));
        let at = |second: u64| start + Duration::from_secs(second);
        for (term, reads) in [(1, 1), (2, 2)] {
            for second in 0..100 {
                assert_eq!(claims.settle(&tier, term, at(second)).await.unwrap(), Settled::Own);
            }
            assert_eq!(server.requests().len(), reads, "term {term}");
        }
        *current.lock().unwrap() = Some("old");
        for second in 0..30 {
            assert!(is_elsewhere(claims.settle(&tier, 3, at(second)).await.unwrap()), "{second} s");
        }
        assert_eq!(server.requests().len(), 5, "once in ten seconds");
        assert!(claims.metrics.encode().contains("claimed_elsewhere{tier=\"default\"} 1"));
        *current.lock().unwrap() = None;
        claims.settle(&tier, 4, at(30)).await.unwrap_err();
        *current.lock().unwrap() = Some("new");
        assert_eq!(claims.settle(&tier, 4, at(31)).await.unwrap(), Settled::Own);
        assert_eq!(writes(&server).len(), 0);
    }
}
