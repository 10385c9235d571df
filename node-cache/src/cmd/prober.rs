//! Probes of a resolving process: names of its configuration, asked past its cache, bounded in rate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_cache_config::probes::{ProbeName, ProbeResult};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::dns::Name;
use crate::dns::codes::rtype;
use crate::resolver::{ProbeBudget, Resolver, UpstreamAnswer};
use crate::revision::ActiveRevision;

/// Time for one probe. The upstream query of each scope has a deadline of its own; this one is for chains of aliases.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// Probes in flight at one time.
const MAX_IN_FLIGHT: usize = 4;
/// Time for which all who probe a name get the same result, so that one who asks again and again leaves the others
/// their room.
const RESULT_TTL: Duration = Duration::from_secs(1);

/// Reason why a name is not probed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProbeRefusal {
    /// The configuration does not lead to the name and type.
    #[error("only names of the configuration can be asked for: {0}")]
    Unknown(String),
    /// Too many probes were asked for.
    #[error("a process makes four probes in one second; try again later")]
    Busy,
    /// There is nothing to probe.
    #[error("there is no configuration yet")]
    NotReady,
}

/// Prober of one process.
#[derive(Debug)]
pub(super) struct Prober {
    resolver: Arc<Resolver>,
    revision: watch::Receiver<Arc<ActiveRevision>>,
    room: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    budget: ProbeBudget,
    results: HashMap<ProbeName, (Instant, ProbeResult)>,
}

impl Prober {
    /// Returns the prober of the process with this resolver and this revision.
    pub(super) fn new(resolver: Arc<Resolver>, revision: watch::Receiver<Arc<ActiveRevision>>) -> Self {
        let state = State { budget: ProbeBudget::new(Instant::now()), results: HashMap::new() };
        Self { resolver, revision, room: Semaphore::new(MAX_IN_FLIGHT), state: Mutex::new(state) }
    }

    /// Asks the upstreams of a name of the configuration.
    ///
    /// # Errors
    ///
    /// [`ProbeRefusal`] when it is none, or was asked for too often.
    pub(super) async fn probe(&self, name: &str, rtype: Option<&str>) -> Result<ProbeResult, ProbeRefusal> {
        let config = self.revision.borrow().config.clone().ok_or(ProbeRefusal::NotReady)?;
        let probe = config.find_probe(name, rtype).ok_or_else(|| {
            let names: Vec<_> = config.probes().into_iter().map(|probe| probe.name).collect();
            ProbeRefusal::Unknown(names.join(", "))
        })?;
        let name = Name::from_text(&probe.name).map_err(|_| ProbeRefusal::Unknown(probe.name.clone()))?;
        let rtype = rtype::from_text(&probe.rtype).ok_or_else(|| ProbeRefusal::Unknown(probe.rtype.clone()))?;
        let _room = self.room.acquire().await.map_err(|_| ProbeRefusal::Busy)?;
        if let Some(result) = self.start(&probe)? {
            return Ok(result);
        }
        let started = Instant::now();
        let answer = timeout(PROBE_TIMEOUT, self.resolver.ask_upstreams(&name, rtype)).await;
        let answer = match answer {
            Ok(answer) => answer.ok_or(ProbeRefusal::NotReady)?,
            Err(_) => UpstreamAnswer::none(),
        };
        let result = ProbeResult {
            name: probe.name.clone(),
            rtype: probe.rtype.clone(),
            instance: self.resolver.identity().instance.clone(),
            rcode: answer.rcode,
            microseconds: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            digest: answer.digest,
        };
        self.state().results.insert(probe, (Instant::now(), result.clone()));
        Ok(result)
    }

    /// Returns a result that is fresh, or takes the room for a new one.
    fn start(&self, probe: &ProbeName) -> Result<Option<ProbeResult>, ProbeRefusal> {
        let now = Instant::now();
        let mut state = self.state();
        state.results.retain(|_, (at, _)| now.saturating_duration_since(*at) < RESULT_TTL);
        if let Some((_, result)) = state.results.get(probe) {
            return Ok(Some(result.clone()));
        }
        if state.budget.take(now) { Ok(None) } else { Err(ProbeRefusal::Busy) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
