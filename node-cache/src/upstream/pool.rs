//! Groups in the order in which they are asked, and the race of a question through them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use tokio::sync::mpsc;

use super::attempt::{Event, Patience, attempt};
use super::health::State;
use super::plan::{Candidate, Order, Plan, SENDS, plan};
use super::{Group, Server};
use crate::packet::Response;
use crate::packet::numbers::rcode;
use crate::packet::question::Question;

/// How long the first, second and third server of a question have before that counts as a failure and the next one is asked
/// too. The last entry is for servers that are asked when there is nobody left to ask.
const PATIENCE: [Duration; SENDS] =
    [Duration::from_millis(350), Duration::from_millis(500), Duration::from_millis(900)];

/// A server that is slower than it usually is gets at least this long before another one is asked too.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(10);

/// Nobody answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no server answered")]
pub struct Unanswered;

/// Groups of servers in tiers, the nearest first.
#[derive(Clone, Debug)]
pub struct Pool {
    tiers: Vec<Vec<Arc<Group>>>,
    order: Order,
}

impl Pool {
    /// A pool of these tiers.
    #[must_use]
    pub const fn new(tiers: Vec<Vec<Arc<Group>>>, order: Order) -> Self {
        Self { tiers, order }
    }

    /// The groups, the nearest first.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.tiers.iter().flatten()
    }

    /// Whether every server counts as dead, or there is none.
    #[must_use]
    pub fn is_down(&self) -> bool {
        let now = Instant::now();
        !self.groups().flat_map(|group| group.candidates(now)).any(|server| server.state(now) == State::Healthy)
    }

    /// When a server last answered again after it counted as dead: what failed before may be asked again.
    #[must_use]
    pub fn revived(&self) -> Option<Instant> {
        self.groups().filter_map(|group| group.revived()).max()
    }

    /// The time within which nearly all answers come, whichever healthy server they come from; none while that is not
    /// known.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        let now = Instant::now();
        let servers = self.groups().flat_map(|group| group.candidates(now));
        servers.filter(|server| server.state(now) == State::Healthy).filter_map(|server| server.p95()).max()
    }

    /// Asks one server after the other, each when the ones before it do not answer in time or answer badly, and gives
    /// back the first good answer, whoever it comes from. When there is none by the deadline, the first bad one.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] when there is no answer at all within `limit`.
    pub async fn ask(&self, question: &Question, limit: Duration) -> Result<Response, Unanswered> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut race = Race::new(self.plan(), question.clone(), deadline);
        race.start_next();
        let mut bad = None;
        while race.running > 0 {
            let event = tokio::time::timeout_at(deadline, race.events.recv()).await;
            match event {
                Ok(Some(Event::Answered(_, response))) if !is_bad(&response) => return Ok(response),
                Ok(Some(Event::Answered(number, response))) => {
                    race.ended(number);
                    bad.get_or_insert(response);
                }
                Ok(Some(Event::Over)) => race.running -= 1,
                Ok(Some(Event::Late)) => {}
                Ok(None) | Err(_) => break,
            }
            race.start_next();
        }
        bad.ok_or(Unanswered)
    }

    fn plan(&self) -> Plan<ByAddress> {
        let now = Instant::now();
        let candidate = |server: Arc<Server>| Candidate {
            state: server.state(now),
            latency: server.latency(),
            server: ByAddress(server),
        };
        let tiers: Vec<Vec<Candidate<ByAddress>>> = self
            .tiers
            .iter()
            .map(|tier| tier.iter().flat_map(|group| group.candidates(now)).map(candidate).collect())
            .collect();
        let plan = plan(&tiers, self.order, |indices| indices.shuffle(&mut rand::rng()));
        if let Some(ByAddress(server)) = &plan.probe {
            server.probing(now);
        }
        plan
    }
}

/// Servers are the same when they are asked at the same place in the same way.
#[derive(Clone, Debug)]
struct ByAddress(Arc<Server>);

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        (self.0.address(), self.0.protocol()) == (other.0.address(), other.0.protocol())
    }
}

/// The attempts at one question. Each is a task of its own and lives on when the race is won, so that what a server
/// does is learned either way.
struct Race {
    left: Vec<ByAddress>,
    asked: Vec<ByAddress>,
    running: usize,
    question: Question,
    deadline: tokio::time::Instant,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Race {
    fn new(plan: Plan<ByAddress>, question: Question, deadline: tokio::time::Instant) -> Self {
        let (sender, events) = mpsc::channel(3 * SENDS + 2);
        if let Some(ByAddress(server)) = plan.probe {
            // Its answer is not waited for; only the server's health hears of it.
            let (nobody, _) = mpsc::channel(2);
            let patience = Patience::until_failing(PATIENCE[0]);
            tokio::spawn(attempt(0, server, question.clone(), patience, deadline, nobody));
        }
        let left = plan.sends.into_iter().rev().collect();
        Self { left, asked: Vec::new(), running: 0, question, deadline, sender, events }
    }

    /// Starts the next attempt, if there is one left.
    fn start_next(&mut self) {
        let Some(server) = self.left.pop() else { return };
        let number = self.asked.len();
        let failing = PATIENCE[number.min(SENDS - 1)];
        // Another server may be faster; the same one would only be asked twice.
        let another = self.left.last().is_some_and(|next| *next != server);
        let p95 = server.0.p95().filter(|_| another);
        let usual = p95.map_or(failing, |p95| p95.clamp(SHORTEST_PATIENCE, failing));
        let patience = Patience { usual, failing };
        let sender = self.sender.clone();
        tokio::spawn(attempt(number, server.0.clone(), self.question.clone(), patience, self.deadline, sender));
        self.asked.push(server);
        self.running += 1;
    }

    /// An attempt ended with a bad answer: its server would say the same again.
    fn ended(&mut self, number: usize) {
        self.running -= 1;
        if let Some(server) = self.asked.get(number) {
            self.left.retain(|other| other != server);
        }
    }
}

/// Whether another server may know better.
fn is_bad(response: &Response) -> bool {
    !matches!(response.rcode(), rcode::NOERROR | rcode::NXDOMAIN)
}
