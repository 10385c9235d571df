//! Probes that callers share: many who ask for one name cost one probe. A probe goes on without those who asked for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_cache_config::probes::ProbeResult;
use tokio::sync::watch;
use tokio::time::Instant;

use super::probe_budget::{ProbeBudget, ProbeClient};

/// Time for which all who probe a name get the same result.
const RESULT_TTL: Duration = Duration::from_secs(1);

/// Response to a probe for which there is no room, on a control socket too: an agent tells it from a failure.
pub(crate) const BUSY: &str = "too many probes are asked for; try again later";

/// Reason why a name is not probed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeRefusal {
    /// The configuration does not lead to the name and type.
    #[error("only names of the configuration can be asked for: {0}")]
    Unknown(String),
    /// There is no room for a probe now. The upstreams were not asked, so that this tells nothing of them.
    #[error("{BUSY}")]
    Busy,
    /// The probe could not be made, for the reason in this sentence.
    #[error("{0}")]
    Failed(String),
}

/// Result of a probe, or the reason why there is none.
pub(crate) type ProbeOutcome = Result<ProbeResult, ProbeRefusal>;

/// Probes of one process, or of all caches of a node. Those with equal keys are the same one: a key has the name and
/// what decides which upstreams are asked.
#[derive(Debug)]
pub(crate) struct SharedProbes<K> {
    state: Arc<Mutex<State<K>>>,
}

#[derive(Debug)]
struct State<K> {
    budget: ProbeBudget,
    /// Outcome of each probe in flight, once it is there.
    in_flight: HashMap<K, watch::Receiver<Option<ProbeOutcome>>>,
    results: HashMap<K, (Instant, ProbeResult)>,
}

impl<K: Clone + Eq + Hash + Send + 'static> SharedProbes<K> {
    /// Returns the probes of so many processes, of which none is in flight.
    #[must_use]
    pub(crate) fn new(processes: usize) -> Self {
        let budget = ProbeBudget::new(processes, Instant::now());
        let state = State { budget, in_flight: HashMap::new(), results: HashMap::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns a result that is at most a second old, that of the probe in flight, or that of a new one for this
    /// client.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ProbeRefusal::Busy`] without room for a new probe, or the refusal of the probe.
    pub(crate) async fn ask<F>(&self, key: K, client: ProbeClient, probe: impl FnOnce() -> F) -> ProbeOutcome
    where
        F: Future<Output = ProbeOutcome> + Send + 'static,
    {
        let mut outcome = match self.find_or_start(key, client, probe)? {
            SharedProbe::Result(result) => return Ok(result),
            SharedProbe::InFlight(outcome) => outcome,
        };
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Err(ProbeRefusal::Failed("the probe ended without a result".to_owned())))
    }

    fn find_or_start<F>(
        &self,
        key: K,
        client: ProbeClient,
        probe: impl FnOnce() -> F,
    ) -> Result<SharedProbe, ProbeRefusal>
    where
        F: Future<Output = ProbeOutcome> + Send + 'static,
    {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.results.retain(|_, (at, _)| now.saturating_duration_since(*at) < RESULT_TTL);
        if let Some((_, result)) = state.results.get(&key) {
            return Ok(SharedProbe::Result(result.clone()));
        }
        if let Some(outcome) = state.in_flight.get(&key) {
            return Ok(SharedProbe::InFlight(outcome.clone()));
        }
        if !state.budget.start(client, now) {
            return Err(ProbeRefusal::Busy);
        }
        let (sender, outcome) = watch::channel(None);
        state.in_flight.insert(key.clone(), outcome.clone());
        let (shared, probe) = (self.state.clone(), probe());
        tokio::spawn(async move {
            let outcome = probe.await;
            let mut state = lock(&shared);
            state.budget.end(client);
            state.in_flight.remove(&key);
            if let Ok(result) = &outcome {
                state.results.insert(key, (Instant::now(), result.clone()));
            }
            sender.send_replace(Some(outcome));
        });
        Ok(SharedProbe::InFlight(outcome))
    }
}

/// Probe that several callers may share: its result, or its outcome once it is there.
enum SharedProbe {
    Result(ProbeResult),
    InFlight(watch::Receiver<Option<ProbeOutcome>>),
}

fn lock<K>(state: &Mutex<State<K>>) -> MutexGuard<'_, State<K>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicU16, Ordering};

    use futures::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    /// Time that each probe takes.
    const PROBE_TIME: Duration = Duration::from_secs(3);

    /// Probes by name and revision, which count how many were made. The number is the result.
    struct CountedProbes {
        probes: SharedProbes<(String, u32)>,
        made: Arc<AtomicU16>,
    }

    impl CountedProbes {
        fn new() -> Self {
            Self { probes: SharedProbes::new(1), made: Arc::default() }
        }

        async fn ask(&self, name: &str, revision: u32, client: u8) -> Result<u16, ProbeRefusal> {
            let made = self.made.clone();
            let probe = || async move {
                let rcode = made.fetch_add(1, Ordering::Relaxed);
                sleep(PROBE_TIME).await;
                Ok(ProbeResult { rcode, ..ProbeResult::default() })
            };
            let client = Some(IpAddr::from([10, 0, 0, client]));
            let result = self.probes.ask((name.to_owned(), revision), client, probe).await;
            result.map(|result| result.rcode)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_of_a_name_cost_one_probe_and_get_its_result_for_a_second() {
        let shared = CountedProbes::new();
        let results = join_all((0..100).map(|client| shared.ask("corp.example", 1, client))).await;
        assert_eq!(results, vec![Ok(0); 100]);
        assert_eq!(shared.ask("corp.example", 1, 200).await, Ok(0));
        advance(RESULT_TTL).await;
        assert_eq!(shared.ask("corp.example", 1, 200).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_result_nor_a_probe_in_flight_is_one_of_the_next_revision() {
        let shared = CountedProbes::new();
        assert_eq!(shared.ask("corp.example", 1, 1).await, Ok(0));
        assert_eq!(shared.ask("corp.example", 2, 1).await, Ok(1), "the result is fresh");
        advance(RESULT_TTL).await;
        let (old, new) = tokio::join!(shared.ask("corp.example", 2, 1), shared.ask("corp.example", 3, 1));
        assert_eq!((old, new), (Ok(2), Ok(3)), "the probe is in flight");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_goes_on_without_those_who_asked_for_it_and_holds_its_place_until_its_end() {
        let shared = CountedProbes::new();
        for number in 0..8 {
            let asked = tokio::time::timeout(Duration::ZERO, shared.ask(&number.to_string(), 1, 1)).await;
            assert!(asked.is_err(), "who asked is gone");
        }
        assert_eq!(shared.ask("8", 1, 1).await, Err(ProbeRefusal::Busy), "who comes and goes gets no more");
        assert_eq!(shared.ask("8", 1, 2).await, Ok(8), "another client does");
        assert_eq!(shared.ask("3", 1, 1).await, Ok(3));
        assert_eq!(shared.made.load(Ordering::Relaxed), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_given_to_all_who_wait_and_not_kept() {
        let probes: SharedProbes<u32> = SharedProbes::new(1);
        let refused = || async {
            sleep(PROBE_TIME).await;
            Err(ProbeRefusal::Failed("no cache answers".to_owned()))
        };
        let outcomes = tokio::join!(probes.ask(1, None, refused), probes.ask(1, None, refused));
        assert!(outcomes.0.is_err() && outcomes.0 == outcomes.1);
        let found = || async { Ok(ProbeResult::default()) };
        assert_eq!(probes.ask(1, None, found).await, Ok(ProbeResult::default()));
    }
}
