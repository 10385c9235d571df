//! Choice of the servers of a pool for one query: what is known of them goes into a plan. Reads atomics only, and takes
//! a share in the servers that are chosen, no others.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

use super::reserve::TierHealth;
use super::select::{Candidate, Candidates, Planner, QueryPlan, Rank, Selection, is_in_share};
use super::{Pool, Tier};
use crate::dns::Name;
use crate::upstream::server::Server;
use crate::upstream::server::group::Group;
use crate::upstream::server::health::Health;
use crate::upstream::server::standing::FULL_SHARE;
use crate::upstream::server::timestamp::Timestamp;

impl Pool {
    /// Returns the servers for a query for `name`. While one is up, only servers that are up are chosen. When all are
    /// down, the circuit breakers may be wrong, and all are candidates. Those of the reserve come behind the first ones
    /// of the tiers, and no score puts them before.
    pub(super) fn plan(&self, name: &Name, now: Instant) -> QueryPlan<Arc<Server>> {
        let plan = self.plan_of_tiers(name, now);
        let Some(reserve) = &self.reserve else { return plan.unwrap_or_else(|| self.plan_of_all()) };
        let tiers = if plan.is_some() { TierHealth::Up } else { TierHealth::Down };
        let QueryPlan { sends, probe } = plan.unwrap_or_else(|| self.plan_of_all());
        QueryPlan { sends: reserve.add_to(sends, tiers, now), probe }
    }

    /// Returns the servers of the tiers for a query for `name`; `None` while none is up.
    fn plan_of_tiers(&self, name: &Name, now: Instant) -> Option<QueryPlan<Arc<Server>>> {
        let mut choice = ServerChoice {
            planner: Planner::new(self.selection, self.has_one_group(), true),
            name,
            domain_hash: OnceCell::new(),
            now: Timestamp::of(now),
            offers: self.selection == Selection::Ordered,
        };
        for tier in &self.tiers {
            choice.add_tier(tier);
            if choice.planner.is_full() {
                break;
            }
        }
        choice.planner.finish()
    }

    fn has_one_group(&self) -> bool {
        matches!(&*self.tiers, [Tier { groups, .. }] if groups.len() == 1)
    }

    /// Returns a plan of all servers, which are all down.
    fn plan_of_all(&self) -> QueryPlan<Arc<Server>> {
        let mut planner = Planner::new(self.selection, self.tiers.len() <= 1, false);
        for tier in &self.tiers {
            let mut servers = Vec::new();
            for group in &tier.groups {
                group.visit(|set| {
                    servers.extend_from_slice(set);
                    false
                });
            }
            let candidate = |index| Candidate { index, rank: Rank::First, score: 0 };
            planner.add_tier(&servers, &mut (0..servers.len()).map(candidate).collect(), random_below);
        }
        planner.finish().unwrap_or_default()
    }
}

/// Choice of the servers for one query.
struct ServerChoice<'a> {
    planner: Planner<Arc<Server>>,
    name: &'a Name,
    /// Hash of the registered domain, computed when a server is lame for any.
    domain_hash: OnceCell<u64>,
    now: Timestamp,
    /// The first server in order is still to be seen.
    offers: bool,
}

impl ServerChoice<'_> {
    fn add_tier(&mut self, tier: &Tier) {
        match (&tier.order, &*tier.groups) {
            (_, [group]) => self.add_group(group),
            (Some(order), groups) => {
                order.update(self.now, || groups.iter().map(|group| group.best_latency(self.now)).collect());
                for group in (0..groups.len()).filter_map(|place| groups.get(order.zone(place))) {
                    self.add_group(group);
                    if self.planner.is_full() {
                        return;
                    }
                }
            }
            (None, groups) => self.add_equal_groups(groups),
        }
    }

    /// Adds the servers of one group.
    fn add_group(&mut self, group: &Group) {
        group.visit(|servers| self.add_servers(servers));
    }

    /// Adds the servers of groups that are as near as each other: all zones, where the own one is not known.
    fn add_equal_groups(&mut self, groups: &[Arc<Group>]) {
        let mut servers = Vec::new();
        for group in groups {
            group.visit(|set| {
                let before = servers.len();
                servers.extend(set.iter().filter(|server| self.is_up(server)).cloned());
                servers.len() > before
            });
        }
        self.add_servers(&servers);
    }

    /// Adds the servers that are up as a tier. Returns whether there is one.
    fn add_servers(&mut self, servers: &[Arc<Server>]) -> bool {
        let mut candidates = Candidates::new();
        for (index, server) in servers.iter().enumerate() {
            if self.is_up(server) {
                candidates.push(Candidate { index, rank: self.rank(server), score: server.score(self.now) });
            }
        }
        let is_any_up = !candidates.is_empty();
        if is_any_up {
            self.planner.add_tier(servers, &mut candidates, random_below);
        }
        is_any_up
    }

    /// Returns whether a server is up, and notes the probe of one that is not.
    fn is_up(&mut self, server: &Arc<Server>) -> bool {
        let health = server.health(self.now);
        // One that is up is offered the query when it is its turn.
        if std::mem::take(&mut self.offers) && health != Health::Up {
            server.record_offer();
        }
        if health == Health::ProbeDue {
            self.planner.add_probe(server);
        }
        health == Health::Up
    }

    fn rank(&self, server: &Server) -> Rank {
        let domain_hash = || *self.domain_hash.get_or_init(|| server.domain_hash(self.name));
        let share = server.share(self.now);
        if server.is_in_forwarding_loop() {
            Rank::Looping
        } else if share == 0 || server.is_lame_for(domain_hash, self.now) {
            Rank::BehindAll
        } else if share < FULL_SHARE && !is_in_share(share, rand::random::<u8>().into()) {
            Rank::BehindTier
        } else {
            Rank::First
        }
    }
}

/// Returns a random number below `end`.
fn random_below(end: usize) -> usize {
    rand::random::<u32>() as usize % end
}
