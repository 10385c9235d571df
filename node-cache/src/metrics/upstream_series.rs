//! Choice of the upstreams that have series of their own, and sums of all others, so that the number of series does not
//! grow with the cluster.
//!
//! An upstream that was chosen stays until it is gone. The sums are made of what was added since the last page: an
//! upstream that is gone, or comes to be chosen, takes nothing away from them, which would look like a restart.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use node_cache_config::status::UpstreamStatus;

/// Upstreams with series of their own in a zone resolver, at most.
pub const MAX_SHOWN_BY_A_RESOLVER: usize = 16;
/// Upstreams with series of their own in a cache on a node, at most. Their number and that of caches decide how many
/// series a node has.
pub const MAX_SHOWN_BY_A_NODE_CACHE: usize = 2;

/// Value of the labels `scope` and `upstream` for the sum of all upstreams without series of their own.
pub(super) const OTHER: &str = "other";

type Key = (String, SocketAddr);

/// Counters of upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    sent: u64,
    timeouts: u64,
    near_misses: u64,
}

impl Counts {
    const fn of(upstream: &UpstreamStatus) -> Self {
        Self { sent: upstream.sent, timeouts: upstream.timeouts, near_misses: upstream.near_misses }
    }

    /// Returns what was added since `last`. Smaller counts are those of a new server at the same address.
    const fn since(self, last: Self) -> Self {
        if self.sent < last.sent {
            return self;
        }
        Self {
            sent: self.sent - last.sent,
            timeouts: self.timeouts.saturating_sub(last.timeouts),
            near_misses: self.near_misses.saturating_sub(last.near_misses),
        }
    }
}

/// State from one metrics page to the next.
#[derive(Debug, Default)]
pub(super) struct UpstreamSeries {
    /// Upstreams with series of their own, in the order in which they were chosen.
    shown: Vec<Key>,
    /// Counts of the last page.
    last: HashMap<Key, Counts>,
    /// Sums of the upstreams without series of their own.
    others: Counts,
    /// Near misses of all upstreams.
    near_misses: u64,
}

/// Values for one metrics page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UpstreamPage {
    /// Upstreams with series of their own.
    pub(super) shown: Vec<UpstreamStatus>,
    /// All others together; `None` while there was none.
    pub(super) others: Option<OtherUpstreams>,
    /// Near misses of all upstreams.
    pub(super) near_misses: u64,
}

/// Upstreams without series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OtherUpstreams {
    /// Queries sent to them.
    pub(super) sent: u64,
    /// Queries that they did not answer in time.
    pub(super) timeouts: u64,
    /// Whether every one of them is up.
    pub(super) healthy: bool,
}

impl UpstreamSeries {
    /// Returns the values of a page from the upstreams of now, of which the first ones are preferred.
    pub(super) fn page(&mut self, upstreams: &[UpstreamStatus], max_shown: usize) -> UpstreamPage {
        let key = |upstream: &UpstreamStatus| (upstream.scope.clone(), upstream.address);
        let mut present = HashSet::new();
        let upstreams: Vec<&UpstreamStatus> =
            upstreams.iter().filter(|upstream| present.insert(key(upstream))).collect();
        self.shown.retain(|shown| present.contains(shown));
        for upstream in &upstreams {
            if self.shown.len() < max_shown && !self.shown.contains(&key(upstream)) {
                self.shown.push(key(upstream));
            }
        }
        let mut all_up = true;
        for upstream in &upstreams {
            let counts = Counts::of(upstream);
            let added = counts.since(self.last.get(&key(upstream)).copied().unwrap_or_default());
            self.near_misses += added.near_misses;
            if !self.shown.contains(&key(upstream)) {
                all_up &= upstream.healthy;
                self.others.sent += added.sent;
                self.others.timeouts += added.timeouts;
            }
        }
        self.last = upstreams.iter().map(|upstream| (key(upstream), Counts::of(upstream))).collect();
        let has_others = upstreams.len() > self.shown.len() || self.others.sent > 0;
        let Counts { sent, timeouts, .. } = self.others;
        UpstreamPage {
            others: has_others.then_some(OtherUpstreams { sent, timeouts, healthy: all_up }),
            near_misses: self.near_misses,
            shown: upstreams.into_iter().filter(|upstream| self.shown.contains(&key(upstream))).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use node_cache_config::status::UpstreamState;

    use super::*;

    fn upstream(number: u8, sent: u64) -> UpstreamStatus {
        UpstreamStatus {
            scope: "zone/a".to_owned(),
            address: SocketAddr::from(([10, 0, 0, number], 53)),
            healthy: true,
            state: UpstreamState::default(),
            sent,
            timeouts: sent / 10,
            in_flight: 0,
            near_misses: sent / 100,
            detection: None,
            responded: true,
        }
    }

    fn shown(page: &UpstreamPage) -> Vec<u64> {
        page.shown.iter().map(|upstream| upstream.sent).collect()
    }

    fn sent_to_others(page: &UpstreamPage) -> Option<u64> {
        page.others.map(|others| others.sent)
    }

    #[test]
    fn the_first_upstreams_are_shown_and_the_others_summed() {
        let mut series = UpstreamSeries::default();
        let mut upstreams: Vec<UpstreamStatus> = (1..=40).map(|number| upstream(number, 100)).collect();
        let page = series.page(&upstreams, 32);
        assert_eq!((page.shown.len(), page.near_misses), (32, 40));
        assert_eq!(page.others, Some(OtherUpstreams { sent: 800, timeouts: 80, healthy: true }));
        upstreams[39].healthy = false;
        assert!(!series.page(&upstreams, 32).others.unwrap().healthy);
        upstreams[39].healthy = true;
        upstreams[0].healthy = false;
        let page = series.page(&upstreams, 32);
        assert!(page.others.unwrap().healthy && !page.shown[0].healthy);
        assert_eq!(UpstreamSeries::default().page(&upstreams[..32], 32).others, None);
    }

    #[test]
    fn sums_never_decrease_whoever_comes_and_goes() {
        let mut series = UpstreamSeries::default();
        let page = series.page(&[upstream(1, 10), upstream(2, 20), upstream(3, 30)], 1);
        assert_eq!((shown(&page), sent_to_others(&page)), (vec![10], Some(50)));
        // One of the others goes.
        let page = series.page(&[upstream(1, 11), upstream(3, 33)], 1);
        assert_eq!((shown(&page), sent_to_others(&page)), (vec![11], Some(53)));
        // The one that is shown goes, and another takes its place.
        let page = series.page(&[upstream(3, 35), upstream(4, 5)], 1);
        assert_eq!((shown(&page), sent_to_others(&page)), (vec![35], Some(58)));
        // A new server at an address that was known.
        let page = series.page(&[upstream(3, 36), upstream(4, 2)], 1);
        assert_eq!((shown(&page), sent_to_others(&page)), (vec![36], Some(60)));
        // It was gone in between.
        series.page(&[upstream(3, 36)], 1);
        let page = series.page(&[upstream(3, 36), upstream(4, 7)], 1);
        assert_eq!((shown(&page), sent_to_others(&page)), (vec![36], Some(67)));
    }

    #[test]
    fn an_upstream_that_is_shown_stays_so_in_any_order() {
        let mut series = UpstreamSeries::default();
        series.page(&[upstream(1, 1), upstream(2, 2), upstream(3, 3)], 2);
        let page = series.page(&[upstream(3, 3), upstream(2, 2), upstream(1, 1)], 2);
        assert_eq!(shown(&page), [2, 1]);
        // Each once.
        assert_eq!(shown(&series.page(&[upstream(1, 1), upstream(1, 1)], 2)), [1]);
    }
}
