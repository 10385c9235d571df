//! Bound of a status: a process leaves out detail until its status fits, so that nobody cuts it off. Pure.
//!
//! First go episodes, the oldest of all upstreams first. Then servers of a group are told as one: those that are up and
//! have nothing to tell, or all of them where that is not enough. A group stays in the list, up while one of its
//! servers is, and the sums of its counters are the same.

use std::collections::HashMap;
use std::io;

use node_cache_config::status::{DetectionStatus, Instance, UpstreamStatus};
use serde::Serialize;

/// Longest status of one process, in bytes of JSON.
pub(crate) const MAX_STATUS_LEN: usize = 256 * 1024;

/// Leaves out detail of a status until it has at most so many bytes of JSON. Returns whether it has; it always has with
/// the groups that a configuration may have, unless its names are very long.
pub(crate) fn fit(status: &mut Instance, max_len: usize) -> bool {
    let excess = |status: &Instance| json_len(status).saturating_sub(max_len);
    let steps: [fn(&mut Vec<UpstreamStatus>, usize); 4] = [
        |upstreams, excess| drop_oldest_episodes(upstreams, excess),
        |upstreams, _| merge_servers(upstreams, is_unremarkable),
        |upstreams, _| merge_servers(upstreams, |_| true),
        drop_last_upstreams,
    ];
    for step in steps {
        match excess(status) {
            0 => return true,
            excess => step(&mut status.upstreams, excess),
        }
    }
    excess(status) == 0
}

/// Drops episodes of `excess` bytes, or all of them.
fn drop_oldest_episodes(upstreams: &mut [UpstreamStatus], mut excess: usize) {
    let mut episodes: Vec<(u64, usize, usize)> = Vec::new();
    for (place, upstream) in upstreams.iter().enumerate() {
        let Some(detection) = &upstream.detection else { continue };
        episodes.extend(detection.episodes.iter().map(|episode| (episode.started, place, json_len(episode))));
    }
    // The episodes of one upstream are in their order.
    episodes.sort_by_key(|(started, place, _)| (*started, *place));
    let mut dropped: HashMap<usize, usize> = HashMap::new();
    for (_, place, len) in episodes {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(len);
        *dropped.entry(place).or_default() += 1;
    }
    for (place, number) in dropped {
        if let Some(detection) = &mut upstreams[place].detection {
            detection.episodes.drain(..number);
            // A short text of a process that was taken over may have needed much more memory.
            detection.episodes.shrink_to_fit();
        }
    }
}

/// Returns whether an upstream is up and nothing else is to be told about it than its counters.
fn is_unremarkable(upstream: &UpstreamStatus) -> bool {
    upstream.healthy && !upstream.detection.as_ref().is_some_and(is_remarkable)
}

/// Returns whether detection tells of a limit, or of enough queries to find one.
fn is_remarkable(detection: &DetectionStatus) -> bool {
    detection.throttle.is_some() || detection.has_enough_traffic
}

/// Merges the servers of each group for which `is_merged` holds into the first one of them.
fn merge_servers(upstreams: &mut Vec<UpstreamStatus>, is_merged: fn(&UpstreamStatus) -> bool) {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut kept: Vec<UpstreamStatus> = Vec::new();
    for mut upstream in upstreams.drain(..) {
        if !is_merged(&upstream) {
            kept.push(upstream);
            continue;
        }
        upstream.detection = upstream.detection.filter(is_remarkable);
        if let Some(place) = places.get(&upstream.scope) {
            merge(&mut kept[*place], upstream);
        } else {
            places.insert(upstream.scope.clone(), kept.len());
            kept.push(upstream);
        }
    }
    *upstreams = kept;
}

/// Adds another server of the group: its counters, and the rest of it where there is more to tell about it.
fn merge(merged: &mut UpstreamStatus, other: UpstreamStatus) {
    let rank = |upstream: &UpstreamStatus| {
        let has_limit = upstream.detection.as_ref().is_some_and(|detection| detection.throttle.is_some());
        (has_limit, upstream.healthy, upstream.detection.is_some())
    };
    let is_replaced = rank(&other) > rank(merged);
    merged.healthy |= other.healthy;
    merged.responded |= other.responded;
    merged.sent = merged.sent.saturating_add(other.sent);
    merged.timeouts = merged.timeouts.saturating_add(other.timeouts);
    merged.in_flight = merged.in_flight.saturating_add(other.in_flight);
    merged.near_misses = merged.near_misses.saturating_add(other.near_misses);
    if is_replaced {
        (merged.address, merged.state, merged.detection) = (other.address, other.state, other.detection);
    }
}

/// Drops upstreams of `excess` bytes, those that are up first, and the last ones first.
fn drop_last_upstreams(upstreams: &mut Vec<UpstreamStatus>, mut excess: usize) {
    upstreams.sort_by_key(|upstream| upstream.healthy);
    while excess > 0
        && let Some(dropped) = upstreams.pop()
    {
        excess = excess.saturating_sub(json_len(&dropped));
    }
    upstreams.shrink_to_fit();
}

/// Returns the number of bytes of a value as JSON.
fn json_len(value: &impl Serialize) -> usize {
    let mut length = Length(0);
    match serde_json::to_writer(&mut length, value) {
        Ok(()) => length.0,
        Err(_) => usize::MAX,
    }
}

/// Writer that counts bytes.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use node_cache_config::status::{EpisodeStatus, Revision, SecondStatus, ThrottleStatus, UpstreamState};

    use super::*;

    /// Share of each of eight caches in a page of a mebibyte.
    const SHARE_OF_EIGHT: usize = 120 * 1024;

    /// Returns the status of a cache with these groups and so many servers in each, all of which are up.
    pub(crate) fn status(groups: impl IntoIterator<Item = String>, servers: usize) -> Instance {
        let server = |scope: &str, number: usize| UpstreamStatus {
            scope: scope.to_owned(),
            address: format!("[2001:db8:1234:5678:9abc:def0:1234:{number:x}]:53").parse().unwrap(),
            healthy: true,
            state: UpstreamState::Up,
            responded: number == 1,
            sent: 12_345_678,
            timeouts: 1_234,
            in_flight: 17,
            near_misses: 3,
            detection: Some(DetectionStatus { state: "well".to_owned(), ..DetectionStatus::default() }),
        };
        let upstreams = groups.into_iter().flat_map(|scope| (0..servers).map(move |number| server(&scope, number)));
        let revision = Revision { asked: Some("r7".to_owned()), in_force: Some("r7".to_owned()), refusal: None };
        Instance {
            name: "cache-0".to_owned(),
            alive: true,
            revision,
            upstreams: upstreams.collect(),
            ..Instance::default()
        }
    }

    /// Returns the groups of so many routes.
    pub(crate) fn routes(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|number| format!("route/department-{number:03}.corp.example.com"))
    }

    /// Returns an episode of the greatest length.
    pub(crate) fn episode(started: u64) -> EpisodeStatus {
        let second = SecondStatus {
            offered: 12_345,
            sent: 12_345,
            answered: 12_345,
            late: 12_345,
            refused: 12_345,
            stale: 12_345,
            state: "flows limited".to_owned(),
        };
        EpisodeStatus { started, ended: Some(started + 600), before: 15, seconds: vec![second; 60] }
    }

    /// Returns whether each group is up, and the sums of its counters.
    fn groups(status: &Instance) -> BTreeMap<&str, (bool, bool, u64, u64, u32, u64)> {
        let mut groups: BTreeMap<&str, (bool, bool, u64, u64, u32, u64)> = BTreeMap::new();
        for upstream in &status.upstreams {
            let (healthy, responded, sent, timeouts, in_flight, near_misses) =
                groups.entry(&upstream.scope).or_default();
            *healthy |= upstream.healthy;
            *responded |= upstream.responded;
            *sent += upstream.sent;
            *timeouts += upstream.timeouts;
            *in_flight += upstream.in_flight;
            *near_misses += upstream.near_misses;
        }
        groups
    }

    #[test]
    fn a_status_that_fits_is_told_whole() {
        let mut status = status(routes(256), 2);
        status.upstreams[7].detection.as_mut().unwrap().episodes = (0..8).map(episode).collect();
        let whole = status.clone();
        assert!(json_len(&whole) > 128 * 1024 && fit(&mut status, MAX_STATUS_LEN));
        assert_eq!(status, whole);
        assert_eq!(json_len(&status), serde_json::to_string(&status).unwrap().len());
    }

    #[test]
    fn the_oldest_episodes_of_all_upstreams_go_first_and_nothing_else_while_that_is_enough() {
        let mut status = status(routes(40), 1);
        let whole = status.clone();
        for (place, first) in [(3, 100), (9, 101)] {
            let episodes = (0..8).map(|number| episode(first + 10 * number)).collect();
            status.upstreams[place].detection.as_mut().unwrap().episodes = episodes;
        }
        assert!(json_len(&status) > 80 * 1024 && fit(&mut status, 64 * 1024));
        assert!(json_len(&status) > 56 * 1024, "no more than must");
        let mut started = Vec::new();
        for upstream in &mut status.upstreams {
            started.extend(upstream.detection.as_mut().unwrap().episodes.drain(..).map(|episode| episode.started));
        }
        started.sort_unstable();
        let all: Vec<u64> = (10..18).flat_map(|tens| [10 * tens, 10 * tens + 1]).collect();
        assert!((6..16).contains(&started.len()), "{started:?}");
        assert_eq!(started, all[16 - started.len()..], "the latest ones stay");
        assert_eq!(status, whole);
    }

    #[test]
    fn servers_that_are_up_are_told_as_one_and_those_that_are_not_by_themselves() {
        let mut status = status(routes(256), 8);
        let detection = |throttle| DetectionStatus { throttle, has_enough_traffic: true, ..DetectionStatus::default() };
        let limited = ThrottleStatus { state: "limited".to_owned(), ..ThrottleStatus::default() };
        status.upstreams[3].healthy = false;
        status.upstreams[12].detection = Some(detection(Some(limited)));
        status.upstreams[21].detection = Some(detection(None));
        (16..24).filter(|place| *place != 21).for_each(|place| status.upstreams[place].healthy = false);
        let whole = status.clone();
        assert!(json_len(&whole) > 512 * 1024 && fit(&mut status, MAX_STATUS_LEN));
        assert_eq!(groups(&status), groups(&whole));
        let told = |place: usize| status.upstreams.contains(&whole.upstreams[place]);
        assert!(told(3) && told(12) && (16..24).all(told), "what people are told of");
        assert_eq!(status.upstreams.len(), 253 + 2 + 2 + 8);
    }

    #[test]
    fn a_group_never_looks_as_if_it_were_gone_or_down_whatever_its_servers_do() {
        let zones = (0..64).map(|number| format!("zone/eu-west-{number}"));
        let all = routes(256).chain(zones).chain(["cluster".to_owned(), "last-resort".to_owned()]);
        let mut status = status(all, 8);
        for (place, upstream) in status.upstreams.iter_mut().enumerate() {
            // One group of three is down, and of the others one server of eight is up.
            upstream.healthy = place % 8 == 5 && place / 8 % 3 != 0;
            let throttle = ThrottleStatus { state: "limited".to_owned(), ..ThrottleStatus::default() };
            let has_limit = place == 12 || place == 14;
            let detection = DetectionStatus { throttle: has_limit.then_some(throttle), ..DetectionStatus::default() };
            upstream.detection = Some(detection);
        }
        let whole = status.clone();
        assert!(fit(&mut status, SHARE_OF_EIGHT), "{}", json_len(&status));
        assert_eq!(groups(&status), groups(&whole));
        assert_eq!(status.upstreams.len(), 322);
        let [first, second] = [&status.upstreams[0], &status.upstreams[1]];
        assert_eq!((first.address, first.healthy), (whole.upstreams[0].address, false));
        assert_eq!((second.address, second.healthy), (whole.upstreams[12].address, true), "the address of the limit");
        assert!(second.detection.as_ref().is_some_and(|detection| detection.throttle.is_some()));
    }

    #[test]
    fn of_groups_that_do_not_fit_those_that_are_down_are_told_first_and_a_text_that_does_not_fit_is_found() {
        let long = |number: usize| format!("route/{number:03}.{}example", "long-label-of-a-route.".repeat(11));
        let mut status = status((0..600).map(long), 1);
        status.upstreams[599].healthy = false;
        assert!(fit(&mut status, SHARE_OF_EIGHT));
        assert!(json_len(&status) > SHARE_OF_EIGHT - 1024 && !status.upstreams[0].healthy);
        assert_eq!(status.revision.in_force.as_deref(), Some("r7"));
        status.revision.refusal = Some("x".repeat(SHARE_OF_EIGHT));
        assert!(!fit(&mut status, SHARE_OF_EIGHT));
    }
}
