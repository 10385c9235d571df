//! Prober: asks all probes of a look on several pods at the same moment, beside the reconciliations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use hyper::StatusCode;
use node_cache_config::probes::{ProbeName, ProbeResult};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::controller::observe::poll::http::{HttpError, get_within};

/// Time for one probe: a pod gives it four seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(6);
/// Probes of one pod that begin in a second: a process makes four.
const PROBES_PER_SECOND: usize = 3;
/// Time after which a pod that was busy is asked once more.
const BUSY_DELAY: Duration = Duration::from_millis(1_100);
/// Pods that are asked at a time.
const MAX_PODS: usize = 64;

/// Pod that is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbedPod {
    /// UID of the pod.
    pub(crate) uid: String,
    /// Address of its status pages.
    pub(crate) address: SocketAddr,
}

/// Answers to the probes of one pod: those to names that its configuration has. `None` is no response.
pub(crate) type Answers = Vec<(ProbeName, Option<ProbeResult>)>;

/// Prober of all tiers.
#[derive(Debug)]
pub(crate) struct Prober {
    rounds: Arc<Mutex<HashMap<String, Round>>>,
    started: AtomicU64,
    /// Receives an item at the end of a round.
    ended: mpsc::Sender<()>,
}

/// Round of probes of a tier.
#[derive(Debug)]
enum Round {
    Running { number: u64 },
    Ended { answers: HashMap<String, Answers> },
}

/// State of the round of a tier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RoundState {
    /// No round was started since the last one was taken.
    None,
    /// A round is running.
    Running,
    /// Answers by UID of the pod.
    Ended(HashMap<String, Answers>),
}

impl Prober {
    /// Builds a prober; `ended` receives an item at the end of each round.
    pub(crate) fn new(ended: mpsc::Sender<()>) -> Self {
        Self { rounds: Arc::default(), started: AtomicU64::new(0), ended }
    }

    /// Returns the state of the round of a tier, and takes its answers when it has ended.
    pub(crate) fn take(&self, tier: &str) -> RoundState {
        let mut rounds = lock(&self.rounds);
        match rounds.remove(tier) {
            None => RoundState::None,
            Some(running @ Round::Running { .. }) => {
                rounds.insert(tier.to_owned(), running);
                RoundState::Running
            }
            Some(Round::Ended { answers }) => RoundState::Ended(answers),
        }
    }

    /// Starts a round: every pod is asked for every name. An earlier round of the tier is forgotten.
    pub(crate) fn start(&self, tier: &str, pods: Vec<ProbedPod>, names: Vec<ProbeName>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        lock(&self.rounds).insert(tier.to_owned(), Round::Running { number });
        let (rounds, ended, tier) = (self.rounds.clone(), self.ended.clone(), tier.to_owned());
        tokio::spawn(async move {
            let names = &names;
            let asked = stream::iter(pods).map(async |pod| (pod.uid.clone(), ask(pod.address, names).await));
            let answers: HashMap<String, Answers> = asked.buffer_unordered(MAX_PODS).collect().await;
            let is_wanted = |round: &Round| matches!(round, Round::Running { number: running } if *running == number);
            let mut rounds = lock(&rounds);
            if rounds.get(&tier).is_some_and(is_wanted) {
                rounds.insert(tier, Round::Ended { answers });
                // A full channel holds a notification already.
                let _ = ended.try_send(());
            }
        });
    }

    /// Returns whether a round of a tier is running.
    #[cfg(test)]
    pub(crate) fn is_running(&self, tier: &str) -> bool {
        matches!(lock(&self.rounds).get(tier), Some(Round::Running { .. }))
    }

    /// Forgets the round of a tier.
    pub(crate) fn forget(&self, tier: &str) {
        lock(&self.rounds).remove(tier);
    }
}

fn lock(rounds: &Mutex<HashMap<String, Round>>) -> MutexGuard<'_, HashMap<String, Round>> {
    rounds.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a pod for all names, a few each second.
async fn ask(address: SocketAddr, names: &[ProbeName]) -> Answers {
    let mut answers = Answers::new();
    let mut next = Instant::now();
    for part in names.chunks(PROBES_PER_SECOND) {
        tokio::time::sleep_until(next).await;
        next = Instant::now() + Duration::from_secs(1);
        let results = futures::future::join_all(part.iter().map(|name| ask_one(address, name))).await;
        answers.extend(part.iter().zip(results).filter_map(|(name, result)| Some((name.clone(), result.ok()?))));
    }
    answers
}

/// The configuration of a pod does not lead to a name.
struct NotKnown;

/// Asks a pod for one name. A pod that is busy is asked once more.
async fn ask_one(address: SocketAddr, probe: &ProbeName) -> Result<Option<ProbeResult>, NotKnown> {
    let path = format!("/probe?name={}&type={}", probe.name, probe.rtype);
    let mut answer = get_within(PROBE_LIMIT, address, &path).await;
    if matches!(answer, Err(HttpError::Status(StatusCode::SERVICE_UNAVAILABLE))) {
        tokio::time::sleep(BUSY_DELAY).await;
        answer = get_within(PROBE_LIMIT, address, &path).await;
    }
    match answer {
        Ok(body) => Ok(serde_json::from_slice(&body).ok()),
        Err(HttpError::Status(StatusCode::NOT_FOUND)) => Err(NotKnown),
        Err(_) => Ok(None),
    }
}
