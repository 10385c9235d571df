//! Prober: asks all probes of a look on several pods at the same moment, beside the reconciliations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use hyper::StatusCode;
use node_cache_config::probes::{ProbeName, ProbeResult};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::controller::observe::poll::http::{HttpError, get_within};

/// Time for one probe: a pod gives it four seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(6);
/// Probes of one pod that begin in a second: a process makes four.
const PROBES_PER_SECOND: usize = 3;
/// Probes of one pod at a time: it admits four connections of one client, and is polled meanwhile.
const MAX_IN_FLIGHT: usize = 3;
/// Time after which a pod that was busy is asked once more.
const BUSY_DELAY: Duration = Duration::from_millis(1_100);
/// Pods that are asked at a time.
const MAX_PODS: usize = 64;
/// Time between two probes of all tiers: 50 each second, beside the polls.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Time in which the probes of a round begin. Those whose turn would come later are not asked.
const ROUND_LIMIT: Duration = Duration::from_secs(60);
/// Longest time of a round: a probe that begins at its end is asked twice.
pub(super) const MAX_ROUND: Duration =
    ROUND_LIMIT.saturating_add(PROBE_LIMIT).saturating_add(BUSY_DELAY).saturating_add(PROBE_LIMIT);

/// Pod that is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbedPod {
    /// UID of the pod.
    pub(crate) uid: String,
    /// Address of its status pages.
    pub(crate) address: SocketAddr,
}

/// Answers of one pod to the probes that it was asked for. Those for which it had no room are left out.
pub(crate) type Answers = Vec<(ProbeName, Answer)>;

/// Answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Response.
    Response(ProbeResult),
    /// No response, from the pod or from its upstreams.
    Nothing,
    /// The configuration of the pod does not lead to the name.
    NotKnown,
}

/// Prober of all tiers.
#[derive(Debug)]
pub(crate) struct Prober {
    rounds: Arc<Mutex<HashMap<String, Round>>>,
    queue: Arc<Queue>,
    started: AtomicU64,
    /// Receives an item at the end of a round.
    ended: mpsc::Sender<()>,
}

/// Round of probes of a tier.
#[derive(Debug)]
enum Round {
    Running { number: u64, task: AbortHandle },
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
        Self { rounds: Arc::default(), queue: Arc::new(Queue::new()), started: AtomicU64::new(0), ended }
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

    /// Starts a round: every pod is asked for its names. An earlier round of the tier is given up.
    pub(crate) fn start(&self, tier: &str, pods: Vec<(ProbedPod, Arc<Vec<ProbeName>>)>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let (rounds, queue, ended) = (self.rounds.clone(), self.queue.clone(), self.ended.clone());
        let name = tier.to_owned();
        let mut running = lock(&self.rounds);
        let task = tokio::spawn(async move {
            let tier = name;
            let until = Instant::now() + ROUND_LIMIT;
            let ask_pod = async |(pod, names): (ProbedPod, Arc<Vec<ProbeName>>)| {
                (pod.uid, ask(pod.address, &names, &queue, until).await)
            };
            let asked = stream::iter(pods).map(ask_pod);
            let answers: HashMap<String, Answers> = asked.buffer_unordered(MAX_PODS).collect().await;
            let is_wanted =
                |round: &Round| matches!(round, Round::Running { number: running, .. } if *running == number);
            let mut rounds = lock(&rounds);
            if rounds.get(&tier).is_some_and(is_wanted) {
                rounds.insert(tier, Round::Ended { answers });
                // A full channel holds a notification already.
                let _ = ended.try_send(());
            }
        });
        give_up(running.insert(tier.to_owned(), Round::Running { number, task: task.abort_handle() }));
    }

    /// Returns whether a round of a tier is running.
    #[cfg(test)]
    pub(crate) fn is_running(&self, tier: &str) -> bool {
        matches!(lock(&self.rounds).get(tier), Some(Round::Running { .. }))
    }

    /// Gives up the round of a tier.
    pub(crate) fn forget(&self, tier: &str) {
        give_up(lock(&self.rounds).remove(tier));
    }
}

/// Ends a round whose answers nobody waits for.
fn give_up(round: Option<Round>) {
    if let Some(Round::Running { task, .. }) = round {
        task.abort();
    }
}

/// Queue of the probes of all tiers, at equal distances. A round that is given up leaves it with all of its probes.
#[derive(Debug)]
struct Queue {
    next: tokio::sync::Mutex<Instant>,
}

impl Queue {
    fn new() -> Self {
        Self { next: tokio::sync::Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of a probe, which come in the order of the calls. Returns whether it came until then.
    async fn wait(&self, until: Instant) -> bool {
        let Ok(mut next) = tokio::time::timeout_at(until, self.next.lock()).await else { return false };
        let turn = next.max(Instant::now());
        if turn > until {
            return false;
        }
        tokio::time::sleep_until(turn).await;
        *next = turn + PROBE_INTERVAL;
        true
    }
}

fn lock(rounds: &Mutex<HashMap<String, Round>>) -> MutexGuard<'_, HashMap<String, Round>> {
    rounds.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a pod for all names. A few begin in each second, as long as not too many are in flight. Those whose turn would
/// come too late are not asked, and those for which the pod has no room have no answer.
async fn ask(address: SocketAddr, names: &[ProbeName], queue: &Queue, until: Instant) -> Answers {
    let start = Instant::now();
    let room = Semaphore::new(MAX_IN_FLIGHT);
    let ask_in_turn = async |(place, name): (usize, &ProbeName)| {
        let begin = start + Duration::from_secs((place / PROBES_PER_SECOND) as u64);
        if begin > until {
            return None;
        }
        tokio::time::sleep_until(begin).await;
        let Ok(Ok(_place)) = tokio::time::timeout_at(until, room.acquire()).await else { return None };
        if !queue.wait(until).await {
            return None;
        }
        Some((name.clone(), ask_one(address, name).await?))
    };
    let answers = futures::future::join_all(names.iter().enumerate().map(ask_in_turn)).await;
    answers.into_iter().flatten().collect()
}

/// Asks a pod for one name. A pod that is busy is asked once more. `None` for one that still has no room: it did not
/// ask its upstreams, so that this tells nothing of them. A pod of an earlier release says 503 then, as after any
/// failure.
async fn ask_one(address: SocketAddr, probe: &ProbeName) -> Option<Answer> {
    const BUSY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    let path = format!("/probe?name={}&type={}", probe.name, probe.rtype);
    let mut answer = get_within(PROBE_LIMIT, address, &path).await;
    if matches!(answer, Err(HttpError::Status(BUSY | StatusCode::SERVICE_UNAVAILABLE))) {
        tokio::time::sleep(BUSY_DELAY).await;
        answer = get_within(PROBE_LIMIT, address, &path).await;
    }
    match answer {
        Ok(body) => Some(serde_json::from_slice(&body).map_or(Answer::Nothing, Answer::Response)),
        Err(HttpError::Status(BUSY)) => None,
        Err(HttpError::Status(StatusCode::NOT_FOUND)) => Some(Answer::NotKnown),
        Err(_) => Some(Answer::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves pods whose configurations lead to no name, and returns their address and the times of all requests.
    async fn serve() -> (SocketAddr, Arc<Mutex<Vec<Instant>>>) {
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
        (address, times)
    }

    fn names(count: usize) -> Arc<Vec<ProbeName>> {
        Arc::new(vec![ProbeName::new(".", "SOA"); count])
    }

    #[tokio::test]
    async fn probes_of_several_tiers_share_one_pace() {
        let (address, times) = serve().await;
        let (ended, mut round_ended) = mpsc::channel(2);
        let prober = Prober::new(ended);
        for tier in ["one", "other"] {
            let pod = |number: usize| ProbedPod { uid: format!("{tier}-{number}"), address };
            prober.start(tier, (0..20).map(|number| (pod(number), names(3))).collect());
        }
        round_ended.recv().await.unwrap();
        round_ended.recv().await.unwrap();
        let times = times.lock().unwrap();
        assert_eq!(times.len(), 120);
        let whole = *times.last().unwrap() - times[0];
        assert!(whole >= PROBE_INTERVAL * 118, "{whole:?}");
        let RoundState::Ended(answers) = prober.take("one") else { panic!("it has ended") };
        assert!(answers.values().flatten().all(|(_, answer)| *answer == Answer::NotKnown));
    }

    #[tokio::test]
    async fn a_round_that_is_given_up_asks_nothing_more_and_takes_no_time_of_others() {
        let (address, times) = serve().await;
        let (ended, mut round_ended) = mpsc::channel(2);
        let prober = Prober::new(ended);
        let pod = |number: usize| ProbedPod { uid: number.to_string(), address };
        prober.start("one", (0..50).map(|number| (pod(number), names(12))).collect());
        tokio::time::sleep(PROBE_INTERVAL * 10).await;
        // Without this the answers would come 12 s later.
        prober.start("one", vec![(pod(50), names(1))]);
        tokio::time::timeout(Duration::from_secs(6), round_ended.recv()).await.unwrap().unwrap();
        assert!(matches!(prober.take("one"), RoundState::Ended(answers) if answers.len() == 1));
        prober.start("one", (0..50).map(|number| (pod(number), names(12))).collect());
        prober.forget("one");
        let before = times.lock().unwrap().len();
        tokio::time::sleep(PROBE_INTERVAL * 10).await;
        assert!(times.lock().unwrap().len() <= before + 1, "one may have been under way");
        assert_eq!(prober.take("one"), RoundState::None);
    }

    #[tokio::test]
    async fn probes_that_would_begin_after_the_end_of_a_round_are_not_asked() {
        let (address, times) = serve().await;
        let until = Instant::now() + Duration::from_millis(900);
        assert_eq!(ask(address, &names(30), &Queue::new(), until).await.len(), PROBES_PER_SECOND);
        assert_eq!(times.lock().unwrap().len(), PROBES_PER_SECOND);
    }

    /// Serves a pod that responds to its requests like this, one after the other, and returns its address.
    async fn serve_in_turn(responses: [&'static str; 2]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for response in responses {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let head = format!("HTTP/1.1 {response}\r\nContent-Length: 2\r\n\r\n{{}}");
                let _ = stream.write_all(head.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_pod_without_room_for_a_probe_is_asked_once_more_and_then_tells_nothing_of_its_upstreams() {
        let (busy, failed) = ("429 Too Many Requests", "503 Service Unavailable");
        let ask = async |responses| {
            let until = Instant::now() + ROUND_LIMIT;
            ask(serve_in_turn(responses).await, &names(1), &Queue::new(), until).await
        };
        let probe = |answer| vec![(ProbeName::new(".", "SOA"), answer)];
        let (answered, never, earlier, after) = tokio::join!(
            ask([busy, "200 OK"]),
            ask([busy, busy]),
            ask([failed, failed]),
            ask([busy, "500 Internal Server Error"]),
        );
        assert_eq!(answered, probe(Answer::Response(ProbeResult::default())));
        assert_eq!(never, [], "neither a failure nor a name that was asked for");
        assert_eq!(earlier, probe(Answer::Nothing), "a pod of an earlier release");
        assert_eq!(after, probe(Answer::Nothing));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_waits_for_its_turn_no_longer_than_its_round() {
        let queue = Queue::new();
        let until = Instant::now() + PROBE_INTERVAL * 10;
        let turns = futures::future::join_all((0..40).map(|_| queue.wait(until))).await;
        assert_eq!(turns, [[true; 11].as_slice(), &[false; 29]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_answers_late_has_no_more_than_three_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicU64::new(0));
        let most = Arc::new(AtomicU64::new(0));
        let (now_open, most_open) = (open.clone(), most.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let now = now_open.fetch_add(1, Ordering::SeqCst) + 1;
                most_open.fetch_max(now, Ordering::SeqCst);
                let now_open = now_open.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    tokio::time::sleep(Duration::from_secs(4)).await;
                    now_open.fetch_sub(1, Ordering::SeqCst);
                    let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
                });
            }
        });
        let until = Instant::now() + ROUND_LIMIT;
        assert_eq!(ask(address, &names(12), &Queue::new(), until).await.len(), 12);
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
