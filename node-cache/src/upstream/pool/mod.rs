//! Tiers of server groups with a reserve behind them, and queries to them: selection, hedging and probing of down
//! servers.

mod attempt;
mod case_agreement;
mod case_check;
mod comparison;
mod hedge;
mod packet_room;
mod purpose;
pub(super) mod recovery;
mod refresh_pace;
mod reserve;
mod retry;
mod select;
mod sends;
mod server_choice;
mod tcp_query;
mod tier_query;
mod zone_order;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use crate::dns::question::Question;
use crate::upstream::server::Server;
use crate::upstream::server::group::Group;
use crate::upstream::server::health::Health;
use crate::upstream::server::timestamp::Timestamp;
use hedge::HedgedQuery;
pub use hedge::QueryEvent;
pub use purpose::QueryPurpose;
use refresh_pace::RefreshPace;
use reserve::Reserve;
use select::QueryPlan;
pub use select::Selection;
use sends::ATTEMPT_TIMEOUTS;
use zone_order::ZoneOrder;

/// Groups of servers in tiers, the nearest first.
#[derive(Clone, Debug)]
pub struct Pool {
    tiers: Vec<Tier>,
    selection: Selection,
    /// Servers behind all tiers.
    reserve: Option<Reserve>,
    stale_refreshes: Arc<RefreshPace>,
}

/// Groups of one tier.
#[derive(Clone, Debug)]
struct Tier {
    groups: Vec<Arc<Group>>,
    /// Order of the groups where they are the other zones; `None` where their servers are equal.
    order: Option<Arc<ZoneOrder>>,
}

impl Pool {
    /// Creates a pool of these tiers, the nearest first. Behind the first one, the groups of a tier are zones, of which
    /// the nearest is queried first.
    #[must_use]
    pub fn new(tiers: Vec<Vec<Arc<Group>>>, selection: Selection) -> Self {
        let tier = |(number, groups): (usize, Vec<Arc<Group>>)| {
            let is_ordered = number > 0 && groups.len() > 1 && selection == Selection::PowerOfTwo;
            let order = || Arc::new(ZoneOrder::new(groups.len(), |zones| zones.shuffle(&mut rand::rng())));
            Tier { order: is_ordered.then(order), groups }
        };
        let tiers = tiers.into_iter().enumerate().map(tier).collect();
        Self { tiers, selection, reserve: None, stale_refreshes: Arc::default() }
    }

    /// Puts the servers of a group behind all tiers: they are queried only while those of the tiers are silent.
    #[must_use]
    pub fn with_reserve(self, group: Arc<Group>) -> Self {
        Self { reserve: Some(Reserve::new(group)), ..self }
    }

    /// Returns the groups, the nearest first, and that of the reserve last.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.tier_groups().chain(self.reserve.as_ref().map(Reserve::group))
    }

    /// Returns the groups of the tiers, the nearest first.
    fn tier_groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.tiers.iter().flat_map(|tier| &tier.groups)
    }

    /// Returns whether the server with this ID is one of the reserve.
    #[must_use]
    pub fn is_of_reserve(&self, server_id: u16) -> bool {
        self.reserve.as_ref().is_some_and(|reserve| reserve.group().has_server(server_id))
    }

    /// Returns whether no server is up, or there is none.
    #[must_use]
    pub fn is_down(&self) -> bool {
        let now = Instant::now();
        let mut any_up = false;
        for group in self.tier_groups() {
            group.for_each_candidate(Timestamp::of(now), |_, health| any_up |= health == Health::Up);
        }
        !any_up && self.reserve.as_ref().is_none_or(|reserve| reserve.is_down(now))
    }

    /// Returns whether a stale answer may be refreshed in the background now, while the pool is down, and records that
    /// it is: five times a second, however many names are stale.
    #[must_use]
    pub fn take_stale_refresh(&self) -> bool {
        self.stale_refreshes.take(Instant::now())
    }

    /// Returns whether a server has sent any response, whatever its rcode. Those of a last resort do not count: the
    /// servers before them are to be found.
    #[must_use]
    pub fn has_responded(&self) -> bool {
        let fallback = self.reserve.as_ref().filter(|reserve| !reserve.is_last_resort()).map(Reserve::group);
        self.tier_groups().chain(fallback).any(|group| group.has_responded())
    }

    /// Returns when a server last came up again after it was down. Queries that failed before may be repeated.
    #[must_use]
    pub fn recovered_at(&self) -> Option<Instant> {
        self.groups().filter_map(|group| group.recovered_at()).max()
    }

    /// Returns the highest p95 latency of the servers that are up, of the reserve only while none of a tier is; `None`
    /// while it is not known of any.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        let now = Timestamp::of(Instant::now());
        let mut highest = None;
        let mut any_up = false;
        let mut visit = |server: &Arc<Server>, health| {
            if health == Health::Up {
                any_up = true;
                highest = highest.max(server.p95());
            }
        };
        self.tier_groups().for_each(|group| group.for_each_candidate(now, &mut visit));
        if !any_up && let Some(reserve) = &self.reserve {
            reserve.group().for_each_candidate(now, |server, health| {
                highest = highest.max(if health == Health::Up { server.p95() } else { None });
            });
        }
        highest
    }

    /// Queries the servers from `now` on with hedging: the next one when the ones before it are slow, time out or fail.
    /// The future returns the first good response of any of them, or without one the first truncated one, or else the
    /// first failure. When `timeout` passes before, it says so, and may be polled again for the late response
    /// ([`QueryEvent::Deadline`]).
    pub fn query(
        &self,
        question: Arc<Question>,
        purpose: QueryPurpose,
        now: tokio::time::Instant,
        timeout: Duration,
    ) -> impl Future<Output = QueryEvent> + Send + Unpin + use<> {
        let deadline = now + timeout;
        let QueryPlan { sends, probe } = self.plan(&question.name, now.into_std());
        if let Some(server) = probe
            && let Some(probe) = server.take_probe(Some(&question), now.into_std())
        {
            tokio::spawn(HedgedQuery::probe(server, probe, ATTEMPT_TIMEOUTS[0], deadline));
        }
        HedgedQuery::new(question, purpose, now, deadline, sends)
    }
}
