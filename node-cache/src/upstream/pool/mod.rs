//! Groups in the order in which they are asked.

mod attempt;
mod hedge;
pub(super) mod recovery;
mod select;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use crate::dns::Response;
use crate::dns::question::Question;
use crate::upstream::error::NoAnswer;
use crate::upstream::server::health::Health;
use crate::upstream::server::{Group, Server};
use hedge::{HedgedQuery, PATIENCE};
pub use select::Selection;
use select::{Candidate, Candidates, Plan, plan};

/// Groups of servers in tiers, the nearest first.
#[derive(Clone, Debug)]
pub struct Pool {
    tiers: Vec<Vec<Arc<Group>>>,
    order: Selection,
}

impl Pool {
    /// A pool of these tiers.
    #[must_use]
    pub const fn new(tiers: Vec<Vec<Arc<Group>>>, order: Selection) -> Self {
        Self { tiers, order }
    }

    /// The groups, the nearest first.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.tiers.iter().flatten()
    }

    /// Whether every server counts as dead, or there is none.
    #[must_use]
    pub fn is_down(&self) -> bool {
        let (now, mut anybody) = (Instant::now(), false);
        for group in self.groups() {
            group.each_candidate(now, |_, state| anybody |= state == Health::Up);
        }
        !anybody
    }

    /// When a server last answered again after it counted as dead: what failed before may be asked again.
    #[must_use]
    pub fn recovered_at(&self) -> Option<Instant> {
        self.groups().filter_map(|group| group.recovered_at()).max()
    }

    /// The time within which nearly all answers come, whichever healthy server they come from; none while that is not
    /// known.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        let (now, mut longest) = (Instant::now(), None);
        for group in self.groups() {
            group.each_candidate(now, |server, state| {
                longest = longest.max(if state == Health::Up { server.p95() } else { None });
            });
        }
        longest
    }

    /// Asks, from now on, one server after the other, each when the ones before it do not answer in time or answer badly, and gives
    /// back the first good answer, whoever it comes from. When there is none by the deadline, the first bad one.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`] when there is no answer at all within `limit`.
    pub fn ask(
        &self,
        question: Arc<Question>,
        now: tokio::time::Instant,
        limit: Duration,
    ) -> impl Future<Output = Result<Response, NoAnswer>> + Send + Unpin + use<> {
        let deadline = now + limit;
        let Plan { sends, probe } = self.plan(now.into_std());
        if let Some(ByAddress(server)) = probe {
            tokio::spawn(HedgedQuery::probe(server, question.clone(), PATIENCE[0], deadline));
        }
        let servers = sends.into_iter().map(|ByAddress(server)| server).collect();
        HedgedQuery::new(question, now, deadline, servers)
    }

    fn plan(&self, now: Instant) -> Plan<ByAddress> {
        let mut candidates = Candidates::new();
        for (tier, groups) in self.tiers.iter().enumerate() {
            for group in groups {
                group.each_candidate(now, |server, state| {
                    let latency = server.latency();
                    candidates.push(Candidate { tier, state, latency, server: ByAddress(server.clone()) });
                });
            }
        }
        let plan = plan(candidates, self.order, |tier| tier.shuffle(&mut rand::rng()));
        if let Some(ByAddress(server)) = &plan.probe {
            server.probing(now);
        }
        plan
    }
}

/// Servers, as the plan compares them.
#[derive(Clone, Debug)]
struct ByAddress(Arc<Server>);

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }
}
