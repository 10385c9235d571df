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
use crate::pace::Pace;

/// Time for one probe: a pod gives it four seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(6);
/// Probes of one pod that begin in a second: a process makes four.
const PROBES_PER_SECOND: usize = 3;
/// Time after which a pod that was busy is asked once more.
const BUSY_DELAY: Duration = Duration::from_millis(1_100);
/// Pods that are asked at a time.
const MAX_PODS: usize = 64;
/// Time between two probes of all tiers: 50 each second, beside the polls.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time for which a probe waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(60);

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
    pace: Arc<Pace>,
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
        let pace = Arc::new(Pace::new(PROBE_INTERVAL));
        Self { rounds: Arc::default(), pace, started: AtomicU64::new(0), ended }
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

    /// Starts a round: every pod is asked for its names. An earlier round of the tier is forgotten.
    pub(crate) fn start(&self, tier: &str, pods: Vec<(ProbedPod, Arc<Vec<ProbeName>>)>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        lock(&self.rounds).insert(tier.to_owned(), Round::Running { number });
        let (rounds, pace, ended) = (self.rounds.clone(), self.pace.clone(), self.ended.clone());
        let tier = tier.to_owned();
        tokio::spawn(async move {
            let asked = stream::iter(pods).map(async |(pod, names)| (pod.uid, ask(pod.address, &names, &pace).await));
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

/// Asks a pod for all names. A few begin in each second, however long the others take. Those whose turn would come too
/// late are not asked.
async fn ask(address: SocketAddr, names: &[ProbeName], pace: &Pace) -> Answers {
    let ask_in_turn = async |(place, name): (usize, &ProbeName)| {
        tokio::time::sleep(Duration::from_secs((place / PROBES_PER_SECOND) as u64)).await;
        let now = Instant::now();
        tokio::time::sleep_until(pace.reserve(now, now + MAX_WAIT)?).await;
        Some((name.clone(), ask_one(address, name).await.ok()?))
    };
    let answers = futures::future::join_all(names.iter().enumerate().map(ask_in_turn)).await;
    answers.into_iter().flatten().collect()
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn probes_of_several_tiers_share_one_pace() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let asked = times.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                asked.lock().unwrap().push(Instant::now());
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
            }
        });
        let (ended, mut round_ended) = mpsc::channel(2);
        let prober = Prober::new(ended);
        let name = ProbeName { name: ".".to_owned(), rtype: "SOA".to_owned() };
        let names = Arc::new(vec![name; 3]);
        for tier in ["one", "other"] {
            let pod = |number: usize| ProbedPod { uid: format!("{tier}-{number}"), address };
            prober.start(tier, (0..20).map(|number| (pod(number), names.clone())).collect());
        }
        round_ended.recv().await.unwrap();
        round_ended.recv().await.unwrap();
        let times = times.lock().unwrap();
        assert_eq!(times.len(), 120);
        let whole = *times.last().unwrap() - times[0];
        assert!(whole >= PROBE_INTERVAL * 118, "{whole:?}");
        assert!(matches!(prober.take("one"), RoundState::Ended(answers) if answers.values().all(Vec::is_empty)));
    }
}
