//! Reserve of a pool: servers that are queried only while those of its tiers are silent, whatever their scores. Pure
//! but for the group that it holds: health is a parameter.
//!
//! | servers of the tiers | order of a query |
//! | --- | --- |
//! | one is up | two of them, the reserve, the others |
//! | none is up, one of the reserve is | the reserve, one of them |
//! | none is up at all | two of them, the reserve |
//!
//! Behind a server of the tiers, one of the reserve is queried only after silence: see [`super::hedge`]. A last resort
//! is in no query while a server of the tiers is up. While its pace has no room its servers do not count as up, and
//! whether they are queried is decided when it is their turn.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::select::{MAX_SENDS, MAX_SENDS_IN_ORDER, MAX_SENDS_PER_TIER, Sends};
use crate::upstream::server::Server;
use crate::upstream::server::group::Group;
use crate::upstream::server::health::Health;
use crate::upstream::server::timestamp::Timestamp;

/// Servers behind all tiers of a pool.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    group: Arc<Group>,
}

/// Health of all servers of a pool's tiers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TierHealth {
    /// At least one server is up.
    Up,
    /// No server is up, or there is none.
    Down,
}

impl Reserve {
    /// Makes a reserve of the servers of this group.
    pub(super) const fn new(group: Arc<Group>) -> Self {
        Self { group }
    }

    /// Returns the group of the servers.
    pub(super) const fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Returns whether the servers are a last resort.
    pub(super) fn is_last_resort(&self) -> bool {
        self.group.pace().is_some()
    }

    /// Returns whether no server is up, or none may be sent a packet now.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        let mut is_any_up = false;
        self.group.for_each_candidate(Timestamp::of(now), |_, health| is_any_up |= health == Health::Up);
        !is_any_up || !self.has_room(now)
    }

    fn has_room(&self, now: Instant) -> bool {
        self.group.pace().is_none_or(|pace| pace.has_room(now))
    }

    /// Adds the servers of the reserve to those of a query. While the tiers are down, the group is told that it is
    /// needed, so that those of its servers that are down are probed.
    pub(super) fn add_to(&self, mut sends: Sends<Arc<Server>>, tiers: TierHealth, now: Instant) -> Sends<Arc<Server>> {
        if tiers == TierHealth::Down {
            self.group.record_need(now);
        }
        if self.is_last_resort() && tiers == TierHealth::Up {
            return sends;
        }
        let (has_room, timestamp) = (self.has_room(now), Timestamp::of(now));
        let mut reserve = SmallVec::<[(Arc<Server>, Health); MAX_SENDS]>::new();
        self.group.for_each_candidate(timestamp, |server, health| {
            reserve.push((server.clone(), if has_room { health } else { Health::Down }));
        });
        // Outliers come behind the others. The sort is stable: the configured order stays.
        reserve.sort_by_key(|(server, _)| server.share(timestamp) == 0);
        remove_repeated(&mut sends, |one, other| one.has_same_endpoint(other));
        order(sends, tiers, reserve)
    }
}

/// Returns the servers of a query in order, from those selected of the tiers, each once, and those of the reserve. Some
/// are repeated when there are fewer than [`MAX_SENDS`], of the reserve rather than of the tiers.
fn order<T: Clone>(
    mut sends: Sends<T>,
    tiers: TierHealth,
    mut reserve: SmallVec<[(T, Health); MAX_SENDS]>,
) -> Sends<T> {
    // The sort is stable: the configured order stays.
    reserve.sort_by_key(|(_, health)| *health != Health::Up);
    let Some((repeated, best)) = reserve.first().cloned() else { return sends };
    if tiers == TierHealth::Down && best == Health::Up {
        reserve.retain(|(_, health)| *health == Health::Up);
        sends.truncate(1);
        reserve.truncate(MAX_SENDS_IN_ORDER - sends.len());
        sends.insert_many(0, reserve.into_iter().map(|(server, _)| server));
    } else {
        sends.insert_many(MAX_SENDS_PER_TIER.min(sends.len()), reserve.into_iter().map(|(server, _)| server));
        sends.truncate(if tiers == TierHealth::Up { MAX_SENDS_IN_ORDER } else { MAX_SENDS });
    }
    while sends.len() < MAX_SENDS {
        sends.push(repeated.clone());
    }
    sends
}

/// Removes servers that are named before.
fn remove_repeated<T>(servers: &mut Sends<T>, is_same: impl Fn(&T, &T) -> bool) {
    let mut index = 0;
    while let Some(server) = servers.get(index) {
        if servers[..index].iter().any(|before| is_same(before, server)) {
            servers.remove(index);
        } else {
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(selected: &[&'static str], tiers: TierHealth, reserve: &[(&'static str, Health)]) -> Vec<&'static str> {
        let mut selected = selected.iter().copied().collect();
        remove_repeated(&mut selected, |one, other| one == other);
        order(selected, tiers, reserve.iter().copied().collect()).to_vec()
    }

    #[test]
    fn a_query_goes_to_two_of_the_tiers_before_it_goes_to_the_reserve() {
        let reserve = [("r1", Health::Up), ("r2", Health::Up)];
        assert_eq!(ordered(&["a", "a", "a"], TierHealth::Up, &reserve[..1]), ["a", "r1", "r1"]);
        assert_eq!(ordered(&["a", "b", "a"], TierHealth::Up, &reserve[..1]), ["a", "b", "r1"]);
        assert_eq!(ordered(&["a", "b", "c", "d"], TierHealth::Up, &reserve), ["a", "b", "r1", "r2", "c", "d"]);
        let many: Vec<_> = (0..8).map(|_| ("r", Health::Up)).collect();
        assert_eq!(ordered(&["a", "b", "c"], TierHealth::Up, &many).len(), MAX_SENDS_IN_ORDER);
    }

    #[test]
    fn while_the_tiers_are_down_the_reserve_comes_first_and_one_of_them_last() {
        let reserve = [("r1", Health::Down), ("r2", Health::Up), ("r3", Health::Up)];
        assert_eq!(ordered(&["a", "b", "c"], TierHealth::Down, &reserve), ["r2", "r3", "a"]);
        assert_eq!(ordered(&["a", "b", "a"], TierHealth::Down, &reserve[..2]), ["r2", "a", "r2"]);
        assert_eq!(ordered(&[], TierHealth::Down, &reserve[1..2]), ["r2"; 3], "there are no others");
    }

    #[test]
    fn where_all_are_down_all_are_tried_and_a_reserve_that_was_down_once_is_tried_again() {
        let down = [("r1", Health::Down), ("r2", Health::ProbeDue)];
        assert_eq!(ordered(&["a", "b", "c"], TierHealth::Down, &down), ["a", "b", "r1"]);
        assert_eq!(ordered(&["a", "a", "a"], TierHealth::Up, &down[..1]), ["a", "r1", "r1"]);
        assert_eq!(ordered(&["a", "a", "a"], TierHealth::Up, &[down[0], ("r3", Health::Up)]), ["a", "r3", "r1"]);
    }
}
